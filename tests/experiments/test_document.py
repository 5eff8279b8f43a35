"""The document of an experiment: what it holds, and which ones are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from made_records import make_record

from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.errors import RecordError
from mnist_cli.experiments import statistics
from mnist_cli.experiments.document import build_document, load_document, records_of
from mnist_cli.experiments.plan import job_key, plan_jobs
from mnist_cli.machine import describe_machine
from mnist_cli.records import RunRecord, write_json
from mnist_cli.runners.base import TrainJob


def _plan(*batch_sizes: int, runs: int = 2) -> list[TrainJob]:
    template = TrainJob("numpy", ModelSpec("mlp"), TrainConfig(), 2)
    return plan_jobs(
        template,
        frameworks=["numpy", "torch"],
        networks=[ModelSpec("cnn"), ModelSpec("mlp")],
        runs=runs,
        batch_sizes=batch_sizes,
    )


def _record(job: TrainJob) -> RunRecord:
    record = make_record(job.framework, job.spec.arch, seed=job.config.seed, epochs=1)
    return RunRecord.from_json(record.to_json() | {"batch_size": job.config.batch_size})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A complete comparison on disk."""
    jobs = _plan()
    finished = {job_key(job): _record(job) for job in jobs}
    path = tmp_path / "comparison_results.json"
    write_json(path, build_document(jobs, finished, [], {"runs": 2}))
    return path


def test_a_document_has_the_finished_runs_in_the_order_of_the_plan_with_their_statistics() -> None:
    jobs = _plan()
    finished = {job_key(job): _record(job) for job in reversed(jobs[:6])}
    failures = [{"framework": "torch", "error": "it broke"}]
    document = build_document(jobs, finished, failures, {"runs": 2})
    runs = [_record(job) for job in jobs[:6]]
    assert records_of(document) == runs
    assert document["failures"] == failures
    assert document["settings"] == {"runs": 2}
    assert document["environment"] == describe_machine()
    assert document["summary"] == statistics.summarize(runs)
    assert document["frameworks"] == statistics.compare_frameworks(runs) != []
    assert document["architectures"] == statistics.compare_architectures(runs) != []
    age = datetime.now(timezone.utc) - datetime.fromisoformat(document["created"])
    assert 0 <= age.total_seconds() < 3600  # with its time zone, to the second
    assert document["created"].count(".") == 0
    json.dumps(document)


def test_a_sweep_compares_neither_frameworks_nor_networks() -> None:
    # Runs of several batch sizes would be paired by seed alone.
    jobs = _plan(32, 64, runs=1)
    document = build_document(jobs, {job_key(job): _record(job) for job in jobs}, [], {})
    assert len(document["summary"]) == 8
    assert document["frameworks"] == document["architectures"] == []


def test_a_document_comes_back_as_it_was_written(path: Path) -> None:
    assert load_document(path) == json.loads(path.read_text())


def _remove(*keys: str) -> Callable[[Any], Any]:
    def remove(document: dict[str, Any]) -> dict[str, Any]:
        inner = document
        for key in keys[:-1]:
            inner = inner[key] if isinstance(inner, dict) else inner[int(key)]
        del inner[keys[-1]]
        return document

    return remove


@pytest.mark.parametrize(
    "damage",
    [
        _remove("settings"),
        _remove("environment"),
        _remove("failures"),
        _remove("frameworks"),
        _remove("architectures"),
        _remove("summary"),
        _remove("runs"),
        _remove("runs", "0", "seed"),
        _remove("schema_version"),
        lambda document: document | {"summary": document["summary"][:-1]},
        lambda document: document | {"settings": 3},
        lambda document: document | {"failures": None},
        lambda document: [document],
    ],
)
def test_a_damaged_document_is_named_with_what_to_do(
    path: Path, damage: Callable[[Any], Any]
) -> None:
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    with pytest.raises(
        RecordError, match=r"is damaged \(.*\)\. Bring it back from a copy"
    ) as caught:
        load_document(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_document_and_a_newer_one_say_what_to_do(path: Path) -> None:
    newer = json.loads(path.read_text()) | {"schema_version": 2}
    path.write_text(json.dumps(newer))
    with pytest.raises(RecordError, match=r"has schema version 2; this program reads 1\. Use the"):
        load_document(path)
    path.unlink()
    with pytest.raises(RecordError, match=r"No records at .*\. Make them with 'mnist compare'\."):
        load_document(path)


def test_a_document_is_read_as_utf_8_in_any_locale(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = json.loads(path.read_text())
    document["settings"]["dataset"] = "déjà vu"
    path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    read = Path.read_text

    def in_latin_1(self: Path, encoding: str | None = None, **options: Any) -> str:
        return read(self, encoding or "latin-1", **options)

    monkeypatch.setattr(Path, "read_text", in_latin_1)
    assert load_document(path)["settings"]["dataset"] == "déjà vu"

"""Comparisons: plans of runs, one process each, that survive failures, Ctrl-C and kills."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from mnist_cli import analysis, recipe, worker
from mnist_cli.config import ModelSpec
from mnist_cli.data.dataset import load_dataset, training_count
from mnist_cli.errors import DivergedError, FrameworkError, OutputError, RecordError
from mnist_cli.records import (
    SCHEMA_VERSION,
    RunRecord,
    describe_machine,
    require_writable,
    write_json,
)

COMPARISON = "comparison_results"
SWEEP = "batch_size_comparison"
LR_SCALINGS = ("none", "linear", "sqrt")


class Observer(Protocol):
    """What follows the runs; `console.TrainingProgress` is one."""

    def start_run(self, label: str) -> None:
        """A run begins."""

    def on_event(self, event: Mapping[str, Any]) -> None:
        """The current run reports."""

    def finish_run(self, record: RunRecord | None = None, *, failure: str = "") -> None:
        """The current run has ended: with a record, or with the message of its failure."""

    def note(self, text: str) -> None:
        """Something the user should know."""


def plan(
    template: worker.TrainJob,
    *,
    frameworks: Sequence[str],
    archs: Sequence[str],
    runs: int,
    batch_sizes: Sequence[int] = (),
    lr_scaling: str = "none",
) -> list[worker.TrainJob]:
    """Return the jobs of a comparison: every framework with every network, ``runs`` times.

    Run i has the seed of ``template`` plus i. Every other round is reversed (ABC CBA), so that a
    machine that slows down or speeds up favours nobody. If ``template`` names a folder as its
    checkpoint, the first round's models go there.

    With ``batch_sizes`` a round has all of them. The learning rate of ``template`` is that of its
    batch size; at k times that size it is scaled by k ("linear": Goyal et al., 2017,
    arXiv:1706.02677), by the root of k ("sqrt": Krizhevsky, 2014, arXiv:1404.5997), or not at all
    ("none").
    """
    config = template.config
    power = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}[lr_scaling]
    cells = [
        (batch_size, framework, arch)
        for batch_size in batch_sizes or [config.batch_size]
        for arch in archs
        for framework in frameworks
    ]
    return [
        replace(
            template,
            framework=framework,
            spec=ModelSpec(arch),
            config=replace(
                config,
                seed=config.seed + run,
                batch_size=batch_size,
                learning_rate=config.learning_rate * (batch_size / config.batch_size) ** power,
            ),
            checkpoint=f"{template.checkpoint}/{framework}-{arch}.safetensors"
            if template.checkpoint and run == 0
            else None,
        )
        for run in range(runs)
        for batch_size, framework, arch in (cells if run % 2 == 0 else reversed(cells))
    ]


def run(
    jobs: Sequence[worker.TrainJob],
    *,
    path: Path,
    settings: Mapping[str, Any],
    observer: Observer,
    resume: bool,
    timeout_seconds: float | None = None,
) -> dict[str, Any]:
    """Do the jobs one at a time and return the document, in the end also at ``path``.

    Until then each finished run stands in a file ``.partial.json`` beside it; with ``resume`` the
    runs found there are not done again. A run whose framework is missing, crashes, hangs or
    diverges becomes a failure and the others go on; any other error would meet every run, and is
    raised. Raises `RecordError` if what is to be resumed had other ``settings``, and
    `OutputError` if another experiment is at work in the folder.
    """
    partial = path.with_suffix(".partial.json")
    dataset = _require_possible(jobs)
    with _alone_in(path.parent):
        for existing in (path, partial):
            _keep_aside_unless_readable(existing, observer)
        finished: dict[tuple[str, str, int, int], RunRecord] = {}
        if resume:
            finished = _finished(partial, path, settings, data_sha256=dataset)
            if len(finished) == len(jobs):
                observer.note(f"All {len(jobs)} runs are there already; none is missing.")
        elif partial.exists() and load(partial)["runs"]:
            aside = _keep_aside(partial)
            observer.note(f"An unfinished comparison was found; it is kept as {aside}.")
        failures: list[dict[str, Any]] = []
        document = _document(jobs, finished, failures, settings)
        write_json(partial, document)
        for job in jobs:
            observer.start_run(_label(job, jobs))
            record = finished.get(_key(job))
            failure = ""
            if record is None:
                try:
                    result = worker.run(job, observer.on_event, timeout_seconds=timeout_seconds)
                    record = finished[_key(job)] = RunRecord.from_json(result)
                except (FrameworkError, DivergedError) as error:
                    failure = str(error)
                    names = ("framework", "arch", "batch_size", "seed")
                    failures.append(dict(zip(names, _key(job), strict=True)) | {"error": failure})
                document = _document(jobs, finished, failures, settings)
                write_json(partial, document)
            observer.finish_run(record, failure=failure)
        if not finished and path.exists():  # a mistyped --device, say
            observer.note(f"No run was finished: the earlier record is {_keep_aside(path)} now.")
        write_json(path, document)
        partial.unlink(missing_ok=True)
    return document


def load(path: Path) -> dict[str, Any]:
    """Return the document of an experiment.

    Raises `RecordError` if there is none, or one that is damaged or of another schema version.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        version = document["schema_version"]
        if version != SCHEMA_VERSION:
            raise RecordError(
                f"{path} has schema version {version}; this program reads {SCHEMA_VERSION}. "
                "Use the version of mnist-cli that wrote it, or measure anew."
            )
        measured = records(document)
        for name in ("settings", "environment"):
            dict(document[name])
        for name in ("failures", "frameworks", "architectures"):
            list(document[name])
        if len(document["summary"]) != len(analysis.summarize(measured)):
            raise ValueError("the summary is not that of the runs")
    except FileNotFoundError:
        raise RecordError(f"No records at {path}. Make them with 'mnist compare'.") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RecordError(
            f"{path} is damaged ({type(error).__name__}: {error}). "
            "Bring it back from a copy, or measure anew."
        ) from error
    return dict(document)


def records(document: Mapping[str, Any]) -> list[RunRecord]:
    """Return the runs of a document as records."""
    return [RunRecord.from_json(values) for values in document["runs"]]


def _require_possible(jobs: Sequence[worker.TrainJob]) -> str:
    """Raise now what would otherwise end the last run: bad data, limit, or too large a batch.

    Returns the SHA-256 of the dataset.
    """
    largest = max(jobs, key=lambda job: job.config.batch_size)
    dataset = load_dataset(largest.dataset)
    recipe.require_batch(largest.config, training_count(dataset, limit=largest.limit))
    return dataset.sha256


def _document(
    jobs: Sequence[worker.TrainJob],
    finished: Mapping[Any, RunRecord],
    failures: list[dict[str, Any]],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    # In the order of the plan, whatever was resumed.
    runs = [finished[_key(job)] for job in jobs if _key(job) in finished]
    one_batch_size = len({job.config.batch_size for job in jobs}) == 1
    return {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "settings": dict(settings),
        "runs": [record.to_json() for record in runs],
        "failures": failures,
        "summary": analysis.summarize(runs),
        "frameworks": analysis.compare_frameworks(runs) if one_batch_size else [],
        "architectures": analysis.compare_architectures(runs) if one_batch_size else [],
        "environment": describe_machine(),
    }


def _key(job: worker.TrainJob) -> tuple[str, str, int, int]:
    return (job.framework, job.spec.arch, job.config.batch_size, job.config.seed)


def _label(job: worker.TrainJob, jobs: Sequence[worker.TrainJob]) -> str:
    framework, arch, batch_size, seed = _key(job)
    label = f"{framework} {arch}"
    if len({other.config.batch_size for other in jobs}) > 1:
        label += f" batch {batch_size}"
    return label + (f" seed {seed}" if len({other.config.seed for other in jobs}) > 1 else "")


def _finished(
    partial: Path, path: Path, settings: Mapping[str, Any], *, data_sha256: str
) -> dict[tuple[str, str, int, int], RunRecord]:
    """Return the runs of an unfinished experiment, or of a finished one that had failures."""
    found = next((candidate for candidate in (partial, path) if candidate.exists()), None)
    if found is None:
        return {}
    document = load(found)
    for name, value in settings.items():
        if name == "runs" and document["settings"][name] < value:
            continue  # more repeats than last time: those there are the first of them
        if document["settings"].get(name) != value:
            raise RecordError(
                f"Cannot resume {found}: it was measured with {name} "
                f"{document['settings'].get(name)}, not {value}. That is another comparison: give "
                "the same settings, or leave --resume out to start anew."
            )
    here = describe_machine() | {"data_sha256": data_sha256}
    for record in records(document):
        for name in ("cpu", "cores", "os", "python", "data_sha256"):
            if record.environment[name] != here[name]:
                raise RecordError(
                    f"Cannot resume {found}: its runs had {name} {record.environment[name]}, "
                    f"here it is {here[name]}. Leave --resume out to start anew."
                )
    return {(r.framework, r.arch, r.batch_size, r.seed): r for r in records(document)}


def _keep_aside_unless_readable(path: Path, observer: Observer) -> None:
    """Rename a document that this program cannot read, so that nothing is ever lost."""
    if not path.exists():
        return
    try:
        load(path)
    except RecordError as error:
        observer.note(f"{error} It is kept as {_keep_aside(path)}.")


def _keep_aside(path: Path) -> Path:
    aside = next(
        candidate
        for number in itertools.count(1)
        if not (candidate := path.with_suffix(f".kept-{number}.json")).exists()
    )
    return path.rename(aside)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the system frees it when the process ends, however it ends."""
    require_writable(folder)
    try:
        with FileLock(folder / ".mnist.lock", timeout=0):
            yield
    except Timeout:
        raise OutputError(
            f"Another comparison is at work in {folder}. "
            "Wait for it, or choose another folder with --results-dir."
        ) from None

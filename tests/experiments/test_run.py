"""Comparisons and sweeps as a user runs them: documents, failures, usage errors, reports."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from outcomes import Outcome

from mnist_cli.errors import RecordError
from mnist_cli.experiments.document import load_document
from mnist_cli.reporting import tables

Mnist = Callable[..., Outcome]
SCHEMAS = json.loads(Path(__file__).parents[1].joinpath("schemas.json").read_text())


def _validate(document: Any, name: str) -> None:
    jsonschema.Draft202012Validator({**SCHEMAS, "$ref": f"#/$defs/{name}"}).validate(document)


@pytest.fixture
def quick(small_data: Path, tmp_path: Path) -> list[str]:
    """Options for runs of a fraction of a second each."""
    options = ["--framework", "fake", "--epochs", "2", "--dataset", str(small_data)]
    return [*options, "--results-dir", str(tmp_path / "results")]


def test_every_json_document_keeps_to_its_schema(
    mnist: Mnist, quick: list[str], small_data: Path, tmp_path: Path
) -> None:
    _validate(mnist("compare", "--runs", 2, "--json", *quick).document, "experiment")
    broken = mnist("compare", "--framework", "absent", "--json", *quick).document
    assert broken["failures"]
    _validate(broken, "experiment")
    sizes = ["--batch-sizes", "20,40", "--arch", "mlp"]
    _validate(mnist("sweep-batch", *sizes, "--json", *quick).document, "experiment")
    _validate(mnist("train", "--json", *quick).document, "train")
    results = ["--results-dir", tmp_path / "results"]
    _validate(mnist("report", "--json", *results).document, "report")
    _validate(mnist("info", "--json").document, "info")
    mnist("train", *quick[2:], "--framework", "numpy", "--arch", "mlp")
    options = ["--dataset", small_data, *results]
    _validate(mnist("evaluate", "numpy-mlp", "--json", *options).document, "evaluate")


def test_the_schema_notices_a_wrong_document() -> None:
    with pytest.raises(jsonschema.ValidationError):
        _validate({"schema_version": 1}, "experiment")


def test_each_run_has_a_process_of_its_own_and_no_two_are_there_at_once(
    mnist: Mnist, quick: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    workers: list[Any] = []
    still_there: list[bool] = []
    popen = subprocess.Popen

    def start(command: Any, *arguments: Any, **options: Any) -> Any:
        process = popen(command, *arguments, **options)
        if "mnist_cli.runners.process" in command:  # and not git, say
            still_there.extend(worker.poll() is None for worker in workers)
            workers.append(process)
        return process

    monkeypatch.setattr(subprocess, "Popen", start)
    assert mnist("compare", "--runs", 2, *quick).exit_code == 0
    assert len(workers) == 4
    assert not any(still_there)


def test_one_killed_child_gives_five_rows_and_a_failure_row(
    mnist: Mnist, quick: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FRAMEWORK", "kill 1")
    monkeypatch.setenv("FAKE_FRAMEWORK_ONLY", "mlp 1")
    outcome = mnist("compare", "--runs", 3, "--json", *quick)
    assert outcome.exit_code == 1
    assert len(outcome.document["runs"]) == 5
    (failure,) = outcome.document["failures"]
    assert (failure["arch"], failure["seed"]) == ("mlp", 1)


def test_a_run_that_hangs_past_the_timeout_becomes_a_failure(
    mnist: Mnist, quick: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FRAMEWORK", "sleep 1")
    outcome = mnist("compare", "--arch", "mlp", "--timeout", 3, "--json", *quick)
    assert outcome.exit_code == 1
    assert "stopped after 3 s, the timeout" in outcome.document["failures"][0]["error"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--batch-sizes", "16,zero"], "batch sizes must be whole numbers"),
        (["--batch-sizes", ""], "batch sizes must be whole numbers"),
        (["--batch-sizes", "0,16"], "batch size must be from 1 to 65536, not 0."),
        (["--batch-sizes", "441"], "at most the 440 training images, not 441"),
        (["--lr-scaling", "cubic"], "Unknown learning-rate scaling 'cubic'"),
        (["--runs", "0"], "runs must be from 1 to 1000, not 0."),
        (["--timeout", "0"], "timeout must be from above 0 to 1000000 seconds, not 0"),
        (["--timeout", "nan"], "timeout must be from above 0 to 1000000 seconds, not nan"),
    ],
)
def test_a_wrong_sweep_ends_in_one_line_and_exit_code_2(
    mnist: Mnist, quick: list[str], options: list[str], said: str
) -> None:
    outcome = mnist("sweep-batch", *quick, *options)
    assert outcome.exit_code == 2
    assert said in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1


def test_a_sweep_writes_its_document_and_chart(
    mnist: Mnist, quick: list[str], tmp_path: Path
) -> None:
    outcome = mnist("sweep-batch", "--batch-sizes", "40,20", "--arch", "mlp", *quick)
    assert outcome.exit_code == 0, outcome.stderr
    assert "batch" in outcome.stdout
    document = load_document(tmp_path / "results" / "batch_size_comparison.json")
    assert [row["batch_size"] for row in document["summary"]] == [20, 40]
    assert (tmp_path / "results" / "batch_size_comparison.png").exists()


@pytest.fixture
def reported(mnist: Mnist, quick: list[str], tmp_path: Path) -> Path:
    """A results folder with a comparison, a sweep and a training, its pictures deleted."""
    mnist("compare", "--runs", 2, *quick)
    mnist("sweep-batch", "--batch-sizes", "20,40", "--arch", "mlp", *quick)
    mnist("train", *quick)
    folder = tmp_path / "results"
    for picture in folder.glob("*.png"):
        picture.unlink()
    return folder


def test_report_redraws_every_chart_without_training(mnist: Mnist, reported: Path) -> None:
    outcome = mnist("report", "--results-dir", reported)
    assert outcome.exit_code == 0, outcome.stderr
    assert sorted(path.name for path in reported.glob("*.png")) == [
        "batch_size_comparison.png",
        "comparison_results.png",
        "fake-cnn_training.png",
        "sample_predictions.png",
    ]
    page = (reported / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert not re.search(r'(src|href)="(?!data:)', page)  # nothing is fetched from anywhere
    assert page.count("<figcaption>") == 4


def test_report_speaks_markdown_csv_and_json(mnist: Mnist, reported: Path) -> None:
    def say(form: str) -> str:
        return mnist("report", "--results-dir", reported, "--format", form).stdout

    assert "| fake | CNN |" in say("markdown")
    assert "at batch 64, proportional to the square root of batch size, " in say("markdown")
    document = load_document(reported / "batch_size_comparison.json")
    document["settings"]["limit"] = 2000
    assert "(at most 2,000 training images)" in tables.caption(document)
    comparison, sweep = say("csv").split("\n\n")
    rows = list(csv.DictReader(io.StringIO(comparison)))
    assert [(row["framework"], row["arch"], row["n"]) for row in rows] == [
        ("fake", "cnn", "2"),
        ("fake", "mlp", "2"),
    ]
    assert 0 < float(rows[0]["test_accuracy_mean"]) < 1
    assert [row["batch_size"] for row in csv.DictReader(io.StringIO(sweep))] == ["20", "40"]
    assert set(json.loads(say("json"))) == {"comparison_results", "batch_size_comparison"}
    assert "images" in say("table")


def test_report_draws_a_training_that_stands_alone(
    mnist: Mnist, quick: list[str], tmp_path: Path
) -> None:
    mnist("train", *quick)
    picture = tmp_path / "results" / "fake-cnn_training.png"
    picture.unlink()
    outcome = mnist("report", "--results-dir", picture.parent)
    assert outcome.exit_code == 0, outcome.stderr
    assert f"written: {picture}" in outcome.stderr
    assert "No comparison and no sweep" in outcome.stderr
    assert picture.exists()
    assert (picture.parent / "report.html").read_text().count("<figcaption>") == 1


def test_report_of_an_empty_folder_says_what_to_do(mnist: Mnist, tmp_path: Path) -> None:
    outcome = mnist("report", "--results-dir", tmp_path)
    assert outcome.exit_code == 1
    assert "mnist compare" in outcome.stderr
    assert mnist("report", "--format", "pdf").exit_code == 2


def test_report_names_damaged_records_and_leaves_them_alone(mnist: Mnist, tmp_path: Path) -> None:
    path = tmp_path / "comparison_results.json"
    path.write_text("{")
    outcome = mnist("report", "--results-dir", tmp_path)
    assert outcome.exit_code == 1
    assert str(path) in outcome.stderr
    assert path.read_text() == "{"
    with pytest.raises(RecordError):
        load_document(path)


@pytest.mark.slow
def test_frameworks_end_a_whole_epoch_of_mnist_with_the_same_accuracy(
    mnist: Mnist, tmp_path: Path
) -> None:
    names = ("jax", "numpy", "tensorflow", "torch")
    frameworks = [option for name in names for option in ("--framework", name)]
    options = ["--arch", "mlp", "--epochs", 1, "--results-dir", tmp_path, "--json"]
    document = mnist("compare", *frameworks, *options).document
    accuracies = [run["history"][-1]["validation_accuracy"] for run in document["runs"]]
    assert len(accuracies) == 4
    # Rounding alone tells them apart: 0.3 points are 15 of the 5,000 validation images.
    assert max(accuracies) - min(accuracies) <= 0.003
    assert min(accuracies) > 0.95


def test_the_parent_of_a_comparison_is_small_and_loads_no_framework(quick: list[str]) -> None:
    script = (
        "import sys; sys.argv = ['mnist', *sys.argv[1:]]\n"
        "from mnist_cli.cli import app\n"
        "try: app.main()\n"
        "finally:\n"
        "    heavy = {'torch', 'tensorflow', 'keras', 'jax', 'torchvision', 'sklearn', 'pandas'}\n"
        "    print(heavy & set(sys.modules))\n"
        "    from mnist_cli.machine import peak_rss_mib\n"
        "    assert peak_rss_mib() <= 200, peak_rss_mib()\n"
    )
    mnist_itself = ["--dataset", "mnist", "--limit", "1000"]
    done = subprocess.run(
        [sys.executable, "-c", script, "compare", *quick, *mnist_itself],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.rstrip().endswith("set()")

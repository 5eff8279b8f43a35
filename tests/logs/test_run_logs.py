"""Which runs --log logs, and what happens to them when something fails."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from log_samples import JOB, Silent, epoch_event
from made_search import pretend
from outcomes import Outcome

from mnist_cli.cli import options
from mnist_cli.errors import FrameworkError
from mnist_cli.logs import csv_log, formats, jsonl_log
from mnist_cli.logs.runs import Logs
from mnist_cli.reporting.console import TrainingProgress

Mnist = Callable[..., Outcome]


@pytest.fixture
def quick(small_data: Path, tmp_path: Path) -> tuple[object, ...]:
    """Options for a run of a fraction of a second, with the fake framework."""
    return (
        *("--framework", "fake", "--epochs", 2, "--dataset", small_data, "--threads", 1),
        *("--results-dir", tmp_path / "results"),
    )


def logged(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The lines of each JSON log below a folder, by the name of the run."""
    return {
        path.parent.relative_to(folder).as_posix(): [
            json.loads(line) for line in path.read_text().splitlines()
        ]
        for path in sorted(folder.rglob("run.jsonl"))
    }


def test_a_run_that_crashes_keeps_its_points_and_says_why(
    mnist: Mnist, quick: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FRAMEWORK", "crash 2")
    outcome = mnist("train", "--arch", "mlp", "--log", "jsonl", "--log", "csv", *quick)
    assert outcome.exit_code == 1
    ((name, lines),) = logged(tmp_path / "results" / "logs").items()
    assert [line.get("epoch") for line in lines] == [None, 1, None]
    assert lines[-1]["status"] == "failed"
    assert "the fake framework broke" in lines[-1]["reason"]
    facts = (tmp_path / "results" / "logs" / name / "run.csv").read_text()
    assert "status,status,failed\n" in facts.replace("\r", "")


def test_ctrl_c_leaves_a_log_with_the_epochs_so_far(
    quick: tuple[object, ...], tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "mnist_cli", "train", "--log", "jsonl", *map(str, quick)],
        env={**os.environ, "FAKE_FRAMEWORK": "sleep 2"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a group of its own, to be interrupted whole as a terminal does
    )
    assert process.stderr is not None
    while "1/2" not in process.stderr.readline():
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 130
    process.stderr.close()
    (lines,) = logged(tmp_path / "results" / "logs").values()
    assert [line.get("epoch") for line in lines] == [None, 1, None]
    assert lines[-1]["status"] == "interrupted"


def test_a_comparison_logs_each_run_and_its_charts(
    mnist: Mnist, quick: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FRAMEWORK", "crash 1")
    monkeypatch.setenv("FAKE_FRAMEWORK_ONLY", "mlp 1")
    runs = ("compare", "--arch", "mlp", "--runs", 2, "--log", "jsonl")
    outcome = mnist(*runs, *quick)
    assert outcome.exit_code == 1  # one run failed
    logs = logged(tmp_path / "results" / "logs")
    (whole,) = {name.partition("/")[0] for name in logs}
    ends = {name.removeprefix(whole): lines[-1] for name, lines in logs.items()}
    assert {name: end["status"] for name, end in ends.items()} == {
        "": "finished",
        "/fake-mlp-batch64-seed0": "finished",
        "/fake-mlp-batch64-seed1": "failed",
    }
    assert ends[""]["figures"] == {"runs": 1.0, "failures": 1.0}
    charts = ["comparison_results.json", "comparison_results.png", "sample_predictions.png"]
    assert ends[""]["files"] == charts
    assert ends["/fake-mlp-batch64-seed0"]["files"] == ["confusion.png", "fake-mlp.safetensors"]
    assert f"log in: {tmp_path / 'results' / 'logs' / whole}\n" in outcome.stderr

    monkeypatch.delenv("FAKE_FRAMEWORK")
    mnist(*runs, "--resume", *quick)
    (again,) = {name.partition("/")[0] for name in logged(tmp_path / "results" / "logs")} - {whole}
    logs = logged(tmp_path / "results" / "logs" / again)
    # Runs that were finished before have a point per epoch, from their records.
    assert [line["event"] for line in logs["fake-mlp-batch64-seed0"]] == [
        *("start", "point", "point", "end")
    ]
    assert logs["fake-mlp-batch64-seed1"][-1]["status"] == "finished"
    assert len(logs) == 3


def test_a_sweep_logs_each_batch_size(
    mnist: Mnist, quick: tuple[object, ...], tmp_path: Path
) -> None:
    options = ("--batch-sizes", "20,40", "--arch", "mlp", "--log", "jsonl")
    assert mnist("sweep-batch", *options, "--log-dir", tmp_path / "mine", *quick).exit_code == 0
    whole, *runs = sorted(logged(tmp_path / "mine"))
    assert whole.startswith("sweep-batch-")
    names = [f"{whole}/fake-mlp-batch{size}-seed0" for size in (20, 40)]
    assert runs == names


def test_a_run_that_is_begun_again_has_a_log_of_its_own(tmp_path: Path) -> None:
    observer = Silent()
    with Logs(["jsonl"], tmp_path).opened(observer, [JOB]) as runs:
        runs.start_run("")
        for epoch in (1, 2, 1):  # --quiet-machine repeats a disturbed run
            runs.on_event(epoch_event(epoch))
    ends = {name: lines[-1]["reason"] for name, lines in logged(tmp_path).items()}
    assert list(ends.values()) == ["the run was begun again", "it was stopped"]


def test_points_wait_some_seconds_to_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("mnist_cli.logs.runs.time.monotonic", lambda: now)
    with Logs(["jsonl"], tmp_path).opened(Silent(), [JOB]) as runs:
        runs.start_run("")
        written = []
        for epoch, now in enumerate((101.0, 106.0, 107.0), start=1):  # noqa: B007  # read above
            runs.on_event(epoch_event(epoch))
            (lines,) = logged(tmp_path).values()
            written.append(len(lines) - 1)
    assert written == [0, 2, 2]


@pytest.mark.parametrize(
    ("name", "module", "method"), [("csv", csv_log, "add"), ("jsonl", jsonl_log, "end")]
)
def test_a_full_disk_ends_the_log_with_one_line_and_not_the_training(
    mnist: Mnist,
    quick: tuple[object, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    module: types.ModuleType,
    method: str,
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module.Log, method, full)
    outcome = mnist("train", "--arch", "mlp", "--log", name, *quick)
    assert outcome.exit_code == 0, outcome.stderr
    said = [line for line in outcome.stderr.splitlines() if line.startswith("Warning: the ")]
    assert said == [
        f"Warning: the {name} log ends here, the training does not: "
        "[Errno 28] No space left on device."
    ]
    for name in ("fake-mlp_training.json", "models/fake-mlp.safetensors"):
        assert (tmp_path / "results" / name).exists()


def test_a_log_that_cannot_be_begun_is_an_error_before_the_training(
    mnist: Mnist, quick: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_log.Log, "__init__", lambda *_: 1 / 0)
    outcome = mnist("train", "--log", "csv", *quick)
    assert outcome.exit_code == 1
    assert outcome.stderr.splitlines()[-1] == (
        "Error: The csv log cannot be begun: division by zero. Choose another --log-dir, or leave "
        "--log csv out."
    )
    assert not (tmp_path / "results" / "models").exists()


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (["--log", "wandb"], 2, "Unknown log 'wandb'. Choose from csv, jsonl, mlflow, tensorboard"),
        (["--log-dir", "x"], 2, "give --log too"),
        (["--log", "csv", "--log-dir", __file__], 1, "Choose another with --log-dir"),
    ],
)
def test_a_log_that_is_not_possible_is_one_line(
    mnist: Mnist, quick: tuple[object, ...], arguments: list[str], exit_code: int, said: str
) -> None:
    for command in ("train", "compare", "sweep-batch"):
        outcome = mnist(command, *arguments, *quick)
        assert (outcome.exit_code, outcome.stdout) == (exit_code, "")
        (line,) = outcome.stderr.splitlines()
        assert line.startswith("Error: ")
        assert said in line


@pytest.mark.parametrize("name", ["mlflow", "tensorboard"])
def test_a_missing_extra_is_named_before_the_training(
    mnist: Mnist,
    quick: tuple[object, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda package: None)
    with pytest.raises(FrameworkError, match=r"pip install 'mnist-cli\[" + name):
        formats.require_format(name)
    outcome = mnist("train", "--log", name, *quick)
    assert outcome.exit_code == 1
    assert outcome.stderr.startswith(f"Error: {name} is not installed. Install it into this")
    assert not (tmp_path / "results").exists()


def test_the_option_offers_the_formats_that_there_are() -> None:
    assert tuple(formats.FORMATS) == options.LOGS


def test_a_search_logs_each_trial_with_a_point_per_epoch(
    mnist: Mnist, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "mnist_cli.runners.search.run_trials",
        lambda jobs, finished, on_event, **options: pretend(jobs, finished, on_event),
    )
    options = ("--framework", "numpy", "--arch", "mlp", "--trials", 6, "--dataset", small_data)
    outcome = mnist("tune", *options, "--log", "jsonl", "--results-dir", tmp_path, "--json")
    assert outcome.exit_code == 0, outcome.stderr
    logs = logged(tmp_path / "logs")
    (whole,) = {name.partition("/")[0] for name in logs}
    assert logs[whole][-1]["files"] == ["tune_results.json", "tune.png"]
    for trial in outcome.document["trials"]:
        start, *points, end = logs[f"{whole}/trial-{trial['number']}"]
        assert start["settings"]["learning_rate"] == trial["learning_rate"]
        accuracies = [row["validation_accuracy"] for row in trial["history"]]
        assert [point["validation_accuracy"] for point in points] == accuracies
        assert end["status"] == ("failed" if trial["state"] == "diverged" else "finished")


def test_a_folder_of_logs_that_is_lost_between_runs_ends_the_log_and_not_the_runs(
    mnist: Mnist, quick: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = tmp_path / "results" / "logs"
    shown = TrainingProgress.finish_run

    def lose(self: TrainingProgress, *arguments: Any, **options: Any) -> None:
        shown(self, *arguments, **options)
        if logs.is_dir():
            logs.rename(tmp_path / "elsewhere")
            logs.write_text("no folder")

    monkeypatch.setattr(TrainingProgress, "finish_run", lose)
    outcome = mnist("compare", "--arch", "mlp", "--runs", 2, "--log", "csv", *quick, "--json")
    assert outcome.exit_code == 0, outcome.stderr
    assert len(outcome.document["runs"]) == 2
    assert outcome.stderr.count("Warning: the csv log ends here, the training does not:") == 1

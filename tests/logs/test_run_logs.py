"""What --log writes of a training, as the tools of others read it."""

from __future__ import annotations

import csv
import errno
import json
import os
import subprocess
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from outcomes import Outcome

from mnist_cli import train
from mnist_cli.adapters.base import STEPS_PER_CHUNK
from mnist_cli.cli import options
from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.errors import FrameworkError
from mnist_cli.logs import csv_log, formats, jsonl_log
from mnist_cli.logs.formats import CURVE, EPOCH
from mnist_cli.logs.runs import LoggedRuns, Logs
from mnist_cli.records import RunRecord
from mnist_cli.runners.base import TrainJob

Mnist = Callable[..., Outcome]
FILES = ["confusion.png", "fake-mlp_training.png", "fake-mlp.safetensors"]
EPOCHS, BATCH_SIZE = 3, 4
STEPS = 440 // BATCH_SIZE  # of an epoch, with the images of small_data
CHUNKS = [*range(STEPS_PER_CHUNK, STEPS, STEPS_PER_CHUNK), STEPS]  # last steps, in the first epoch
# Each chunk's mean of what the fake framework calls its losses.
LOSSES = [
    float(chunk.mean(dtype=np.float64))
    for chunk in np.split(np.linspace(2.3, 0.5, STEPS, dtype=np.float32), CHUNKS[:-1])
]


class Silent:
    """An observer that keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def start_run(self, label: str, *, run: int | None = None) -> None:
        pass

    def on_event(self, event: Mapping[str, Any], *, run: int | None = None) -> None:
        pass

    def finish_run(
        self, record: RunRecord | None = None, *, failure: str = "", run: int | None = None
    ) -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)


def epoch_event(epoch: int) -> dict[str, Any]:
    figures = dict.fromkeys((name.removeprefix("epoch_") for name in EPOCH), 0.5)
    curve = {"step": [10 * epoch], **{name: [0.25] for name in CURVE}}
    return {"event": "epoch", "epoch": epoch, "train_seconds": 1.0, **figures, "curve": curve}


JOB = TrainJob("fake", ModelSpec("mlp"), TrainConfig(), 1)


@pytest.fixture(scope="module")
def trained(
    fake_framework: None, small_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunRecord, Path]:
    """A training that is logged in all formats: its record, and the folder of all logs."""
    results = tmp_path_factory.mktemp("trained")
    record = train(
        "fake",
        arch="mlp",
        epochs=EPOCHS,
        batch_size=BATCH_SIZE,
        dataset=small_data,
        threads=1,
        results_dir=results,
        log=["csv", "jsonl", "mlflow", "tensorboard"],
        progress=False,
    )
    return record, results / "logs"


@pytest.fixture
def folder(trained: tuple[RunRecord, Path]) -> Path:
    """The folder of the run."""
    (folder,) = (path for path in trained[1].iterdir() if path.name.startswith("fake-mlp-"))
    return folder


def expected(record: RunRecord) -> dict[int, dict[str, float]]:
    """Each point's figures by step, as the record and the fake framework have them."""
    points = {
        (row.epoch - 1) * STEPS + step: {"train_loss": loss}
        for row in record.history
        for step, loss in zip(CHUNKS, LOSSES, strict=True)
    }
    for row in record.history:
        figures = {name: getattr(row, name.removeprefix("epoch_")) for name in EPOCH}
        points[row.epoch * STEPS] |= {"train_seconds": row.train_seconds, **figures}
    return points


def test_csv_has_a_row_per_chunk_of_steps_and_the_figures_of_the_record(
    trained: tuple[RunRecord, Path], folder: Path
) -> None:
    record = trained[0]
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    points = expected(record)
    assert [int(row["step"]) for row in rows] == list(points)
    for row, point in zip(rows, points.values(), strict=True):
        assert {name: float(row[name]) for name in point} == point
        assert (row["validation_loss"] == "") == ("validation_loss" not in point)
    assert max(float(row["learning_rate"]) for row in rows) <= record.learning_rate
    seconds = [float(row["train_seconds"]) for row in rows]
    assert seconds == sorted(seconds)
    with (folder / "run.csv").open(newline="") as file:
        facts = {(row["kind"], row["name"]): row["value"] for row in csv.DictReader(file)}
    assert facts["status", "status"] == "finished"
    assert facts["setting", "batch_size"] == str(BATCH_SIZE)
    assert float(facts["figure", "test_accuracy"]) == record.test_accuracy
    assert facts["environment", "cpu"] == record.environment["cpu"]


def test_json_lines_have_start_points_and_end(
    trained: tuple[RunRecord, Path], folder: Path
) -> None:
    record = trained[0]
    lines = [json.loads(line) for line in (folder / "run.jsonl").read_text().splitlines()]
    start, *points, end = lines
    assert start["settings"]["learning_rate"] == record.learning_rate
    assert {point["step"]: point for point in points}.keys() == expected(record).keys()
    for point in points:
        figures = expected(record)[point["step"]]
        assert {name: point[name] for name in figures} == figures
    assert (end["status"], end["files"]) == ("finished", FILES)
    assert end["figures"]["train_seconds"] == record.train_seconds
    assert end["environment"]["threads"] == 1


def test_pictures_and_model_are_in_the_folder_of_the_run(
    trained: tuple[RunRecord, Path], folder: Path
) -> None:
    for name in FILES:
        assert (folder / name).stat().st_size > 1000, name
    assert trained[0].checkpoint is not None
    assert (folder / FILES[-1]).read_bytes() == Path(trained[0].checkpoint).read_bytes()


@pytest.fixture
def events(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The run as TensorBoard reads it; without TensorFlow, whose import would take seconds."""
    monkeypatch.setitem(sys.modules, "tensorboard.compat.notf", types.ModuleType("notf"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder)).Reload()


def test_tensorboard_reads_curves_pictures_texts_and_hyperparameters(
    trained: tuple[RunRecord, Path], events: Any
) -> None:
    record = trained[0]
    points = expected(record)
    for name in ("train_loss", "validation_accuracy", "images_per_second"):
        named = {step: point[name] for step, point in points.items() if name in point}
        scalars = events.Scalars(name)
        assert [scalar.step for scalar in scalars] == list(named)
        # TensorBoard's scalars are float32: a relative error up to 2^-24.
        assert [scalar.value for scalar in scalars] == pytest.approx(list(named.values()), rel=6e-8)
    times = [scalar.wall_time for scalar in events.Scalars("train_loss")]
    assert times == sorted(times)
    assert len(events.Scalars("learning_rate")) == EPOCHS * len(CHUNKS)
    (final,) = events.Scalars("final/test_accuracy")
    assert final.value == pytest.approx(record.test_accuracy, rel=6e-8)
    assert events.Tags()["images"] == ["confusion", "fake-mlp_training"]
    (picture,) = events.Images("confusion")
    assert picture.encoded_image_string.startswith(b"\x89PNG")
    assert min(picture.width, picture.height) > 500
    (status,) = events.Tensors("status")
    assert status.tensor_proto.string_val == [b"finished"]
    (environment,) = events.Tensors("environment")
    assert record.environment["cpu"].encode() in environment.tensor_proto.string_val[0]

    from tensorboard.plugins.hparams import metadata

    content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    settings = metadata.parse_session_start_info_plugin_data(content).hparams
    assert settings["batch_size"].number_value == BATCH_SIZE
    assert settings["framework"].string_value == "fake"


@pytest.fixture
def client(trained: tuple[RunRecord, Path]) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{trained[1] / 'mlflow.db'}")


def runs_of(client: Any, name: str = "") -> list[Any]:
    experiment = client.get_experiment_by_name("mnist")
    found = client.search_runs([experiment.experiment_id])
    return [run for run in found if run.info.run_name.startswith(name)]


def test_mlflow_has_curves_parameters_tags_and_artifacts(
    trained: tuple[RunRecord, Path], client: Any
) -> None:
    record = trained[0]
    (run,) = runs_of(client, "fake-mlp-")
    assert run.info.status == "FINISHED"
    assert run.data.params["batch_size"] == str(BATCH_SIZE)
    assert run.data.tags["cpu"] == record.environment["cpu"]
    assert run.data.metrics["final/test_accuracy"] == record.test_accuracy
    points = expected(record)
    for name in ("train_loss", "validation_accuracy", "train_seconds"):
        history = client.get_metric_history(run.info.run_id, name)
        values = {metric.step: metric.value for metric in history}
        named = {step: point[name] for step, point in points.items() if name in point}
        assert {step: values[step] for step in named} == named
    assert len(client.get_metric_history(run.info.run_id, "train_loss")) == len(points)
    assert sorted(file.path for file in client.list_artifacts(run.info.run_id)) == sorted(FILES)


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt, "KILLED"), (ValueError, "FAILED")]
)
def test_mlflow_marks_a_run_that_was_stopped_and_keeps_its_points(
    trained: tuple[RunRecord, Path], client: Any, error: type[BaseException], status: str
) -> None:
    before = {run.info.run_id for run in runs_of(client)}

    def run_until_stopped() -> None:
        with Logs(["mlflow"], trained[1]).opened(Silent(), [JOB], experiment="trial") as runs:
            runs.start_run("")
            runs.on_event(epoch_event(1))
            raise error("that was that")

    with pytest.raises(error):
        run_until_stopped()
    whole, run = (run for run in reversed(runs_of(client)) if run.info.run_id not in before)
    assert (whole.info.status, run.info.status) == (status, status)
    assert run.data.tags["mlflow.parentRunId"] == whole.info.run_id
    assert run.data.tags["reason"] == "that was that"
    assert run.data.metrics["validation_loss"] == 0.5


def test_logs_load_neither_tensorflow_nor_torch(
    trained: tuple[RunRecord, Path], small_data: Path
) -> None:
    code = (
        "import sys, mnist_cli\n"
        "mnist_cli.train('fake', arch='mlp', epochs=1, threads=1, dataset=sys.argv[1],"
        " log=['mlflow', 'tensorboard'], log_dir=sys.argv[2], progress=False)\n"
        "assert not {'tensorflow', 'torch'} & sys.modules.keys()\n"
    )
    command = [sys.executable, "-c", code, str(small_data), str(trained[1])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


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


def test_a_comparison_logs_each_run_and_its_charts(
    mnist: Mnist, quick: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FRAMEWORK", "crash 1")
    monkeypatch.setenv("FAKE_FRAMEWORK_ONLY", "mlp 1")
    outcome = mnist("compare", "--runs", 2, "--log", "jsonl", *quick)
    assert outcome.exit_code == 1  # one run failed
    logs = logged(tmp_path / "results" / "logs")
    (whole,) = {name.partition("/")[0] for name in logs}
    ends = {name.removeprefix(whole): lines[-1] for name, lines in logs.items()}
    assert {name: end["status"] for name, end in ends.items()} == {
        "": "finished",
        "/fake-cnn-batch64-seed0": "finished",
        "/fake-cnn-batch64-seed1": "finished",
        "/fake-mlp-batch64-seed0": "finished",
        "/fake-mlp-batch64-seed1": "failed",
    }
    assert ends[""]["figures"] == {"runs": 3.0, "failures": 1.0}
    charts = ["comparison_results.json", "comparison_results.png", "sample_predictions.png"]
    assert ends[""]["files"] == charts
    assert "fake-cnn.safetensors" in ends["/fake-cnn-batch64-seed0"]["files"]
    assert f"log in: {tmp_path / 'results' / 'logs' / whole}\n" in outcome.stderr

    monkeypatch.delenv("FAKE_FRAMEWORK")
    mnist("compare", "--runs", 2, "--resume", "--log", "jsonl", *quick)
    (again,) = {name.partition("/")[0] for name in logged(tmp_path / "results" / "logs")} - {whole}
    logs = logged(tmp_path / "results" / "logs" / again)
    # Runs that were finished before have a point per epoch, from their records.
    assert [line["event"] for line in logs["fake-mlp-batch64-seed0"]] == [
        *("start", "point", "point", "end")
    ]
    assert logs["fake-mlp-batch64-seed1"][-1]["status"] == "finished"
    assert len(logs) == 5


def test_a_sweep_logs_each_batch_size(
    mnist: Mnist, quick: tuple[object, ...], tmp_path: Path
) -> None:
    options = ("--batch-sizes", "20,40", "--arch", "mlp", "--log", "jsonl")
    assert mnist("sweep-batch", *options, "--log-dir", tmp_path / "mine", *quick).exit_code == 0
    names = [name.rpartition("/")[2] for name in logged(tmp_path / "mine")]
    assert names[1:] == ["fake-mlp-batch20-seed0", "fake-mlp-batch40-seed0"]
    assert names[0].startswith("sweep-batch-")


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
    outcome = mnist("compare", "--arch", "mlp", "--runs", 2, "--log", name, *quick)
    assert outcome.exit_code == 0, outcome.stderr
    said = [line for line in outcome.stderr.splitlines() if line.startswith("Warning: the ")]
    assert said == [
        f"Warning: the {name} log ends here, the training does not: "
        "[Errno 28] No space left on device"
    ]
    assert (tmp_path / "results" / "comparison_results.json").exists()


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


def test_without_formats_nothing_is_written(tmp_path: Path) -> None:
    with Logs([], tmp_path).opened(Silent(), [JOB], experiment="trial") as runs:
        assert isinstance(runs, LoggedRuns)
        runs.start_run("")
        runs.on_event(epoch_event(1))
    assert list(tmp_path.iterdir()) == []

"""What --log writes of a training, as the tools of others read it."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from log_samples import JOB, Silent, epoch_event
from outcomes import Outcome

from mnist_cli.adapters.base import STEPS_PER_CHUNK
from mnist_cli.logs.formats import EPOCH
from mnist_cli.logs.runs import Logs
from mnist_cli.records import RunRecord

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


TRAINING = """
import json, sys, mnist_cli
dataset, results = sys.argv[1:]
record = mnist_cli.train(
    "fake", arch="mlp", epochs=3, batch_size=4, dataset=dataset, threads=1, results_dir=results,
    log=["csv", "jsonl", "mlflow", "tensorboard"], progress=False,
)
loaded = {"tensorflow", "torch"} & sys.modules.keys()
print(json.dumps({"record": record.to_json(), "loaded": sorted(loaded)}))
"""


@pytest.fixture(scope="module")
def told(
    fake_framework: None, small_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path]:
    """What a program says that logs a training in all formats, and the folder of its results.

    In a process of its own, to see what it loads. MLflow makes its database, which takes seconds.
    """
    results = tmp_path_factory.mktemp("trained")
    command = [sys.executable, "-c", TRAINING, str(small_data), str(results)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout), results


@pytest.fixture(scope="module")
def trained(told: tuple[dict[str, Any], Path]) -> tuple[RunRecord, Path]:
    """A training that is logged in all formats: its record, and the folder of all logs."""
    return RunRecord.from_json(told[0]["record"]), told[1] / "logs"


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


def test_logs_load_neither_tensorflow_nor_torch(told: tuple[dict[str, Any], Path]) -> None:
    assert told[0]["loaded"] == []

"""Training runs as a user starts them, each in its process, mostly with a fake framework."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.errors import (
    CheckpointError,
    DataError,
    DivergedError,
    FrameworkError,
    UsageError,
)
from mnist_cli.records import EpochRecord, throughput
from mnist_cli.runners import process
from mnist_cli.runners.base import TrainJob
from mnist_cli.training import checkpoint

TIMES = ("train_seconds", "images_per_second")


def _job(data: Path, folder: Path, **changes: Any) -> TrainJob:
    settings = {"epochs": 3, "batch_size": 20} | changes.pop("config", {})
    values = {
        "framework": "fake",
        "spec": ModelSpec("mlp"),
        "config": TrainConfig(**settings),
        "threads": 1,
        "dataset": str(data),
        "checkpoint": str(folder / "model.safetensors"),
    }
    return TrainJob(**(values | changes))


def _train(job: TrainJob) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    events: list[dict[str, Any]] = []
    return process.run(job, events.append), events


def _without_times(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in TIMES} for row in history]


def _note(events: list[dict[str, Any]]) -> str:
    (note,) = [event["text"] for event in events if event["event"] == "note"]
    return note


def test_a_run_leaves_a_record_events_and_a_finished_checkpoint(
    small_data: Path, tmp_path: Path
) -> None:
    record, events = _train(_job(small_data, tmp_path))
    assert [row["epoch"] for row in record["history"]] == [1, 2, 3]
    assert record["train_images"] == 440
    assert record["test_accuracy"] == record["history"][-1]["test_accuracy"] > 0.5
    assert record["parameters"] == 101_770
    assert record["environment"]["fake"] == "1.0"
    assert 0 < record["peak_rss_mib"] < 1024
    assert record["wall_seconds"] > record["train_seconds"] + record["evaluate_seconds"] > 0
    assert [e["epoch"] for e in events if e["event"] == "epoch"] == [1, 2, 3]
    model = checkpoint.load(tmp_path / "model.safetensors")
    assert len(model.history) == 3
    assert model.velocities == {}  # it is for use now
    assert model.calibration is None  # 40 validation digits tell too little


def test_training_seconds_add_up_over_the_epochs(small_data: Path, tmp_path: Path) -> None:
    record, _ = _train(_job(small_data, tmp_path))
    seconds = [row["train_seconds"] for row in record["history"]]
    assert seconds == sorted(seconds)
    assert record["train_seconds"] == seconds[-1]
    assert record["images_per_second"] == pytest.approx(3 * 440 / seconds[-1])


def test_warming_up_leaves_no_trace_in_the_weights(small_data: Path, tmp_path: Path) -> None:
    record, _ = _train(_job(small_data, tmp_path, config={"epochs": 1}))
    assert record["warmup_seconds"] > 0
    # The fake adds up learning rates in fc2.weight and images in its velocity: had the warm-up
    # stayed in, both would be larger.
    from mnist_cli.training import recipe

    config = TrainConfig(epochs=1, batch_size=20)
    start = recipe.starting_weights(ModelSpec("mlp"), 0)["fc2.weight"]
    moved = checkpoint.load(tmp_path / "model.safetensors").weights["fc2.weight"] - start
    # One float32 rounding of a sum near 1.
    assert moved == pytest.approx(recipe.learning_rates(config, 22).sum(), rel=1e-5)


def test_a_target_ends_training_within_the_epoch_that_reaches_it(
    small_data: Path, tmp_path: Path
) -> None:
    job = _job(small_data, tmp_path, config={"target_accuracy": 0.3, "batch_size": 1})
    record, _ = _train(job)
    (row,) = record["history"]
    assert row["validation_accuracy"] >= 0.3
    # A tenth of the epoch's 440 steps, and then the rest of the chunk of 32.
    assert row["images_per_second"] * row["train_seconds"] == pytest.approx(64)
    assert checkpoint.load(tmp_path / "model.safetensors").velocities == {}  # it is finished
    again, _ = _train(replace(job, resume=True))
    assert again["history"] == record["history"]


def test_throughput_counts_the_images_of_an_epoch_cut_short() -> None:
    # 1,000 images in 1 second, then 100 of the next epoch in 0.5 seconds.
    whole = EpochRecord(1, 2.0, 2.0, 0.5, 2.0, 0.5, train_seconds=1.0, images_per_second=1000.0)
    part = replace(whole, epoch=2, train_seconds=1.5, images_per_second=200.0)
    assert throughput([whole, part]) == pytest.approx(1100 / 1.5)


def test_a_target_out_of_reach_leaves_the_training_whole(small_data: Path, tmp_path: Path) -> None:
    record, _ = _train(_job(small_data, tmp_path, config={"target_accuracy": 1.0}))
    whole, _ = _train(_job(small_data, tmp_path / "whole"))
    assert _without_times(record["history"]) == _without_times(whole["history"])


def test_a_limit_trains_on_that_many_images(small_data: Path, tmp_path: Path) -> None:
    record, _ = _train(_job(small_data, tmp_path, limit=100))
    assert record["train_images"] == 100


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_checkpoint(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FRAMEWORK", "nan 2")
    with pytest.raises(DivergedError, match=r"nan at step 44 \(epoch 2\).*epoch 1 is kept"):
        _train(_job(small_data, tmp_path))
    assert len(checkpoint.load(tmp_path / "model.safetensors").history) == 1


def test_divergence_in_the_first_epoch_saves_nothing(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FRAMEWORK", "nan 1")
    with pytest.raises(DivergedError, match="nothing was saved"):
        _train(_job(small_data, tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["kill", "crash"])
def test_a_resumed_run_ends_with_the_history_of_an_unbroken_one(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    whole, _ = _train(_job(small_data, tmp_path / "whole"))
    broken = _job(small_data, tmp_path / "broken", resume=True)  # nothing there: it starts anew
    monkeypatch.setenv("FAKE_FRAMEWORK", f"{how} 2")
    events: list[dict[str, Any]] = []
    with pytest.raises(FrameworkError):
        process.run(broken, events.append)
    assert "to resume: training anew." in _note(events)
    unfinished = checkpoint.load(tmp_path / "broken" / "model.safetensors")
    assert len(unfinished.history) == 1
    assert unfinished.velocities
    monkeypatch.delenv("FAKE_FRAMEWORK")
    resumed, events = _train(broken)
    assert _note(events) == "Going on after epoch 1 of 3."
    assert _without_times(resumed["history"]) == _without_times(whole["history"])
    for name, array in checkpoint.load(tmp_path / "whole" / "model.safetensors").weights.items():
        other = checkpoint.load(tmp_path / "broken" / "model.safetensors").weights[name]
        assert (array == other).all()


def test_resuming_a_finished_run_trains_no_more(small_data: Path, tmp_path: Path) -> None:
    first, _ = _train(_job(small_data, tmp_path))
    again, events = _train(_job(small_data, tmp_path, resume=True))
    assert again["history"] == first["history"]
    assert not [event for event in events if event["event"] == "epoch"]
    assert "Nothing is left to train" in _note(events)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"config": {"learning_rate": 0.01}}, "learning_rate"),
        ({"config": {"seed": 5}}, "seed"),
        ({"spec": ModelSpec("mlp", "sigmoid")}, "activation"),
        ({"limit": 100}, "train_images"),
    ],
)
def test_resuming_with_other_settings_is_refused_by_name(
    small_data: Path, tmp_path: Path, changes: dict[str, Any], name: str
) -> None:
    _train(_job(small_data, tmp_path))
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match=f"trained with {name}"):
        _train(_job(small_data, tmp_path, resume=True, **changes))
    assert (tmp_path / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("crash 1", "fake process crashed: RuntimeError: the fake framework broke"),
        ("kill 1", r"was killed by SIGKILL \(out of memory\?\)"),
        ("import 0", "imports should not exit, but some do"),
    ],
)
def test_a_process_that_dies_tells_how_in_one_line(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, message: str
) -> None:
    monkeypatch.setenv("FAKE_FRAMEWORK", how)
    with pytest.raises(FrameworkError, match=message):
        _train(_job(small_data, tmp_path))


def test_a_batch_larger_than_the_data_is_a_usage_error(small_data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at most the 440 training images, not 441"):
        _train(_job(small_data, tmp_path, config={"batch_size": 441}))


def test_an_error_in_the_process_arrives_as_itself(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError):
        _train(_job(tmp_path / "data", tmp_path))


def test_no_process_outlives_a_killed_parent(small_data: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from mnist_cli.runners import process, tasks; from mnist_cli.config import *\n"
        "from mnist_cli.runners.base import TrainJob\n"
        "config = TrainConfig(batch_size=20)\n"
        "job = TrainJob('fake', ModelSpec('mlp'), config, 1, sys.argv[1])\n"
        "process.run(job, lambda event: print(event, flush=True))\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(small_data)],
        env={**os.environ, "FAKE_FRAMEWORK": "sleep 1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    for line in parent.stdout:  # until the child trains, and so sleeps
        if "warming up" in line:
            break
    children = _children(parent.pid)
    assert len(children) == 1
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 30
    while _alive(children[0]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(children[0])


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["cnn", "mlp"])
def test_numpy_gives_the_same_history_to_the_bit_and_loads_no_framework(
    small_data: Path, tmp_path: Path, arch: str
) -> None:
    script = (
        "import sys; from mnist_cli.runners import process, tasks; from mnist_cli.config import *\n"
        "from mnist_cli.runners.base import TrainJob\n"
        "spec, config = ModelSpec(sys.argv[2]), TrainConfig(epochs=2)\n"
        "job = TrainJob('numpy', spec, config, 2, sys.argv[1])\n"
        "record = tasks.train(job, lambda event: None)\n"
        "loaded = {'torch', 'tensorflow', 'keras', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
        "for row in record['history']:\n"
        "    print(*(v.hex() for k, v in row.items() if k not in "
        f"{('epoch', *TIMES)}))\n"
    )

    def history() -> str:
        return subprocess.run(
            [sys.executable, "-c", script, str(small_data), arch],
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    once, again = history(), history()
    assert len(once.splitlines()) == 2
    assert once == again

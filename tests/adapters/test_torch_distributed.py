"""One training by two processes, as torchrun starts them, against one process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import psutil
import pytest
from outcomes import Outcome
from waiting import wait_until

from mnist_cli import torchrun
from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.errors import CheckpointError, FrameworkError, LostRankError
from mnist_cli.torchrun import Rank
from mnist_cli.training import checkpoint, recipe

Mnist = Callable[..., Outcome]
# What needs the whole batch: batch norm of images and of vectors, and the masks of dropout.
LINE = (
    "conv 8, batchnorm, relu, pool, residual(conv 8, batchnorm, tanh), dropout 0.25, dense 16, "
    "batchnorm, relu"
)
EPOCHS = 12  # of 9 batches: 108 steps
RANK_1 = Rank(1, 2, local_rank=1, local_world_size=2)
VARIABLES = {"RANK": "1", "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.fixture
def training(small_data: Path, tmp_path: Path) -> list[str]:
    """A training whose batches of 45 images do not divide between two processes."""
    options = f"--framework torch --epochs {EPOCHS} --batch-size 45 --patience 11 --threads 1"
    files = ["--dataset", str(small_data), "--results-dir", str(tmp_path / "results")]
    return ["train", *options.split(), "--arch", LINE, "--device", "cpu", *files]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def ranks(*commands: list[str]) -> Iterator[list[subprocess.Popen[str]]]:
    """Start a process for each command, with the variables that torchrun sets."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    shared |= {"WORLD_SIZE": str(len(commands)), "LOCAL_WORLD_SIZE": str(len(commands))}
    started = []
    try:
        for rank, command in enumerate(commands):
            process = subprocess.Popen(
                [sys.executable, "-m", "mnist_cli", *command],
                env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            started.append(process)
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def _one(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def _kill_a_process_after_two_epochs(training: list[str]) -> str:
    """Train under torchrun, kill the process of rank 1's job, and return what all printed."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launch += ["--nproc-per-node", "2", "-m", "mnist_cli", *training]
    said = ""
    with subprocess.Popen(launch, stderr=subprocess.PIPE, text=True) as torchrun_itself:
        assert torchrun_itself.stderr is not None
        for line in torchrun_itself.stderr:
            said += line
            if f" 2/{EPOCHS} " in line:
                break
        everyone = psutil.Process(torchrun_itself.pid).children(recursive=True)
        jobs = [each for each in everyone if "mnist_cli.runners.process" in each.cmdline()]
        next(each for each in jobs if each.environ()["RANK"] == "1").kill()
        said += torchrun_itself.communicate(timeout=60)[1]
    assert torchrun_itself.returncode == 1
    wait_until(lambda: not any(each.is_running() for each in everyone), "no process")
    return said


@pytest.mark.slow
def test_two_processes_of_which_one_was_killed_end_and_resumed_equal_one_process(
    training: list[str], tmp_path: Path, mnist: Mnist
) -> None:
    said = _kill_a_process_after_two_epochs(training)
    (error,) = [line for line in said.splitlines() if line.startswith("Error: ")]
    assert error.startswith("Error: The PyTorch process was killed by SIGKILL (out of memory?)")

    resumed = [*training, "--resume", "--json"]
    with ranks(resumed, resumed) as (first, second):
        stdout, stderr = first.communicate(timeout=60)
        assert second.communicate(timeout=60) == ("", "")
    assert (first.returncode, second.returncode) == (0, 0), stderr
    assert "Going on after epoch" in stderr
    together = json.loads(stdout)
    schemas = json.loads(Path(__file__).parents[1].joinpath("schemas.json").read_text())
    jsonschema.validate(together, {**schemas, "$ref": "#/$defs/train"})
    written = tmp_path / "results"
    assert json.loads(_one(written, "*_training.json").read_text()) == together
    assert together["environment"]["world_size"] == 2
    assert together["environment"]["rank_batch_size"] == 23
    assert together["conditions"]["others_share"] is None

    training[training.index(str(written))] = str(tmp_path / "alone")
    alone = mnist(*training, "--json").document
    assert len(alone["history"]) == len(together["history"]) == EPOCHS
    for row, expected in zip(together["history"], alone["history"], strict=True):
        for name in ("train_loss", "validation_loss"):
            # Rounding alone differs; over 100 steps it may come to 1%, in the first ones to less.
            tolerance = 1e-4 if row["epoch"] == 1 else 0.01
            assert row[name] == pytest.approx(expected[name], rel=tolerance)
    ours, theirs = (
        checkpoint.load(_one(tmp_path / name / "models", "*")).weights
        for name in ("results", "alone")
    )
    for name, weight in theirs.items():  # batch norm's statistics among them; 1% as above
        most = 1e-3 + 0.01 * np.abs(weight).max()
        np.testing.assert_allclose(ours[name], weight, rtol=0, atol=most, err_msg=name)


@pytest.fixture
def as_rank_1(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[float]]:
    """Set variables as torchrun does, and return the seconds that are then slept."""
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)

    def set_variables(**changes: str) -> list[float]:
        for name, value in {**VARIABLES, **changes}.items():
            monkeypatch.setenv(name, value)
        return slept

    return set_variables


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("compare --framework torch", "'mnist compare' is not shared by several"),
        ("sweep-batch", "'mnist sweep-batch' is not shared by several"),
        ("evaluate torch-cnn", "'mnist evaluate' is not shared by several"),
        ("train --framework numpy", "PyTorch trains, not numpy: give --framework torch"),
        ("train --framework keras", "PyTorch trains, not tensorflow"),
        ("train --runner ray", "torchrun and --runner ray both distribute the training"),
        ("train --batch-size 2", "batch size must be at least 3, an image for each process"),
    ],
)
def test_what_several_processes_cannot_share_is_refused_in_one_line(
    as_rank_1: Callable[..., list[float]], mnist: Mnist, tmp_path: Path, command: str, said: str
) -> None:
    slept = as_rank_1(RANK="0")
    outcome = mnist(*command.split(), "--results-dir", tmp_path / "results")
    assert outcome.exit_code == 2
    assert outcome.stderr.startswith("Error: ")
    assert said in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1
    assert sum(slept) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("rank", "said"), [("0", "Interrupted."), ("1", "")])
def test_of_interrupted_processes_rank_0_says_so(
    as_rank_1: Callable[..., list[float]],
    mnist: Mnist,
    monkeypatch: pytest.MonkeyPatch,
    rank: str,
    said: str,
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    as_rank_1(RANK=rank)
    monkeypatch.setattr("mnist_cli.api.training.train", interrupt)
    outcome = mnist("train")
    assert outcome.exit_code == 130
    assert outcome.stderr.strip().startswith(said)
    assert bool(outcome.stderr.strip()) == bool(said)


def test_a_process_reports_after_rank_0_and_last_if_it_only_lost_another(
    as_rank_1: Callable[..., list[float]],
) -> None:
    waits = []
    for rank in ("0", "1"):
        slept = as_rank_1(RANK=rank)
        for error in (FrameworkError("broke"), LostRankError("lost")):
            slept.clear()
            torchrun.wait_to_report(error)
            waits.append(sum(slept))
    first, second, lost_by_first, lost_by_second = waits[0], waits[2], waits[1], waits[3]
    assert 0 == first < second < lost_by_first < lost_by_second


@pytest.mark.parametrize("changes", [{"RANK": "x"}, {"RANK": "3"}, {"LOCAL_RANK": "-1"}])
def test_variables_that_contradict_one_another_are_named(
    as_rank_1: Callable[..., list[float]], mnist: Mnist, changes: dict[str, str]
) -> None:
    as_rank_1(**changes)
    outcome = mnist("train")
    assert outcome.exit_code == 2
    (line,) = outcome.stderr.splitlines()
    assert "The variables of torchrun contradict one another: RANK=" in line


# --- The parts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{"WORLD_SIZE": "1", "RANK": "0"}, {"MASTER_PORT": ""}])
def test_a_single_process_is_no_rank(
    as_rank_1: Callable[..., list[float]], changes: dict[str, str]
) -> None:
    as_rank_1(**changes)
    assert torchrun.current_rank() is None


@pytest.mark.parametrize("batch_size", [4, 45, 64, 1024])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_every_row_of_a_batch_is_one_processs(batch_size: int, world_size: int) -> None:
    parts = [Rank(rank, world_size, 0, 1).rows(batch_size) for rank in range(world_size)]
    assert [row for part in parts for row in part] == list(range(batch_size))
    sizes = [len(part) for part in parts]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] - sizes[-1] <= 1


def test_processes_on_a_machine_share_its_cores(
    as_rank_1: Callable[..., list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mnist_cli.api import arguments
    from mnist_cli.errors import UsageError

    monkeypatch.setattr(arguments, "available_cores", lambda: 8)
    assert arguments.checked_threads(None) == 8
    as_rank_1(LOCAL_WORLD_SIZE="3", LOCAL_RANK="0")
    assert arguments.checked_threads(None) == 2
    assert arguments.checked_threads(1) == 1
    with pytest.raises(UsageError, match="threads must be from 1 to 2"):
        arguments.checked_threads(3)


@pytest.fixture
def module() -> Any:
    return pytest.importorskip("mnist_cli.adapters.torch_distributed")


def test_a_process_that_starts_from_something_else_than_rank_0_is_refused(
    module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, config = ModelSpec("linear"), TrainConfig(batch_size=2)
    classifier = module.DistributedClassifier(spec, config, module.torch.device("cpu"), RANK_1)
    weights = recipe.starting_weights(spec, seed=0)
    sent = []

    def start(**changes: Any) -> checkpoint.Checkpoint:
        values = {"dataset": "mnist", "dataset_sha256": "0", "train_images": 2, "history": ()}
        return checkpoint.Checkpoint(
            **{"spec": spec, "config": config, "framework": "torch", "weights": weights}
            | values
            | changes
        )

    def broadcast(tensor: Any, *, src: int) -> None:
        """Let what the first caller has be rank 0's."""
        sent.append(tensor.clone())
        tensor.copy_(sent[0])

    monkeypatch.setattr(module.distributed, "broadcast", broadcast)
    classifier.require_same(start())
    classifier.require_same(start())
    others: list[dict[str, Any]] = [
        {"config": TrainConfig(batch_size=2, epochs=3)},
        {"dataset_sha256": "1"},
        {"weights": recipe.starting_weights(spec, seed=1)},
        {"velocities": weights},
    ]
    for changes in others:
        with pytest.raises(CheckpointError, match="Process 1 of 2 starts from other settings"):
            classifier.require_same(start(**changes))


def test_a_lost_process_and_an_unreachable_one_are_said_in_one_line(
    module: Any, monkeypatch: pytest.MonkeyPatch, as_rank_1: Callable[..., list[float]]
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("Connection closed by peer [127.0.0.1]:1\nand a stack")

    as_rank_1(WORLD_SIZE="2")
    monkeypatch.setattr(module.distributed, "all_reduce", fails)
    monkeypatch.setattr(module.distributed, "init_process_group", fails)
    with pytest.raises(LostRankError, match=r"Process 1 of 2 has lost another \(Connection closed"):
        module._summed(module.torch.zeros(1), RANK_1)
    build = {"spec": ModelSpec("linear"), "config": TrainConfig(), "threads": 1}
    with pytest.raises(FrameworkError, match=r"cannot reach the others at 127\.0\.0\.1:1 \(Conn"):
        module.adapter.build(**build, device="cpu")
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    with pytest.raises(FrameworkError, match="Several processes do not train on mps"):
        module.adapter.build(**build, device="mps")


def test_a_gpu_for_each_process_is_needed(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(FrameworkError, match=r"started 2 processes here, for 1 GPU\."):
        module._own_gpu(RANK_1)

"""A search that trains nothing: its trials are as good as their learning rate is near 0.1."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mnist_cli.config import SEARCH_SPACE, TrainConfig
from mnist_cli.experiments import search
from mnist_cli.networks.language import find_network
from mnist_cli.reporting.console import TrainingProgress
from mnist_cli.runners.base import TrainJob

OnEvent = Callable[[int, dict[str, Any]], None]


def pretend(
    jobs: Mapping[int, TrainJob], finished: Sequence[Sequence[float]], on_event: OnEvent
) -> None:
    """Report what a cluster would: rates far from 0.1 are stopped, the highest ones diverge."""
    for number, job in jobs.items():
        on_event(number, {"event": "started", "node": "n1"})
        epochs = job.config.epochs
        far = abs(math.log(job.config.learning_rate / 0.1))
        if job.config.learning_rate > 0.2:
            error = "The loss became nan at step 55 (epoch 1); nothing was saved."
            on_event(number, {"event": "ended", "state": "diverged", "error": error})
            continue
        last = epochs if far < 0.7 else 1
        for epoch in range(1, last + 1):
            accuracy = 1 - 0.01 * math.exp(far) * (1 + 3 / epoch)
            on_event(number, epoch_event(epoch, accuracy, epochs))
        state = "finished" if last == epochs else "stopped"
        on_event(number, {"event": "ended", "state": state, "error": None})


def epoch_event(epoch: int, accuracy: float, epochs: int) -> dict[str, Any]:
    return {
        "event": "epoch",
        "epochs": epochs,
        "epoch": epoch,
        "train_loss": 2 * (1 - accuracy),
        "validation_loss": 1 - accuracy,
        "validation_accuracy": accuracy,
        "train_seconds": 1.5 * epoch,
    }


def make_search(
    count: int = 12,
    archs: Sequence[str] = ("mlp",),
    *,
    epochs: int = 5,
    path: Path | None = None,
    resume: bool = False,
    execute: search.Execute = pretend,
    **given: object,
) -> dict[str, Any]:
    """The document of a search of ``count`` trials; ``given`` are settings of the space."""
    networks = [find_network(arch) for arch in archs]
    space = {n: search.read_values(n, each) for n, each in {**SEARCH_SPACE, **given}.items()}
    template = TrainJob("numpy", networks[0], TrainConfig(epochs=epochs), 1, validates_only=True)
    settings = {
        "framework": "numpy",
        "archs": [network.arch for network in networks],
        "lines": [network.line for network in networks],
        "space": {name: values.to_json() for name, values in space.items()},
        "trials": count,
        "epochs": epochs,
        "reduction_factor": 3,
        "augment": False,
        "seed": 0,
        "threads": 1,
        "device": "cpu",
        "dataset": "mnist",
        "fix_orientation": False,
        "data_sha256": "",
        "limit": None,
    }
    jobs = search.plan_trials(template, networks, space, count)
    with TrainingProgress([1] * count) as observer:
        return search.run_search(
            jobs, execute, path=path, settings=settings, observer=observer, resume=resume
        )

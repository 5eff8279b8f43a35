"""Jobs as data: what a runner is given, as JSON, and what it reports.

A job is frozen and JSON-ready, so that it can be sent to another process or machine. While it runs
it reports events, dictionaries with an ``event`` key: ``phase``, ``note``, ``step`` and ``epoch``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from mnist_cli.config import ModelSpec, TrainConfig

OnEvent: TypeAlias = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class TrainJob:
    """A training run: its result is a `records.RunRecord` as JSON.

    ``started_from`` is a model file to go on from; without it the weights are random. With ``live``
    it is steered while it runs, has no result and ends with its process: see `training.live`.
    """

    framework: str
    spec: ModelSpec
    config: TrainConfig
    threads: int
    dataset: str = "mnist"
    limit: int | None = None
    device: str = "auto"
    checkpoint: str | None = None
    resume: bool = False
    started_from: str | None = None
    live: bool = False


@dataclass(frozen=True)
class EvaluateJob:
    """A test of a saved model: its result is the fields of an `evaluation.Evaluation`."""

    framework: str
    checkpoint: str
    threads: int
    dataset: str = "mnist"
    device: str = "auto"


@dataclass(frozen=True)
class PredictJob:
    """A prediction for prepared digits, (N, 28, 28) uint8 in the .npy file ``images``.

    Its result holds their ``logits``.
    """

    framework: str
    checkpoint: str
    threads: int
    images: str
    device: str = "auto"


Job: TypeAlias = TrainJob | EvaluateJob | PredictJob

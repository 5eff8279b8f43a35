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

    ``started_from`` is a model file to go on from; without it the weights are random.
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


@dataclass(frozen=True)
class ExportJob:
    """An export of a saved model to ``path``, in the format ``to`` of `export.formats`.

    Its result holds the ``logits`` that the format's own runtime computes of ``images``, (N, 28,
    28) uint8 in a .npy file. ``framework`` is that runtime.
    """

    framework: str
    checkpoint: str
    threads: int
    to: str
    path: str
    images: str
    raw: bool = False


@dataclass(frozen=True)
class ImportJob:
    """A model of another program: its result holds the fields of an `importing.flow.Network`.

    The weights are written to ``weights``, a safetensors file, under canonical names. ``images``
    are as in `ExportJob`; they enter as ``pixels`` says, by `importing.source.PIXELS`, and
    ``outputs`` are what the model's own runtime makes of them. Of a file of PyTorch's, which has
    weights alone, the result is the ``order`` of their names.
    """

    framework: str
    file: str
    threads: int
    weights: str
    images: str
    pixels: str | None = None


Job: TypeAlias = TrainJob | EvaluateJob | PredictJob | ExportJob | ImportJob

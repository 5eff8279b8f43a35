"""Jobs as data, and the protocol of what executes them: a runner.

A job is frozen and JSON-ready, so that it can be sent to another process or machine. While it runs
it reports events, dictionaries with an ``event`` key: ``started``, ``phase``, ``note``, ``step``
and ``epoch``, which has the fields of `records.EpochRecord` and the ``curve`` of `training.loop`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.errors import MnistError

OnEvent: TypeAlias = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class TrainJob:
    """A training run: its result is a `records.RunRecord` as JSON.

    ``started_from`` is a model file to go on from; without it the weights are random. With ``live``
    it is steered while it runs, has no result and ends with its process: see `training.live`.
    With ``fix_orientation`` digits that lie otherwise than MNIST's are turned: `data.orientation`.
    ``files`` maps what the job names, such as ``dataset``, to copies on the machine that executes
    it, where that is not the one that has the files. With ``distributed`` all processes of torchrun
    execute it together: see `torchrun`. With ``validates_only`` the validation images stand in for
    the test images, which no choice may depend on.
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
    distributed: bool = False
    fix_orientation: bool = False
    validates_only: bool = False
    files: dict[str, str] = field(default_factory=dict, hash=False)

    def local(self, name: str) -> str:
        """Return where the file that the job calls ``name`` is on this machine."""
        return self.files.get(name, name)


@dataclass(frozen=True)
class EvaluateJob:
    """A test of a saved model: its result is the fields of an `evaluation.Evaluation`."""

    framework: str
    checkpoint: str
    threads: int
    dataset: str = "mnist"
    device: str = "auto"
    fix_orientation: bool = False


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
class MapJob:
    """A map of test digits by what a layer makes of them: see `mapping`.

    Its result holds the arrays of a `mapping.DigitMap` as base64 of float32, and their shapes.
    """

    checkpoint: str
    layer: int
    method: str
    threads: int
    framework: str = "numpy"


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


Job: TypeAlias = TrainJob | EvaluateJob | PredictJob | ExportJob | ImportJob | MapJob


@dataclass(frozen=True)
class Outcome:
    """How a submitted job ended: with its ``result``, or with the ``error`` that ended it."""

    handle: int
    result: dict[str, Any] | None = None
    error: MnistError | None = None

    def value(self) -> dict[str, Any]:
        """Return the result. Raises the error."""
        if self.error is not None:
            raise self.error
        assert self.result is not None
        return self.result


class Runner(Protocol):
    """Executes jobs. Jobs and results are JSON; nobody else starts processes for them."""

    def submit(self, job: Job) -> int:
        """Take a job to execute, and return its handle."""

    def wait(self, on_event: Callable[[int, dict[str, Any]], None]) -> Outcome:
        """Execute until one of the submitted jobs has ended, and return how.

        Meanwhile ``on_event`` gets each event with the handle of its job, in order: first
        ``started``, which names the ``node`` if jobs have several.
        """

    def cancel(self, handle: int) -> None:
        """Give up a job: it is not started, or is stopped; it has no outcome."""

    def close(self) -> None:
        """Stop what is running; no process is left."""

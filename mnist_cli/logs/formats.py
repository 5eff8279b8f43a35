"""What a log is told of a run, and the formats that there are."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from mnist_cli.config import require_choice
from mnist_cli.errors import not_installed
from mnist_cli.records import replacing

# JSON values by name, nested ones as ``conditions.seconds``.
Values: TypeAlias = Mapping[str, Any]

# The figures of a point: those of each, and those that the last point of an epoch has too.
CURVE = ("train_loss", "learning_rate", "train_seconds")
EPOCH = (
    "epoch_train_loss",
    "validation_loss",
    "validation_accuracy",
    "test_loss",
    "test_accuracy",
    "images_per_second",
)


@dataclass(frozen=True)
class Point:
    """The figures of a run after a step, by their names in `CURVE` and `EPOCH`.

    ``step`` counts all steps of the run and ``epoch`` its epochs, both from 1; ``time`` is in
    seconds since 1970.
    """

    step: int
    epoch: int
    time: float
    figures: dict[str, float]


@dataclass(frozen=True)
class Run:
    """A run that begins, or an experiment of several.

    ``root`` is the folder of all logs, ``folder`` the run's own in it, which exists if the format
    asks for one, and ``name`` the way from one to the other. ``parent`` is the log of the
    experiment that it belongs to.
    """

    root: Path
    folder: Path
    settings: Values
    parent: RunLog | None = None
    is_experiment: bool = False

    @property
    def name(self) -> str:
        """The name of the run: unique in ``root``."""
        return self.folder.relative_to(self.root).as_posix()


@dataclass(frozen=True)
class Ending:
    """How a run ended: ``finished``, ``failed`` or ``interrupted``, the latter two with a reason.

    ``figures`` are those of the whole run; ``environment`` says what it ran on. ``files`` are
    pictures (PNG), models and documents.
    """

    status: str
    reason: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    environment: Values = field(default_factory=dict)
    files: tuple[Path, ...] = ()


class RunLog(Protocol):
    """The log of one run, in one format; any exception ends it, and nothing else.

    ``place`` says where it is.
    """

    place: str

    def add(self, points: Sequence[Point]) -> None:
        """Write points, in the order of their steps."""

    def end(self, ending: Ending) -> None:
        """Write how the run ended, and close the log."""


@dataclass(frozen=True)
class Format:
    """One format: its module has a class ``Log``, and needs ``packages`` of an extra of its name.

    ``Log(run)`` is a `RunLog`; ``has_folder`` says that it writes to the folder of the run.
    """

    module: str
    packages: tuple[str, ...] = ()
    has_folder: bool = True

    def open(self, run: Run) -> RunLog:
        """Begin the log of a run."""
        log: RunLog = import_module(f"mnist_cli.logs.{self.module}").Log(run)
        return log


FORMATS = {
    "csv": Format("csv_log"),
    "jsonl": Format("jsonl_log"),
    "mlflow": Format("mlflow_log", ("mlflow", "sqlalchemy", "alembic"), has_folder=False),
    "tensorboard": Format("tensorboard_log", ("tensorboard",)),
}


def require_format(name: str) -> None:
    """Raise `UsageError` for an unknown format, `FrameworkError` if its extra is missing."""
    require_choice("log", name, tuple(FORMATS))
    for package in FORMATS[name].packages:
        if find_spec(package) is None:
            raise not_installed(package, name)


def copy_into(folder: Path, files: Sequence[Path]) -> None:
    """Copy files into the folder of a run, where another format may have put them already."""
    for path in files:
        with replacing(folder / path.name) as temporary:
            shutil.copyfile(path, temporary)

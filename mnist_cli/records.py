"""Records of runs, and atomic file writing.

Records are plain and JSON-ready. Charts and tables read nothing else, so they can be drawn again
without training.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_cli.conditions import Conditions
from mnist_cli.errors import OutputError
from mnist_cli.names import model_name, plural

if TYPE_CHECKING:
    from mnist_cli.reporting.notebook import Chart

SCHEMA_VERSION = 1
ACCURACY_MARKS = (0.98, 0.99)


@dataclass(frozen=True)
class EpochRecord:
    """One epoch. Losses are means per image; accuracies are 0-1.

    ``train_seconds`` is cumulative: from the start of training to the end of this epoch, without
    evaluation. ``images_per_second`` is this epoch's. A target accuracy may end the last epoch
    early.
    """

    epoch: int
    train_loss: float
    validation_loss: float
    validation_accuracy: float
    test_loss: float
    test_accuracy: float
    train_seconds: float
    images_per_second: float


@dataclass(frozen=True)
class RunRecord:
    """One finished run.

    ``time_to_accuracy`` maps each of `ACCURACY_MARKS` to the training seconds until validation
    accuracy first reached it, or None. ``test_errors`` lists each misclassified test image as
    (index, prediction), so that two runs can be compared image by image. ``peak_rss_mib`` is the
    peak memory of the run's process, without NumPy's worker processes (about 25 MiB each for the
    CNN). ``import_seconds`` is the time of the framework's import, while a thread loads the data.
    ``label_smoothing``, ``warmup_fraction`` and ``decay_power`` are None in older records.
    ``model_epoch`` is the epoch whose model was kept and that ``test_accuracy`` is of: the last or,
    with ``patience``, the best; None in older records, where it is the last. ``started_from`` is
    the model file from which the training went on, if any. ``line`` is the network's line of
    layers, ``classes`` how many it tells apart, and ``operations`` what a prediction computes per
    image; ``conditions`` is what the machine did from the warm-up to the last evaluation. Line,
    operations and conditions are None in older records. ``timing`` is
    ``shared`` if other runs were on the machine at the same time, so that only accuracy counts;
    ``retries`` counts how often the run was begun before, on nodes that were lost.
    """

    framework: str
    arch: str
    activation: str
    parameters: int
    dataset: str
    train_images: int
    epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    history: tuple[EpochRecord, ...]
    test_accuracy: float
    test_loss: float
    test_errors: tuple[tuple[int, int], ...]
    import_seconds: float
    warmup_seconds: float
    train_seconds: float
    evaluate_seconds: float
    wall_seconds: float
    images_per_second: float
    time_to_accuracy: dict[str, float | None]
    peak_rss_mib: float
    checkpoint: str | None
    environment: dict[str, Any]
    label_smoothing: float | None = None
    warmup_fraction: float | None = None
    decay_power: float | None = None
    precision: str = "float32"
    augment: bool = False
    reject: bool = False
    patience: int | None = None
    model_epoch: int | None = None
    started_from: str | None = None
    conditions: Conditions | None = None
    line: str | None = None
    classes: int = 10
    operations: int | None = None
    timing: str = "exclusive"
    retries: int = 0
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return {**asdict(self), "test_errors": [list(error) for error in self.test_errors]}

    def plot(self) -> Chart:
        """Draw loss and accuracy by epoch."""
        from mnist_cli.reporting.notebook import training_chart  # a record needs it only to show

        return training_chart(self)

    def _repr_html_(self) -> str:
        from mnist_cli.reporting.notebook import training_html

        return training_html(self)

    def __repr__(self) -> str:
        """Return the result in short: the record itself is as long as its history and errors."""
        name = model_name(self.framework, self.arch, self.activation)
        epochs = plural(len(self.history), "epoch")
        return f"RunRecord({name}: {self.test_accuracy:.2%} test accuracy after {epochs})"

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> RunRecord:
        """Return the record whose `to_json` is ``values``."""
        history = tuple(EpochRecord(**row) for row in values["history"])
        errors = tuple((index, digit) for index, digit in values["test_errors"])
        conditions = values.get("conditions") and Conditions(**values["conditions"])
        parts = {"history": history, "test_errors": errors, "conditions": conditions}
        return cls(**{**values, **parts})


def time_to_accuracy(history: tuple[EpochRecord, ...]) -> dict[str, float | None]:
    """Return the training seconds until validation first reached each mark, or None."""
    return {
        str(mark): next(
            (row.train_seconds for row in history if row.validation_accuracy >= mark), None
        )
        for mark in ACCURACY_MARKS
    }


def throughput(history: Sequence[EpochRecord]) -> float:
    """Return images per second over all epochs, of which the last may be incomplete."""
    ends = [0.0, *(row.train_seconds for row in history)]
    spans = zip(history, ends, ends[1:], strict=False)  # an epoch, its start, its end
    return sum(row.images_per_second * (end - start) for row, start, end in spans) / ends[-1]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, and rename it to ``path`` if the block succeeds.

    So ``path`` always holds the old file or the new one, never a part, also after a kill. Raises
    `OutputError` if the folder cannot be written.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(
            f"Cannot write {path}: {_why(error)}. "
            "Free space, or choose a folder that can be written."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _why(error: BaseException | None) -> str:
    """Return in words why a file could not be written."""
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        return "a part of this path is not a folder"
    return getattr(error, "strerror", None) or str(error)


def require_writable(folder: Path, *, option: str = "--results-dir") -> None:
    """Raise `OutputError` if ``folder`` cannot be written; for use before a long run.

    ``option`` is the option that named it.
    """
    try:
        with replacing(folder / ".writable"):
            pass
    except OutputError as error:
        raise OutputError(
            f"Cannot write to the folder {folder}: {_why(error.__cause__)}. "
            f"Choose another with {option}."
        ) from error
    (folder / ".writable").unlink(missing_ok=True)  # another process may have been here too


def write_json(path: Path, document: Any) -> None:
    """Write a JSON document through a temporary file."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

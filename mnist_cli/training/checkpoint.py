"""Portable models: one safetensors file, written by any framework and read by any.

Tensors have the canonical names and layouts of `networks.spec`. While training is unfinished the
file also holds the optimiser's velocities, so that it can be resumed. Everything else is JSON in
the metadata. No pickle is ever read.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mnist_cli.arrays import Weights
from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.errors import CheckpointError, MnistError
from mnist_cli.names import DIGITS, class_names, require_names
from mnist_cli.networks.spec import parameter_shapes, require_weights
from mnist_cli.records import EpochRecord, replacing
from mnist_cli.training.recipe import PIXEL_MEAN, PIXEL_STD

if TYPE_CHECKING:
    from mnist_cli.adapters.base import Adapter, Classifier

PRETRAINED = Path(__file__).parents[1] / "pretrained" / "cnn.safetensors"
FORMAT = "mnist-checkpoint"
FORMAT_VERSION = 1
_VELOCITY = "velocity."
_BEST = "best."


@dataclass(frozen=True)
class Calibration:
    """When a model's answer is sure: see `training.calibration`.

    The logits are divided by ``temperature``. A digit is sure from ``sure_probability`` and
    ``sure_evidence`` on. Raises `ValueError` unless all are finite and the temperature is above 0.
    """

    temperature: float
    sure_probability: float
    sure_evidence: float

    def __post_init__(self) -> None:
        limits = (self.temperature, self.sure_probability, self.sure_evidence)
        if not (self.temperature > 0 and all(map(math.isfinite, limits))):
            raise ValueError("its calibration needs finite numbers and a temperature above 0")


@dataclass(frozen=True)
class Checkpoint:
    """A model and the history of its training.

    ``weights`` are those after the last epoch of ``history`` or, once a training with
    ``config.patience`` has finished, those of its best epoch. Until then ``best_weights`` holds the
    latter. ``velocities`` and ``best_weights`` are empty once training has finished. ``versions``
    names the programs that made the model. ``calibration`` is None while training is unfinished, if
    there were too few validation digits, and in older models. Pixels are normalised as
    (pixel / 255 - ``pixel_mean``) / ``pixel_std``. ``started_from`` is the model file whose weights
    the training started from, None for random ones. ``class_names`` are in the order of the logits.
    """

    spec: ModelSpec
    config: TrainConfig
    framework: str
    dataset: str
    dataset_sha256: str
    train_images: int
    history: tuple[EpochRecord, ...]
    weights: Weights
    velocities: Weights = field(default_factory=dict)
    best_weights: Weights = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    pixel_mean: float = PIXEL_MEAN
    pixel_std: float = PIXEL_STD
    calibration: Calibration | None = None
    started_from: str | None = None
    class_names: tuple[str, ...] = DIGITS

    @property
    def model_epoch(self) -> EpochRecord:
        """The epoch whose model a finished training keeps: the last, or the best with patience."""
        if self.config.patience is None:
            return self.history[-1]
        return min(self.history, key=lambda row: row.validation_loss)

    def settings(self) -> dict[str, Any]:
        """Return the settings that must be equal for a training to be resumed."""
        return {
            "framework": self.framework,
            **asdict(self.spec),
            **asdict(self.config),
            "dataset_sha256": self.dataset_sha256,
            "train_images": self.train_images,
            "started_from": self.started_from,
        }

    def classifier(self, adapter: Adapter, *, device: str, threads: int) -> Classifier:
        """Return the model in a framework; it predicts in float32, whatever it was trained in."""
        config = replace(self.config, precision="float32")
        classifier = adapter.build(self.spec, config, device=device, threads=threads)
        classifier.import_weights(self.weights)
        return classifier


def model_path(model: str | os.PathLike[str], results_dir: Path) -> Path:
    """Return the file of a model given by its path, or by its name in ``results_dir``/models.

    ``pretrained`` is the model in this package.
    """
    path = Path(model)
    if path == Path("pretrained"):
        return PRETRAINED
    if not path.exists() and path.suffix == "":
        return results_dir / "models" / f"{path}.safetensors"
    return path


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint through a temporary file. Raises `OutputError`."""
    # safetensors writes a strided array's memory as if it were contiguous: wrong values.
    tensors = {
        prefix + name: np.ascontiguousarray(array)
        for prefix, arrays in (
            ("", checkpoint.weights),
            (_VELOCITY, checkpoint.velocities),
            (_BEST, checkpoint.best_weights),
        )
        for name, array in arrays.items()
    }
    # While training is unfinished, the weights are those of the last epoch.
    row = checkpoint.history[-1] if checkpoint.velocities else checkpoint.model_epoch
    details = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "arch": checkpoint.spec.arch,
        "activation": checkpoint.spec.activation,
        "line": checkpoint.spec.line,
        "framework": checkpoint.framework,
        "seed": checkpoint.config.seed,
        "epochs_completed": checkpoint.history[-1].epoch,
        "validation_accuracy": row.validation_accuracy,
        "test_accuracy": row.test_accuracy,
        "dataset": checkpoint.dataset,
        "dataset_sha256": checkpoint.dataset_sha256,
        "class_names": checkpoint.class_names,
        "train_images": checkpoint.train_images,
        "started_from": checkpoint.started_from,
        "normalization": {"mean": checkpoint.pixel_mean, "std": checkpoint.pixel_std},
        "recipe": asdict(checkpoint.config),
        "history": [asdict(each) for each in checkpoint.history],
        "versions": checkpoint.versions,
        "calibration": None if checkpoint.calibration is None else asdict(checkpoint.calibration),
    }
    # Metadata values must be strings: each is a JSON value of its own.
    metadata = {name: json.dumps(value) for name, value in details.items()}
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=metadata)
        except SafetensorError as error:  # raised for a full disk
            raise OSError(str(error)) from error


def load(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises `CheckpointError` for a file that is missing, damaged, not a checkpoint of this
    program, of a newer format, or whose weights do not fit its architecture.
    """
    with _opened(path) as file:
        details = _details(path, file.metadata() or {})
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    try:
        checkpoint = _checkpoint(details, tensors)
        if not (math.isfinite(checkpoint.pixel_mean) and 0 < checkpoint.pixel_std < math.inf):
            raise ValueError("its normalisation needs a finite mean and a std above 0")
        require_weights(checkpoint.spec, checkpoint.weights)
        if checkpoint.best_weights:
            require_weights(checkpoint.spec, checkpoint.best_weights)
        if checkpoint.velocities:
            require_weights(checkpoint.spec, checkpoint.velocities, parameter_shapes)
    except (KeyError, TypeError, ValueError, MnistError) as error:
        raise CheckpointError(
            f"{path} is a damaged checkpoint ({error}). Copy it again, or train it anew."
        ) from error
    _require_finite(path, tensors)
    return checkpoint


def read_details(path: Path) -> dict[str, Any]:
    """Return the metadata of a checkpoint, as `save` writes it, without its weights.

    Raises `CheckpointError` as `load` does, for a file that is none.
    """
    with _opened(path) as file:
        return _details(path, file.metadata() or {})


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a safetensors file to be read in the block."""
    if not path.is_file():
        raise CheckpointError(
            f"No model at {path}. Give a .safetensors file, or make one with 'mnist train'."
        )
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except CheckpointError:
        raise
    except Exception as error:  # dtypes that NumPy lacks raise various errors
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({error}). "
            "It may be cut short or of another kind: copy it again, or train it anew."
        ) from error


def _require_finite(path: Path, tensors: Weights) -> None:
    """Raise `CheckpointError` unless all tensors are finite float32 numbers."""
    for name, array in tensors.items():
        if array.dtype != np.float32 or not np.isfinite(array).all():
            raise CheckpointError(
                f"{path} is a damaged checkpoint: {name} should hold finite float32 numbers. "
                "Copy it again, or train it anew."
            )


def _checkpoint(details: dict[str, Any], tensors: Weights) -> Checkpoint:
    """Return the checkpoint of a file's metadata and tensors, some of which may be missing."""
    names = tuple(details.get("class_names", class_names(details["dataset"])))
    require_names(names)
    return Checkpoint(
        # Older models have a known architecture, no line, and ten classes.
        spec=ModelSpec(details["arch"], details["activation"], details.get("line", ""), len(names)),
        class_names=names,
        # Settings that an older recipe does not name had these values then.
        config=TrainConfig(**{"label_smoothing": 0.0, "decay_power": 1.0, **details["recipe"]}),
        framework=details["framework"],
        dataset=details["dataset"],
        dataset_sha256=details["dataset_sha256"],
        train_images=details["train_images"],
        started_from=details.get("started_from"),
        history=tuple(EpochRecord(**row) for row in details["history"]),
        weights={
            name: tensor
            for name, tensor in tensors.items()
            if not name.startswith((_VELOCITY, _BEST))
        },
        velocities=_without_prefix(tensors, _VELOCITY),
        best_weights=_without_prefix(tensors, _BEST),
        versions=details["versions"],
        pixel_mean=float(details["normalization"]["mean"]),
        pixel_std=float(details["normalization"]["std"]),
        calibration=Calibration(**limits) if (limits := details.get("calibration")) else None,
    )


def _without_prefix(tensors: Weights, prefix: str) -> Weights:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _details(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """Return the decoded metadata, checked for format and version."""
    try:
        details = {name: json.loads(value) for name, value in metadata.items()}
    except ValueError:
        details = {}
    if details.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is a safetensors file, but not a checkpoint of this program "
            f"(no format '{FORMAT}' in its metadata). Give one that 'mnist train' wrote."
        )
    version = details.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has checkpoint format {version}; this program reads {FORMAT_VERSION}. "
            "Upgrade mnist-cli, or train the model anew."
        )
    return details

"""What to train and how: frozen, validated once, the same for every framework."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from mnist_cli.errors import UsageError

MIN_CLASSES, MAX_CLASSES = 2, 256
# The known networks, as lines of layers (`networks.language`); the last "dense 10" is added, with
# as many units as the data set has classes.
NETWORKS = {
    "cnn": "conv 32, relu, pool, conv 64, relu, pool, dense 128, relu",
    "mlp": "dense 128, {activation}",
    "lenet5": "conv 6 5x5, tanh, pool avg, conv 16 5x5 valid, tanh, pool avg, dense 120, tanh, "
    "dense 84, tanh",
    "linear": "dense {classes}",
    "deep": "dense 256, relu, dense 128, relu, dense 64, relu, dense 32, relu",
    "resnet": "conv 16, batchnorm, relu, pool, residual(conv 16, batchnorm, relu, conv 16, "
    "batchnorm), relu, conv 32, batchnorm, relu, pool, dropout 0.25, dense 64, relu",
    # The most accurate: chosen on validation images, trained with --augment --epochs 40.
    "best": "conv 32, pool, batchnorm, relu, conv 64, batchnorm, relu, conv 64, pool, batchnorm, "
    "relu, conv 128, batchnorm, relu, conv 128, batchnorm, relu, pool avg 7",
}
ARCHITECTURES = ("cnn", "mlp")  # those of a comparison, if none is asked for
ACTIVATIONS = ("relu", "sigmoid")
DEVICES = ("auto", "cpu", "cuda", "mps")
ROTATIONS = ("auto", "0", "90", "180", "270")  # degrees clockwise by which a picture is turned
PRECISIONS = ("float32", "tf32", "bfloat16")
RUNNERS = ("process", "ray")  # on this machine, or on a cluster
# What `mnist tune` searches by default: from a number to another, or one of several.
SEARCH_SPACE = {
    "learning_rate": "0.01:0.3",
    "batch_size": "32,64,128,256",
    "label_smoothing": "0:0.2",
    "warmup_fraction": "0.05:0.5",
    "decay_power": "0.5:3",
}
LR_SCALINGS = ("none", "linear", "sqrt")
SORTS = ("date", "accuracy", "seconds", "speed", "framework", "network", "batch-size", "seed")


def require_choice(what: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise `UsageError` unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise UsageError(f"Unknown {what} '{value}'. Choose from {', '.join(choices)}.")


def require_range(what: str, value: int, low: int, high: int) -> None:
    """Raise `UsageError` unless ``value`` is from ``low`` to ``high``."""
    _require(low <= value <= high, what, f"from {low} to {high}", value)


def _require(condition: bool, what: str, expected: str, value: object) -> None:
    if not condition:
        raise UsageError(f"{what} must be {expected}, not {value}.")


@dataclass(frozen=True)
class ModelSpec:
    """A network: a short name, ``arch``, for files, tables and charts, and its ``line`` of layers.

    A name in `NETWORKS` has its line from there, with ``activation`` where the line leaves it open,
    which only that of the MLP does. ``classes`` is how many the data set has, and so the units of
    the last dense layer. `networks.spec` derives everything else from these. Raises `UsageError`
    for an unknown name without a line, an activation that has no place, or too many classes.
    """

    arch: str
    activation: str = "relu"
    line: str = ""
    classes: int = 10

    def __post_init__(self) -> None:
        require_choice("activation", self.activation, ACTIVATIONS)
        require_range("classes", self.classes, MIN_CLASSES, MAX_CLASSES)
        if not self.line:
            require_choice("architecture", self.arch, tuple(NETWORKS))
            object.__setattr__(self, "line", self._known_line())
        elif not is_file_name(self.arch):
            raise UsageError(
                f"'{self.arch}' is no name for a network's files. Take small letters, digits, "
                "'.', '_' and '-', at most 32."
            )
        if self.activation != "relu" and not takes_activation(self.arch):
            raise UsageError(
                f"The activations of '{self.arch}' are in its line: it has no {self.activation} "
                "to choose. Leave --activation out, choose --arch mlp, or write the layers."
            )

    def with_classes(self, classes: int) -> ModelSpec:
        """Return the network with another number of classes."""
        is_known = self.arch in NETWORKS and self.line == self._known_line()
        return replace(self, classes=classes, line="" if is_known else self.line)

    def _known_line(self) -> str:
        return NETWORKS[self.arch].format(activation=self.activation, classes=self.classes)


def is_file_name(name: str) -> bool:
    """Return whether a network may have this name, which is part of its files' names."""
    return re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,31}", name) is not None


def takes_activation(arch: str) -> bool:
    """Return whether the line of a known network leaves its activation open."""
    return "{activation}" in NETWORKS.get(arch, "")


@dataclass(frozen=True)
class TrainConfig:
    """The complete recipe of one run: two runs with equal configs take the same steps.

    ``learning_rate`` is the peak of a one-cycle schedule that rises over the first
    ``warmup_fraction`` of all steps and falls by half a cosine to the power ``decay_power``: above
    1 it falls earlier and stays low longer. With ``label_smoothing`` e the target of an image is
    (1 - e) onehot(label) + e / classes (Szegedy et al., 2016, arXiv:1512.00567).
    ``target_accuracy`` (0-1), if given, ends training at the first check on the validation images
    that reaches it; there are ten checks per epoch. ``patience``, if given, ends training after
    that many epochs without a lower validation loss, and the weights of the best epoch are kept.
    With ``augment`` each epoch trains on newly augmented images. With ``reject`` it also trains
    on made images that show no digit, and the loss has an eleventh class for them, "no digit",
    whose logit is always 0: the network's output is unchanged in form, and `evaluation.evidence`
    becomes the log odds that an image shows a digit. With ``precision`` bfloat16 a
    framework computes in mixed precision: layers in bfloat16; weights, loss and update in float32.
    With tf32 the layers' products are computed in TF32, float32 with a mantissa of 10 bits.
    Raises `UsageError` for a number out of range.
    """

    epochs: int = 2
    batch_size: int = 64
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_fraction: float = 0.2
    decay_power: float = 1.5
    label_smoothing: float = 0.1
    seed: int = 0
    target_accuracy: float | None = None
    patience: int | None = None
    augment: bool = False
    reject: bool = False
    precision: str = "float32"

    def __post_init__(self) -> None:
        require_choice("precision", self.precision, PRECISIONS)
        _require(1 <= self.epochs <= 10_000, "epochs", "from 1 to 10000", self.epochs)
        _require(1 <= self.batch_size <= 65_536, "batch size", "from 1 to 65536", self.batch_size)
        _require(
            math.isfinite(self.learning_rate) and self.learning_rate > 0,
            "learning rate",
            "a number above 0",
            self.learning_rate,
        )
        _require(0 <= self.momentum < 1, "momentum", "from 0 to below 1", self.momentum)
        _require(0 <= self.weight_decay < 1, "weight decay", "from 0 to below 1", self.weight_decay)
        _require(0 < self.warmup_fraction < 1, "warmup fraction", "in (0, 1)", self.warmup_fraction)
        _require(0 < self.decay_power <= 10, "decay power", "above 0 to 10", self.decay_power)
        _require(
            0 <= self.label_smoothing < 1,
            "label smoothing",
            "from 0 to below 1",
            self.label_smoothing,
        )
        _require(0 <= self.seed < 2**32, "seed", "from 0 to 4294967295", self.seed)
        _require(
            self.target_accuracy is None or 0 < self.target_accuracy <= 1,
            "target accuracy",
            "above 0 and at most 1 (0.99 is 99%)",
            self.target_accuracy,
        )
        _require(
            self.patience is None or 1 <= self.patience <= 10_000,
            "patience",
            "from 1 to 10000 epochs",
            self.patience,
        )

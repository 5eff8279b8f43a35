"""The contract of a framework: two small protocols.

An adapter is found by its entry point in the group ``mnist_cli.adapters`` and may import its
framework when its module is imported: loading the entry point is the one test of whether the
framework is installed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from mnist_cli.arrays import Array, Weights
from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.errors import FrameworkError
from mnist_cli.names import framework_name
from mnist_cli.networks.spec import dropouts

# Losses are returned in chunks of this many steps: often enough for a live display, rarely enough
# that the device need not be synchronised for every loss.
STEPS_PER_CHUNK = 32


def smoothed_targets(config: TrainConfig, classes: int) -> Array:
    """Return the target probabilities of each label, float32: a row per label.

    (classes, classes), with ``config.reject`` one more; that row and column are "no digit".
    """
    targets = np.full((classes, classes), config.label_smoothing / classes, dtype=np.float32)
    targets += (1 - config.label_smoothing) * np.eye(classes, dtype=np.float32)
    if config.reject:
        targets = np.pad(targets, (0, 1))
        targets[classes, classes] = 1
    return targets


def compiled_chunks(steps: int) -> Iterator[list[slice]]:
    """Yield the steps of each chunk as slices: one slice for a whole chunk, else one for each step.

    Thus two programs are enough, and the warm-up compiles both, whatever is left over at the end of
    an epoch.
    """
    for start in range(0, steps, STEPS_PER_CHUNK):
        stop = min(start + STEPS_PER_CHUNK, steps)
        size = STEPS_PER_CHUNK if stop - start == STEPS_PER_CHUNK else 1
        yield [slice(first, first + size) for first in range(start, stop, size)]


def require_precision(framework: str, config: TrainConfig, device: str) -> None:
    """Raise `FrameworkError` for TF32 on another ``device`` than cuda."""
    if config.precision == "tf32" and device != "cuda":
        raise FrameworkError(
            f"{framework_name(framework)} computes in tf32 on a CUDA device only, not on {device}. "
            "Use --device cuda, or leave --precision out."
        )


def refuse_mps(framework: str, device: str) -> None:
    """Raise `FrameworkError` if ``device`` is mps, which PyTorch alone computes on."""
    if device == "mps":
        raise FrameworkError(
            f"{framework_name(framework)} does not compute on mps. "
            "Use --device cpu or auto, or choose torch."
        )


def dropout_masks(spec: ModelSpec, seed: int, batch_size: int) -> list[Array]:
    """Return which values each dropout keeps in one step, bool (batch_size, *shape of its inputs).

    In the order of the layers, images channels first. The probability is rounded to 1/65536,
    because whole numbers are drawn faster. What is kept is multiplied by 1 / (1 - probability).
    """
    rng = np.random.default_rng(seed)
    return [
        rng.integers(0, 65_536, (batch_size, *shape), dtype=np.uint16)
        >= round(65_536 * probability)
        for probability, shape in dropouts(spec)
    ]


class Classifier(Protocol):
    """One network in one framework, with its optimiser's state.

    Images are float32 (N, 28, 28), normalised by `recipe.normalize`; labels are int64 (N,), from
    0 to ``spec.classes`` - 1. With ``config.reject`` there is one more class, whose logit is always
    0 and whose label is not smoothed.
    Arrays of images may be kept, on the device or by worker processes, and must not be changed
    afterwards. A classifier may have an attribute ``note``: one line for the user on how it had to
    compute, empty if there is nothing to say; it is shown after the warm-up.
    """

    def train_epoch(
        self,
        images: Array,
        labels: Array,
        *,
        order: Array,
        learning_rates: Array,
        mask_seeds: Array | None = None,
    ) -> Iterator[Array]:
        """Take ``len(learning_rates)`` steps and yield their losses, float32, in chunks.

        Step i reads the images ``order[i * batch_size : (i + 1) * batch_size]`` and uses
        ``learning_rates[i]`` and the `dropout_masks` of ``mask_seeds[i]``, int64; ``order`` has
        int64 indices, a whole number of batches. Without ``mask_seeds`` all seeds are 0. The loss
        is the mean softmax cross-entropy of the batch before its update, without weight decay and
        label smoothing, so that it compares with that of other images. The update follows the
        gradient of the cross-entropy with smoothed labels; with velocity v, starting at 0
        (Nesterov's momentum in PyTorch's form):
        g = gradient + weight_decay * w (weights only, not biases); v = momentum * v + g;
        w = w - learning_rate * (g + momentum * v). A `BatchNorm` normalises by the whole batch.
        """
        ...

    def predict_logits(self, images: Array) -> Array:
        """Return logits (N, classes), float32, for any N >= 0."""
        ...

    def export_weights(self) -> Weights:
        """Return a copy of all weights, canonical names and layouts (see `networks.spec`).

        Batch norm's running statistics are among them.
        """
        ...

    def import_weights(self, weights: Weights) -> None:
        """Replace the weights by canonical ones."""
        ...

    def export_optimizer(self) -> Weights:
        """Return a copy of the velocities, named and laid out as the weights that have some."""
        ...

    def import_optimizer(self, velocities: Weights) -> None:
        """Replace the velocities."""
        ...

    def synchronize(self) -> None:
        """Wait until the device has finished; nothing to do on a CPU."""
        ...


class Adapter(Protocol):
    """A framework: builds classifiers and describes itself."""

    name: str

    def build(
        self, spec: ModelSpec, config: TrainConfig, *, device: str, threads: int
    ) -> Classifier:
        """Return a network; its weights are undefined until `Classifier.import_weights`.

        ``device`` is auto, cpu, cuda or mps. With ``config.precision`` bfloat16 or tf32 the steps
        are taken in mixed precision: `Classifier.predict_logits` stays in float32, and so do the
        weights. Raises `FrameworkError` for a device that is not there, or a precision it does not
        compute in.
        """
        ...

    def environment(self) -> dict[str, Any]:
        """Return versions, device and BLAS: JSON values only. Call it after `build`."""
        ...

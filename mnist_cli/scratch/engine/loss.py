"""Softmax cross-entropy, the loss that every framework minimises.

Arrays have a column per image, (classes, n): NumPy is faster on few long rows than on many short
ones.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from mnist_cli.arrays import Array


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Return each image's loss (n,), -log p[label] with p = softmax(logits).

    logits (classes, n), float; labels (n,), int.
    """
    values = _minus_maximum(logits)
    own = values[labels, np.arange(len(labels))]
    losses: Array = np.log(np.exp(values, out=values).sum(axis=0)) - own
    return losses


def cross_entropy_gradient(logits: Array, targets: Array, *, batch_size: int) -> Array:
    """Return the gradient (classes, n) of the batch's mean loss with respect to the logits.

    With p = softmax(z) and targets t that sum to 1, the loss -sum(t log p) of an image has the
    gradient p - t with respect to z. It is divided by ``batch_size``, so that parts of a batch sum
    to its mean. ``targets`` (classes, n) are already divided: see `scaled_targets`.
    """
    values = _minus_maximum(logits)
    np.exp(values, out=values)
    totals = np.add.reduce(values)  # a microsecond faster than `sum`
    values *= np.divide(1 / batch_size, totals, out=totals)
    values -= targets
    return values


def with_no_digit(logits: Array) -> Array:
    """Return logits (classes, n) with those of "no digit", always 0: (classes + 1, n)."""
    return np.concatenate([logits, np.zeros_like(logits[:1])])


def scaled_targets(
    labels: Array,
    *,
    classes: int,
    batch_size: int,
    label_smoothing: float,
    reject: bool,
    dtype: DTypeLike,
) -> Array:
    """Return targets (classes, n), divided by ``batch_size``, of labels (n,).

    With smoothing e (0-1) a target is (1 - e) onehot(label) + e / classes. Smoothing affects the
    gradient only; the reported loss is that of the label, so that it compares with other losses.
    With ``reject`` there is one class more, "no digit", which is not smoothed. Called for many
    batches at once, because indexing single numbers is slow.
    """
    targets = np.full((classes, len(labels)), label_smoothing / classes / batch_size, dtype)
    if reject:
        targets = with_no_digit(targets)
        targets[:, labels == classes] = 0
        targets[classes, labels == classes] = label_smoothing / batch_size
    targets[labels, np.arange(len(labels))] += (1 - label_smoothing) / batch_size
    return targets


def _minus_maximum(logits: Array) -> Array:
    """Return the logits minus the maximum of each image.

    Softmax does not change when a constant is subtracted. With a maximum of 0, exp cannot overflow
    (float32 does above exp(88)) and the sum is at least 1, so that its logarithm is finite.
    """
    largest = np.maximum.reduce(logits)  # a microsecond faster than `max`
    values: Array = np.subtract(logits, largest, order="C")
    return values

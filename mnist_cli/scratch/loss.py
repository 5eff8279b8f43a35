"""Softmax cross-entropy, the loss that every framework minimises.

There is a column for each image, (classes, n): NumPy takes few long rows in less time than many
short ones.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from mnist_cli.arrays import CLASSES, Array


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Return each image's loss (n,), -log p[label] with p = softmax(logits).

    logits (classes, n), float; labels (n,), int.
    """
    values = _less_maximum(logits)
    own = values[labels, np.arange(len(labels))]
    losses: Array = np.log(np.exp(values, out=values).sum(axis=0)) - own
    return losses


def cross_entropy_gradient(logits: Array, target_shares: Array, *, batch_size: int) -> Array:
    """Return the gradient (classes, n), in the logits, of the batch's mean loss.

    With p = softmax(z), and targets t that add up to 1, an image's loss -sum(t log p) has the
    gradient p - t in z. It is divided by ``batch_size``, so that parts of a batch add up to its
    mean; ``target_shares`` (classes, n) are t / ``batch_size`` already, as `shares_of_targets`
    makes them.
    """
    values = _less_maximum(logits)
    np.exp(values, out=values)
    totals = np.add.reduce(values)  # `sum` would take a microsecond more
    values *= np.divide(1 / batch_size, totals, out=totals)
    values -= target_shares
    return values


def shares_of_targets(
    labels: Array, *, batch_size: int, label_smoothing: float, dtype: DTypeLike
) -> Array:
    """Return the targets, divided by ``batch_size``, (classes, n), of labels (n,).

    The targets of smoothing e, a share from 0 to 1, are (1 - e) onehot(label) + e / classes. Only
    the gradient knows of smoothing; the loss stays that of the label, to be compared with that of
    other images. For the images of many batches at once: picking single numbers takes time in each
    call.
    """
    shares = np.full((CLASSES, len(labels)), label_smoothing / CLASSES / batch_size, dtype)
    shares[labels, np.arange(len(labels))] += (1 - label_smoothing) / batch_size
    return shares


def _less_maximum(logits: Array) -> Array:
    """Return the logits, less the largest of each image.

    Softmax does not change when a constant is taken off an image. With its maximum at 0 exp cannot
    overflow (float32 does above exp(88)) and the sum is at least 1, so that its logarithm exists.
    """
    largest = np.maximum.reduce(logits)  # `max` would take a microsecond more
    values: Array = np.subtract(logits, largest, order="C")
    return values

"""Softmax cross-entropy, the loss that every framework minimises.

Inside, there is a column for each image, (classes, n): NumPy takes few long rows in less time than
many short ones.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from mnist_cli.architectures import CLASSES, Array


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Return each image's loss (n,), -log p[label] with p = softmax(logits).

    logits (n, classes), float; labels (n,), int.
    """
    values = _columns(logits)
    own = values[labels, np.arange(len(labels))]
    losses: Array = np.log(np.exp(values, out=values).sum(axis=0)) - own
    return losses


def cross_entropy_gradient(logits: Array, targets: Array, *, batch_size: int) -> Array:
    """Return the gradient (n, classes), in the logits, of the batch's mean loss.

    With p = softmax(z) and an image's ``targets`` t, numbers that add up to 1, the loss
    -sum(t log p) has the gradient p - t in z. It is divided by ``batch_size``, so that shares of a
    batch add up to the mean over the whole.
    """
    values = _columns(logits)
    np.exp(values, out=values)
    values /= values.sum(axis=0)
    values -= targets.T
    values /= batch_size
    gradient: Array = values.T
    return gradient


def smoothed_targets(labels: Array, *, label_smoothing: float, dtype: DTypeLike) -> Array:
    """Return targets (n, classes) of labels (n,): (1 - e) onehot(label) + e / classes.

    ``label_smoothing`` e is a share, 0 to 1. Only the gradient knows of it: the loss stays that of
    the label, to be compared with that of other images.
    """
    columns = np.full((CLASSES, len(labels)), label_smoothing / CLASSES, dtype)
    columns[labels, np.arange(len(labels))] += 1 - label_smoothing
    targets: Array = columns.T
    return targets


def _columns(logits: Array) -> Array:
    """Return the logits (classes, n), less the largest of each image.

    Softmax does not change when a constant is taken off an image. With its maximum at 0 exp cannot
    overflow (float32 does above exp(88)) and the sum is at least 1, so that its logarithm exists.
    """
    values: Array = logits.T.copy()
    values -= values.max(axis=0)
    return values

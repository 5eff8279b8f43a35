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


def cross_entropy_gradient(
    logits: Array, label_shares: Array, *, batch_size: int, label_smoothing: float
) -> Array:
    """Return the gradient (n, classes), in the logits, of the batch's mean loss.

    With p = softmax(z), and targets t that add up to 1, an image's loss -sum(t log p) has the
    gradient p - t in z. The targets of smoothing e, a share from 0 to 1, are
    (1 - e) onehot(label) + e / classes: the first is given, as `shares_of_labels` made it. Only the
    gradient knows of smoothing; the loss stays that of the label, to be compared with that of
    other images. It is divided by ``batch_size``, so that parts of a batch add up to its mean.
    """
    values = _columns(logits)
    np.exp(values, out=values)
    values /= np.add.reduce(values) * batch_size  # `sum` would take a microsecond more
    values -= label_smoothing / len(values) / batch_size
    values -= label_shares.T
    gradient: Array = values.T
    return gradient


def shares_of_labels(
    labels: Array, *, batch_size: int, label_smoothing: float, dtype: DTypeLike
) -> Array:
    """Return (1 - e) onehot(label) / ``batch_size``, (n, classes), of labels (n,).

    For the images of many batches at once: picking single numbers takes time in each call.
    """
    columns = np.zeros((CLASSES, len(labels)), dtype)
    columns[labels, np.arange(len(labels))] = (1 - label_smoothing) / batch_size
    shares: Array = columns.T
    return shares


def _columns(logits: Array) -> Array:
    """Return the logits (classes, n), less the largest of each image.

    Softmax does not change when a constant is taken off an image. With its maximum at 0 exp cannot
    overflow (float32 does above exp(88)) and the sum is at least 1, so that its logarithm exists.
    """
    values: Array = logits.T.copy()
    values -= np.maximum.reduce(values)  # `max` would take a microsecond more
    return values

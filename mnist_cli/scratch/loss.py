"""Softmax cross-entropy, the loss that every framework minimises."""

from __future__ import annotations

import numpy as np

from mnist_cli.architectures import Array


def softmax_cross_entropy(
    logits: Array, labels: Array, *, batch_size: int, label_smoothing: float = 0.0
) -> tuple[float, Array]:
    """Return this share's part of the batch's mean loss, and its gradient (n, classes).

    With p = softmax(z) the loss of an image is -log p[label], and its gradient in z is
    p - onehot(label). Both are divided by ``batch_size``, so that shares of a batch add up to
    the mean over the whole. logits (n, classes), float; labels (n,), int.

    ``label_smoothing`` e changes the gradient, to that of the loss for smoothed labels,
    (1 - e) onehot(label) + e / classes; the loss returned stays as it is, to be compared with
    that of other images.
    """
    # A column for each image, (classes, n): NumPy takes few long rows in less time than many short.
    values = logits.T.copy()
    columns = np.arange(len(labels))
    # Softmax does not change when a constant is taken off an image. With its maximum at 0 exp
    # cannot overflow (float32 does above exp(88)) and the sum is at least 1, so that its logarithm
    # exists.
    values -= values.max(axis=0)
    own = values[labels, columns]
    np.exp(values, out=values)
    sums = values.sum(axis=0)
    loss = float((np.log(sums) - own).sum()) / batch_size
    values /= sums * batch_size
    values -= label_smoothing / len(values) / batch_size
    values[labels, columns] -= (1 - label_smoothing) / batch_size
    return loss, values.T

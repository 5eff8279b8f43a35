"""Metrics of logits: loss and accuracy of each epoch, and the report of `mnist evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mnist_cli.arrays import Array
from mnist_cli.names import DIGITS

if TYPE_CHECKING:
    from mnist_cli.reporting.notebook import Chart


@dataclass(frozen=True)
class Evaluation:
    """A model's report on a test set; rows of ``confusion_matrix`` are the true classes.

    ``class_names`` names the classes, in the order of their labels: ``digit`` in ``per_class``.
    ``predictions`` (N,) are the most probable classes and ``confidences`` (N,), 0-1, their
    probabilities, in the order of the test set; `to_json` leaves them out.
    """

    framework: str
    checkpoint: str
    dataset: str
    images: int
    accuracy: float
    loss: float
    confusion_matrix: list[list[int]]
    per_class: list[dict[str, Any]]
    class_names: list[str]
    predictions: list[int] = field(repr=False)
    confidences: list[float] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values, without the figures of single images."""
        values = asdict(self)
        del values["predictions"], values["confidences"]
        return values

    def plot(self) -> Chart:
        """Draw the confusion matrix."""
        from mnist_cli.reporting.notebook import evaluation_chart  # needed only to show it

        return evaluation_chart(self)

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        return self.plot()._repr_png_()


def cross_entropy(logits: Array, labels: Array) -> float:
    """Return the mean softmax cross-entropy: log(sum(exp(logits))) - logits[label].

    logits: (N, classes) float32; labels: (N,) integers.
    """
    return float(np.mean(evidence(logits) - logits[np.arange(len(labels)), labels]))


def evidence(logits: Array) -> Array:
    """Return log(sum(exp(logits))) (N,), float64, of logits (N, classes).

    It is the evidence for any class.

    A softmax only compares the classes with one another; this measures how much an image resembles
    any of them (the negative free energy of Liu et al., 2020, arXiv:2010.03759).
    """
    # logaddexp keeps the exponentials in range: exp overflows float32 above 88.
    return np.asarray(np.logaddexp.reduce(logits.astype(np.float64), axis=1))


def accuracy(logits: Array, labels: Array) -> float:
    """Return the accuracy, 0-1, of logits (N, classes) against labels (N,)."""
    return float(np.mean(logits.argmax(axis=1) == labels))


def errors(logits: Array, labels: Array) -> tuple[tuple[int, int], ...]:
    """Return (index, prediction) of each misclassified image; logits (N, classes)."""
    predictions = logits.argmax(axis=1)
    wrong = np.flatnonzero(predictions != labels)
    return tuple(zip(wrong.tolist(), predictions[wrong].tolist(), strict=True))


def confusion_matrix(labels: Array, errors: Sequence[tuple[int, int]], *, classes: int) -> Array:
    """Return the matrix (classes, classes) of what `errors` returned; rows are ``labels`` (N,)."""
    predictions = labels.copy()
    for index, predicted in errors:
        predictions[index] = predicted
    matrix = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(matrix, (labels, predictions), 1)
    return matrix


def probabilities(logits: Array) -> Array:
    """Return softmax(logits) (N, classes), float64; rows sum to 1."""
    # Subtract the row maximum: exp overflows float32 above 88.
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def report(
    logits: Array,
    labels: Array,
    *,
    class_names: Sequence[str] = DIGITS,
    framework: str,
    checkpoint: str,
    dataset: str,
) -> Evaluation:
    """Return the full report of logits (N, classes) against labels (N,), by scikit-learn."""
    from sklearn import metrics

    classes = list(range(len(class_names)))
    predictions = logits.argmax(axis=1)
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        labels, predictions, labels=classes, zero_division=0
    )
    return Evaluation(
        framework=framework,
        checkpoint=checkpoint,
        dataset=dataset,
        images=len(labels),
        accuracy=accuracy(logits, labels),
        loss=cross_entropy(logits, labels),
        confusion_matrix=metrics.confusion_matrix(labels, predictions, labels=classes).tolist(),
        per_class=[
            {
                "digit": label,
                "name": name,
                "precision": float(precision[label]),
                "recall": float(recall[label]),
                "f1": float(f1[label]),
                "support": int(support[label]),
            }
            for label, name in enumerate(class_names)
        ],
        class_names=list(class_names),
        predictions=predictions.tolist(),
        confidences=probabilities(logits).max(axis=1).tolist(),
    )

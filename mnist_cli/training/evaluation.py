"""Metrics of logits: loss and accuracy of each epoch, and the report of `mnist evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mnist_cli.arrays import CLASSES, Array

if TYPE_CHECKING:
    from mnist_cli.reporting.notebook import Chart


@dataclass(frozen=True)
class Evaluation:
    """A model's report on a test set; rows of ``confusion_matrix`` are the true digits.

    ``predictions`` (N,) are the most probable digits and ``confidences`` (N,), 0-1, their
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

    logits: (N, 10) float32; labels: (N,) integers.
    """
    return float(np.mean(evidence(logits) - logits[np.arange(len(labels)), labels]))


def evidence(logits: Array) -> Array:
    """Return log(sum(exp(logits))) (N,), float64, of logits (N, 10): evidence for any digit.

    A softmax only compares the digits with one another; this measures how much an image resembles
    any of them (the negative free energy of Liu et al., 2020, arXiv:2010.03759).
    """
    # logaddexp keeps the exponentials in range: exp overflows float32 above 88.
    return np.asarray(np.logaddexp.reduce(logits.astype(np.float64), axis=1))


def accuracy(logits: Array, labels: Array) -> float:
    """Return the accuracy, 0-1, of logits (N, 10) against labels (N,)."""
    return float(np.mean(logits.argmax(axis=1) == labels))


def errors(logits: Array, labels: Array) -> tuple[tuple[int, int], ...]:
    """Return (index, prediction) of each misclassified image; logits (N, 10), labels (N,)."""
    predictions = logits.argmax(axis=1)
    wrong = np.flatnonzero(predictions != labels)
    return tuple(zip(wrong.tolist(), predictions[wrong].tolist(), strict=True))


def confusion_matrix(labels: Array, errors: Sequence[tuple[int, int]]) -> Array:
    """Return the confusion matrix (10, 10) of what `errors` returned; rows are ``labels`` (N,)."""
    predictions = labels.copy()
    for index, predicted in errors:
        predictions[index] = predicted
    matrix = np.zeros((CLASSES, CLASSES), dtype=np.int64)
    np.add.at(matrix, (labels, predictions), 1)
    return matrix


def probabilities(logits: Array) -> Array:
    """Return softmax(logits) (N, 10), float64; rows sum to 1."""
    # Subtract the row maximum: exp overflows float32 above 88.
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def report(
    logits: Array, labels: Array, *, framework: str, checkpoint: str, dataset: str
) -> Evaluation:
    """Return the full report of logits (N, 10) against labels (N,), with scikit-learn's metrics."""
    from sklearn import metrics

    digits = list(range(CLASSES))
    predictions = logits.argmax(axis=1)
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        labels, predictions, labels=digits, zero_division=0
    )
    return Evaluation(
        framework=framework,
        checkpoint=checkpoint,
        dataset=dataset,
        images=len(labels),
        accuracy=accuracy(logits, labels),
        loss=cross_entropy(logits, labels),
        confusion_matrix=metrics.confusion_matrix(labels, predictions, labels=digits).tolist(),
        per_class=[
            {
                "digit": digit,
                "precision": float(precision[digit]),
                "recall": float(recall[digit]),
                "f1": float(f1[digit]),
                "support": int(support[digit]),
            }
            for digit in digits
        ],
        predictions=predictions.tolist(),
        confidences=probabilities(logits).max(axis=1).tolist(),
    )

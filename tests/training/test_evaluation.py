"""Metrics: against SciPy and scikit-learn, and on cases worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special
from sklearn import metrics

from mnist_cli.training import evaluation


def _logits(*rows: dict[int, float]) -> np.ndarray:
    logits = np.zeros((len(rows), 10), np.float32)
    for row, values in enumerate(rows):
        for digit, value in values.items():
            logits[row, digit] = value
    return logits


@pytest.fixture
def answers() -> tuple[np.ndarray, np.ndarray]:
    """Logits of 200 images, about half right, none of them labelled 9 or taken for an 8."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 9, 200)
    logits = rng.normal(0, 1, (200, 10)).astype(np.float32)
    logits[np.arange(200), labels] += 1.5
    logits[:, 8] = -5
    return logits, labels


def test_cross_entropy_is_the_mean_negative_log_likelihood(
    answers: tuple[np.ndarray, np.ndarray],
) -> None:
    logits, labels = answers
    log_likelihood = special.log_softmax(logits.astype(np.float64), axis=1)[np.arange(200), labels]
    # The label's logit is subtracted as float64 of a float32: rounding only.
    assert evaluation.cross_entropy(logits, labels) == pytest.approx(-log_likelihood.mean())
    # Ten equal logits: each digit has probability 1/10.
    assert evaluation.cross_entropy(_logits({}), np.array([3])) == pytest.approx(math.log(10))


def test_huge_logits_overflow_nothing() -> None:
    logits, labels = _logits({2: 1000.0}, {3: -1000.0}), np.array([2, 3])
    # Right without doubt: 0. Wrong by 1000 and nine others alike: 1000 + log 9; the mean of both.
    expected = (1000 + math.log(9)) / 2
    assert evaluation.cross_entropy(logits, labels) == pytest.approx(expected)
    probabilities = evaluation.probabilities(logits)
    assert probabilities[0].tolist() == [0, 0, 1, *[0] * 7]
    np.testing.assert_allclose(probabilities[1], [1 / 9] * 3 + [0] + [1 / 9] * 6)


def test_probabilities_are_the_softmax_of_each_row(answers: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities = evaluation.probabilities(answers[0])
    assert probabilities.dtype == np.float64
    np.testing.assert_allclose(probabilities, special.softmax(answers[0].astype(float), axis=1))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_evidence_grows_with_any_logit() -> None:
    logits = _logits({}, {4: 10.0}, {4: 10.0, 7: 10.0})
    expected = [math.log(10), math.log(math.exp(10) + 9), math.log(2 * math.exp(10) + 8)]
    np.testing.assert_allclose(evaluation.evidence(logits), expected)


def test_errors_are_the_images_that_count_against_the_accuracy() -> None:
    logits = _logits({1: 1.0}, {5: 1.0}, {2: 1.0}, {9: 1.0})
    labels = np.array([1, 3, 2, 0])
    assert evaluation.errors(logits, labels) == ((1, 5), (3, 9))
    assert evaluation.accuracy(logits, labels) == 0.5


@pytest.mark.filterwarnings("error")
def test_a_report_has_the_metrics_of_scikit_learn(answers: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = answers
    report = evaluation.report(logits, labels, framework="f", checkpoint="c", dataset="d")
    predictions = logits.argmax(axis=1)
    assert (report.framework, report.checkpoint, report.dataset) == ("f", "c", "d")
    assert report.images == 200
    assert report.accuracy == (predictions == labels).mean()
    assert report.loss == evaluation.cross_entropy(logits, labels)
    assert report.predictions == predictions.tolist()
    np.testing.assert_allclose(
        report.confidences, special.softmax(logits.astype(float), axis=1).max(axis=1)
    )
    # All ten digits are there, with 0 for those that never occur, and without a warning.
    assert [row["digit"] for row in report.per_class] == list(range(10))
    assert np.array(report.confusion_matrix).shape == (10, 10)
    assert report.per_class[9]["support"] == report.per_class[9]["recall"] == 0
    assert report.per_class[8]["precision"] == 0
    for row in report.per_class:
        is_label, is_answer = labels == row["digit"], predictions == row["digit"]
        assert row["f1"] == metrics.f1_score(is_label, is_answer, zero_division=0)
        assert row["precision"] == metrics.precision_score(is_label, is_answer, zero_division=0)
        assert row["recall"] == metrics.recall_score(is_label, is_answer, zero_division=0)
        assert row["support"] == is_label.sum()


def test_rows_of_the_confusion_matrix_are_the_true_digits() -> None:
    logits = _logits({7: 1.0}, {7: 1.0}, {1: 1.0})
    labels = np.array([1, 1, 1])
    report = evaluation.report(logits, labels, framework="f", checkpoint="c", dataset="d")
    assert report.confusion_matrix[1] == [0, 1, 0, 0, 0, 0, 0, 2, 0, 0]
    assert sum(map(sum, report.confusion_matrix)) == 3


def test_the_json_of_a_report_leaves_single_images_out() -> None:
    logits = _logits({7: 1.0})
    report = evaluation.report(logits, np.array([7]), framework="f", checkpoint="c", dataset="d")
    values = report.to_json()
    assert not {"predictions", "confidences"} & values.keys()
    assert values["accuracy"] == 1.0
    assert values["per_class"][7]["support"] == 1
    assert "predictions" not in repr(report)  # a notebook would show 10,000 of them
    assert "confidences" not in repr(report)

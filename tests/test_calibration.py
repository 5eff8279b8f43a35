"""When an answer is sure, worked out for each model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Outcome

from mnist_cli import checkpoint, evaluation
from mnist_cli.architectures import Array
from mnist_cli.calibration import calibrate, draw
from mnist_cli.data.dataset import load_dataset
from mnist_cli.prediction import CALIBRATION, Prediction, Reader


def _answers(count: int = 4000) -> tuple[Array, Array]:
    """Return logits (N, 10) that put true probabilities on ten digits, and labels drawn so."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 8, (count, 10)).astype(np.float32)
    shares = evaluation.probabilities(logits).cumsum(axis=1)
    return logits, (shares < rng.random((count, 1))).sum(axis=1).clip(max=9)


def test_true_probabilities_are_left_alone_and_loud_ones_turned_down() -> None:
    logits, labels = _answers()
    quiet, loud = calibrate(logits, labels), calibrate(2 * logits, labels)
    assert quiet is not None
    assert loud is not None
    assert quiet.temperature == pytest.approx(1, abs=0.08)  # two steps of 3.5% beside it
    assert loud.temperature == pytest.approx(2 * quiet.temperature)  # 20 steps on
    assert loud.sure_probability == pytest.approx(quiet.sure_probability, abs=1e-5)  # float32


def test_the_limits_keep_what_they_promise() -> None:
    logits, labels = _answers()
    limits = calibrate(logits, labels)
    assert limits is not None
    probabilities = evaluation.probabilities(logits / limits.temperature)
    sure = probabilities.max(axis=1) >= limits.sure_probability
    wrong = probabilities.argmax(axis=1) != labels
    assert 0.2 < sure.mean() < 0.9  # neither none nor all
    assert wrong.mean() > 0.1
    assert wrong[sure].mean() <= 1 / 200
    like = evaluation.evidence(logits) >= limits.sure_evidence
    assert like.mean() == pytest.approx(0.97, abs=0.001)


def test_a_model_that_knows_nothing_is_never_sure() -> None:
    logits, _ = _answers()
    limits = calibrate(logits, (logits.argmax(axis=1) + 1) % 10)
    assert limits is not None
    assert limits.sure_probability > 1


def test_a_few_digits_tell_no_limits() -> None:
    logits, labels = _answers(99)
    assert calibrate(logits, labels) is None


def test_digits_are_drawn_by_seed_and_blank_ones_left_out() -> None:
    data = load_dataset()
    images = np.concatenate([np.zeros((1, 28, 28), np.uint8), data.test_images[:9]])
    labels = np.concatenate([[3], data.test_labels[:9]])
    once, again, other = (draw(images, labels, np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(once[0], again[0])
    assert (once[0] != other[0]).any()
    assert once[1].tolist() == data.test_labels[:9].tolist()


def test_a_trained_model_is_sure_of_most_test_digits_and_then_right(
    mnist: Callable[..., Outcome], tmp_path: Path
) -> None:
    options = ["--framework", "numpy", "--arch", "mlp", "--results-dir", tmp_path, "--json"]
    record = mnist("train", *options).document
    assert record["label_smoothing"] > 0  # which keeps its probabilities down
    reader = Reader(Path(record["checkpoint"]))
    data = load_dataset()
    answers = list(reader.read(list(data.test_images[:1000]), single=True))
    sure = [
        answer.text == str(label)
        for answer, label in zip(answers, data.test_labels[:1000], strict=True)
        if isinstance(answer, Prediction) and answer.sure
    ]
    assert len(sure) >= 0.7 * 1000
    assert np.mean(sure) >= 0.985  # 0.995 is asked of the validation digits; n is some 800


def test_a_model_without_limits_has_those_of_the_package() -> None:
    own = checkpoint.load(Path(checkpoint.__file__).parent / "pretrained" / "cnn.safetensors")
    assert own.calibration is None
    assert Reader().calibration == CALIBRATION

"""Calibration: temperature and limits of each model, and the predictions that are sure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnist_cli.arrays import Array
from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.data.registry import load_dataset
from mnist_cli.prediction import DEFAULT_CALIBRATION, Model, Prediction
from mnist_cli.runners import process
from mnist_cli.runners.base import TrainJob
from mnist_cli.training import checkpoint, evaluation, loop
from mnist_cli.training.calibration import calibrate, judge, simulate_handwriting


def _answers(count: int = 4000) -> tuple[Array, Array]:
    """Return logits (N, 10) with true probabilities, and labels (N,) drawn from them."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 8, (count, 10)).astype(np.float32)
    shares = evaluation.probabilities(logits).cumsum(axis=1)
    return logits, (shares < rng.random((count, 1))).sum(axis=1).clip(max=9)


def test_overconfident_logits_get_a_higher_temperature_than_calibrated_ones() -> None:
    logits, labels = _answers()
    true, overconfident = calibrate(logits, labels), calibrate(2 * logits, labels)
    assert true.temperature == pytest.approx(1, abs=0.08)  # two of the steps of 3.5%
    assert overconfident.temperature == pytest.approx(2 * true.temperature)  # 20 steps
    # The same up to the rounding of float32.
    assert overconfident.sure_probability == pytest.approx(true.sure_probability, abs=1e-5)


def test_limits_bound_the_wrong_and_the_rejected_predictions() -> None:
    logits, labels = _answers()
    limits = calibrate(logits, labels)
    wrong = logits.argmax(axis=1) != labels
    _, clear = judge(logits, replace(limits, sure_evidence=-1e9))
    assert 0.2 < clear.mean() < 0.9  # neither none nor all
    assert wrong.mean() > 0.1
    assert wrong[clear].mean() <= 1 / 200
    _, like_digits = judge(logits, replace(limits, sure_probability=0))
    assert like_digits.mean() == pytest.approx(0.97, abs=0.001)
    _, sure = judge(logits, limits)
    np.testing.assert_array_equal(sure, clear & like_digits)


@pytest.mark.parametrize("right_first", [False, True])
def test_a_model_with_constant_output_is_never_sure(right_first: bool) -> None:
    # One prediction for all images: one in ten is right, and all have the same probability.
    logits = np.tile(np.float32([0, 0, 0, 1, 0, 0, 0, 0, 0, 0]), (1000, 1))
    labels = (np.arange(1000) + (3 if right_first else 4)) % 10
    _, sure = judge(logits, calibrate(logits, labels))
    assert not sure.any()


def test_simulated_handwriting_depends_on_the_seed_and_leaves_blank_images_out() -> None:
    data = load_dataset()
    images = np.concatenate([np.zeros((1, 28, 28), np.uint8), data.test_images[:9]])
    labels = np.concatenate([[3], data.test_labels[:9]])
    once, again, other = (
        simulate_handwriting(images, labels, np.random.default_rng(s)) for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(once[0], again[0])
    assert (once[0] != other[0]).any()
    assert once[1].tolist() == data.test_labels[:9].tolist()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainJob:
    """A small network of the default recipe, trained on MNIST."""
    path = tmp_path_factory.mktemp("models") / "mlp.safetensors"
    job = TrainJob("numpy", ModelSpec("mlp"), TrainConfig(), threads=1, checkpoint=str(path))
    process.run(job, lambda _: None)
    return job


def test_a_trained_model_is_sure_of_most_test_digits_and_then_right(
    trained: TrainJob,
) -> None:
    assert trained.config.label_smoothing > 0  # it lowers probabilities
    reader = Model(_path(trained))
    data = load_dataset()
    answers = list(reader.read(list(data.test_images[:1000]), single=True))
    sure = [
        answer.text == str(label)
        for answer, label in zip(answers, data.test_labels[:1000], strict=True)
        if isinstance(answer, Prediction) and answer.sure
    ]
    assert len(sure) >= 0.7 * 1000
    assert np.mean(sure) >= 0.985  # 0.995 is the limit on validation digits; n is about 800


def test_a_finished_model_without_calibration_has_the_default_until_it_is_resumed(
    trained: TrainJob, tmp_path: Path
) -> None:
    model = checkpoint.load(_path(trained))
    old = tmp_path / "old.safetensors"
    checkpoint.save(old, replace(model, calibration=None))
    assert Model(old).calibration == DEFAULT_CALIBRATION
    process.run(replace(trained, checkpoint=str(old), resume=True), lambda _: None)
    assert Model(old).calibration == model.calibration != DEFAULT_CALIBRATION


def test_a_training_interrupted_while_calibrating_keeps_its_model(tmp_path: Path) -> None:
    def stop(event: dict[str, Any]) -> None:
        if event.get("name") == "calibrating":
            raise KeyboardInterrupt

    path = tmp_path / "mlp.safetensors"
    config = TrainConfig(epochs=1, batch_size=500)
    job = TrainJob("numpy", ModelSpec("mlp"), config, threads=1, checkpoint=str(path))
    with pytest.raises(KeyboardInterrupt):
        process.run(job, stop)
    assert loop.is_finished(checkpoint.load(path))


def _path(job: TrainJob) -> Path:
    assert job.checkpoint is not None
    return Path(job.checkpoint)

"""Early stopping: when it stops, and whose weights it keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnist_cli.arrays import CLASSES, Array, Weights
from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.errors import UsageError
from mnist_cli.networks.spec import parameter_shapes
from mnist_cli.training import checkpoint, loop
from mnist_cli.training.checkpoint import Checkpoint
from mnist_cli.training.loop import Images, TrainingData

SPEC = ModelSpec("mlp")


class ScriptedClassifier:
    """A classifier whose validation loss after epoch n is ``losses[n - 1]``; weights count epochs.

    The loss of a logit z for the label and 0 for the nine others is log(exp(z) + 9) - z.
    """

    def __init__(self, losses: list[float]) -> None:
        self.losses = losses
        self.epoch = 0
        self.warmed_up = False

    def train_epoch(
        self,
        images: Array,
        labels: Array,
        *,
        order: Array,
        learning_rates: Array,
        mask_seeds: Array | None = None,
    ) -> Iterator[Array]:
        if self.warmed_up:
            self.epoch += 1
        self.warmed_up = True
        yield np.ones(len(learning_rates), np.float32)

    def predict_logits(self, images: Array) -> Array:
        logits = np.zeros((len(images), CLASSES), np.float32)
        loss = self.losses[max(self.epoch, 1) - 1]
        logits[:, 0] = np.log(9 / np.expm1(loss))
        return logits

    def export_weights(self) -> Weights:
        return {
            name: np.full(shape, self.epoch, np.float32)
            for name, shape in parameter_shapes(SPEC).items()
        }

    def import_weights(self, weights: Weights) -> None:
        self.epoch = int(weights["fc1.bias"][0])

    def export_optimizer(self) -> Weights:
        return self.export_weights()

    def import_optimizer(self, velocities: Weights) -> None:
        pass

    def synchronize(self) -> None:
        pass


@pytest.fixture
def fit(tmp_path: Path) -> Callable[..., Any]:
    """Train on a script of validation losses; return the result and the saved model."""
    images = Images(np.zeros((40, 28, 28), np.float32), np.zeros(40, np.int64))
    pixels = np.zeros((40, 28, 28), np.uint8)
    data = TrainingData(pixels, pixels, images, images, images)
    path = tmp_path / "model.safetensors"

    def fit(losses: list[float], **config: Any) -> tuple[loop.Fit, Checkpoint]:
        classifier = ScriptedClassifier(losses)
        start = Checkpoint(
            spec=SPEC,
            config=TrainConfig(batch_size=20, **config),
            framework="numpy",
            dataset="mnist",
            dataset_sha256="0",
            train_images=40,
            history=(),
            weights=classifier.export_weights(),
        )
        if path.exists():
            start = loop.resumable(path, start)
        result = loop.fit(classifier, data, start, path=path, emit=lambda event: None)
        return result, checkpoint.load(path)

    return fit


def test_it_stops_after_so_many_epochs_without_a_lower_loss_and_keeps_the_best(
    fit: Callable[..., Any],
) -> None:
    result, model = fit([0.5, 0.3, 0.4, 0.35, 0.2, 0.1], epochs=6, patience=2)
    assert len(result.history) == 4
    assert result.model_epoch == 2
    assert model.weights["fc1.bias"][0] == 2
    assert model.model_epoch.epoch == 2
    assert model.velocities == {}
    assert model.best_weights == {}


def test_a_lower_loss_starts_the_count_anew(fit: Callable[..., Any]) -> None:
    result, model = fit([0.5, 0.6, 0.4, 0.6, 0.3, 0.6], epochs=6, patience=2)
    assert len(result.history) == 6
    assert model.weights["fc1.bias"][0] == 5


def test_test_logits_are_those_of_the_kept_epoch(fit: Callable[..., Any]) -> None:
    result, _ = fit([0.5, 0.3, 0.4, 0.4], epochs=4, patience=2)
    # Epoch 2's loss on the test set, which the script makes equal to that on the validation set.
    loss = np.log(np.exp(result.test_logits).sum(axis=1)) - result.test_logits[:, 0]
    assert loss == pytest.approx(0.3, abs=1e-5)  # float32


def test_without_patience_the_last_epoch_is_kept(fit: Callable[..., Any]) -> None:
    result, model = fit([0.3, 0.5, 0.6], epochs=3)
    assert result.model_epoch == 3
    assert model.weights["fc1.bias"][0] == 3


def test_resuming_remembers_the_best_epoch(
    fit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = [0.5, 0.2, 0.3, 0.4, 0.1]
    saved = checkpoint.save
    saves = 0

    def killed(path: Path, state: Checkpoint) -> None:
        nonlocal saves
        saved(path, state)
        saves += 1
        if saves == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(losses, epochs=5, patience=2)
    monkeypatch.setattr(checkpoint, "save", saved)
    result, model = fit(losses, epochs=5, patience=2)
    assert len(result.history) == 4
    assert model.weights["fc1.bias"][0] == 2


def test_resuming_a_finished_training_keeps_its_best_epoch(fit: Callable[..., Any]) -> None:
    losses = [0.5, 0.2, 0.3, 0.4]
    first, _ = fit(losses, epochs=5, patience=2)
    again, model = fit(losses, epochs=5, patience=2)
    assert again.history == first.history
    assert again.model_epoch == 2
    np.testing.assert_array_equal(again.test_logits, first.test_logits)
    assert model.weights["fc1.bias"][0] == 2


@pytest.mark.parametrize("patience", [0, -1, 10_001])
def test_patience_out_of_range_is_a_usage_error(patience: int) -> None:
    with pytest.raises(UsageError, match="patience must be from 1 to 10000 epochs"):
        TrainConfig(patience=patience)

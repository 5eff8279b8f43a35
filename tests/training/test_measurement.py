"""What the clock counts, and what training, warm-up and choices see: docs/fairness.md, in tests.

The device has a clock of its own (`virtual_device`), so seconds can be compared exactly.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from virtual_device import (
    PREDICT_SECONDS,
    STEP_SECONDS,
    TEST,
    TRAIN,
    TRANSFER_SECONDS,
    VALIDATION,
    Clock,
    VirtualClassifier,
    make_data,
    make_start,
)

from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.errors import CheckpointError, DivergedError, UsageError
from mnist_cli.training import augmentation, checkpoint, loop, recipe
from mnist_cli.training.loop import Fit, TrainingData


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that the loop reads."""
    clock = Clock()
    monkeypatch.setattr(loop, "time", clock)
    return clock


def _fit(
    clock: Clock,
    config: TrainConfig,
    data: TrainingData,
    *,
    path: Path | None = None,
    **script: Any,
) -> tuple[Fit, VirtualClassifier, list[dict[str, Any]]]:
    classifier = VirtualClassifier(config, clock, **script)
    events: list[dict[str, Any]] = []
    start = make_start(config, data)
    fit = loop.fit(classifier, data, start, path=path, emit=events.append)
    return fit, classifier, events


# --- The clock ---------------------------------------------------------------------------------


def test_training_seconds_are_those_of_the_steps_alone(clock: Clock) -> None:
    fit, _, _ = _fit(clock, TrainConfig(epochs=2, batch_size=2), make_data(81))
    # 40 steps an epoch; warm-up, evaluation and transfers of weights pass on the same clock.
    assert [row.train_seconds for row in fit.history] == [40 * STEP_SECONDS, 80 * STEP_SECONDS]
    assert [row.images_per_second for row in fit.history] == [2 / STEP_SECONDS] * 2


def test_evaluation_and_warm_up_are_measured_apart(clock: Clock) -> None:
    began = clock.now
    fit, _, _ = _fit(clock, TrainConfig(epochs=2, batch_size=2), make_data(80))
    assert fit.evaluate_seconds == 2 * 2 * PREDICT_SECONDS  # validation and test, each epoch
    # A chunk of 32 steps and a short one, one prediction, the weights twice, the velocities once.
    assert fit.warmup_seconds == 33 * STEP_SECONDS + PREDICT_SECONDS + 3 * TRANSFER_SECONDS
    # Every second of the device is in one of the figures, but for the weights and velocities that
    # are exported between the epochs.
    counted = fit.warmup_seconds + fit.history[-1].train_seconds + fit.evaluate_seconds
    assert clock.now - began == counted + 2 * TRANSFER_SECONDS


def test_how_a_classifier_had_to_compute_is_said_once_after_the_warm_up(clock: Clock) -> None:
    config, data = TrainConfig(epochs=2, batch_size=2), make_data(80)
    assert [event["event"] for event in _fit(clock, config, data)[2]].count("note") == 0
    _, _, events = _fit(clock, config, data, note="One step at a time.")
    assert events[0] == {"event": "note", "text": "One step at a time."}
    assert [event["event"] for event in events].count("note") == 1


def test_checks_of_a_target_are_evaluation_and_not_training(clock: Clock) -> None:
    config = TrainConfig(epochs=1, batch_size=1, target_accuracy=1.0)
    fit, classifier, _ = _fit(clock, config, make_data(320))
    assert fit.history[-1].train_seconds == 320 * STEP_SECONDS
    assert fit.history[-1].images_per_second == 1 / STEP_SECONDS
    # After each tenth of the epoch but the last, which the evaluation of the epoch follows.
    assert classifier.predicted[1:-1] == [(VALIDATION, 40)] * 10
    assert fit.evaluate_seconds == (9 + 2) * PREDICT_SECONDS


def test_distorting_images_is_outside_the_clock_and_new_in_each_epoch(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []

    def augment(
        pixels: np.ndarray, rng: np.random.Generator, *, digits: np.ndarray | None
    ) -> np.ndarray:
        clock.now += 50
        drawn.append(int(rng.integers(2**32)))
        return pixels + np.uint8(len(drawn))

    monkeypatch.setattr(augmentation, "augment", augment)
    data, config = make_data(80), TrainConfig(epochs=2, batch_size=2, augment=True)
    fit, classifier, _ = _fit(clock, config, data)
    assert fit.history[-1].train_seconds == 80 * STEP_SECONDS
    for number, epoch in enumerate(classifier.epochs[1:], start=1):
        expected = recipe.normalize(data.train_pixels + np.uint8(number))
        np.testing.assert_array_equal(epoch.images, expected)
    # Validation and test images are never distorted.
    assert {part for part, _ in classifier.predicted} == {VALIDATION, TEST}
    # The distortions are those of the seed and the epoch, in any framework.
    _fit(clock, config, data)
    _fit(clock, replace(config, seed=1), data)
    assert drawn[:2] == drawn[2:4]
    assert len(set(drawn)) == 4


def test_progress_tells_step_loss_and_speed(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    class Synchronous(VirtualClassifier):
        def train_epoch(self, *given: Any, **named: Any) -> Any:
            for chunk in super().train_epoch(*given, **named):
                self.synchronize()
                yield chunk

    # Checks of a target count neither as time that has passed nor as time that was needed.
    config, data = TrainConfig(epochs=2, batch_size=2, target_accuracy=1.0), make_data(256)
    events: list[dict[str, Any]] = []
    # Chunks of 32 steps take 0.064 s: every second one is reported.
    monkeypatch.setattr("virtual_device.STEP_SECONDS", 0.002)
    start = make_start(config, data)
    loop.fit(Synchronous(config, clock), data, start, path=None, emit=events.append)
    steps = [event for event in events if event["event"] == "step"]
    assert [(event["epoch"], event["step"]) for event in steps] == [
        (1, 64),
        (1, 128),
        (2, 192),
        (2, 256),
    ]
    assert {event["total_steps"] for event in steps} == {256}
    assert {event["loss"] for event in steps} == {2.0}
    for event in steps:  # 2 images in 0.002 s; the sums of seconds are rounded
        assert event["images_per_second"] == pytest.approx(1000)
    whole = [event for event in events if event["event"] == "epoch"]
    assert [(event["epoch"], event["epochs"]) for event in whole] == [(1, 2), (2, 2)]
    curves = [event["curve"] for event in whole]
    steps = [step for curve in curves for step in curve["step"]]
    assert steps == list(range(32, 257, 32))
    rates = recipe.learning_rates(config, 256)
    assert [rate for curve in curves for rate in curve["learning_rate"]] == [
        float(rates[step - 1]) for step in steps
    ]
    seconds = [second for curve in curves for second in curve["train_seconds"]]
    assert seconds == pytest.approx([0.002 * step for step in steps])  # sums are rounded
    assert seconds[3::4] == [event["train_seconds"] for event in whole]
    assert {loss for curve in curves for loss in curve["train_loss"]} == {2.0}


# --- The warm-up -------------------------------------------------------------------------------


def test_warming_up_sees_no_label_of_the_data(clock: Clock) -> None:
    data = make_data(400)
    others = replace(data, train=replace(data.train, labels=(data.train.labels + 1) % 10))
    config = TrainConfig(epochs=1, batch_size=4)
    _, one, _ = _fit(clock, config, data)
    _, other, _ = _fit(clock, config, others)
    seen = one.epochs[0].labels
    np.testing.assert_array_equal(seen, other.epochs[0].labels)
    # 400 random labels: a tenth agree by chance, 40 with a standard deviation of 6.
    assert 10 < (seen == data.train.labels).sum() < 70
    assert set(seen.tolist()) == set(range(10))
    assert (one.epochs[1].labels == data.train.labels).all()


def test_warming_up_takes_a_whole_chunk_and_a_short_one_of_real_images(clock: Clock) -> None:
    _, classifier, _ = _fit(
        clock, TrainConfig(epochs=1, batch_size=2), make_data(80), losses={0: 9}
    )
    warm_up = classifier.epochs[0]
    assert warm_up.steps_taken == 33
    assert len(warm_up.order) == 66
    assert set(warm_up.order.tolist()) <= set(range(80))
    assert (warm_up.images == TRAIN).all()
    assert 0 < warm_up.learning_rates.max() < 0.01  # gentle: random labels must not diverge
    # What is compiled for other types would be compiled again, on the clock.
    for name in ("images", "labels", "order", "learning_rates"):
        first = getattr(classifier.epochs[1], name)
        assert getattr(warm_up, name).dtype == first.dtype, name
    # A short epoch has a short warm-up.
    _, classifier, _ = _fit(clock, TrainConfig(epochs=1, batch_size=40), make_data(80))
    assert classifier.epochs[0].steps_taken == 2


def test_warming_up_predicts_for_no_more_images_than_it_needs(clock: Clock) -> None:
    data = make_data(40, test=1200)
    _, classifier, _ = _fit(clock, TrainConfig(epochs=1, batch_size=2), data)
    assert classifier.predicted == [(TEST, 1000), (VALIDATION, 40), (TEST, 1200)]


def test_the_first_epoch_starts_from_the_given_weights_and_at_rest(clock: Clock) -> None:
    _, classifier, _ = _fit(clock, TrainConfig(epochs=1, batch_size=2), make_data(80))
    warm_up, first = classifier.epochs
    for name, array in first.weights.items():
        assert (warm_up.weights[name] == 0.25).all()
        assert (array == 0.25).all()
        assert not first.velocities[name].any()


# --- The same steps for every framework --------------------------------------------------------


def test_every_epoch_has_its_order_and_its_part_of_the_schedule(clock: Clock) -> None:
    config, data = TrainConfig(epochs=3, batch_size=4, seed=5), make_data(83)
    _, classifier, _ = _fit(clock, config, data)
    epochs = classifier.epochs[1:]
    for number, epoch in enumerate(epochs, start=1):
        expected = recipe.epoch_order(config, epoch=number, count=83)
        np.testing.assert_array_equal(epoch.order, expected)
        assert epoch.images is data.train.images
        assert epoch.labels is data.train.labels
    rates = np.concatenate([epoch.learning_rates for epoch in epochs])
    np.testing.assert_array_equal(rates, recipe.learning_rates(config, 3 * 20))


@pytest.mark.parametrize("killed_after", [1, 2])
def test_a_resumed_training_takes_the_steps_that_were_missing(
    clock: Clock, tmp_path: Path, killed_after: int
) -> None:
    config, data = TrainConfig(epochs=3, batch_size=4), make_data(80)
    whole, unbroken, _ = _fit(clock, config, data, path=tmp_path / "whole.safetensors")
    path = tmp_path / "killed.safetensors"

    def kill(event: dict[str, Any]) -> None:
        if event.get("epoch") == killed_after:
            raise KeyboardInterrupt

    start = make_start(config, data)
    with pytest.raises(KeyboardInterrupt):
        loop.fit(VirtualClassifier(config, clock), data, start, path=path, emit=kill)
    found = loop.resumable(path, start)
    resumed = VirtualClassifier(config, clock)
    fit = loop.fit(resumed, data, found, path=path, emit=lambda event: None)
    assert len(resumed.epochs) == 1 + 3 - killed_after
    for ours, theirs in zip(resumed.epochs[1:], unbroken.epochs[1 + killed_after :], strict=True):
        np.testing.assert_array_equal(ours.order, theirs.order)
        np.testing.assert_array_equal(ours.learning_rates, theirs.learning_rates)
        for name, array in theirs.weights.items():
            np.testing.assert_array_equal(ours.weights[name], array)
            np.testing.assert_array_equal(ours.velocities[name], theirs.velocities[name])
    assert fit.history == whole.history  # its seconds too: those before the kill are counted once
    ours, theirs = checkpoint.load(path), checkpoint.load(tmp_path / "whole.safetensors")
    for name, array in theirs.weights.items():
        np.testing.assert_array_equal(ours.weights[name], array)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"framework": "torch"}, "framework virtual, not torch"),
        ({"dataset_sha256": "1"}, "dataset_sha256 0, not 1"),
        ({"train_images": 79}, "train_images 80, not 79"),
        ({"spec": ModelSpec("mlp", "sigmoid")}, "activation relu, not sigmoid"),
        ({"config": TrainConfig(epochs=3, batch_size=4)}, "epochs 2, not 3"),
        ({"config": TrainConfig(batch_size=4, weight_decay=0)}, "weight_decay 0.0005, not 0"),
        ({"dataset": "the same data by another name"}, ""),
        ({"versions": {"torch": "3"}}, ""),
    ],
)
def test_a_training_is_resumed_only_with_equal_settings(
    clock: Clock, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    config, data = TrainConfig(epochs=2, batch_size=4), make_data(80)
    path = tmp_path / "model.safetensors"
    _fit(clock, config, data, path=path)
    wanted = replace(make_start(config, data), **changes)
    if said:
        with pytest.raises(CheckpointError, match=f"Cannot resume .*: it was trained with {said}"):
            loop.resumable(path, wanted)
    else:
        assert loop.resumable(path, wanted).history
    assert loop.resumable(tmp_path / "absent.safetensors", wanted) is wanted


# --- What chooses ------------------------------------------------------------------------------


def test_figures_of_an_epoch_are_those_of_their_own_images(clock: Clock) -> None:
    script = {(VALIDATION, 1): 0.75, (TEST, 1): 0.25, (VALIDATION, 2): 1.0, (TEST, 2): 0.5}
    config = TrainConfig(epochs=2, batch_size=2)
    fit, classifier, _ = _fit(clock, config, make_data(80), script=script, losses={2: 0.5})
    assert [row.validation_accuracy for row in fit.history] == [0.75, 1.0]
    assert [row.test_accuracy for row in fit.history] == [0.25, 0.5]
    assert [row.train_loss for row in fit.history] == [2.0, 0.5]
    assert [row.epoch for row in fit.history] == [1, 2]
    # One logit of 2 among nine of 0: log(e^2 + 9), less 2 where it is the label's.
    evidence = np.log(np.exp(2) + 9)
    assert fit.history[0].validation_loss == pytest.approx(evidence - 2 * 0.75)
    assert fit.history[0].test_loss == pytest.approx(evidence - 2 * 0.25)
    assert classifier.predicted[1:] == [(VALIDATION, 40), (TEST, 20)] * 2
    assert len(fit.test_logits) == 20


@pytest.mark.parametrize(("part", "epochs"), [(VALIDATION, 2), (TEST, 4), (TRAIN, 4)])
def test_a_target_is_reached_on_validation_images_alone(
    clock: Clock, part: int, epochs: int
) -> None:
    config = TrainConfig(epochs=4, batch_size=2, target_accuracy=0.9)
    fit, _, _ = _fit(clock, config, make_data(80), script={(part, 2): 0.9})
    assert len(fit.history) == epochs


def test_a_target_ends_the_epoch_at_the_check_that_reaches_it(clock: Clock, tmp_path: Path) -> None:
    config = TrainConfig(epochs=2, batch_size=1, target_accuracy=0.9)
    script = {(VALIDATION, 1): 0.9}
    path = tmp_path / "model.safetensors"
    fit, classifier, _ = _fit(clock, config, make_data(320), script=script, path=path)
    (row,) = fit.history
    assert row.train_seconds == 32 * STEP_SECONDS
    assert classifier.epochs[1].steps_taken == 32
    assert checkpoint.load(path).velocities == {}  # it is finished


@pytest.mark.parametrize(("part", "kept"), [(VALIDATION, 2), (TEST, 3)])
def test_patience_keeps_the_epoch_with_the_lowest_validation_loss(
    clock: Clock, tmp_path: Path, part: int, kept: int
) -> None:
    script = {(VALIDATION, 1): 0.4, (VALIDATION, 3): 0.6} if part == TEST else {}
    config = TrainConfig(epochs=3, batch_size=2, patience=3)
    script = {(part, 2): 0.9} | script
    path = tmp_path / "model.safetensors"
    fit, classifier, _ = _fit(clock, config, make_data(80), script=script, path=path)
    assert fit.model_epoch == kept
    best = classifier.epochs[kept + 1].weights if kept < 3 else classifier.weights
    for name, array in checkpoint.load(path).weights.items():
        np.testing.assert_array_equal(array, best[name])
        np.testing.assert_array_equal(classifier.weights[name], array)  # for `calibrate`


# --- Divergence --------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:invalid value")  # of the sum of such logits
def test_a_loss_of_validation_that_is_no_number_stops_the_run(clock: Clock) -> None:
    # The last update of an epoch shows in no training loss of it.
    config, data = TrainConfig(epochs=2, batch_size=2), make_data(80)
    with pytest.raises(
        DivergedError, match=r"became nan at step 40 \(epoch 1\); nothing was saved"
    ):
        _fit(clock, config, data, right_logit=np.nan)


def test_too_large_a_batch_is_refused_before_the_warm_up(clock: Clock) -> None:
    config, data = TrainConfig(batch_size=81), make_data(80)
    classifier = VirtualClassifier(config, clock)
    start = make_start(config, data)
    with pytest.raises(UsageError, match="at most the 80 training images, not 81"):
        loop.fit(classifier, data, start, path=None, emit=lambda event: None)
    assert not classifier.epochs

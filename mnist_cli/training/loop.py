"""The epoch loop, the same for every framework: clock, history and checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mnist_cli.adapters.base import STEPS_PER_CHUNK, Classifier
from mnist_cli.arrays import NO_DIGIT, Array
from mnist_cli.config import TrainConfig
from mnist_cli.data.dataset import Dataset
from mnist_cli.data.messages import printable
from mnist_cli.data.split import Split
from mnist_cli.errors import CheckpointError, DivergedError, UsageError
from mnist_cli.networks.spec import parameter_shapes, require_batch_size
from mnist_cli.randomness import stream
from mnist_cli.records import EpochRecord
from mnist_cli.training import checkpoint as checkpoints
from mnist_cli.training import recipe
from mnist_cli.training.checkpoint import Checkpoint
from mnist_cli.training.evaluation import accuracy, cross_entropy

Emit = Callable[[dict[str, Any]], None]

_WARMUP_STEPS = STEPS_PER_CHUNK + 1  # a whole chunk and a short one, as every epoch has
_WARMUP_IMAGES = 1000
# For the package's model the limits from 1,000 digits are as good as from all 5,000.
_CALIBRATION_IMAGES = 1000
_SECONDS_BETWEEN_STEP_EVENTS = 0.1
_CHECKS_PER_EPOCH = 10  # of a target accuracy


@dataclass(frozen=True)
class Images:
    """Normalised float32 images (N, 28, 28) with int64 labels (N,)."""

    images: Array
    labels: Array


@dataclass(frozen=True)
class TrainingData:
    """The three parts of a data set, normalised; ``..._pixels`` are the original uint8 images.

    ``shows_digits`` says that the labels are the digits which the images show.
    """

    train_pixels: Array
    validation_pixels: Array
    train: Images
    validation: Images
    test: Images
    shows_digits: bool = True


@dataclass(frozen=True)
class Fit:
    """The result of `fit`: ``model_epoch`` is the epoch whose model is kept.

    ``test_logits`` (N, classes) are that model's; the seconds are those not counted as training.
    """

    history: tuple[EpochRecord, ...]
    model_epoch: int
    test_logits: Array
    warmup_seconds: float
    evaluate_seconds: float


@dataclass(frozen=True)
class _TrainedEpoch:
    """What `_train_epoch` took: the losses of each chunk of steps, and when the chunk ended.

    ``ends`` are training seconds of this epoch; ``check_seconds`` those of checking the target.
    """

    losses: list[Array]
    ends: list[float]
    check_seconds: float


def prepare(dataset: Dataset, split: Split, config: TrainConfig) -> TrainingData:
    """Return the normalised parts of a dataset, with ``config.reject`` also made non-digits.

    Raises `UsageError` if those are asked for, and the data set does not show digits.
    """
    pixels, labels = split.train_images, split.train_labels
    if config.reject and not dataset.shows_digits:
        raise UsageError(
            f"--reject teaches what is none of the ten digits, but {printable(dataset.name)} has "
            f"{len(dataset.class_names)} classes of its own. Leave --reject out."
        )
    if config.reject:
        from mnist_cli.training.non_digits import SHARE, make_non_digits  # imports OpenCV

        rng = stream(config.seed, "non-digits")
        made = make_non_digits(round(SHARE * len(labels)), pixels, labels, rng)
        pixels = np.concatenate([pixels, made])
        labels = np.append(labels, np.full(len(made), NO_DIGIT, dtype=labels.dtype))
    return TrainingData(
        train_pixels=pixels,
        validation_pixels=split.validation_images,
        train=Images(recipe.normalize(pixels), labels),
        validation=Images(recipe.normalize(split.validation_images), split.validation_labels),
        test=Images(recipe.normalize(dataset.test_images), dataset.test_labels),
        shows_digits=dataset.shows_digits,
    )


def fit(
    classifier: Classifier,
    data: TrainingData,
    start: Checkpoint,
    *,
    path: Path | None,
    emit: Emit,
) -> Fit:
    """Train ``classifier`` from ``start`` to the end of its recipe.

    ``start`` holds the recipe, the weights and, when a run is resumed, the velocities and the
    epochs so far. After each epoch the state is written to ``path``, if given. Training seconds
    run from an epoch's first step to its last with the device synchronised at both ends; warm-up
    and evaluation are not included. A target accuracy is checked ten times per epoch, between
    chunks of steps and outside the clock; the epoch that reaches it ends there. Raises
    `DivergedError` if a loss is not finite; the previous epoch's checkpoint remains.
    """
    config = start.config
    count = len(data.train.labels)
    recipe.require_batch(config, count)
    require_batch_size(start.spec, config.batch_size)
    steps = recipe.steps_per_epoch(config, count)
    warmup_seconds = warm_up(classifier, data, start)
    if note := getattr(classifier, "note", ""):
        emit({"event": "note", "text": note})
    rates = recipe.learning_rates(config, config.epochs * steps)

    state = start
    test_logits = None
    evaluate_seconds = 0.0
    while not is_finished(state):
        before = state.history[-1].train_seconds if state.history else 0.0
        trained = _train_epoch(classifier, data, state, rates=rates, emit=emit)
        losses, seconds = np.concatenate(trained.losses), trained.ends[-1]
        curve = _curve(trained, rates, first_step=len(state.history) * steps, before=before)
        began = time.perf_counter()
        validation = _validate(classifier, data, state, step=(len(state.history) + 1) * steps)
        test_logits = classifier.predict_logits(data.test.images)
        row = EpochRecord(
            epoch=len(state.history) + 1,
            train_loss=float(losses.mean(dtype=np.float64)),
            **validation,
            test_loss=cross_entropy(test_logits, data.test.labels),
            test_accuracy=accuracy(test_logits, data.test.labels),
            train_seconds=before + seconds,
            images_per_second=len(losses) * config.batch_size / seconds,
        )
        state = _with_epoch(state, row, classifier)
        evaluate_seconds += trained.check_seconds + time.perf_counter() - began
        if path is not None:
            checkpoints.save(path, _finished_model(state) if is_finished(state) else state)
        emit({"event": "epoch", "epochs": config.epochs, **asdict(row), "curve": curve})
    is_best = state.model_epoch is state.history[-1]
    if state.best_weights and not is_best:
        classifier.import_weights(state.best_weights)
    if test_logits is None or not is_best:  # finished before, or of another epoch's weights
        test_logits = classifier.predict_logits(data.test.images)
    return Fit(
        state.history, state.model_epoch.epoch, test_logits, warmup_seconds, evaluate_seconds
    )


def _validate(
    classifier: Classifier, data: TrainingData, state: Checkpoint, *, step: int
) -> dict[str, float]:
    """Return loss and accuracy on the validation images. Raises `DivergedError` if not finite."""
    logits = classifier.predict_logits(data.validation.images)
    loss = cross_entropy(logits, data.validation.labels)
    # The last update of an epoch affects none of its training losses, but it does this one.
    _require_finite(np.array([loss]), state, step=step)
    return {
        "validation_loss": loss,
        "validation_accuracy": accuracy(logits, data.validation.labels),
    }


def _with_epoch(state: Checkpoint, row: EpochRecord, classifier: Classifier) -> Checkpoint:
    """Return the state after one more epoch, with the weights of the best one if asked for."""
    state = replace(
        state,
        history=(*state.history, row),
        weights=classifier.export_weights(),
        velocities=classifier.export_optimizer(),
    )
    if state.config.patience is not None and state.model_epoch is row:
        state = replace(state, best_weights=state.weights)
    return state


def _finished_model(state: Checkpoint) -> Checkpoint:
    """Return a finished model: with the best weights, and without what resuming would need."""
    return replace(
        state, weights=state.best_weights or state.weights, velocities={}, best_weights={}
    )


def _train_epoch(
    classifier: Classifier, data: TrainingData, state: Checkpoint, *, rates: Array, emit: Emit
) -> _TrainedEpoch:
    """Train the epoch after ``state``, or until its target accuracy is reached."""
    config = state.config
    count = len(data.train.labels)
    epoch = len(state.history) + 1
    steps = recipe.steps_per_epoch(config, count)
    step = first_step = (epoch - 1) * steps
    order = recipe.epoch_order(config, epoch=epoch, count=count)
    images = _epoch_images(data, config, epoch)
    losses: list[Array] = []
    ends: list[float] = []
    emitted_at = 0.0
    next_check = steps / _CHECKS_PER_EPOCH
    check_seconds = 0.0

    classifier.synchronize()
    began = time.perf_counter()
    for chunk in classifier.train_epoch(
        images,
        data.train.labels,
        order=order,
        learning_rates=rates[first_step : first_step + steps],
        mask_seeds=recipe.mask_seeds(config, epoch=epoch, steps=steps),
    ):
        _require_finite(chunk, state, step=step + 1)
        losses.append(chunk)
        ends.append(time.perf_counter() - began - check_seconds)
        step += len(chunk)
        if config.target_accuracy is not None and next_check <= step - first_step < steps:
            next_check += steps / _CHECKS_PER_EPOCH
            classifier.synchronize()
            check_began = time.perf_counter()
            logits = classifier.predict_logits(data.validation.images)
            reached = accuracy(logits, data.validation.labels) >= config.target_accuracy
            check_seconds += time.perf_counter() - check_began
            if reached:
                break
        if ends[-1] - emitted_at > _SECONDS_BETWEEN_STEP_EVENTS:
            emitted_at = ends[-1]
            emit(
                {
                    "event": "step",
                    "epoch": epoch,
                    "step": step,
                    "total_steps": len(rates),
                    "loss": float(chunk[-1]),
                    "images_per_second": (step - first_step) * config.batch_size / ends[-1],
                }
            )
    classifier.synchronize()
    ends[-1] = time.perf_counter() - began - check_seconds
    return _TrainedEpoch(losses, ends, check_seconds)


def _curve(
    trained: _TrainedEpoch, rates: Array, *, first_step: int, before: float
) -> dict[str, list[float]]:
    """Return the curves of an epoch, a point per chunk of steps, for its event.

    ``step`` is the chunk's last, counted from 1 over the run; ``train_loss`` the mean over its
    steps, ``learning_rate`` that of the last one, ``train_seconds`` as in `EpochRecord`, where
    those ``before`` the epoch are counted.
    """
    steps = first_step + np.cumsum([len(chunk) for chunk in trained.losses])
    return {
        "step": steps.tolist(),
        "train_loss": [float(chunk.mean(dtype=np.float64)) for chunk in trained.losses],
        "learning_rate": rates[steps - 1].tolist(),
        "train_seconds": [before + end for end in trained.ends],
    }


def _epoch_images(data: TrainingData, config: TrainConfig, epoch: int) -> Array:
    """Return the normalised images of one epoch, augmented if asked for, outside the clock."""
    if not config.augment:
        return data.train.images
    from mnist_cli.training.augmentation import augment  # imports OpenCV

    rng = stream(config.seed, "augment", epoch)
    digits = data.train.labels if data.shows_digits else None
    return recipe.normalize(augment(data.train_pixels, rng, digits=digits))


def calibrate(classifier: Classifier, data: TrainingData, path: Path) -> None:
    """Add a calibration to the finished model at ``path``, unless it has one.

    ``classifier`` has its weights. Validation digits are used, redrawn with the model's seed.
    """
    model = checkpoints.load(path)
    if model.calibration is not None:
        return
    from mnist_cli.training import calibration  # imports OpenCV

    drawn, labels = calibration.simulate_handwriting(
        data.validation_pixels[:_CALIBRATION_IMAGES],
        data.validation.labels[:_CALIBRATION_IMAGES],
        stream(model.config.seed, "calibration"),
    )
    if len(labels) >= calibration.MIN_DIGITS:
        limits = calibration.calibrate(classifier.predict_logits(recipe.normalize(drawn)), labels)
        checkpoints.save(path, replace(model, calibration=limits))


def is_finished(state: Checkpoint) -> bool:
    """Return whether a training has completed its epochs, reached its target or lost patience."""
    if not state.history:
        return False
    config, last = state.config, state.history[-1]
    if config.target_accuracy is not None and last.validation_accuracy >= config.target_accuracy:
        return True
    if config.patience is not None and last.epoch - state.model_epoch.epoch >= config.patience:
        return True
    return last.epoch >= config.epochs


def resumable(path: Path, fresh: Checkpoint) -> Checkpoint:
    """Return the checkpoint at ``path`` to resume, or ``fresh`` if there is none.

    Raises `CheckpointError` if it was trained with other settings than ``fresh`` has.
    """
    if not path.exists():
        return fresh
    found = checkpoints.load(path)
    wanted, settings = fresh.settings(), found.settings()
    for name in wanted:
        if settings[name] != wanted[name]:
            raise CheckpointError(
                f"Cannot resume {path}: it was trained with {name} {settings[name]}, "
                f"not {wanted[name]}. Give the same settings, or leave --resume out to start anew."
            )
    return found


def _require_finite(losses: Array, state: Checkpoint, *, step: int) -> None:
    """Raise `DivergedError` unless all losses are finite; the first is that of ``step``."""
    finite = np.isfinite(losses)
    if not finite.all():
        epochs = len(state.history)
        kept = f"the checkpoint of epoch {epochs} is kept" if epochs else "nothing was saved"
        raise DivergedError(
            f"The loss became {losses[finite.argmin()]} at step {step + finite.argmin()} "
            f"(epoch {epochs + 1}); {kept}. "
            f"Lower --learning-rate (it was {state.config.learning_rate:g})."
        )


def warm_up(classifier: Classifier, data: TrainingData, start: Checkpoint) -> float:
    """Compile and allocate with random labels, set the starting state, and return the seconds."""
    began = time.perf_counter()
    config = start.config
    classifier.import_weights(start.weights)
    rng = stream(config.seed, "warmup")
    count = len(data.train.labels)
    steps = min(_WARMUP_STEPS, recipe.steps_per_epoch(config, count))
    for _ in classifier.train_epoch(
        data.train.images,
        rng.integers(0, start.spec.classes, count),
        order=rng.integers(0, count, steps * config.batch_size),
        learning_rates=np.full(steps, 1e-3, dtype=np.float32),
        mask_seeds=np.arange(steps),
    ):
        pass
    classifier.predict_logits(data.test.images[:_WARMUP_IMAGES])
    classifier.import_weights(start.weights)
    zeros = {
        name: np.zeros(shape, np.float32) for name, shape in parameter_shapes(start.spec).items()
    }
    classifier.import_optimizer(start.velocities or zeros)
    classifier.synchronize()
    return time.perf_counter() - began

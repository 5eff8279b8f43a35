"""A classifier on a device with a clock of its own, for tests of what is measured and seen.

The device is asynchronous: work is queued, and its seconds pass when somebody waits for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from mnist_cli.adapters.base import STEPS_PER_CHUNK
from mnist_cli.arrays import CLASSES, Array, Weights
from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.networks.spec import parameter_shapes
from mnist_cli.training.checkpoint import Checkpoint
from mnist_cli.training.loop import Images, TrainingData

SPEC = ModelSpec("mlp")
STEP_SECONDS = 1.0
PREDICT_SECONDS = 100.0
TRANSFER_SECONDS = 5.0  # of weights or velocities, in either direction
# The parts of the data, by the value of their pixels.
TRAIN, VALIDATION, TEST = 1, 2, 3


@dataclass
class Clock:
    """Stands in for the module `time`."""

    now: float = 1000.0

    def perf_counter(self) -> float:
        return self.now


@dataclass
class Epoch:
    """What the classifier was given for one epoch."""

    images: Array
    labels: Array
    order: Array
    learning_rates: Array
    weights: Weights
    velocities: Weights
    steps_taken: int = 0


@dataclass
class VirtualClassifier:
    """Has an accuracy and a loss for each part and epoch, as ``script`` says; counts from 1.

    ``script`` maps (part, epoch) to the fraction of that part's images that it gets right; what it
    does not name is half right. A step's loss is 2; with ``losses`` it is that of the epoch.
    """

    config: TrainConfig
    clock: Clock = field(default_factory=Clock)
    script: dict[tuple[int, int], float] = field(default_factory=dict)
    losses: dict[int, float] = field(default_factory=dict)
    right_logit: float = 2.0
    note: str = ""
    queued: float = 0.0
    epochs: list[Epoch] = field(default_factory=list)  # the first is the warm-up
    predicted: list[tuple[int, int]] = field(default_factory=list)  # part, number of images

    def __post_init__(self) -> None:
        shapes = parameter_shapes(SPEC)
        self.weights = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        self.velocities = {name: array.copy() for name, array in self.weights.items()}

    def train_epoch(
        self,
        images: Array,
        labels: Array,
        *,
        order: Array,
        learning_rates: Array,
        mask_seeds: Array | None = None,
    ) -> Iterator[Array]:
        given = (images, labels, order, learning_rates)
        epoch = Epoch(*given, dict(self.weights), dict(self.velocities))
        self.epochs.append(epoch)
        number = len(self.epochs) - 1
        for first in range(0, len(learning_rates), STEPS_PER_CHUNK):
            rates = learning_rates[first : first + STEPS_PER_CHUNK]
            self.queued += STEP_SECONDS * len(rates)
            # Weights that depend on every image, label, rate and velocity that went before.
            batches = order[first * self.config.batch_size :][: len(rates) * self.config.batch_size]
            push = np.float32(1e-3 * (labels[batches].sum() + batches[0] + 1))
            for name in self.weights:
                self.velocities[name] = self.velocities[name] * np.float32(0.5) + push
                self.weights[name] = self.weights[name] + rates.sum() * self.velocities[name]
            epoch.steps_taken += len(rates)
            yield np.full(len(rates), self.losses.get(number, 2.0), np.float32)

    def predict_logits(self, images: Array) -> Array:
        self.synchronize()
        self.clock.now += PREDICT_SECONDS
        part = int(images[0, 0, 0])
        self.predicted.append((part, len(images)))
        share = self.script.get((part, len(self.epochs) - 1), 0.5)
        logits = np.zeros((len(images), CLASSES), np.float32)
        right = np.arange(len(images)) < share * len(images)
        # Each part has one label, its number: see `make_data`.
        logits[np.arange(len(images)), np.where(right, part, 0)] = self.right_logit
        return logits

    def export_weights(self) -> Weights:
        self.queued += TRANSFER_SECONDS
        return {name: array.copy() for name, array in self.weights.items()}

    def import_weights(self, weights: Weights) -> None:
        self.queued += TRANSFER_SECONDS
        self.weights = {name: array.copy() for name, array in weights.items()}

    def export_optimizer(self) -> Weights:
        self.queued += TRANSFER_SECONDS
        return {name: array.copy() for name, array in self.velocities.items()}

    def import_optimizer(self, velocities: Weights) -> None:
        self.queued += TRANSFER_SECONDS
        self.velocities = {name: array.copy() for name, array in velocities.items()}

    def synchronize(self) -> None:
        self.clock.now += self.queued
        self.queued = 0.0


def make_data(train: int, *, validation: int = 40, test: int = 20) -> TrainingData:
    """Images whose pixels are the number of their part; validation and test labels are too."""

    def part(number: int, count: int) -> Images:
        return Images(np.full((count, 28, 28), number, np.float32), np.full(count, number))

    labels = np.arange(train) % CLASSES
    return TrainingData(
        train_pixels=np.full((train, 28, 28), TRAIN, np.uint8),
        validation_pixels=np.full((validation, 28, 28), VALIDATION, np.uint8),
        train=Images(part(TRAIN, train).images, labels),
        validation=part(VALIDATION, validation),
        test=part(TEST, test),
    )


def make_start(config: TrainConfig, data: TrainingData) -> Checkpoint:
    """A training that has not begun; its weights are 0.25."""
    return Checkpoint(
        spec=SPEC,
        config=config,
        framework="virtual",
        dataset="made",
        dataset_sha256="0",
        train_images=len(data.train.labels),
        history=(),
        weights={n: np.full(s, 0.25, np.float32) for n, s in parameter_shapes(SPEC).items()},
    )

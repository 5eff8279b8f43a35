"""A training to watch and steer: its settings may change after every step.

Unlike `loop.fit` it keeps no time and follows no schedule: after a short warm-up the learning rate
is the one that is set, and after the last epoch it waits for one more. It ends with its process.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NoReturn

import numpy as np

from mnist_cli.adapters.base import STEPS_PER_CHUNK, Classifier
from mnist_cli.arrays import Array
from mnist_cli.errors import DivergedError
from mnist_cli.networks.spec import parameter_shapes
from mnist_cli.records import EpochRecord
from mnist_cli.training import checkpoint as checkpoints
from mnist_cli.training import loop, recipe
from mnist_cli.training.checkpoint import Checkpoint
from mnist_cli.training.evaluation import accuracy, cross_entropy

_SECONDS_BETWEEN_STEP_EVENTS = 0.1
_SECONDS_BETWEEN_SAMPLES = 0.25
# At most a fifth of the time goes into samples, however large the network.
_MIN_TRAINING_PER_SAMPLE = 4
_SLOW_SECONDS_PER_STEP = 0.3
# The learning rate rises over the first steps: the full rate at once leaves single weights of the
# last layer at 20, where all others stay below 1.
_WARMUP_STEPS = 100
_SAMPLE_IMAGES = 1000  # of the validation images
_BINS = 32
_MAX_BINNED = 100_000  # weights of a layer


@dataclass(frozen=True)
class Settings:
    """What may change while a training runs; ``slow`` is a step at a time with a rest after it."""

    epochs: int
    learning_rate: float
    paused: bool = False
    slow: bool = False


class LiveTraining:
    """Trains ``classifier`` from ``start`` and reports all there is to see.

    ``changes`` brings the fields of new settings, all of them. Events: ``status`` (running, paused
    or finished), ``step`` (mean loss of the steps since the last one) and ``sample``: loss and
    accuracy on 1,000 validation images, for each layer a histogram of its weights and the size of
    its gradients; the model is then in the file ``path``.
    """

    def __init__(
        self,
        classifier: Classifier,
        data: loop.TrainingData,
        start: Checkpoint,
        settings: Settings,
        changes: SimpleQueue[dict[str, Any]],
        *,
        path: Path,
        emit: loop.Emit,
    ) -> None:
        self._classifier = classifier
        self._data = data
        self._start = start
        self._settings = settings
        self._changes = changes
        self._path = path
        self._emit = emit
        self._status = ""
        self._epoch = 1
        self._step = 0
        self._losses: list[Array] = []  # since the last event
        self._emitted_at = time.perf_counter()
        self._next_sample = 0.0
        self._sampled_step = -1

    def run(self) -> NoReturn:
        """Train until the process is ended. Raises `DivergedError` if a loss is not finite."""
        recipe.require_batch(self._start.config, len(self._data.train.labels))
        loop.warm_up(self._classifier, self._data, self._start)
        self._sample()
        while True:
            self._take_changes(0)
            while self._epoch > self._settings.epochs:
                self._rest("finished")
            self._train_epoch()
            self._report_steps()
            self._sample()
            self._epoch += 1

    def _train_epoch(self) -> None:
        config, labels = self._start.config, self._data.train.labels
        order = recipe.epoch_order(config, epoch=self._epoch, count=len(labels))
        steps = recipe.steps_per_epoch(config, len(labels))
        seeds = recipe.mask_seeds(config, epoch=self._epoch, steps=steps)
        done = 0
        while done < steps:
            self._take_changes(0)
            while self._settings.paused:
                self._rest("paused")
            self._tell("running")
            settings = self._settings
            size = 1 if settings.slow else min(STEPS_PER_CHUNK, steps - done)
            chunk = slice(done, done + size)
            rising = np.minimum(1, np.arange(self._step + 1, self._step + size + 1) / _WARMUP_STEPS)
            for losses in self._classifier.train_epoch(
                self._data.train.images,
                labels,
                order=order[done * config.batch_size : (done + size) * config.batch_size],
                learning_rates=(settings.learning_rate * rising).astype(np.float32),
                mask_seeds=seeds[chunk],
            ):
                self._require_finite(losses, settings.learning_rate)
                self._losses.append(losses)
                self._step += len(losses)
            done += size
            now = time.perf_counter()
            if settings.slow or now - self._emitted_at > _SECONDS_BETWEEN_STEP_EVENTS:
                self._report_steps()
            if now > self._next_sample:
                self._sample()
            if settings.slow:
                self._take_changes(_SLOW_SECONDS_PER_STEP)

    def _rest(self, status: str) -> None:
        """Tell of a rest, with what was learnt until now, and wait for other settings."""
        if status != self._status:
            self._report_steps()
            self._sample()
            self._tell(status)
        self._take_changes(None)
        self._emitted_at = time.perf_counter()

    def _take_changes(self, seconds: float | None) -> None:
        """Take the newest settings; wait for some at most ``seconds``, None for any time."""
        with suppress(Empty):
            while True:
                self._settings = Settings(**self._changes.get(timeout=seconds))
                seconds = 0

    def _tell(self, status: str) -> None:
        if status != self._status:
            self._status = status
            self._emit({"event": "status", "status": status})

    def _report_steps(self) -> None:
        if not self._losses:
            return
        losses = np.concatenate(self._losses)
        now = time.perf_counter()
        self._emit(
            {
                "event": "step",
                "epoch": self._epoch,
                "step": self._step,
                "loss": float(losses.mean(dtype=np.float64)),
                "learning_rate": self._settings.learning_rate,
                "steps_per_second": len(losses) / (now - self._emitted_at),
            }
        )
        self._losses = []
        self._emitted_at = now

    def _sample(self) -> None:
        """Report how good the network is and what its layers look like, and write the model."""
        if self._sampled_step == self._step:
            return
        began = time.perf_counter()
        labels = self._data.validation.labels[:_SAMPLE_IMAGES]
        logits = self._classifier.predict_logits(self._data.validation.images[:_SAMPLE_IMAGES])
        loss, share = cross_entropy(logits, labels), accuracy(logits, labels)
        # The last update affects none of the training losses, but it does this one.
        self._require_finite(np.array([loss]), self._settings.learning_rate)
        weights = self._classifier.export_weights()
        # The test images choose nothing, and one looks at this model to choose.
        row = EpochRecord(self._epoch, loss, loss, share, loss, share, 0.0, 0.0)
        checkpoints.save(self._path, replace(self._start, history=(row,), weights=weights))
        self._emit(
            {
                "event": "sample",
                "epoch": self._epoch,
                "step": self._step,
                "validation_loss": loss,
                "validation_accuracy": share,
                "layers": self._layers(weights),
            }
        )
        self._sampled_step = self._step
        now = time.perf_counter()
        pause = max(_SECONDS_BETWEEN_SAMPLES, _MIN_TRAINING_PER_SAMPLE * (now - began))
        self._next_sample = now + pause
        self._emitted_at += now - began  # not counted as training

    def _layers(self, weights: dict[str, Array]) -> list[dict[str, Any]]:
        """Return what there is to see of each layer's weights."""
        velocities = self._classifier.export_optimizer()
        momentum = self._start.config.momentum
        seen = []
        for name in parameter_shapes(self._start.spec):
            if not name.endswith(".weight"):
                continue
            values = weights[name].ravel()
            values = values[:: -(-len(values) // _MAX_BINNED)]
            counts, edges = np.histogram(values, bins=_BINS)
            seen.append(
                {
                    "name": name.removesuffix(".weight"),
                    "low": float(edges[0]),
                    "high": float(edges[-1]),
                    "counts": counts.tolist(),
                    # A velocity is the gradients' running sum; times 1 - momentum, their mean.
                    "gradient": _rms(velocities[name]) * (1 - momentum),
                }
            )
        return seen

    def _require_finite(self, losses: Array, learning_rate: float) -> None:
        if not np.isfinite(losses).all():
            raise DivergedError(
                f"The loss is no longer a number after step {self._step} (epoch {self._epoch}). "
                f"Start again with a lower learning rate than {learning_rate:g}."
            )


def _rms(values: Array) -> float:
    """Return the root of the mean square, 0 for no values."""
    return float(np.sqrt(np.mean(np.square(values), dtype=np.float64))) if values.size else 0.0

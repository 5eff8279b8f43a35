"""The whole network: its workers, how they divide the work, and one optimiser.

With *data parallelism* (the CNN) each worker takes its share of the images of every batch through
all layers, and the gradients are summed. With *hidden-unit parallelism* (the MLP, whose layers are
too short for the former) an MLP of 128 hidden units is the sum of two of 64: each worker trains a
narrow network of its own on every image, and only the logits are exchanged.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from mnist_cli.arrays import CLASSES, Array, Weights
from mnist_cli.scratch.engine.loss import cross_entropy, with_no_digit
from mnist_cli.scratch.engine.parameters import GatheredParameters, Parameters, Shapes, shard_shapes
from mnist_cli.scratch.engine.slices import chunk_slices, even_slices
from mnist_cli.scratch.engine.worker import DrawMasks, Model, StateBuffer, Worker
from mnist_cli.scratch.engine.worker_group import WorkerGroup, can_fork, shared_array

# Chunks to predict for each worker: fewer are not worth a worker's start, some 5 ms.
MIN_CHUNKS = 16

# The caller reports a loss that is not finite; NumPy's warnings would only repeat that.
_without_warnings = np.errstate(over="ignore", invalid="ignore")


@dataclass(frozen=True)
class Architecture:
    """What a network computes.

    ``shapes`` are those of the canonical parameters; ``reversed_channels`` is that of
    `parameters.Parameters`. ``build_model(weights, gradients, is_first_shard)`` returns a model
    that computes with these parameters. A worker takes at most ``max_chunk`` images at a time, so
    that a larger batch takes more time, not more memory. ``is_sharded`` says that workers divide
    the hidden units, not the images. ``most_normalised`` is the largest number of channels of a
    batch norm, 0 if there is none: with one, a worker takes all its images of a batch at once,
    whatever the chunk, and each worker needs some. ``draw_masks(seed, batch_size)`` returns what
    each dropout keeps; None if there is none.
    """

    shapes: Shapes
    reversed_channels: Mapping[str, int]
    build_model: Callable[[Parameters, Parameters, bool], Model]
    max_chunk: int
    is_sharded: bool
    classes: int = CLASSES
    most_normalised: int = 0
    draw_masks: DrawMasks | None = None


class Network:
    """A network and its optimiser. The same seed, batches and ``threads`` give the same bits.

    ``threads`` is the number of workers. With ``reject`` the loss has one class more, "no
    digit", whose logit is always 0.
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        label_smoothing: float = 0.0,
        reject: bool = False,
        threads: int = 1,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self._dtype = np.dtype(dtype)
        self._reject = reject
        self._max_chunk, self._classes = architecture.max_chunk, architecture.classes
        self._most_normalised = architecture.most_normalised
        shards, self._replicas = 1, threads
        if architecture.is_sharded:
            self._replicas = 1
            if threads > 1 and can_fork():  # its calls are too short for threads with one lock
                shards = min(threads, architecture.shapes["fc1.bias"][0])

        self._workers: list[Worker] = []
        velocities, weights = [], []
        for index in range(shards):
            shard = _Shard(architecture, index, shards, replicas=self._replicas, dtype=dtype)
            velocities.append(shard.velocities)
            weights.append(shard.weights)
            for buffers in shard.buffers:
                self._workers.append(
                    Worker(
                        buffers,
                        classes=self._classes,
                        max_chunk=sys.maxsize if self._most_normalised else self._max_chunk,
                        rank=len(self._workers),
                        replicas=self._replicas,
                        momentum=momentum,
                        weight_decay=weight_decay,
                        label_smoothing=label_smoothing,
                        reject=reject,
                        draw_masks=architecture.draw_masks,
                    )
                )
        self.velocities, self.weights = GatheredParameters(velocities), GatheredParameters(weights)
        # The running training loop, with its images and the capacity of its chunks.
        self._loop: _TrainingLoop | None = None
        self._trained_images, self._capacity = np.empty(0), 0

    def train(
        self,
        images: Array,
        labels: Array,
        batches: Array,
        *,
        learning_rates: Sequence[float],
        mask_seeds: Array,
        steps_per_chunk: int,
    ) -> Generator[Array, None, None]:
        """Take a step on each batch and yield its mean loss before that step, in chunks of steps.

        images (N, 28, 28), float; labels (N,), int; batches (steps, batch_size), int, indices
        of images; mask_seeds (steps,), int. Between chunks the weights are complete, and may be
        read but not changed.

        The workers are kept for later calls with the same array of images, which must not be
        changed any more, and chunks no larger: starting them takes as long as 30 steps of the MLP.
        Raises `WorkerError` if a worker cannot be started or fails.
        """
        capacity = steps_per_chunk * batches.shape[1]
        loop = self._loop
        if loop is None or self._trained_images is not images or self._capacity < capacity:
            if loop is not None:
                self._loop = None
                loop.close()  # which ends its workers
            loop = _run_training_loop(
                self._new_group(),
                self._workers,
                images,
                capacity,
                classes=self._classes,
                reject=self._reject,
            )
            next(loop)
            self._loop, self._trained_images, self._capacity = loop, images, capacity
        for chunk in chunk_slices(len(batches), steps_per_chunk):
            indices = batches[chunk]
            try:
                rates, seeds = learning_rates[chunk], mask_seeds[chunk]
                losses = loop.send((indices, labels[indices], rates, seeds))
            except BaseException:
                self._loop = None
                raise
            yield losses

    def loss_and_gradients(self, images: Array, labels: Array) -> tuple[float, Weights]:
        """Return the mean loss of a batch and its gradient for each parameter, canonical."""
        group = self._new_group()
        logits = shared_array((self._classes, len(images)), self._dtype)
        targets = self._workers[0].scaled_targets(labels, batch_size=len(labels))

        @_without_warnings
        def work(rank: int) -> None:
            self._workers[rank].backpropagate(group, images, targets, logits)

        with group.running(work):
            work(0)
        if self._reject:
            logits = with_no_digit(logits)
        loss = float(_without_warnings(cross_entropy)(logits, labels).mean())
        gradients = [worker.gradients for worker in self._workers]
        if self._replicas == 1:
            return loss, GatheredParameters(gradients).canonical()
        terms = [gradient.canonical() for gradient in gradients]
        return loss, {name: np.sum([term[name] for term in terms], axis=0) for name in terms[0]}

    def logits(self, images: Array) -> Array:
        """Return logits (N, classes), in the weights' dtype, for images (N, 28, 28), any N >= 0."""
        logits = shared_array((self._classes, len(images)), self._dtype)
        chunks = even_slices(len(images), math.ceil(len(images) / self._max_chunk))
        group = WorkerGroup(max(1, min(len(self._workers), len(chunks) // MIN_CHUNKS)))

        @_without_warnings
        def predict(rank: int) -> None:
            # The workers whose logits add up to the network's.
            shards = self._workers if self._replicas == 1 else [self._workers[rank]]
            for chunk in chunks[rank :: group.size]:
                logits[:, chunk] = sum(worker.logits(images[chunk]) for worker in shards)

        with group.running(predict):
            predict(0)
        return np.ascontiguousarray(logits.T)

    def _new_group(self) -> WorkerGroup:
        capacity = max(self._max_chunk * self._classes, 2 * self._most_normalised)
        return WorkerGroup(len(self._workers), capacity=capacity, dtype=self._dtype)


class _Shard:
    """Shard ``index`` of ``count``: its parameters, and a pair of ``buffers`` for each replica.

    A replica is a worker that takes a share of the images of a batch.
    """

    def __init__(
        self, architecture: Architecture, index: int, count: int, *, replicas: int, dtype: DTypeLike
    ) -> None:
        shapes = shard_shapes(architecture.shapes, index, count)
        size = sum(math.prod(shape) for shape in shapes.values())
        # Two buffers, each with a row per kind of value, as the update multiplies them:
        # velocities, weights, and the gradients of each replica.
        states = shared_array((2, 2 + replicas, size), dtype)
        rows = [
            [
                Parameters(shapes, row, reversed_channels=architecture.reversed_channels)
                for row in state
            ]
            for state in states
        ]
        self.velocities, self.weights = rows[0][:2]
        self.buffers = []
        weights_end = self.weights.biases_start
        for replica, columns in enumerate(even_slices(weights_end, replicas)):
            # The last replica also updates the biases and statistics.
            stop = size if columns.stop == weights_end else columns.stop
            ends = min(weights_end, stop), min(self.weights.statistics_start, stop)
            first, second = (
                StateBuffer(
                    architecture.build_model(weights, gradients[replica], index == 0),
                    gradients[replica],
                    state[:, columns.start : stop],
                    starts=(ends[0] - columns.start, ends[1] - columns.start),
                )
                for state, (_, weights, *gradients) in zip(states, rows, strict=True)
            )
            second.model.share_buffers(first.model)
            self.buffers.append((first, second))


# `next` starts the workers. Then it is sent indices of images (steps, batch_size), their labels,
# learning rates and mask seeds (steps,), and yields the mean losses of the steps.
_TrainingLoop: TypeAlias = Generator[Array, tuple[Array, Array, Sequence[float], Array], None]


@dataclass(frozen=True)
class _SharedChunk:
    """Arrays of one chunk of steps that all workers share; the caller fills the first five.

    ``shape`` (2,) is steps and batch size. ``gathered`` are the chunk's images side by side: to
    fetch them from all over memory at each step took a tenth of the MLP's time.
    """

    shape: Array
    indices: Array
    labels: Array
    learning_rates: Array
    mask_seeds: Array
    gathered: Array
    logits: Array
    targets: Array
    losses: Array

    @classmethod
    def allocate(
        cls, images: Array, capacity: int, dtype: DTypeLike, *, classes: int, reject: bool
    ) -> _SharedChunk:
        """Return shared arrays for at most ``capacity`` images of ``images``."""
        indices, labels = shared_array((2, capacity), np.int64)
        return cls(
            shape=shared_array((2,), np.int64),
            indices=indices,
            labels=labels,
            learning_rates=shared_array((capacity,), np.float64),
            mask_seeds=shared_array((capacity,), np.int64),
            gathered=shared_array((capacity, *images.shape[1:]), images.dtype),
            logits=shared_array((classes, capacity), dtype),
            targets=shared_array((classes + reject, capacity), dtype),
            losses=shared_array((capacity,), dtype),
        )

    def fill(
        self, batches: Array, labels: Array, learning_rates: Sequence[float], mask_seeds: Array
    ) -> None:
        """Store what the next chunk of steps trains on."""
        self.shape[:] = batches.shape
        self.indices[: batches.size] = batches.reshape(-1)
        self.labels[: batches.size] = labels.reshape(-1)
        self.learning_rates[: len(learning_rates)] = learning_rates
        self.mask_seeds[: len(mask_seeds)] = mask_seeds

    @_without_warnings
    def mean_losses(self) -> Array:
        """Return the mean loss of each step."""
        steps, batch_size = self.shape.tolist()
        means: Array = self.losses[: steps * batch_size].reshape(steps, batch_size).mean(axis=1)
        return means


def _run_training_loop(
    group: WorkerGroup,
    workers: Sequence[Worker],
    images: Array,
    capacity: int,
    *,
    classes: int,
    reject: bool,
) -> _TrainingLoop:
    """Take a step on each batch that is sent, of at most ``capacity`` images per chunk.

    When the generator is closed or no longer referenced, its workers end. It is not a method:
    workers that are threads would reference the network, and so keep themselves alive.
    """
    dtype = workers[0].gradients.vector.dtype
    chunk = _SharedChunk.allocate(images, capacity, dtype, classes=classes, reject=reject)

    def worker_loop(rank: int) -> None:
        while True:
            group.barrier(rank)
            _take_steps(group, workers[rank], rank, images, chunk)

    with group.running(worker_loop):
        sent = yield np.empty(0)
        while True:
            chunk.fill(*sent)
            with group.pinned_to_core(0):
                group.barrier(0)
                _take_steps(group, workers[0], 0, images, chunk)
            sent = yield chunk.mean_losses()


@_without_warnings
def _take_steps(
    group: WorkerGroup, worker: Worker, rank: int, images: Array, chunk: _SharedChunk
) -> None:
    """Do one worker's part of a chunk of steps."""
    steps, batch_size = chunk.shape.tolist()
    count = steps * batch_size
    own = even_slices(count, group.size)[rank]
    # "clip", because the default "raise" would gather into a temporary array first.
    np.take(images, chunk.indices[own], axis=0, out=chunk.gathered[own], mode="clip")
    chunk.targets[:, own] = worker.scaled_targets(chunk.labels[own], batch_size=batch_size)
    group.barrier(rank)
    matrices = worker.update_matrices(chunk.learning_rates[:steps])
    seeds = chunk.mask_seeds[:steps].tolist()
    for step, batch in enumerate(chunk_slices(count, batch_size)):
        buffer = step % 2
        worker.backpropagate(
            group,
            chunk.gathered[batch],
            chunk.targets[:, batch],
            chunk.logits[:, batch],
            mask_seed=seeds[step],
            buffer=buffer,
        )
        worker.update(group, matrices[step], buffer=buffer)
    worker.make_first_current(current=steps % 2)
    group.barrier(rank)  # now all logits are complete
    logits = chunk.logits[:, own]
    if len(chunk.targets) > len(chunk.logits):
        logits = with_no_digit(logits)
    chunk.losses[own] = cross_entropy(logits, chunk.labels[own])
    group.barrier(rank)

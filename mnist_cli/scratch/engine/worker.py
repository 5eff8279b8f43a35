"""One worker: forward and backward passes of its share, and the update of its parameters."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from mnist_cli.arrays import Array
from mnist_cli.scratch.engine.general import (
    STATISTICS_MOMENTUM,
    BatchNorm,
    Dropout,
    Residual,
    Step,
)
from mnist_cli.scratch.engine.layers import ParametricLayer
from mnist_cli.scratch.engine.loss import cross_entropy_gradient, scaled_targets, with_no_digit
from mnist_cli.scratch.engine.optimizer import statistics_matrices, step_matrices
from mnist_cli.scratch.engine.parameters import Parameters
from mnist_cli.scratch.engine.slices import chunk_slices, even_slices
from mnist_cli.scratch.engine.worker_group import WorkerGroup

# Numbers per matrix product of the update: few enough for OpenBLAS's small-matrix kernels (see
# `blocks.SplitDense`).
UPDATE_CHUNK = 65_536


# Of a seed and a batch size: what each dropout keeps, bool (batch_size, ...).
DrawMasks: TypeAlias = Callable[[int, int], list[Array]]


class Layer(Protocol):
    """What every layer of `layers`, `blocks` and `general` offers."""

    def forward(self, inputs: Any) -> Any:
        """Return the outputs."""
        ...

    def backward(self, gradient: Any) -> Any:
        """Return the gradient with respect to the inputs, given that for the outputs."""
        ...


class Model(Protocol):
    """Images to logits and back: `Sequential` or `mlp.Mlp`."""

    # The layers that do something else in training than in prediction: see `begin`.
    stateful: Sequence[BatchNorm | Dropout]

    def forward(self, images: Array) -> Array:
        """Return logits (classes, n) of images (n, 28, 28), valid until the next call."""
        ...

    def backward(self, gradient: Array) -> None:
        """Compute the weights' gradients, given that of the logits, (classes, n)."""
        ...

    def share_buffers(self, other: Any) -> None:
        """Use the memory of another model, whose passes must not overlap its own."""
        ...


class Sequential:
    """A `Model` of layers in sequence."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = layers
        self._all_layers = list(_with_bodies(layers))
        self.stateful: Sequence[BatchNorm | Dropout] = [
            layer for layer in self._all_layers if isinstance(layer, (BatchNorm, Dropout))
        ]

    def forward(self, images: Array) -> Array:
        """See `Model.forward`."""
        values: Any = images[..., np.newaxis]  # (n, 28, 28) -> (n, 28, 28, 1)
        for layer in self.layers:
            values = layer.forward(values)
        logits: Array = values.T
        return logits

    def backward(self, gradient: Array) -> None:
        """See `Model.backward`."""
        values: Any = gradient.T
        for layer in reversed(self.layers):
            values = layer.backward(values)

    def share_buffers(self, other: Sequential) -> None:
        """See `Model.share_buffers`."""
        for own, others in zip(self._all_layers, other._all_layers, strict=True):
            if isinstance(own, ParametricLayer) and isinstance(others, ParametricLayer):
                own.share_buffers(others)


def begin(model: Model, step: Step | None) -> None:
    """Tell the layers what the next passes are for: a step of training, or prediction."""
    for layer in model.stateful:
        layer.step = step


def _with_bodies(layers: Sequence[Any]) -> Iterator[Any]:
    """Yield the layers, and those in residuals."""
    for layer in layers:
        yield layer
        if isinstance(layer, Residual):
            yield from _with_bodies(layer.body)


class StateBuffer:
    """One of a worker's two buffers of parameters, with the ``model`` that computes with it.

    ``state`` (2 + replicas, n) is what the worker updates, one row per kind of value: velocities,
    weights, and the gradients of each replica. Its columns up to ``starts[0]`` are weights, up to
    ``starts[1]`` biases, and the others statistics.
    """

    def __init__(
        self, model: Model, gradients: Parameters, state: Array, *, starts: tuple[int, int]
    ) -> None:
        self.model, self.gradients = model, gradients
        self.state, self.starts = state, starts

    def update_products(self, target: StateBuffer) -> Iterator[tuple[int, Array, Array]]:
        """Yield (group, source, destination) of each matrix product of the update to ``target``.

        Group 0 are weights, group 1 biases, which have no weight decay, group 2 statistics.
        """
        bounds = 0, *self.starts, self.state.shape[1]
        for group, columns in enumerate(itertools.starmap(slice, itertools.pairwise(bounds))):
            before, after = self.state[:, columns], target.state[:2, columns]
            for chunk in chunk_slices(before.shape[1], UPDATE_CHUNK):
                yield group, before[:, chunk], after[:, chunk]


class Worker:
    """One worker of the group: its models, their buffers, and the parameters that it updates.

    ``replicas`` is the number of workers that divide the images of a batch, or 1 if each takes all
    images with a shard of the hidden units. The state is double-buffered: a step reads one of two
    ``buffers`` and writes its result to the other, so that nothing is copied back. Between chunks
    of steps the first buffer is current.
    """

    def __init__(
        self,
        buffers: Sequence[StateBuffer],
        *,
        classes: int,
        max_chunk: int,
        rank: int,
        replicas: int,
        momentum: float,
        weight_decay: float,
        label_smoothing: float,
        reject: bool,
        draw_masks: DrawMasks | None = None,
    ) -> None:
        self._buffers, self._max_chunk = buffers, max_chunk
        self._draw_masks = draw_masks
        first, second = buffers
        self._products = list(first.update_products(second)), list(second.update_products(first))
        self._classes, self._label_smoothing, self._reject = classes, label_smoothing, reject
        self._rank, self._replicas = rank, replicas
        self._momentum, self._weight_decay = momentum, weight_decay

    @property
    def gradients(self) -> Parameters:
        """The gradients of the first buffer."""
        return self._buffers[0].gradients

    def logits(self, images: Array) -> Array:
        """Return logits (classes, n) for a chunk of images (n, 28, 28), until the next call."""
        model = self._buffers[0].model
        begin(model, None)
        return model.forward(images)

    def scaled_targets(self, labels: Array, *, batch_size: int) -> Array:
        """Return `loss.scaled_targets` of labels (n,), for `backpropagate`."""
        return scaled_targets(
            labels,
            classes=self._classes,
            batch_size=batch_size,
            label_smoothing=self._label_smoothing,
            reject=self._reject,
            dtype=self.gradients.vector.dtype,
        )

    def update_matrices(self, learning_rates: Array) -> Array:
        """Return the matrices of `update` for each step: (steps, 3, 2, 2 + replicas)."""
        matrices = step_matrices(
            learning_rates,
            replicas=self._replicas,
            momentum=self._momentum,
            weight_decays=(self._weight_decay, 0),  # of weights, of biases
        )
        statistics = statistics_matrices(
            len(learning_rates), replicas=self._replicas, momentum=STATISTICS_MOMENTUM
        )
        matrices = np.concatenate([matrices, statistics[:, np.newaxis]], axis=1)
        return matrices.astype(self.gradients.vector.dtype)

    def backpropagate(
        self,
        group: WorkerGroup,
        images: Array,
        targets: Array,
        logits: Array,
        *,
        mask_seed: int = 0,
        buffer: int = 0,
    ) -> None:
        """Compute this worker's part of a batch's gradients into a buffer, and of its ``logits``.

        All workers call it for the same whole batch: images (n, 28, 28) and their
        `scaled_targets`. Together they fill logits (classes, n). ``mask_seed`` is that of the
        step's dropout masks.
        """
        model, gradients = self._buffers[buffer].model, self._buffers[buffer].gradients
        batch_size = len(images)
        masks = self._draw_masks(mask_seed, batch_size) if self._draw_masks else []
        if self._replicas > 1:
            own = even_slices(batch_size, self._replicas)[self._rank]
            images, targets, logits = images[own], targets[:, own], logits[:, own]
            masks = [mask[own] for mask in masks]
        earlier = None
        if not len(images):
            gradients.vector[...] = 0
        for chunk in chunk_slices(len(images), self._max_chunk):
            if model.stateful:
                step = Step(
                    sum_over_workers=functools.partial(group.all_reduce, self._rank),
                    is_first=self._rank == 0,
                    batch_size=batch_size,
                    masks=[mask[chunk] for mask in masks],
                )
                begin(model, step)
            outputs = model.forward(images[chunk])
            if self._replicas == 1:  # the logits are the sum over all shards of hidden units
                outputs = group.all_reduce(self._rank, outputs)
            # The first worker adds the bias, so the last has time to store the logits.
            if self._replicas > 1 or self._rank == group.size - 1:
                logits[:, chunk] = outputs
            if self._reject:
                outputs = with_no_digit(outputs)
            gradient = cross_entropy_gradient(outputs, targets[:, chunk], batch_size=batch_size)
            model.backward(gradient[: self._classes])
            if earlier is not None:
                gradients.vector += earlier
            if chunk.stop < len(images):  # the next chunk overwrites the gradients
                earlier = gradients.vector.copy()
        if self._replicas > 1:  # each updates some weights, with the gradients of all workers
            group.barrier(self._rank)

    def update(self, group: WorkerGroup, matrices: Array, *, buffer: int) -> None:
        """Take the optimiser's step from this buffer to the other one, all workers together."""
        for parameters, before, after in self._products[buffer]:
            np.matmul(matrices[parameters], before, out=after)
        if self._replicas > 1:  # each has updated weights with which all compute
            group.barrier(self._rank)

    def make_first_current(self, *, current: int) -> None:
        """Copy the state into the first buffer if ``current`` is the second."""
        if current:
            self._buffers[0].state[:2] = self._buffers[1].state[:2]

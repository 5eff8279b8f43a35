"""The whole network: layers in a row, a batch shared out to threads, one optimiser."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike

from mnist_cli import architectures
from mnist_cli.architectures import CLASSES, Array, Weights
from mnist_cli.config import ModelSpec
from mnist_cli.scratch.blocks import DirectBlock, Unstack, WinogradBlock
from mnist_cli.scratch.crew import Crew
from mnist_cli.scratch.layers import Buffers, Conv, Dense, Flatten, MaxPool, Relu, Sigmoid
from mnist_cli.scratch.loss import softmax_cross_entropy
from mnist_cli.scratch.optimizer import nesterov_step_by_product

# Images that one thread takes: at least, for in short steps threads mostly wait for Python's lock;
# and at most at a time, so that a larger batch takes more time, not more memory.
MIN_SHARE = {"cnn": 1, "mlp": 256}
MAX_CHUNK = {"cnn": 32, "mlp": 256}
# Numbers that one thread updates at least: fewer are done before another has woken up.
MIN_UPDATE = 131_072

# Whoever asked for the loss sees that it is no number; warnings would say it again.
_quietly = np.errstate(over="ignore", invalid="ignore")


class Layer(Protocol):
    """What every layer of `layers` offers. A convolution and its pool exchange `Quarters`."""

    def forward(self, inputs: Any) -> Any:
        """Return the outputs."""
        ...

    def backward(self, gradient: Any) -> Any:
        """Return the gradient in the inputs, of that in the outputs."""
        ...


class Parameters:
    """Named arrays that are parts of one flat ``vector``: weights, gradients or velocities.

    Weights come first; the biases, from ``biases_start`` on, last. ``parameters[name]`` is the
    array as its layer works with it. It differs from the canonical one in the order of its numbers
    only: its axes are reversed, and the dense layer after the images reads them flattened row,
    column, channel.
    """

    def __init__(self, spec: ModelSpec, vector: Array) -> None:
        self.vector = vector
        self._flattened_channels = dict(_flattened_channels(spec))
        shapes = architectures.parameter_shapes(spec)
        sizes = {name: math.prod(shape) for name, shape in shapes.items()}
        self.biases_start = sum(size for name, size in sizes.items() if name.endswith(".weight"))
        self._arrays: dict[str, Array] = {}
        start = 0
        for name in sorted(shapes, key=lambda name: name.endswith(".bias")):
            shape = shapes[name][::-1]
            self._arrays[name] = self.vector[start : start + sizes[name]].reshape(shape)
            start += sizes[name]

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def load(self, canonical: Weights) -> None:
        """Copy canonical arrays in."""
        for name, array in self._arrays.items():
            source = canonical[name]
            if name in self._flattened_channels:
                source = _swap(source, self._flattened_channels[name])
            array[...] = source.T

    def canonical(self) -> Weights:
        """Return copies of the arrays in their canonical layouts, C-contiguous."""
        weights: Weights = {}
        for name, array in self._arrays.items():
            result = array.T
            if name in self._flattened_channels:
                result = _swap(result, result.shape[1] // self._flattened_channels[name])
            weights[name] = np.array(result, order="C")
        return weights


def _flattened_channels(spec: ModelSpec) -> Iterator[tuple[str, int]]:
    """Yield for each dense weight how many channels its inputs were flattened from."""
    channels = 1
    for layer in architectures.parameter_layers(spec):
        if isinstance(layer, architectures.Conv):
            channels = layer.out_channels
        else:
            yield f"{layer.name}.weight", channels
            channels = 1


def _swap(weight: Array, groups: int) -> Array:
    """Return a weight (out, groups x n), its columns in order n x groups: swapped nesting."""
    swapped: Array = weight.reshape(len(weight), groups, -1).swapaxes(1, 2).reshape(weight.shape)
    return swapped


class Replica:
    """The layers of one thread: the weights are everyone's, buffers and gradients its own."""

    def __init__(
        self,
        spec: ModelSpec,
        weights: Parameters,
        gradients: Parameters,
        *,
        plain: bool,
    ) -> None:
        self.gradients = gradients
        self._layers = list(_layers(spec, weights, gradients, plain=plain))
        self._max_chunk = MAX_CHUNK[spec.arch]

    def logits(self, images: Array) -> Array:
        """Return logits (n, 10) for one chunk of images (n, 28, 28), good until the next call."""
        values: Any = images[..., np.newaxis]  # (n, 28, 28) -> (n, 28, 28, 1)
        for layer in self._layers:
            values = layer.forward(values)
        logits: Array = values
        return logits

    def loss_and_gradients(
        self, images: Array, labels: Array, rows: Array, *, batch_size: int, label_smoothing: float
    ) -> float:
        """Return what ``images[rows]`` add to the mean loss of a batch, and fill `gradients`."""
        loss = 0.0
        earlier = None
        for span in _spans(len(rows), math.ceil(len(rows) / self._max_chunk)):
            chunk = rows[span]
            chunk_loss, gradient = softmax_cross_entropy(
                self.logits(images[chunk]),
                labels[chunk],
                batch_size=batch_size,
                label_smoothing=label_smoothing,
            )
            for layer in reversed(self._layers):
                gradient = layer.backward(gradient)
            loss += chunk_loss
            if earlier is not None:
                self.gradients.vector += earlier
            if span.stop < len(rows):  # the next chunk will overwrite the gradients
                earlier = self.gradients.vector.copy()
        return loss


class Network:
    """A network and its optimiser. The same seed, batches and ``threads`` give the same bits.

    Each thread takes an equal share of every batch through a `Replica` of its own, and the
    gradients of the shares are added in a fixed order.

    ``plain`` computes with the layers of `layers` alone, the reference of the faster `blocks`.
    """

    def __init__(
        self,
        spec: ModelSpec,
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        label_smoothing: float = 0.0,
        threads: int = 1,
        dtype: DTypeLike = np.float32,
        plain: bool = False,
    ) -> None:
        # One row for each kind of number, as the optimiser wants them: velocities, weights, and
        # each replica's gradients.
        self._state = np.zeros((2 + threads, architectures.parameter_count(spec)), dtype)
        self.velocities, self.weights, *gradients = (Parameters(spec, row) for row in self._state)
        self._momentum, self._weight_decay = momentum, weight_decay
        self._label_smoothing = label_smoothing
        self._crew = Crew(threads)
        self._replicas = [Replica(spec, self.weights, each, plain=plain) for each in gradients]
        self._buffers = [Buffers() for _ in range(threads)]
        self._min_share, self._max_chunk = MIN_SHARE[spec.arch], MAX_CHUNK[spec.arch]

    @_quietly
    def train_step(
        self, images: Array, labels: Array, rows: Array, *, learning_rate: float
    ) -> float:
        """Take one step on the batch ``images[rows]``; return its mean loss before the step.

        images (N, 28, 28), float; labels (N,), int, 0-9; rows (batch_size,), int.
        """
        loss, gradients = self._backpropagate(images, labels, rows)
        state, biases_start = self._state[: 2 + len(gradients)], self.weights.biases_start

        def update(span: slice, thread: int, weight_decay: float) -> None:
            nesterov_step_by_product(
                state[:, span],
                self._buffers[thread],
                learning_rate=learning_rate,
                momentum=self._momentum,
                weight_decay=weight_decay,
            )

        def update_weights(thread: int) -> None:
            update(spans[thread], thread, self._weight_decay)

        threads = min(len(self._replicas), math.ceil(biases_start / MIN_UPDATE))
        spans = _spans(biases_start, threads)
        self._crew.run(update_weights, threads)
        update(slice(biases_start, None), 0, 0.0)
        return loss

    def loss_and_gradients(self, images: Array, labels: Array) -> tuple[float, Weights]:
        """Return the mean loss of a batch, and its gradient in each weight, canonical."""
        loss, gradients = self._backpropagate(images, labels, np.arange(len(labels)))
        shares = [gradient.canonical() for gradient in gradients]
        return loss, {name: np.sum([share[name] for share in shares], axis=0) for name in shares[0]}

    @_quietly
    def logits(self, images: Array) -> Array:
        """Return logits (N, 10), in the weights' dtype, for images (N, 28, 28), any N >= 0."""
        logits = np.empty((len(images), CLASSES), self.weights.vector.dtype)
        spans = _spans(len(images), math.ceil(len(images) / self._max_chunk))
        threads = min(len(self._replicas), len(spans))

        def predict(thread: int) -> None:
            for span in spans[thread::threads]:
                logits[span] = self._replicas[thread].logits(images[span])

        self._crew.run(predict, threads)
        return logits

    def _backpropagate(
        self, images: Array, labels: Array, rows: Array
    ) -> tuple[float, list[Parameters]]:
        """Return the mean loss of ``images[rows]``, and the gradients whose sum is the batch's."""
        threads = min(len(self._replicas), max(1, len(rows) // self._min_share))
        spans = _spans(len(rows), threads)

        def share(thread: int) -> float:
            return self._replicas[thread].loss_and_gradients(
                images,
                labels,
                rows[spans[thread]],
                batch_size=len(rows),
                label_smoothing=self._label_smoothing,
            )

        losses = self._crew.run(share, threads)
        return sum(losses), [replica.gradients for replica in self._replicas[:threads]]


def _layers(
    spec: ModelSpec, weights: Parameters, gradients: Parameters, *, plain: bool
) -> Iterator[Layer]:
    """Yield the layers of ``spec``, working with the given weights, in the order to compute."""

    def arrays(layer: architectures.Conv | architectures.Dense) -> tuple[Array, ...]:
        names = f"{layer.name}.weight", f"{layer.name}.bias"
        return tuple(parameters[name] for parameters in (weights, gradients) for name in names)

    plan = list(architectures.layers(spec))
    pool, relu = architectures.MaxPool(), architectures.Activation("relu")
    blocks = 0
    while plan:
        layer = plan.pop(0)
        match layer:
            case architectures.Conv():
                if [plan.pop(0), plan.pop(0)] != [pool, relu]:
                    raise NotImplementedError("a convolution without pool and ReLU behind it")
                if plain:
                    yield Conv(*arrays(layer), needs_input_gradient=blocks > 0)
                    yield MaxPool()
                    yield Relu()
                else:
                    yield (WinogradBlock if blocks else DirectBlock)(*arrays(layer))
                blocks += 1
            case architectures.Dense():
                is_first = layer.name == "fc1" and not blocks
                yield Dense(*arrays(layer), needs_input_gradient=not is_first)
            case architectures.Flatten():
                yield Flatten() if plain or not blocks else Unstack()
            case architectures.Activation():
                yield Relu() if layer.function == "relu" else Sigmoid()


def _spans(count: int, parts: int) -> list[slice]:
    """Return ``parts`` slices that cover ``range(count)`` between them, equal to within one."""
    bounds = [count * part // parts for part in range(parts + 1)] if parts else []
    return [slice(start, stop) for start, stop in pairwise(bounds)]

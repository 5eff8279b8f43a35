"""The whole network: its passes, work shared out among a crew, one optimiser.

The CNN is shared out by images: each member takes its share of every batch through all layers, and
the gradients are added up. The MLP is shared out by hidden units, for its layers are too short for
that: an MLP of 128 hidden units is the sum of two of 64, so each member trains a narrow network of
its own on every image, and all they exchange is the logits.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from itertools import pairwise
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from mnist_cli.arrays import CLASSES, Array, Weights
from mnist_cli.config import ModelSpec
from mnist_cli.networks import spec as networks
from mnist_cli.scratch.blocks import DirectBlock, Pixels, SplitDense, WinogradBlock
from mnist_cli.scratch.crew import Crew, can_fork, shared_array
from mnist_cli.scratch.layers import (
    Conv,
    Dense,
    Flatten,
    MaxPool,
    Relu,
    Sigmoid,
    Weighted,
    pieces,
)
from mnist_cli.scratch.loss import cross_entropy, cross_entropy_gradient, shares_of_targets
from mnist_cli.scratch.mlp import Mlp
from mnist_cli.scratch.optimizer import step_matrices

# Images that a member takes at a time, so that a larger batch takes more time, not more memory.
MAX_CHUNK = {"cnn": 32, "mlp": 256}
# Numbers that the update multiplies at a time: few enough for OpenBLAS's quick ways with small
# matrices (`blocks.SplitDense`).
UPDATE_PIECE = 65_536
# Chunks to predict before another member is worth its start, some 5 ms.
MIN_CHUNKS = 16

# The axis of the MLP's weights that goes along its hidden units; the output's bias has none.
_HIDDEN_AXES = {"fc1.weight": 0, "fc1.bias": 0, "fc2.weight": 1}

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


class Passes(Protocol):
    """From images to logits and back, for one member: `Row` or `mlp.Mlp`."""

    def forward(self, images: Array) -> Array:
        """Return logits (10, n) of images (n, 28, 28), good until the next call."""
        ...

    def backward(self, gradient: Array) -> None:
        """Leave the gradients in the weights of that in the logits, (10, n)."""
        ...

    def share_buffers(self, twin: Any) -> None:
        """Work in the memory of another of the kind, which is never between its two passes then."""
        ...


class Row:
    """`Passes` of layers in a row."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = layers

    def forward(self, images: Array) -> Array:
        """See `Passes.forward`."""
        values: Any = images[..., np.newaxis]  # (n, 28, 28) -> (n, 28, 28, 1)
        for layer in self.layers:
            values = layer.forward(values)
        logits: Array = values.T
        return logits

    def backward(self, gradient: Array) -> None:
        """See `Passes.backward`."""
        values: Any = gradient.T
        for layer in reversed(self.layers):
            values = layer.backward(values)

    def share_buffers(self, twin: Row) -> None:
        """See `Passes.share_buffers`."""
        for own, other in zip(self.layers, twin.layers, strict=True):
            if isinstance(own, Weighted) and isinstance(other, Weighted):
                own.share_buffers(other)


class Parameters:
    """Named arrays that are parts of one flat ``vector``: weights, gradients or velocities.

    Weights come first; the biases, from ``biases_start`` on, last. ``parameters[name]`` is the
    array as its layer works with it. It differs from the canonical one in the order of its numbers
    only: its axes are reversed, and the dense layer after the images reads them flattened row,
    column, channel. ``shapes`` are the canonical ones.
    """

    def __init__(self, spec: ModelSpec, shapes: dict[str, tuple[int, ...]], vector: Array) -> None:
        self.vector = vector
        self._flattened_channels = dict(_flattened_channels(spec))
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
    for layer in networks.parameter_layers(spec):
        if isinstance(layer, networks.Conv):
            channels = layer.out_channels
        else:
            yield f"{layer.name}.weight", channels
            channels = 1


def _swap(weight: Array, groups: int) -> Array:
    """Return a weight (out, groups x n), its columns in order n x groups: swapped nesting."""
    swapped: Array = weight.reshape(len(weight), groups, -1).swapaxes(1, 2).reshape(weight.shape)
    return swapped


class Whole:
    """The arrays of the whole network, from those of its ``parts``, each some hidden units."""

    def __init__(self, parts: Sequence[Parameters]) -> None:
        self._parts = parts

    def load(self, canonical: Weights) -> None:
        """Copy canonical arrays in."""
        for index, part in enumerate(self._parts):
            part.load(_cut(canonical, index, len(self._parts)))

    def canonical(self) -> Weights:
        """Return copies of the arrays in their canonical layouts, C-contiguous."""
        first, *others = parts = [part.canonical() for part in self._parts]
        if others:
            for name, axis in _HIDDEN_AXES.items():
                first[name] = np.concatenate([part[name] for part in parts], axis)
        return first


def _cut(whole: Weights, index: int, parts: int) -> Weights:
    """Return one of the ``parts`` whose sum is the network: some of the MLP's hidden units."""
    if parts == 1:
        return whole
    units = _spans(len(whole["fc1.bias"]), parts)[index]
    part = {
        name: whole[name][units] if axis == 0 else whole[name][:, units]
        for name, axis in _HIDDEN_AXES.items()
    }
    # Each part adds its output bias to the sum: the first has it all, the others' stay 0.
    bias = whole["fc2.bias"]
    return {**part, "fc2.bias": np.zeros_like(bias) if index else bias}


class Copy:
    """One of the two copies of a member's numbers, with the ``passes`` that compute with it.

    ``state`` is the numbers that the member updates, a row for each kind: velocities, weights, and
    the gradients of each share of the batch. Of its columns the first ``biases_start`` are weights,
    the rest biases.
    """

    def __init__(
        self, passes: Passes, gradients: Parameters, state: Array, *, biases_start: int
    ) -> None:
        self.passes, self.gradients = passes, gradients
        self.state, self.biases_start = state, biases_start

    def products(self, other: Copy) -> Iterator[tuple[int, Array, Array]]:
        """Yield what the step from this copy to the ``other`` multiplies, and where to.

        The first number is 0 for weights and 1 for biases, which do not decay.
        """
        for is_bias, part in enumerate(
            (slice(0, self.biases_start), slice(self.biases_start, self.state.shape[1]))
        ):
            before, after = self.state[:, part], other.state[:2, part]
            for piece in pieces(before.shape[1], UPDATE_PIECE):
                yield is_bias, before[:, piece], after[:, piece]


class Member:
    """One member of the crew: its passes and their buffers, and the numbers that it updates.

    ``index`` is its number. ``replicas`` is how many members share a batch's images out, or 1 where
    each takes them all, with some of the hidden units. Of all numbers there are two ``copies``,
    used by turns: a step reads one and writes its outcome to the other, and nothing need be moved
    back. Between chunks of steps the first is the network.
    """

    def __init__(
        self,
        copies: Sequence[Copy],
        *,
        max_chunk: int,
        index: int,
        replicas: int,
        momentum: float,
        weight_decay: float,
        label_smoothing: float,
    ) -> None:
        self._copies, self._max_chunk = copies, max_chunk
        first, second = copies
        self._products = list(first.products(second)), list(second.products(first))
        self._label_smoothing = label_smoothing
        self._index, self._replicas = index, replicas
        self._momentum, self._weight_decay = momentum, weight_decay

    @property
    def gradients(self) -> Parameters:
        """Those of the first copy."""
        return self._copies[0].gradients

    def logits(self, images: Array) -> Array:
        """Return logits (10, n) for one chunk of images (n, 28, 28), good until the next call."""
        return self._copies[0].passes.forward(images)

    def shares_of_targets(self, labels: Array, *, batch_size: int) -> Array:
        """Return `loss.shares_of_targets` (10, n) of labels (n,), for `backpropagate`."""
        return shares_of_targets(
            labels,
            batch_size=batch_size,
            label_smoothing=self._label_smoothing,
            dtype=self.gradients.vector.dtype,
        )

    def matrices(self, learning_rates: Array) -> Array:
        """Return for each step what `update` multiplies by: (steps, 2, 2, 2 + shares)."""
        matrices = step_matrices(
            learning_rates,
            shares=self._replicas,
            momentum=self._momentum,
            weight_decays=(self._weight_decay, 0),  # of weights, of biases
        )
        return matrices.astype(self.gradients.vector.dtype)

    def backpropagate(
        self, crew: Crew, images: Array, target_shares: Array, logits: Array, *, copy: int = 0
    ) -> None:
        """Fill a copy's gradients with this member's part, and ``logits`` between all of the crew.

        They do it together, for a whole batch: images (n, 28, 28), logits (10, n), and the
        `shares_of_targets` (10, n).
        """
        passes, gradients = self._copies[copy].passes, self._copies[copy].gradients
        batch_size = len(images)
        if self._replicas > 1:
            own = _spans(batch_size, self._replicas)[self._index]
            images, target_shares, logits = images[own], target_shares[:, own], logits[:, own]
        earlier = None
        if not len(images):
            gradients.vector[...] = 0
        for chunk in pieces(len(images), self._max_chunk):
            outputs = passes.forward(images[chunk])
            if self._replicas == 1:  # the network's are the sum of those of all hidden units
                outputs = crew.all_reduce(self._index, outputs)
            # The first has the bias to add, so that the last keeps the sum.
            if self._replicas > 1 or self._index == crew.members - 1:
                logits[:, chunk] = outputs
            passes.backward(
                cross_entropy_gradient(outputs, target_shares[:, chunk], batch_size=batch_size)
            )
            if earlier is not None:
                gradients.vector += earlier
            if chunk.stop < len(images):  # the next chunk will overwrite the gradients
                earlier = gradients.vector.copy()
        if self._replicas > 1:  # each updates some weights, by the gradients of all
            crew.meet(self._index)

    def update(self, crew: Crew, matrices: Array, *, copy: int) -> None:
        """Take the optimiser's step from this copy to the other, all of the crew together."""
        for is_bias, before, after in self._products[copy]:
            np.matmul(matrices[is_bias], before, out=after)
        if self._replicas > 1:  # each has updated weights that all compute with
            crew.meet(self._index)

    def settle(self, *, copy: int) -> None:
        """Make the first copy the network, when ``copy`` is what a next step would read."""
        if copy:
            self._copies[0].state[:2] = self._copies[1].state[:2]


class Network:
    """A network and its optimiser. The same seed, batches and ``threads`` give the same bits.

    ``threads`` is how many members a crew has. ``plain`` computes with the layers of `layers`
    alone, the reference of the faster `blocks` and `mlp`. ``small_kernels`` says that BLAS has
    quick ways with small matrices, for which the MLP's images are cut.
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
        small_kernels: bool = True,
        plain: bool = False,
    ) -> None:
        self._dtype = np.dtype(dtype)
        self._max_chunk = MAX_CHUNK[spec.arch]
        shapes = networks.parameter_shapes(spec)
        parts, self._replicas = 1, 1
        is_row = spec.arch == "cnn" or plain
        if is_row:  # a plain MLP too: its layers know of no part without a bias
            self._replicas = threads
        elif threads > 1 and can_fork():  # its calls are too short for threads behind one lock
            parts = min(threads, shapes["fc1.bias"][0])

        self._members: list[Member] = []
        velocities, weights = [], []
        for index in range(parts):
            # For its shapes alone.
            cut = _cut({name: np.empty(shape) for name, shape in shapes.items()}, index, parts)
            part_shapes = {name: array.shape for name, array in cut.items()}
            count = sum(array.size for array in cut.values())
            # Of each copy one row for each kind of number, as the optimiser wants them: velocities,
            # weights, and each replica's gradients.
            states = shared_array((2, 2 + self._replicas, count), dtype)
            rows = [[Parameters(spec, part_shapes, row) for row in state] for state in states]
            velocities.append(rows[0][0])
            weights.append(rows[0][1])
            weights_end = rows[0][1].biases_start
            for replica, span in enumerate(_spans(weights_end, self._replicas)):
                # The last also takes the biases.
                stop = count if span.stop == weights_end else span.stop
                copies = []
                for state, (_, weight, *gradients) in zip(states, rows, strict=True):
                    own = gradients[replica]
                    passes: Passes
                    if is_row:
                        passes = Row(list(_layers(spec, weight, own, plain=plain)))
                    else:
                        passes = _mlp(
                            spec, weight, own, has_bias=not index, small_kernels=small_kernels
                        )
                    numbers = state[:, span.start : stop]
                    copies.append(Copy(passes, own, numbers, biases_start=span.stop - span.start))
                first, second = (copy.passes for copy in copies)
                second.share_buffers(first)
                self._members.append(
                    Member(
                        copies,
                        max_chunk=self._max_chunk,
                        index=len(self._members),
                        replicas=self._replicas,
                        momentum=momentum,
                        weight_decay=weight_decay,
                        label_smoothing=label_smoothing,
                    )
                )
        self.velocities, self.weights = Whole(velocities), Whole(weights)
        # What `_train` does with the helpers there are, their images, and the size of its chunks.
        self._training: _Training | None = None
        self._trained_images, self._capacity = np.empty(0), 0

    def train(
        self,
        images: Array,
        labels: Array,
        batches: Array,
        *,
        learning_rates: Sequence[float],
        steps_per_chunk: int,
    ) -> Generator[Array, None, None]:
        """Take a step on each batch and yield their mean losses before it, in chunks of steps.

        images (N, 28, 28), float; labels (N,), int, 0-9; batches (steps, batch_size), int, rows of
        the images. Between chunks the weights are whole, and may be read but not changed.

        The helpers stay for later calls with the same array of images, which must not be changed
        any more, and chunks no larger: to start them takes as long as 30 of the MLP's steps. Raises
        `FrameworkError` when one cannot be started or fails.
        """
        capacity = steps_per_chunk * batches.shape[1]
        training = self._training
        if training is None or self._trained_images is not images or self._capacity < capacity:
            if training is not None:
                self._training = None
                training.close()  # its helpers end
            training = _train(self._crew(), self._members, images, capacity)
            next(training)
            self._training, self._trained_images, self._capacity = training, images, capacity
        for chunk in pieces(len(batches), steps_per_chunk):
            rows = batches[chunk]
            try:
                losses = training.send((rows, labels[rows], learning_rates[chunk]))
            except BaseException:
                self._training = None
                raise
            yield losses

    def loss_and_gradients(self, images: Array, labels: Array) -> tuple[float, Weights]:
        """Return the mean loss of a batch, and its gradient in each weight, canonical."""
        crew = self._crew()
        logits = shared_array((CLASSES, len(images)), self._dtype)
        shares = self._members[0].shares_of_targets(labels, batch_size=len(labels))

        @_quietly
        def work(member: int) -> None:
            self._members[member].backpropagate(crew, images, shares, logits)

        with crew.working(work):
            work(0)
        loss = float(_quietly(cross_entropy)(logits, labels).mean())
        gradients = [member.gradients for member in self._members]
        if self._replicas == 1:
            return loss, Whole(gradients).canonical()
        terms = [gradient.canonical() for gradient in gradients]
        return loss, {name: np.sum([term[name] for term in terms], axis=0) for name in terms[0]}

    def logits(self, images: Array) -> Array:
        """Return logits (N, 10), in the weights' dtype, for images (N, 28, 28), any N >= 0."""
        logits = shared_array((CLASSES, len(images)), self._dtype)
        spans = _spans(len(images), math.ceil(len(images) / self._max_chunk))
        crew = Crew(max(1, min(len(self._members), len(spans) // MIN_CHUNKS)))

        @_quietly
        def predict(member: int) -> None:
            whole = self._members if self._replicas == 1 else [self._members[member]]
            for span in spans[member :: crew.members]:
                logits[:, span] = sum(part.logits(images[span]) for part in whole)

        with crew.working(predict):
            predict(0)
        return np.ascontiguousarray(logits.T)

    def _crew(self) -> Crew:
        return Crew(len(self._members), capacity=self._max_chunk * CLASSES, dtype=self._dtype)


# `next` starts the helpers. Then it is sent rows of images (steps, batch_size), their labels and
# the learning rates (steps,), and gives back the steps' mean losses.
_Training: TypeAlias = Generator[Array, tuple[Array, Array, Sequence[float]], None]


def _train(crew: Crew, members: Sequence[Member], images: Array, capacity: int) -> _Training:
    """Take a step on each batch that is sent, of at most ``capacity`` images between them.

    These are copied side by side first, each member its share of them: fetching images from all
    over the memory is a tenth of the MLP's time. When the generator is closed or nobody needs it
    any longer, its helpers end. Were it a method, helpers that are threads would keep the network,
    and so themselves.
    """
    # What all members see: what was sent, the images, and the logits.
    shape = shared_array((2,), np.int64)
    rows, labels = shared_array((2, capacity), np.int64)
    learning_rates = shared_array((capacity,), np.float64)
    gathered = shared_array((capacity, *images.shape[1:]), images.dtype)
    dtype = members[0].gradients.vector.dtype
    logits, target_shares = shared_array((2, CLASSES, capacity), dtype)
    losses = shared_array((capacity,), dtype)

    @_quietly
    def take_steps(index: int) -> None:
        steps, batch_size = shape.tolist()
        count = steps * batch_size
        member = members[index]
        own = _spans(count, crew.members)[index]
        # "clip" because "raise", the default, would take a copy of its own first.
        np.take(images, rows[own], axis=0, out=gathered[own], mode="clip")
        target_shares[:, own] = member.shares_of_targets(labels[own], batch_size=batch_size)
        crew.meet(index)
        matrices = member.matrices(learning_rates[:steps])
        for step, batch in enumerate(pieces(count, batch_size)):
            copy = step % 2
            member.backpropagate(
                crew, gathered[batch], target_shares[:, batch], logits[:, batch], copy=copy
            )
            member.update(crew, matrices[step], copy=copy)
        member.settle(copy=steps % 2)
        crew.meet(index)  # now all logits are there
        losses[own] = cross_entropy(logits[:, own], labels[own])
        crew.meet(index)

    @_quietly
    def mean_losses() -> Array:
        steps, batch_size = shape.tolist()
        means: Array = losses[: steps * batch_size].reshape(steps, batch_size).mean(axis=1)
        return means

    def help_out(index: int) -> None:
        while True:
            crew.meet(index)
            take_steps(index)

    with crew.working(help_out):
        batches, batch_labels, rates = yield np.empty(0)
        while True:
            shape[:] = batches.shape
            rows[: batches.size] = batches.reshape(-1)
            labels[: batches.size] = batch_labels.reshape(-1)
            learning_rates[: len(rates)] = rates
            with crew.own_core(0):
                crew.meet(0)
                take_steps(0)
            batches, batch_labels, rates = yield mean_losses()


def _mlp(
    spec: ModelSpec,
    weights: Parameters,
    gradients: Parameters,
    *,
    has_bias: bool,
    small_kernels: bool,
) -> Mlp:
    """Return the MLP in one piece, working with the given weights."""
    names = "fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"
    return Mlp(
        [weights[name] for name in names],
        [gradients[name] for name in names],
        Relu() if spec.activation == "relu" else Sigmoid(),
        has_bias=has_bias,
        small_kernels=small_kernels,
    )


def _layers(
    spec: ModelSpec, weights: Parameters, gradients: Parameters, *, plain: bool
) -> Iterator[Layer]:
    """Yield the layers of ``spec``, working with the given weights, in the order to compute."""

    def arrays(layer: networks.Conv | networks.Dense) -> tuple[Array, ...]:
        names = f"{layer.name}.weight", f"{layer.name}.bias"
        return tuple(parameters[name] for parameters in (weights, gradients) for name in names)

    plan = list(networks.layers(spec))
    pool, relu = networks.MaxPool(), networks.Activation("relu")
    blocks = 0
    while plan:
        layer = plan.pop(0)
        match layer:
            case networks.Conv():
                if [plan.pop(0), plan.pop(0)] != [pool, relu]:
                    raise NotImplementedError("a convolution without pool and ReLU behind it")
                if plain:
                    yield Conv(*arrays(layer), needs_input_gradient=blocks > 0)
                    yield MaxPool()
                    yield Relu()
                else:
                    yield (WinogradBlock if blocks else DirectBlock)(*arrays(layer))
                blocks += 1
            case networks.Dense():
                is_large = layer.name == "fc1"
                dense = SplitDense if is_large and not plain else Dense
                yield dense(*arrays(layer), needs_input_gradient=blocks > 0 or not is_large)
            case networks.Flatten():
                yield Flatten() if plain else Pixels()
            case networks.Activation():
                yield Relu() if layer.function == "relu" else Sigmoid()


def _spans(count: int, parts: int) -> list[slice]:
    """Return ``parts`` slices that cover ``range(count)`` between them, equal to within one."""
    bounds = [count * part // parts for part in range(parts + 1)] if parts else []
    return [slice(start, stop) for start, stop in pairwise(bounds)]

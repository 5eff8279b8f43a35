"""General layers: any kernel, stride, pool, activation, batch norm, dropout and residual.

They take the networks that `blocks` and `mlp` do not fit. Values are (C, H, W, N) or (features, N),
the images last: a row of pixels of all images is one run of memory, so that a convolution copies
long runs and is a single matrix product, with the canonical weights as they are. What the layers
compute is written out plainly in `scratch.plain`, against which they are tested.

Outputs are buffers that the next call overwrites. A layer leaves its inputs as they are, but may
change the gradient that it is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from mnist_cli.arrays import Array
from mnist_cli.scratch.engine.layers import Buffers, ParametricLayer, ones

EPSILON, STATISTICS_MOMENTUM = 1e-5, 0.1  # see `plain.BatchNorm`


@dataclass(frozen=True)
class Step:
    """What layers need to know while training: ``None`` in its place means prediction.

    ``sum_over_workers`` adds up the arrays of all workers. ``is_first`` is true for one worker.
    ``batch_size`` counts the images of all. ``masks`` say what each dropout keeps of the worker's
    images, bool (n, ...), channels first.
    """

    sum_over_workers: Callable[[Array], Array]
    is_first: bool
    batch_size: int
    masks: Sequence[Array]


class Conv(ParametricLayer):
    """A convolution by im2col, with ``margin`` zeros around; the weight is (K, C, k, k)."""

    def __init__(
        self, *arrays: Array, stride: int, margin: int, needs_input_gradient: bool = True
    ) -> None:
        super().__init__(*arrays, needs_input_gradient=needs_input_gradient)
        self._stride, self._margin = stride, margin

    def forward(self, inputs: Array) -> Array:
        """Return y (K, H', W', N) for x (C, H, W, N)."""
        channels, height, width, count = inputs.shape
        filters, _, kernel, _ = self.weight.shape
        self._input_shape = inputs.shape
        padded = inputs
        if self._margin:
            shape = (channels, height + 2 * self._margin, width + 2 * self._margin, count)
            padded = self._buffers("padded", shape, inputs.dtype)
            _pad(inputs, padded, self._margin)
        rows = (padded.shape[1] - kernel) // self._stride + 1
        columns = (padded.shape[2] - kernel) // self._stride + 1
        patch_shape = (channels, kernel, kernel, rows, columns, count)
        plane, down, right, along = padded.strides
        self._patches = self._buffers("patches", patch_shape, inputs.dtype)
        self._patches[...] = as_strided(
            padded,
            shape=patch_shape,
            strides=(plane, down, right, self._stride * down, self._stride * right, along),
            writeable=False,
        )
        outputs = self._buffers("outputs", (filters, rows, columns, count), inputs.dtype)
        pixels = outputs.reshape(filters, -1)
        np.matmul(self.weight.reshape(filters, -1), self._patch_matrix(), out=pixels)
        pixels += self.bias[:, np.newaxis]
        return outputs

    def backward(self, gradient: Array) -> Array | None:
        """Return dx (C, H, W, N) for dy (K, H', W', N)."""
        filters, channels, kernel, _ = self.weight.shape
        pixels, patches = gradient.reshape(filters, -1), self._patch_matrix()
        np.matmul(pixels, patches.T, out=self.weight_gradient.reshape(filters, -1))
        np.matmul(pixels, ones(pixels.shape[1], pixels.dtype), out=self.bias_gradient)
        if not self.needs_input_gradient:
            return None
        # The patches are not needed any more: their memory takes their gradient.
        np.matmul(self.weight.reshape(filters, -1).T, pixels, out=patches)
        _, height, width, count = self._input_shape
        shape = (channels, height + 2 * self._margin, width + 2 * self._margin, count)
        padded = self._buffers("padded gradient", shape, gradient.dtype)
        padded[...] = 0
        rows, columns = self._patches.shape[3:5]
        for i, j in np.ndindex(kernel, kernel):
            reached = padded[:, i:, j:][:, : self._stride * rows : self._stride]
            reached = reached[:, :, : self._stride * columns : self._stride]
            reached += self._patches[:, i, j]
        if not self._margin:
            return padded
        inputs_gradient = self._buffers("input gradient", self._input_shape, gradient.dtype)
        np.copyto(inputs_gradient, _without_margin(padded, self._margin))
        return inputs_gradient

    def _patch_matrix(self) -> Array:
        """Return the patches as (C k k, H' W' N), without copying."""
        matrix: Array = self._patches.reshape(math.prod(self._patches.shape[:3]), -1)
        return matrix


def _pad(images: Array, padded: Array, margin: int) -> None:
    """Copy images (C, H, W, N) into padded ones, surrounded by zeros."""
    padded[:, :margin] = padded[:, -margin:] = 0
    padded[:, :, :margin] = padded[:, :, -margin:] = 0
    _without_margin(padded, margin)[...] = images


def _without_margin(images: Array, margin: int) -> Array:
    return images[:, margin:-margin, margin:-margin]


class Dense(ParametricLayer):
    """A fully connected layer; the weight is canonical, (out, in)."""

    def forward(self, inputs: Array) -> Array:
        """Return y (out, N) for x (in, N)."""
        self._inputs = inputs
        shape = (len(self.bias), inputs.shape[1])
        outputs = self._buffers("outputs", shape, inputs.dtype)
        np.matmul(self.weight, inputs, out=outputs)
        outputs += self.bias[:, np.newaxis]
        return outputs

    def backward(self, gradient: Array) -> Array | None:
        """Return dx (in, N) for dy (out, N)."""
        np.matmul(gradient, self._inputs.T, out=self.weight_gradient)
        np.matmul(gradient, ones(gradient.shape[1], gradient.dtype), out=self.bias_gradient)
        if not self.needs_input_gradient:
            return None
        input_gradient = self._buffers("input gradient", self._inputs.shape, gradient.dtype)
        np.matmul(self.weight.T, gradient, out=input_gradient)
        return input_gradient


class Flatten:
    """(C, H, W, N) to (C H W, N), and back."""

    def forward(self, inputs: Array) -> Array:
        """Return a view of x."""
        self._shape = inputs.shape
        return inputs.reshape(-1, inputs.shape[-1])

    def backward(self, gradient: Array | None) -> Array | None:
        """Return a view of dy, or None if there is none."""
        return None if gradient is None else gradient.reshape(self._shape)


class Activation:
    """relu, sigmoid, tanh or gelu, out of place; `plain` has their formulas."""

    def __init__(self, function: str) -> None:
        self._function = function
        self._buffers = Buffers()

    def forward(self, inputs: Array) -> Array:
        """Return y."""
        outputs = self._buffers("outputs", inputs.shape, inputs.dtype)
        self._inputs, self._outputs = inputs, outputs
        match self._function:
            case "relu":
                np.maximum(inputs, 0, out=outputs)
            case "tanh":
                np.tanh(inputs, out=outputs)
            case "sigmoid":
                np.multiply(inputs, 0.5, out=outputs)
                np.tanh(outputs, out=outputs)
                outputs += 1
                outputs *= 0.5
            case "gelu":
                tanh = self._tanh = self._buffers("tanh", inputs.shape, inputs.dtype)
                np.multiply(inputs, inputs, out=tanh)
                tanh *= _GELU_CUBE
                tanh += 1
                tanh *= inputs
                tanh *= _GELU_SCALE
                np.tanh(tanh, out=tanh)
                np.add(tanh, 1, out=outputs)
                outputs *= inputs
                outputs *= 0.5
        return outputs

    def backward(self, gradient: Array | None) -> Array | None:
        """Return dx, in place of dy, or None if there is none."""
        if gradient is None:
            return None
        match self._function:
            case "relu":
                gradient *= self._outputs > 0
            case "tanh":
                gradient *= 1 - self._outputs * self._outputs
            case "sigmoid":
                gradient *= self._outputs * (1 - self._outputs)
            case "gelu":
                slope = self._buffers("slope", gradient.shape, gradient.dtype)
                np.multiply(self._inputs, self._inputs, out=slope)
                slope *= 3 * _GELU_CUBE * _GELU_SCALE
                slope += _GELU_SCALE
                slope *= self._inputs
                tanh = self._tanh
                slope *= 1 - tanh * tanh
                slope += tanh
                slope += 1
                slope *= 0.5
                gradient *= slope
        return gradient


_GELU_SCALE, _GELU_CUBE = math.sqrt(2 / math.pi), 0.044715


class MaxPool:
    """The maximum over windows that do not overlap; in a tie the first in reading order."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._buffers = Buffers()

    def forward(self, inputs: Array) -> Array:
        """Return y (C, H // size, W // size, N)."""
        self._inputs = inputs
        first, *others = _phases(inputs, self._size)
        self._maxima = self._buffers("maxima", first.shape, inputs.dtype)
        np.copyto(self._maxima, first)
        for phase in others:
            np.maximum(self._maxima, phase, out=self._maxima)
        return self._maxima

    def backward(self, gradient: Array | None) -> Array | None:
        """Return dx, or None if there is no dy, which is overwritten."""
        if gradient is None:
            return None
        input_gradient = self._buffers("input gradient", self._inputs.shape, gradient.dtype)
        if any(side % self._size for side in self._inputs.shape[1:3]):
            input_gradient[...] = 0  # rows and columns that no window reads
        is_maximum = self._buffers("is maximum", gradient.shape, bool)
        phases = _phases(self._inputs, self._size)
        for phase, target in zip(phases, _phases(input_gradient, self._size), strict=True):
            np.equal(phase, self._maxima, out=is_maximum)
            np.multiply(gradient, is_maximum, out=target)
            gradient -= target  # so that an equal in a later phase gets 0
        return input_gradient


class AveragePool:
    """The mean over windows that do not overlap."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._buffers = Buffers()

    def forward(self, inputs: Array) -> Array:
        """Return y (C, H // size, W // size, N)."""
        self._input_shape = inputs.shape
        first, *others = _phases(inputs, self._size)
        outputs = self._buffers("outputs", first.shape, inputs.dtype)
        np.copyto(outputs, first)
        for phase in others:
            outputs += phase
        outputs *= 1 / self._size**2
        return outputs

    def backward(self, gradient: Array | None) -> Array | None:
        """Return dx, or None if there is no dy, which is overwritten."""
        if gradient is None:
            return None
        gradient *= 1 / self._size**2
        input_gradient = self._buffers("input gradient", self._input_shape, gradient.dtype)
        if any(side % self._size for side in self._input_shape[1:3]):
            input_gradient[...] = 0
        for target in _phases(input_gradient, self._size):
            np.copyto(target, gradient)
        return input_gradient


def _phases(images: Array, size: int) -> list[Array]:
    """Return views of images (C, H, W, N), one for each place in a window, in reading order."""
    rows, columns = images.shape[1] // size * size, images.shape[2] // size * size
    whole = images[:, :rows, :columns]
    return [whole[:, i::size, j::size] for i, j in np.ndindex(size, size)]


class BatchNorm(ParametricLayer):
    """Batch normalisation over the batch of all workers.

    ``statistics`` are the running mean and variance. Into ``new_statistics`` the first worker
    writes those of the batch, the others write zeros: the optimiser moves the running ones there.
    """

    step: Step | None = None

    def __init__(
        self, *arrays: Array, statistics: Sequence[Array], new_statistics: Sequence[Array]
    ) -> None:
        super().__init__(*arrays)
        self._statistics, self._new_statistics = statistics, new_statistics

    def forward(self, inputs: Array) -> Array:
        """Return y for x, (C, H, W, N) or (features, N)."""
        rows = inputs.reshape(len(self.bias), -1)
        outputs = self._buffers("outputs", rows.shape, inputs.dtype)
        if self.step is None:
            mean, variance = self._statistics
            scale = self.weight / np.sqrt(variance + EPSILON)
            np.multiply(rows, scale[:, np.newaxis], out=outputs)
            outputs += (self.bias - mean * scale)[:, np.newaxis]
            return outputs.reshape(inputs.shape)
        step = self.step
        self._count = step.batch_size * math.prod(inputs.shape[1:-1])
        mean = step.sum_over_workers(rows @ ones(rows.shape[1], rows.dtype)) / self._count
        normalised = self._buffers("normalised", rows.shape, inputs.dtype)
        self._normalised = normalised
        np.subtract(rows, mean[:, np.newaxis], out=normalised)
        variance = step.sum_over_workers(_row_products(normalised, normalised)) / self._count
        self._scale = 1 / np.sqrt(variance + EPSILON)
        normalised *= self._scale[:, np.newaxis]
        np.multiply(normalised, self.weight[:, np.newaxis], out=outputs)
        outputs += self.bias[:, np.newaxis]
        unbiased = variance * (self._count / max(self._count - 1, 1))
        for new, found in zip(self._new_statistics, (mean, unbiased), strict=True):
            new[...] = found if step.is_first else 0
        return outputs.reshape(inputs.shape)

    def backward(self, gradient: Array) -> Array | None:
        """Return dx for dy."""
        rows = gradient.reshape(len(self.bias), -1)
        if self.step is None:  # a fixed scale and shift, whose weights do not learn
            rows *= (self.weight / np.sqrt(self._statistics[1] + EPSILON))[:, np.newaxis]
            return rows.reshape(gradient.shape)
        np.matmul(rows, ones(rows.shape[1], rows.dtype), out=self.bias_gradient)
        self.weight_gradient[...] = _row_products(rows, self._normalised)
        sums = self.step.sum_over_workers(np.stack([self.bias_gradient, self.weight_gradient]))
        bias_sum, weight_sum = sums / self._count
        input_gradient = self._buffers("input gradient", rows.shape, gradient.dtype)
        np.multiply(self._normalised, -weight_sum[:, np.newaxis], out=input_gradient)
        input_gradient += rows
        input_gradient -= bias_sum[:, np.newaxis]
        input_gradient *= (self.weight * self._scale)[:, np.newaxis]
        return input_gradient.reshape(gradient.shape)


def _row_products(rows: Array, others: Array) -> Array:
    """Return the scalar product of each row (k, n) with that of the other, by BLAS: (k,)."""
    products: Array = np.matmul(rows[:, np.newaxis], others[:, :, np.newaxis])[:, 0, 0]
    return products


class Dropout:
    """Keeps, while training, what the mask number ``index`` of the step keeps."""

    step: Step | None = None

    def __init__(self, probability: float, index: int) -> None:
        self._factor, self._index = 1 / (1 - probability), index
        self._buffers = Buffers()

    def forward(self, inputs: Array) -> Array:
        """Return y."""
        if self.step is None:
            return inputs
        self._kept = self._buffers("kept", inputs.shape, inputs.dtype)
        mask = np.moveaxis(self.step.masks[self._index], 0, -1)
        np.multiply(mask, inputs.dtype.type(self._factor), out=self._kept)
        outputs = self._buffers("outputs", inputs.shape, inputs.dtype)
        return np.multiply(inputs, self._kept, out=outputs)

    def backward(self, gradient: Array | None) -> Array | None:
        """Return dx, in place of dy, or None if there is none."""
        if gradient is not None and self.step is not None:
            gradient *= self._kept
        return gradient


class Residual:
    """x plus what the layers of ``body`` make of it."""

    def __init__(self, body: Sequence[Any]) -> None:
        self.body = body
        self._buffers = Buffers()

    def forward(self, inputs: Array) -> Array:
        """Return y."""
        hidden = inputs
        for layer in self.body:
            hidden = layer.forward(hidden)
        outputs = self._buffers("outputs", inputs.shape, inputs.dtype)
        return np.add(inputs, hidden, out=outputs)

    def backward(self, gradient: Array | None) -> Array | None:
        """Return dx, or None if there is no dy, which is overwritten."""
        if gradient is None:
            return None
        total = self._buffers("input gradient", gradient.shape, gradient.dtype)
        np.copyto(total, gradient)  # the body changes its copy
        hidden: Any = gradient
        for layer in reversed(self.body):
            hidden = layer.backward(hidden)
        total += hidden
        return total


class ImagesLast:
    """Images (N, H, W, 1), or the outputs of a block, (H, W, N, C), to (C, H, W, N), and back."""

    def __init__(self, *, of_blocks: bool) -> None:
        self._axes = (3, 0, 1, 2) if of_blocks else (3, 1, 2, 0)
        self._buffers = Buffers()

    def forward(self, inputs: Array) -> Array:
        """Return a copy of x."""
        view = inputs.transpose(self._axes)
        outputs = self._buffers("outputs", view.shape, inputs.dtype)
        np.copyto(outputs, view)
        return outputs

    def backward(self, gradient: Array | None) -> Array | None:
        """Return a copy of dy, or None if there is none."""
        if gradient is None:
            return None
        view = gradient.transpose(np.argsort(self._axes))
        copy = self._buffers("gradient", view.shape, gradient.dtype)
        np.copyto(copy, view)
        return copy


class ImagesFirst:
    """Logits (classes, N) to (N, classes), as the layers of `layers` have them, and back: views."""

    def forward(self, inputs: Array) -> Array:
        """Return x transposed."""
        outputs: Array = inputs.T
        return outputs

    def backward(self, gradient: Array) -> Array:
        """Return dy transposed, to be overwritten."""
        transposed: Array = gradient.T
        return transposed

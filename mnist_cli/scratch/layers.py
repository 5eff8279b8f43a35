"""The layers of the network, forwards and backwards, by hand.

Every layer has two methods. ``forward`` maps a batch of inputs to outputs, and remembers what the
way back needs. ``backward`` takes the gradient of the loss in those outputs and returns it in the
inputs, by the chain rule; on the way it leaves the gradient in the layer's own weights. Below, x
is an input, y an output, and dx is short for dL/dx, an array shaped as x.

Images are (N, H, W, C), channels last, so that the channels of a pixel lie side by side in memory.
The number type is that of the weights: float32 to train, float64 to check gradients.

Outputs live in buffers that the layer's next call overwrites, and a layer may change in place what
it is given. Fresh memory for every call would come from the operating system page by page, each one
zeroed first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import TypeAlias

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import DTypeLike

from mnist_cli.arrays import Array

# Images (N, H, W, C) sorted by the place, (row, column), of a pixel in its 2x2 pooling window: four
# arrays (N, H/2, W/2, C), in reading order.
PLACES = ((0, 0), (0, 1), (1, 0), (1, 1))
Quarters: TypeAlias = Sequence[Array]


class Buffers:
    """Memory by name, kept from call to call and replaced only by more."""

    def __init__(self) -> None:
        self._memory: dict[str, Array] = {}
        self._latest: dict[str, Array] = {}

    def __call__(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """Return a C-contiguous array of ``shape``; what stands in it is of an earlier call."""
        latest = self._latest.get(name)
        if latest is not None and latest.shape == shape:
            return latest
        size = math.prod(shape)
        memory = self._memory.get(name)
        if memory is None or memory.size < size:
            memory = self._memory[name] = np.empty(size, dtype)
        self._latest[name] = memory[:size].reshape(shape)
        return self._latest[name]


def pieces(count: int, size: int) -> list[slice]:
    """Return slices of ``size`` that cover ``range(count)`` between them, the last maybe less."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


class Weighted:
    """A layer with a weight and a bias, and an array for the gradient in each.

    ``needs_input_gradient`` False leaves dx out: nothing stands before the first layer.
    """

    def __init__(
        self,
        weight: Array,
        bias: Array,
        weight_gradient: Array,
        bias_gradient: Array,
        *,
        needs_input_gradient: bool = True,
    ) -> None:
        self.weight = weight
        self.bias = bias
        self.weight_gradient = weight_gradient
        self.bias_gradient = bias_gradient
        self.needs_input_gradient = needs_input_gradient
        self._buffers = Buffers()

    def share_buffers(self, twin: Weighted) -> None:
        """Work in a layer's memory, which never goes forward before this one has gone back."""
        self._buffers = twin._buffers


# Arrays to read only, which a step would otherwise fill anew many times.
ones, zeros = cache(np.ones), cache(np.zeros)


def sum_rows(rows: Array, total: Array) -> None:
    """Put the sum of rows (n, k) into ``total`` (k,), by BLAS: NumPy takes short rows singly."""
    np.matmul(ones(len(rows), rows.dtype), rows, out=total)


class Dense(Weighted):
    """A fully connected layer: y = x W + b, with W (in, out) and b (out,).

    Backwards: dW = x^T dy, db = the sum of dy over the batch, dx = dy W^T. W is the canonical
    weight transposed: so no product of a forward pass has a transpose, and BLAS is faster.
    """

    def forward(self, inputs: Array) -> Array:
        """Return y (N, out) of x (N, in)."""
        self._inputs = inputs
        shape = (len(inputs), len(self.bias))
        outputs = self._buffers("outputs", shape, self.weight.dtype)
        np.matmul(inputs, self.weight, out=outputs)
        outputs += self.bias
        return outputs

    def backward(self, gradient: Array) -> Array | None:
        """Return dx (N, in) of dy (N, out)."""
        np.matmul(self._inputs.T, gradient, out=self.weight_gradient)
        sum_rows(gradient, self.bias_gradient)
        if not self.needs_input_gradient:
            return None
        input_gradient = self._buffers("input gradient", self._inputs.shape, self.weight.dtype)
        np.matmul(gradient, self.weight.T, out=input_gradient)
        return input_gradient


class Flatten:
    """(N, H, W, C) to (N, H W C), and back: the same numbers, read as rows."""

    def forward(self, inputs: Array) -> Array:
        """Return a view of x."""
        self._shape = inputs.shape
        return inputs.reshape(len(inputs), math.prod(inputs.shape[1:]))

    def backward(self, gradient: Array | None) -> Array | None:
        """Return a view of dy, if there is one."""
        return None if gradient is None else gradient.reshape(self._shape)


class Relu:
    """y = max(x, 0). Backwards: dx = dy where x > 0, else 0 (at x = 0 too, as in PyTorch)."""

    def forward(self, inputs: Array) -> Array:
        """Return y, in x's place."""
        # Zeros of the same shape: NumPy takes a third of the time that it takes against one number.
        self._outputs = np.maximum(inputs, zeros(inputs.shape, inputs.dtype), out=inputs)
        return self._outputs

    def backward(self, gradient: Array) -> Array:
        """Return dx, in dy's place."""
        is_active = np.greater(self._outputs, zeros(gradient.shape, gradient.dtype))
        return np.multiply(gradient, is_active, out=gradient)


class Sigmoid:
    """y = 1 / (1 + exp(-x)). Backwards: dx = dy y (1 - y)."""

    def forward(self, inputs: Array) -> Array:
        """Return y, in x's place."""
        # The same function is (1 + tanh(x / 2)) / 2, which has no exp to overflow.
        inputs *= 0.5
        np.tanh(inputs, out=inputs)
        inputs += 1
        inputs *= 0.5
        self._outputs = inputs
        return inputs

    def backward(self, gradient: Array) -> Array:
        """Return dx, in dy's place."""
        gradient *= self._outputs
        gradient *= 1 - self._outputs
        return gradient


class MaxPool:
    """The maximum over 2x2 windows, stride 2, of images that come as `Quarters`.

    Backwards the gradient of a window goes to its maximum; among equals to the first in reading
    order, as in PyTorch. Ties are everyday: on a flat background all four numbers agree.
    """

    def __init__(self) -> None:
        self._buffers = Buffers()

    def forward(self, quarters: Quarters) -> Array:
        """Return y (N, H/2, W/2, C)."""
        first, second, *others = quarters
        self._quarters = quarters
        self._maxima = self._buffers("maxima", first.shape, first.dtype)
        np.maximum(first, second, out=self._maxima)
        for quarter in others:
            np.maximum(self._maxima, quarter, out=self._maxima)
        # A copy, because the next layer may work in place, and backward compares with the maxima.
        outputs = self._buffers("outputs", first.shape, first.dtype)
        np.copyto(outputs, self._maxima)
        return outputs

    def backward(self, gradient: Array) -> Quarters:
        """Return dx as `Quarters` of dy (N, H/2, W/2, C); dy is used up."""
        is_maximum = self._buffers("is maximum", gradient.shape, bool)
        shares = []
        for place, quarter in enumerate(self._quarters[:-1]):
            share = self._buffers(f"share {place}", gradient.shape, gradient.dtype)
            np.equal(quarter, self._maxima, out=is_maximum)
            np.multiply(gradient, is_maximum, out=share)
            gradient -= share  # given away: an equal in a later place gets 0
            shares.append(share)
        return [*shares, gradient]  # the last place gets what no other took


class Conv(Weighted):
    """A 3x3 convolution with zero padding, C channels in and K out; even height and width.

        y[n, h, w, k] = b[k] + sum over i, j, c of x[n, h + i - 1, w + j - 1, c] W[j, i, c, k]

    The weight is (width, height, in, out): the canonical one with its axes reversed.

    *Forwards.* The common way to one matrix product is im2col: copy the 3x3 pixels around each
    pixel into one row, (N H W, 9 C), and multiply by the weights, (9 C, K). Here only the 3 pixels
    above one another are copied side by side, and a column of zeros is put at either end: the
    *stack*, (N, H, W + 2, 3, C). The 9 C numbers around column w are then the slice
    ``stack[n, h, w : w + 3]``, and already lie in a row. For a fixed w these rows, of all n and h,
    are a constant distance apart, which is all that BLAS asks of a matrix. So there is one product
    for each column of the output, and a third of im2col's copying and memory.

    The output comes as `Quarters`, because a pool follows: sorting it costs nothing here (each
    quarter steps over every other row and column), and the pool can compare whole arrays.

    *Backwards.* db = sum of dy; dW = sum of window^T dy over all windows. x[h, w] acts on
    y[h + 1 - i, w + 1 - j] through W[j, i], so dx is a convolution too: of dy, by the weight with
    both its sides reversed, and in and out swapped.
    """

    def forward(self, inputs: Array) -> Quarters:
        """Return y as `Quarters`, each (N, H/2, W/2, K), of x (N, H, W, C)."""
        count, height, width, channels = inputs.shape
        stack_shape = (count, height, width + 2, 3, channels)
        self._stack = self._buffers("stack", stack_shape, self.weight.dtype)
        self._stack[:, :, 1:-1, 1] = inputs
        _fill_above_and_below(self._stack)

        kernel = self.weight.reshape(9 * channels, -1)  # (3, 3, C, K) -> (9 C, K)
        quarter_shape = (count, height // 2, width // 2, len(self.bias))
        quarters = []
        for place in PLACES:
            quarter = self._buffers(f"quarter {place}", quarter_shape, self.weight.dtype)
            np.matmul(_windows(self._stack, place), kernel, out=_columns(quarter))
            rows = _image_rows(quarter)
            rows += np.tile(self.bias, width // 2)
            quarters.append(quarter)
        return quarters

    def backward(self, gradients: Quarters) -> Array | None:
        """Return dx (N, H, W, C) of dy as `Quarters`."""
        filters = len(self.bias)
        self.weight_gradient[...] = 0
        self.bias_gradient[...] = 0
        for place, gradient in zip(PLACES, gradients, strict=True):
            windows = _windows(self._stack, place).transpose(0, 2, 1)  # (W/2, 9 C, N H/2)
            shape = (len(windows), 9 * self.weight.shape[2], filters)
            products = self._buffers("products", shape, self.weight.dtype)
            np.matmul(windows, _columns(gradient), out=products)
            self.weight_gradient += products.sum(axis=0).reshape(self.weight.shape)
            self.bias_gradient += _image_rows(gradient).sum(axis=0).reshape(-1, filters).sum(axis=0)
        return self._input_gradient(gradients) if self.needs_input_gradient else None

    def _input_gradient(self, gradients: Quarters) -> Array:
        count, height, padded_width, _, channels = self._stack.shape
        filters = len(self.bias)
        stack_shape = (count, height, padded_width, 3, filters)
        stack = self._buffers("gradient stack", stack_shape, self.weight.dtype)
        for (row, column), gradient in zip(PLACES, gradients, strict=True):
            stack[:, row::2, 1 + column : -1 : 2, 1] = gradient
        _fill_above_and_below(stack)
        # (3, 3, C, K) -> (9 K, C)
        turned = self.weight[::-1, ::-1].transpose(0, 1, 3, 2).reshape(9 * filters, channels)
        input_shape = (count, height, padded_width - 2, channels)
        input_gradient = self._buffers("input gradient", input_shape, self.weight.dtype)
        np.matmul(_windows(stack), turned, out=_columns(input_gradient))
        return input_gradient


def _fill_above_and_below(stack: Array) -> None:
    """Beside each pixel, ``stack[n, h, w, 1]``, put the one above it (0) and the one below (2).

    Where there is none, at the edge of the image, put zeros.
    """
    stack[:, :, 0] = stack[:, :, -1] = 0
    stack[:, 0, :, 0] = stack[:, -1, :, 2] = 0
    stack[:, 1:, :, 0] = stack[:, :-1, :, 1]
    stack[:, :-1, :, 2] = stack[:, 1:, :, 1]


def _windows(stack: Array, place: tuple[int, int] | None = None) -> Array:
    """Return the 3x3 windows of a stack (N, H, W + 2, 3, C), without copying: (W, N H, 9 C).

    With a ``place`` only those around the pixels of that quarter: (W/2, N H/2, 9 C).
    """
    count, height, padded_width, _, channels = stack.shape
    width = padded_width - 2
    _, row_stride, column_stride, _, stride = stack.strides
    row, column = place or (0, 0)
    step = 2 if place else 1
    return as_strided(
        stack[:, row:, column:],
        shape=(width // step, count * height // step, 9 * channels),
        strides=(step * column_stride, step * row_stride, stride),
        writeable=False,
    )


def _columns(images: Array) -> Array:
    """Return images (N, H, W, C) as one matrix for each column, without copying: (W, N H, C)."""
    count, height, width, channels = images.shape
    columns: Array = images.reshape(count * height, width, channels).transpose(1, 0, 2)
    return columns


def _image_rows(images: Array) -> Array:
    """Return images (N, H, W, C) as (N H, W C).

    NumPy works row by row: a long row takes it far less time than W short ones.
    """
    count, height, width, channels = images.shape
    return images.reshape(count * height, width * channels)

"""The layers of the network, with forward and backward passes written out.

Every layer has two methods. ``forward`` maps a batch of inputs to outputs and stores what the
backward pass needs. ``backward`` takes the gradient of the loss with respect to the outputs and
returns that with respect to the inputs, by the chain rule; it also computes the gradients of the
layer's own parameters. Below, x is an input, y an output, and dx is short for dL/dx, an array with
the shape of x.

Images are (N, H, W, C), channels last, so that the channels of a pixel are adjacent in memory. The
dtype is that of the weights: float32 for training, float64 for checking gradients.

Outputs are stored in buffers that the layer's next call overwrites, and a layer may change its
input in place. New memory for every call would come from the operating system page by page, each
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

# Images (N, H, W, C) split by the phase of a pixel, its (row, column) within its 2x2 pooling
# window: four arrays (N, H/2, W/2, C), in reading order.
PHASES = ((0, 0), (0, 1), (1, 0), (1, 1))
Phases: TypeAlias = Sequence[Array]


class Buffers:
    """Named buffers that are reused from call to call, and only grow."""

    def __init__(self) -> None:
        self._memory: dict[str, Array] = {}
        self._latest: dict[str, Array] = {}

    def __call__(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """Return a C-contiguous array of ``shape`` with the contents of an earlier call."""
        latest = self._latest.get(name)
        if latest is not None and latest.shape == shape:
            return latest
        size = math.prod(shape)
        memory = self._memory.get(name)
        if memory is None or memory.size < size:
            memory = self._memory[name] = np.empty(size, dtype)
        self._latest[name] = memory[:size].reshape(shape)
        return self._latest[name]


class ParametricLayer:
    """A layer with a weight and a bias, and an array for the gradient of each.

    With ``needs_input_gradient`` False dx is not computed: the first layer needs none.
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

    def share_buffers(self, other: ParametricLayer) -> None:
        """Use the buffers of another layer, whose passes never overlap with those of this one."""
        self._buffers = other._buffers


# Constant arrays, which a step would otherwise fill again many times; never to be changed.
ones, zeros = cache(np.ones), cache(np.zeros)


def sum_rows(rows: Array, total: Array) -> None:
    """Store the sum of rows (n, k) in ``total`` (k,), by BLAS: NumPy is slow on short rows."""
    np.matmul(ones(len(rows), rows.dtype), rows, out=total)


class Dense(ParametricLayer):
    """A fully connected layer: y = x W + b, with W (in, out) and b (out,).

    Backward: dW = x^T dy, db = the sum of dy over the batch, dx = dy W^T. W is the transpose of
    the canonical weight: the forward product then has no transposed operand, and BLAS is faster.
    """

    def forward(self, inputs: Array) -> Array:
        """Return y (N, out) for x (N, in)."""
        self._inputs = inputs
        shape = (len(inputs), len(self.bias))
        outputs = self._buffers("outputs", shape, self.weight.dtype)
        np.matmul(inputs, self.weight, out=outputs)
        outputs += self.bias
        return outputs

    def backward(self, gradient: Array) -> Array | None:
        """Return dx (N, in) for dy (N, out)."""
        np.matmul(self._inputs.T, gradient, out=self.weight_gradient)
        sum_rows(gradient, self.bias_gradient)
        if not self.needs_input_gradient:
            return None
        input_gradient = self._buffers("input gradient", self._inputs.shape, self.weight.dtype)
        np.matmul(gradient, self.weight.T, out=input_gradient)
        return input_gradient


class Flatten:
    """(N, H, W, C) to (N, H W C), and back, without copying."""

    def forward(self, inputs: Array) -> Array:
        """Return a view of x."""
        self._shape = inputs.shape
        return inputs.reshape(len(inputs), math.prod(inputs.shape[1:]))

    def backward(self, gradient: Array | None) -> Array | None:
        """Return a view of dy, or None if there is none."""
        return None if gradient is None else gradient.reshape(self._shape)


class Relu:
    """y = max(x, 0). Backward: dx = dy where x > 0, else 0 (also at x = 0, as in PyTorch)."""

    def forward(self, inputs: Array) -> Array:
        """Return y, computed in place of x."""
        # Zeros of the same shape: three times as fast in NumPy as a scalar.
        self._outputs = np.maximum(inputs, zeros(inputs.shape, inputs.dtype), out=inputs)
        return self._outputs

    def backward(self, gradient: Array) -> Array:
        """Return dx, computed in place of dy."""
        is_active = np.greater(self._outputs, zeros(gradient.shape, gradient.dtype))
        return np.multiply(gradient, is_active, out=gradient)


class Sigmoid:
    """y = 1 / (1 + exp(-x)). Backward: dx = dy y (1 - y)."""

    def forward(self, inputs: Array) -> Array:
        """Return y, computed in place of x."""
        # Equal to (1 + tanh(x / 2)) / 2, which cannot overflow.
        inputs *= 0.5
        np.tanh(inputs, out=inputs)
        inputs += 1
        inputs *= 0.5
        self._outputs = inputs
        return inputs

    def backward(self, gradient: Array) -> Array:
        """Return dx, computed in place of dy."""
        gradient *= self._outputs
        gradient *= 1 - self._outputs
        return gradient


class MaxPool:
    """The maximum over 2x2 windows, stride 2, of images given as `Phases`.

    Backward: the gradient of a window goes to its maximum, in a tie to the first in reading order,
    as in PyTorch. Ties are common: on a flat background all four numbers are equal.
    """

    def __init__(self) -> None:
        self._buffers = Buffers()

    def forward(self, phases: Phases) -> Array:
        """Return y (N, H/2, W/2, C)."""
        first, second, *others = phases
        self._phases = phases
        self._maxima = self._buffers("maxima", first.shape, first.dtype)
        np.maximum(first, second, out=self._maxima)
        for phase in others:
            np.maximum(self._maxima, phase, out=self._maxima)
        # Copied, because the next layer may compute in place, and `backward` needs the maxima.
        outputs = self._buffers("outputs", first.shape, first.dtype)
        np.copyto(outputs, self._maxima)
        return outputs

    def backward(self, gradient: Array) -> Phases:
        """Return dx as `Phases` for dy (N, H/2, W/2, C), which is overwritten."""
        is_maximum = self._buffers("is maximum", gradient.shape, bool)
        gradients = []
        for number, phase in enumerate(self._phases[:-1]):
            phase_gradient = self._buffers(f"gradient {number}", gradient.shape, gradient.dtype)
            np.equal(phase, self._maxima, out=is_maximum)
            np.multiply(gradient, is_maximum, out=phase_gradient)
            gradient -= phase_gradient  # so that an equal in a later phase gets 0
            gradients.append(phase_gradient)
        return [*gradients, gradient]  # the last phase gets the remainder


class Conv(ParametricLayer):
    """A 3x3 convolution with zero padding, C channels in and K out; even height and width.

        y[n, h, w, k] = b[k] + sum over i, j, c of x[n, h + i - 1, w + j - 1, c] W[j, i, c, k]

    The weight is (width, height, in, out): the canonical one with its axes reversed.

    *Forward.* The usual reduction to one matrix product is im2col: copy the 3x3 pixels around each
    pixel into one row, (N H W, 9 C), and multiply by the weights, (9 C, K). Here only the 3 pixels
    of a column are copied side by side, with a column of zeros at either end: the *stack*,
    (N, H, W + 2, 3, C). The 9 C numbers around column w are then the slice
    ``stack[n, h, w : w + 3]``, which is contiguous. For a fixed w these rows, for all n and h, have
    a constant stride, which is all that BLAS needs. So there is one product per column of the
    output, with a third of im2col's copying and memory.

    The output is returned as `Phases`, because a pool follows: splitting costs nothing here (each
    phase takes every other row and column), and the pool can compare whole arrays.

    *Backward.* db = sum of dy; dW = sum of window^T dy over all windows. x[h, w] affects
    y[h + 1 - i, w + 1 - j] through W[j, i], so dx is a convolution too: of dy with the weight
    flipped in both directions, and in and out swapped.
    """

    def forward(self, inputs: Array) -> Phases:
        """Return y as `Phases`, each (N, H/2, W/2, K), for x (N, H, W, C)."""
        count, height, width, channels = inputs.shape
        stack_shape = (count, height, width + 2, 3, channels)
        self._stack = self._buffers("stack", stack_shape, self.weight.dtype)
        self._stack[:, :, 1:-1, 1] = inputs
        _fill_above_and_below(self._stack)

        kernel = self.weight.reshape(9 * channels, -1)  # (3, 3, C, K) -> (9 C, K)
        phase_shape = (count, height // 2, width // 2, len(self.bias))
        phases = []
        for phase in PHASES:
            output = self._buffers(f"phase {phase}", phase_shape, self.weight.dtype)
            np.matmul(_windows(self._stack, phase), kernel, out=_columns(output))
            rows = _image_rows(output)
            rows += np.tile(self.bias, width // 2)
            phases.append(output)
        return phases

    def backward(self, gradients: Phases) -> Array | None:
        """Return dx (N, H, W, C) for dy as `Phases`."""
        filters = len(self.bias)
        self.weight_gradient[...] = 0
        self.bias_gradient[...] = 0
        for phase, gradient in zip(PHASES, gradients, strict=True):
            windows = _windows(self._stack, phase).transpose(0, 2, 1)  # (W/2, 9 C, N H/2)
            shape = (len(windows), 9 * self.weight.shape[2], filters)
            products = self._buffers("products", shape, self.weight.dtype)
            np.matmul(windows, _columns(gradient), out=products)
            self.weight_gradient += products.sum(axis=0).reshape(self.weight.shape)
            self.bias_gradient += _image_rows(gradient).sum(axis=0).reshape(-1, filters).sum(axis=0)
        return self._input_gradient(gradients) if self.needs_input_gradient else None

    def _input_gradient(self, gradients: Phases) -> Array:
        count, height, padded_width, _, channels = self._stack.shape
        filters = len(self.bias)
        stack_shape = (count, height, padded_width, 3, filters)
        stack = self._buffers("gradient stack", stack_shape, self.weight.dtype)
        for (row, column), gradient in zip(PHASES, gradients, strict=True):
            stack[:, row::2, 1 + column : -1 : 2, 1] = gradient
        _fill_above_and_below(stack)
        # (3, 3, C, K) -> (9 K, C)
        flipped = self.weight[::-1, ::-1].transpose(0, 1, 3, 2).reshape(9 * filters, channels)
        input_shape = (count, height, padded_width - 2, channels)
        input_gradient = self._buffers("input gradient", input_shape, self.weight.dtype)
        np.matmul(_windows(stack), flipped, out=_columns(input_gradient))
        return input_gradient


def _fill_above_and_below(stack: Array) -> None:
    """Next to each pixel, ``stack[n, h, w, 1]``, store the one above it (0) and the one below (2).

    At the edges of the image these are zero.
    """
    stack[:, :, 0] = stack[:, :, -1] = 0
    stack[:, 0, :, 0] = stack[:, -1, :, 2] = 0
    stack[:, 1:, :, 0] = stack[:, :-1, :, 1]
    stack[:, :-1, :, 2] = stack[:, 1:, :, 1]


def _windows(stack: Array, phase: tuple[int, int] | None = None) -> Array:
    """Return the 3x3 windows of a stack (N, H, W + 2, 3, C), without copying: (W, N H, 9 C).

    With a ``phase`` only those around its pixels: (W/2, N H/2, 9 C).
    """
    count, height, padded_width, _, channels = stack.shape
    width = padded_width - 2
    _, row_stride, column_stride, _, stride = stack.strides
    row, column = phase or (0, 0)
    step = 2 if phase else 1
    return as_strided(
        stack[:, row:, column:],
        shape=(width // step, count * height // step, 9 * channels),
        strides=(step * column_stride, step * row_stride, stride),
        writeable=False,
    )


def _columns(images: Array) -> Array:
    """Return images (N, H, W, C) as one matrix per column, without copying: (W, N H, C)."""
    count, height, width, channels = images.shape
    columns: Array = images.reshape(count * height, width, channels).transpose(1, 0, 2)
    return columns


def _image_rows(images: Array) -> Array:
    """Return images (N, H, W, C) as (N H, W C), because NumPy is faster on few long rows."""
    count, height, width, channels = images.shape
    return images.reshape(count * height, width * channels)

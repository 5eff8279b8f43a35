"""Dense layers and activations after the blocks, and the buffers that all fast layers use.

``forward`` maps a batch of inputs to outputs and stores what the backward pass needs. ``backward``
takes the gradient of the loss with respect to the outputs and returns that with respect to the
inputs; it also computes the gradients of the layer's own parameters. `scratch.plain` explains the
formulas. Below, x is an input, y an output, and dx is short for dL/dx, an array shaped as x. The
dtype is that of the weights: float32 for training, float64 for checking gradients.

Outputs are stored in buffers that the layer's next call overwrites, and a layer may change its
input in place. New memory for every call would come from the operating system page by page, each
zeroed first.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import DTypeLike

from mnist_cli.arrays import Array


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

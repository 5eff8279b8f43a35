"""The MLP fused: what `layers.Dense`, an activation and another `Dense` do in sequence.

A step of 64 images consists of two matrix products of some 80 microseconds each and twenty calls of
1 to 4 microseconds, so it matters that a layer looks up its buffers and views in every call. Here
they are looked up once for each number of images (`docs/performance.md`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from mnist_cli.arrays import Array
from mnist_cli.scratch.engine.layers import Buffers, Relu, Sigmoid, ones

_Functions: TypeAlias = tuple[Callable[[Array], Array], Callable[[Array], None]]


class Mlp:
    """The MLP, or one shard of its hidden units: the logits are the sum over all shards.

    ``weights`` are (784, hidden), bias (hidden,), output weights (hidden, classes) and output
    bias (classes,); ``gradients`` likewise. ``adds_output_bias`` is true for one shard only.
    ``small_kernels`` says that BLAS has kernels for small matrices. The plain form is in `layers`;
    this one is tested against it.
    """

    stateful: Sequence[Any] = ()  # see `worker.Model`

    def __init__(
        self,
        weights: Sequence[Array],
        gradients: Sequence[Array],
        activation: Relu | Sigmoid,
        *,
        adds_output_bias: bool,
        small_kernels: bool,
    ) -> None:
        self._weights, self._gradients, self._activation = weights, gradients, activation
        self._adds_output_bias, self._small_kernels = adds_output_bias, small_kernels
        self._buffers = Buffers()
        self._functions: dict[int, _Functions] = {}

    def forward(self, images: Array) -> Array:
        """See `worker.Model.forward`."""
        count = len(images)
        if count not in self._functions:
            self._functions[count] = self._build_passes(count)
        forward, self._backward = self._functions[count]
        return forward(images)

    def backward(self, gradient: Array) -> None:
        """See `worker.Model.backward`."""
        self._backward(gradient)

    def share_buffers(self, other: Mlp) -> None:
        """See `worker.Model.share_buffers`."""
        self._buffers = other._buffers
        self._functions.clear()

    def _build_passes(self, count: int) -> _Functions:
        """Return the functions ``forward`` and ``backward`` for ``count`` images.

        Hidden units are (n, hidden) and logits (classes, n): the fastest layouts for the products
        and for the loss.
        """
        weight, bias, output_weight, output_bias = self._weights
        weight_gradient, bias_gradient, output_weight_gradient, output_bias_gradient = (
            self._gradients
        )
        activation, adds_output_bias = self._activation, self._adds_output_bias
        pixels, units = weight.shape
        dtype = weight.dtype
        splits = splits_for(count, small_kernels=self._small_kernels)

        products = self._buffers("products", (splits, count, units), dtype)
        hidden = self._buffers("hidden", (count, units), dtype) if splits > 1 else products[0]
        hidden_gradient = self._buffers("hidden gradient", (count, units), dtype)
        logits = self._buffers("logits", (len(output_bias), count), dtype)
        # Views of these in other shapes.
        product_rows, hidden_row, hidden_columns = (
            products.reshape(splits, -1),
            hidden.reshape(-1),
            hidden.T,
        )
        output_weight_columns, output_bias_column = output_weight.T, output_bias[:, np.newaxis]
        split_shape = (count, splits, pixels // splits)
        split_weight = weight.reshape(splits, pixels // splits, units)
        split_weight_gradient = weight_gradient.reshape(split_weight.shape)
        # Sums by BLAS, because NumPy is slow on short rows.
        split_ones, image_ones = ones(splits, dtype), ones(count, dtype)
        inputs: Array  # the latest images, (splits, n, pixels / splits)

        def forward(images: Array) -> Array:
            nonlocal inputs
            inputs = images.reshape(split_shape).swapaxes(0, 1)
            np.matmul(inputs, split_weight, out=products)
            if splits > 1:
                np.matmul(split_ones, product_rows, out=hidden_row)
            np.add(hidden, bias, out=hidden)
            activation.forward(hidden)
            np.matmul(output_weight_columns, hidden_columns, out=logits)
            if adds_output_bias:
                np.add(logits, output_bias_column, out=logits)
            return logits

        def backward(gradient: Array) -> None:
            np.matmul(gradient.T, output_weight_columns, out=hidden_gradient)
            np.matmul(hidden_columns, gradient.T, out=output_weight_gradient)
            if adds_output_bias:
                np.add.reduce(gradient, axis=1, out=output_bias_gradient)
            activation.backward(hidden_gradient)
            np.matmul(image_ones, hidden_gradient, out=bias_gradient)
            np.matmul(inputs.swapaxes(1, 2), hidden_gradient, out=split_weight_gradient)

        return forward, backward


def splits_for(count: int, *, small_kernels: bool) -> int:
    """Return the number of splits of the first product for ``count`` images.

    For OpenBLAS's small-matrix kernels (`blocks.SplitDense`). With 64 hidden units, the shard of
    one of two workers, the whole product is small enough up to 19 images, and a split up to 139;
    more than 64 images have not been tried. Without such kernels splitting costs time.
    """
    return 7 if small_kernels and 16 < count <= 64 else 1

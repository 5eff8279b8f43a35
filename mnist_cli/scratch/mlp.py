"""The MLP in one piece: what `layers.Dense`, an activation and another `Dense` do in a row.

A step of 64 images is two products of some 80 microseconds and twenty calls of one to four, beside
which it tells that a layer looks up its buffers and views in each call. Here they are bound once
for each number of images (`tests/benchmarks/NOTES.md`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from mnist_cli.arrays import CLASSES, Array
from mnist_cli.scratch.layers import Buffers, Relu, Sigmoid, ones

_Passes: TypeAlias = tuple[Callable[[Array], Array], Callable[[Array], None]]


class Mlp:
    """Hidden units and what they add to the logits; the rest, if there is one, is other members'.

    ``weights`` are those of the hidden units, (784, hidden), their bias, (hidden,), those of the
    logits, (hidden, 10), and their bias, (10,); ``gradients`` alike. ``has_bias`` says that the
    logits' bias is added here: in all members but one it stays 0. ``small_kernels`` is that of
    `network.Network`. The plain statement is in `layers`; the tests hold this one to it.
    """

    def __init__(
        self,
        weights: Sequence[Array],
        gradients: Sequence[Array],
        activation: Relu | Sigmoid,
        *,
        has_bias: bool,
        small_kernels: bool,
    ) -> None:
        self._weights, self._gradients, self._activation = weights, gradients, activation
        self._has_bias, self._small_kernels = has_bias, small_kernels
        self._buffers = Buffers()
        self._passes: dict[int, _Passes] = {}

    def forward(self, images: Array) -> Array:
        """See `network.Passes.forward`."""
        count = len(images)
        if count not in self._passes:
            self._passes[count] = self._bind(count)
        forward, self._backward = self._passes[count]
        return forward(images)

    def backward(self, gradient: Array) -> None:
        """See `network.Passes.backward`."""
        self._backward(gradient)

    def share_buffers(self, twin: Mlp) -> None:
        """See `network.Passes.share_buffers`."""
        self._buffers = twin._buffers
        self._passes.clear()

    def _bind(self, count: int) -> _Passes:
        """Return ``forward`` and ``backward`` for ``count`` images.

        Inside, hidden units are rows, (n, hidden), and logits columns, (10, n): so the products are
        fastest, and the loss.
        """
        weight, bias, output_weight, output_bias = self._weights
        weight_gradient, bias_gradient, output_weight_gradient, output_bias_gradient = (
            self._gradients
        )
        activation, has_bias = self._activation, self._has_bias
        pixels, units = weight.shape
        dtype = weight.dtype
        strips = strips_for(count, small_kernels=self._small_kernels)

        products = self._buffers("products", (strips, count, units), dtype)
        hidden = self._buffers("hidden", (count, units), dtype) if strips > 1 else products[0]
        hidden_gradient = self._buffers("hidden gradient", (count, units), dtype)
        logits = self._buffers("logits", (CLASSES, count), dtype)
        # The same in other shapes.
        product_rows, hidden_row, hidden_columns = (
            products.reshape(strips, -1),
            hidden.reshape(-1),
            hidden.T,
        )
        output_weight_columns, output_bias_column = output_weight.T, output_bias[:, np.newaxis]
        cut_shape = (count, strips, pixels // strips)
        cut_weight = weight.reshape(strips, pixels // strips, units)
        cut_weight_gradient = weight_gradient.reshape(cut_weight.shape)
        # Sums go through BLAS: NumPy takes short rows singly.
        strip_ones, image_ones = ones(strips, dtype), ones(count, dtype)
        cut: Array  # the latest images, (strips, n, pixels / strips)

        def forward(images: Array) -> Array:
            nonlocal cut
            cut = images.reshape(cut_shape).swapaxes(0, 1)
            np.matmul(cut, cut_weight, out=products)
            if strips > 1:
                np.matmul(strip_ones, product_rows, out=hidden_row)
            np.add(hidden, bias, out=hidden)
            activation.forward(hidden)
            np.matmul(output_weight_columns, hidden_columns, out=logits)
            if has_bias:
                np.add(logits, output_bias_column, out=logits)
            return logits

        def backward(gradient: Array) -> None:
            np.matmul(gradient.T, output_weight_columns, out=hidden_gradient)
            np.matmul(hidden_columns, gradient.T, out=output_weight_gradient)
            if has_bias:
                np.add.reduce(gradient, axis=1, out=output_bias_gradient)
            activation.backward(hidden_gradient)
            np.matmul(image_ones, hidden_gradient, out=bias_gradient)
            np.matmul(cut.swapaxes(1, 2), hidden_gradient, out=cut_weight_gradient)

        return forward, backward


def strips_for(count: int, *, small_kernels: bool) -> int:
    """Return into how many strips of rows to cut ``count`` images, their products added up.

    For OpenBLAS's quick ways with small matrices (`blocks.SplitDense`). For 64 hidden units, a
    member's of two, the whole is small enough up to 19 images, a strip up to 139: strips of more
    than 64 have not been tried. Without those ways cutting costs time.
    """
    return 7 if small_kernels and 16 < count <= 64 else 1

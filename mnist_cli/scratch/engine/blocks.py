"""Fast layers: convolution, bias, ReLU and 2x2 max-pool fused, and a dense layer in splits.

A block computes what `plain.Conv`, `plain.Pool` and `plain.Relu` do in sequence, `SplitDense` what
`plain.Dense` does. Those are the plain form, and the fast layers are tested against them.
Three things make the blocks faster; `SplitDense` explains its own gain.

*Layout.* Images are (H, W, N, C): the position in the batch is next to the channel. The values of
one pixel over the whole batch are contiguous, N C of them, so that strided access to columns and
rows moves long runs, and any set of pixels is a matrix without copying.

*Bands.* A block processes a band of image rows at a time, from the products to the pool, while the
band is in the L2 cache. Of the four values of a pooling window only the maximum and its position
are stored.

*Order.* Bias and ReLU come after the pool: neither changes which number is the largest, and there
are only a quarter as many values.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import as_strided

from mnist_cli.arrays import Array
from mnist_cli.scratch.engine.layers import ParametricLayer, sum_rows, zeros
from mnist_cli.scratch.engine.slices import chunk_slices

# Winograd's F(2x2, 3x3) (Lavin and Gray, 2016, arXiv:1509.09308): four outputs of a 3x3
# convolution from a 4x4 tile t by 16 products in place of 36,
#     outputs = A ((G w G^T) * (B t B^T)) A^T,    with * elementwise.
# Multiplication by B is written out in `_to_tiles`.
_A = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])
_G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])


class _Block(ParametricLayer):
    """What both blocks share: pool, then bias and ReLU, with their backward passes."""

    _is_argmax: Array  # (4, H/2, W/2, N, K), bool: which phase has the window's maximum
    _outputs: Array  # (H/2, W/2, N, K)

    def _allocate_outputs(self, rows: int, columns: int, count: int) -> None:
        """Allocate the outputs of ``rows`` x ``columns`` windows of ``count`` images."""
        shape = (rows, columns, count, len(self.bias))
        self._is_argmax = self._buffers("is argmax", (4, *shape), bool)
        self._outputs = self._buffers("outputs", shape, self.weight.dtype)

    def _pool(self, phases: Array, band: slice) -> None:
        """Pool a band of window rows; ``phases`` (4, ...) are overwritten."""
        shape = self._outputs[band].shape
        above_left, above_right, below_left, below_right = phases.reshape(4, *shape)
        # Four masks, the last two of which also hold intermediate results: of the four values the
        # first is the maximum if it is at least the second and the upper pair at least the lower.
        one, two, three, four = self._is_argmax[:, band]
        # Compare pairs, then their maxima. In a tie ">=" chooses the first in reading order, as in
        # PyTorch.
        np.greater_equal(above_left, above_right, out=one)
        np.greater_equal(below_left, below_right, out=three)
        above = np.maximum(above_left, above_right, out=above_left)
        below = np.maximum(below_left, below_right, out=below_left)
        is_above = np.greater_equal(above, below, out=two)
        np.maximum(above, below, out=self._outputs[band])
        np.logical_or(is_above, three, out=four)
        np.logical_not(four, out=four)
        np.greater(three, is_above, out=three)  # for booleans a > b means: a and not b
        np.logical_and(one, is_above, out=one)
        np.greater(is_above, one, out=two)

    def _add_bias_and_rectify(self) -> Array:
        """Return max(maxima + bias, 0), computed in place."""
        rows, columns, count, filters = self._outputs.shape
        # NumPy is much faster on rows of N C values than of C.
        long_rows = self._outputs.reshape(rows * columns, count * filters)
        long_rows += np.tile(self.bias, count)
        np.maximum(long_rows, zeros(long_rows.shape[1], long_rows.dtype), out=long_rows)
        return self._outputs

    def _rectify_backward(self, gradient: Array) -> None:
        """Turn dy into the gradient of the maxima, in place, and compute that of the bias."""
        is_active = self._buffers("is active", gradient.shape, bool)
        np.greater(self._outputs, 0, out=is_active)
        np.multiply(gradient, is_active, out=gradient)
        pixels = gradient.reshape(-1, len(self.bias))
        sum_rows(pixels, self.bias_gradient)

    def _unpool(self, gradient: Array, band: slice) -> Array:
        """Return the gradient of the phases, (4, pixels of the band, K)."""
        phases = self._buffers("phase gradients", (4, *gradient[band].shape), self.weight.dtype)
        for phase, is_argmax in zip(phases, self._is_argmax[:, band], strict=True):
            np.multiply(gradient[band], is_argmax, out=phase)
        return phases.reshape(4, -1, len(self.bias))


class DirectBlock(_Block):
    """Convolution, 2x2 max-pool and ReLU fused, for images with one channel, by im2col.

    The weight is (3, 3, 1, K), (width, height, in, out): the canonical one with its axes
    reversed. It is the first layer: dx is not computed.
    """

    def forward(self, inputs: Array) -> Array:
        """Return y (H/2, W/2, N, K) for x (N, H, W, 1)."""
        count, height, width, _ = inputs.shape
        dtype = self.weight.dtype
        padded = self._buffers("padded", (height + 2, width + 2, count), dtype)
        _pad(inputs[..., 0].transpose(1, 2, 0), padded)
        # patches[a, b, j, i, h, w, n] = padded[2 h + a + i, 2 w + b + j, n]: what is multiplied by
        # the weight [j, i] in phase (a, b).
        rows, columns = height // 2, width // 2
        down, right, along = padded.strides
        self._patches = self._buffers("patches", (2, 2, 3, 3, rows, columns, count), dtype)
        self._patches[...] = as_strided(
            padded,
            shape=self._patches.shape,
            strides=(down, right, right, down, 2 * down, 2 * right, along),
            writeable=False,
        )
        self._allocate_outputs(rows, columns, count)
        for band in chunk_slices(rows, 2):
            patches = self._band_of_patches(band)
            shape = (4, patches.shape[2], len(self.bias))
            phases = self._buffers("phases", shape, dtype)
            np.matmul(patches.swapaxes(1, 2), self.weight.reshape(9, -1), out=phases)
            self._pool(phases, band)
        return self._add_bias_and_rectify()

    def backward(self, gradient: Array) -> None:
        """Compute dW and db for dy (H/2, W/2, N, K), which is overwritten."""
        self._rectify_backward(gradient)
        self.weight_gradient[...] = 0
        for band in chunk_slices(len(gradient), 2):
            products = np.matmul(self._band_of_patches(band), self._unpool(gradient, band))
            self.weight_gradient += products.sum(axis=0).reshape(self.weight.shape)

    def _band_of_patches(self, band: slice) -> Array:
        """Return (4, 9, pixels of the band), without copying."""
        patches: Array = self._patches[:, :, :, :, band].reshape(4, 9, -1)
        return patches


class WinogradBlock(_Block):
    """Convolution, 2x2 max-pool and ReLU fused, by Winograd's F(2x2, 3x3).

    16 multiplications where the direct form has 36.

    The 2x2 outputs of a tile are exactly one pooling window. For each of the 16 positions in a tile
    there is one matrix product over the channels: (pixels, C) times (C, K). In the backward pass
    every step is the transpose of the forward one. The weight is (3, 3, C, K), as in
    `DirectBlock`.
    """

    def __init__(
        self, weight: Array, bias: Array, weight_gradient: Array, bias_gradient: Array
    ) -> None:
        super().__init__(weight, bias, weight_gradient, bias_gradient)
        # The transforms of both axes as one matrix: (16, 9), for weight axes (j, i), and (4, 16).
        self._weight_to_tile = np.einsum("pi, qj -> pqji", _G, _G).reshape(16, 9)
        self._weight_to_tile = self._weight_to_tile.astype(weight.dtype)
        self._tile_to_phases = np.kron(_A, _A).astype(weight.dtype)

    def forward(self, inputs: Array) -> Array:
        """Return y (H/2, W/2, N, K) for x (H, W, N, C)."""
        height, width, count, channels = inputs.shape
        filters, dtype = len(self.bias), self.weight.dtype
        rows, columns = height // 2, width // 2
        padded = self._buffers("padded", (height + 2, width + 2, count, channels), dtype)
        _pad(inputs, padded)
        weight_tile = self._weight_to_tile @ self.weight.reshape(9, -1)
        self._weight_tile = weight_tile.reshape(16, channels, filters)
        self._tiles = self._buffers("tiles", (4, 4, rows, columns, count, channels), dtype)
        transformed = self._buffers("transformed rows", (4, 1, width + 2, count, channels), dtype)
        products = self._buffers("products", (16, columns * count, filters), dtype)
        phases = self._buffers("phases", (4, columns * count * filters), dtype)
        self._allocate_outputs(rows, columns, count)
        for row in range(rows):
            band = slice(row, row + 1)
            # (4, W + 2, N, C): transform along the rows, then along the columns
            _to_tiles([padded[np.newaxis, 2 * row + k] for k in range(4)], transformed)
            _to_tiles(
                [transformed[:, :, k : k + width - 1 : 2] for k in range(4)],
                self._tiles[:, :, band].swapaxes(0, 1),
            )
            np.matmul(self._band_of_tiles(band), self._weight_tile, out=products)
            np.matmul(self._tile_to_phases, products.reshape(16, -1), out=phases)
            self._pool(phases, band)
        return self._add_bias_and_rectify()

    def backward(self, gradient: Array) -> Array:
        """Return dx (H, W, N, C) for dy (H/2, W/2, N, K), which is overwritten."""
        rows, columns, count, filters = gradient.shape
        channels, dtype = self.weight.shape[2], self.weight.dtype
        self._rectify_backward(gradient)
        transposed = np.ascontiguousarray(self._weight_tile.swapaxes(1, 2))
        products = self._buffers("products", (16, columns * count * filters), dtype)
        tiles = self._buffers("tile gradients", (4, 4, 1, columns, count, channels), dtype)
        shape = (4, rows, 2 * columns, count, channels)
        transformed = self._buffers("transformed rows gradient", shape, dtype)
        weight_term = self._buffers("weight term", self._weight_tile.shape, dtype)
        weight_tile = self._buffers("weight tile gradient", self._weight_tile.shape, dtype)
        weight_tile[...] = 0
        for row in range(rows):
            band = slice(row, row + 1)
            phases = self._unpool(gradient, band)
            np.matmul(self._tile_to_phases.T, phases.reshape(4, -1), out=products)
            pixels = products.reshape(16, columns * count, filters)
            np.matmul(self._band_of_tiles(band).swapaxes(1, 2), pixels, out=weight_term)
            weight_tile += weight_term
            np.matmul(pixels, transposed, out=tiles.reshape(16, columns * count, channels))
            _from_tiles(
                tiles.transpose(1, 3, 0, 2, 4, 5), transformed[:, band].transpose(2, 0, 1, 3, 4)
            )
        np.matmul(
            self._weight_to_tile.T,
            weight_tile.reshape(16, -1),
            out=self.weight_gradient.reshape(9, -1),
        )
        input_shape = (2 * rows, 2 * columns, count, channels)
        input_gradient = self._buffers("input gradient", input_shape, dtype)
        _from_tiles(transformed, input_gradient)
        return input_gradient

    def _band_of_tiles(self, band: slice) -> Array:
        """Return (16, pixels of the band, C), without copying."""
        tiles: Array = self._tiles[:, :, band].reshape(16, -1, self._tiles.shape[-1])
        return tiles


class SplitDense(ParametricLayer):
    """`layers.Dense` with the inputs split along the summed dimension, (P, N, in / P).

    The output is the sum of the products of the splits. OpenBLAS has kernels for small matrices, at
    least on processors with AVX-512: up to a million multiplications it does not pack the matrices
    first. For a large layer packing takes up to a third of the time (`docs/performance.md`).
    """

    def forward(self, inputs: Array) -> Array:
        """Return y (N, out) for x (P, N, in / P)."""
        self._inputs = inputs
        splits, count, _ = inputs.shape
        products = self._buffers("products", (splits, count, len(self.bias)), self.weight.dtype)
        np.matmul(inputs, self._splits_of(self.weight), out=products)
        outputs = self._buffers("outputs", products.shape[1:], self.weight.dtype)
        sum_rows(products.reshape(splits, -1), outputs.reshape(-1))
        outputs += self.bias
        return outputs

    def backward(self, gradient: Array) -> Array:
        """Return dx (P, N, in / P) for dy (N, out)."""
        np.matmul(self._inputs.swapaxes(1, 2), gradient, out=self._splits_of(self.weight_gradient))
        sum_rows(gradient, self.bias_gradient)
        # dx^T = W dy^T: without a transposed operand the product takes half the time.
        weight = self._splits_of(self.weight)
        shape = (*weight.shape[:2], len(gradient))
        transposed = self._buffers("transposed", shape, weight.dtype)
        np.matmul(weight, np.ascontiguousarray(gradient.T), out=transposed)
        input_gradient = self._buffers("input gradient", self._inputs.shape, weight.dtype)
        np.copyto(input_gradient, transposed.swapaxes(1, 2))
        return input_gradient

    def _splits_of(self, weight: Array) -> Array:
        """Return a weight (in, out) as (P, in / P, out), without copying."""
        splits: Array = weight.reshape(len(self._inputs), self._inputs.shape[2], -1)
        return splits


class Pixels:
    """(H, W, N, C) to a split per pixel, (H W, N, C), for `SplitDense`, and back."""

    def forward(self, inputs: Array) -> Array:
        """Return a view of x."""
        self._shape = inputs.shape
        return inputs.reshape(-1, *inputs.shape[2:])

    def backward(self, gradient: Array) -> Array:
        """Return a view of dy."""
        return gradient.reshape(self._shape)


def _pad(images: Array, padded: Array) -> None:
    """Copy (H, W, ...) into (H + 2, W + 2, ...), surrounded by zeros."""
    padded[0] = padded[-1] = 0
    padded[:, 0] = padded[:, -1] = 0
    padded[1:-1, 1:-1] = images


def _to_tiles(lines: Sequence[Array], tiles: Array | Sequence[Array]) -> None:
    """Multiply by B: ``tiles[p] = sum over k of B[p, k] lines[k]``, p and k from 0 to 3."""
    zero, one, two, three = lines
    np.subtract(zero, two, out=tiles[0])
    np.add(one, two, out=tiles[1])
    np.subtract(two, one, out=tiles[2])
    np.subtract(one, three, out=tiles[3])


def _from_tiles(tiles: Array, lines: Array) -> None:
    """Multiply by B's transpose: turn dL/dtiles (4, U, ...) into dL/dlines (2 U, ...).

    Tile u reads the lines 2 u - 1 to 2 u + 2. The outermost two lines are padding.
    """
    zero, one, two, three = tiles
    even, odd = lines[::2], lines[1::2]
    np.subtract(one, two, out=even)
    even += three
    even[1:] -= three[:-1]
    np.add(one, two, out=odd)
    odd -= zero
    odd[:-1] += zero[1:]

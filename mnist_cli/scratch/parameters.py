"""Weights, gradients and velocities as named views of one vector, and their canonical layouts.

Canonical are the names and layouts of model files: those of PyTorch, convolutions (out, in, height,
width), dense layers (out, in), their inputs flattened channel, row, column.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from mnist_cli.arrays import Array, Weights
from mnist_cli.scratch.slices import even_slices

Shapes: TypeAlias = dict[str, tuple[int, ...]]

# The axis of the MLP's canonical weights along its hidden units; the output's bias has none.
_HIDDEN_AXES = {"fc1.weight": 0, "fc1.bias": 0, "fc2.weight": 1}


class Parameters:
    """Named arrays that are views of one flat ``vector``: weights, gradients or velocities.

    Weights come first, then, from ``biases_start`` on, biases. ``parameters[name]`` is the array
    in the layout of its layer. It has the values of the canonical array in another order: its
    axes are reversed, and a dense layer after images takes them flattened row, column, channel.
    ``shapes`` are canonical. ``flattened_channels`` says for a dense weight how many channels its
    inputs were flattened from.
    """

    def __init__(
        self, shapes: Shapes, vector: Array, *, flattened_channels: Mapping[str, int]
    ) -> None:
        self.vector = vector
        self._flattened_channels = flattened_channels
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
                source = _swap_nesting(source, self._flattened_channels[name])
            array[...] = source.T

    def canonical(self) -> Weights:
        """Return copies of the arrays in their canonical layouts, C-contiguous."""
        weights: Weights = {}
        for name, array in self._arrays.items():
            result = array.T
            if name in self._flattened_channels:
                result = _swap_nesting(result, result.shape[1] // self._flattened_channels[name])
            weights[name] = np.array(result, order="C")
        return weights


def _swap_nesting(weight: Array, groups: int) -> Array:
    """Return a weight (out, groups x n) with its columns in the order n x groups."""
    swapped: Array = weight.reshape(len(weight), groups, -1).swapaxes(1, 2).reshape(weight.shape)
    return swapped


class GatheredParameters:
    """The arrays of the whole network, gathered from ``shards`` with some hidden units each."""

    def __init__(self, shards: Sequence[Parameters]) -> None:
        self._shards = shards

    def load(self, canonical: Weights) -> None:
        """Copy canonical arrays in."""
        for index, parameters in enumerate(self._shards):
            parameters.load(shard(canonical, index, len(self._shards)))

    def canonical(self) -> Weights:
        """Return copies of the arrays in their canonical layouts, C-contiguous."""
        first, *others = all_shards = [parameters.canonical() for parameters in self._shards]
        if others:
            for name, axis in _HIDDEN_AXES.items():
                first[name] = np.concatenate([arrays[name] for arrays in all_shards], axis)
        return first


def shard(weights: Weights, index: int, count: int) -> Weights:
    """Return shard ``index`` of ``count``: some of the MLP's hidden units with their weights.

    The logits of the network are the sum of those of its shards.
    """
    if count == 1:
        return weights
    units = even_slices(len(weights["fc1.bias"]), count)[index]
    sharded = {
        name: weights[name][units] if axis == 0 else weights[name][:, units]
        for name, axis in _HIDDEN_AXES.items()
    }
    # Each shard adds its output bias to the sum: the first has all of it, the others have 0.
    bias = weights["fc2.bias"]
    return {**sharded, "fc2.bias": np.zeros_like(bias) if index else bias}


def shard_shapes(shapes: Shapes, index: int, count: int) -> Shapes:
    """Return the canonical shapes of a shard."""
    arrays = {name: np.empty(shape) for name, shape in shapes.items()}
    return {name: array.shape for name, array in shard(arrays, index, count).items()}

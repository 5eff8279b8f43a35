"""Weights, gradients and velocities as named views of one vector, and their canonical layouts.

Canonical are the names and layouts of model files: those of PyTorch, convolutions (out, in, height,
width), dense layers (out, in), their inputs flattened channel, row, column.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from mnist_cli.arrays import Array, Weights
from mnist_cli.scratch.engine.slices import even_slices

Shapes: TypeAlias = dict[str, tuple[int, ...]]

# The axis of the MLP's canonical weights along its hidden units; the output's bias has none.
_HIDDEN_AXES = {"fc1.weight": 0, "fc1.bias": 0, "fc2.weight": 1}


class Parameters:
    """Named arrays that are views of one flat ``vector``: weights, gradients or velocities.

    Weights come first, then, from ``biases_start`` on, biases, and from ``statistics_start`` on
    what no gradient changes. ``parameters[name]`` is the array in the layout of its layer: the
    canonical one or, for ``reversed_channels``, that of `layers` and `blocks`. It has the same
    values in another order: its axes are reversed, and a dense layer after images takes them
    flattened row, column, channel; ``reversed_channels[name]`` is from how many channels, else 1.
    ``shapes`` are canonical.
    """

    def __init__(
        self, shapes: Shapes, vector: Array, *, reversed_channels: Mapping[str, int]
    ) -> None:
        self.vector = vector
        self._reversed_channels = reversed_channels
        sizes = {name: math.prod(shape) for name, shape in shapes.items()}
        by_kind = [0, 0, 0]
        for name, size in sizes.items():
            by_kind[_kind(name)] += size
        self.biases_start, self.statistics_start, _ = itertools.accumulate(by_kind)
        self._arrays: dict[str, Array] = {}
        start = 0
        for name in sorted(shapes, key=_kind):
            shape = shapes[name][::-1] if name in reversed_channels else shapes[name]
            self._arrays[name] = self.vector[start : start + sizes[name]].reshape(shape)
            start += sizes[name]

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def load(self, canonical: Weights) -> None:
        """Copy canonical arrays in."""
        for name, source in canonical.items():
            channels = self._reversed_channels.get(name)
            if channels is not None:
                source = _swap_nesting(source, channels).T
            self._arrays[name][...] = source

    def canonical(self) -> Weights:
        """Return copies of the arrays in their canonical layouts, C-contiguous."""
        weights: Weights = {}
        for name, array in self._arrays.items():
            result = array
            channels = self._reversed_channels.get(name)
            if channels is not None:
                result = _swap_nesting(array.T, array.shape[0] // channels)
            weights[name] = np.array(result, order="C")
        return weights


def _kind(name: str) -> int:
    """Return 0 for a weight, 1 for a bias, 2 for a statistic."""
    kinds = {"weight": 0, "bias": 1}
    return kinds.get(name.rpartition(".")[2], 2)


def _swap_nesting(weight: Array, groups: int) -> Array:
    """Return a dense weight (out, groups x n) with its columns in the order n x groups."""
    if weight.ndim != 2 or groups in (1, weight.shape[1]):
        return weight
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

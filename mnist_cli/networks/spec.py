"""The two networks as data: layers, parameter shapes and initial weights.

Weights are canonical: float32, C-contiguous, convolutions (out, in, height, width), dense layers
(out, in). The input of the CNN's first dense layer is flattened channel, row, column.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from mnist_cli.arrays import CLASSES, IMAGE_SIZE, Array, Weights
from mnist_cli.config import ModelSpec
from mnist_cli.errors import CheckpointError


@dataclass(frozen=True)
class Conv:
    """A 3x3 convolution, stride 1, zero padding that keeps the size ("same")."""

    name: str
    in_channels: int
    out_channels: int

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """(out, in, height, width)."""
        return (self.out_channels, self.in_channels, 3, 3)


@dataclass(frozen=True)
class Dense:
    """A fully connected layer: logits = inputs @ weight.T + bias."""

    name: str
    in_features: int
    out_features: int

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """(out, in)."""
        return (self.out_features, self.in_features)


@dataclass(frozen=True)
class Activation:
    """``relu`` or ``sigmoid``, elementwise."""

    function: str


@dataclass(frozen=True)
class MaxPool:
    """The maximum over 2x2 windows, stride 2."""


@dataclass(frozen=True)
class Flatten:
    """(channels, height, width) to one vector, in that order."""


Layer: TypeAlias = Conv | Dense | Activation | MaxPool | Flatten


def layers(spec: ModelSpec) -> tuple[Layer, ...]:
    """Return the layers of a network, in order."""
    if spec.arch == "mlp":
        return (
            Flatten(),
            Dense("fc1", IMAGE_SIZE * IMAGE_SIZE, 128),
            Activation(spec.activation),
            Dense("fc2", 128, CLASSES),
        )
    return (
        # ReLU after the pool, in every framework: ReLU and maximum commute, and there is a quarter
        # of the work. The gradients agree too: for a positive maximum the argmax is the same, and
        # for a negative one the gradient is 0 in either order.
        Conv("conv1", 1, 32),
        MaxPool(),  # 28x28 -> 14x14
        Activation("relu"),
        Conv("conv2", 32, 64),
        MaxPool(),  # 14x14 -> 7x7
        Activation("relu"),
        Flatten(),
        Dense("fc1", 64 * 7 * 7, 128),
        Activation("relu"),
        Dense("fc2", 128, CLASSES),
    )


def parameter_layers(spec: ModelSpec) -> Iterator[Conv | Dense]:
    """Yield the layers with weights, in order."""
    return (layer for layer in layers(spec) if isinstance(layer, (Conv, Dense)))


def parameter_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Return the shape of each canonical weight, by name."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in parameter_layers(spec):
        shapes[f"{layer.name}.weight"] = layer.weight_shape
        shapes[f"{layer.name}.bias"] = layer.weight_shape[:1]
    return shapes


def parameter_count(spec: ModelSpec) -> int:
    """Return the number of trainable parameters: 421,642 for the CNN, 101,770 for the MLP."""
    return sum(math.prod(shape) for shape in parameter_shapes(spec).values())


def initial_weights(spec: ModelSpec, rng: np.random.Generator) -> Weights:
    """Return random initial weights, the same for every framework; biases are zero.

    Normal with standard deviation sqrt(2 / fan_in) before a ReLU (He et al., 2015,
    arXiv:1502.01852), else sqrt(1 / fan_in).
    """
    weights: Weights = {}
    network = [layer for layer in layers(spec) if layer != MaxPool()]
    for layer, following in zip(network, (*network[1:], None), strict=True):
        if isinstance(layer, (Conv, Dense)):
            gain = 2.0 if following == Activation("relu") else 1.0
            fan_in = math.prod(layer.weight_shape[1:])
            draws = rng.standard_normal(layer.weight_shape, dtype=np.float32)
            weights[f"{layer.name}.weight"] = draws * np.float32(math.sqrt(gain / fan_in))
            weights[f"{layer.name}.bias"] = np.zeros(layer.weight_shape[0], dtype=np.float32)
    return weights


def require_weights(spec: ModelSpec, weights: Mapping[str, Array]) -> None:
    """Raise `CheckpointError` unless ``weights`` has exactly the names and shapes of ``spec``."""
    expected = parameter_shapes(spec)
    found = {name: tuple(array.shape) for name, array in weights.items()}
    if found != expected:
        wrong = sorted(set(expected.items()) ^ set(found.items()))
        name = wrong[0][0]
        raise CheckpointError(
            f"The weights are not those of the {spec.arch}: {name} should be "
            f"{expected.get(name, 'absent')}, but is {found.get(name, 'absent')}."
        )

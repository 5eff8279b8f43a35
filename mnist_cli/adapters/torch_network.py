"""The networks of `torch_adapter` as PyTorch modules."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from mnist_cli.config import ModelSpec
from mnist_cli.networks.spec import (
    EPSILON,
    INPUT,
    STATISTICS_MOMENTUM,
    Activation,
    AveragePool,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    Layer,
    MaxPool,
    Residual,
    Shape,
    layers,
    with_shapes,
)

_Tensor = TypeVar("_Tensor", bound=Tensor)


class SeededDropout(nn.Module):
    """Keeps, while training, the values that ``kept`` names; it is set before each step."""

    kept: Tensor

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.scale = 1 / (1 - probability)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs."""
        return inputs * self.kept * self.scale if self.training else inputs


class _Residual(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = inputs + self.body(inputs)
        return outputs


_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "gelu": lambda: nn.GELU(approximate="tanh"),
}


def _module(layer: Layer, shape: Shape) -> nn.Module:
    """Return a layer for inputs of ``shape``."""
    match layer:
        case Conv():
            channels = layer.in_channels, layer.out_channels
            return nn.Conv2d(*channels, layer.kernel, layer.stride, layer.margin)
        case Dense():
            return nn.Linear(layer.in_features, layer.out_features)
        case Activation():
            return _ACTIVATIONS[layer.function]()
        case MaxPool():
            return nn.MaxPool2d(layer.size)
        case AveragePool():
            return nn.AvgPool2d(layer.size)
        case BatchNorm():
            kind = nn.BatchNorm1d if len(shape) == 1 else nn.BatchNorm2d
            return kind(layer.channels, EPSILON, STATISTICS_MOMENTUM)
        case Dropout():
            return SeededDropout(layer.probability)
        case Flatten():
            return nn.Flatten()
        case Residual():
            return _Residual(_sequential(layer.body, shape))


def _sequential(network: Sequence[Layer], shape: Shape) -> nn.Sequential:
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for index, (layer, before, _) in enumerate(with_shapes(network, shape)):
        name = getattr(layer, "name", f"{type(layer).__name__.lower()}{index}")
        modules[name] = _module(layer, before)
    return nn.Sequential(modules)


def build_module(spec: ModelSpec) -> nn.Sequential:
    """Return the network as (N, 1, 28, 28) float32 -> (N, classes) float32 logits."""
    return _sequential(layers(spec), INPUT)


def canonical(tensors: Iterable[tuple[str, _Tensor]]) -> dict[str, _Tensor]:
    """Return tensors by canonical name: the last two parts, without the residual around them."""
    return {".".join(name.split(".")[-2:]): tensor for name, tensor in tensors}


def stack_rows(images: Tensor) -> Tensor:
    """Return (N, 1, H, W) as (N, 3, H, W): the pixel above, the pixel itself, the one below.

    A 3x3 convolution of one channel equals a 1x3 convolution of these three. Without AVX-512,
    oneDNN computes the weight gradient three times as fast: it pads a single channel to eight.
    """
    height = images.shape[2]
    padded = functional.pad(images, (0, 0, 1, 1))
    return torch.cat([padded[:, :, row : row + height] for row in range(3)], dim=1)

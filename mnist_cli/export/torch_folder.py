"""PyTorch: a ``state_dict`` as safetensors, and a ``model.py`` that loads it without this package.

Canonical names and layouts are PyTorch's, so that writing needs no PyTorch; only verifying does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mnist_cli.arrays import Array
from mnist_cli.names import DIGITS, network_name
from mnist_cli.networks.spec import (
    EPSILON,
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
    leaves,
    with_shapes,
)
from mnist_cli.training.checkpoint import Checkpoint

WEIGHTS, CODE = "model.safetensors", "model.py"
_TEMPLATE = '''\
"""{title} for {subject}: {line}

    logits = load()(normalise(images))  # images (N, 28, 28), 0-255, ink high
"""
import pathlib

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

MEAN, STD = {mean!r}, {std!r}  # of the pixels on a scale of 0-1


class Network(nn.Module):
    def __init__(self):
        super().__init__()
{modules}

    def forward(self, x):
{steps}
        return x


def normalise(images):
    return ((torch.as_tensor(images).float() / 255 - MEAN) / STD).unsqueeze(1)


def load(path=pathlib.Path(__file__).with_name("{weights}")):
    network = Network()
    network.load_state_dict(load_file(path))
    return network.eval()
'''
_FUNCTIONS = {
    "relu": "F.relu(x)",
    "sigmoid": "torch.sigmoid(x)",
    "tanh": "torch.tanh(x)",
    "gelu": 'F.gelu(x, approximate="tanh")',
}


def export(checkpoint: Checkpoint, path: Path, *, raw: bool = False) -> None:  # noqa: ARG001
    """Write both files into a folder; see `formats.Exporter`.

    There is no ``raw``: ``model.py`` has the normalisation as a function of its own.
    """
    from safetensors.numpy import save_file

    facts = {
        "format": "pt",
        "line": json.dumps(checkpoint.spec.line),
        "class_names": json.dumps(checkpoint.class_names),
        "pixel_mean": json.dumps(checkpoint.pixel_mean),
        "pixel_std": json.dumps(checkpoint.pixel_std),
    }
    # safetensors writes a strided array's memory as if it were contiguous: wrong values.
    weights = {name: np.ascontiguousarray(array) for name, array in checkpoint.weights.items()}
    save_file(weights, path / WEIGHTS, metadata=facts)
    (path / CODE).write_text(_code(checkpoint), encoding="utf-8")


def verify(path: Path, images: Array) -> Array:
    """Return the logits of a folder; see `formats.Exporter`."""
    from mnist_cli.adapters import torch_export

    return torch_export.run_code(path / CODE, images)


def _code(checkpoint: Checkpoint) -> str:
    spec = checkpoint.spec
    modules = [
        f"self.{layer.name} = {_module(layer, shape)}"
        for layer, shape in leaves(layers(spec))
        if isinstance(layer, (Conv, Dense, BatchNorm))
    ]
    names = checkpoint.class_names
    return _TEMPLATE.format(
        subject="handwritten digits" if names == DIGITS else f"{len(names)} classes",
        title=network_name(spec.arch, spec.activation),
        line=spec.line,
        mean=checkpoint.pixel_mean,
        std=checkpoint.pixel_std,
        modules=_indented(modules),
        steps=_indented(list(_steps(layers(spec), (1, 28, 28)))),
        weights=WEIGHTS,
    )


def _indented(lines: Sequence[str]) -> str:
    return "\n".join(f"        {line}" for line in lines)


def _module(layer: Conv | Dense | BatchNorm, shape: Shape) -> str:
    """Return the expression that makes the module of a layer for inputs of ``shape``."""
    match layer:
        case Conv():
            numbers = f"{layer.in_channels}, {layer.out_channels}, {layer.kernel}"
            options = f", stride={layer.stride}" * (layer.stride != 1)
            return (
                f"nn.Conv2d({numbers}{options}{f', padding={layer.margin}' * bool(layer.margin)})"
            )
        case Dense():
            return f"nn.Linear({layer.in_features}, {layer.out_features})"
        case BatchNorm():
            kind = "BatchNorm1d" if len(shape) == 1 else "BatchNorm2d"
            return f"nn.{kind}({layer.channels}, eps={EPSILON}, momentum={STATISTICS_MOMENTUM})"


def _steps(network: Sequence[Layer], shape: Shape, depth: int = 0) -> Iterator[str]:
    """Yield the statements of ``forward``, one per layer."""
    for layer, before, _ in with_shapes(network, shape):
        match layer:
            case Conv() | Dense() | BatchNorm():
                yield f"x = self.{layer.name}(x)"
            case Activation(function):
                yield f"x = {_FUNCTIONS[function]}"
            case MaxPool(size):
                yield f"x = F.max_pool2d(x, {size})"
            case AveragePool(size):
                yield f"x = F.avg_pool2d(x, {size})"
            case Dropout(probability):
                yield f"x = F.dropout(x, {probability:g}, self.training)"
            case Flatten():
                yield "x = torch.flatten(x, 1)"
            case Residual(body):
                yield f"inputs{depth} = x"
                yield from _steps(body, before, depth + 1)
                yield f"x = inputs{depth} + x"

"""A network opened up: what every layer computes, backwards too, and with units edited.

It is built of the engine's general layers, for any network line. A *stage* is one row of what the
page shows: a layer, with what follows it elementwise.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mnist_cli.adapters.numpy_adapter import general_layer
from mnist_cli.arrays import Array, Weights
from mnist_cli.config import ModelSpec
from mnist_cli.networks.spec import (
    INPUT,
    Activation,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    Layer,
    Residual,
    Shape,
    written_layers,
)
from mnist_cli.scratch.engine import general


@dataclass(frozen=True)
class Edit:
    """A change of one unit, a channel of a convolution or an output of a dense layer.

    ``stage`` is an index of `Trace.stages`. A unit that is off gives 0 after its activation, as if
    all its outgoing weights were 0; ``bias`` replaces its bias.
    """

    stage: int
    unit: int
    off: bool = False
    bias: float | None = None


@dataclass(frozen=True)
class Term:
    """One product in the sum of a unit; ``place`` is that of its input: indices from 0."""

    place: tuple[int, ...]
    x: float
    weight: float


class Stage:
    """A layer, what follows it elementwise, and a switch for each unit; keeps what it computed.

    ``after`` is the shape of its outputs for one image, ``inside`` in how many residuals it is.
    """

    def __init__(
        self, layers: Sequence[Layer], built: Sequence[Any], shape: Shape, *, inside: int
    ) -> None:
        self.layers = layers
        self.before = self.after = shape
        for layer in layers:
            self.after = layer.output_shape(self.after)
        self.inside = inside
        self.off: list[int] = []
        self._built = built
        self.inputs: Array
        self.values: list[Array]  # of each of `layers`
        self.outputs: Array

    @property
    def main(self) -> Layer:
        """The layer that gives the stage its name."""
        return next((each for each in self.layers if not isinstance(each, Flatten)), self.layers[0])

    @property
    def title(self) -> str:
        """As the line has it: ``conv 32, relu``."""
        names = [
            "residual sum" if isinstance(each, Residual) else str(each) for each in self.layers
        ]
        return ", ".join(name for name in names if name != "flatten") or "flatten"

    def forward(self, inputs: Array) -> Array:
        """Return y (*after, N) for x (*before, N), both float; the next call overwrites y."""
        self.inputs = inputs
        self.values = []
        for layer in self._built:
            inputs = layer.forward(inputs)
            self.values.append(inputs)
        if self.off:
            inputs = inputs.copy()
            inputs[self.off] = 0
        self.outputs = inputs
        return inputs

    def backward(self, gradient: Array) -> Array:
        """Return dx for dy, which is overwritten."""
        if self.off:
            gradient[self.off] = 0
        for layer in reversed(self._built):
            gradient = layer.backward(gradient)
        return gradient


class Trace:
    """A network of ``spec`` with canonical ``weights``, whose dtype it computes in, and edits.

    ``stages`` are in the order of computation: those in a residual come before its sum.
    """

    def __init__(self, spec: ModelSpec, weights: Weights, edits: Sequence[Edit] = ()) -> None:
        self.stages: list[Stage] = []
        self._edits = edits
        # Gradients of weights are computed beside those of pixels, and not used.
        gradients = {name: np.empty_like(array) for name, array in weights.items()}
        self._build = functools.partial(
            self._build_stages, gradients=gradients, masks=itertools.count()
        )
        self.weights = dict(weights)
        self._network, _ = self._build(written_layers(spec), INPUT, inside=0)
        self._dtype = next(iter(weights.values())).dtype

    def _build_stages(
        self,
        network: Sequence[Layer],
        shape: Shape,
        *,
        inside: int,
        gradients: Weights,
        masks: Iterator[int],
    ) -> tuple[list[Stage], Shape]:
        built = []
        for layers in _grouped(network):
            parts: list[Any] = []
            before = shape
            for layer in layers:
                if isinstance(layer, Residual):
                    body, _ = self._build(layer.body, shape, inside=inside + 1)
                    parts.append(general.Residual(body))
                shape = layer.output_shape(shape)
            index = len(self.stages)
            off = self._edit(index, layers)
            parts += [
                general_layer(layer, self.weights, gradients, masks, needs_input_gradient=True)
                for layer in layers
                if not isinstance(layer, Residual)  # the first of its stage, as `_grouped` has it
            ]
            stage = Stage(layers, parts, before, inside=inside)
            stage.off = off
            self.stages.append(stage)
            built.append(stage)
        return built, shape

    def _edit(self, index: int, layers: Sequence[Layer]) -> list[int]:
        """Change the biases of a stage, and return which of its units are off."""
        edits = [edit for edit in self._edits if edit.stage == index]
        name = next((f"{each.name}.bias" for each in layers if isinstance(each, Conv | Dense)), "")
        for edit in edits:
            if edit.bias is not None:
                self.weights[name] = self.weights[name].copy()
                self.weights[name][edit.unit] = edit.bias
        return [edit.unit for edit in edits if edit.off]

    def forward(self, images: Array) -> Array:
        """Return the logits (N, 10) of normalised images (N, 28, 28); stages keep their values."""
        values = np.ascontiguousarray(images.transpose(1, 2, 0)[np.newaxis], self._dtype)
        for stage in self._network:
            values = stage.forward(values)
        return np.array(values.T)

    def backward(self, digit: int) -> Array:
        """Return the gradient of the digit's logit by the pixels, (N, 28, 28), after `forward`."""
        gradient = np.zeros_like(self._network[-1].outputs)
        gradient[digit] = 1
        for stage in reversed(self._network):
            gradient = stage.backward(gradient)
        return np.asarray(np.moveaxis(gradient[0], -1, 0))

    @property
    def features(self) -> Array:
        """What the last dense layer was given, the last hidden layer: (N, features)."""
        inputs = self._network[-1].inputs
        return np.asarray(inputs.reshape(-1, inputs.shape[-1]).T)

    def steps(self, stage: Stage, unit: int, place: tuple[int, ...]) -> list[tuple[str, float]]:
        """Return what a unit has at a place after each layer of its stage, the first image's."""
        at = (unit, *place, 0)
        return [
            (str(layer), float(values[at]))
            for layer, values in zip(stage.layers, stage.values, strict=True)
            if not isinstance(layer, Flatten)
        ]

    def terms(self, stage: Stage, unit: int, place: tuple[int, ...]) -> tuple[list[Term], float]:
        """Return the products that a unit's sum is made of, the largest first, and its bias.

        ``place`` is (row, column) in the outputs of a convolution, () for a dense layer. The first
        image counts. Inputs in the margin of a convolution are 0 and left out.
        """
        layer = stage.main
        assert isinstance(layer, Conv | Dense)
        weight = self.weights[f"{layer.name}.weight"][unit]
        x = stage.inputs[..., 0]
        if isinstance(layer, Dense):
            places = list(np.ndindex(*stage.before))
            found = zip(places, x.ravel().tolist(), weight.tolist(), strict=True)
            terms = [Term(*each) for each in found]
        else:
            top, left = (layer.stride * at - layer.margin for at in place)
            terms = []
            for channel, i, j in np.ndindex(*weight.shape):
                row, column = top + i, left + j
                if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
                    where = (channel, row, column)
                    terms.append(Term(where, float(x[where]), float(weight[channel, i, j])))
        terms.sort(key=lambda term: -abs(term.x * term.weight))
        return terms, float(self.weights[f"{layer.name}.bias"][unit])


def peak(stage: Stage, unit: int) -> tuple[int, ...]:
    """Return the place where a unit has its largest value, of the first image: () if it has one."""
    values = stage.outputs[unit, ..., 0]
    return tuple(int(each) for each in np.unravel_index(values.argmax(), values.shape))


def strongest(outputs: Array) -> Array:
    """Return how strongly each unit responds to each image, its largest value: (N, units)."""
    return np.asarray(outputs.reshape(len(outputs), -1, outputs.shape[-1]).max(axis=1).T)


def _grouped(network: Sequence[Layer]) -> list[list[Layer]]:
    """Return the layers in stages: flatten goes to what follows, elementwise ones to what leads."""
    grouped: list[list[Layer]] = []
    waits: list[Layer] = []
    for layer in network:
        if isinstance(layer, Flatten):
            waits.append(layer)
        elif isinstance(layer, Activation | BatchNorm | Dropout) and grouped and not waits:
            grouped[-1].append(layer)
        else:
            grouped.append([*waits, layer])
            waits = []
    return grouped + [waits] * bool(waits)


def unit_count(stage: Stage) -> int:
    """Return how many units a stage has that can be edited: none unless it has weights."""
    return stage.after[0] if isinstance(stage.main, Conv | Dense) else 0


def weight_image(trace: Trace, stage: Stage, unit: int) -> Array | None:
    """Return a unit's weights (height, width) where they are an image: those of the pixels."""
    layer = stage.main
    if stage is not trace.stages[0] or not isinstance(layer, Conv | Dense):
        return None
    weight = trace.weights[f"{layer.name}.weight"][unit]
    return np.asarray(weight[0] if isinstance(layer, Conv) else weight.reshape(INPUT[1:]))

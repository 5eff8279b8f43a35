"""Networks as data: layers, and what follows from them.

Weights are canonical: float32, C-contiguous, convolutions (out, in, height, width), dense layers
(out, in), whose inputs are flattened channel, row, column. A network's shapes, parameters, initial
weights, names, layouts and operations are all derived from its layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import numpy as np

from mnist_cli.arrays import IMAGE_SIZE, Array, Weights
from mnist_cli.config import ModelSpec
from mnist_cli.errors import CheckpointError, UsageError

# Of the values of one image between two layers: (channels, height, width), or (features,).
Shape: TypeAlias = tuple[int, ...]
INPUT: Shape = (1, IMAGE_SIZE, IMAGE_SIZE)
# Of batch normalisation (Ioffe and Szegedy, 2015, arXiv:1502.03167), as in PyTorch: added to the
# variance, and the weight of the newest batch in the running statistics.
EPSILON, STATISTICS_MOMENTUM = 1e-5, 0.1


class _Elementwise:
    """What a layer derives from its data; these defaults are those of an elementwise layer."""

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape of the outputs for inputs of ``shape``."""
        return shape

    def parameter_shapes(self) -> dict[str, Shape]:
        """Return the shapes of what training changes by gradient, by canonical name."""
        return {}

    def statistic_shapes(self) -> dict[str, Shape]:
        """Return the shapes of what a layer gathers in training, by canonical name."""
        return {}

    def operations(self, shape: Shape) -> int:
        """Return the additions and multiplications for one image; simpler layers: per input."""
        return math.prod(shape)


@dataclass(frozen=True)
class Conv(_Elementwise):
    """A convolution with square kernels; "same" pads kernel // 2 zeros on each side, "valid" none.

    With stride 1 "same" keeps the size of the images.
    """

    name: str
    in_channels: int
    out_channels: int
    kernel: int = 3
    stride: int = 1
    padding: str = "same"

    @property
    def weight_shape(self) -> Shape:
        """(out, in, height, width)."""
        return (self.out_channels, self.in_channels, self.kernel, self.kernel)

    @property
    def margin(self) -> int:
        """The number of zeros on each side."""
        return self.kernel // 2 if self.padding == "same" else 0

    @property
    def is_usual(self) -> bool:
        """Whether kernels are 3x3 and images keep their size, for which there are faster ways."""
        return (self.kernel, self.stride, self.margin) == (3, 1, 1)

    def output_shape(self, shape: Shape) -> Shape:
        """See `_Elementwise.output_shape`."""
        height, width = (
            (side + 2 * self.margin - self.kernel) // self.stride + 1 for side in shape[1:]
        )
        return (self.out_channels, height, width)

    def parameter_shapes(self) -> dict[str, Shape]:
        """See `_Elementwise.parameter_shapes`."""
        return _weight_and_bias(self.name, self.weight_shape)

    def operations(self, shape: Shape) -> int:
        """Return two for each product of a weight and a pixel."""
        return 2 * math.prod(self.output_shape(shape)) * math.prod(self.weight_shape[1:])

    def __str__(self) -> str:
        kernel = "" if self.kernel == 3 else f" {self.kernel}x{self.kernel}"
        stride = "" if self.stride == 1 else f" stride {self.stride}"
        return f"conv {self.out_channels}{kernel}{stride}" + " valid" * (self.padding == "valid")


@dataclass(frozen=True)
class Dense(_Elementwise):
    """A fully connected layer: outputs = inputs @ weight.T + bias."""

    name: str
    in_features: int
    out_features: int

    @property
    def weight_shape(self) -> Shape:
        """(out, in)."""
        return (self.out_features, self.in_features)

    def output_shape(self, shape: Shape) -> Shape:  # noqa: ARG002  # the input is flat
        """See `_Elementwise.output_shape`."""
        return (self.out_features,)

    def parameter_shapes(self) -> dict[str, Shape]:
        """See `_Elementwise.parameter_shapes`."""
        return _weight_and_bias(self.name, self.weight_shape)

    def operations(self, shape: Shape) -> int:  # noqa: ARG002
        """Return two for each product of a weight and an input."""
        return 2 * math.prod(self.weight_shape)

    def __str__(self) -> str:
        return f"dense {self.out_features}"


@dataclass(frozen=True)
class Activation(_Elementwise):
    """``relu``, ``sigmoid``, ``tanh`` or ``gelu``, elementwise.

    GELU is Hendrycks and Gimpel's form by tanh (2016, arXiv:1606.08415), the same everywhere:
    x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2.
    """

    function: str

    def __str__(self) -> str:
        return self.function


@dataclass(frozen=True)
class _Pool(_Elementwise):
    size: int = 2

    def output_shape(self, shape: Shape) -> Shape:
        """Return the number of whole windows: rows and columns that are left over are not read."""
        channels, height, width = shape
        return (channels, height // self.size, width // self.size)

    def __str__(self) -> str:
        kind = " avg" if isinstance(self, AveragePool) else ""
        return f"pool{kind}" + (f" {self.size}" if self.size != 2 else "")


@dataclass(frozen=True)
class MaxPool(_Pool):
    """The maximum over windows of ``size`` x ``size`` that do not overlap."""


@dataclass(frozen=True)
class AveragePool(_Pool):
    """The mean over windows of ``size`` x ``size`` that do not overlap."""


@dataclass(frozen=True)
class BatchNorm(_Elementwise):
    """Each channel (or feature) minus its mean, over its deviation, times weight, plus bias.

    Training takes mean and variance of the batch, and moves the running ones by
    `STATISTICS_MOMENTUM` towards them (the variance times n / (n - 1)); prediction takes those.
    """

    name: str
    channels: int

    def parameter_shapes(self) -> dict[str, Shape]:
        """See `_Elementwise.parameter_shapes`."""
        return _weight_and_bias(self.name, (self.channels,))

    def statistic_shapes(self) -> dict[str, Shape]:
        """See `_Elementwise.statistic_shapes`."""
        names = f"{self.name}.running_mean", f"{self.name}.running_var"
        return dict.fromkeys(names, (self.channels,))

    def __str__(self) -> str:
        return "batchnorm"


@dataclass(frozen=True)
class Dropout(_Elementwise):
    """Zero for a share ``probability`` of the values while training, the rest scaled up for it.

    The masks are those of `adapters.base.dropout_masks`.
    """

    probability: float

    def __str__(self) -> str:
        return f"dropout {self.probability:g}"


@dataclass(frozen=True)
class Flatten(_Elementwise):
    """(channels, height, width) to one vector, in that order. It is not written in a line."""

    def output_shape(self, shape: Shape) -> Shape:
        """See `_Elementwise.output_shape`."""
        return (math.prod(shape),)

    def operations(self, shape: Shape) -> int:  # noqa: ARG002
        """Return 0."""
        return 0

    def __str__(self) -> str:
        return "flatten"


@dataclass(frozen=True)
class Residual(_Elementwise):
    """The inputs plus what ``body`` makes of them (He et al., 2016, arXiv:1512.03385)."""

    body: tuple[Layer, ...]

    def parameter_shapes(self) -> dict[str, Shape]:
        """See `_Elementwise.parameter_shapes`."""
        return {n: s for layer in self.body for n, s in layer.parameter_shapes().items()}

    def statistic_shapes(self) -> dict[str, Shape]:
        """See `_Elementwise.statistic_shapes`."""
        return {n: s for layer in self.body for n, s in layer.statistic_shapes().items()}

    def operations(self, shape: Shape) -> int:
        """Return those of the body, and of the sum."""
        return math.prod(shape) + sum(
            layer.operations(before) for layer, before, _ in with_shapes(self.body, shape)
        )

    def __str__(self) -> str:
        return f"residual({', '.join(map(str, self.body))})"


Layer: TypeAlias = (
    Conv | Dense | Activation | MaxPool | AveragePool | BatchNorm | Dropout | Flatten | Residual
)


def _weight_and_bias(name: str, weight_shape: Shape) -> dict[str, Shape]:
    return {f"{name}.weight": weight_shape, f"{name}.bias": weight_shape[:1]}


@cache
def written_layers(spec: ModelSpec) -> tuple[Layer, ...]:
    """Return the layers in the order of the line. Raises `UsageError` for a line that is none."""
    from mnist_cli.networks.language import parse  # which imports this module

    return parse(spec.line, spec.classes)


@cache
def layers(spec: ModelSpec) -> tuple[Layer, ...]:
    """Return the layers in the order in which every framework computes them.

    ReLU stands after a maximum pool, wherever the line has it before: the two commute, and there
    is a quarter of the work. The gradients agree too: for a positive maximum the argmax is the
    same, and for a negative one the gradient is 0 in either order.
    """
    return _relu_after_pool(written_layers(spec))


def _relu_after_pool(network: Sequence[Layer]) -> tuple[Layer, ...]:
    ordered: list[Layer] = []
    for layer in network:
        if isinstance(layer, Residual):
            layer = Residual(_relu_after_pool(layer.body))
        ordered.append(layer)
        if isinstance(layer, MaxPool) and ordered[-2:-1] == [Activation("relu")]:
            ordered[-2:] = [layer, Activation("relu")]
    return tuple(ordered)


def with_shapes(network: Sequence[Layer], shape: Shape) -> Iterator[tuple[Layer, Shape, Shape]]:
    """Yield each layer with the shapes of its inputs and its outputs."""
    for layer in network:
        output = layer.output_shape(shape)
        yield layer, shape, output
        shape = output


def leaves(network: Sequence[Layer], shape: Shape = INPUT) -> Iterator[tuple[Layer, Shape]]:
    """Yield the layers with the shapes of their inputs, those in a residual one by one."""
    for layer, before, _ in with_shapes(network, shape):
        if isinstance(layer, Residual):
            yield from leaves(layer.body, before)
        else:
            yield layer, before


def parameter_layers(spec: ModelSpec) -> Iterator[Conv | Dense | BatchNorm]:
    """Yield the layers with weights, in order."""
    for layer, _ in leaves(layers(spec)):
        if isinstance(layer, (Conv, Dense, BatchNorm)):
            yield layer


def parameter_shapes(spec: ModelSpec) -> dict[str, Shape]:
    """Return the shape of each array that training changes by gradient, by canonical name."""
    return {n: s for layer in layers(spec) for n, s in layer.parameter_shapes().items()}


def weight_shapes(spec: ModelSpec) -> dict[str, Shape]:
    """Return the shape of each canonical array: parameters, then batch norm's statistics."""
    statistics = {n: s for layer in layers(spec) for n, s in layer.statistic_shapes().items()}
    return parameter_shapes(spec) | statistics


def parameter_count(spec: ModelSpec) -> int:
    """Return the number of trainable parameters: 421,642 for the CNN, 101,770 for the MLP."""
    return sum(math.prod(shape) for shape in parameter_shapes(spec).values())


def operation_count(spec: ModelSpec) -> int:
    """Return the additions and multiplications that a prediction takes for one image."""
    network = with_shapes(written_layers(spec), INPUT)
    return sum(layer.operations(shape) for layer, shape, _ in network)


def flattened_channels(spec: ModelSpec) -> dict[str, int]:
    """Return for each dense weight how many channels its inputs were flattened from; else 1."""
    channels, found = 1, {}
    for layer, shape in leaves(layers(spec)):
        if isinstance(layer, Flatten):
            channels = shape[0]
        elif isinstance(layer, Dense):
            found[f"{layer.name}.weight"] = channels
            channels = 1
    return found


def dropouts(spec: ModelSpec) -> tuple[tuple[float, Shape], ...]:
    """Return probability and shape of each dropout, in order."""
    return tuple(
        (layer.probability, shape)
        for layer, shape in leaves(layers(spec))
        if isinstance(layer, Dropout)
    )


def initial_weights(spec: ModelSpec, rng: np.random.Generator) -> Weights:
    """Return random initial weights, the same for every framework; biases are zero.

    Normal with standard deviation sqrt(2 / fan_in) before a ReLU or GELU (He et al., 2015,
    arXiv:1502.01852), else sqrt(1 / fan_in). Batch norm starts as the identity.
    """
    weights: Weights = {}
    between = (MaxPool, AveragePool, BatchNorm, Dropout, Flatten)  # a layer and its activation
    network = [layer for layer, _ in leaves(layers(spec))]
    for index, layer in enumerate(network):
        if isinstance(layer, (Conv, Dense)):
            following = (each for each in network[index + 1 :] if not isinstance(each, between))
            is_rectified = next(following, None) in (Activation("relu"), Activation("gelu"))
            fan_in = math.prod(layer.weight_shape[1:])
            draws = rng.standard_normal(layer.weight_shape, dtype=np.float32)
            gain = 2.0 if is_rectified else 1.0
            weights[f"{layer.name}.weight"] = draws * np.float32(math.sqrt(gain / fan_in))
            weights[f"{layer.name}.bias"] = np.zeros(layer.weight_shape[0], dtype=np.float32)
        elif isinstance(layer, BatchNorm):
            starts = {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1}
            for kind, value in starts.items():
                weights[f"{layer.name}.{kind}"] = np.full(layer.channels, value, dtype=np.float32)
    return weights


def require_batch_size(spec: ModelSpec, batch_size: int) -> None:
    """Raise `UsageError` if a batch norm would get one value, which has no variance."""
    for layer, shape in leaves(layers(spec)):
        if isinstance(layer, BatchNorm) and batch_size * math.prod(shape[1:]) < 2:
            raise UsageError(
                f"The batch norm {layer.name} of {spec.arch} needs at least 2 images per step, "
                f"not {batch_size}. Choose a larger --batch-size."
            )


def require_weights(
    spec: ModelSpec,
    weights: Mapping[str, Array],
    shapes: Callable[[ModelSpec], dict[str, Shape]] = weight_shapes,
) -> None:
    """Raise `CheckpointError` unless ``weights`` has exactly the names and shapes of ``spec``."""
    expected = shapes(spec)
    found = {name: tuple(array.shape) for name, array in weights.items()}
    if found != expected:
        wrong = sorted(set(expected.items()) ^ set(found.items()))
        name = wrong[0][0]
        raise CheckpointError(
            f"The weights are not those of the {spec.arch}: {name} should be "
            f"{expected.get(name, 'absent')}, but is {found.get(name, 'absent')}."
        )

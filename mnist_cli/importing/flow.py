"""A foreign network, traced operation by operation into layers that a line can say.

A reader starts with `Flow.start`, applies what it finds in the file, and `finish`es. Whatever a
line cannot say raises `CheckpointError` with the reason; what can be said in other words is
rewritten exactly: other padding, missing biases, batch norm's epsilon, flattened channels last.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NoReturn

import numpy as np

from mnist_cli.arrays import CLASSES, IMAGE_SIZE, Array, Weights
from mnist_cli.errors import CheckpointError, UsageError
from mnist_cli.networks.language import parse, write
from mnist_cli.networks.spec import (
    EPSILON,
    INPUT,
    BatchNorm,
    Conv,
    Dense,
    Layer,
    Shape,
    leaves,
)

ACTIVATIONS = ("relu", "sigmoid", "tanh", "gelu")


@dataclass(frozen=True)
class Network:
    """What a file holds: a line, canonical weights, and how pixels enter and answers leave.

    The first layer gets ``scale`` * input + ``offset`` of the file's input. ``ending`` is what the
    file does to its logits: "softmax", "log_softmax", or nothing.
    """

    line: str
    weights: Weights
    scale: float = 1.0
    offset: float = 0.0
    ending: str = ""
    classes: int = CLASSES


@dataclass(frozen=True, eq=False)  # two are the same if they are one object: see `Flow.plus`
class Step:
    """A layer as text, with the arrays of its weights by their short names."""

    text: str
    weights: Mapping[str, Array] = field(default_factory=dict)
    body: tuple[Step, ...] = ()


def cannot(why: str) -> NoReturn:
    """Raise the error for a network that no line says."""
    raise CheckpointError(
        f"A line of layers cannot say this network: {why}. 'mnist networks' and docs/networks.md "
        "show what it can."
    )


@dataclass(frozen=True, eq=False)
class Flow:
    """A value in the file: the steps that made it of the image, and how it lies in memory.

    ``shape`` is canonical, without the batch: (channels, height, width) or (features,). ``order``
    names the axes as the file has them: CHW, HWC, HW (one channel) or F. A flat value still has
    the shape of the ``maps`` that it was flattened from, as ``order_before`` says, until a dense
    layer mixes them. ``padding`` are zeros not yet used: top, left, bottom, right.
    """

    steps: tuple[Step, ...] = ()
    shape: Shape = INPUT
    order: str = "CHW"
    maps: Shape | None = None
    order_before: str = "CHW"
    scale: float = 1.0
    offset: float = 0.0
    padding: tuple[int, ...] = (0, 0, 0, 0)
    ending: str = ""

    @classmethod
    def start(cls, dims: Sequence[int]) -> Flow:
        """Return the image as the input of a file, whose axes without the batch are ``dims``."""
        return cls()._arranged(tuple(dims))

    def dims(self) -> tuple[int, ...]:
        """Return the sizes of the file's axes, without the batch."""
        sizes = {"F": math.prod(self.shape)}
        if len(self.shape) == 3:
            sizes |= dict(zip("CHW", self.shape, strict=True))
        return tuple(sizes[axis] for axis in self.order)

    def _arranged(self, dims: tuple[int, ...]) -> Flow:
        orders = {(1, 28, 28): "CHW", (28, 28, 1): "HWC", (28, 28): "HW", (784,): "F"}
        if dims not in orders:
            shown = "x".join(map(str, dims)) or "nothing"
            cannot(f"expected an input of {IMAGE_SIZE}x{IMAGE_SIZE} pixels, not {shown}")
        if dims == (784,):
            return replace(self, order="F", shape=dims, maps=INPUT)
        return replace(self, order=orders[dims], shape=INPUT, maps=None)

    def _then(self, text: str, shape: Shape, **weights: Array) -> Flow:
        """Return the flow after one more step."""
        if self.ending:
            cannot(f"something follows its {self.ending}")
        if any(self.padding):
            cannot("zeros are padded around something else than a convolution")
        kept = {name: np.array(array, np.float32, order="C") for name, array in weights.items()}
        return replace(self, steps=(*self.steps, Step(text, kept)), shape=shape)

    def _images(self, what: str, order: str | None = None) -> tuple[int, int]:
        """Return channels and side of the images that must be here."""
        if len(self.shape) != 3 or self.order not in ("CHW", "HWC"):
            cannot(f"{what} of what is no image with channels")
        if order is not None and self.order != order:
            cannot(f"{what} over the wrong axes, with channels {self.order.index('C') + 1}.")
        if self.shape[1] != self.shape[2]:
            cannot(f"{what} of images that are not square")
        return self.shape[0], self.shape[1]

    # --- Operations ---

    def affine(self, scale: float, offset: float) -> Flow:
        """Return scale * value + offset, which can be the normalisation of pixels only."""
        if self.steps or any(self.padding):
            if (scale, offset) == (1, 0):
                return self
            cannot("it multiplies or adds a constant between layers")
        return replace(self, scale=self.scale * scale, offset=self.offset * scale + offset)

    def pad(self, padding: Sequence[int]) -> Flow:
        """Return the images with zeros around them: top, left, bottom, right."""
        self._images("padding")
        if min(padding) < 0:
            cannot("it crops images")
        return replace(
            self, padding=tuple(a + b for a, b in zip(self.padding, padding, strict=True))
        )

    def conv(
        self,
        weight: Array,
        bias: Array | None,
        *,
        stride: int,
        padding: Sequence[int],
        order: str | None = None,
    ) -> Flow:
        """Return a convolution: weight (out, in, height, width), padding as in `pad`."""
        channels, side = self._images("a convolution", order)
        if weight.ndim != 4 or weight.shape[1] != channels:
            cannot(f"a convolution with weights of shape {weight.shape} for {channels} channels")
        whole = [a + b for a, b in zip(self.padding, padding, strict=True)]
        weight, way = _same_or_valid(weight, stride, whole, side)
        out, kernel = len(weight), weight.shape[2]
        layer = Conv("", channels, out, kernel, stride, way)
        bias = np.zeros(out) if bias is None else bias
        return replace(self, padding=(0, 0, 0, 0))._then(
            str(layer), layer.output_shape(self.shape), weight=weight, bias=bias
        )

    def dense(self, weight: Array, bias: Array | None) -> Flow:
        """Return a dense layer: weight (out, in)."""
        if self.order != "F":
            cannot("a dense layer over images that are not flattened")
        if weight.ndim != 2 or weight.shape[1] != self.shape[0]:
            cannot(f"a dense layer with weights of shape {weight.shape} for {self.shape[0]} values")
        if self.maps is not None and self.order_before == "HWC":
            channels, height, width = self.maps
            maps = weight.reshape(-1, height, width, channels)
            weight = maps.transpose(0, 3, 1, 2).reshape(weight.shape)
        bias = np.zeros(len(weight)) if bias is None else bias
        after = self._then(f"dense {len(weight)}", (len(weight),), weight=weight, bias=bias)
        return replace(after, maps=None)

    def add_constant(self, constant: Array) -> Flow:
        """Return the value plus a constant that is a bias, or a shift of the pixels."""
        if constant.size == 1 and not self.steps:
            return self.affine(1, float(constant.reshape(())))
        last = self.steps[-1] if self.steps else Step("")
        axis = self.order.find("C") if len(self.shape) == 3 else 0
        shape = [1] * len(self.order)
        shape[axis] = self.shape[0]
        aligned = constant.reshape(-1) if constant.size == self.shape[0] else None
        dims = [1] * (len(shape) + 1 - constant.ndim) + list(constant.shape)
        if not last.text.startswith(("conv", "dense")) or aligned is None or dims[1:] != shape:
            cannot("it adds a constant that is no bias of a layer")
        weights = {**last.weights, "bias": last.weights["bias"] + aligned.astype(np.float32)}
        return replace(self, steps=(*self.steps[:-1], Step(last.text, weights)))

    def activation(self, name: str) -> Flow:
        """Return relu, sigmoid, tanh or gelu (by tanh) of the value."""
        if name not in ACTIVATIONS:
            cannot(f"the activation {name}")
        return self._then(name, self.shape)

    def pool(
        self,
        kind: str,
        size: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int] = (0, 0, 0, 0),
        *,
        ceil: bool = False,
        order: str | None = None,
    ) -> Flow:
        """Return the ``kind`` max or avg over windows."""
        channels, side = self._images("a pool", order)
        top, left, bottom, right = padding
        if len(set(size)) > 1 or list(stride) != list(size):
            cannot(f"a pool over windows of {tuple(size)} a stride of {tuple(stride)} apart")
        after = [(side + a + b - size[0]) / size[0] for a, b in ((top, bottom), (left, right))]
        count = {(math.ceil if ceil else math.floor)(each) + 1 for each in after}
        if top or left or count != {side // size[0]}:
            cannot(f"a pool over {size[0]}x{size[0]} whose windows leave images of side {side}")
        if size[0] == 1:
            return self
        text = ("pool avg" if kind == "avg" else "pool") + (f" {size[0]}" if size[0] != 2 else "")
        return self._then(text, (channels, side // size[0], side // size[0]))

    def global_average(self, order: str | None = None) -> Flow:
        """Return the mean of each channel, (channels, 1, 1)."""
        _, side = self._images("a global pool", order)
        return self.pool("avg", (side, side), (side, side))

    def batch_norm(
        self, weight: Array | None, bias: Array | None, mean: Array, var: Array, *, epsilon: float
    ) -> Flow:
        """Return batch norm over the channels or features."""
        if self.maps is not None or self.order == "HW":
            cannot("a batch norm of flattened images")
        channels = self.shape[0]
        if mean.shape != (channels,) or var.shape != (channels,):
            cannot(f"a batch norm over another axis than that of the {channels} channels")
        return self._then(
            "batchnorm",
            self.shape,
            weight=np.ones(channels) if weight is None else weight,
            bias=np.zeros(channels) if bias is None else bias,
            running_mean=mean,
            running_var=var.astype(np.float64)
            + (epsilon - EPSILON),  # exact: only their sum counts
        )

    def dropout(self, probability: float) -> Flow:
        """Return the value: dropout does nothing in prediction, but is kept in the line."""
        if not 0 <= probability < 1:
            cannot(f"a dropout of {probability:g}")
        written = f"{probability:.6f}".rstrip("0").rstrip(".")
        return self._then(f"dropout {written}", self.shape)

    def reshape(self, dims: Sequence[int]) -> Flow:
        """Return the value with other axes, without the batch; one may be -1."""
        count = math.prod(self.dims())
        known = math.prod(size for size in dims if size != -1)
        wanted = tuple(count // max(known, 1) if size == -1 else size for size in dims)
        if math.prod(wanted) != count or sum(size == -1 for size in dims) > 1:
            cannot(f"it reshapes {self.dims()} to {tuple(dims)}")
        if wanted == self.dims():
            return self
        if any(self.padding):
            cannot("zeros are padded around something else than a convolution")
        if not self.steps:
            return self._arranged(wanted)
        if len(wanted) == 1 and len(self.shape) == 3:
            maps = self.shape if self.shape[1] > 1 else None  # of 1x1 there is one order
            return replace(self, shape=wanted, order="F", maps=maps, order_before=self.order)
        cannot(f"it reshapes {self.dims()} to {wanted} between layers")

    def transpose(self, axes: Sequence[int]) -> Flow:
        """Return the value with its axes in another order, the batch not counted: (2, 0, 1)."""
        order = "".join(self.order[axis] for axis in axes)
        if order == self.order:
            return self
        if order not in ("CHW", "HWC"):
            cannot("it transposes images")
        return replace(self, order=order)

    def plus(self, other: Flow) -> Flow:
        """Return the sum, a residual: one of the two was made of the other."""
        short, long = sorted((self, other), key=lambda flow: len(flow.steps))
        count = len(short.steps)
        body = long.steps[count:]
        if not body or any(a is not b for a, b in zip(short.steps, long.steps, strict=False)):
            cannot("it adds two branches of which neither is the input of the other")
        if (short.shape, short.order, short.scale, short.offset) != (
            long.shape,
            long.order,
            long.scale,
            long.offset,
        ):
            cannot("it adds two branches of different shapes")
        inside = ", ".join(step.text for step in body)
        residual = Step(f"residual({inside})", body=body)
        return replace(long, steps=(*short.steps, residual), maps=short.maps)

    def end(self, ending: str) -> Flow:
        """Return the value after "softmax" or "log_softmax", of which only the last is dropped."""
        if self.ending:
            cannot("it has more than one softmax")
        return replace(self, ending=ending)


def _same_or_valid(
    weight: Array, stride: int, padding: Sequence[int], side: int
) -> tuple[Array, str]:
    """Return the kernel of a convolution that is "same" or "valid" and computes the same.

    Where zeros lie on one side more than on the other, as with Keras' "same" and a stride, the
    kernel gets rows and columns of zeros until the padding is even.
    """
    top, left, bottom, right = padding
    height, width = weight.shape[2:]
    outputs = {
        (side + before + after - size) // stride + 1
        for before, after, size in ((top, bottom, height), (left, right, width))
    }
    largest = max(height, width)
    if (top, left, height) == (0, 0, width) and outputs == {(side - height) // stride + 1}:
        return weight, "valid" if height > 1 else "same"  # 1x1 is both
    if outputs == {(side - 1) // stride + 1}:
        for kernel in range(largest | 1, min(largest + 2 * stride + 3, side + 1), 2):
            above, before = kernel // 2 - top, kernel // 2 - left
            below, behind = kernel - height - above, kernel - width - before
            if min(above, before, below, behind) >= 0:
                zeros = ((0, 0), (0, 0), (above, below), (before, behind))
                return np.pad(weight, zeros), "same"
    return cannot(
        f"a convolution of {height}x{width} with stride {stride} and zeros {tuple(padding)} "
        f"(top, left, bottom, right) around images of {side}x{side}"
    )


def finish(flow: Flow) -> Network:
    """Return the network of a whole file."""
    classes = math.prod(flow.shape)
    if flow.order != "F":
        flow = flow.reshape((-1,)) if len(flow.shape) == 3 and flow.steps else flow
    if not flow.steps or flow.steps[-1].text != f"dense {classes}":
        # Every line ends with a dense layer: here with one that changes nothing.
        ending, flow = flow.ending, replace(flow, ending="")
        flow = replace(flow.dense(np.eye(classes), None), ending=ending)
    line, weights = _canonical(flow.steps, classes)
    return Network(line, weights, flow.scale, flow.offset, flow.ending, classes)


def _canonical(steps: Sequence[Step], classes: int) -> tuple[str, Weights]:
    """Return the line of steps, and their weights by canonical name."""
    try:
        layers = parse(", ".join(step.text for step in steps), classes)
    except UsageError as error:
        cannot(str(error).rstrip("."))
    arrays = [weights for weights in _weights(steps) if weights]
    return write(layers, classes), named(layers, arrays)


def named(layers: Sequence[Layer], arrays: Sequence[Mapping[str, Array]]) -> Weights:
    """Return the weights by canonical name; ``arrays`` has those of each layer that has some."""
    holders = [layer for layer, _ in leaves(layers) if isinstance(layer, (Conv, Dense, BatchNorm))]
    found = {
        f"{layer.name}.{kind}": array
        for layer, each in zip(holders, arrays, strict=True)
        for kind, array in each.items()
    }
    shapes: dict[str, Shape] = {}
    for layer in holders:
        shapes |= layer.parameter_shapes() | layer.statistic_shapes()
    for name, shape in shapes.items():
        if found[name].shape != shape:
            cannot(f"{name} has the shape {found[name].shape}, expected {shape}")
        if not np.isfinite(found[name]).all():
            raise CheckpointError(f"The file is damaged: {name} has values that are no numbers.")
    return found


def _weights(steps: Sequence[Step]) -> Iterator[Mapping[str, Array]]:
    for step in steps:
        yield step.weights
        yield from _weights(step.body)

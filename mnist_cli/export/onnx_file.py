"""ONNX: a graph written from the layers by ``onnx.helper``, verified by ONNX Runtime."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mnist_cli import __version__
from mnist_cli.arrays import IMAGE_SIZE, Array, Weights
from mnist_cli.networks.spec import (
    EPSILON,
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
    written_layers,
)
from mnist_cli.training.checkpoint import Checkpoint

OPSET = 20  # the first that has Gelu
_IR_VERSION = 9  # that of opset 20
_ACTIVATIONS = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "gelu": "Gelu"}
LOGITS = "logits"


@dataclass
class _Graph:
    """The nodes and constants so far; values are named by what made them."""

    weights: Weights
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)

    def constant(self, name: str, array: Array) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.array(array, order="C"), name))
        return name

    def parameters(self, layer: str, kinds: Sequence[str] = ("weight", "bias")) -> list[str]:
        names = [f"{layer}.{kind}" for kind in kinds]
        return [self.constant(name, self.weights[name]) for name in names]

    def node(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        from onnx import helper

        output = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output


def export(checkpoint: Checkpoint, path: Path, *, raw: bool) -> None:
    """Write a model; see `formats.Exporter`. The batch size is left open."""
    import onnx
    from onnx import TensorProto, helper

    graph = _Graph(checkpoint.weights)
    side = IMAGE_SIZE
    if raw:
        kind, sides, value = TensorProto.FLOAT, [1, side, side], "images"
    else:
        kind, sides = TensorProto.UINT8, [side, side]
        value = _normalised(graph, checkpoint)
    value = _write(graph, written_layers(checkpoint.spec), value)
    value = graph.node("Identity", value, output=LOGITS)
    if not raw:
        value = graph.node("Softmax", value, output="probabilities", axis=1)
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            checkpoint.spec.arch,
            [helper.make_tensor_value_info("images", kind, ["N", *sides])],
            [
                helper.make_tensor_value_info(
                    value, TensorProto.FLOAT, ["N", checkpoint.spec.classes]
                )
            ],
            graph.constants,
        ),
        producer_name="mnist-cli",
        producer_version=__version__,
        ir_version=_IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    facts = {
        "line": checkpoint.spec.line,
        "class_names": checkpoint.class_names,
        "pixel_mean": checkpoint.pixel_mean,
        "pixel_std": checkpoint.pixel_std,
    }
    helper.set_model_props(model, {name: json.dumps(value) for name, value in facts.items()})
    onnx.save(model, path)


def _normalised(graph: _Graph, checkpoint: Checkpoint) -> str:
    """Return the value of `recipe.normalize`, (N, 1, 28, 28), of the uint8 input."""
    from onnx import TensorProto

    mean, std = checkpoint.pixel_mean, checkpoint.pixel_std
    scale = graph.constant("scale", np.float32(1 / (255 * std)).reshape(1))
    offset = graph.constant("offset", np.float32(mean / std).reshape(1))
    shape = graph.constant("shape", np.array([-1, 1, IMAGE_SIZE, IMAGE_SIZE]))
    pixels = graph.node("Cast", "images", to=TensorProto.FLOAT)
    scaled = graph.node("Mul", pixels, scale)
    return graph.node("Reshape", graph.node("Sub", scaled, offset), shape)


def _write(graph: _Graph, layers: Sequence[Layer], value: str) -> str:
    """Add the nodes of layers and return the value of the last."""
    for layer in layers:
        match layer:
            case Conv():
                value = graph.node(
                    "Conv",
                    value,
                    *graph.parameters(layer.name),
                    kernel_shape=[layer.kernel] * 2,
                    strides=[layer.stride] * 2,
                    pads=[layer.margin] * 4,
                )
            case Dense():
                value = graph.node("Gemm", value, *graph.parameters(layer.name), transB=1)
            case Activation(function):
                form = {"approximate": "tanh"} if function == "gelu" else {}
                value = graph.node(_ACTIVATIONS[function], value, **form)
            case MaxPool(size) | AveragePool(size):
                kind = type(layer).__name__
                value = graph.node(kind, value, kernel_shape=[size] * 2, strides=[size] * 2)
            case BatchNorm():
                kinds = ("weight", "bias", "running_mean", "running_var")
                names = graph.parameters(layer.name, kinds)
                value = graph.node("BatchNormalization", value, *names, epsilon=EPSILON)
            case Dropout(probability):  # nothing in prediction, but whoever trains on has it
                name = f"dropout_{len(graph.nodes)}_ratio"
                ratio = graph.constant(name, np.array(probability, np.float32))
                value = graph.node("Dropout", value, ratio)
            case Flatten():
                value = graph.node("Flatten", value, axis=1)
            case Residual(body):
                value = graph.node("Add", value, _write(graph, body, value))
    return value


def verify(path: Path, images: Array) -> Array:
    """Return the logits of a file; see `formats.Exporter`.

    Raises ``onnx.checker.ValidationError`` if it is not valid.
    """
    import onnx

    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    if model.graph.output[0].name != LOGITS:  # a graph may give more than it says
        classes = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
        logits = onnx.helper.make_tensor_value_info(LOGITS, onnx.TensorProto.FLOAT, ["N", classes])
        model.graph.output.append(logits)
    if model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
        images = images[:, None]
    # One image, then the others: the batch size is open.
    session = session_of(model)
    return np.concatenate([session(part)[LOGITS] for part in (images[:1], images[1:])])


def session_of(model: Any) -> Callable[[Array], dict[str, Array]]:
    """Return a function that lets ONNX Runtime compute a graph's outputs, by name, of its input."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised too
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    names = [each.name for each in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, {name: inputs}), strict=True))

"""ONNX graphs, from PyTorch, tf2onnx, Keras, CNTK and others: operators to a `flow.Flow`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mnist_cli.arrays import Array
from mnist_cli.errors import CheckpointError
from mnist_cli.importing.flow import Flow, cannot, finish
from mnist_cli.importing.source import MAX_BYTES, Source

_ACTIVATIONS = {"Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh"}
_ENDINGS = {"Softmax": "softmax", "LogSoftmax": "log_softmax"}
# What a graph may do to its constants before they are weights, shapes or axes.
_FOLDED = {"Add", "Cast", "Concat", "Constant", "Div", "Gather", "Identity", "Mul", "Reshape"}
_FOLDED |= {"Slice", "Squeeze", "Sub", "Transpose", "Unsqueeze"}
# How the pixels of a program's tutorials enter; see `source.PIXELS`.
_PRODUCERS = {"pytorch": "mnist", "cntk": "0-255"}


def read(path: Path) -> Source:
    """Return the network of an ONNX file. Raises `CheckpointError` for what cannot be read."""
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's own
        raise _damaged(path) from error
    if not model.graph.node:
        raise _damaged(path)
    _load_external(model, path)
    known = {each.name for each in model.graph.initializer}
    inputs = [each for each in model.graph.input if each.name not in known]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        cannot(f"it has {len(inputs)} inputs and {len(model.graph.output)} outputs, not one each")
    batch, dims = _dims(inputs[0])
    network = finish(_Trace(model, batch or 1).run(inputs[0].name, Flow.start(dims)))
    kind = onnx.helper.tensor_dtype_to_np_dtype(inputs[0].type.tensor_type.elem_type)

    def compute(images: Array) -> Array:
        from mnist_cli.export.onnx_file import session_of

        session = session_of(model)
        shaped = images.astype(kind).reshape(-1, *dims)
        if batch is None:
            return np.asarray(next(iter(session(shaped).values())))
        # As many at a time as the graph is for; it may have no axis for a batch at all.
        lots = np.resize(shaped, (-(-len(shaped) // max(batch, 1)), max(batch, 1), *dims))
        parts = [session(lot if batch else lot[0]) for lot in lots]
        answers = np.concatenate(
            [next(iter(part.values())).reshape(-1, network.classes) for part in parts]
        )
        return np.asarray(answers[: len(images)])

    return Source(network, compute, _pixels(model), takes_integers=kind.kind in "ui")


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path} is not a whole ONNX file. It may be cut short or of another kind: "
        "copy or export it again."
    )


def _dims(value: Any) -> tuple[int | None, tuple[int, ...]]:
    """Return the batch of an input, None if it is open or 0 if it has none, and its axes."""
    sizes = [each.dim_value for each in value.type.tensor_type.shape.dim]  # 0: open
    if np.prod(sizes) == 28 * 28 and sizes[0] != 1:
        return 0, tuple(sizes)
    return (sizes[0] or None) if sizes else 0, tuple(sizes[1:])


def _pixels(model: Any) -> str:
    """Return how pixels usually enter; our own raw files say it."""
    facts = {each.key: each.value for each in model.metadata_props}
    if model.producer_name == "mnist-cli" and {"pixel_mean", "pixel_std"} <= set(facts):
        return f"{json.loads(facts['pixel_mean'])},{json.loads(facts['pixel_std'])}"
    return _PRODUCERS.get(model.producer_name.lower(), "0-1")


def _load_external(model: Any, path: Path) -> None:
    """Read the arrays that lie in files beside the graph, and in no other folder."""
    import onnx

    attributes = [each for node in model.graph.node for each in node.attribute]
    if any(each.t.data_location == onnx.TensorProto.EXTERNAL for each in attributes):
        raise CheckpointError(f"{path} has a constant in another file: that is refused.")
    folder, total = path.parent.resolve(), path.stat().st_size
    for tensor in model.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        facts = {each.key: each.value for each in tensor.external_data}
        place = Path(facts.get("location", ""))
        file = (folder / place).resolve()
        if place.is_absolute() or not file.is_relative_to(folder):
            raise CheckpointError(
                f"{path} has its weights at {place}, outside its folder: that is refused. "
                "Put them beside it, and name them without a path."
            )
        if not file.is_file():
            raise CheckpointError(f"{path} has its weights in {file}, which is missing. Add it.")
        offset = int(facts.get("offset", 0))
        length = int(facts.get("length", file.stat().st_size - offset))
        total += length
        if not (offset >= 0 and 0 <= length <= file.stat().st_size - offset):
            raise CheckpointError(f"{file} is cut short: {tensor.name} lies beyond its end.")
        if total > MAX_BYTES:
            raise CheckpointError(f"{path} has more than {MAX_BYTES:,} bytes of weights.")
        with file.open("rb") as data:
            data.seek(offset)
            tensor.raw_data = data.read(length)
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


class _Trace:
    """The values of a graph as far as they are known: constants, and flows made of the image."""

    def __init__(self, model: Any, batch: int) -> None:
        import onnx

        self.batch = batch
        self.model = model
        self.opset = max(
            (each.version for each in model.opset_import if not each.domain), default=1
        )
        self.values: dict[str, Flow | Array] = {
            each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer
        }

    def run(self, name: str, flow: Flow) -> Flow:
        """Return what comes out when ``flow`` goes in as ``name``."""
        self.values[name] = flow
        for node in self.model.graph.node:
            kind = node.op_type
            if node.domain not in ("", "ai.onnx"):
                cannot(f"the custom operator {node.domain}.{kind}")
            missing = [each for each in node.input if each and each not in self.values]
            if missing:
                cannot(f"{kind} of the unknown value {missing[0]}")
            inputs = [self.values[each] if each else None for each in node.input]
            self.values[node.output[0]] = self._value(node, inputs)
        result = self.values.get(self.model.graph.output[0].name)
        if not isinstance(result, Flow):
            cannot("its output does not depend on its input")
        return result

    def _value(self, node: Any, inputs: list[Flow | Array | None]) -> Flow | Array:
        flows = [each for each in inputs if isinstance(each, Flow)]
        if not flows:
            return self._folded(node, inputs)
        import onnx

        arrays = [each for each in inputs if isinstance(each, np.ndarray)]
        attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        if node.op_type == "Reshape" and arrays[:1] and arrays[0][:1] == [self.batch]:
            arrays[0] = np.array([0, *arrays[0][1:]])
        if node.op_type == "Shape":  # 0 for the batch: reshaping takes it as "as it was"
            sizes = np.array([0, *flows[0].dims()])
            return sizes[attributes.get("start", 0) : attributes.get("end")]
        if len(flows) == 2 and node.op_type == "Add":
            return flows[0].plus(flows[1])
        if len(flows) > 1:
            cannot(f"{node.op_type} of two values made of the image")
        if inputs[0] is not flows[0] and node.op_type not in ("Add", "Mul"):
            cannot(f"{node.op_type} with the image as its second input")
        return _applied(node.op_type, flows[0], arrays, attributes, self.opset)

    def _folded(self, node: Any, inputs: list[Any]) -> Array:
        """Return what a node makes of constants."""
        import onnx
        from onnx.reference import ReferenceEvaluator

        if node.op_type not in _FOLDED:
            cannot(f"the operator {node.op_type} of constants")
        if node.op_type in ("Add", "Sub", "Mul", "Div"):
            shape = np.broadcast_shapes(*(each.shape for each in inputs))
            if np.prod([float(size) for size in shape]) * 8 > MAX_BYTES:
                cannot(f"a constant of shape {shape}")
        names = [each or "" for each in node.input]
        infos = [
            onnx.helper.make_tensor_value_info(
                name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
            )
            for name, array in dict(zip(names, inputs, strict=True)).items()
            if name
        ]
        result = onnx.ValueInfoProto(name=node.output[0])
        graph = onnx.helper.make_graph([node], "constants", infos, [result])
        opset = onnx.helper.make_opsetid("", self.opset)
        one = onnx.helper.make_model(graph, opset_imports=[opset])
        feeds = {name: array for name, array in zip(names, inputs, strict=True) if name}
        results: Any = ReferenceEvaluator(one).run(None, feeds)
        return np.asarray(results[0])


def _applied(
    kind: str,
    flow: Flow,
    arrays: Sequence[Array],
    attributes: dict[str, Any],
    opset: int,
) -> Flow:
    """Return the flow after one operator, whose constant inputs are ``arrays``."""
    if kind in _ACTIVATIONS:
        return flow.activation(_ACTIVATIONS[kind])
    if kind in _ENDINGS:
        axis = attributes.get("axis", -1 if opset >= 13 else 1)
        if axis not in (-1, len(flow.order)) and not (opset < 13 and axis == 1):
            cannot(f"{kind} over axis {axis}")
        return flow.end(_ENDINGS[kind])
    match kind:
        case "Gelu":
            form = attributes.get("approximate", b"none").decode()
            return flow.activation("gelu" if form == "tanh" else "gelu by the error function")
        case "Conv":
            return _conv(flow, arrays, attributes)
        case "Gemm":
            weight = arrays[0] if attributes.get("transB", 0) else arrays[0].T
            if attributes.get("transA", 0):
                cannot("Gemm of transposed inputs")
            bias = arrays[1] * attributes.get("beta", 1.0) if len(arrays) > 1 else None
            if bias is not None:
                bias = np.broadcast_to(bias.reshape(-1), len(weight))
            return flow.dense(weight * np.float32(attributes.get("alpha", 1.0)), bias)
        case "MatMul":
            return flow.dense(arrays[0].T, None)
        case "MaxPool" | "AveragePool":
            return _pool(flow, "max" if kind == "MaxPool" else "avg", attributes)
        case "GlobalAveragePool":
            return flow.global_average("CHW")
        case "ReduceMean":
            axes = attributes.get("axes", arrays[0] if arrays else None)
            if axes is None or sorted(axis % 4 for axis in axes) != [2, 3]:
                cannot("a mean over other axes than rows and columns")
            pooled = flow.global_average("CHW")
            return pooled if attributes.get("keepdims", 1) else pooled.reshape((-1,))
        case "BatchNormalization":
            if len(flow.shape) == 3 and flow.order != "CHW":
                cannot("a batch norm over another axis than that of the channels")
            weight, bias, mean, var = arrays
            epsilon = attributes.get("epsilon", 1e-5)
            return flow.batch_norm(weight, bias, mean, var, epsilon=epsilon)
        case "Dropout":
            ratio = attributes.get("ratio", arrays[0].item() if arrays else 0.5)
            return flow.dropout(round(float(ratio), 6))
        case _:
            return _arranged(kind, flow, arrays, attributes)


def _arranged(
    kind: str,
    flow: Flow,
    arrays: Sequence[Array],
    attributes: dict[str, Any],
) -> Flow:
    """Return the flow after an operator on axes or with a constant."""
    rank = len(flow.order) + 1
    match kind:
        case "Identity" | "Cast" | "CastLike":
            return flow
        case "Flatten":
            if attributes.get("axis", 1) != 1:
                cannot("it flattens the batch too")
            return flow.reshape((-1,))
        case "Reshape":
            sizes = (attributes["shape"] if "shape" in attributes else arrays[0]).tolist()
            if sizes[0] not in (-1, 0, 1):
                cannot(f"it reshapes to {sizes}")
            kept = [0, *flow.dims()]
            dims = [kept[i] if size == 0 else size for i, size in enumerate(sizes)]
            return flow.reshape(dims[1:])
        case "Unsqueeze" | "Squeeze":
            axes = attributes.get("axes", arrays[0].tolist() if arrays else None)
            if axes is None:
                cannot("it squeezes whatever axes have one value")
            dims = list(flow.dims())
            if kind == "Unsqueeze":
                for axis in sorted(each % (rank + len(axes)) for each in axes):
                    dims.insert(axis - 1, 1)
            else:
                gone = {each % rank - 1 for each in axes}
                dims = [size for index, size in enumerate(dims) if index not in gone]
            return flow.reshape(dims)
        case "Transpose":
            perm = attributes.get("perm", list(range(rank))[::-1])
            if perm[0] != 0:
                cannot("it transposes the batch")
            return flow.transpose([axis - 1 for axis in perm[1:]])
        case "Pad":
            return _padded(flow, arrays, attributes)
        case "Add":
            return flow.add_constant(arrays[0])
        case "Sub" | "Mul" | "Div" if arrays[0].size == 1:
            number = float(arrays[0].reshape(()))
            scale, offset = {"Sub": (1.0, -number), "Mul": (number, 0.0)}.get(
                kind, (1 / (number or np.nan), 0.0)
            )
            return flow.affine(scale, offset)
    return cannot(f"the operator {kind}")


def _sides(attributes: dict[str, Any], flow: Flow, size: Sequence[int]) -> tuple[int, ...]:
    """Return the padding of a convolution or pool: top, left, bottom, right."""
    way = attributes.get("auto_pad", b"NOTSET").decode()
    if way == "NOTSET":
        return tuple(attributes.get("pads", (0, 0, 0, 0)))
    if way == "VALID":
        return (0, 0, 0, 0)
    strides = attributes.get("strides", (1, 1))
    total = [
        max((-(-side // stride) - 1) * stride + width - side, 0)
        for side, stride, width in zip(flow.dims()[1:], strides, size, strict=True)
    ]
    less, more = [each // 2 for each in total], [each - each // 2 for each in total]
    return (*less, *more) if way == "SAME_UPPER" else (*more, *less)


def _conv(flow: Flow, arrays: Sequence[Array], attributes: dict[str, Any]) -> Flow:
    weight, bias = arrays[0], arrays[1] if len(arrays) > 1 else None
    strides = attributes.get("strides", [1, 1])
    if attributes.get("group", 1) != 1 or set(attributes.get("dilations", [1])) != {1}:
        cannot("a convolution in groups or with dilation")
    if len(strides) != 2 or len(set(strides)) != 1:
        cannot(f"a convolution with strides {tuple(strides)}")
    padding = _sides(attributes, flow, weight.shape[2:])
    return flow.conv(weight, bias, stride=strides[0], padding=padding, order="CHW")


def _pool(flow: Flow, kind: str, attributes: dict[str, Any]) -> Flow:
    size = attributes["kernel_shape"]
    if set(attributes.get("dilations", [1])) != {1}:
        cannot("a pool with dilation")
    return flow.pool(
        kind,
        size,
        attributes.get("strides", [1] * len(size)),
        _sides(attributes, flow, size),
        ceil=bool(attributes.get("ceil_mode", 0)),
        order="CHW",
    )


def _padded(flow: Flow, arrays: Sequence[Array], attributes: dict[str, Any]) -> Flow:
    pads = list(attributes["pads"] if "pads" in attributes else arrays[0])
    value = float(arrays[1].reshape(())) if len(arrays) > 1 else attributes.get("value", 0.0)
    if attributes.get("mode", b"constant") != b"constant" or value != 0 or len(pads) != 8:
        cannot("padding with something else than zeros")
    sides = {"CHW": (2, 3, 6, 7), "HWC": (1, 2, 5, 6)}.get(flow.order)
    if sides is None or sum(pads) != sum(pads[axis] for axis in sides):
        cannot("padding of other axes than rows and columns")
    return flow.pad([int(pads[axis]) for axis in sides])

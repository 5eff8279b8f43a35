"""ONNX graphs that are built here: what other programs write, and what must be refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnist_cli import adapters
from mnist_cli.arrays import Array
from mnist_cli.config import TrainConfig
from mnist_cli.errors import CheckpointError
from mnist_cli.importing import onnx_graph, source
from mnist_cli.networks.language import find_network

onnx = pytest.importorskip("onnx")


def _graph(
    nodes: list[tuple[Any, ...]],
    constants: dict[str, Array],
    *,
    dims: tuple[Any, ...] = ("N", 1, 28, 28),
    opset: int = 17,
    **options: Any,
) -> Any:
    """Return a model; a node is (operator, inputs, output, attributes); the input is x."""
    helper = onnx.helper
    made = [
        helper.make_node(kind, inputs, [output], **attributes)
        for kind, inputs, output, attributes in nodes
    ]
    outputs = [helper.make_tensor_value_info(nodes[-1][2], onnx.TensorProto.FLOAT, None)]
    graph = helper.make_graph(
        made,
        "network",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, dims)],
        outputs,
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.example", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, **options)


def _read(folder: Path, model: Any) -> source.Source:
    onnx.save(model, folder / "model.onnx")
    return onnx_graph.read(folder / "model.onnx")


def _arrays(**shapes: tuple[int, ...]) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {
        name: (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        for name, shape in shapes.items()
    }


def _require_same_logits(found: source.Source, images: Array) -> None:
    network = found.network
    classifier = adapters.load("numpy").build(
        find_network(network.line), TrainConfig(), device="cpu", threads=1
    )
    classifier.import_weights(network.weights)
    ours = classifier.predict_logits(images * network.scale + network.offset)
    theirs = found.run(images)
    # float32 sums in another order, relative to the scale of what is summed.
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * max(1, np.abs(theirs).max()))


IMAGES = np.random.default_rng(1).random((5, 28, 28), dtype=np.float32)


def test_the_model_zoos_mnist_by_cntk_comes_in(tmp_path: Path) -> None:
    # One image, biases added apart, weights reshaped in the graph, SAME_UPPER.
    arrays = _arrays(w1=(8, 1, 5, 5), b1=(8, 1, 1), w2=(16, 8, 5, 5), b2=(16, 1, 1))
    arrays |= _arrays(w3=(16, 4, 4, 10), b3=(1, 10))
    arrays |= {"flat": np.array([1, 256]), "flat_weight": np.array([256, 10])}
    same = {"auto_pad": "SAME_UPPER", "kernel_shape": [5, 5], "strides": [1, 1]}
    nodes = [
        ("Div", ["x", "full"], "scaled", {}),
        ("Conv", ["scaled", "w1"], "c1", {**same, "group": 1, "dilations": [1, 1]}),
        ("Add", ["c1", "b1"], "p1", {}),
        ("Relu", ["p1"], "r1", {}),
        ("MaxPool", ["r1"], "m1", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("Conv", ["m1", "w2"], "c2", same),
        ("Add", ["c2", "b2"], "p2", {}),
        ("Relu", ["p2"], "r2", {}),
        ("MaxPool", ["r2"], "m2", {"kernel_shape": [3, 3], "strides": [3, 3]}),
        ("Reshape", ["m2", "flat"], "f", {}),
        ("Reshape", ["w3", "flat_weight"], "w3f", {}),
        ("MatMul", ["f", "w3f"], "d", {}),
        ("Add", ["d", "b3"], "y", {}),
    ]
    arrays["full"] = np.array(255, np.float32)
    model = _graph(nodes, arrays, dims=(1, 1, 28, 28), opset=8, producer_name="CNTK")
    found = _read(tmp_path, model)
    assert found.network.line == "conv 8 5x5, relu, pool, conv 16 5x5, relu, pool 3"
    assert found.pixels == "0-255"
    mean, std = source.pixel_statistics(found.network, *source.parse_pixels("0-255"))
    assert (mean, std) == (0, 1)
    _require_same_logits(found, IMAGES)


def test_channels_last_around_convolutions_as_tf2onnx_writes_them_come_in(tmp_path: Path) -> None:
    arrays = _arrays(w1=(4, 1, 3, 3), b1=(4,), w2=(784, 10), b2=(10,))
    nodes = [
        ("Transpose", ["x"], "t1", {"perm": [0, 3, 1, 2]}),
        ("Pad", ["t1", "pads"], "p", {}),
        ("Conv", ["p", "w1", "b1"], "c", {"strides": [2, 2]}),
        ("Tanh", ["c"], "r", {}),
        ("Transpose", ["r"], "t2", {"perm": [0, 2, 3, 1]}),
        ("Shape", ["t2"], "s", {"start": 0, "end": 2}),
        ("Gather", ["s", "first"], "n", {}),
        ("Concat", ["n", "rest"], "shape", {"axis": 0}),
        ("Reshape", ["t2", "shape"], "f", {}),
        ("Gemm", ["f", "w2", "b2"], "g", {}),
        ("LogSoftmax", ["g"], "y", {}),
    ]
    arrays |= {"pads": np.array([0, 0, 0, 0, 0, 0, 1, 1]), "first": np.array([0])}
    arrays |= {"rest": np.array([-1])}
    found = _read(tmp_path, _graph(nodes, arrays, dims=("N", 28, 28, 1)))
    assert found.network.line == "conv 4 5x5 stride 2, tanh"
    assert found.network.ending == "log_softmax"
    # The sum of a channel's weights behind the flattening shows their order: row, column, channel.
    theirs = arrays["w2"].reshape(14, 14, 4, 10).sum((0, 1)).T
    ours = found.network.weights["fc1.weight"].reshape(10, 4, 14, 14).sum((2, 3))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)  # sums of 196 numbers near 0.04


def _flat(*nodes: tuple[Any, ...], **constants: Array) -> Any:
    """Return a linear network with ``nodes`` from x to h before it."""
    arrays = _arrays(w=(10, 784), b=(10,)) | constants
    start = nodes or (("Identity", ["x"], "h", {}),)
    rest = [("Flatten", ["h"], "f", {}), ("Gemm", ["f", "w", "b"], "y", {"transB": 1})]
    return _graph([*start, *rest], arrays)


CONV = np.ones((1, 1, 3, 3), np.float32)


@pytest.mark.parametrize(
    ("nodes", "constants", "said"),
    [
        ([("Whiten", ["x"], "h", {"domain": "com.example"})], {}, "the custom operator com.exam"),
        ([("LeakyRelu", ["x"], "h", {})], {}, "the operator LeakyRelu"),
        ([("Gelu", ["x"], "h", {})], {}, "gelu by the error function"),
        ([("Sigmoid", ["x"], "a", {}), ("Tanh", ["x"], "b", {}), ("Add", ["a", "b"], "h", {})],
         {}, "two branches of which neither"),
        ([("Sigmoid", ["x"], "a", {}), ("Mul", ["x", "a"], "h", {})], {}, "Mul of two values"),
        ([("Neg", ["c"], "d", {}), ("Add", ["x", "d"], "h", {})],
         {"c": np.ones(1, np.float32)}, "the operator Neg of constants"),
        ([("Conv", ["x", "c"], "h", {"dilations": [2, 2], "pads": [2] * 4})], {"c": CONV},
         "in groups or with dilation"),
        ([("Conv", ["x", "c"], "h", {"pads": [2] * 4})], {"c": CONV}, "a convolution of 3x3"),
        ([("MaxPool", ["x"], "h", {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1] * 4})],
         {}, "a pool over windows"),
        ([("Transpose", ["x"], "h", {"perm": [0, 1, 3, 2]})], {}, "it transposes images"),
        ([("Relu", ["nowhere"], "h", {})], {}, "the unknown value nowhere"),
        ([("Softmax", ["x"], "a", {}), ("Relu", ["a"], "h", {})], {}, "follows its softmax"),
        ([("Conv", ["x", "c"], "h", {"pads": [1] * 4})], {"c": CONV * np.nan}, "is damaged"),
        ([("Add", ["c", "e"], "d", {}), ("Add", ["x", "d"], "h", {})],
         {"c": np.ones((1, 200_000), np.float32), "e": np.ones((200_000, 1), np.float32)},
         "a constant of shape"),
    ],
)  # fmt: skip
def test_what_a_line_cannot_say_is_named(
    tmp_path: Path, nodes: list[Any], constants: dict[str, Array], said: str
) -> None:
    with pytest.raises(CheckpointError, match=said) as error:
        _read(tmp_path, _flat(*nodes, **constants))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("batch", [1, 4, 0])
def test_a_graph_for_a_fixed_number_of_images_comes_in(tmp_path: Path, batch: int) -> None:
    arrays = _arrays(w=(784, 10), b=(10,)) | {"flat": np.array([batch or 1, 784])}
    nodes = [("Reshape", ["x", "flat"], "f", {}), ("Gemm", ["f", "w", "b"], "y", {})]
    dims = (batch, 1, 28, 28) if batch else (28, 28)
    found = _read(tmp_path, _graph(nodes, arrays, dims=dims))
    assert found.network.line == "dense 10"
    _require_same_logits(found, IMAGES)


def test_pixels_that_are_inverted_are_refused(tmp_path: Path) -> None:
    one = np.ones(1, np.float32)
    found = _read(tmp_path, _flat(("Mul", ["x", "c"], "h", {}), c=-one))
    with pytest.raises(CheckpointError, match="it inverts the pixels"):
        source.pixel_statistics(found.network, 0, 1)


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("../secret.bin", "outside its folder: that is refused"),
        ("{absolute}", "outside its folder: that is refused"),
        ("link.bin", "outside its folder: that is refused"),
        ("gone.bin", "which is missing"),
        ("short.bin", "is cut short"),
    ],
)
def test_weights_in_other_places_than_its_folder_are_refused(
    tmp_path: Path, location: str, said: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(10 * 784 * 4))
    (folder / "link.bin").symlink_to(secret)
    (folder / "short.bin").write_bytes(bytes(100))
    model = _with_external(_flat(), location.format(absolute=secret))
    with pytest.raises(CheckpointError, match=said):
        _read(folder, model)


def test_weights_beside_the_graph_are_read(tmp_path: Path) -> None:
    model = _flat()
    (tmp_path / "weights.bin").write_bytes(model.graph.initializer[0].raw_data)
    found = _read(tmp_path, _with_external(model, "weights.bin"))
    np.testing.assert_array_equal(found.network.weights["fc1.weight"], _arrays(w=(10, 784))["w"])
    _require_same_logits(found, IMAGES)


def _with_external(model: Any, location: str) -> Any:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": str(7840 * 4)}.items():
        tensor.external_data.add(key=key, value=value)
    return model

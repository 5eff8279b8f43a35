"""What is derived from a network's layers: shapes, sizes, names and initial weights."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from network_lines import lines

from mnist_cli.config import NETWORKS, ModelSpec
from mnist_cli.errors import CheckpointError, UsageError
from mnist_cli.networks import picture, spec
from mnist_cli.networks.language import find_network
from mnist_cli.networks.spec import (
    INPUT,
    Activation,
    Conv,
    Dense,
    MaxPool,
    flattened_channels,
    initial_weights,
    layers,
    operation_count,
    parameter_count,
    parameter_shapes,
    require_weights,
    weight_shapes,
    with_shapes,
)


def test_the_cnn_is_as_it_was() -> None:
    assert [layer for layer in layers(ModelSpec("cnn")) if not isinstance(layer, Activation)] == [
        Conv("conv1", 1, 32),
        MaxPool(),
        Conv("conv2", 32, 64),
        MaxPool(),
        spec.Flatten(),
        Dense("fc1", 3136, 128),
        Dense("fc2", 128, 10),
    ]
    # Counted by hand: weights and biases; two for each product, one per input of the rest.
    assert parameter_count(ModelSpec("cnn")) == 320 + 18_496 + 401_536 + 1_290
    convolutions = 2 * (784 * 32 * 9 + 196 * 64 * 288)
    assert operation_count(ModelSpec("cnn")) == (
        convolutions + 2 * (32 * 784 + 64 * 196) + 2 * (3136 * 128 + 1280) + 128
    )


@pytest.mark.parametrize(
    ("name", "parameters"), [("mlp", 101_770), ("lenet5", 61_706), ("linear", 7_850)]
)
def test_known_networks_have_the_parameters_of_the_literature(name: str, parameters: int) -> None:
    assert parameter_count(ModelSpec(name)) == parameters


def test_relu_is_computed_after_a_maximum_pool_also_in_a_residual() -> None:
    relu, pool = Activation("relu"), MaxPool()
    assert layers(find_network("relu, pool, tanh, pool"))[:4] == (
        pool,
        relu,
        Activation("tanh"),
        pool,
    )
    assert layers(find_network("relu, pool avg"))[0] == relu  # a mean does not commute


def test_names_count_through_residuals() -> None:
    spec = find_network("conv 4, residual(conv 4, batchnorm, residual(conv 4)), conv 8, batchnorm")
    names = list(dict.fromkeys(name.partition(".")[0] for name in weight_shapes(spec)))
    assert names == ["conv1", "conv2", "bn1", "conv3", "conv4", "bn2", "fc1"]
    assert weight_shapes(spec)["bn1.running_var"] == (4,)
    assert "bn1.running_var" not in parameter_shapes(spec)


def test_dense_weights_know_the_channels_they_were_flattened_from() -> None:
    assert flattened_channels(find_network("conv 4, dense 20, relu, dense 5")) == {
        "fc1.weight": 4,
        "fc2.weight": 1,
        "fc3.weight": 1,
    }


@given(lines())
def test_initial_weights_have_the_derived_names_and_shapes(line: str) -> None:
    network = find_network(line)
    weights = initial_weights(network, np.random.default_rng(0))
    require_weights(network, weights)
    assert all(array.dtype == np.float32 for array in weights.values())
    *_, (_, _, output) = with_shapes(layers(network), INPUT)
    assert output == (10,)


def test_the_variance_of_weights_looks_past_pools_norms_and_residuals_to_the_activation() -> None:
    line = "conv 64, batchnorm, pool avg, relu, residual(conv 64), relu, conv 64, tanh"
    weights = initial_weights(find_network(line), np.random.default_rng(0))
    # 576 and 36,864 draws: a standard deviation is known to 3% and to 0.4%.
    assert weights["conv1.weight"].std() == pytest.approx((2 / 9) ** 0.5, rel=0.1)
    assert weights["conv2.weight"].std() == pytest.approx((2 / 576) ** 0.5, rel=0.02)
    assert weights["conv3.weight"].std() == pytest.approx((1 / 576) ** 0.5, rel=0.02)


def test_a_batch_norm_of_one_value_is_refused() -> None:
    spec.require_batch_size(find_network("batchnorm"), 1)  # 784 pixels
    spec.require_batch_size(find_network("dense 5, batchnorm"), 2)
    with pytest.raises(UsageError, match=r"bn1 of .* needs at least 2 images per step, not 1"):
        spec.require_batch_size(find_network("dense 5, batchnorm"), 1)


def test_wrong_weights_are_refused_by_name() -> None:
    network = find_network("batchnorm")
    weights = initial_weights(network, np.random.default_rng(0))
    del weights["bn1.running_mean"]
    with pytest.raises(CheckpointError, match=r"bn1.running_mean should be \(1,\), but is absent"):
        require_weights(network, weights)
    require_weights(network, {n: weights[n] for n in parameter_shapes(network)}, parameter_shapes)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_explained_adds_up(name: str) -> None:
    document = json.loads(json.dumps(picture.to_json(ModelSpec(name))))
    for total in ("parameters", "operations"):
        assert document[total] == sum(layer[total] for layer in document["layers"])
    assert document["layers"][-1]["output"] == [10]


def test_the_picture_shows_every_shape_that_changes_in_80_columns() -> None:
    drawn = picture.draw_shapes(ModelSpec("cnn"))
    for shape in ("1x28x28", "32x28x28", "32x14x14", "64x14x14", "64x7x7", "128", "10"):
        assert shape in drawn
    assert max(map(len, drawn.splitlines())) <= 80


@pytest.mark.parametrize("name", ["../cnn", "a/b", "A", "", ".a", "a b", "a" * 33, "a\n"])
def test_a_name_that_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="no name for a network's files"):
        ModelSpec(name, line="dense 5")


def test_a_spec_is_json_there_and_back() -> None:
    for network in (ModelSpec("mlp", "sigmoid"), find_network("conv 4, residual(relu)")):
        assert ModelSpec(**json.loads(json.dumps(asdict(network)))) == network

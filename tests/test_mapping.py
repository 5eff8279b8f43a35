"""Test digits as points: the layers' outputs, PCA as scikit-learn has it, and placing a digit."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from sklearn.decomposition import PCA

from mnist_cli import mapping
from mnist_cli.adapters.numpy_adapter import adapter
from mnist_cli.arrays import Array, Weights
from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.data.registry import load_dataset
from mnist_cli.errors import MnistError
from mnist_cli.networks import spec as networks
from mnist_cli.tracing import Trace
from mnist_cli.training import recipe

LINES = {
    "cnn": "",
    "mlp": "",
    "lenet5": "",
    "resnet": "",
    "gelu": "conv 4 5x5 stride 2 valid, gelu, dropout 0.5, dense 12, tanh, dense 7, sigmoid",
}


@pytest.fixture(scope="module")
def images() -> Array:
    """300 normalised test digits."""
    return recipe.normalize(load_dataset().test_images[::33][:300])


def made(name: str, line: str = "") -> tuple[ModelSpec, Weights]:
    """A network with random weights, and batch norms that do something."""
    spec = ModelSpec(name, line=line or LINES[name])
    rng = np.random.default_rng(3)
    weights = networks.initial_weights(spec, rng)
    for key, array in weights.items():
        if "running" in key:
            array += rng.random(array.shape, dtype=np.float32)
    return spec, weights


def mapped(
    name: str, images: Array, layer: int, method: str = "pca", line: str = ""
) -> mapping.DigitMap:
    spec, weights = made(name, line)
    return mapping.compute(Trace(spec, weights), images, layer, method, lambda *_: None)


@pytest.mark.parametrize("name", LINES)
def test_the_last_layer_has_the_logits_of_the_model(name: str, images: Array) -> None:
    spec, weights = made(name)
    classifier = adapter.build(spec, TrainConfig(), device="cpu", threads=1)
    classifier.import_weights(weights)
    last = len(networks.written_layers(spec))
    found = mapping.outputs(Trace(spec, weights), images[:20], last)
    # The engine computes in float32, with sums of up to 3,136 products; logits are about 1.
    np.testing.assert_allclose(found, classifier.predict_logits(images[:20]), atol=1e-4)


@pytest.mark.parametrize("name", LINES)
def test_each_layer_has_the_shape_that_is_listed(name: str, images: Array) -> None:
    spec, weights = made(name)
    network = Trace(spec, weights)
    for each in mapping.layers(spec):
        layer, shape = each["layer"], each["shape"]
        assert isinstance(layer, int)
        assert mapping.outputs(network, images[:2], layer).shape == (2, np.prod(shape))


def test_layers_are_named_in_the_order_of_the_line() -> None:
    names = [each["name"] for each in mapping.layers(ModelSpec("cnn"))]
    assert names == [
        *("input pixels", "conv 32", "relu", "pool", "conv 64", "relu", "pool"),
        *("dense 128", "relu", "dense 10"),
    ]


@pytest.mark.parametrize("layer", [0, 2, 4])
def test_pca_is_that_of_scikit_learn(layer: int, images: Array) -> None:
    found = mapped("mlp", images, layer)
    spec, weights = made("mlp")
    values = mapping.outputs(Trace(spec, weights), images, layer)
    exact = PCA(2, svd_solver="full")
    expected = exact.fit_transform(values.astype(np.float64))
    signs = np.sign((found.points * expected).sum(axis=0))  # of no meaning in PCA
    # The points are float32, about 10 in size, of outputs that are float32 too.
    np.testing.assert_allclose(found.points * signs, expected, atol=1e-3)
    np.testing.assert_allclose(found.explained, exact.explained_variance_ratio_, rtol=1e-4)


def test_a_test_digit_lands_on_its_own_point_by_pca(images: Array) -> None:
    found = mapped("mlp", images, 2)
    spec, weights = made("mlp")
    outputs = mapping.outputs(Trace(spec, weights), images[41:42], 2)[0]
    point, nearest = found.place(outputs, "pca")
    np.testing.assert_allclose(point, found.points[41], atol=1e-3)  # as above
    assert nearest[0] == 41
    assert len(set(nearest)) == mapping.NEIGHBOURS


def test_the_nearest_are_those_of_the_layer(images: Array) -> None:
    found = mapped("mlp", images, 4)  # ten outputs: all of them are components
    spec, weights = made("mlp")
    outputs = mapping.outputs(Trace(spec, weights), images, 4)
    _, nearest = found.place(outputs[5], "pca")
    distances = np.linalg.norm(outputs - outputs[5], axis=1)
    assert nearest.tolist() == np.argsort(distances)[: mapping.NEIGHBOURS].tolist()


def test_by_tsne_a_digit_stands_at_the_mean_of_its_nearest(images: Array) -> None:
    told: list[tuple[str, float]] = []
    spec, weights = made("mlp")
    network = Trace(spec, weights)
    found = mapping.compute(network, images, 2, "tsne", lambda *each: told.append(each))
    assert found.points.shape == (300, 2)
    assert np.isfinite(found.points).all()
    outputs = mapping.outputs(network, images[7:8], 2)[0]
    point, nearest = found.place(outputs, "tsne")
    assert point.tolist() == found.points[nearest].mean(axis=0).tolist()
    shares = [share for _, share in told]
    assert all(before <= after for before, after in pairwise(shares))
    assert shares[-1] <= 1
    assert ("t-SNE, step 250 of 1,000", 0.55) in told


def test_predictions_are_those_of_the_model(images: Array) -> None:
    found = mapped("mlp", images, 0)
    spec, weights = made("mlp")
    logits = mapping.outputs(Trace(spec, weights), images, 4)
    assert found.predictions.astype(int).tolist() == logits.argmax(axis=1).tolist()


@pytest.mark.parametrize("method", mapping.METHODS)
def test_a_layer_of_a_single_unit_is_a_line(method: str, images: Array) -> None:
    found = mapped("one", images[:60], 2, method, line="dense 1, dense 10")
    assert found.points.shape == (60, 2)
    assert np.isfinite(found.points).all()
    assert found.explained.tolist() == [1, 0]


def test_a_layer_that_is_the_same_for_all_is_told(images: Array) -> None:
    spec, weights = made("mlp")
    weights["fc1.weight"][:] = 0
    with pytest.raises(MnistError, match="same outputs"):
        mapping.compute(Trace(spec, weights), images, 2, "pca", lambda *_: None)


def test_a_map_is_the_same_after_its_way_through_json(images: Array) -> None:
    found = mapped("mlp", images, 2)
    again = mapping.DigitMap.from_json(found.to_json())
    for name in ("points", "predictions", "explained", "mean", "components", "reduced"):
        assert getattr(again, name).tolist() == getattr(found, name).astype(np.float32).tolist()


def test_of_a_large_layer_fewer_digits_are_taken() -> None:
    assert mapping.point_count(ModelSpec("cnn"), 1) == mapping.MAX_POINTS
    wide = ModelSpec("wide", line="conv 400, relu, pool, dense 10, relu")
    assert mapping.point_count(wide, 1) == 64_000_000 // (400 * 28 * 28)


def test_the_digits_are_spread_over_the_test_set() -> None:
    assert mapping.chosen(load_dataset()).tolist() == list(range(0, 10_000, 10))

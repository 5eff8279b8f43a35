"""A network opened up computes what the network does: forwards, backwards and edited."""

from __future__ import annotations

import numpy as np
import pytest

from mnist_cli.adapters.numpy_adapter import adapter
from mnist_cli.arrays import Array, Weights
from mnist_cli.config import NETWORKS, ModelSpec, TrainConfig
from mnist_cli.data.registry import load_dataset
from mnist_cli.networks.spec import Conv, Dense, weight_shapes
from mnist_cli.prediction import Model
from mnist_cli.scratch import plain
from mnist_cli.tracing import Edit, Trace, unit_count
from mnist_cli.training import recipe
from mnist_cli.web import inside

LINES = (
    "cnn",
    "mlp",
    "linear",
    "lenet5",
    "conv 4 5x5 stride 2, batchnorm, tanh, residual(conv 4, gelu, residual(conv 4)), pool avg, "
    "dropout 0.5, dense 12, sigmoid, residual(dense 12, relu), batchnorm",
)


def spec_of(line: str) -> ModelSpec:
    """A network by its name or its line."""
    return ModelSpec(line) if line in NETWORKS else ModelSpec("own", line=line)


def images_of(count: int) -> Array:
    images: Array = recipe.normalize(load_dataset("mnist").test_images[:count])
    return images


def some_weights(spec: ModelSpec, seed: int = 0) -> Weights:
    """Weights of which no bias and no statistic is trivial."""
    rng = np.random.default_rng(seed)
    weights = recipe.starting_weights(spec, seed)
    for name, shape in weight_shapes(spec).items():
        if len(shape) == 1:
            weights[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
    return weights


def outgoing_zero(trace: Trace, number: int, unit: int) -> Weights:
    """The weights, with those that lead from a unit to the next layer set to zero."""
    follower = next(each for each in trace.stages[number + 1 :] if unit_count(each))
    assert isinstance(follower.main, Conv | Dense)
    name = f"{follower.main.name}.weight"
    changed = trace.weights[name].copy()
    units = trace.stages[number].after[0]
    changed.reshape(len(changed), units, -1)[:, unit] = 0
    return {**trace.weights, name: changed}


@pytest.mark.parametrize("line", LINES)
def test_logits_are_those_of_the_numpy_engine(line: str) -> None:
    spec, images = spec_of(line), images_of(6)
    weights = some_weights(spec)
    engine = adapter.build(spec, TrainConfig(), device="cpu", threads=1)
    engine.import_weights(weights)
    expected = engine.predict_logits(images)
    found = Trace(spec, weights).forward(images)
    # float32 sums in another order: some 1e-6 of the largest logit.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_every_layers_values_are_those_of_the_plain_network() -> None:
    spec = spec_of("conv 4, relu, pool, dense 8, tanh")
    weights = some_weights(spec)
    trace = Trace(spec, weights)
    images = images_of(3)
    trace.forward(images)
    rng = np.random.default_rng(0)
    layers = [
        *(plain.Conv((4, 1, 3, 3), rng), plain.Relu(), plain.Pool(), plain.Flatten()),
        *(plain.Dense(784, 8, rng), plain.Tanh(), plain.Dense(8, 10, rng)),
    ]
    for layer, name in zip((layers[0], layers[4], layers[6]), ("conv1", "fc1", "fc2"), strict=True):
        layer.weights = {kind: weights[f"{name}.{kind}"] for kind in ("weight", "bias")}
    x: Array = images[:, np.newaxis]
    expected = []
    for layer in layers:
        x = layer.forward(x)
        expected.append(x)
    titles = ["conv 4, relu", "pool", "dense 8, tanh", "dense 10"]
    assert [stage.title for stage in trace.stages] == titles
    for stage, index in zip(trace.stages, (1, 2, 5, 6), strict=True):
        # float32 against float64: some 1e-7 of values of about 10, over three layers.
        np.testing.assert_allclose(
            np.moveaxis(stage.outputs, -1, 0), expected[index], rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("line", LINES)
def test_the_gradient_by_pixels_is_that_of_finite_differences(line: str) -> None:
    spec = spec_of(line)
    # Noise, because in an even background all values of a pool's window are the largest.
    image = np.random.default_rng(1).standard_normal((28, 28))
    weights = {name: array.astype(np.float64) for name, array in some_weights(spec).items()}
    trace = Trace(spec, weights)
    trace.forward(image[np.newaxis])
    gradient = trace.backward(3)[0].copy()
    assert np.abs(gradient).max() > 0
    step = 1e-6
    for row, column in ((14, 14), (9, 12), (20, 10), (3, 3)):
        moved = np.stack([image, image])
        moved[:, row, column] += (step, -step)
        up, down = trace.forward(moved)[:, 3]
        # Central differences of float64: rounding 1e-16 / 1e-6, curvature 1e-12; times the size of
        # the logits, some tens, and no kink of a ReLU or a pool within a step of these pixels.
        assert gradient[row, column] == pytest.approx((up - down) / (2 * step), rel=1e-5, abs=1e-7)


def test_gradient_times_ink_is_how_much_the_score_falls_without_a_little_ink() -> None:
    model = Model(threads=1)
    image = load_dataset("mnist").test_images[0]
    weights = {n: array.astype(np.float64) for n, array in model.checkpoint.weights.items()}
    trace = Trace(model.checkpoint.spec, weights)
    made = model.checkpoint

    def score(ink: Array) -> float:
        return float(trace.forward(((ink - made.pixel_mean) / made.pixel_std)[np.newaxis])[0, 7])

    ink = image / 255
    score(ink)
    found = inside.gradient_times_ink(model, trace, image, 7)
    assert not found[image == 0].any()
    pixels = np.argwhere(image > 128)[::25]
    assert len(pixels) >= 3
    for row, column in pixels:
        share = 1e-6  # of the pixel's ink
        less, more = ink.copy(), ink.copy()
        less[row, column] *= 1 - share
        more[row, column] *= 1 + share
        # As above; the ink is divided in float32, whose rounding is 6e-8.
        expected = (score(more) - score(less)) / (2 * share)
        assert found[row, column] == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(("line", "number"), [("cnn", 0), ("cnn", 2), ("cnn", 4), ("mlp", 0)])
def test_a_unit_that_is_off_is_one_whose_outgoing_weights_are_zero(line: str, number: int) -> None:
    spec, images = spec_of(line), images_of(5)
    trace = Trace(spec, some_weights(spec))
    expected = Trace(spec, outgoing_zero(trace, number, 3)).forward(images)
    found = Trace(spec, trace.weights, [Edit(number, 3, off=True)]).forward(images)
    np.testing.assert_array_equal(found, expected)  # the same sums, with 0 w in place of x 0
    assert not np.array_equal(found, trace.forward(images))


def test_an_edited_bias_is_that_of_a_network_with_it_and_the_weights_stay() -> None:
    spec, images = spec_of("residual(conv 1, sigmoid), pool, dense 10, relu"), images_of(4)
    weights = some_weights(spec)
    kept = {name: array.copy() for name, array in weights.items()}
    changed = {name: array.copy() for name, array in weights.items()}
    changed["conv1.bias"][0] = -0.75
    found = Trace(spec, weights, [Edit(0, 0, bias=-0.75)]).forward(images)
    np.testing.assert_array_equal(found, Trace(spec, changed).forward(images))
    for name, array in kept.items():
        np.testing.assert_array_equal(weights[name], array)


@pytest.mark.parametrize("line", LINES)
def test_the_terms_of_a_unit_add_up_to_its_sum(line: str) -> None:
    spec, images = spec_of(line), images_of(1)
    trace = Trace(spec, some_weights(spec))
    trace.forward(images)
    for stage in trace.stages:
        if not unit_count(stage):
            continue
        for place in {tuple(0 for _ in stage.after[1:]), tuple(at // 2 for at in stage.after[1:])}:
            terms, bias = trace.terms(stage, 1, place)
            products = [abs(term.x * term.weight) for term in terms]
            assert products == sorted(products, reverse=True)
            total = sum(term.x * term.weight for term in terms) + bias
            # Up to 3,136 products in float32, each rounded by 6e-8 of its size.
            (_, first), *_ = trace.steps(stage, 1, place)
            assert total == pytest.approx(first, rel=1e-5, abs=1e-6 * (1 + sum(products)))

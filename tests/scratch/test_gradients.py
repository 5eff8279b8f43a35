"""The hand-written gradients, against finite differences and against PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from mnist_cli.adapters.numpy_adapter import architecture
from mnist_cli.config import ModelSpec
from mnist_cli.networks.spec import initial_weights
from mnist_cli.scratch.layers import PHASES, Conv, Dense, Flatten, MaxPool, Relu, Sigmoid
from mnist_cli.scratch.loss import (
    cross_entropy,
    cross_entropy_gradient,
    scaled_targets,
    with_no_digit,
)
from mnist_cli.scratch.mlp import splits_for
from mnist_cli.scratch.network import Network

SPECS = {
    "cnn": ModelSpec("cnn"),
    "mlp": ModelSpec("mlp"),
    "mlp-sigmoid": ModelSpec("mlp", "sigmoid"),
}
BACKGROUND = -0.4242  # what recipe.normalize makes of a black pixel
# A central difference of step h errs by h^2 times the third derivative, and by the rounding of
# the loss, 1e-16, over h: in float64 h = 1e-5 leaves 1e-10. 1e-7 has room for a sum of many, and
# is a hundred times tighter than the 1e-5 that is asked.
STEP = 1e-5
FINITE_DIFFERENCE_TOLERANCE = 1e-7


def digits(count: int, *, dtype: type = np.float64) -> tuple[np.ndarray, np.ndarray]:
    """Images like digits, some noise on a flat background (ties in every pool), and labels."""
    rng = np.random.default_rng(count)
    images = np.full((count, 28, 28), BACKGROUND, dtype=dtype)
    images[:, 6:22, 9:19] = rng.standard_normal((count, 16, 10))
    return images, rng.integers(0, 10, count)


def network(
    name: str,
    *,
    dtype: type = np.float64,
    threads: int = 1,
    plain: bool = False,
    reject: bool = False,
) -> Network:
    """A network with random weights; random biases too: at 0 ReLU's kink is in every channel."""
    rng = np.random.default_rng(5)
    weights = initial_weights(SPECS[name], rng)
    for key, array in weights.items():
        if key.endswith(".bias"):
            array += 0.1 * rng.standard_normal(array.shape, dtype=np.float32)
    built = Network(
        architecture(SPECS[name], plain=plain), dtype=dtype, threads=threads, reject=reject
    )
    built.weights.load(weights)
    return built


def assert_close(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    """Compare relative to the largest entry: a gradient near 0 has no digits of its own."""
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert error <= tolerance


def finite_differences(
    function: Callable[[], float], array: np.ndarray, entries: Sequence[int] | np.ndarray
) -> np.ndarray:
    """The slope of ``function`` in each of some entries of ``array``, which it reads."""
    flat = array.reshape(-1)
    assert np.shares_memory(flat, array)
    slopes = []
    for entry in entries:
        value = flat[entry]
        flat[entry] = value + STEP
        above = function()
        flat[entry] = value - STEP
        below = function()
        flat[entry] = value
        slopes.append((above - below) / (2 * STEP))
    return np.array(slopes)


def phases_of(images: np.ndarray) -> list[np.ndarray]:
    return [images[:, row::2, column::2].copy() for row, column in PHASES]


def images_of(phases: list[np.ndarray]) -> np.ndarray:
    count, height, width, channels = phases[0].shape
    images = np.empty((count, 2 * height, 2 * width, channels))
    for (row, column), phase in zip(PHASES, phases, strict=True):
        images[:, row::2, column::2] = phase
    return images


class OnImages:
    """A layer that takes or returns phases, taking and returning images."""

    def __init__(self, layer: Conv | MaxPool) -> None:
        self.layer = layer
        self.is_conv = isinstance(layer, Conv)

    def forward(self, inputs: np.ndarray) -> np.ndarray:
        if self.is_conv:
            return images_of(self.layer.forward(inputs))
        return self.layer.forward(phases_of(inputs))

    def backward(self, gradient: np.ndarray) -> np.ndarray:
        if self.is_conv:
            return self.layer.backward(phases_of(gradient))
        return images_of(self.layer.backward(gradient))


def conv(channels: int, filters: int) -> Conv:
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((3, 3, channels, filters))
    bias = rng.standard_normal(filters)
    return Conv(weight, bias, np.empty_like(weight), np.empty_like(bias))


def dense(inputs: int, outputs: int) -> Dense:
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((inputs, outputs))
    bias = rng.standard_normal(outputs)
    return Dense(weight, bias, np.empty_like(weight), np.empty_like(bias))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        pytest.param(OnImages(conv(2, 3)), (3, 4, 6, 2), id="conv"),
        pytest.param(OnImages(conv(1, 4)), (2, 6, 4, 1), id="conv-grey"),
        pytest.param(OnImages(MaxPool()), (2, 4, 6, 3), id="pool"),
        pytest.param(dense(7, 5), (4, 7), id="dense"),
        pytest.param(Relu(), (4, 9), id="relu"),
        pytest.param(Sigmoid(), (4, 9), id="sigmoid"),
        pytest.param(Flatten(), (2, 3, 4, 2), id="flatten"),
    ],
)
def test_layer_gradients_agree_with_finite_differences(layer, shape):
    rng = np.random.default_rng(2)
    # A shuffled ladder without 0: no two inputs within a step of each other or of ReLU's kink.
    inputs = (rng.permutation(np.prod(shape)) / np.prod(shape) * 4 - 1.99).reshape(shape)
    direction = rng.standard_normal(layer.forward(inputs.copy()).shape)

    def loss() -> float:
        return float((layer.forward(inputs.copy()) * direction).sum())

    loss()
    input_gradient = layer.backward(direction.copy()).copy()
    gradients = {"inputs": (inputs, input_gradient)}
    parametric = getattr(layer, "layer", layer)
    if hasattr(parametric, "weight"):
        gradients["weight"] = (parametric.weight, parametric.weight_gradient.copy())
        gradients["bias"] = (parametric.bias, parametric.bias_gradient.copy())
    for array, gradient in gradients.values():
        expected = finite_differences(loss, array, range(array.size))
        assert_close(gradient.reshape(-1), expected, FINITE_DIFFERENCE_TOLERANCE)


@pytest.mark.parametrize("reject", [False, True])
@pytest.mark.parametrize("label_smoothing", [0, 0.2])
def test_loss_gradient_agrees_with_finite_differences(label_smoothing, reject):
    rng = np.random.default_rng(3)
    classes = 10 + reject
    logits, labels = 3 * rng.standard_normal((4, classes)), rng.integers(0, 10, 4)
    targets = (1 - label_smoothing) * np.eye(classes)[labels]
    targets[:, :10] += label_smoothing / 10
    if reject:  # the label "no digit" is not smoothed
        labels[1], targets[1] = 10, np.eye(11)[10]

    def part_of_the_loss() -> float:
        log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return float(-(targets * log_probabilities).sum() / 9)

    scaled = scaled_targets(
        labels, batch_size=9, label_smoothing=label_smoothing, reject=reject, dtype=np.float64
    )
    gradient = cross_entropy_gradient(logits.T, scaled, batch_size=9).T
    expected = finite_differences(part_of_the_loss, logits, range(logits.size))
    assert_close(gradient.reshape(-1), expected, FINITE_DIFFERENCE_TOLERANCE)
    if not label_smoothing:
        assert cross_entropy(logits.T, labels).sum() / 9 == pytest.approx(part_of_the_loss())


@pytest.mark.parametrize("reject", [False, True])
@pytest.mark.parametrize("name", SPECS)
def test_network_gradients_agree_with_finite_differences(name, reject):
    # Noise everywhere: on a flat background a small step would break ties, where no slope is.
    rng = np.random.default_rng(4)
    images, labels = rng.standard_normal((2, 28, 28)), rng.integers(0, 10, 2)
    if reject:
        labels[0] = 10
    net = network(name, reject=reject)
    _, gradients = net.loss_and_gradients(images, labels)
    weights = net.weights.canonical()

    def loss() -> float:
        net.weights.load(weights)
        logits = net.logits(images).T
        return float(cross_entropy(with_no_digit(logits) if reject else logits, labels).mean())

    for key, array in weights.items():
        # The weights that matter most and some at random; all 421,642 would take half an hour.
        gradient = gradients[key].reshape(-1)
        entries = np.append(np.abs(gradient).argsort()[-5:], rng.integers(0, array.size, 10))
        expected = finite_differences(loss, array, entries)
        assert_close(gradient[entries], expected, FINITE_DIFFERENCE_TOLERANCE)


def torch_loss_and_gradients(name, weights, images, labels):
    """The same network written once more, in PyTorch's functions."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    w = {key: torch.tensor(array, requires_grad=True) for key, array in weights.items()}
    x = torch.tensor(images).unsqueeze(1)
    if name == "cnn":
        for key in ("conv1", "conv2"):
            x = functional.conv2d(x, w[f"{key}.weight"], w[f"{key}.bias"], padding=1)
            x = functional.max_pool2d(functional.relu(x), 2)
    activation = torch.sigmoid if name == "mlp-sigmoid" else functional.relu
    x = activation(functional.linear(x.flatten(1), w["fc1.weight"], w["fc1.bias"]))
    x = functional.linear(x, w["fc2.weight"], w["fc2.bias"])
    loss = functional.cross_entropy(x, torch.tensor(labels))
    loss.backward()
    return loss.item(), {key: tensor.grad.numpy() for key, tensor in w.items()}


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        # Same formulas, sums in another order: about 1e-16 times the root of some thousand terms.
        pytest.param(np.float64, 1e-12, id="float64"),
        # Likewise from 1e-7; the bound that is asked for.
        pytest.param(np.float32, 1e-5, id="float32"),
    ],
)
@pytest.mark.parametrize("name", SPECS)
def test_loss_and_gradients_agree_with_pytorch(name, dtype, tolerance):
    images, labels = digits(16, dtype=dtype)
    net = network(name, dtype=dtype)
    loss, gradients = net.loss_and_gradients(images, labels)
    expected_loss, expected = torch_loss_and_gradients(
        name, net.weights.canonical(), images, labels
    )
    assert loss == pytest.approx(expected_loss, rel=tolerance)
    assert gradients.keys() == expected.keys()
    for key in expected:
        assert gradients[key].shape == expected[key].shape
        assert_close(gradients[key], expected[key], tolerance)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # As against PyTorch: the same sums in another order, Winograd's among them.
    [pytest.param(np.float64, 1e-12, id="float64"), pytest.param(np.float32, 1e-5, id="float32")],
)
@pytest.mark.parametrize(
    ("arch", "count"),
    # The MLP splits its product for 17 to 64 images; 300 are a chunk of 256 and one of 44.
    [
        *(("cnn", count) for count in (1, 5, 16)),
        *(("mlp", count) for count in (1, 16, 17, 64, 65, 300)),
    ],
)
def test_fast_forms_agree_with_the_plain_layers(arch, count, dtype, tolerance):
    images, labels = digits(count, dtype=dtype)
    fast, plain = (network(arch, dtype=dtype, plain=plain) for plain in (False, True))
    # Twice: the second time every buffer holds what the first one left.
    for _ in range(2):
        assert_close(fast.logits(images), plain.logits(images), tolerance)
        loss, gradients = fast.loss_and_gradients(images, labels)
        expected_loss, expected = plain.loss_and_gradients(images, labels)
        assert loss == pytest.approx(expected_loss, rel=tolerance)
        for key in expected:
            assert_close(gradients[key], expected[key], tolerance)


@pytest.mark.parametrize(
    ("count", "small_kernels", "splits"),
    [(16, True, 1), (17, True, 7), (64, True, 7), (65, True, 1), (64, False, 1)],
)
def test_the_product_is_split_where_that_is_faster(count, small_kernels, splits):
    assert splits_for(count, small_kernels=small_kernels) == splits


def test_blocks_give_the_gradient_to_the_first_of_equals():
    # A blank picture ties every window. Then all of the gradient stems from the first place.
    fast, plain = (network("cnn", plain=plain) for plain in (False, True))
    images, labels = np.full((3, 28, 28), BACKGROUND), np.array([0, 4, 9])
    _, gradients = fast.loss_and_gradients(images, labels)
    _, expected = plain.loss_and_gradients(images, labels)
    for key in expected:
        assert_close(gradients[key], expected[key], 1e-12)  # float64


def test_pool_gives_the_gradient_to_the_first_of_equals():
    pool = MaxPool()
    pool.forward([np.ones((1, 1, 1, 1)) for _ in PHASES])
    assert [float(g.item()) for g in pool.backward(np.full((1, 1, 1, 1), 3.0))] == [3, 0, 0, 0]
    pool.forward([np.full((1, 1, 1, 1), value) for value in (0.0, 1.0, 1.0, 0.5)])
    assert [float(g.item()) for g in pool.backward(np.full((1, 1, 1, 1), 3.0))] == [0, 3, 0, 0]


def test_pool_breaks_ties_as_pytorch_does():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(6)
    images = rng.integers(0, 3, (2, 8, 8, 5)).astype(np.float64)  # nearly every window has a tie
    gradient = rng.standard_normal((2, 4, 4, 5))
    pool = OnImages(MaxPool())
    pool.forward(images)
    inputs = torch.tensor(images.transpose(0, 3, 1, 2).copy(), requires_grad=True)
    outputs = torch.nn.functional.max_pool2d(inputs, 2)
    outputs.backward(torch.tensor(gradient.transpose(0, 3, 1, 2).copy()))
    np.testing.assert_array_equal(
        pool.backward(gradient.copy()), inputs.grad.numpy().transpose(0, 2, 3, 1)
    )


@pytest.mark.usefixtures("worker_kinds")
@pytest.mark.parametrize(
    ("name", "count"),
    # 7 is odd, 1 leaves a worker without images, 70 and 600 exceed a worker's chunk.
    [("cnn", 1), ("cnn", 7), ("cnn", 70), ("mlp", 7), ("mlp", 600), ("mlp-sigmoid", 7)],
)
def test_shares_of_a_batch_add_up_to_its_gradient(name, count, monkeypatch):
    images, labels = digits(count)
    with monkeypatch.context() as at_once:
        at_once.setattr("mnist_cli.adapters.numpy_adapter.MAX_CHUNK", {"cnn": count, "mlp": count})
        expected_loss, expected = network(name).loss_and_gradients(images, labels)
    for threads in (1, 2, 3):
        loss, gradients = network(name, threads=threads).loss_and_gradients(images, labels)
        # Only the order of the additions differs, in float64.
        assert loss == pytest.approx(expected_loss, rel=1e-12)
        for key in expected:
            assert_close(gradients[key], expected[key], 1e-12)

"""The hand-written gradients, against finite differences and against PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from network_lines import lines
from plain_networks import (
    PlainNetwork,
    assert_close,
    assert_gradients_close,
    digits,
    random_weights,
)

from mnist_cli.adapters.numpy_adapter import architecture
from mnist_cli.config import ModelSpec
from mnist_cli.networks.language import find_network
from mnist_cli.scratch.engine.general import MaxPool
from mnist_cli.scratch.engine.loss import (
    cross_entropy,
    cross_entropy_gradient,
    scaled_targets,
    with_no_digit,
)
from mnist_cli.scratch.engine.mlp import splits_for
from mnist_cli.scratch.engine.network import Network
from mnist_cli.scratch.plain import step as sgd_step

SPECS = {
    "cnn": ModelSpec("cnn"),
    "mlp": ModelSpec("mlp"),
    "mlp-sigmoid": ModelSpec("mlp", "sigmoid"),
}
OLD = tuple(SPECS)
SPECS |= {name: ModelSpec(name) for name in ("lenet5", "resnet")}
# A fast block, then general layers of every kind.
SPECS["mixed"] = find_network(
    "conv 4, relu, pool, dropout 0.25, residual(conv 4 5x5, batchnorm, gelu), pool avg, dense 12, "
    "batchnorm, tanh, dropout 0.5, dense 8, sigmoid"
)
BACKGROUND = -0.4242  # what recipe.normalize makes of a black pixel
# A central difference of step h errs by h^2 times the third derivative, and by the rounding of
# the loss, 1e-16, over h: in float64 h = 1e-5 leaves 1e-10. 1e-7 has room for a sum of many, and
# is a hundred times tighter than the 1e-5 that is asked.
STEP = 1e-5
FINITE_DIFFERENCE_TOLERANCE = 1e-7


def network(
    name: str, *, dtype: type = np.float64, threads: int = 1, reject: bool = False
) -> Network:
    """A network with random weights and biases."""
    built = Network(architecture(SPECS[name]), dtype=dtype, threads=threads, reject=reject)
    built.weights.load(random_weights(SPECS[name]))
    return built


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
        labels,
        classes=10,
        batch_size=9,
        label_smoothing=label_smoothing,
        reject=reject,
        dtype=np.float64,
    )
    gradient = cross_entropy_gradient(logits.T, scaled, batch_size=9).T
    expected = finite_differences(part_of_the_loss, logits, range(logits.size))
    assert_close(gradient.reshape(-1), expected, FINITE_DIFFERENCE_TOLERANCE)
    if not label_smoothing:
        assert cross_entropy(logits.T, labels).sum() / 9 == pytest.approx(part_of_the_loss())


@pytest.mark.parametrize("reject", [False, True])
@pytest.mark.parametrize("name", OLD)
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
@pytest.mark.parametrize("name", OLD)
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
    ("name", "count"),
    # The MLP splits its product for 17 to 64 images; 300 are a chunk of 256 and one of 44.
    [
        *(("cnn", count) for count in (1, 5, 16)),
        *(("mlp", count) for count in (1, 16, 17, 64, 65, 300)),
        ("lenet5", 40),
        ("resnet", 5),
        ("mixed", 5),
    ],
)
def test_the_engine_agrees_with_the_plain_network(name, count, dtype, tolerance):
    images, labels = digits(count, dtype=dtype)
    engine, plain = network(name, dtype=dtype), PlainNetwork(SPECS[name])
    plain.load(random_weights(SPECS[name]))
    # Twice: the second time every buffer holds what the first one left.
    for _ in range(2):
        assert_close(engine.logits(images), plain.logits(images), tolerance)
        plain.load(random_weights(SPECS[name]))  # the running statistics have moved
        loss, gradients = engine.loss_and_gradients(images, labels)
        expected_loss, expected = plain.loss_and_gradients(images, labels)
        assert loss == pytest.approx(expected_loss, rel=tolerance)
        assert_gradients_close(gradients, expected, tolerance)
        plain.load(random_weights(SPECS[name]))


@settings(max_examples=40, deadline=None)  # no example has a time to keep
@given(line=lines(), count=st.integers(2, 6), threads=st.integers(1, 2))
def test_the_engine_agrees_with_the_plain_network_for_any_line(line, count, threads):
    spec = find_network(line)
    weights = random_weights(spec)
    images, labels = np.random.default_rng(1).standard_normal((count, 28, 28)), np.arange(count)
    engine = Network(architecture(spec), dtype=np.float64, threads=threads)
    engine.weights.load(weights)
    plain = PlainNetwork(spec)
    plain.load(weights)
    # float64: sums in another order. Batch norm may divide by deviations as small as 1e-2.5.
    assert_close(engine.logits(images), plain.logits(images), 1e-9)
    loss, gradients = engine.loss_and_gradients(images, labels)
    expected_loss, expected = plain.loss_and_gradients(images, labels)
    assert loss == pytest.approx(expected_loss, rel=1e-9)
    assert_gradients_close(gradients, expected, 1e-8)


@pytest.mark.usefixtures("worker_kinds")
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_batch_norm_and_dropout_train_alike_with_any_number_of_workers(threads):
    spec = SPECS["mixed"]
    weights = random_weights(spec)
    images, labels = digits(21)
    engine = Network(architecture(spec), dtype=np.float64, threads=threads, momentum=0.5)
    engine.weights.load(weights)
    steps = engine.train(
        images,
        labels,
        np.arange(21).reshape(3, 7),
        learning_rates=[0.01] * 3,
        mask_seeds=np.array([5, 6, 7]),
        steps_per_chunk=2,
    )
    losses = np.concatenate(list(steps))
    plain = PlainNetwork(spec)
    plain.load(weights)
    for step in range(3):
        batch = slice(7 * step, 7 * step + 7)
        loss, _ = plain.loss_and_gradients(images[batch], labels[batch], mask_seed=5 + step)
        sgd_step(plain.layers, rate=0.01, momentum=0.5)
        assert losses[step] == pytest.approx(loss, rel=1e-9)  # float64, three steps
    found = engine.weights.canonical()
    for name, array in plain.statistics().items():
        np.testing.assert_allclose(found[name], array, rtol=1e-9)
    for name, array in random_weights(spec).items():
        if name.endswith(("weight", "bias")):
            layer, kind = name.split(".")
            expected = plain.named[layer].weights[kind]
            assert np.abs(expected - array).max() > 0 or kind == "bias"  # it has moved
            assert_close(found[name], expected, 1e-8)


@pytest.mark.parametrize(
    ("count", "small_kernels", "splits"),
    [(16, True, 1), (17, True, 7), (64, True, 7), (65, True, 1), (64, False, 1)],
)
def test_the_product_is_split_where_that_is_faster(count, small_kernels, splits):
    assert splits_for(count, small_kernels=small_kernels) == splits


def test_blocks_give_the_gradient_to_the_first_of_equals():
    # A blank picture ties every window. Then all of the gradient stems from the first place.
    engine, plain = network("cnn"), PlainNetwork(SPECS["cnn"])
    plain.load(random_weights(SPECS["cnn"]))
    images, labels = np.full((3, 28, 28), BACKGROUND), np.array([0, 4, 9])
    _, gradients = engine.loss_and_gradients(images, labels)
    _, expected = plain.loss_and_gradients(images, labels)
    for key in expected:
        assert_close(gradients[key], expected[key], 1e-12)  # float64


def test_pool_breaks_ties_as_pytorch_does():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(6)
    images = rng.integers(0, 3, (5, 8, 8, 2)).astype(np.float64)  # nearly every window has a tie
    gradient = rng.standard_normal((5, 4, 4, 2))
    pool = MaxPool(2)
    pool.forward(images)
    inputs = torch.tensor(images.transpose(3, 0, 1, 2).copy(), requires_grad=True)
    outputs = torch.nn.functional.max_pool2d(inputs, 2)
    outputs.backward(torch.tensor(gradient.transpose(3, 0, 1, 2).copy()))
    np.testing.assert_array_equal(
        pool.backward(gradient.copy()), inputs.grad.numpy().transpose(1, 2, 3, 0)
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
        for chunk in ("CONV_CHUNK", "DENSE_CHUNK"):
            at_once.setattr(f"mnist_cli.adapters.numpy_adapter.{chunk}", count)
        expected_loss, expected = network(name).loss_and_gradients(images, labels)
    for threads in (1, 2, 3):
        loss, gradients = network(name, threads=threads).loss_and_gradients(images, labels)
        # Only the order of the additions differs, in float64.
        assert loss == pytest.approx(expected_loss, rel=1e-12)
        for key in expected:
            assert_close(gradients[key], expected[key], 1e-12)

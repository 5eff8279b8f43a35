"""The plain network: each layer's slopes, its loss and its steps, and that it learns."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from plain_networks import PlainNetwork, assert_close, random_weights

from mnist_cli.networks.language import find_network
from mnist_cli.scratch import plain

RNG = np.random.default_rng(0)
# A central difference of step h errs by h^2 times the third derivative, and by the rounding of
# the loss, 1e-16, over h: in float64 h = 1e-5 leaves 1e-10. 1e-7 has room for a sum of many.
STEP, TOLERANCE = 1e-5, 1e-7

LAYERS: dict[str, tuple[Callable[[], plain.Layer], tuple[int, ...]]] = {
    "dense": (lambda: plain.Dense(7, 5, RNG), (4, 7)),
    "conv": (lambda: plain.Conv((3, 2, 3, 3), RNG), (2, 2, 4, 5)),
    "conv 5x5 valid": (lambda: plain.Conv((2, 1, 5, 5), RNG, margin=0), (2, 1, 6, 6)),
    "conv stride": (lambda: plain.Conv((2, 3, 3, 3), RNG, stride=2), (2, 3, 5, 6)),
    "conv even": (lambda: plain.Conv((2, 1, 2, 2), RNG, stride=3, margin=0), (2, 1, 6, 6)),
    "batchnorm of images": (lambda: plain.BatchNorm(3), (2, 3, 2, 2)),
    "batchnorm of vectors": (lambda: plain.BatchNorm(3), (5, 3)),
    "relu": (plain.Relu, (4, 9)),
    "sigmoid": (plain.Sigmoid, (4, 9)),
    "tanh": (plain.Tanh, (4, 9)),
    "gelu": (plain.Gelu, (4, 9)),
    "pool max": (plain.Pool, (2, 3, 4, 6)),
    "pool max 3, with a rest": (lambda: plain.Pool(3), (2, 3, 7, 8)),
    "pool avg": (lambda: plain.Pool(mean=True), (2, 3, 5, 4)),
    "dropout": (lambda: plain.Dropout(0.5, np.random.default_rng(1)), (4, 9)),
    "flatten": (plain.Flatten, (2, 3, 4, 2)),
    "residual": (lambda: plain.Residual([plain.Dense(4, 4, RNG), plain.Tanh()]), (3, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_slopes_agree_with_finite_differences(name: str) -> None:
    make, shape = LAYERS[name]
    layer = make()
    # A shuffled ladder without 0: no two inputs within a step of each other or of ReLU's kink.
    size = int(np.prod(shape))
    x = (np.random.default_rng(2).permutation(size) / size * 4 - 1.99).reshape(shape)
    direction = np.random.default_rng(3).standard_normal(layer.forward(x).shape)

    def loss() -> float:
        if isinstance(layer, plain.Dropout):
            layer.rng = np.random.default_rng(1)
        return float((layer.forward(x) * direction).sum())

    loss()
    slopes = [(x, layer.backward(direction).copy())]
    for each in [layer, *layer.inside]:
        slopes += [(each.weights[key], each.gradients[key].copy()) for key in each.weights]
    for array, gradient in slopes:
        expected = np.empty_like(array)
        for index in np.ndindex(array.shape):
            value = array[index]
            array[index] = value + STEP
            above = loss()
            array[index] = value - STEP
            expected[index] = (above - loss()) / (2 * STEP)
            array[index] = value
        assert_close(gradient, expected, TOLERANCE)


def test_slopes_of_the_loss_agree_with_finite_differences() -> None:
    rng = np.random.default_rng(3)
    scores, labels = 3 * rng.standard_normal((4, 10)), rng.integers(0, 10, 4)
    _, gradient = plain.loss_and_gradient(scores, labels)
    for index in np.ndindex(scores.shape):
        up, down = scores.copy(), scores.copy()
        up[index] += STEP
        down[index] -= STEP
        rise = plain.loss_and_gradient(up, labels)[0] - plain.loss_and_gradient(down, labels)[0]
        assert gradient[index] == pytest.approx(rise / (2 * STEP), abs=TOLERANCE)


def test_convolution_is_the_sum_that_its_docstring_states() -> None:
    layer = plain.Conv((2, 3, 3, 3), RNG, stride=2)
    x = RNG.standard_normal((1, 3, 5, 5))
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    y = layer.forward(x)
    assert y.shape == (1, 2, 3, 3)
    for f, h, w in np.ndindex(2, 3, 3):
        seen = padded[0, :, 2 * h : 2 * h + 3, 2 * w : 2 * w + 3]
        # float64, 27 terms in another order
        assert y[0, f, h, w] == pytest.approx((layer.weights["weight"][f] * seen).sum(), abs=1e-13)


def test_pool_gives_the_slope_to_the_first_of_equals() -> None:
    pool = plain.Pool()
    pool.forward(np.array([[[[0.0, 1.0], [1.0, 0.5]]]]))
    assert pool.backward(np.array([[[[3.0]]]])).ravel().tolist() == [0, 3, 0, 0]


def test_batch_norm_predicts_with_running_statistics() -> None:
    norm = plain.BatchNorm(1)
    x = np.array([[1.0], [3.0]])
    assert norm.forward(x).ravel() == pytest.approx([-1, 1], rel=1e-5)  # 1e-5 under the root
    assert norm.running_mean == pytest.approx([0.1 * 2])
    assert norm.running_var == pytest.approx([0.9 + 0.1 * 2])  # 1, times 2 / (2 - 1)
    norm.is_training = False
    expected = (x - 0.2) / np.sqrt(1.1 + 1e-5)
    np.testing.assert_allclose(norm.forward(x), expected, rtol=1e-12)


def test_huge_numbers_do_not_overflow() -> None:
    with np.errstate(all="raise", under="ignore"):
        loss, _ = plain.loss_and_gradient(np.array([[1000.0, 0, -1000]]), np.array([0]))
        assert plain.Sigmoid().forward(np.array([-1000.0, 0, 1000])).tolist() == [0, 0.5, 1]
    assert loss == 0


def test_a_step_is_nesterovs() -> None:
    layer = plain.Dense(1, 1, RNG)
    layer.weights["weight"] = np.array([[1.0]])
    for _ in range(2):
        layer.gradients = {"weight": np.array([[0.5]]), "bias": np.array([0.0])}
        plain.step([layer], rate=0.1, momentum=0.9)
    # By hand: v = 0.5, then 0.95; steps of 0.1 (0.5 + 0.9 v) = 0.095 and 0.1355. float64.
    assert layer.weights["weight"].item() == pytest.approx(1 - 0.095 - 0.1355, rel=1e-12)


@pytest.mark.parametrize(
    "line",
    [
        "conv 3 5x5 stride 2, relu, pool max 3, dense 6, gelu",
        "conv 2 4x4 valid, sigmoid, pool avg 2, batchnorm, residual(conv 2, tanh)",
    ],
)
def test_loss_and_gradients_agree_with_pytorch(line: str) -> None:
    torch = pytest.importorskip("torch")
    from mnist_cli.adapters import torch_adapter

    spec = find_network(line)
    network, weights = PlainNetwork(spec), random_weights(spec)
    network.load(weights)
    images, labels = RNG.standard_normal((8, 28, 28)), RNG.integers(0, 10, 8)
    module = torch_adapter.build_module(spec).double()
    tensors = torch_adapter.canonical(module.named_parameters())
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(torch.from_numpy(weights[name]))
    scores = module(torch.from_numpy(images).unsqueeze(1))
    expected = torch.nn.functional.cross_entropy(scores, torch.from_numpy(labels))
    expected.backward()
    loss, gradients = network.loss_and_gradients(images, labels)
    # The same formulas in float64, sums in another order.
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    for name, tensor in tensors.items():
        assert_close(gradients[name], tensor.grad.numpy(), 1e-10)


def test_the_program_trains_and_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    right = plain.main(epochs=2, limit=6400)
    said = capsys.readouterr().out
    assert right > 0.9  # 6,400 images, twice: measured 93%
    for part in ("60,000 images", "101,770 weights", "as good as a guess", "seeing each image 2x"):
        assert part in said


def test_the_plain_network_needs_nothing_but_numpy() -> None:
    program = "import sys, mnist_cli.scratch.plain; print('torch' in sys.modules, *sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    ours = [name for name in done.stdout.decode().split() if name.startswith("mnist_cli")]
    assert set(ours) == {
        "mnist_cli",
        "mnist_cli.arrays",
        "mnist_cli.scratch",
        "mnist_cli.scratch.plain",
    }

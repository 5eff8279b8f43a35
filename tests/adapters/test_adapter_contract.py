"""Parity: given the same weights and batches, all frameworks do the same.

Each framework runs in a process of its own, once (see `framework_driver`); these tests compare
what they left.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from framework_driver import CONFIG, MOVING_RATE, SPECS, STEPS, given_velocities, given_weights

from mnist_cli import adapters
from mnist_cli.arrays import NO_DIGIT, Weights
from mnist_cli.config import ModelSpec
from mnist_cli.data.registry import load_dataset
from mnist_cli.data.split import split
from mnist_cli.errors import FrameworkError, UsageError
from mnist_cli.runners import process
from mnist_cli.training import recipe

pytestmark = pytest.mark.slow

FRAMEWORKS = ("jax", "numpy", "tensorflow", "torch")
PAIRS = list(itertools.combinations(FRAMEWORKS, 2))
ARCHS = tuple(SPECS)
Results = Callable[[str], dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Return what a framework did, by name; each is run when first asked for."""
    done: dict[str, dict[str, np.ndarray]] = {}

    def of(framework: str) -> dict[str, np.ndarray]:
        if framework not in done:
            path = tmp_path_factory.mktemp(framework) / "results.npz"
            driver = Path(__file__).parents[1] / "framework_driver.py"
            subprocess.run(
                [sys.executable, driver, framework, path],
                check=True,
                env=process.process_environment(2),
                timeout=300,
            )
            with np.load(path) as arrays:
                done[framework] = dict(arrays)
        return done[framework]

    return of


def _part(arrays: dict[str, np.ndarray], key: str) -> dict[str, np.ndarray]:
    prefix = key + "/"
    return {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(
    ("key", "make"),
    [("returned", given_weights), ("returned velocities", given_velocities)],
    ids=["weights", "velocities"],
)
def test_weights_and_velocities_come_back_canonical_and_to_the_bit(
    results: Results, framework: str, arch: str, key: str, make: Callable[[ModelSpec], Weights]
) -> None:
    returned = _part(results(framework), f"{arch}/{key}")
    given = make(SPECS[arch])
    assert returned.keys() == given.keys()
    for name, array in given.items():
        assert returned[name].dtype == np.float32
        np.testing.assert_array_equal(returned[name], array)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_step_in_motion_is_nesterovs_in_pytorchs_form(
    results: Results, framework: str, arch: str
) -> None:
    gradient, velocity, weight = (
        _part(results(framework), f"{arch}/{key}")
        for key in ("gradient", "moved velocities", "moved weights")
    )
    before, velocity_before = given_weights(SPECS[arch]), given_velocities(SPECS[arch])
    for name in velocity:
        # The same batch and weights as for the first gradient, which was taken at rest. Values
        # are below 4: a rounding is below 3e-7, and threads may add in another order.
        expected = 0.9 * velocity_before[name] + gradient[name]
        np.testing.assert_allclose(velocity[name], expected, rtol=0, atol=5e-6, err_msg=name)
        step = gradient[name] + 0.9 * velocity[name]
        expected = before[name] - MOVING_RATE * step
        np.testing.assert_allclose(weight[name], expected, rtol=0, atol=5e-6, err_msg=name)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_the_same_weights_give_the_same_logits(
    results: Results, one: str, other: str, arch: str
) -> None:
    key = f"{arch}/logits of 200"
    # float32 sums of up to 3,136 products in another order: about 1e-5 on logits near 10.
    np.testing.assert_allclose(results(one)[key], results(other)[key], rtol=0, atol=1e-4)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_logits_are_float32_rows_for_any_number_of_images(
    results: Results, framework: str, arch: str
) -> None:
    whole = results(framework)[f"{arch}/logits of 200"]
    assert whole.dtype == np.float32
    assert results(framework)[f"{arch}/logits of 0"].shape == (0, 10)
    one = results(framework)[f"{arch}/logits of 1"]
    # The same image alone may take another kernel, so another order of float32 sums.
    np.testing.assert_allclose(one, whole[:1], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "batch", ["gradient", "gradient of an odd batch", "gradient with non-digits"]
)
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_the_first_step_has_the_same_gradient(
    results: Results, one: str, other: str, arch: str, batch: str
) -> None:
    ours, theirs = (_part(results(name), f"{arch}/{batch}") for name in (one, other))
    # Gradients here are below 1; the frameworks' float32 sums differ by some 1e-6. Before a batch
    # norm 200,000 pixels nearly cancel: against float64 each framework is off by up to 2e-5.
    tolerance = 1e-4 if arch == "resnet" else 1e-5
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("arch", ["cnn", "mlp", "sigmoid"])  # those that train as they predict
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_loss_of_a_non_digit_is_minus_the_log_of_the_eleventh_probability(
    results: Results, framework: str, arch: str
) -> None:
    data = split(load_dataset(), seed=0)
    images = recipe.normalize(data.train_images[: STEPS * 64])
    batch = recipe.epoch_order(CONFIG, epoch=1, count=len(images))[:64]
    network = adapters.load("numpy").build(SPECS[arch], CONFIG, device="cpu", threads=1)
    network.import_weights(given_weights(SPECS[arch]))
    logits = np.pad(network.predict_logits(images[batch]).astype(np.float64), ((0, 0), (0, 1)))
    labels = np.where(batch % 5 == 0, NO_DIGIT, data.train_labels[batch])
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(64), labels]
    # float32 sums in another order
    assert results(framework)[f"{arch}/loss with non-digits"] == pytest.approx(
        losses.mean(), rel=1e-5
    )


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_a_hundred_steps_give_the_same_losses(
    results: Results, one: str, other: str, arch: str
) -> None:
    ours, theirs = results(one)[f"{arch}/losses"], results(other)[f"{arch}/losses"]
    assert len(ours) == 100
    assert ours[-10:].mean() < 0.8 * ours[:10].mean()  # it learns: the curves can be compared
    # The contract: within 1%, at each step. See `framework_driver` for the learning rate.
    np.testing.assert_allclose(ours, theirs, rtol=0.01)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("framework", ["jax", "tensorflow", "torch"])
def test_weights_trained_elsewhere_give_the_same_logits_in_numpy(
    results: Results, framework: str, arch: str
) -> None:
    trained = _part(results(framework), f"{arch}/trained")
    classifier = adapters.load("numpy").build(SPECS[arch], CONFIG, device="cpu", threads=2)
    classifier.import_weights(trained)
    pictures = recipe.normalize(split(load_dataset(), seed=0).validation_images[:200])
    np.testing.assert_allclose(  # float32 sums in another order, as above
        classifier.predict_logits(pictures),
        results(framework)[f"{arch}/trained logits"],
        rtol=0,
        atol=1e-4,
    )


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_training_in_two_halves_is_training_whole(
    results: Results, framework: str, arch: str
) -> None:
    whole = results(framework)[f"{arch}/losses"]
    halves = results(framework)[f"{arch}/losses in halves"]
    if framework == "numpy":
        np.testing.assert_array_equal(whole, halves)
    else:
        # Their kernels may sum in another order from run to run; see the README.
        np.testing.assert_allclose(whole, halves, rtol=0.01)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_same_run_again_with_looks_in_between_gives_the_same_losses(
    results: Results, framework: str, arch: str
) -> None:
    once, again = (results(framework)[f"{arch}/losses{suffix}"] for suffix in ("", " again"))
    if framework == "numpy":
        np.testing.assert_array_equal(once, again)
    else:
        np.testing.assert_allclose(once, again, rtol=0.01)


def test_an_unknown_framework_is_named_with_the_choices() -> None:
    with pytest.raises(UsageError, match=r"'tf'.*numpy, tensorflow, torch"):
        adapters.load("tf")


def test_a_framework_that_is_not_installed_says_what_to_do() -> None:
    with pytest.raises(FrameworkError, match=r"absent cannot be imported.*Install it"):
        adapters.load("absent")


def test_numpy_refuses_a_gpu() -> None:
    with pytest.raises(FrameworkError, match="cpu"):
        adapters.load("numpy").build(SPECS["mlp"], CONFIG, device="cuda", threads=1)

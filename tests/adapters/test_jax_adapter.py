"""What the JAX adapter does on its own account: its programs, layouts and refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.errors import FrameworkError
from mnist_cli.runners import process
from mnist_cli.training import recipe

jax_adapter = pytest.importorskip("mnist_cli.adapters.jax_adapter")
adapter = jax_adapter.adapter

pytestmark = pytest.mark.slow

CONFIG = TrainConfig(batch_size=8)
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(0, 1, (64, 28, 28)).astype(np.float32)
LABELS = RNG.integers(0, 10, 64)


def built(arch: str = "mlp", config: TrainConfig = CONFIG) -> Any:
    spec = ModelSpec(arch)
    classifier = adapter.build(spec, config, device="cpu", threads=2)
    classifier.import_weights(recipe.starting_weights(spec, 0))
    return classifier


def train(classifier: Any, steps: int) -> list[np.ndarray]:
    order = np.random.default_rng(1).integers(0, len(IMAGES), steps * classifier.batch_size)
    rates = np.full(steps, 0.01, dtype=np.float32)
    return list(classifier.train_epoch(IMAGES, LABELS, order=order, learning_rates=rates))


def test_the_warm_up_compiles_all_that_any_epoch_needs() -> None:
    classifier = built()
    assert [len(losses) for losses in train(classifier, 33)] == [32, 1]
    assert classifier._train._cache_size() == 2
    assert [len(losses) for losses in train(classifier, 91)] == [32, 32, 27]
    assert classifier._train._cache_size() == 2


def test_the_gradient_of_the_pool_goes_to_the_first_of_equals_and_edges_are_left_out() -> None:
    maps = np.zeros((1, 3, 5, 1), dtype=np.float32)
    maps[0, 1, 2] = 1
    gradient = jax_adapter.jax.grad(lambda values: jax_adapter._max_pool(values).sum())(maps)
    np.testing.assert_array_equal(
        gradient[0, :, :, 0], [[1, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]]
    )


def test_the_cpus_convolution_has_the_gradients_of_the_other() -> None:
    maps, kernel, weights = (
        RNG.normal(0, 1, shape).astype(np.float32)
        for shape in [(4, 7, 6, 3), (5, 3, 3, 3), (4, 7, 6, 5)]
    )

    def on_cpu(maps: Any, kernel: Any) -> Any:
        return (jax_adapter._convolve_on_cpu(maps, kernel.transpose(2, 3, 1, 0)) * weights).sum()

    def elsewhere(maps: Any, kernel: Any) -> Any:
        outputs = jax_adapter.lax.conv_general_dilated(
            maps, kernel, (1, 1), "SAME", dimension_numbers=jax_adapter._SPATIAL_LAST
        )
        return (outputs * weights).sum()

    one, other = (
        jax_adapter.jax.grad(function, argnums=(0, 1))(maps, kernel)
        for function in (on_cpu, elsewhere)
    )
    for ours, theirs in zip(one, other, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)  # float32 sums of up to 168 products


def test_what_is_exported_and_imported_is_copied() -> None:
    classifier = built()
    before = classifier.export_weights()
    kept = {name: array.copy() for name, array in before.items()}
    classifier.import_weights(before)
    train(classifier, 32)  # the step may write into memory that it was given
    for name, array in before.items():
        assert array.flags.c_contiguous
        np.testing.assert_array_equal(array, kept[name])


def test_bfloat16_is_another_gradient_and_a_near_one() -> None:
    one, other = (built("cnn", replace(CONFIG, precision=name)) for name in ("float32", "bfloat16"))
    for classifier in (one, other):
        train(classifier, 1)
    ours, theirs = one.export_optimizer(), other.export_optimizer()
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype == np.float32
        difference = np.linalg.norm(ours[name] - theirs[name]) / np.linalg.norm(ours[name])
        # A mantissa of 8 bits is right to 0.4%: that moves some units to the other side of ReLU.
        assert 1e-5 < difference < 0.2
    other.import_weights(one.export_weights())
    np.testing.assert_array_equal(one.predict_logits(IMAGES), other.predict_logits(IMAGES))


@pytest.mark.parametrize(
    ("device", "precision", "said"),
    [
        ("cuda", "float32", "JAX sees no cuda device. Use --device cpu"),
        ("mps", "float32", "JAX does not compute on mps"),
        ("cpu", "tf32", "JAX computes in tf32 on a CUDA device only, not on cpu"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(device: str, precision: str, said: str) -> None:
    with pytest.raises(FrameworkError, match=said):
        adapter.build(
            ModelSpec("mlp"), replace(CONFIG, precision=precision), device=device, threads=1
        )


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_limited_to_those_asked_for(threads: int) -> None:
    program = (
        "import json, os\n"
        "from mnist_cli.adapters.jax_adapter import adapter, jax\n"
        "from mnist_cli.config import ModelSpec, TrainConfig\n"
        f"adapter.build(ModelSpec('mlp'), TrainConfig(), device='cpu', threads={threads})\n"
        "tasks = '/proc/self/task'\n"
        "names = [open(f'{tasks}/{task}/comm').read() for task in os.listdir(tasks)]\n"
        "print(json.dumps([adapter.environment(), names]))"
    )
    if not Path("/proc/self/task").exists():
        pytest.skip("threads are counted in /proc")
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=True,
        env=process.process_environment(threads),
    )
    environment, names = json.loads(done.stdout)
    assert environment["framework_threads"] == threads
    assert environment["device"] == "cpu"
    assert sum("XLAEigen" in name for name in names) == threads

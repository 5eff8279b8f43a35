"""Random networks: the frameworks predict, and train, alike."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from network_lines import lines

from mnist_cli.runners import process

pytestmark = pytest.mark.slow

FRAMEWORKS = ("jax", "numpy", "tensorflow", "torch")
Run = Callable[[str, int], dict[str, dict[str, np.ndarray]]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Return what each framework makes of a line; each runs in a process of its own."""
    folder = tmp_path_factory.mktemp("lines")
    driver = Path(__file__).parents[1] / "line_driver.py"
    processes = {
        framework: subprocess.Popen(
            [sys.executable, driver, framework],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=process.process_environment(2),
            text=True,
        )
        for framework in FRAMEWORKS
    }

    def ask(line: str, classes: int) -> dict[str, dict[str, np.ndarray]]:
        found = {}
        for framework, worker in processes.items():
            assert worker.stdin is not None
            assert worker.stdout is not None
            path = str(folder / f"{framework}.npz")
            print(json.dumps([line, classes, path]), file=worker.stdin, flush=True)
            answer = worker.stdout.readline()
            assert answer, f"the process of {framework} ended"
            assert json.loads(answer) == path, f"{framework}: {answer}"
            with np.load(path) as arrays:
                found[framework] = dict(arrays)
        return found

    yield ask
    for worker in processes.values():
        worker.communicate()


# The same lines each time: a rare one whose rounding is worse than most must not fail a change
# that has nothing to do with it.
@settings(max_examples=15, deadline=None, derandomize=True)
@given(line=lines(), classes=st.sampled_from([10, 10, 10, 2, 26]))
@example("conv 4 5x5 stride 2, gelu, pool max 3, batchnorm, dense 12, batchnorm, dropout .3", 10)
@example(
    "conv 4 4x4 valid stride 3, sigmoid, residual(conv 4 1x1 valid, dropout 0.5), pool avg 2", 10
)
@example(
    "batchnorm, conv 4, relu, pool, conv 6, relu, pool, dense 20, residual(dense 20, tanh)", 10
)
@example("residual(relu, tanh), pool 3, dropout 0.5", 10)
@example("conv 4, pool, relu, dense 20, relu", 26)
@example("dense 16, relu", 256)
def test_the_frameworks_train_any_line_alike_with_any_number_of_classes(
    run: Run, line: str, classes: int
) -> None:
    found = run(line, classes)
    assert found["numpy"]["logits"].shape[1] == classes
    for one, other in itertools.combinations(FRAMEWORKS, 2):
        ours, theirs = found[one], found[other]
        assert ours.keys() == theirs.keys()
        largest = max(np.abs(a).max() for n, a in ours.items() if n.startswith("gradient/"))
        for name, array in ours.items():
            # float32 sums in another order, relative to the scale of what is summed: logits of
            # random networks are up to some tens, a bias before batch norm has the gradient 0.
            scale = largest if name.startswith("gradient/") else np.abs(array).max()
            tolerance = 1e-4 if name == "logits" else 1e-5 if "/" not in name else 2e-5
            error = np.abs(array - theirs[name]).max()
            assert error <= tolerance * max(1, scale), (one, other, name)

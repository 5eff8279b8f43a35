"""TensorFlow compiled by XLA, as on a GPU, and its devices; each in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mnist_cli.runners import process

pytestmark = pytest.mark.slow

PRELUDE = """
import numpy as np
from mnist_cli.adapters.tensorflow_adapter import TensorFlowClassifier, adapter, tf
from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.errors import FrameworkError
from mnist_cli.networks.language import find_network
from mnist_cli.training import recipe

rng = np.random.default_rng(0)
images = rng.normal(0, 1, (200, 28, 28)).astype(np.float32)
labels = rng.integers(0, 10, 200)
rates = np.linspace(0.001, 0.02, 100, dtype=np.float32)

def trained(spec, steps=100, splits=1, prepare=lambda classifier: None, use_xla=True, **changes):
    config = TrainConfig(**{"batch_size": 16, **changes})
    classifier = TensorFlowClassifier(spec, config, splits=splits, use_xla=use_xla)
    classifier.import_weights(recipe.starting_weights(spec, 0))
    prepare(classifier)
    order = np.random.default_rng(1).integers(0, 200, steps * config.batch_size)
    chunks = list(
        classifier.train_epoch(images, labels, order=order, learning_rates=rates[:steps])
    )
    assert [len(chunk) for chunk in chunks] == [32] * (steps // 32) + [steps % 32]
    return np.concatenate(chunks), classifier
"""


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + program],
        capture_output=True,
        text=True,
        check=False,
        env=process.process_environment(2),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_xlas_steps_have_the_losses_of_the_others() -> None:
    run("""
mlp, cnn, few = ModelSpec("mlp"), ModelSpec("cnn"), {"batch_size": 4, "learning_rate": 0.01}
line = find_network("conv 4 5x5 stride 2, batchnorm, gelu, residual(conv 4, tanh), pool avg")
for spec, steps, changes in (
    (mlp, 100, {}),
    (mlp, 40, {"reject": True}),
    (mlp, 40, {"precision": "tf32"}),
    (cnn, 34, few),
    (line, 34, {}),
):
    (losses, one), (expected, other) = (
        trained(spec, steps, use_xla=use_xla, **changes) for use_xla in (True, False)
    )
    assert one.note == other.note == ""
    assert one._train_chunk_in_xla.experimental_get_tracing_count() == 1
    # float32 sums in another order
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    ours = one.export_optimizer() | one._export(one.statistics)
    theirs = other.export_optimizer() | other._export(other.statistics)
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=1e-3, err_msg=name)
""")


def test_without_xla_steps_are_taken_as_on_a_cpu_and_a_note_says_so() -> None:
    said = run("""
def refuse(classifier):
    def fail(*arguments):
        raise tf.errors.UnimplementedError(None, None, "no such operation\\nat all")
    classifier._train_chunk_in_xla = fail

losses, classifier = trained(ModelSpec("mlp"), prepare=refuse)
np.testing.assert_array_equal(losses, trained(ModelSpec("mlp"), use_xla=False)[0])
print(classifier.note)
""")
    assert said.strip() == "TensorFlow trains without XLA, which failed (no such operation)."


def test_with_dropout_steps_are_taken_without_xla_and_a_note_says_so() -> None:
    said = run("""
spec = find_network("dense 20, relu, dropout 0.5")
losses, classifier = trained(spec, 40)
expected, other = trained(spec, 40, use_xla=False)
np.testing.assert_array_equal(losses, expected)
assert other.note == ""
print(classifier.note)
""")
    assert said.strip() == "TensorFlow trains without XLA: dropout draws a mask for each step."


def test_what_is_not_there_is_refused_and_a_cpu_does_without_xla() -> None:
    said = run("""
for device, precision in (("mps", "float32"), ("cpu", "tf32"), ("cuda", "float32")):
    try:
        adapter.build(ModelSpec("mlp"), TrainConfig(precision=precision), device=device, threads=1)
    except FrameworkError as error:
        print(error)
print(adapter.build(ModelSpec("mlp"), TrainConfig(), device="cpu", threads=1).use_xla)
""").splitlines()
    assert said[0].startswith("TensorFlow does not compute on mps. Use --device cpu")
    assert said[1].startswith("TensorFlow computes in tf32 on a CUDA device only, not on cpu.")
    assert said[-1] == "False"

"""What the tests of the NumPy network share: made images, classifiers, and training them."""

from __future__ import annotations

import multiprocessing
import threading

import numpy as np

from mnist_cli.adapters.base import STEPS_PER_CHUNK
from mnist_cli.adapters.numpy_adapter import adapter
from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.training.recipe import starting_weights

CNN, MLP = ModelSpec("cnn"), ModelSpec("mlp")
SPECS = [CNN, MLP, ModelSpec("mlp", "sigmoid"), ModelSpec("lenet5"), ModelSpec("resnet")]
CONFIG = TrainConfig(batch_size=16)
PAIRS = TrainConfig(batch_size=2)


def bar_images(count=64):
    """Noise with a bright bar whose row depends on the label: quickly learnt."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, count)
    images = rng.standard_normal((count, 28, 28)).astype(np.float32)
    for image, label in zip(images, labels, strict=True):
        image[4 + 2 * label : 6 + 2 * label] += 3
    return images, labels


def classifier(spec, *, threads=1, config=CONFIG):
    built = adapter.build(spec, config, device="cpu", threads=threads)
    built.import_weights(starting_weights(spec, seed=3))
    return built


def train(model, *, steps=6, learning_rate=0.02, start=0):
    images, labels = bar_images()
    order = np.random.default_rng(1).integers(0, len(labels), 100 * model.batch_size)
    order = order[start * model.batch_size :][: steps * model.batch_size]
    rates = np.full(steps, learning_rate, dtype=np.float32)
    chunks = model.train_epoch(images, labels, order=order, learning_rates=rates)
    return np.concatenate(list(chunks))


def started_workers():
    """Return the processes and threads that this process has started."""
    return {*multiprocessing.active_children(), *threading.enumerate()}


def epoch(model, images, labels, *, steps=2 * STEPS_PER_CHUNK):
    order = np.arange(steps * model.batch_size) % len(labels)
    rates = np.full(steps, 0.01, dtype=np.float32)
    return model.train_epoch(images, labels, order=order, learning_rates=rates)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)

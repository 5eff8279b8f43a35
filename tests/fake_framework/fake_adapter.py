"""A framework that learns in no time, found by entry point as anybody's would be.

It answers with the nearest class mean. The variable FAKE_FRAMEWORK makes it misbehave, in the
epoch (counted from 1) that follows the word: ``crash 2``, ``kill 2``, ``nan 2``, ``sleep 2``.
FAKE_FRAMEWORK_ONLY restricts all this to the run of one network and seed: ``mlp 1``. While there is
a file FAKE_FRAMEWORK_HOLD, no process gets past the epoch that it names, by default the first.
"""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from mnist_cli.adapters.base import STEPS_PER_CHUNK
from mnist_cli.networks.spec import parameter_shapes, weight_shapes


def held_epoch() -> int:
    try:
        return int(Path(os.environ["FAKE_FRAMEWORK_HOLD"]).read_text() or 1)
    except (KeyError, OSError):
        return -1  # of no epoch


class FakeClassifier:
    def __init__(self, spec, config):
        self.batch_size, self.count = config.batch_size, spec.classes
        only = os.environ.get("FAKE_FRAMEWORK_ONLY")
        concerned = only in (None, f"{spec.arch} {config.seed}")
        self.misbehaviour = os.environ.get("FAKE_FRAMEWORK", "") if concerned else ""
        self.weights = {
            name: np.zeros(shape, np.float32) for name, shape in weight_shapes(spec).items()
        }
        self.velocities = {name: self.weights[name].copy() for name in parameter_shapes(spec)}
        self.epochs_seen = -1  # the first is the warm-up

    def train_epoch(self, images, labels, *, order, learning_rates, mask_seeds=None):
        self.epochs_seen += 1
        action, _, epoch = self.misbehaviour.partition(" ")
        if action and self.epochs_seen == int(epoch):
            if action == "crash":
                raise RuntimeError("the fake framework broke")
            if action == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if action == "sleep":
                time.sleep(600)
        while self.epochs_seen == held_epoch():
            time.sleep(0.02)
        print("frameworks print what they like")
        # The last layer changes, so that it is exported, saved and restored as any framework's.
        last = [name for name in self.velocities if name.endswith(".weight")][-1]
        self.weights[last] += np.float32(learning_rates.sum())
        self.velocities[last] += np.float32(len(order))
        flat = images[order].reshape(len(order), -1)
        classes = [flat[labels[order] == digit] for digit in range(self.count)]
        self.means = np.stack([c.mean(axis=0) if len(c) else flat[0] * 0 for c in classes])
        losses = np.linspace(2.3, 0.5, len(learning_rates), dtype=np.float32)
        if action == "nan" and self.epochs_seen == int(epoch):
            losses[-1] = np.nan
        for start in range(0, len(losses), STEPS_PER_CHUNK):
            yield losses[start : start + STEPS_PER_CHUNK]

    def predict_logits(self, images):
        if not hasattr(self, "means"):
            return np.zeros((len(images), self.count), np.float32)
        flat = images.reshape(len(images), -1)
        return -np.square(flat[:, None] - self.means).mean(axis=2).astype(np.float32)

    def export_weights(self):
        return {name: array.copy() for name, array in self.weights.items()}

    def import_weights(self, weights):
        self.weights = {name: array.copy() for name, array in weights.items()}

    def export_optimizer(self):
        return {name: array.copy() for name, array in self.velocities.items()}

    def import_optimizer(self, velocities):
        self.velocities = {name: array.copy() for name, array in velocities.items()}

    def synchronize(self):
        pass


class FakeAdapter:
    name = "fake"

    def build(self, spec, config, *, device, threads):
        return FakeClassifier(spec, config)

    def environment(self):
        return {"fake": "1.0", "device": "cpu"}


adapter = FakeAdapter()
if os.environ.get("FAKE_FRAMEWORK") == "import 0":
    sys.exit("imports should not exit, but some do")

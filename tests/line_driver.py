"""Train any line in one framework, as asked on standard input: never two frameworks in a process.

Usage: python line_driver.py FRAMEWORK. What is read is JSON: a network's line, the number of
classes, and the .npz file to write. The answer is the name of that file, or an error.
"""

from __future__ import annotations

import json
import os
import sys

import numpy as np

from mnist_cli import adapters
from mnist_cli.config import TrainConfig
from mnist_cli.networks.language import find_network
from mnist_cli.networks.spec import parameter_shapes, weight_shapes

BATCH, STEPS = 12, 3


def run(adapter: adapters.Adapter, line: str, classes: int, path: str) -> None:
    """Predict, take one step, predict in between, and take two more."""
    spec = find_network(line, classes=classes)
    rng = np.random.default_rng(0)
    weights = {
        # Near 1 or 0, so that neither a mean nor a variance is lost unseen.
        name: (rng.random(shape) * 0.2 + name.endswith(("running_var", "weight")) * 0.1).astype(
            np.float32
        )
        if len(shape) == 1
        else (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        for name, shape in weight_shapes(spec).items()
    }
    images = rng.standard_normal((BATCH * STEPS, 28, 28)).astype(np.float32)
    labels = rng.integers(0, classes, len(images))
    model = adapter.build(spec, TrainConfig(batch_size=BATCH), device="cpu", threads=2)
    model.import_weights(weights)
    zeros = {name: np.zeros(shape, np.float32) for name, shape in parameter_shapes(spec).items()}
    model.import_optimizer(zeros)

    def train(first: int, last: int) -> np.ndarray:
        chunks = model.train_epoch(
            images,
            labels,
            order=np.arange(BATCH * first, BATCH * last),
            learning_rates=np.full(last - first, 0.01, np.float32),
            mask_seeds=np.arange(first, last),
        )
        return np.concatenate(list(chunks))

    saved = {"logits": model.predict_logits(images)}
    losses = [train(0, 1)]
    saved |= {f"gradient/{name}": array for name, array in model.export_optimizer().items()}
    model.predict_logits(images[:5])
    losses.append(train(1, STEPS))
    saved["losses"] = np.concatenate(losses)
    saved |= {f"weights/{name}": array for name, array in model.export_weights().items()}
    np.savez(path, **saved)


def main() -> None:
    """Answer until standard input ends; what the framework prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    adapter = adapters.load(sys.argv[1])
    for asked in sys.stdin:
        line, classes, path = json.loads(asked)
        try:
            run(adapter, line, classes, path)
            answer = path
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()

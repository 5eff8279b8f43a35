"""Work out when `mnist predict` calls a digit sure: ``python tests/benchmarks/calibration.py``.

Prints the limits (see `mnist_cli.training.calibration`) of a model, by default the one in the
package, from all of MNIST's validation digits, and what they do. A training works its model's own
out from some of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from mnist_cli.data.registry import load_dataset
from mnist_cli.data.split import split
from mnist_cli.prediction import PRETRAINED, Model
from mnist_cli.training.calibration import calibrate, judge, simulate_handwriting

SEED = 0


def main() -> None:
    """Print the three limits and what they do."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, default=PRETRAINED)
    reader = Model(parser.parse_args().model)
    data = split(load_dataset(), seed=SEED)
    images, labels = simulate_handwriting(
        data.validation_images, data.validation_labels, np.random.default_rng(SEED)
    )
    logits = reader.logits(images)
    right = logits.argmax(axis=1) == labels
    limits = {"worked out here": calibrate(logits, labels), "the model's own": reader.calibration}
    for name, used in limits.items():
        _, sure = judge(logits, used)
        print(f"{name}: {used}")
        print(f"  {len(labels):,} digits, {right.mean():.2%} read right")
        print(f"  sure {sure.mean():.2%}, of them {right[sure].mean():.2%} right")


if __name__ == "__main__":
    main()

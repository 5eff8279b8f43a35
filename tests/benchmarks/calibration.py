"""Work out when `mnist predict` calls a digit sure: ``python tests/benchmarks/calibration.py``.

Prints the limits (see `mnist_cli.calibration`) of a model, by default the one in the package, from
all of MNIST's validation digits, and what they do. A training works its model's own out from some
of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from mnist_cli import evaluation
from mnist_cli.calibration import calibrate, draw
from mnist_cli.data.dataset import load_dataset, split
from mnist_cli.prediction import PRETRAINED, Reader

SEED = 0


def main() -> None:
    """Print the three limits and what they do."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, default=PRETRAINED)
    reader = Reader(parser.parse_args().model)
    data = split(load_dataset(), seed=SEED)
    images, labels = draw(
        data.validation_images, data.validation_labels, np.random.default_rng(SEED)
    )
    logits = reader.logits(images)
    limits = calibrate(logits, labels)
    assert limits is not None
    for name, used in (("worked out here", limits), ("the model's own", reader.calibration)):
        probabilities = evaluation.probabilities(logits / used.temperature)
        confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
        sure = (confidence >= used.sure_probability) & (
            evaluation.evidence(logits) >= used.sure_evidence
        )
        print(f"{name}: {used}")
        print(f"  {len(labels):,} digits, {right.mean():.2%} read right")
        print(f"  sure {sure.mean():.2%}, of them {right[sure].mean():.2%} right")


if __name__ == "__main__":
    main()

"""Work out when `mnist predict` calls a digit sure: ``python tests/benchmarks/calibration.py``.

Prints the constants of `mnist_cli.prediction` for a model (by default the one in the package),
from MNIST's validation digits only, each drawn as people draw: on a larger page, turned, slanted,
thinner or thicker, by seed, and prepared as any picture is.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from mnist_cli import evaluation
from mnist_cli.architectures import Array
from mnist_cli.data.dataset import load_dataset, split
from mnist_cli.errors import PictureError
from mnist_cli.prediction import PRETRAINED, Reader
from mnist_cli.preprocess import prepare

SEED = 0
SCALE = 4
MOST_WRONG = 1 / 200  # of the digits called sure
UNLIKE = 0.03  # of true digits, called unlike a digit


def draw(image: Array, rng: np.random.Generator) -> Array:
    """Return a digit (28, 28) on a page (168, 168), uint8, dark on light."""
    angle, slant = np.deg2rad(rng.uniform(-12, 12)), rng.uniform(-0.25, 0.25)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = SCALE * rng.uniform(0.7, 1.2) * turn @ np.array([[1, slant], [0, 1]])
    side = 42 * SCALE
    shift = side / 2 - matrix @ np.full(2, 14.0)
    page = cv2.warpAffine(image, np.c_[matrix, shift], (side, side), flags=cv2.INTER_CUBIC)
    change = int(rng.integers(-4, 6))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (abs(change) + 1,) * 2)
    page = cv2.dilate(page, kernel) if change > 0 else cv2.erode(page, kernel)
    noise = rng.normal(0, 4, page.shape)
    return np.clip(225 - 0.7 * page + noise, 0, 255).astype(np.uint8)


def main() -> None:
    """Print the three constants and what they do."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, default=PRETRAINED)
    reader = Reader(parser.parse_args().model)
    data = split(load_dataset(), seed=SEED)
    rng = np.random.default_rng(SEED)
    images, labels = [], []
    for image, label in zip(data.validation_images, data.validation_labels, strict=True):
        page = draw(image, rng)
        try:
            images.append(prepare(page, single=True)[0].image)
        except PictureError:
            continue  # too thin to survive the erosion
        labels.append(label)
    logits = reader.logits(np.array(images))
    true = np.array(labels)
    temperatures = np.geomspace(0.25, 4, 81)
    losses = [evaluation.cross_entropy(logits / value, true) for value in temperatures]
    temperature = float(temperatures[int(np.argmin(losses))])
    probabilities = evaluation.probabilities(logits / temperature)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == true
    order = np.argsort(-confidence)
    share_wrong = np.cumsum(~right[order]) / np.arange(1, len(order) + 1)
    least = float(confidence[order][np.flatnonzero(share_wrong <= MOST_WRONG)[-1]])
    evidence = evaluation.evidence(logits)
    print(f"digits               {len(true):,}, {right.mean():.2%} read right")
    print(f"TEMPERATURE        = {temperature:.2f}")
    print(f"SURE_PROBABILITY   = {least:.2f}")
    print(f"SURE_EVIDENCE      = {np.quantile(evidence, UNLIKE):.1f}")
    sure = (confidence >= least) & (evidence >= np.quantile(evidence, UNLIKE))
    print(f"sure                 {sure.mean():.2%}, of them {right[sure].mean():.2%} right")


if __name__ == "__main__":
    main()

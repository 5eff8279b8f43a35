"""How sure is sure: what a model's probabilities must be for its answer to stand unmarked.

The logits are divided by a temperature before the softmax (Guo et al., 2017, arXiv:1706.04599),
chosen so that the cross-entropy of validation digits is least, drawn as people draw them (turned,
slanted, thinned, thickened, by seed): then of the digits given 90% nine in ten are right. A digit
is marked as not sure

- if its probability is below ``sure_probability``: of those validation digits above it, no more
  than 1 in 200 is read wrong;
- if its evidence (`evaluation.evidence`) is below ``sure_evidence``: that of all but 3 in 100 of
  those digits is above it. A letter may be more like a 6 than like any other digit, yet not much
  like a 6.
"""

from __future__ import annotations

import cv2
import numpy as np

from mnist_cli.arrays import Array
from mnist_cli.errors import PictureError
from mnist_cli.pictures.normalise import DEFECTS, prepare
from mnist_cli.training import evaluation
from mnist_cli.training.checkpoint import Calibration

# Pixels of a page to one of a digit. Twice as many, and grain as in a photo, would take eight times
# as long for nearly the same limits: for the package's model 96.5% of digits are sure either way.
_PAGE_SCALE = 2
_MOST_WRONG = 1 / 200  # of the digits called sure
_UNLIKE = 0.03  # of true digits, called unlike a digit
FEWEST_DIGITS = 100  # below that the shares above say nothing
_NEVER = 2.0  # a probability that nothing has


def draw(images: Array, labels: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return digits (N, 28, 28), uint8, as people might draw them, prepared as any picture is.

    ``images`` (N, 28, 28), uint8, ink 255, with ``labels`` (N,). Those that do not survive the
    drawing, too thin for a pen, are left out of both.
    """
    drawn, kept = [], []
    for image, label in zip(images, labels, strict=True):
        try:
            drawn.append(prepare(_page(image, rng), single=True)[0].image)
        except (PictureError, *DEFECTS):
            continue
        kept.append(label)
    return np.array(drawn, np.uint8).reshape(-1, *images.shape[1:]), np.array(kept, labels.dtype)


def calibrate(logits: Array, labels: Array) -> Calibration:
    """Return the limits for a model that gives drawn digits these logits (N, 10), labels (N,).

    Logits are float32 or float64; N should be `FEWEST_DIGITS` at least.
    """
    temperatures = np.geomspace(0.25, 4, 81)
    losses = [evaluation.cross_entropy(logits / value, labels) for value in temperatures]
    temperature = float(temperatures[np.argmin(losses)])
    probabilities = evaluation.probabilities(logits / temperature)
    order = np.argsort(-probabilities.max(axis=1), kind="stable")
    probabilities, labels = probabilities[order], labels[order]
    confidence, wrong = probabilities.max(axis=1), probabilities.argmax(axis=1) != labels
    share_wrong = np.cumsum(wrong) / np.arange(1, len(order) + 1)
    is_last = np.append(confidence[:-1] > confidence[1:], True)  # equals are sure together
    limits = confidence[is_last & (share_wrong <= _MOST_WRONG)]
    return Calibration(
        temperature=temperature,
        sure_probability=float(limits[-1]) if len(limits) else _NEVER,
        sure_evidence=float(np.quantile(evaluation.evidence(logits), _UNLIKE)),
    )


def judge(logits: Array, limits: Calibration) -> tuple[Array, Array]:
    """Return probabilities (N, 10) and which digits are sure, (N,), bool, of logits (N, 10)."""
    probabilities = evaluation.probabilities(logits / limits.temperature)
    is_clear = probabilities.max(axis=1) >= limits.sure_probability
    is_like_digits = evaluation.evidence(logits) >= limits.sure_evidence
    return probabilities, np.asarray(is_clear & is_like_digits)


def _page(image: Array, rng: np.random.Generator) -> Array:
    """Return a digit (28, 28) on a page (84, 84), uint8, dark on light."""
    angle, slant = np.deg2rad(rng.uniform(-12, 12)), rng.uniform(-0.25, 0.25)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = _PAGE_SCALE * rng.uniform(0.7, 1.2) * turn @ np.array([[1, slant], [0, 1]])
    side = 42 * _PAGE_SCALE
    shift = side / 2 - matrix @ np.full(2, 14.0)
    page = cv2.warpAffine(image, np.c_[matrix, shift], (side, side), flags=cv2.INTER_CUBIC)
    change = int(rng.integers(-_PAGE_SCALE, _PAGE_SCALE + 2))  # of a stroke's width
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (abs(change) + 1,) * 2)
    page = cv2.dilate(page, kernel) if change > 0 else cv2.erode(page, kernel)
    return np.asarray(255 - page, np.uint8)

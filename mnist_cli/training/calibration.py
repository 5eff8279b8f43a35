"""Calibrate a model: which of its predictions are sure, and what its probabilities mean.

The logits are divided by a temperature before the softmax (Guo et al., "On calibration of modern
neural networks", 2017, arXiv:1706.04599). The temperature minimises the cross-entropy of validation
digits, so that of the digits predicted with 90% about nine in ten are right. The digits are
distorted first as handwriting varies: rotated, slanted, thinner or thicker.

A prediction is sure if

- its probability is at least ``sure_probability``: of the validation digits above this limit, at
  most 1 in 200 is wrong;
- and its evidence (`evaluation.evidence`) is at least ``sure_evidence``: all but 3 in 100 of the
  validation digits have so much. This excludes what is no digit: a letter may resemble a 6 more
  than any other digit, but still not resemble a 6.
"""

from __future__ import annotations

import cv2
import numpy as np

from mnist_cli.arrays import IMAGE_SIZE, Array
from mnist_cli.errors import PictureError
from mnist_cli.pictures.normalise import UNEXPECTED_ERRORS, prepare
from mnist_cli.training import evaluation
from mnist_cli.training.checkpoint import Calibration

# Pixels of a drawn page per pixel of the digit. Twice as many, with noise as in a photo, would take
# eight times as long for nearly the same limits: 96.5% of digits are sure either way, with the
# package's model.
_PAGE_SCALE = 2
_PAGE_SIDE = 42 * _PAGE_SCALE  # pixels: a digit of 20, enlarged and rotated, fits with a margin
# Ranges of the distortions, each drawn uniformly.
_ROTATION_DEGREES = 12.0  # to either side
_SLANT = 0.25  # horizontal displacement per pixel of height, to either side
_MIN_ENLARGEMENT, _MAX_ENLARGEMENT = 0.7, 1.2

_MAX_WRONG = 1 / 200  # fraction of the sure digits
_LOW_EVIDENCE = 0.03  # fraction of the validation digits that is not sure for lack of evidence
MIN_DIGITS = 100  # fewer validation digits are too few to estimate these fractions
_UNREACHABLE = 2.0  # a probability that no prediction reaches: none is sure


def simulate_handwriting(
    images: Array, labels: Array, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Return distorted digits (M, 28, 28), uint8, and their labels (M,), M <= N.

    ``images`` (N, 28, 28), uint8, ink 255, with ``labels`` (N,), are distorted, drawn on a page and
    prepared like any picture. Digits that are too thin to be found on the page are left out.
    """
    digits, kept_labels = [], []
    for image, label in zip(images, labels, strict=True):
        try:
            digits.append(prepare(_draw_page(image, rng), single=True)[0].image)
        except (PictureError, *UNEXPECTED_ERRORS):
            continue
        kept_labels.append(label)
    return (
        np.array(digits, np.uint8).reshape(-1, *images.shape[1:]),
        np.array(kept_labels, labels.dtype),
    )


def calibrate(logits: Array, labels: Array) -> Calibration:
    """Return the calibration of a model with these logits (N, classes) for images with labels (N,).

    Logits are float32 or float64, of distorted validation digits; N should be at least
    `MIN_DIGITS`.
    """
    temperatures = np.geomspace(0.25, 4, 81)
    losses = [evaluation.cross_entropy(logits / value, labels) for value in temperatures]
    temperature = float(temperatures[np.argmin(losses)])
    probabilities = evaluation.probabilities(logits / temperature)
    order = np.argsort(-probabilities.max(axis=1), kind="stable")
    probabilities, labels = probabilities[order], labels[order]
    confidence, is_wrong = probabilities.max(axis=1), probabilities.argmax(axis=1) != labels
    wrong_fraction = np.cumsum(is_wrong) / np.arange(1, len(order) + 1)
    # A limit includes all digits of equal confidence, so only the last of them can set it.
    is_last_of_equals = np.append(confidence[:-1] > confidence[1:], True)
    limits = confidence[is_last_of_equals & (wrong_fraction <= _MAX_WRONG)]
    return Calibration(
        temperature=temperature,
        sure_probability=float(limits[-1]) if len(limits) else _UNREACHABLE,
        sure_evidence=float(np.quantile(evaluation.evidence(logits), _LOW_EVIDENCE)),
    )


def judge(logits: Array, limits: Calibration) -> tuple[Array, Array]:
    """Return the probabilities, float64, of logits (N, classes), and which are sure (N,), bool.

    ``limits`` is the calibration of the model that computed the logits.
    """
    probabilities = evaluation.probabilities(logits / limits.temperature)
    is_probable = probabilities.max(axis=1) >= limits.sure_probability
    is_digit = evaluation.evidence(logits) >= limits.sure_evidence
    return probabilities, np.asarray(is_probable & is_digit)


def _draw_page(image: Array, rng: np.random.Generator) -> Array:
    """Return a distorted digit (28, 28) on a page (84, 84), uint8, dark ink on white."""
    angle = np.deg2rad(rng.uniform(-_ROTATION_DEGREES, _ROTATION_DEGREES))
    slant = rng.uniform(-_SLANT, _SLANT)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    enlargement = _PAGE_SCALE * rng.uniform(_MIN_ENLARGEMENT, _MAX_ENLARGEMENT)
    matrix = enlargement * rotation @ np.array([[1, slant], [0, 1]])
    shift = _PAGE_SIDE / 2 - matrix @ np.full(2, IMAGE_SIZE / 2)  # centre on centre
    size = (_PAGE_SIDE, _PAGE_SIDE)
    page = cv2.warpAffine(image, np.c_[matrix, shift], size, flags=cv2.INTER_CUBIC)
    change = int(rng.integers(-_PAGE_SCALE, _PAGE_SCALE + 2))  # of the stroke width, in pixels
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (abs(change) + 1,) * 2)
    page = cv2.dilate(page, kernel) if change > 0 else cv2.erode(page, kernel)
    return np.asarray(255 - page, np.uint8)

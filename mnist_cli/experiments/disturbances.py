"""Disturb test images by degrees: what `mnist evaluate --robustness` measures models under.

Each image draws what is random, such as a direction, once: higher degrees are more of the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from mnist_cli.arrays import IMAGE_SIZE, Array

_CENTER = (IMAGE_SIZE - 1) / 2
_ENLARGEMENT = 4  # of images whose strokes change, so that a degree may be a part of a pixel


@dataclass(frozen=True)
class Disturbance:
    """One way to disturb images.

    ``apply`` takes images (N, 28, 28), uint8, ink 255, a degree and a generator, and returns images
    of the same shape. Degree 0 leaves them as they are. ``degrees`` ascend and contain 0.
    """

    name: str
    unit: str
    degrees: tuple[float, ...]
    apply: Callable[[Array, float, np.random.Generator], Array]


def _warped(images: Array, matrices: Array) -> Array:
    """Return images sampled at affine positions about their centres; ``matrices`` (N, 2, 3)."""
    size = (IMAGE_SIZE, IMAGE_SIZE)
    # From positions about the centre to positions from the corner.
    offsets = np.array([_CENTER, _CENTER]) - matrices[:, :, :2] @ np.array([_CENTER, _CENTER])
    matrices = matrices.copy()
    matrices[:, :, 2] += offsets
    pairs = zip(images, matrices, strict=True)
    return np.array([cv2.warpAffine(image, matrix, size) for image, matrix in pairs], np.uint8)


def _linear(a: Array, b: Array, c: Array, d: Array) -> Array:
    """Return matrices (N, 2, 3) of x' = a x + b y, y' = c x + d y."""
    zeros = np.zeros_like(a)
    return np.stack([np.stack([a, b, zeros], axis=1), np.stack([c, d, zeros], axis=1)], axis=1)


def _rotated(images: Array, degrees: float, rng: np.random.Generator) -> Array:
    """Rotate each image to one side or the other."""
    angle = np.radians(degrees) * rng.choice((-1.0, 1.0), len(images))
    return _warped(images, _linear(np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle)))


def _shifted(images: Array, pixels: float, rng: np.random.Generator) -> Array:
    """Shift each image in some direction."""
    angle = rng.uniform(0, 2 * np.pi, len(images))
    ones, zeros = np.ones(len(images)), np.zeros(len(images))
    matrices = _linear(ones, zeros, zeros, ones)
    matrices[:, :, 2] = pixels * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return _warped(images, matrices)


def _scaled(images: Array, percent: float, rng: np.random.Generator) -> Array:
    """Enlarge each image by a factor of 1 + percent / 100, or reduce it by the same."""
    scale = (1 + percent / 100) ** rng.choice((-1.0, 1.0), len(images))
    zeros = np.zeros(len(images))
    return _warped(images, _linear(scale, zeros, zeros, scale))


def _noisy(images: Array, percent: float, rng: np.random.Generator) -> Array:
    """Add normal noise; ``percent`` is its standard deviation, of full ink."""
    noise = rng.standard_normal(images.shape, dtype=np.float32) * (2.55 * percent)
    return np.asarray(np.rint(np.clip(images + noise, 0, 255)), np.uint8)


def _blurred(images: Array, pixels: float, _: np.random.Generator) -> Array:
    """Blur by a Gaussian; ``pixels`` is its standard deviation."""
    if not pixels:
        return images
    return np.stack([cv2.GaussianBlur(image, (0, 0), pixels) for image in images])


def _faded(images: Array, percent: float, _: np.random.Generator) -> Array:
    """Take a part of the ink away everywhere."""
    return np.asarray(np.rint(images * (1 - percent / 100)), np.uint8)


def _thickened(images: Array, pixels: float, _: np.random.Generator) -> Array:
    """Make strokes wider by so many pixels, or narrower below 0."""
    width = round(abs(pixels) * _ENLARGEMENT)
    if not width:
        return images
    side = _ENLARGEMENT * IMAGE_SIZE
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width + 1, width + 1))
    change = cv2.dilate if pixels > 0 else cv2.erode

    def one(image: Array) -> Array:
        large = cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC)
        small = cv2.resize(change(large, kernel), image.shape, interpolation=cv2.INTER_AREA)
        return np.asarray(small, np.uint8)

    return np.stack([one(image) for image in images])


def _covered(images: Array, pixels: float, rng: np.random.Generator) -> Array:
    """Cover a square, ``pixels`` wide, around a random pixel of ink of each image."""
    covered: Array = images.copy()
    draws = rng.random(len(images))
    for image, draw in zip(covered, draws, strict=True):
        inked = np.flatnonzero(image > 127)
        if not len(inked):
            continue
        row, column = divmod(int(inked[int(draw * len(inked))]), IMAGE_SIZE)
        top, left = (max(0, round(place - pixels / 2)) for place in (row, column))
        bottom, right = (round(place + pixels / 2) for place in (row, column))
        image[top:bottom, left:right] = 0
    return covered


DISTURBANCES = (
    Disturbance("rotation", "degrees", (0, 10, 20, 30, 40, 50), _rotated),
    Disturbance("shift", "pixels", (0, 1, 2, 3, 4, 5), _shifted),
    Disturbance("scale", "percent larger or smaller", (0, 10, 20, 30, 40, 60), _scaled),
    Disturbance("noise", "percent, standard deviation", (0, 10, 20, 30, 40, 60), _noisy),
    Disturbance("blur", "pixels, standard deviation", (0, 0.5, 1, 1.5, 2, 2.5), _blurred),
    Disturbance("contrast", "percent of the ink lost", (0, 20, 40, 60, 80, 90), _faded),
    Disturbance("stroke width", "pixels wider", (-1.5, -1, -0.5, 0, 1, 2, 3), _thickened),
    Disturbance("occlusion", "pixels, side of a square", (0, 4, 6, 8, 10, 12), _covered),
)

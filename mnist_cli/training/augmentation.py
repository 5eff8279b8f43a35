"""Training pictures, slightly bent: the same for every framework, drawn by seed.

Small affine deformations, and elastic ones as in Simard, Steinkraus and Platt, "Best practices for
convolutional neural networks applied to visual document analysis" (ICDAR 2003): a smooth random
field moves each pixel.
"""

from __future__ import annotations

import cv2
import numpy as np

from mnist_cli.arrays import IMAGE_SIZE, Array

# Ranges that leave a digit readable: a rotation of much more turns some 6 into 9, some 1 into 7.
ROTATION_DEGREES = 12.0
SHEAR = 0.2
SCALE = 0.15  # 0.85 to 1.15, each axis for itself
SHIFT_PIXELS = 2.0
# Standard deviation of the elastic field, and the width over which it is smooth.
ELASTIC_PIXELS = 0.8
ELASTIC_SMOOTHNESS_PIXELS = 4.0

_MARGIN = 2
_TILE = IMAGE_SIZE + 2 * _MARGIN
# OpenCV takes pictures of fewer than 32,768 rows.
_CHUNK_IMAGES = 1000


def augment(images: Array, rng: np.random.Generator) -> Array:
    """Return a bent copy of images (N, 28, 28), uint8, each by draws of its own from ``rng``."""
    bent = np.empty_like(images)
    for start in range(0, len(images), _CHUNK_IMAGES):
        chunk = images[start : start + _CHUNK_IMAGES]
        bent[start : start + _CHUNK_IMAGES] = _remap(chunk, _sources(len(chunk), rng))
    return bent


def _sources(count: int, rng: np.random.Generator) -> Array:
    """Return where each pixel of each picture is taken from: (2, count, 28, 28), x before y."""
    angle = np.radians(rng.uniform(-ROTATION_DEGREES, ROTATION_DEGREES, count))
    shear = rng.uniform(-SHEAR, SHEAR, count)
    scale_x, scale_y = rng.uniform(1 - SCALE, 1 + SCALE, (2, count))
    cos, sin = np.cos(angle), np.sin(angle)
    # Rotation x shear x scale, (2, 2, count): from a place in the new picture to one in the old.
    matrix = np.array(
        [
            [cos * scale_x, (cos * shear - sin) * scale_y],
            [sin * scale_x, (sin * shear + cos) * scale_y],
        ]
    )
    shift = rng.uniform(-SHIFT_PIXELS, SHIFT_PIXELS, (2, count))
    center = (IMAGE_SIZE - 1) / 2
    offset = np.arange(IMAGE_SIZE) - center
    moved_x = matrix[:, 0, :, None, None] * offset  # (2, count, 1, 28)
    moved_y = matrix[:, 1, :, None, None] * offset[:, None]  # (2, count, 28, 1)
    sources = moved_x + moved_y + shift[:, :, None, None] + center
    # White noise seen through a Gaussian along both axes, scaled back to a deviation of 1.
    distance = np.subtract.outer(np.arange(IMAGE_SIZE), np.arange(IMAGE_SIZE))
    blur = np.exp(-0.5 * (distance / ELASTIC_SMOOTHNESS_PIXELS) ** 2)
    blur /= np.linalg.norm(blur, axis=1, keepdims=True)
    noise = rng.standard_normal((2, count, IMAGE_SIZE, IMAGE_SIZE))
    bent: Array = sources + ELASTIC_PIXELS * (blur @ noise @ blur.T)
    return bent


def _remap(images: Array, sources: Array) -> Array:
    """Return images (N, 28, 28) with each pixel read, bilinearly, at its place in ``sources``.

    All are remapped as one tall picture of tiles: one call for each would cost several times more.
    """
    count = len(images)
    margins = ((0, 0), (_MARGIN, _MARGIN), (_MARGIN, _MARGIN))
    tall = np.pad(images, margins).reshape(count * _TILE, _TILE)
    # Inside its own tile, whose margin is background, whatever the draw.
    x, y = np.clip(sources, -_MARGIN, IMAGE_SIZE - 1 + _MARGIN) + _MARGIN
    y = y + _TILE * np.arange(count)[:, None, None]
    shape = (count * IMAGE_SIZE, IMAGE_SIZE)
    bent = cv2.remap(
        tall,
        x.reshape(shape).astype(np.float32),
        y.reshape(shape).astype(np.float32),
        interpolation=cv2.INTER_LINEAR,
    )
    return np.asarray(bent).reshape(images.shape)

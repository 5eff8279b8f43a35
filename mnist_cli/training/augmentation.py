"""Augment training images with small affine and elastic distortions.

The distortions are drawn by a seeded generator, so they are the same for every framework. Elastic
distortions are those of Simard, Steinkraus and Platt, "Best practices for convolutional neural
networks applied to visual document analysis" (ICDAR 2003): a smooth random field displaces each
pixel.
"""

from __future__ import annotations

import cv2
import numpy as np

from mnist_cli.arrays import IMAGE_SIZE, Array

# Each image draws from these ranges uniformly. They leave a digit readable: a rotation of much more
# would turn some 6 into 9 and some 1 into 7.
ROTATION_DEGREES = 12.0  # to either side
SHEAR = 0.2  # horizontal displacement per pixel of height, to either side
SCALE = 0.15  # 0.85 to 1.15, separately for each axis
SHIFT_PIXELS = 2.0  # in either direction
# The elastic field: the standard deviation of a displacement, and that of the Gaussian which makes
# neighbouring displacements similar.
ELASTIC_PIXELS = 0.8
ELASTIC_SMOOTHNESS_PIXELS = 4.0

_MARGIN = 2  # pixels of background around each image, sampled by positions beyond its edge
_TILE = IMAGE_SIZE + 2 * _MARGIN
# Images remapped together, as one image of 32,000 rows: OpenCV takes fewer than 32,768.
_CHUNK_IMAGES = 1000


def augment(images: Array, rng: np.random.Generator) -> Array:
    """Return a distorted copy of images (N, 28, 28), uint8; ``rng`` draws for each separately."""
    augmented = np.empty_like(images)
    for start in range(0, len(images), _CHUNK_IMAGES):
        chunk = images[start : start + _CHUNK_IMAGES]
        positions = _source_positions(len(chunk), rng)
        augmented[start : start + _CHUNK_IMAGES] = _sample(chunk, positions)
    return augmented


def _source_positions(count: int, rng: np.random.Generator) -> Array:
    """Return where to sample each pixel of ``count`` images: (2, count, 28, 28) float64.

    x comes before y, both in pixels of the original image.
    """
    angle = np.radians(rng.uniform(-ROTATION_DEGREES, ROTATION_DEGREES, count))
    shear = rng.uniform(-SHEAR, SHEAR, count)
    scale_x, scale_y = rng.uniform(1 - SCALE, 1 + SCALE, (2, count))
    cos, sin = np.cos(angle), np.sin(angle)
    # Rotation x shear x scale, (2, 2, count): a position in the new image to one in the original.
    matrix = np.array(
        [
            [cos * scale_x, (cos * shear - sin) * scale_y],
            [sin * scale_x, (sin * shear + cos) * scale_y],
        ]
    )
    shift = rng.uniform(-SHIFT_PIXELS, SHIFT_PIXELS, (2, count))
    center = (IMAGE_SIZE - 1) / 2
    offset = np.arange(IMAGE_SIZE) - center
    affine_x = matrix[:, 0, :, None, None] * offset  # (2, count, 1, 28)
    affine_y = matrix[:, 1, :, None, None] * offset[:, None]  # (2, count, 28, 1)
    positions = affine_x + affine_y + shift[:, :, None, None] + center
    # White noise smoothed by a Gaussian along both axes, then scaled back to a deviation of 1.
    distance = np.subtract.outer(np.arange(IMAGE_SIZE), np.arange(IMAGE_SIZE))
    gaussian = np.exp(-0.5 * (distance / ELASTIC_SMOOTHNESS_PIXELS) ** 2)
    gaussian /= np.linalg.norm(gaussian, axis=1, keepdims=True)
    noise = rng.standard_normal((2, count, IMAGE_SIZE, IMAGE_SIZE))
    displaced: Array = positions + ELASTIC_PIXELS * (gaussian @ noise @ gaussian.T)
    return displaced


def _sample(images: Array, positions: Array) -> Array:
    """Return images (N, 28, 28), uint8, sampled bilinearly at positions (2, N, 28, 28).

    All are remapped as one tall image of tiles, because one call per image would cost several times
    as much.
    """
    count = len(images)
    margins = ((0, 0), (_MARGIN, _MARGIN), (_MARGIN, _MARGIN))
    tiles = np.pad(images, margins).reshape(count * _TILE, _TILE)
    # Clip to the image's own tile, whose margin is background: no ink comes from a neighbour.
    x, y = np.clip(positions, -_MARGIN, IMAGE_SIZE - 1 + _MARGIN) + _MARGIN
    y = y + _TILE * np.arange(count)[:, None, None]
    shape = (count * IMAGE_SIZE, IMAGE_SIZE)
    sampled = cv2.remap(
        tiles,
        x.reshape(shape).astype(np.float32),
        y.reshape(shape).astype(np.float32),
        interpolation=cv2.INTER_LINEAR,
    )
    return np.asarray(sampled).reshape(images.shape)

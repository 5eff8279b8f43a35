"""Augment training images: small distortions, other stroke widths, and writing habits.

All are drawn by a seeded generator, so they are the same for every framework. Elastic distortions
are those of Simard, Steinkraus and Platt, "Best practices for convolutional neural networks applied
to visual document analysis" (ICDAR 2003): a smooth random field displaces each pixel. Some writers
draw a flag and a foot on a 1 and a bar through a 7; MNIST has few of those, so they are drawn on.
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

# The stroke width: the weight with which an image is blended with itself dilated (above 0) or
# eroded by a square of 2x2 pixels, which makes a stroke one pixel wider or narrower.
STROKE_WEIGHT = 0.8  # to either side

# Images that stay as they are, so that the network is at its best on the data set itself: of 5,000
# validation digits it misread 0.46% rather than 0.72% after 12 epochs with `--reject`.
UNCHANGED_SHARE = 0.3
HABIT_SHARE = 0.2  # of the images of 1 and of 7
# Ranges of a habit's line, in pixels but for the slope.
_FLAG_LENGTH = (3.0, 8.0)
_FLAG_SLOPE_DEGREES = (20.0, 65.0)  # below the horizontal, to the left of the stem's top
_HALF_FOOT_LENGTH = (2.0, 5.5)
_HALF_BAR_LENGTH = (2.5, 5.5)
_BAR_HEIGHT = (0.4, 0.65)  # of the way from the top of a 7 to its bottom
_LINE_RISE = (-1.0, 1.0)  # of a foot's or a bar's end above its middle
_LINE_WIDTH = (1.2, 3.2)
_SHIFT_BITS = 4  # OpenCV takes positions as integers with so many fractional bits

_MARGIN = 2  # pixels of background around each image, sampled by positions beyond its edge
_TILE = IMAGE_SIZE + 2 * _MARGIN
# Images remapped together, as one image of 32,000 rows: OpenCV takes fewer than 32,768.
_CHUNK_IMAGES = 1000


def augment(images: Array, rng: np.random.Generator, *, digits: Array | None = None) -> Array:
    """Return images (N, 28, 28), uint8, most of them distorted; ``rng`` draws for each separately.

    ``digits`` (N,) are the digits that the images show; without them no habits are drawn.
    """
    augmented = np.empty_like(images)
    for start in range(0, len(images), _CHUNK_IMAGES):
        chunk = slice(start, start + _CHUNK_IMAGES)
        drawn = images[chunk].copy()
        if digits is not None:
            _draw_habits(drawn, digits[chunk], rng)
        positions = _source_positions(len(drawn), rng)
        weights = rng.uniform(-STROKE_WEIGHT, STROKE_WEIGHT, len(drawn))
        is_unchanged = rng.random(len(drawn)) < UNCHANGED_SHARE
        augmented[chunk] = np.where(
            is_unchanged[:, None, None], images[chunk], _sample(drawn, positions, weights)
        )
    return augmented


def _draw_habits(images: Array, digits: Array, rng: np.random.Generator) -> None:
    """Draw a flag or a foot, or both, on a share of the 1s and a bar on a share of the 7s."""
    has_habit = rng.random(len(images)) < HABIT_SHARE
    for index in np.flatnonzero(has_habit & ((digits == 1) | (digits == 7))):
        image = images[index]
        rows = np.flatnonzero(image.max(axis=1) > 127)
        if not len(rows):
            continue
        top, bottom = int(rows[0]), int(rows[-1])
        if digits[index] == 7:
            row = round(top + rng.uniform(*_BAR_HEIGHT) * (bottom - top))
            _draw_level_line(image, row, rng.uniform(*_HALF_BAR_LENGTH), rng)
            continue
        kind = rng.integers(3)  # a flag, a foot, or both
        if kind != 1:
            slope = np.radians(rng.uniform(*_FLAG_SLOPE_DEGREES))
            length = rng.uniform(*_FLAG_LENGTH)
            x = _stroke_middle(image, top)
            end = (x - length * np.cos(slope), top + length * np.sin(slope))
            _draw_line(image, (x, top), end, rng)
        if kind != 0:
            _draw_level_line(image, bottom, rng.uniform(*_HALF_FOOT_LENGTH), rng)


def _stroke_middle(image: Array, row: int) -> float:
    """Return the column of the middle of the ink in a row."""
    ink = image[row].astype(np.float64)
    return float(ink @ np.arange(len(ink)) / ink.sum()) if ink.any() else len(ink) / 2


def _draw_level_line(image: Array, row: int, half_length: float, rng: np.random.Generator) -> None:
    """Draw a line across the stroke in a row, level but for a small slope."""
    x, rise = _stroke_middle(image, row), rng.uniform(*_LINE_RISE)
    _draw_line(image, (x - half_length, row + rise), (x + half_length, row - rise), rng)


def _draw_line(
    image: Array, start: tuple[float, float], end: tuple[float, float], rng: np.random.Generator
) -> None:
    """Draw an antialiased line of a random width between two positions (x, y)."""
    width = rng.uniform(*_LINE_WIDTH)
    # OpenCV draws whole widths only: blend the two nearest.
    lines = [np.zeros_like(image) for _ in range(2)]
    first, last = ((round(x * 2**_SHIFT_BITS), round(y * 2**_SHIFT_BITS)) for x, y in (start, end))
    for line, whole in zip(lines, (int(width), int(width) + 1), strict=True):
        cv2.line(line, first, last, 255, whole, lineType=cv2.LINE_AA, shift=_SHIFT_BITS)
    share = width - int(width)
    np.maximum(image, cv2.addWeighted(lines[0], 1 - share, lines[1], share, 0), out=image)


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


def _sample(images: Array, positions: Array, weights: Array) -> Array:
    """Return images (N, 28, 28), uint8, sampled bilinearly at positions (2, N, 28, 28).

    ``weights`` (N,), -1 to 1, make strokes wider or narrower first. All are handled as one tall
    image of tiles, because one call per image would cost several times as much.
    """
    count = len(images)
    margins = ((0, 0), (_MARGIN, _MARGIN), (_MARGIN, _MARGIN))
    tiles = np.pad(images, margins).reshape(count * _TILE, _TILE)
    tiles = _change_width(tiles, np.repeat(weights, _TILE)[:, None])
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


def _change_width(tiles: Array, weights: Array) -> Array:
    """Return ink (H, W), uint8, blended with itself dilated or eroded; weights are (H, 1).

    The margin of each tile is wider than the pixel that dilation adds.
    """
    square = np.ones((2, 2), np.uint8)
    ink = tiles.astype(np.float32)
    weights = weights.astype(np.float32)
    ink += np.maximum(weights, 0) * (cv2.dilate(tiles, square) - ink)
    ink += np.maximum(-weights, 0) * (cv2.erode(tiles, square) - ink)
    return np.asarray(np.rint(ink), dtype=np.uint8)

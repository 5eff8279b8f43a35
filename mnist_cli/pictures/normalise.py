"""A person's picture to digits as MNIST's were made: 28x28, white ink on black, 20 pixels high.

MNIST's makers took black-and-white scans, fitted each digit into 20x20 pixels (aspect kept,
antialiased) and put its centre of mass in the centre of 28x28 (LeCun et al., 1998). A model that
learned from those reads a photo only if the photo is brought to the same form. The way there:

1. `open_picture`: any file, array or PIL image to upright pixels on white, large ones shrunk.
2. `find_ink`: the colour direction in which ink and paper differ most; a sheet told from the desk
   it lies on; uneven light divided out; the lines of ruled and squared paper taken away.
3. `group`: pieces of ink to digits: broken strokes joined, touching digits split.
4. `_as_mnist`: one digit's ink to 28x28.

Pillow opens, OpenCV works. Coordinates are (x, y) or boxes (left, top, right, bottom), in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np

from mnist_cli.arrays import IMAGE_SIZE, Array
from mnist_cli.errors import PictureError
from mnist_cli.pictures.ink import NO_DIGIT, Ink, find_ink
from mnist_cli.pictures.opening import Source, open_picture
from mnist_cli.pictures.segmentation import Box, Piece, group, in_lines
from mnist_cli.training import evaluation

# What a fault of the preparation, not of the picture, may raise.
DEFECTS = (ArithmeticError, IndexError, ValueError, cv2.error)

# (N, 28, 28) uint8 -> logits (N, 10): evidence where the shape alone does not decide.
Classify: TypeAlias = Callable[[Array], Array]

_DIGIT_SIDE = 20  # MNIST's: the longer side of a digit
_FINE_SIDE = 4 * _DIGIT_SIDE  # strokes are measured and changed at four times its size
# Stroke widths in pixels of the final picture. Of MNIST's test digits 0.1% are thinner than 1.6
# and 0.1% thicker than 6.7; the median is 3.0. Beyond, strokes are brought to the nearer target.
_THINNEST, _THIN = 1.6, 2.8
_THICKEST, _THICK = 6.7, 5.0


@dataclass(frozen=True, eq=False)
class PreparedDigit:
    """One digit of a picture: ``image`` (28, 28) uint8, ink 255, and its box in the picture.

    ``box`` is (left, top, right, bottom) in the upright picture's own pixels, right and bottom
    outside; ``line`` counts lines of writing from 0.
    """

    image: Array
    box: Box
    line: int


def prepare(
    source: Source, *, single: bool = False, classify: Classify | None = None
) -> list[PreparedDigit]:
    """Return the digits of a picture in reading order, each as MNIST would hold it.

    ``single`` takes all ink as one digit. ``classify`` gives the evidence where shapes do not
    decide: whether wide ink is two digits that touch. Raises `PictureError` for what cannot be
    read or shows no digit.
    """
    picture = open_picture(source)
    ink = find_ink(picture.pixels)

    def evidence(pieces: Sequence[Piece]) -> Array:
        assert classify is not None
        return evaluation.evidence(classify(np.stack([_render(ink, piece) for piece in pieces])))

    pieces = group(ink, single=single, evidence=evidence if classify else None)
    if not pieces:
        raise PictureError(NO_DIGIT)
    prepared = []
    for number, line in enumerate(in_lines(pieces)):
        for piece in line:
            box = _scaled(piece.box, picture.factor)
            prepared.append(PreparedDigit(_render(ink, piece), box, number))
    return prepared


def _scaled(box: Box, factor: float) -> Box:
    left, top, right, bottom = (round(value * factor) for value in box)
    return left, top, right, bottom


def _render(ink: Ink, piece: Piece) -> Array:
    """Return one piece of ink as MNIST would hold it, (28, 28) uint8."""
    height, width = ink.strength.shape
    longer = max(piece.width, piece.height)
    # The mask ends where ink gets faint; the grey edge of a stroke reaches a little farther.
    reach = max(3, round(0.03 * longer))
    left, top = max(0, piece.box[0] - reach), max(0, piece.box[1] - reach)
    right, bottom = min(width, piece.box[2] + reach), min(height, piece.box[3] + reach)
    strength = ink.strength[top:bottom, left:right]
    own = np.zeros(strength.shape, np.uint8)
    y, x = piece.box[1] - top, piece.box[0] - left
    own[y : y + piece.height, x : x + piece.width] = piece.mask
    near = cv2.distanceTransform(1 - own, cv2.DIST_L2, 3)
    values = np.where(near <= reach, strength, 0)
    values[values <= ink.floor] = 0
    others = (strength > ink.weak) & (own == 0)
    if others.any():  # a neighbour's ink, or a ruled line's
        to_others = cv2.distanceTransform((~others).astype(np.uint8), cv2.DIST_L2, 3)
        values[to_others < near] = 0
    return _as_mnist(values.astype(np.float32))


def _cropped(values: Array) -> Array:
    rows, columns = np.flatnonzero(values.any(axis=1)), np.flatnonzero(values.any(axis=0))
    return values[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _as_mnist(values: Array) -> Array:
    """Return a digit's ink (H, W), float32 with 0 where there is none, as (28, 28) uint8."""
    values = _cropped(values)
    fine = _fitted(values, _FINE_SIDE)
    full = max(1e-3, float(np.percentile(fine[fine > 0], 90)))
    pixels = max(values.shape)
    # MNIST's makers had black and white: where there are pixels to spare, so do we. Small
    # pictures keep their greys, which hold all the shape they have.
    spare = float(np.clip((pixels - 1.2 * _DIGIT_SIDE) / _DIGIT_SIDE, 0, 1))
    if spare:
        fine = np.clip((fine / full - 0.4) * (1 + 1.5 * spare) + 0.5, 0, 1)
        full = 1.0
    width = _stroke_width(fine > full / 2)
    if pixels == _DIGIT_SIDE and _THINNEST <= width <= _THICKEST:
        small = values  # MNIST's own size: nothing to scale
    else:
        small = _fitted(_cropped(_with_stroke_width(fine, width)), _DIGIT_SIDE)
    return _centered(small / max(1e-3, float(small.max())))


def _fitted(values: Array, side: int) -> Array:
    """Return values scaled, aspect kept, until the longer side is ``side``."""
    height, width = values.shape
    scale = side / max(height, width)
    if scale == 1:
        return values
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(values, size, interpolation=method))


def _stroke_width(mask: Array) -> float:
    """Return the mean width of strokes in pixels of the final picture; mask is `_FINE_SIDE` long.

    Along a stroke of width w the distance to its edge is w / 4 on average.
    """
    padded = np.pad(mask.astype(np.uint8), 1)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[padded > 0]
    return 4 * float(distance.mean()) * _DIGIT_SIDE / _FINE_SIDE if distance.size else 0.0


def _with_stroke_width(fine: Array, width: float) -> Array:
    """Return a digit with strokes of MNIST's width where they are thinner or thicker than any."""
    per_pixel = _FINE_SIDE / _DIGIT_SIDE
    if width < _THINNEST:
        change = round((_THIN - width) * per_pixel)
        fine = np.pad(fine, change)
        operation = cv2.dilate
    elif width > _THICKEST:
        change = round((width - _THICK) * per_pixel)
        operation = cv2.erode
    else:
        return fine
    if change < 1:
        return fine
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (change + 1, change + 1))
    changed = np.asarray(operation(fine, kernel))
    return changed if changed.max() > 0.5 else fine


def _centered(small: Array) -> Array:
    """Return values (h, w), 0-1, h and w up to 20, with their centre of mass at (14, 14) of 28x28.

    Measured on MNIST: each of its digits' centres is within half a pixel of (14, 14).
    """
    height, width = small.shape
    mass = max(1e-6, float(small.sum()))
    y = float((small.sum(axis=1) * np.arange(height)).sum()) / mass
    x = float((small.sum(axis=0) * np.arange(width)).sum()) / mass
    top = int(np.clip(round(IMAGE_SIZE / 2 - y), 0, IMAGE_SIZE - height))
    left = int(np.clip(round(IMAGE_SIZE / 2 - x), 0, IMAGE_SIZE - width))
    image = np.zeros((IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
    image[top : top + height, left : left + width] = (small * 255 + 0.5).astype(np.uint8)
    return image

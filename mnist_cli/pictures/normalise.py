"""Turn a picture into digits as in MNIST: 28x28 pixels, light ink on black, 20 pixels long.

MNIST's authors scaled each black-and-white scan of a digit to fit 20x20 pixels, with antialiasing
and the aspect ratio kept, and placed its centre of mass at the centre of 28x28 (LeCun et al.,
"Gradient-based learning applied to document recognition", 1998). A model trained on such images
reads a photo only after the same steps:

1. `open_picture`: any file, array or PIL image to upright pixels on white, downscaled if large.
2. `find_ink`: the strength of ink at each pixel, with colour, surroundings of the sheet, uneven
   illumination and ruled lines removed; `most_legible` where there are several readings.
3. `upright_page`: the page turned and tilted to where its digits have the most evidence.
4. `segment`: ink to one component per digit; broken strokes are joined, touching digits split.
5. `as_mnist`: the ink of one digit to 28x28.

Pillow opens files, OpenCV does the rest. Points are (x, y) and boxes (left, top, right, bottom), in
pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import cv2
import numpy as np

from mnist_cli.arrays import IMAGE_SIZE, Array
from mnist_cli.errors import PictureError
from mnist_cli.pictures.components import Box, Component
from mnist_cli.pictures.ink import NO_DIGIT, Ink, find_ink
from mnist_cli.pictures.opening import Source, open_picture
from mnist_cli.pictures.page import most_legible, text_lines, upright_page
from mnist_cli.pictures.segmentation import segment

# What `prepare` may raise beside `PictureError`, if a picture meets a defect of this program.
UNEXPECTED_ERRORS = (ArithmeticError, IndexError, ValueError, cv2.error)

# Images (N, 28, 28) uint8 -> the evidence (N,) that each shows a digit, as `evaluation.evidence` of
# a classifier's logits.
Evidence: TypeAlias = Callable[[Array], Array]

_DIGIT_SIDE = 20  # pixels of a digit's longer side in MNIST
_FINE_SIDE = 4 * _DIGIT_SIDE  # pixels: stroke width is measured and changed at this size
# Pixels of stroke width at `_DIGIT_SIDE`. Of MNIST's training digits 0.1% are thinner than the
# first and 1% thicker than the second; the median is 3.0. Strokes beyond are changed to the width
# of the target: well within MNIST's range, no farther from the original than needed. Of bold print
# 96% is read so; with 6.7 in place of 5.5 it was 93%.
_MIN_STROKE_WIDTH, _THIN_TARGET = 1.6, 2.8
_MAX_STROKE_WIDTH, _THICK_TARGET = 5.5, 4.5


@dataclass(frozen=True, eq=False)
class PreparedDigit:
    """One digit of a picture.

    ``image`` is (28, 28), uint8, 0 for background to 255 for ink. ``box`` is its bounding box
    (left, top, right, bottom) in pixels of the upright original, right and bottom exclusive.
    ``line`` is the number of its line of text, from 0.
    """

    image: Array
    box: Box
    line: int


@dataclass(frozen=True, eq=False)
class PreparedPage(Sequence[PreparedDigit]):
    """The digits of a picture in reading order.

    ``rotation`` is by how many degrees clockwise the picture was turned to be read, a multiple of
    90. ``rejected`` are the boxes of what looked like ink but like no digit.
    """

    digits: tuple[PreparedDigit, ...]
    rotation: int
    rejected: tuple[Box, ...]

    def __len__(self) -> int:
        return len(self.digits)

    def __getitem__(self, index: Any) -> Any:
        return self.digits[index]


def prepare(
    source: Source,
    *,
    single: bool = False,
    rotation: int | None = None,
    evidence: Evidence | None = None,
) -> PreparedPage:
    """Return the digits of a picture in reading order, each as MNIST would hold it.

    ``single`` takes all ink as one digit. ``rotation`` is by how many degrees clockwise the picture
    is turned before, a multiple of 90; None chooses the turn with the most evidence, and none for a
    single digit. ``evidence`` decides where shape does not: which way up a page is, and whether
    wide ink is two digits that touch. Without it, pages are not turned, and touching digits stay
    one. Raises `PictureError` for a picture that cannot be read or shows no digit.
    """
    picture = open_picture(source)
    images = _DigitImages()
    page = upright_page(
        most_legible(find_ink(picture.pixels), images, evidence),
        images,
        None if single else evidence,
        rotation=rotation,
    )

    def evidence_of(components: Sequence[Component]) -> Array:
        assert evidence is not None
        return evidence(images(page.ink, components))

    digits, rejected = segment(
        page, single=single, evidence=None if single or evidence is None else evidence_of
    )
    if not digits:
        raise PictureError(NO_DIGIT)

    def box_of(component: Component) -> Box:
        left, top, right, bottom = page.box_in_picture(component.box)
        height, width = picture.pixels.shape[:2]
        inside = (max(0, left), max(0, top), min(width, right), min(height, bottom))
        return _scaled(inside, picture.original_scale)

    return PreparedPage(
        digits=tuple(
            PreparedDigit(image=images(page.ink, [digit])[0], box=box_of(digit), line=number)
            for number, line in enumerate(text_lines(digits))
            for digit in line
        ),
        rotation=page.rotation,
        rejected=tuple(box_of(component) for component in rejected),
    )


def _scaled(box: Box, scale: float) -> Box:
    left, top, right, bottom = (round(value * scale) for value in box)
    return left, top, right, bottom


class _DigitImages:
    """The images of components as MNIST would hold them, each computed once."""

    def __init__(self) -> None:
        self._images: dict[tuple[Ink, Component], Array] = {}

    def __call__(self, ink: Ink, components: Sequence[Component]) -> Array:
        """Return the images (N, 28, 28), uint8, of N components of an ink."""
        for component in components:
            if (ink, component) not in self._images:
                self._images[ink, component] = _digit_image(ink, component)
        return np.stack([self._images[ink, component] for component in components])


def _digit_image(ink: Ink, component: Component) -> Array:
    """Return the ink of one component as MNIST would hold it, (28, 28) uint8.

    Includes the soft edges of its strokes, which lie outside its mask, but no ink that is nearer to
    something else.
    """
    height, width = ink.strength.shape
    margin = max(3, round(0.03 * max(component.width, component.height)))
    left, top = max(0, component.box[0] - margin), max(0, component.box[1] - margin)
    right, bottom = min(width, component.box[2] + margin), min(height, component.box[3] + margin)
    strength = ink.strength[top:bottom, left:right]
    own = np.zeros(strength.shape, np.uint8)
    x, y = component.box[0] - left, component.box[1] - top
    own[y : y + component.height, x : x + component.width] = component.mask
    distance = cv2.distanceTransform(1 - own, cv2.DIST_L2, 3)
    values = np.where(distance <= margin, strength, 0)
    values[values <= ink.noise_floor] = 0
    others = (strength > ink.threshold) & (own == 0)
    if others.any():  # the ink of a neighbour or a ruled line
        distance_to_others = cv2.distanceTransform((~others).astype(np.uint8), cv2.DIST_L2, 3)
        values[distance_to_others < distance] = 0
    return as_mnist(values.astype(np.float32))


def as_mnist(values: Array) -> Array:
    """Return a digit's ink (H, W), float32, 0 where there is none, as (28, 28) uint8."""
    values = _cropped(values)
    fine = _scaled_to(values, _FINE_SIDE)
    inked = fine[fine > 0]
    # The 90th percentile; NumPy's own function takes three times as long.
    nearly_full = int(0.9 * (inked.size - 1))
    full_ink = max(1e-3, float(np.partition(inked, nearly_full)[nearly_full]))
    side = max(values.shape)
    # MNIST's digits were black and white before they were scaled down. So raise the contrast of a
    # digit that is larger than MNIST's, fully from 2.2 times its size on. A smaller one needs its
    # greys, because they hold its shape.
    sharpening = float(np.clip((side - 1.2 * _DIGIT_SIDE) / _DIGIT_SIDE, 0, 1))
    if sharpening:
        fine = np.clip((fine / full_ink - 0.4) * (1 + 1.5 * sharpening) + 0.5, 0, 1)
        full_ink = 1.0
    stroke_width = _stroke_width(fine > full_ink / 2)
    if side == _DIGIT_SIDE and _MIN_STROKE_WIDTH <= stroke_width <= _MAX_STROKE_WIDTH:
        small = values  # already as in MNIST
    else:
        fine = _cropped(_with_mnist_stroke_width(fine, stroke_width))
        small = _scaled_to(fine, _DIGIT_SIDE)
    return _centered(small / max(1e-3, float(small.max())))


def _cropped(values: Array) -> Array:
    """Return values (H, W) cropped to the bounding box of those that are not 0."""
    rows, columns = np.flatnonzero(values.any(axis=1)), np.flatnonzero(values.any(axis=0))
    return values[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _scaled_to(values: Array, side: int) -> Array:
    """Return values (H, W) scaled to ``side`` pixels on the longer side, aspect ratio kept."""
    height, width = values.shape
    scale = side / max(height, width)
    if scale == 1:
        return values
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(values, size, interpolation=method))


def _stroke_width(mask: Array) -> float:
    """Return the mean stroke width of a mask of `_FINE_SIDE` pixels, in pixels at `_DIGIT_SIDE`.

    Along a stroke of width w the distance to its edge is w / 4 on average. 0 for an empty mask.
    """
    padded = np.pad(mask.astype(np.uint8), 1)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[padded > 0]
    return 4 * float(distance.mean()) * _DIGIT_SIDE / _FINE_SIDE if distance.size else 0.0


def _with_mnist_stroke_width(fine: Array, stroke_width: float) -> Array:
    """Return a digit of `_FINE_SIDE` pixels, dilated or eroded if MNIST has no such strokes.

    ``stroke_width`` is in pixels at `_DIGIT_SIDE`. A digit that erosion would delete is unchanged.
    """
    fine_per_pixel = _FINE_SIDE / _DIGIT_SIDE
    if stroke_width < _MIN_STROKE_WIDTH:
        change = round((_THIN_TARGET - stroke_width) * fine_per_pixel)
        fine = np.pad(fine, change)
        operation = cv2.dilate
    elif stroke_width > _MAX_STROKE_WIDTH:
        change = round((stroke_width - _THICK_TARGET) * fine_per_pixel)
        operation = cv2.erode
    else:
        return fine
    if change < 1:
        return fine
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (change + 1, change + 1))
    changed = np.asarray(operation(fine, kernel))
    return changed if changed.max() > 0.5 else fine


def _centered(small: Array) -> Array:
    """Return values (h, w), 0-1, as (28, 28) uint8 with the centre of mass at (14, 14).

    h and w are at most 20. (14, 14) is measured: each digit of MNIST has its centre of mass within
    half a pixel of it.
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

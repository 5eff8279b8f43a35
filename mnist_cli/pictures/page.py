"""The layout of a page: which way up it is, how far it is tilted, and its lines of text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import cv2
import numpy as np

from mnist_cli.arrays import Array
from mnist_cli.pictures.components import Box, Component, find_components, union
from mnist_cli.pictures.ink import Ink

# N components of an ink -> their images as MNIST would hold them, (N, 28, 28) uint8.
ComponentImages: TypeAlias = "Callable[[Ink, Sequence[Component]], Array]"

QUARTER_TURNS = (0, 90, 180, 270)

# Components from which orientation is judged: at most so many, within these fractions of the median
# length, because others are specks and digits that touch. A lone digit is never turned.
_MAX_JUDGED = 48
_MIN_JUDGED = 2
_MAX_STROKES = 4  # components that may be strokes of one digit
_SIZE_RANGE = (0.4, 2.0)
# Evidence that a page must gain to be turned by a quarter, in all and per component. Upright, a 0,
# 1, 6, 8 or 9 may have up to 2 less than turned by 180 degrees.
_MIN_TURN_GAIN = 5.0
_MIN_TURN_MEAN_GAIN = 1.5
# Evidence per component that tilting must gain, less with more components: the network reads digits
# that are tilted by a few degrees nearly as well.
_MIN_TILT_GAIN = 1.2
# Evidence above this says nothing: so no single digit decides for a page.
_MAX_EVIDENCE = 16.0
# Components with holes, and their fraction, from which digits may be outlines.
_MIN_OUTLINES = 3
_MIN_OUTLINE_FRACTION = 0.75
_SHAPE_EVIDENCE = 8.0  # evidence that shapes which are no digits often have
# Degrees: directions in which lines of text are searched for, and the tilt below which a line is
# read as it is.
_DIRECTIONS_DEGREES = np.arange(-45.0, 135.0, 1.0)
_MIN_TILT_DEGREES = 2.5
# Fraction of a component's length by which the centres of digits in one line scatter.
_LINE_SCATTER = 0.15
# Pixels of a digit's longer side: digits smaller than the first, as of screen text, are enlarged to
# the second. Grey edges join them, so their ink begins at a strength of 0.35.
_SMALL_LENGTH = 16
_ENLARGED_LENGTH = 40
_SMALL_THRESHOLD = 0.35

# Fraction of the lower digit's height by which neighbours in one line overlap vertically.
_MIN_OVERLAP = 0.4


@dataclass(eq=False)
class Page:
    """Ink turned so that it can be read.

    ``rotation`` is by how many degrees, clockwise, a multiple of 90; ``to_picture`` (2, 3) maps
    homogeneous points (x, y, 1) of ``ink`` to pixels of the picture before it was turned.
    """

    ink: Ink
    rotation: int
    to_picture: Array

    @cached_property
    def components(self) -> tuple[list[Component], list[Component]]:
        """The connected components of the ink, and apart what is clutter: see `find_components`."""
        return find_components(self.ink)

    def box_in_picture(self, box: Box) -> Box:
        """Return the bounding box, in the picture, of a box in the turned ink."""
        if np.array_equal(self.to_picture, _IDENTITY):
            return box
        left, top, right, bottom = box
        corners = np.array([[left, top, 1], [right, top, 1], [right, bottom, 1], [left, bottom, 1]])
        points = np.rint(corners @ self.to_picture.T).astype(int)
        (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
        return left, top, right, bottom


_IDENTITY = np.eye(2, 3)


def upright_page(
    ink: Ink,
    images: ComponentImages,
    evidence: Callable[[Array], Array] | None,
    *,
    rotation: int | None = None,
) -> Page:
    """Return ink turned so that its digits have the most evidence.

    ``evidence`` maps images (N, 28, 28), uint8, to the evidence (N,) that each shows a digit;
    without it nothing is judged. ``rotation`` is the quarter turn in degrees clockwise, None to
    judge it. Turned by less than a quarter is what has lines of text that rise or fall.
    """
    page = Page(ink, 0, _IDENTITY)
    components = _judged(page.components[0]) if evidence is not None else []
    if evidence is None or len(components) < _MIN_JUDGED:
        return _turned(page, rotation or 0)
    scale = _enlargement(components)
    if scale > 1:
        page = _tilted(ink, 0.0, scale=scale)
        components = _judged(page.components[0])
    turns = QUARTER_TURNS if rotation is None else (rotation,)
    found = _turned_evidence(images(page.ink, components), evidence, turns)
    tilt = _tilt(components)
    if abs(tilt) >= _MIN_TILT_DEGREES:
        tilted = _tilted(ink, tilt, scale=scale)
        components = _judged(tilted.components[0])
        if len(components) >= _MIN_JUDGED:
            found_tilted = _turned_evidence(images(tilted.ink, components), evidence, turns)
            gain = found_tilted.mean(axis=1).max() - found.mean(axis=1).max()
            if gain > _MIN_TILT_GAIN / np.sqrt(len(components)):
                page, found = tilted, found_tilted
    if rotation is None:
        is_lone = _is_lone_digit(page, images, evidence, least=found.mean(axis=1).max())
        rotation = 0 if is_lone else _best_turn(found)
    return _turned(page, rotation)


def _is_lone_digit(
    page: Page, images: ComponentImages, evidence: Callable[[Array], Array], *, least: float
) -> bool:
    """Return whether a few components are together one digit, such as a 5 with a loose bar.

    They are, if together they have at least as much evidence as ``least``, that of each alone.
    """
    components = _judged(page.components[0])
    if len(components) > _MAX_STROKES:
        return False
    return bool(evidence(images(page.ink, [union(components)]))[0] >= least)


def _enlargement(components: Sequence[Component]) -> float:
    """Return by how much small print is enlarged, 1 for what is large enough."""
    length = float(np.median([max(each.width, each.height) for each in components]))
    return _ENLARGED_LENGTH / length if length < _SMALL_LENGTH else 1.0


def most_legible(
    inks: Sequence[Ink], images: ComponentImages, evidence: Callable[[Array], Array] | None
) -> Ink:
    """Return the reading of a picture whose components have the most evidence for digits.

    ``evidence`` is explained in `upright_page`; without it, this is the first reading.
    """
    if evidence is None:
        return inks[0]
    inks = [*inks, *(filled for ink in inks if (filled := _with_outlines_filled(ink)) is not None)]
    if len(inks) == 1:
        return inks[0]
    return max(inks, key=lambda ink: _legibility(ink, images, evidence))


def _legibility(ink: Ink, images: ComponentImages, evidence: Callable[[Array], Array]) -> float:
    """Return the evidence of all components beyond that of shapes, in the best orientation.

    It counts by the share of the ink that they are: the holes of an 8 may look like zeros, but
    beside them all paper would be ink.
    """
    components = _judged(find_components(ink)[0])
    if not components:
        return 0.0
    found = _turned_evidence(images(ink, components), evidence, QUARTER_TURNS)
    judged = sum(np.count_nonzero(component.mask) for component in components)
    share = judged / np.count_nonzero(ink.mask)
    return float(np.maximum(found - _SHAPE_EVIDENCE, 0).sum(axis=1).max() * np.sqrt(share))


def _with_outlines_filled(ink: Ink) -> Ink | None:
    """Return ink with the insides of outlined digits filled, or None if these are no outlines.

    Most outlines have a hole, which is the inside of a stroke. In it may lie another outline, whose
    hole is paper, as in a 0. Of plain digits, fewer than half have holes.
    """
    contours, hierarchy = cv2.findContours(
        ink.mask.astype(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_NONE
    )
    if not contours:
        return None
    first_hole, parents = hierarchy[0, :, 2].tolist(), hierarchy[0, :, 3].tolist()
    outer = {
        number
        for number, contour in enumerate(contours)
        if parents[number] < 0 and min(cv2.boundingRect(contour)[2:]) >= ink.min_digit_side
    }
    outlines = {number for number in outer if first_hole[number] >= 0}
    if len(outlines) < max(_MIN_OUTLINES, _MIN_OUTLINE_FRACTION * len(outer)):
        return None
    insides = {number for number, parent in enumerate(parents) if parent in outlines}
    counters = [contours[number] for number, parent in enumerate(parents) if parent in insides]
    filled = np.zeros(ink.mask.shape, np.uint8)
    cv2.drawContours(filled, [contours[number] for number in insides], -1, 1, cv2.FILLED)
    cv2.drawContours(filled, counters, -1, 0, cv2.FILLED)
    inside = filled > 0
    strength = np.where(inside, np.float32(1), ink.strength)
    return replace(ink, strength=strength, mask=ink.mask | inside, strong=ink.strong | inside)


def _judged(components: Sequence[Component]) -> list[Component]:
    """Return the components of a typical digit's size, at most `_MAX_JUDGED` of them."""
    lengths = np.array([max(each.width, each.height) for each in components], dtype=np.float64)
    if not len(lengths):
        return []
    typical = float(np.median(lengths[lengths >= lengths.max() / 4]))
    low, high = (limit * typical for limit in _SIZE_RANGE)
    kept = np.flatnonzero((lengths >= low) & (lengths <= high))
    chosen = kept[np.linspace(0, len(kept) - 1, min(len(kept), _MAX_JUDGED)).astype(int)]
    return [components[number] for number in chosen]


def _turned_evidence(
    images: Array, evidence: Callable[[Array], Array], turns: Sequence[int]
) -> Array:
    """Return the evidence (len(turns), N) of images (N, 28, 28) after each turn, clockwise."""
    # The centre of mass is at (14, 14), half a pixel from where a turn leaves it: that is rounded.
    turned = [np.rot90(images, -turn // 90, axes=(1, 2)) for turn in turns]
    found = evidence(np.ascontiguousarray(np.concatenate(turned)))
    return np.minimum(found, _MAX_EVIDENCE).reshape(len(turns), len(images))


def _best_turn(found: Array) -> int:
    """Return the quarter turn with the most evidence (4, N), 0 unless it has clearly more."""
    gains = found.sum(axis=1) - found[0].sum()
    best = int(gains.argmax())
    least = max(_MIN_TURN_GAIN, _MIN_TURN_MEAN_GAIN * found.shape[1])
    return QUARTER_TURNS[best] if gains[best] > least else 0


def _tilt(components: Sequence[Component]) -> float:
    """Return by how many degrees lines of text fall to the right, -45 to 45, 0 if there are none.

    In the direction of the lines, the centres of most digits lie behind others. Where lines run
    from top to bottom, the page is turned by a quarter besides.
    """
    boxes = np.array([component.box for component in components], dtype=np.float64)
    if len(boxes) < 3:
        return 0.0
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    lengths = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    scatter = _LINE_SCATTER * float(np.median(lengths))
    x, y = (centers[:, None] - centers[None]).reshape(-1, 2).T
    directions = np.radians(_DIRECTIONS_DEGREES)
    across = np.outer(np.cos(directions), y) - np.outer(np.sin(directions), x)
    alignment = np.exp(-((across / scatter) ** 2) / 4).sum(axis=1)
    best = int(alignment.argmax())
    return float((_DIRECTIONS_DEGREES[best] + 45) % 90 - 45)


def _tilted(ink: Ink, degrees: float, *, scale: float) -> Page:
    """Return ink turned counterclockwise by less than a quarter, on a page that holds all of it.

    ``scale`` enlarges it.
    """
    height, width = ink.mask.shape
    cosine, sine = (abs(f(np.radians(degrees))) for f in (np.cos, np.sin))
    size = np.ceil(
        scale * np.array([width * cosine + height * sine, width * sine + height * cosine])
    ).astype(int)
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, scale)
    matrix[:, 2] += size / 2 - (width / 2, height / 2)

    flags = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_LINEAR

    def turned(values: Array) -> Array:
        return np.asarray(cv2.warpAffine(values, matrix, size.tolist(), flags=flags))

    strength = np.clip(turned(ink.strength), 0, 1)
    mask = turned(ink.mask.astype(np.float32)) > 0.4
    threshold = ink.threshold
    if scale > 1:
        threshold = max(threshold, _SMALL_THRESHOLD)
        mask &= strength > threshold
    tilted = replace(
        ink,
        strength=strength,
        mask=mask,
        strong=turned(ink.strong.astype(np.float32)) > 0.4,
        threshold=threshold,
        min_digit_side=ink.min_digit_side * scale,
    )
    return Page(tilted, 0, cv2.invertAffineTransform(matrix))


def _turned(page: Page, rotation: int) -> Page:
    """Return a page turned clockwise by a multiple of 90 degrees."""
    if not rotation:
        return page
    ink = page.ink
    height, width = ink.mask.shape
    strength, mask, strong = (
        np.ascontiguousarray(np.rot90(each, -rotation // 90))
        for each in (ink.strength, ink.mask, ink.strong)
    )
    back = {
        90: np.array([[0, 1, 0], [-1, 0, height], [0, 0, 1]]),
        180: np.array([[-1, 0, width], [0, -1, height], [0, 0, 1]]),
        270: np.array([[0, -1, width], [1, 0, 0], [0, 0, 1]]),
    }[rotation]
    turned = replace(ink, strength=strength, mask=mask, strong=strong)
    return Page(turned, rotation, page.to_picture @ back)


# --- Lines of text -------------------------------------------------------------------------------


def text_lines(digits: Sequence[Component]) -> list[list[Component]]:
    """Return digits in reading order: lines from the top, each line from the left.

    From left to right, a digit joins the line whose last digit it overlaps most vertically, so a
    line may rise or fall.
    """
    lines: list[list[Component]] = []
    for digit in sorted(digits, key=lambda digit: digit.box[0] + digit.box[2]):
        overlaps = [_vertical_overlap(line[-1], digit) for line in lines]
        if overlaps and max(overlaps) >= _MIN_OVERLAP:
            lines[int(np.argmax(overlaps))].append(digit)
        else:
            lines.append([digit])

    def center(line: list[Component]) -> float:
        return float(np.mean([digit.box[1] + digit.box[3] for digit in line]))

    return sorted(lines, key=center)


def _vertical_overlap(first: Component, second: Component) -> float:
    """Return the vertical overlap as a fraction of the lower height, at most 1.

    It is negative where there is a gap.
    """
    overlap = min(first.box[3], second.box[3]) - max(first.box[1], second.box[1])
    return overlap / min(first.height, second.height)

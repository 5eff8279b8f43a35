"""Connected components of ink, and the removal of those that are no part of a digit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np

from mnist_cli.arrays import Array
from mnist_cli.pictures.borders import MIN_PAGE_SIDE
from mnist_cli.pictures.ink import Ink

# Left, top, right and bottom of a bounding box in pixels, right and bottom exclusive.
Box: TypeAlias = tuple[int, int, int, int]

# Fractions of a digit's height. What is smaller than a speck is dirt; what is lower than a digit is
# a fragment that was not joined to one.
_MAX_SPECK_SIZE = 0.08
_MIN_HEIGHT = 0.35
# Aspect ratio, width to height: a 5's loose bar is less flat than this, an underline flatter.
_MAX_FLATNESS = 5
# Strokes that a row or column crosses on average: 8 and 5 have up to 3, textures more than this.
_MAX_CROSSINGS = 4.5
# Components. More than the first are a texture, unless they are of similar size as on a page full
# of digits; more than the second are more than fit on a page.
_MAX_COMPONENTS = 400
_MAX_SIMILAR_COMPONENTS = 5000
# Fractions of a box: the thickness of its lines, how much of a side they take, and the height of
# what is written in it.
_MAX_BOX_LINE = 0.15
_MIN_LINE_FILL = 0.85
_MIN_BOXED_HEIGHT = 0.4
_MIN_TEXT = 4  # components of similar size that are a text
# Fraction of the picture's border: what covers more of it is a shadow or the edge of a sheet.
_MAX_BORDER_COVERAGE = 0.25


@dataclass(frozen=True, eq=False)
class Component:
    """One or more connected components of ink that are, or may be, one digit.

    ``mask`` (H, W), bool, is True at the ink inside the bounding ``box``.
    """

    mask: Array
    box: Box

    @property
    def width(self) -> int:
        """Width of the bounding box in pixels."""
        return self.box[2] - self.box[0]

    @property
    def height(self) -> int:
        """Height of the bounding box in pixels."""
        return self.box[3] - self.box[1]


def boxes_of(components: Sequence[Component]) -> Array:
    """Return the bounding boxes of N components, (N, 4) int64, as rows of `Box`."""
    return np.array([component.box for component in components])


def union(components: Sequence[Component]) -> Component:
    """Return the ink of one or more components as one."""
    if len(components) == 1:
        return components[0]
    boxes = boxes_of(components)
    left, top = (int(value) for value in boxes[:, :2].min(axis=0))
    right, bottom = (int(value) for value in boxes[:, 2:].max(axis=0))
    mask = np.zeros((bottom - top, right - left), dtype=bool)
    for component in components:
        x, y = component.box[0] - left, component.box[1] - top
        mask[y : y + component.height, x : x + component.width] |= component.mask
    return Component(mask, (left, top, right, bottom))


def digit_height(components: Sequence[Component]) -> float:
    """Return the median height in pixels of the larger components, 0 if there are none.

    The larger are those of at least half the greatest height: specks and fragments do not count.
    """
    if not components:
        return 0.0
    heights = np.array([component.height for component in components], dtype=np.float64)
    return float(np.median(heights[heights >= heights.max() / 2]))


def find_components(ink: Ink) -> tuple[list[Component], list[Component]]:
    """Return the connected components of ink, and apart textures, frames and dark picture edges.

    The first list is empty if nothing of a digit's size is left.
    """
    found = _connected_components(ink.mask, ink.strong, ink.min_digit_side)
    boxes = boxes_of(found)
    found = [part for component in found for part in _without_box(component, boxes)]
    components = _without_clutter(found, ink.mask.shape, ink.min_digit_side)
    kept = {id(component) for component in components}
    return components, [component for component in found if id(component) not in kept]


def label_components(mask: Array) -> tuple[Array, Array]:
    """Return labels (H, W), 0 outside a mask (H, W) of bools, and OpenCV's statistics (N, 5).

    N counts the background, label 0, too.
    """
    # OpenCV is three times as fast with 16-bit labels, but does not check that they suffice. With
    # 8 neighbours at most one pixel in each square of 2x2 is a component of its own.
    most = -(-mask.shape[0] // 2) * -(-mask.shape[1] // 2)
    label_type = cv2.CV_16U if most < 2**16 else cv2.CV_32S
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), ltype=label_type)
    return np.asarray(labels), np.asarray(stats)


def _connected_components(mask: Array, strong: Array, min_digit_side: float) -> list[Component]:
    """Return the connected components of ``mask`` that contain ``strong`` pixels.

    Components far smaller than a digit are left out. The list is empty if there are so many as in
    a texture.
    """
    labels, stats = label_components(mask)
    has_strong_ink = np.zeros(len(stats), dtype=bool)
    has_strong_ink[labels[strong & mask]] = True
    has_strong_ink[0] = False  # label 0 is the background
    longer = stats[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].max(axis=1)
    kept = np.flatnonzero(has_strong_ink & (longer >= 0.4 * min_digit_side))
    if len(kept) > _MAX_COMPONENTS:
        kept = kept[longer[kept] >= _MAX_SPECK_SIZE * longer[kept].max()]
        are_similar = np.median(longer[kept]) >= 0.4 * longer[kept].max()
        if len(kept) > (_MAX_SIMILAR_COMPONENTS if are_similar else _MAX_COMPONENTS):
            return []
    components = []
    for label in kept:
        left, top, width, height = (int(value) for value in stats[label, :4])
        region = labels[top : top + height, left : left + width]
        components.append(Component(region == label, (left, top, left + width, top + height)))
    return components


def _without_box(component: Component, boxes: Array) -> list[Component]:
    """Return what is written in a ruled box whose lines it touches, else the component itself.

    ``boxes`` (N, 4) are those of all components: a table around some of them stays as it is.

    A box has at least three straight sides, thin for its size; inside it is something at least
    `_MIN_BOXED_HEIGHT` of its height, unlike in a 0 or 8 of straight strokes.
    """
    mask = component.mask
    rows, columns = mask.mean(axis=1), mask.mean(axis=0)
    most = max(2, int(_MAX_BOX_LINE * min(mask.shape)))
    thicknesses = [
        _line_thickness(fill, most) for fill in (rows, rows[::-1], columns, columns[::-1])
    ]
    if sum(thickness > 0 for thickness in thicknesses) < 3 or _is_frame(component, boxes):
        return [component]
    top, bottom, left, right = thicknesses
    inside = mask[top : mask.shape[0] - bottom, left : mask.shape[1] - right]
    labels, stats = label_components(inside)
    parts = []
    for label in range(1, len(stats)):
        x, y, width, height = (int(value) for value in stats[label, :4])
        if max(width, height) >= _MAX_SPECK_SIZE * component.height:
            part = labels[y : y + height, x : x + width] == label
            x, y = component.box[0] + left + x, component.box[1] + top + y
            parts.append(Component(part, (x, y, x + width, y + height)))
    tallest = max((part.height for part in parts), default=0)
    return parts if tallest >= _MIN_BOXED_HEIGHT * component.height else [component]


def _line_thickness(fill: Array, most: int) -> int:
    """Return how many of the first rows a straight line takes, up to ``most``; 0 if none does.

    ``fill`` (H,), 0-1, is how much of each row is ink. The soft edge of the line may precede it.
    """
    is_line = (fill[: most + 2] >= _MIN_LINE_FILL).tolist()
    if len(fill) <= 2 * most or True not in is_line[:2]:
        return 0
    first = is_line.index(True)
    thickness = first + [*is_line[first:], False].index(False)
    return thickness if thickness <= most else 0


# --- Clutter: textures, frames, and edges of the picture -----------------------------------------


def _without_clutter(
    components: list[Component], shape: tuple[int, ...], min_digit_side: float
) -> list[Component]:
    """Return components without textures, frames and dark edges of a picture of ``shape`` (H, W).

    The list is empty if nothing as long as ``min_digit_side`` pixels is left, or if a texture
    covers most of the picture.
    """
    textures = [component for component in components if _is_texture(component.mask)]
    if any(texture.mask.size > 0.5 * shape[0] * shape[1] for texture in textures):
        return []
    boxes = boxes_of(components)
    components = [
        component
        for component in components
        if component not in textures
        and not _is_frame(component, boxes)
        and _border_coverage(component, shape) <= _MAX_BORDER_COVERAGE
    ]
    longest = max((max(each.width, each.height) for each in components), default=0)
    if longest < min_digit_side:
        return []
    inner = [component for component in components if not _is_picture_edge(component, shape)]
    lengths = np.array([max(each.width, each.height) for each in inner] or [0])
    # If nothing of a digit's size is left, what looked like an edge must be the digit. A text is
    # no dirt around a digit: it has several components of similar size.
    broadest = max(min(component.width, component.height) for component in components)
    is_text = np.count_nonzero(lengths >= max(min_digit_side, 0.5 * lengths.max())) >= _MIN_TEXT
    tallest = max((component.height for component in inner), default=0)
    return inner if is_text or tallest >= max(min_digit_side, 0.15 * broadest) else components


def _is_texture(mask: Array) -> bool:
    """Return whether rows and columns cross more strokes of the component than of any digit."""
    crossings = [
        float(np.count_nonzero(np.diff(mask.astype(np.int8), axis=axis) == 1, axis=axis).mean())
        for axis in (0, 1)
    ]
    return min(crossings) > _MAX_CROSSINGS


def _is_frame(component: Component, boxes: Array) -> bool:
    """Return whether a component is a box, table or ring around one of the ``boxes`` (N, 4)."""
    left, top, right, bottom = component.box
    is_inside = (boxes[:, :2] > (left, top)).all(axis=1)
    is_inside &= (boxes[:, 2:] < (right, bottom)).all(axis=1)
    heights = (boxes[:, 3] - boxes[:, 1])[is_inside]
    relative_height = float(heights.max(initial=0)) / component.height
    if relative_height < 0.1:
        return False
    mask = component.mask
    edge = max(1, round(0.1 * min(component.width, component.height)))
    sides = (mask[:edge].any(0), mask[-edge:].any(0), mask[:, :edge].any(1), mask[:, -edge:].any(1))
    # Only straight sides have ink along the whole edge of the bounding box. One of the four may be
    # outside the picture.
    if sorted(side.mean() for side in sides)[1] > 0.9:
        return True
    # A ring: larger holes for the thickness of its stroke than any 0 has, and around something too
    # large to be a dot inside a 0.
    _, regions = cv2.connectedComponents(np.pad(~mask, 1, constant_values=True).astype(np.uint8))
    holes = np.count_nonzero(regions[1:-1, 1:-1][~mask] != regions[0, 0])
    return relative_height > 0.35 and bool(holes > 0.5 * mask.size)


def _border_coverage(component: Component, shape: tuple[int, ...]) -> float:
    """Return the fraction of the picture's border that a component covers; 0 in a small picture."""
    left, top, right, bottom = component.box
    height, width = shape[:2]
    if min(height, width) < MIN_PAGE_SIDE:  # a thick digit covers a lot in a close crop
        return 0.0
    mask = component.mask
    sides = (
        mask[:, 0] if left == 0 else mask[:0, 0],
        mask[:, -1] if right == width else mask[:0, 0],
        mask[0] if top == 0 else mask[0, :0],
        mask[-1] if bottom == height else mask[0, :0],
    )
    return sum(np.count_nonzero(side) for side in sides) / (2 * (height + width))


def _is_picture_edge(component: Component, shape: tuple[int, ...]) -> bool:
    """Return whether a component is a dark edge or corner of a picture of ``shape`` (H, W)."""
    left, top, right, bottom = component.box
    height, width = shape[:2]
    mask = component.mask
    along_left_or_right = (left == 0 and mask[:, 0].mean() > 0.5) or (
        right == width and mask[:, -1].mean() > 0.5
    )
    along_top_or_bottom = (top == 0 and mask[0].mean() > 0.5) or (
        bottom == height and mask[-1].mean() > 0.5
    )
    if along_left_or_right and component.height > 0.3 * height:
        return True
    if along_top_or_bottom and component.width > 0.3 * width:
        return True
    padded = np.pad(mask.astype(np.uint8), 1)
    thickness = 2 * float(cv2.distanceTransform(padded, cv2.DIST_L2, 3).max())
    touches = left == 0 or top == 0 or right == width or bottom == height
    return touches and thickness > 0.5 * max(component.width, component.height)


# --- Small components ----------------------------------------------------------------------------


def is_speck_or_line(component: Component, typical_height: float) -> bool:
    """Return whether a component is dirt, or a line flatter and longer than a digit's bar.

    ``typical_height`` is that of a digit in pixels.
    """
    is_line = component.width > max(_MAX_FLATNESS * component.height, 1.2 * typical_height)
    return is_line or max(component.width, component.height) < _MAX_SPECK_SIZE * typical_height


def is_fragment(component: Component, typical_height: float) -> bool:
    """Return whether a component is too small or too flat to be a digit by itself.

    ``typical_height`` is that of a digit in pixels.
    """
    return component.height < _MIN_HEIGHT * typical_height or (
        component.width > 2.5 * component.height and component.height < 0.6 * typical_height
    )


def without_hairs(components: list[Component]) -> list[Component]:
    """Return components without those much thinner than the others: hairs and scratches."""
    if len(components) < 2:
        return components
    stroke_widths = [_stroke_width(component.mask.astype(np.uint8)) for component in components]
    median = float(np.median(stroke_widths))
    return [
        component
        for component in components
        if np.count_nonzero(component.mask) / component.height > 0.3 * median
        or component.width > 0.15 * component.height
    ]


def _stroke_width(mask: Array) -> float:
    """Return the mean stroke width in pixels of a mask (H, W), uint8, 1 at ink.

    Along a stroke of width w the distance to its edge is w / 4 on average.
    """
    distance = cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    return 4 * float(distance[mask > 0].mean())

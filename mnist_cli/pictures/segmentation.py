"""Segment ink into digits: join the strokes of one digit, split digits that touch.

Shape decides most cases. Where it does not, the classifier does, by the evidence that an image
shows a digit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from mnist_cli.arrays import Array
from mnist_cli.pictures.components import (
    Box,
    Component,
    boxes_of,
    digit_height,
    is_fragment,
    is_speck_or_line,
    union,
    without_hairs,
)
from mnist_cli.pictures.page import Page, text_lines
from mnist_cli.pictures.touching import best_digits, certain_digits, line_candidates

# N components -> the evidence (N,) that each shows a digit, by `evaluation.evidence`. A softmax's
# probabilities would not do: they only compare digits, and two that touch may look like a sure 3.
ComponentEvidence: TypeAlias = "Callable[[Sequence[Component]], Array]"

# Fractions of a digit's height: what is lower than the first may be a fragment. It is a digit if it
# is not lower than the second, no mere bar, and has as much evidence as a digit that is sure.
_FRAGMENT_HEIGHT = 0.6
_MIN_SMALL_HEIGHT = 0.2
_MIN_SMALL_ASPECT = 0.6  # width to height
_MIN_SMALL_EVIDENCE = 7.7
# Two components of nearly the same height, of which one has so much evidence, are two digits: with
# a 1 beside it, a 4 would have more.
_FULL_HEIGHT = 0.8
_DIGIT_EVIDENCE = 10.5
# Pairs of neighbours that the classifier judges: a page of digits has fewer, and textures with
# more would take long.
_MAX_PAIRS = 5000


def segment(
    page: Page, *, single: bool, evidence: ComponentEvidence | None
) -> tuple[list[Component], list[Component]]:
    """Return the digits of a page, one component each, in no particular order, and what is none.

    ``single`` takes all ink as one digit. ``evidence`` decides where shape does not; without it,
    digits that touch stay one. The first list is empty if there is no digit.
    """
    components, clutter = page.components
    rejected = list(clutter)
    height = digit_height(components)
    components = _kept(components, lambda each: not is_speck_or_line(each, height), rejected)
    if not components:
        return [], rejected
    if single:
        return [union(components)], rejected
    small = _small_digits(components, height, evidence)
    components = _with_fragments_joined(components, height, small)
    if evidence is not None:
        components = _with_pairs_merged(components, evidence)
        # What fitted neither half may fit both.
        components = _with_fragments_joined(components, digit_height(components), small)
    components = _kept(
        components, lambda each: each.box in small or not is_fragment(each, height), rejected
    )
    digits = without_hairs(components)
    rejected += [each for each in components if each not in digits]
    if evidence is None:
        return digits, rejected
    lines = text_lines(digits)
    certain = certain_digits(lines, evidence)
    candidates = [line_candidates(line, page.ink.strength, certain) for line in lines]
    parts = [part for line in candidates for part in line.parts.values()]
    if len(parts) == len(digits):  # there is nothing to choose from
        return digits, rejected
    found = evidence(parts)
    ends = np.cumsum([len(line.parts) for line in candidates])[:-1]
    return [
        digit
        for line, own in zip(candidates, np.split(found, ends), strict=True)
        for digit in best_digits(line, own)
    ], rejected


def _kept(
    components: list[Component],
    is_kept: Callable[[Component], bool],
    rejected: list[Component],
) -> list[Component]:
    """Return the components that are kept; the others are appended to ``rejected``."""
    kept: list[Component] = []
    for component in components:
        (kept if is_kept(component) else rejected).append(component)
    return kept


def _small_digits(
    components: list[Component], height: float, evidence: ComponentEvidence | None
) -> frozenset[Box]:
    """Return the boxes of the components so small that they may be fragments, but are digits.

    In quick handwriting a 0 has a third of a 7's height. ``height`` is that of a digit in pixels.
    """
    small = [
        each
        for each in components
        if _MIN_SMALL_HEIGHT * height <= each.height < _FRAGMENT_HEIGHT * height
        and each.width >= _MIN_SMALL_ASPECT * each.height
    ]
    if evidence is None or not small:
        return frozenset()
    found = evidence(small)
    return frozenset(
        component.box
        for component, own in zip(small, found.tolist(), strict=True)
        if own >= _MIN_SMALL_EVIDENCE
    )


def _with_fragments_joined(
    components: list[Component], height: float, small_digits: frozenset[Box]
) -> list[Component]:
    """Return components with each fragment, such as a 5's loose bar, joined to the nearest digit.

    ``height`` is that of a digit in pixels; those in the boxes ``small_digits`` are no fragments.
    """
    components = sorted(components, key=_box_area)
    position = 0
    while position < len(components) and len(components) > 1:
        fragment = components[position]
        others = components[:position] + components[position + 1 :]
        partner = None
        if fragment.height < _FRAGMENT_HEIGHT * height and fragment.box not in small_digits:
            partner = _nearest_digit(fragment, boxes_of(others), height)
        if partner is None:
            position += 1
            continue
        joined = union([fragment, others.pop(partner)])
        components = sorted([*others, joined], key=_box_area)
        position = max(0, position - 1)
    return components


def _box_area(component: Component) -> int:
    return component.mask.size


def _nearest_digit(fragment: Component, boxes: Array, height: float) -> int | None:
    """Return the index of the nearest of ``boxes`` (N, 4) that a fragment fits, or None.

    A box fits if the fragment lies above, below or close beside it, and both together are not
    larger than a digit of ``height`` pixels.
    """
    left, top, right, bottom = fragment.box
    low, high = np.minimum(boxes[:, 2:], (right, bottom)), np.maximum(boxes[:, :2], (left, top))
    overlap_x, overlap_y = (low - high).T  # a negative overlap is a gap
    joined = np.maximum(boxes[:, 2:], (right, bottom)) - np.minimum(boxes[:, :2], (left, top))
    widths = np.minimum(boxes[:, 2] - boxes[:, 0], fragment.width)
    max_height = np.maximum(height, boxes[:, 3] - boxes[:, 1])
    is_stacked = (overlap_x >= 0.5 * widths) & (-overlap_y <= 0.3 * height)
    reach = 0.2 * min(height, max(fragment.width, fragment.height))
    is_beside = (-overlap_x <= reach) & (-overlap_y <= reach)
    fits = joined[:, 1] <= 1.3 * max_height
    fits &= is_stacked | (joined[:, 0] <= 1.2 * max_height)
    fits &= is_stacked | is_beside
    if not fits.any():
        return None
    gaps = np.maximum(-overlap_x, 0) + np.maximum(-overlap_y, 0)
    # Of equal gaps the box that overlaps more.
    return int(np.argmin(np.where(fits, gaps - 0.01 * overlap_x, np.inf)))


def _with_pairs_merged(components: list[Component], evidence: ComponentEvidence) -> list[Component]:
    """Return components, with two joined where both together are more like a digit than either."""
    pairs = _near_pairs(components)
    if not pairs or len(pairs) > _MAX_PAIRS:
        return components
    alone = evidence(components)
    together = evidence([union([components[i], components[j]]) for i, j in pairs])
    used: set[int] = set()
    joined = []
    for pair in np.argsort(-together):
        first, second = pairs[pair]
        least = alone[[first, second]].max()
        heights = sorted((components[first].height, components[second].height))
        are_two = heights[0] >= _FULL_HEIGHT * heights[1] and least >= _DIGIT_EVIDENCE
        if together[pair] <= least or are_two or used & {first, second}:
            continue
        used |= {first, second}
        joined.append(union([components[first], components[second]]))
    return joined + [each for number, each in enumerate(components) if number not in used]


def _near_pairs(components: Sequence[Component]) -> list[tuple[int, int]]:
    """Return the indices of the pairs so near that they may be two strokes of one digit."""
    boxes = boxes_of(components)
    sizes = boxes[:, 2:] - boxes[:, :2]
    pairs = []
    for first in range(len(components)):
        others = slice(first + 1, None)
        low = np.minimum(boxes[first, :2], boxes[others, :2])
        width, height = (np.maximum(boxes[first, 2:], boxes[others, 2:]) - low).T  # of both
        gap_x, gap_y = np.stack([width, height]) - sizes[first][:, None] - sizes[others].T
        near = (width <= 1.5 * height) & (gap_x <= 0.15 * height) & (gap_y <= 0.15 * height)
        pairs += [(first, first + 1 + int(second)) for second in np.flatnonzero(near)]
    return pairs

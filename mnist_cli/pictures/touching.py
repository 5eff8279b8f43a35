"""Read a line of components as digits: which to cut, which to join.

Over-segmentation, with dynamic programming over the whole line and the classifier's evidence as the
score of each part: as in LeCun et al., "Gradient-based learning applied to document recognition"
(1998), section V.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from mnist_cli.arrays import Array
from mnist_cli.pictures.components import Component, digit_height, label_components, union

# Aspect ratio, width to height: of MNIST's validation digits 42% are wider than the first, 1% than
# the second. A component narrower than the first is not cut, no digit is wider than the second.
_MIN_ASPECT_OF_SEVERAL = 0.85
_MAX_ASPECT_OF_ONE = 1.4
# Fraction of the line's typical height and width beyond which a component is cut in any case.
_MIN_WIDTH_OF_SEVERAL = 0.85
# Fractions of the line's height between which components may be parts of one digit.
_MAX_GAP_IN_DIGIT = 0.08
# Evidence at which a part is as likely a digit as no digit, and above which more says nothing: so
# one part that is a clear digit cannot outweigh another that is none. A component as it was found
# is more likely a digit than what was cut or joined. Chosen on lines of validation digits.
_EVEN_EVIDENCE = 10.5
_MAX_EVIDENCE = 16.0
_WHOLE_COMPONENT_GAIN = 1.0
_LONE_COMPONENT_GAIN = 4.0  # for one that has its line to itself, unless it is too wide
# With at least so much evidence a component is one digit, unless it is wider than the limit and has
# neighbours: three in four of the wide digits have it, and one in twenty touching pairs.
_CERTAIN_EVIDENCE = 14.0
_MAX_CERTAIN_ASPECT = 1.0
# Evidence that a cut costs for a whole height of ink that it passes through: where digits touch,
# that is the width of a stroke.
_CUT_COST = 8.0
# Evidence that a part loses for each tenth of the line's height that it is wider than 1.1 or lower
# than 0.75 of it.
_FLATNESS_COST = 1.0
_LOWNESS_COST = 2.0

# Pixels: cuts are searched for in ink scaled to this height. That is enough for a cut to curve
# between two digits, and too little for it to follow a loop.
_CUT_HEIGHT = 40
_CUT_SPACING = 5  # pixels at that height between the positions where a cut is tried
_CUT_REACH = 4  # pixels at that height by which a cut may deviate from its position
_DEVIATION_COST = 0.01  # strength of ink: a straight cut wins where there is no ink at all


@dataclass(frozen=True, eq=False)
class LineCandidates:
    """The possible digits of a line of components.

    ``parts`` maps (start, end) to the ink between two of the line's ``last`` + 1 cuts, 0 and
    ``last`` being its ends. ``gains`` are the evidence that each part has from how it was made.
    ``height`` is that of a digit in pixels.
    """

    parts: dict[tuple[int, int], Component]
    gains: dict[tuple[int, int], float]
    last: int
    height: float


def line_candidates(
    line: Sequence[Component], strength: Array, certain: frozenset[Component]
) -> LineCandidates:
    """Return the possible digits of a line: components, parts of them, and neighbours joined.

    ``strength`` (H, W), 0-1, is the picture's ink; ``certain`` components are not cut.
    """
    height = digit_height(line)
    parts: dict[tuple[int, int], Component] = {}
    gains: dict[tuple[int, int], float] = {}
    start = 0
    previous: list[tuple[int, Component]] = []  # the last parts of the component before
    for component in line:
        is_cut = component not in certain and _may_be_several(component, height)
        cuts = _cuts(component, strength) if is_cut else _edges(component)
        last = len(cuts) - 1
        own = {
            (first, end): part
            for end in range(1, last + 1)
            for first in range(end)
            if (cuts[end] - cuts[first]).mean()
            <= _MAX_ASPECT_OF_ONE * max(height, component.height)
            and (part := _part_between(component, cuts[first], cuts[end])) is not None
        }
        own[0, last] = component  # so that there is a way through the line
        whole_gain = _LONE_COMPONENT_GAIN if _is_lone(line) else _WHOLE_COMPONENT_GAIN
        costs = [_CUT_COST * _crossed_ink(component, strength, cut) / height for cut in cuts]
        for (first, end), part in own.items():
            place = start + first, start + end
            is_whole = (first, end) == (0, last)
            parts[place] = part
            gains[place] = whole_gain if is_whole else -costs[first]
        for before, left in previous:
            for (first, end), right in own.items():
                if first == 0 and _may_be_one(left, right, height):
                    parts[before, start + end] = union([left, right])
                    gains[before, start + end] = 0.0
        previous = [(start + first, part) for (first, end), part in own.items() if end == last]
        start += last
    return LineCandidates(parts, gains, start, height)


def certain_digits(
    lines: Sequence[Sequence[Component]], evidence: Callable[[Sequence[Component]], Array]
) -> frozenset[Component]:
    """Return the components that need not be cut: so much evidence has only one digit.

    ``evidence`` returns the evidence (N,) that each of N components shows a digit.
    """
    wide = [
        (component, _is_lone(line))
        for line in lines
        for component in line
        if _may_be_several(component, digit_height(line))
    ]
    if not wide:
        return frozenset()
    found = evidence([component for component, _ in wide]).tolist()
    return frozenset(
        component
        for (component, is_lone), own in zip(wide, found, strict=True)
        if own >= _CERTAIN_EVIDENCE
        and (is_lone or component.width < _MAX_CERTAIN_ASPECT * component.height)
    )


def _may_be_several(component: Component, height: float) -> bool:
    """Return whether a component may be several digits in a line with digits of this height."""
    return component.width >= _MIN_ASPECT_OF_SEVERAL * min(height, component.height)


def _is_lone(line: Sequence[Component]) -> bool:
    """Return whether a line is one component, not so wide that it must be several digits."""
    return len(line) == 1 and line[0].width < _MAX_ASPECT_OF_ONE * line[0].height


def best_digits(candidates: LineCandidates, evidence: Array) -> list[Component]:
    """Return the sequence of parts from one end of the line to the other with the most evidence.

    ``evidence`` (N,) is that of each of ``candidates.parts``, in their order.
    """
    score = {
        place: _score(part, own, candidates.height) + candidates.gains[place]
        for (place, part), own in zip(candidates.parts.items(), evidence.tolist(), strict=True)
    }
    best: list[tuple[float, list[Component]]] = [(0.0, [])]
    for end in range(1, candidates.last + 1):
        ways = [
            (best[start][0] + score[start, end], [*best[start][1], candidates.parts[start, end]])
            for start in range(end)
            if (start, end) in score and best[start][0] > -np.inf
        ]
        best.append(max(ways, key=lambda way: way[0], default=(-np.inf, [])))
    return best[-1][1]


def _score(part: Component, evidence: float, height: float) -> float:
    """Return how much more likely a part is a digit than not, in units of evidence."""
    flatness = max(0.0, part.width / height - 1.1)
    lowness = max(0.0, 0.75 - part.height / height)
    cost = 10 * (_FLATNESS_COST * flatness + _LOWNESS_COST * lowness)
    return min(evidence, _MAX_EVIDENCE) - _EVEN_EVIDENCE - cost


def _may_be_one(left: Component, right: Component, height: float) -> bool:
    """Return whether two neighbours are near and small enough to be one digit together."""
    both = union([left, right])
    gap = max(left.box[0], right.box[0]) - min(left.box[2], right.box[2])
    return (
        gap <= _MAX_GAP_IN_DIGIT * both.height
        and both.width <= 1.1 * min(height, 1.15 * both.height)
        and both.height <= 1.25 * height
    )


def _edges(component: Component) -> list[Array]:
    """Return the left and the right edge of a component as cuts."""
    return [np.zeros(component.height), np.full(component.height, component.width)]


def _cuts(component: Component, strength: Array) -> list[Array]:
    """Return possible cuts through a component, from its left edge to its right edge.

    A cut is (H,) float64: the column, in pixels, at each of the component's H rows. The first and
    the last are its edges, each other one is the seam with the least ink near one of several
    positions.
    """
    first, last = _edges(component)
    left, top, right, bottom = component.box
    own = np.where(component.mask, strength[top:bottom, left:right], 0).astype(np.float32)
    scale = _CUT_HEIGHT / component.height
    width = max(8, round(component.width * scale))
    small = cv2.resize(own, (width, _CUT_HEIGHT), interpolation=cv2.INTER_AREA)
    if width < _CUT_HEIGHT * _MAX_ASPECT_OF_ONE:  # two digits at most: one cut near the middle
        centers = np.rint(np.linspace(0.3, 0.7, 5) * width).astype(np.int64)
    else:
        centers = np.arange(8, width - 7, _CUT_SPACING)
    seams = _seams(small, centers, reach=_CUT_REACH)
    y, small_y = np.arange(component.height), (np.arange(_CUT_HEIGHT) + 0.5) / scale
    inner = [np.interp(y, small_y, (seam + 0.5) / scale) for seam in seams]
    return [first, *inner, last]


def _seams(strength: Array, centers: Array, *, reach: int) -> Array:
    """Return the seams (N, H), int64, with the least ink from top to bottom near N columns.

    A seam is a column per row that changes by at most 1 from row to row, found by dynamic
    programming as in seam carving (Avidan and Shamir, 2007). ``strength`` is (H, W), 0-1; each seam
    stays within ``reach`` columns of its column in ``centers`` (N,).
    """
    columns = centers[:, None] + np.arange(-reach, reach + 1)
    bands = np.pad(strength, ((0, 0), (reach, reach)), constant_values=1)[:, columns + reach]
    # (H, N, 2 reach + 1). The constant is the same for all seams, since all have H rows: it only
    # decides, by rounding, which of two equally cheap ones is found.
    bands += np.float32(0.01)
    steps = np.zeros(bands.shape, dtype=np.int64)
    # The cost up to the row above, with a column of infinity at both ends.
    cost = np.full((len(centers), 2 * reach + 3), np.inf)
    cost[:, 1:-1] = bands[0]
    for row in range(1, len(bands)):
        choices = np.stack(
            [cost[:, :-2] + _DEVIATION_COST, cost[:, 1:-1], cost[:, 2:] + _DEVIATION_COST]
        )
        steps[row] = choices.argmin(axis=0) - 1
        cost[:, 1:-1] = bands[row] + choices.min(axis=0)
    # Follow the cheapest seam back from the last row.
    numbers = np.arange(len(centers))
    seams = np.empty((len(bands), len(centers)), dtype=np.int64)
    seams[-1] = cost[:, 1:-1].argmin(axis=1)
    for row in range(len(bands) - 1, 0, -1):
        seams[row - 1] = seams[row] + steps[row, numbers, seams[row]]
    return np.asarray((seams + centers - reach).T)


def _crossed_ink(component: Component, strength: Array, cut: Array) -> float:
    """Return the length of ink, in pixels of full ink, that a cut (H,), columns, passes through.

    ``strength`` is the picture's ink, 0-1.
    """
    columns = cut.astype(np.int64)
    rows = np.flatnonzero((columns > 0) & (columns < component.width))
    columns = columns[rows]
    crossed = strength[component.box[1] + rows, component.box[0] + columns]
    return float(crossed[component.mask[rows, columns]].sum())


def _part_between(component: Component, left: Array, right: Array) -> Component | None:
    """Return the ink between two cuts (H,), or None unless it is connected and tall enough.

    Small disconnected remainders, up to 15% of the ink, are dropped.
    """
    column = np.arange(component.width)
    mask = component.mask & (column >= left[:, None]) & (column < right[:, None])
    labels, stats = label_components(mask)
    if len(stats) == 1:
        return None
    areas = stats[1:, cv2.CC_STAT_AREA]
    label = 1 + int(areas.argmax())
    x, y, width, height = (int(value) for value in stats[label, :4])
    if height < 0.4 * component.height or areas.max() < 0.85 * areas.sum():
        return None
    left_edge, top_edge = component.box[0] + x, component.box[1] + y
    mask = labels[y : y + height, x : x + width] == label
    return Component(mask, (left_edge, top_edge, left_edge + width, top_edge + height))

"""Split digits that touch: over-segmentation, with the classifier choosing among possible cuts.

As in LeCun et al., "Gradient-based learning applied to document recognition" (1998), section V.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from mnist_cli.arrays import Array
from mnist_cli.pictures.components import Component

# Aspect ratio, width to height. A component narrower than the first is one digit, one wider than
# the second is several: of MNIST's validation digits 42% and 1% are wider.
MIN_ASPECT_OF_SEVERAL = 0.85
_MAX_ASPECT_OF_ONE = 1.4
# Evidence, log(sum(exp(logits))) of the model in this package, measured on validation digits. With
# at least `_CERTAIN_EVIDENCE` a component is one digit: three in four of the wide digits have it,
# and one in twenty touching pairs. The parts must have `_MIN_GAIN` more evidence than the whole:
# with it 2 of 5,000 whole digits are cut (7 with 0.5), and from 2.5 on more pairs stay uncut. Parts
# with less than `_MIN_EVIDENCE` are no digits: 2 in 1,000 of the wide digits have less.
_CERTAIN_EVIDENCE = 14.0
_MIN_GAIN = 1.5
_MIN_EVIDENCE = 6.0

# Pixels: cuts are searched for in ink scaled to this height. That is enough for a cut to curve
# between two digits, and too little for it to follow a loop.
_CUT_HEIGHT = 40
_CUT_SPACING = 5  # pixels at that height between the positions where a cut is tried
_CUT_REACH = 4  # pixels at that height by which a cut may deviate from its position
_DEVIATION_COST = 0.01  # strength of ink: a straight cut wins where there is no ink at all


def split_touching(
    component: Component,
    strength: Array,
    evidence: Callable[[Sequence[Component]], Array],
    *,
    whole_evidence: float,
) -> list[Component]:
    """Return the digits in a wide component, or the component itself if it is one digit.

    ``strength`` (H, W), 0-1, is the picture's ink. ``evidence`` returns the evidence (N,) that each
    of N components shows a digit; ``whole_evidence`` is that of the component itself.

    Of all sequences of parts between possible cuts, dynamic programming finds the one whose part
    with the least evidence has the most. It is returned if that is more than the whole has.
    """
    aspect = component.width / component.height
    if aspect < _MAX_ASPECT_OF_ONE and whole_evidence >= _CERTAIN_EVIDENCE:
        return [component]
    cuts = _cuts(component, strength)
    last = len(cuts) - 1
    parts = {
        (start, end): part
        for end in range(1, last + 1)
        for start in range(end)
        if (start, end) != (0, last)
        and (cuts[end] - cuts[start]).mean() <= _MAX_ASPECT_OF_ONE * component.height
        and (part := _part_between(component, cuts[start], cuts[end])) is not None
    }
    if not parts:
        return [component]
    part_evidence = dict(zip(parts, evidence(list(parts.values())).tolist(), strict=True))
    # For each cut: the least evidence among the best parts up to it, and those parts.
    best: list[tuple[float, list[Component]]] = [(np.inf, [])]
    for end in range(1, last + 1):
        candidates = [
            (
                min(best[start][0], part_evidence[start, end]),
                [*best[start][1], parts[start, end]],
            )
            for start in range(end)
            if (start, end) in parts and best[start][0] > -np.inf
        ]
        best.append(max(candidates, key=lambda candidate: candidate[0], default=(-np.inf, [])))
    least, digits = best[last]
    return digits if least > max(whole_evidence + _MIN_GAIN, _MIN_EVIDENCE) else [component]


def _cuts(component: Component, strength: Array) -> list[Array]:
    """Return possible cuts through a component, from its left edge to its right edge.

    A cut is (H,) float64: the column, in pixels, at each of the component's H rows. The first and
    the last are its edges, each other one is the seam with the least ink near one of several
    positions.
    """
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
    return [np.zeros(component.height), *inner, np.full(component.height, component.width)]


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


def _part_between(component: Component, left: Array, right: Array) -> Component | None:
    """Return the ink between two cuts (H,), or None unless it is connected and tall enough.

    Small disconnected remainders, up to 15% of the ink, are dropped.
    """
    column = np.arange(component.width)
    mask = component.mask & (column >= left[:, None]) & (column < right[:, None])
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count == 1:
        return None
    areas = stats[1:, cv2.CC_STAT_AREA]
    label = 1 + int(areas.argmax())
    x, y, width, height = (int(value) for value in stats[label, :4])
    if height < 0.4 * component.height or areas.max() < 0.85 * areas.sum():
        return None
    left_edge, top_edge = component.box[0] + x, component.box[1] + y
    mask = labels[y : y + height, x : x + width] == label
    return Component(mask, (left_edge, top_edge, left_edge + width, top_edge + height))

"""Ink to digits: broken strokes joined, touching digits split, dirt dropped, lines in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np

from mnist_cli.arrays import Array
from mnist_cli.pictures.ink import LARGE_SIDE, Ink

Box: TypeAlias = tuple[int, int, int, int]

# Pieces of ink (N) -> how much each looks like a digit (N), by `evaluation.evidence`. A softmax's
# probabilities would not do: they only compare digits, and two that touch may look like a sure 3.
Evidence: TypeAlias = "Callable[[Sequence[Piece]], Array]"

_SPECK = 0.08  # of a digit's height: smaller pieces are dirt
_MOST_STROKES = 4.5  # met by a line through a digit, on average: 8 and 5 have up to 3
_FLATTEST = 5  # width by height: the bar of a 5 is shorter, a stray line flatter
# Width by height. Pieces narrower than the first are taken for one digit, wider than the second for
# several: of MNIST's validation digits 42% and 1% are wider.
_WIDE = 0.85
_VERY_WIDE = 1.4
# Evidence, measured with the model in this package on validation digits: three in four of the wide
# ones and one touching pair in twenty, read as one, reach the first. With the second, 2 of 5,000
# digits are cut that are whole (7 with 0.5), and more pairs stay uncut from 2.5 on.
_ONE_DIGIT = 14.0
_GAIN = 1.5
_UNLIKE = 6.0  # of wide digits 2 in 1,000 have less
_MANY_PIECES = 400  # more pieces of ink, and of all sizes, are a texture, not digits
_MAX_PIECES = 5000
_BORDER_SHARE = 0.25  # of the picture's border: what covers more is a shadow or an edge


@dataclass(frozen=True, eq=False)
class Piece:
    """Some of the ink, to be one digit: its ``mask`` (bool) within ``box``."""

    mask: Array
    box: Box

    @property
    def width(self) -> int:
        """In pixels."""
        return self.box[2] - self.box[0]

    @property
    def height(self) -> int:
        """In pixels."""
        return self.box[3] - self.box[1]


def group(ink: Ink, *, single: bool, evidence: Evidence | None) -> list[Piece]:
    """Return the pieces of ink that are one digit each, if there is any.

    ``single`` takes all ink as one digit. ``evidence`` decides where shapes do not.
    """
    pieces = _pieces(ink.mask, ink.strong, ink.least)
    pieces = _without_clutter(pieces, ink.mask.shape, ink.least)
    typical = _typical_height(pieces)
    pieces = [piece for piece in pieces if not _is_speck_or_line(piece, typical)]
    if not pieces:
        return []
    if single:
        return [_union(pieces)]
    pieces = _with_fragments_joined(pieces, typical)
    if evidence is not None:
        pieces = _with_halves_joined(pieces, evidence)
    pieces = [piece for piece in pieces if not _is_small(piece, typical)]
    pieces = _without_scratches(pieces)
    if evidence is None:
        return pieces
    wide = [piece for piece in pieces if piece.width >= _WIDE * piece.height]
    digits = [piece for piece in pieces if piece not in wide]
    if wide:
        for piece, whole in zip(wide, evidence(wide).tolist(), strict=True):
            digits += _split(piece, ink, evidence, whole=whole)
    return digits


def _pieces(mask: Array, strong: Array, least: float) -> list[Piece]:
    """Return the connected parts of ``mask`` that hold ``strong`` ink, without the tiniest.

    None, if there are as many as in a texture.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count == 1:
        return []
    holds_ink = np.zeros(count, dtype=bool)
    holds_ink[labels[strong & mask]] = True
    holds_ink[0] = False
    longer = stats[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].max(axis=1)
    kept = np.flatnonzero(holds_ink & (longer >= 0.4 * least))
    if len(kept) > _MANY_PIECES:
        kept = kept[longer[kept] >= _SPECK * longer[kept].max()]
        # A page full of digits has pieces of about one size, a texture few large and many small.
        alike = np.median(longer[kept]) >= 0.4 * longer[kept].max()
        if len(kept) > (_MAX_PIECES if alike else _MANY_PIECES):
            return []
    pieces = []
    for label in kept:
        left, top, wide, high = (int(value) for value in stats[label, :4])
        region = labels[top : top + high, left : left + wide]
        pieces.append(Piece(region == label, (left, top, left + wide, top + high)))
    return pieces


def _without_clutter(pieces: list[Piece], shape: tuple[int, ...], least: float) -> list[Piece]:
    """Return pieces without textures, frames and shadows, and without blots where there is more.

    None, if none is ``least`` pixels long.
    """
    textures = [piece for piece in pieces if _is_texture(piece.mask)]
    if any(piece.mask.size > 0.5 * shape[0] * shape[1] for piece in textures):
        return []
    boxes = np.array([piece.box for piece in pieces])
    pieces = [
        piece
        for piece in pieces
        if piece not in textures
        and not _is_frame(piece, boxes)
        and _share_of_border(piece, shape) <= _BORDER_SHARE
    ]
    if max((max(piece.width, piece.height) for piece in pieces), default=0) < least:
        return []
    proper = [piece for piece in pieces if not _is_clutter(piece, shape)]
    tallest = max((piece.height for piece in proper), default=0)
    # Without something of a digit's size left, what seemed clutter must be the digit.
    broadest = max(min(piece.width, piece.height) for piece in pieces)
    return proper if tallest >= max(least, 0.15 * broadest) else pieces


def _share_of_border(piece: Piece, shape: tuple[int, ...]) -> float:
    """Return how much of the picture's border a piece covers, 0-1; 0 in a small picture."""
    left, top, right, bottom = piece.box
    height, width = shape[:2]
    if min(height, width) < LARGE_SIDE:  # a close crop of a thick digit covers a lot
        return 0.0
    mask = piece.mask
    sides = (
        mask[:, 0] if left == 0 else mask[:0, 0],
        mask[:, -1] if right == width else mask[:0, 0],
        mask[0] if top == 0 else mask[0, :0],
        mask[-1] if bottom == height else mask[0, :0],
    )
    return sum(np.count_nonzero(side) for side in sides) / (2 * (height + width))


def _is_frame(piece: Piece, boxes: Array) -> bool:
    """Return whether a piece is a box, a table or a ring drawn about others of the boxes (N, 4)."""
    left, top, right, bottom = piece.box
    is_inside = (boxes[:, :2] > (left, top)).all(axis=1)
    is_inside &= (boxes[:, 2:] < (right, bottom)).all(axis=1)
    heights = (boxes[:, 3] - boxes[:, 1])[is_inside]
    tallest = float(heights.max(initial=0)) / piece.height
    if tallest < 0.1:
        return False
    mask = piece.mask
    edge = max(1, round(0.1 * min(piece.width, piece.height)))
    sides = (mask[:edge].any(0), mask[-edge:].any(0), mask[:, :edge].any(1), mask[:, -edge:].any(1))
    # Only straight sides have ink near the edge of the box all along; one may be cut off.
    if sorted(side.mean() for side in sides)[1] > 0.9:
        return True
    # A ring as thin as no 0 beside its size, and too full for a dot in a 0.
    _, regions = cv2.connectedComponents(np.pad(~mask, 1, constant_values=True).astype(np.uint8))
    holes = np.count_nonzero(regions[1:-1, 1:-1][~mask] != regions[0, 0])
    return tallest > 0.35 and bool(holes > 0.5 * mask.size)


def _is_texture(mask: Array) -> bool:
    """Return whether lines through the piece meet ink more often than through any digit."""
    rises = [
        float(np.count_nonzero(np.diff(mask.astype(np.int8), axis=axis) == 1, axis=axis).mean())
        for axis in (0, 1)
    ]
    return min(rises) > _MOST_STROKES


def _is_clutter(piece: Piece, shape: tuple[int, ...]) -> bool:
    """Return whether a piece is a dark edge or corner of the picture."""
    left, top, right, bottom = piece.box
    height, width = shape[:2]
    on_side = (left == 0 and piece.mask[:, 0].mean() > 0.5) or (
        right == width and piece.mask[:, -1].mean() > 0.5
    )
    on_end = (top == 0 and piece.mask[0].mean() > 0.5) or (
        bottom == height and piece.mask[-1].mean() > 0.5
    )
    if (on_side and piece.height > 0.3 * height) or (on_end and piece.width > 0.3 * width):
        return True
    padded = np.pad(piece.mask.astype(np.uint8), 1)
    thickness = 2 * float(cv2.distanceTransform(padded, cv2.DIST_L2, 3).max())
    touches = left == 0 or top == 0 or right == width or bottom == height
    return touches and thickness > 0.5 * max(piece.width, piece.height)


def _typical_height(pieces: Sequence[Piece]) -> float:
    """Return the median height of the larger pieces, 0 if there is none."""
    if not pieces:
        return 0.0
    heights = np.array([piece.height for piece in pieces], dtype=np.float64)
    return float(np.median(heights[heights >= heights.max() / 2]))


def _is_speck_or_line(piece: Piece, typical: float) -> bool:
    """Return whether a piece is dirt, or flat as a ruler's line and longer than a digit's bar."""
    is_flat = piece.width > max(_FLATTEST * piece.height, 1.2 * typical)
    return is_flat or max(piece.width, piece.height) < _SPECK * typical


def _is_small(piece: Piece, typical: float) -> bool:
    """Return whether a piece left over after joining is too small or flat to be a digit."""
    return piece.height < 0.35 * typical or (
        piece.width > 2.5 * piece.height and piece.height < 0.6 * typical
    )


def _without_scratches(pieces: list[Piece]) -> list[Piece]:
    """Return pieces without lines much thinner than the strokes of the others, as hairs are."""
    if len(pieces) < 2:
        return pieces
    widths = [
        4
        * float(cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, 3)[1:-1, 1:-1][mask > 0].mean())
        for mask in (piece.mask.astype(np.uint8) for piece in pieces)
    ]
    usual = float(np.median(widths))
    return [
        piece
        for piece in pieces
        if np.count_nonzero(piece.mask) / piece.height > 0.3 * usual
        or piece.width > 0.15 * piece.height
    ]


def _union(pieces: Sequence[Piece]) -> Piece:
    if len(pieces) == 1:
        return pieces[0]
    boxes = np.array([piece.box for piece in pieces])
    left, top = (int(value) for value in boxes[:, :2].min(axis=0))
    right, bottom = (int(value) for value in boxes[:, 2:].max(axis=0))
    mask = np.zeros((bottom - top, right - left), dtype=bool)
    for piece in pieces:
        x, y = piece.box[0] - left, piece.box[1] - top
        mask[y : y + piece.height, x : x + piece.width] |= piece.mask
    return Piece(mask, (left, top, right, bottom))


def _with_fragments_joined(pieces: list[Piece], typical: float) -> list[Piece]:
    """Return pieces with each fragment, such as a 5's loose bar, joined to the nearest digit."""
    pieces = sorted(pieces, key=lambda piece: piece.mask.size)
    position = 0
    while position < len(pieces) and len(pieces) > 1:
        piece = pieces[position]
        others = pieces[:position] + pieces[position + 1 :]
        partner = None
        if piece.height < 0.6 * typical:
            partner = _partner(piece, np.array([other.box for other in others]), typical)
        if partner is None:
            position += 1
            continue
        joined = _union([piece, others.pop(partner)])
        pieces = sorted([*others, joined], key=lambda piece: piece.mask.size)
        position = max(0, position - 1)
    return pieces


def _partner(piece: Piece, boxes: Array, typical: float) -> int | None:
    """Return which of the ``boxes`` (N, 4) a fragment belongs to, or None if to none."""
    left, top, right, bottom = piece.box
    low, high = np.minimum(boxes[:, 2:], (right, bottom)), np.maximum(boxes[:, :2], (left, top))
    overlap_x, overlap_y = (low - high).T  # negative: the gap
    union = np.maximum(boxes[:, 2:], (right, bottom)) - np.minimum(boxes[:, :2], (left, top))
    widths = np.minimum(boxes[:, 2] - boxes[:, 0], piece.width)
    heights = boxes[:, 3] - boxes[:, 1]
    stacked = (overlap_x >= 0.5 * widths) & (-overlap_y <= 0.3 * typical)
    beside = (-overlap_x <= 0.2 * typical) & (-overlap_y <= 0.2 * typical)
    fits = union[:, 1] <= 1.3 * np.maximum(typical, heights)
    fits &= stacked | (union[:, 0] <= 1.2 * np.maximum(typical, heights))
    fits &= stacked | beside
    if not fits.any():
        return None
    gaps = np.maximum(-overlap_x, 0) + np.maximum(-overlap_y, 0)
    return int(np.argmin(np.where(fits, gaps - 0.01 * overlap_x, np.inf)))


def _with_halves_joined(pieces: list[Piece], evidence: Evidence) -> list[Piece]:
    """Return pieces with two joined that are more like a digit together than either is alone."""
    pairs = _possible_halves(pieces)
    if not pairs or len(pairs) > _MAX_PIECES:
        return pieces
    alone = evidence(pieces)
    together = evidence([_union([pieces[i], pieces[j]]) for i, j in pairs])
    gone: set[int] = set()
    joined = []
    for pair in np.argsort(-together):
        first, second = pairs[pair]
        if together[pair] <= alone[[first, second]].max() or gone & {first, second}:
            continue
        gone |= {first, second}
        joined.append(_union([pieces[first], pieces[second]]))
    return joined + [piece for number, piece in enumerate(pieces) if number not in gone]


def _possible_halves(pieces: Sequence[Piece]) -> list[tuple[int, int]]:
    """Return the pairs that lie so near that they may be one digit in two strokes."""
    boxes = np.array([piece.box for piece in pieces])
    sizes = boxes[:, 2:] - boxes[:, :2]
    pairs = []
    for first in range(len(pieces)):
        others = slice(first + 1, None)
        low = np.minimum(boxes[first, :2], boxes[others, :2])
        wide, high = (np.maximum(boxes[first, 2:], boxes[others, 2:]) - low).T
        gap_x, gap_y = np.stack([wide, high]) - sizes[first][:, None] - sizes[others].T
        near = (wide <= 1.5 * high) & (gap_x <= 0.15 * high) & (gap_y <= 0.15 * high)
        pairs += [(first, first + 1 + int(second)) for second in np.flatnonzero(near)]
    return pairs


def _split(piece: Piece, ink: Ink, evidence: Evidence, *, whole: float) -> list[Piece]:
    """Return the digits of which a wide piece is made; ``whole`` is its evidence as one.

    Of all ways along possible cuts, the one whose least digit-like part is the most like a digit
    (over-segmentation, as in LeCun et al., 1998, section V), if that is more than the whole is.
    """
    ratio = piece.width / piece.height
    if ratio < _VERY_WIDE and whole >= _ONE_DIGIT:
        return [piece]
    cuts = _cuts(piece, ink)
    last = len(cuts) - 1
    spans = {
        (start, end): part
        for end in range(1, last + 1)
        for start in range(end)
        if (start, end) != (0, last)
        and (cuts[end] - cuts[start]).mean() <= _VERY_WIDE * piece.height
        and (part := _part(piece, cuts[start], cuts[end])) is not None
    }
    if not spans:
        return [piece]
    found = dict(zip(spans, evidence(list(spans.values())).tolist(), strict=True))
    best: list[tuple[float, list[Piece]]] = [(np.inf, [])]
    for end in range(1, last + 1):
        ways = [
            (min(best[start][0], found[start, end]), [*best[start][1], spans[start, end]])
            for start in range(end)
            if (start, end) in spans and best[start][0] > -np.inf
        ]
        best.append(max(ways, key=lambda way: way[0], default=(-np.inf, [])))
    least, parts = best[last]
    return parts if least > max(whole + _GAIN, _UNLIKE) else [piece]


def _cuts(piece: Piece, ink: Ink) -> list[Array]:
    """Return paths (H,) of columns along which to cut a piece, from its left edge to its right.

    Each is the path of least ink near one of several places.
    """
    left, top, right, bottom = piece.box
    strength = np.where(piece.mask, ink.strength[top:bottom, left:right], 0).astype(np.float32)
    scale = 40 / piece.height  # rows enough for a bend, few enough for a loop
    wide = max(8, round(piece.width * scale))
    small = cv2.resize(strength, (wide, 40), interpolation=cv2.INTER_AREA)
    if wide < 40 * _VERY_WIDE:  # two digits
        centers = np.rint(np.linspace(0.3, 0.7, 5) * wide).astype(np.int64)
    else:
        centers = np.arange(8, wide - 7, 5)
    paths = _seams(small, centers, reach=4)
    y, small_y = np.arange(piece.height), (np.arange(40) + 0.5) / scale
    edges = [np.interp(y, small_y, (path + 0.5) / scale) for path in paths]
    return [np.zeros(piece.height), *edges, np.full(piece.height, piece.width)]


def _seams(strength: Array, centers: Array, *, reach: int) -> Array:
    """Return paths (N, H) of columns from top to bottom that meet the least ink.

    strength: (H, W). Each path keeps within ``reach`` columns of one of the ``centers`` (N).
    """
    columns = centers[:, None] + np.arange(-reach, reach + 1)
    bands = np.pad(strength, ((0, 0), (reach, reach)), constant_values=1)[:, columns + reach]
    bands += np.float32(0.01)  # a straight path wins where there is no ink at all
    steps = np.zeros(bands.shape, dtype=np.int64)  # (H, N, 2 reach + 1)
    before = np.full((len(centers), 2 * reach + 3), np.inf)  # of the row above, with room beside
    before[:, 1:-1] = bands[0]
    for row in range(1, len(bands)):
        choices = np.stack([before[:, :-2] + 0.01, before[:, 1:-1], before[:, 2:] + 0.01])
        steps[row] = choices.argmin(axis=0) - 1
        before[:, 1:-1] = bands[row] + choices.min(axis=0)
    each = np.arange(len(centers))
    path = np.empty((len(bands), len(centers)), dtype=np.int64)
    path[-1] = before[:, 1:-1].argmin(axis=1)
    for row in range(len(bands) - 1, 0, -1):
        path[row - 1] = path[row] + steps[row, each, path[row]]
    return np.asarray((path + centers - reach).T)


def _part(piece: Piece, left: Array, right: Array) -> Piece | None:
    """Return the ink of a piece between two cuts, if it is in one part and of a digit's height."""
    column = np.arange(piece.width)
    mask = piece.mask & (column >= left[:, None]) & (column < right[:, None])
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count == 1:
        return None
    areas = stats[1:, cv2.CC_STAT_AREA]
    label = 1 + int(areas.argmax())
    x, y, wide, high = (int(value) for value in stats[label, :4])
    if high < 0.4 * piece.height or areas.max() < 0.85 * areas.sum():
        return None
    box = (piece.box[0] + x, piece.box[1] + y)
    part = labels[y : y + high, x : x + wide] == label
    return Piece(part, (*box, box[0] + wide, box[1] + high))


def in_lines(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Return pieces line by line from the top, each line from the left.

    From left to right, a piece goes to the line whose last piece it stands beside, so that a line
    may climb or fall.
    """
    lines: list[list[Piece]] = []
    for piece in sorted(pieces, key=lambda piece: piece.box[0] + piece.box[2]):
        beside = [_beside(line[-1], piece) for line in lines]
        if beside and max(beside) >= 0.4:
            lines[int(np.argmax(beside))].append(piece)
        else:
            lines.append([piece])

    def middle(line: list[Piece]) -> float:
        return float(np.mean([piece.box[1] + piece.box[3] for piece in line]))

    return sorted(lines, key=middle)


def _beside(first: Piece, second: Piece) -> float:
    """Return how much of the lower piece's height lies beside the other, up to 1."""
    shared = min(first.box[3], second.box[3]) - max(first.box[1], second.box[1])
    return shared / min(first.height, second.height)

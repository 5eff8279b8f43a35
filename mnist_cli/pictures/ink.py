"""Pixels to ink: how much of it covers each pixel, whatever the colours, the light, the paper."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mnist_cli.arrays import Array
from mnist_cli.errors import PictureError
from mnist_cli.pictures.opening import MIN_CONTRAST

NO_DIGIT = "no digit found"
MIN_DIGIT_PIXELS = 5  # a digit of fewer pixels in height and width cannot be told from a speck
LARGE_SIDE = 100  # pixels; in smaller pictures neither sheets nor ruled lines are looked for

_SMALL_SIDE = 256  # light and colour vary slowly: they are measured on a picture of this side
# Of the strength of full ink: what belongs to a stroke.
_WEAK = 0.2
_STRONG = 0.4  # what some of it must reach
_WEAK_CLEAN = 0.1  # in a picture that a program drew there is no noise to take for ink
_LINES_SIDE = 500  # ruled lines are looked for in a picture of about this side
_DRAWN_NOISE = 1 / 15  # of full ink: more than what saving a drawing as JPEG leaves on its paper
_SHARP = 0.2  # of full ink: by so much strength changes over two small pixels at an edge
_LEAST_CONTRAST = 0.08  # of the paper's light: fainter marks are stains and folds
_LEAST_DEPTH = 12  # of 255: the same, of a bright sheet whose brightest parts might be chalk
_TWO_TONES = 60  # of 255: the least difference of paper and ink in a close crop
_TWO_TONE_NOISE = 0.02  # of full ink: there is too little paper in a close crop to measure it
_EVEN_BORDER = 0.35  # of the picture's contrast: a border that varies less is all paper
_FAINT_LINES = 1.6  # times as strong as ruled lines is ink that strength alone tells from them


@dataclass(frozen=True, eq=False)
class Ink:
    """The ink of a picture.

    ``strength`` (H, W) float32: paper 0, full ink 1. ``mask`` (H, W) bool: what belongs to
    strokes. ``strong`` (H, W) bool: what some of each stroke must reach. ``weak`` is the least
    strength of a stroke, ``floor`` what may still be paper, ``least`` how many pixels a digit is
    long at the least.
    """

    strength: Array
    mask: Array
    strong: Array
    weak: float
    floor: float
    least: float


def find_ink(pixels: Array) -> Ink:
    """Return the ink in upright pixels, (H, W) or (H, W, 3), uint8.

    Raises `PictureError` for a blank picture.
    """
    if max(pixels.shape[:2]) < MIN_DIGIT_PIXELS:
        raise PictureError(NO_DIGIT)
    grey = _grey(_without_desk(pixels))
    low, high = float(grey.min()), float(grey.max())
    if high - low < MIN_CONTRAST:
        raise PictureError(NO_DIGIT)
    paper = float(np.median(_border(grey)))
    farthest = low if paper - low >= high - paper else high
    distance = np.abs(grey - paper)
    on_paper = distance < abs(farthest - paper) / 2
    even = distance <= max(1.5, 0.02 * (high - low))
    strength = np.clip((paper - grey) / np.float32(paper - farthest), 0, 1)
    noise = float(strength[even].std()) if even.any() else 1.0
    is_drawn = bool(
        np.count_nonzero(even) >= 0.75 * np.count_nonzero(on_paper) and noise < _DRAWN_NOISE
    )
    sharp = np.ones(grey.shape, dtype=bool)
    if is_drawn:
        # By a program: as it is, so that MNIST's own pictures stay what they are.
        weak, floor, least = max(_WEAK_CLEAN, 4 * noise), 3 * noise, float(MIN_DIGIT_PIXELS)
    else:
        found = _strength_in_photo(grey)
        if found is not None:
            strength, noise, sharp = found
        elif _is_two_tone(grey, abs(paper - farthest)):
            noise = _TWO_TONE_NOISE
        else:
            raise PictureError(NO_DIGIT)
        weak, floor = max(4 * noise, _WEAK), max(3 * noise, 0.15)
        least = max(MIN_DIGIT_PIXELS, 0.012 * max(grey.shape))  # grains and dust are smaller
    ink = Ink(strength, strength > weak, (strength > _STRONG) & sharp, weak, floor, least)
    return _without_rulings(ink, is_drawn=is_drawn)


# --- Colour to grey ------------------------------------------------------------------------------


def _grey(pixels: Array) -> Array:
    """Return (H, W) float32, 0-255: the colours along the line from paper to ink.

    Usual grey loses yellow ink on white and red ink on green. The direction is the first principal
    component of what stands out from its surroundings.
    """
    if pixels.ndim == 2:
        return pixels.astype(np.float32)
    if (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all():
        return pixels[..., 0].astype(np.float32)
    small = _at_most(pixels, _SMALL_SIDE).astype(np.float32)
    away = (small - _smoothed(small, max(small.shape) / 8)).reshape(-1, 3)
    lengths = (away * away).sum(axis=1)
    standing_out = away[lengths >= np.percentile(lengths, 90)]
    _, axes = np.linalg.eigh(standing_out.T @ standing_out)
    axis = axes[:, -1] * (1 if axes[:, -1].sum() >= 0 else -1)
    axis /= np.abs(axis).sum()  # so that the result keeps to a range of 255
    offset = -255 * axis[axis < 0].sum()
    weights = np.append(axis, offset).astype(np.float32)
    return np.asarray(cv2.transform(pixels.astype(np.float32), weights[None]))


def _at_most(values: Array, side: int) -> Array:
    """Return a picture scaled down by areas until its longer side is at most ``side``."""
    height, width = values.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return values
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA))


def _smoothed(values: Array, sigma: float) -> Array:
    return np.asarray(cv2.GaussianBlur(values, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE))


def _border(grey: Array) -> Array:
    return np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])


# --- A sheet on a desk ---------------------------------------------------------------------------


def _without_desk(pixels: Array) -> Array:
    """Return pixels as if the sheet went on beyond its edges, if one lies on something darker."""
    if min(pixels.shape[:2]) < LARGE_SIDE:
        return pixels
    small = _at_most(pixels, _SMALL_SIDE)
    sheet = _sheet(small)
    if sheet is None:
        return pixels
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (65, 65))
    paper = cv2.morphologyEx(small, cv2.MORPH_CLOSE, kernel, borderType=cv2.BORDER_REPLICATE)
    around = 1 - cv2.erode(sheet, np.ones((3, 3), np.uint8))
    filled = cv2.inpaint(cv2.medianBlur(paper, 5), around, 3, cv2.INPAINT_TELEA)
    size = (pixels.shape[1], pixels.shape[0])
    filled = cv2.resize(filled, size, interpolation=cv2.INTER_LINEAR)
    on_sheet = cv2.resize(sheet, size, interpolation=cv2.INTER_NEAREST) > 0
    return np.where(on_sheet if pixels.ndim == 2 else on_sheet[..., None], pixels, filled)


def _sheet(small: Array) -> Array | None:
    """Return where a bright sheet lies on something darker, (H, W) uint8, 1 there, or None."""
    light = cv2.medianBlur(small if small.ndim == 2 else small.max(axis=2), 5)
    # On a scale of ratios, as shadow is one: a sheet in shadow stays nearer to a sheet in light.
    ratios = np.rint(46 * np.log1p(light.astype(np.float32))).astype(np.uint8)
    _, bright = cv2.threshold(ratios, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    contours, _ = cv2.findContours(bright, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not contours:  # all of it is black
        return None
    outline = max(contours, key=cv2.contourArea)
    hull = cv2.convexHull(outline)
    corners = cv2.approxPolyDP(hull, 0.02 * cv2.arcLength(hull, True), True)
    area = cv2.contourArea(hull)
    left, top, wide, high = cv2.boundingRect(hull)
    height, width = light.shape
    sides_met = (left == 0) + (top == 0) + (left + wide == width) + (top + high == height)
    # A shadow's edge runs from side to side. A bright 0 is not straight: it needs eight corners.
    if (
        sides_met > 1
        or area < 0.1 * light.size
        or len(corners) > 6
        or cv2.contourArea(corners) < 0.92 * area
        or cv2.contourArea(outline) < 0.75 * area
    ):
        return None
    sheet = cv2.fillConvexPoly(np.zeros_like(light), corners, 1)
    sheet = np.asarray(cv2.erode(sheet, np.ones((7, 7), np.uint8), borderValue=1))
    inside = light[sheet > 0]
    written = np.count_nonzero(inside < 0.75 * np.median(inside)) / max(1, inside.size)
    return sheet if 0.0003 < written < 0.4 else None


# --- Grey to strength of ink ---------------------------------------------------------------------


def _strength_in_photo(grey: Array) -> tuple[Array, float, Array] | None:
    """Return the strength of ink (H, W), 0-1, how much the paper's varies, and where it is sharp.

    Light is divided out, since shadow dims ink and paper alike. What varies is a deviation. Sharp
    (H, W), bool, is the neighbourhood of edges, which ink has and light has not. None, if nothing
    stands out.
    """
    if max(grey.shape) >= 400:
        grey = cv2.GaussianBlur(grey, (3, 3), 0)  # the sensor's noise; strokes here are wider
    small = cv2.medianBlur(_at_most(grey, _SMALL_SIDE), 3)
    if not _ink_is_dark(small):
        small, grey = 255 - small, 255 - grey
    light = np.maximum(_paper_light(small), 8)  # below 8 of 255 it is all noise
    edges = cv2.morphologyEx(small, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) / light
    height, width = grey.shape
    strength = 1 - grey / cv2.resize(light, (width, height), interpolation=cv2.INTER_LINEAR)
    # Half of a page or of its border is paper: the middle is paper's value, and what is spread
    # below the middle is paper's noise, whatever ink lies above.
    sample = strength[:: max(1, height // 500), :: max(1, width // 500)]
    middle = float(min(np.median(sample), np.median(_border(strength))))
    noise = 1.4826 * float(np.median(middle - sample[sample <= middle]))
    strength -= np.float32(middle)
    standing_out = strength[strength > max(5 * noise, 0.05)]
    if standing_out.size < MIN_DIGIT_PIXELS:
        return None
    full = float(np.percentile(standing_out, 98))
    if full < max(_LEAST_CONTRAST, 8 * noise) or full * float(np.median(light)) < _LEAST_DEPTH:
        return None
    sharp = cv2.dilate((edges > _SHARP * full).astype(np.uint8), np.ones((5, 5), np.uint8))
    sharp = cv2.resize(sharp, (width, height), interpolation=cv2.INTER_NEAREST)
    return np.clip(strength / full, 0, 1), noise / full, np.asarray(sharp > 0)


def _is_two_tone(grey: Array, contrast: float) -> bool:
    """Return whether most pixels have one of two tones that differ by ``contrast``, 0-255.

    Then paper and ink can be told by tone alone: in a crop so close that paper is not the most of
    it.
    """
    tones = (grey - grey.min()) / np.ptp(grey)
    between = np.mean((tones > 0.3) & (tones < 0.7))
    return bool(contrast >= _TWO_TONES and between <= 0.25)


def _ink_is_dark(small: Array) -> bool:
    """Return whether ink is darker than paper.

    By the border, if that is all paper; else by what stands out sharply, as shadows do not.
    """
    border = _border(small)
    low, high = np.percentile(small, (1, 99))
    if np.subtract(*np.percentile(border, (90, 10))) < _EVEN_BORDER * (high - low):
        paper = float(np.median(border))
        return bool(paper - low >= high - paper)
    side = max(small.shape)
    reach = side // 6 if side >= LARGE_SIDE else side // 2  # a close crop has thick strokes
    around = cv2.medianBlur(small.astype(np.uint8), max(3, reach) | 1)
    away = small / np.maximum(around, 8) - 1
    return bool((away**3).sum() <= 0)


def _closed(small: Array) -> Array:
    """Return a picture with dark ink without it: each stroke as bright as the paper beside it.

    By a closing: what is dark and narrower than a square goes, the edge of a shadow stays. The
    square is twice as wide as one that is wide enough for most of the ink's contrast.
    """
    side = max(small.shape)
    # Pixels: the darkest part of a small digit on a large page.
    most = min(small.size, max(5, small.size // 1600))

    def closed(part: float) -> Array:
        reach = max(3, int(side / part)) | 1
        kernel = np.ones((reach, reach), np.uint8)
        return np.asarray(
            cv2.morphologyEx(small, cv2.MORPH_CLOSE, kernel, borderType=cv2.BORDER_REPLICATE)
        )

    def contrast(part: float) -> float:
        strength = 1 - small / np.maximum(closed(part), 8)
        return float(np.partition(strength.ravel(), -most)[-most:].mean())

    whole = contrast(2)
    wide_enough = next(part for part in (16, 8, 4, 2) if contrast(part) >= 0.7 * whole)
    return closed(wide_enough / 2)


def _paper_light(small: Array) -> Array:
    """Return how bright bare paper would be at each pixel of a picture with dark ink."""
    coarse = _closed(small)
    strength = np.clip(1 - small / np.maximum(coarse, 1), 0, 1)
    _, ink = cv2.threshold(
        (strength * 255).astype(np.uint8), 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU
    )
    ink = cv2.dilate(ink, np.ones((3, 3), np.uint8))
    # The closing follows the brightest specks, the median of what is not ink does not; and unlike
    # a mean, it leaves the edge of a shadow where it is.
    paper = np.where(ink > 0, coarse, small).astype(np.uint8)
    return np.asarray(cv2.medianBlur(paper, max(3, max(small.shape) // 16) | 1).astype(np.float32))


# --- Ruled and squared paper ---------------------------------------------------------------------


def _without_rulings(ink: Ink, *, is_drawn: bool) -> Ink:
    """Return the ink without the lines of ruled and squared paper."""
    if min(ink.mask.shape) < LARGE_SIDE:
        return ink
    mask, strength = ink.mask, ink.strength
    across = _long_lines(mask)
    down = _long_lines(np.ascontiguousarray(mask.T)).T
    lines, rest = mask & (across | down), mask & ~(across | down)
    if not lines.any():
        return ink
    rest = cv2.erode(rest.astype(np.uint8), np.ones((2, 2), np.uint8)) > 0
    if rest.any():
        line, stroke = (float(np.percentile(strength[part], 75)) for part in (lines, rest))
        if stroke > _FAINT_LINES * line:
            weak = float(np.sqrt(line * stroke))
            return Ink(strength, strength > weak, ink.strong, weak, (line + weak) / 2, ink.least)
    removed, high = _line_alone(mask & ~down, across)
    removed_down, wide = _line_alone((mask & ~across).T, down.T)
    removed |= removed_down.T | (mask & across & down)
    # A stroke that crosses a line as thin as itself is cut by it: close the cut.
    kept = (mask & ~removed).astype(np.uint8)
    removed &= cv2.morphologyEx(kept, cv2.MORPH_CLOSE, np.ones((high, 1), np.uint8)) == 0
    removed &= cv2.morphologyEx(kept, cv2.MORPH_CLOSE, np.ones((1, wide), np.uint8)) == 0
    left = cv2.connectedComponentsWithStats((mask & ~removed).astype(np.uint8))[2][1:]
    sizes = left[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].max(axis=1, initial=0)
    # Drawn by a program, a single stroke from edge to edge is a digit: nothing else would be left.
    if is_drawn and sizes.max(initial=0) < max(MIN_DIGIT_PIXELS, 0.08 * min(mask.shape)):
        return ink
    return Ink(strength, mask & ~removed, ink.strong, ink.weak, ink.floor, ink.least)


def _long_lines(mask: Array) -> Array:
    """Return a band (bool) about each thin, nearly level line from border to border.

    By the Hough transform (Duda and Hart, 1972), over the few angles that a page is turned by.
    """
    height, width = mask.shape
    scale = max(1, round(max(height, width) / _LINES_SIDE))
    # Shrunk so that no thin line is lost.
    tall = cv2.dilate(mask.astype(np.uint8), np.ones((scale, 1), np.uint8))
    small = np.ascontiguousarray(tall[::scale, ::scale])
    high, wide = small.shape
    strokes = cv2.morphologyEx(
        small, cv2.MORPH_OPEN, np.ones((max(4, high // 40) + 1, 1), np.uint8)
    )
    small[strokes > 0] = 0
    # One point a column, whatever the thickness: a line's upper edge.
    y, x = np.nonzero(small[1:] > small[:-1])
    bands = np.zeros(mask.shape, np.uint8)
    if len(y) >= 0.5 * wide:
        for slope in np.tan(np.radians(np.arange(-6, 6.01, 0.25))):
            rows = np.rint(y - slope * (x - wide / 2)).astype(np.int64)
            counts = np.bincount(rows[(rows >= 0) & (rows < high)], minlength=high + 1)
            for row in np.flatnonzero(counts[:-1] + counts[1:] >= 0.5 * wide):
                on_line = x[(rows == row) | (rows == row + 1)]
                ends = (on_line < 0.05 * wide).sum(), (on_line > 0.95 * wide).sum()
                if min(ends) >= 0.02 * wide:
                    edges = (row + 1.5 + slope * (end - wide / 2) for end in (0, wide))
                    first, last = (round(edge * scale) for edge in edges)
                    cv2.line(bands, (0, first), (width, last), 1, 3 * scale + 2)
    return bands > 0


def _line_alone(mask: Array, lines: Array) -> tuple[Array, int]:
    """Return the pixels (bool) of level lines where no stroke crosses, and a gap to close.

    A stroke shows by a vertical run of ink longer than the lines are thick.
    """
    columns = np.count_nonzero(lines & mask, axis=0)
    rows = max(1, np.count_nonzero(np.diff(lines.astype(np.int8), axis=0) == 1, axis=0).max())
    thickness = max(1.0, float(np.median(columns[columns > 0])) / rows) if columns.any() else 1.0
    longest = int(2 * thickness) + 2
    kernel = np.ones((longest, 1), np.uint8)
    strokes = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, kernel) > 0
    return lines & mask & ~strokes, longest + 1

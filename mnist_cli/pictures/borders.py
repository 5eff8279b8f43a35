"""Replace by paper what is not the page: frames, dark strips along edges, the desk around a sheet.

All of these would otherwise pass for paper, because they lie where paper is looked for: along the
border of the picture.
"""

from __future__ import annotations

import cv2
import numpy as np

from mnist_cli.arrays import Array

# Pixels: smaller pictures are crops of a digit or a few, so neither the edges of a sheet nor ruled
# lines are searched for.
MIN_PAGE_SIDE = 100

# Pixels of the longer side at which edges are searched for: a frame of one pixel round a large
# picture is still seen.
_EDGE_SIDE = 512
# Degrees: a sheet lies straight within this range where its edge runs along the whole picture.
_EDGE_ANGLES_DEGREES = np.arange(-8, 8.01, 0.5)
_EDGE_STEP = 3  # pixels across which tone must change: the blur of a photo is less
# Fractions: how deep into the picture an edge may lie, how much of the side it must run along, and
# how much of the picture's contrast it must have.
_MAX_EDGE_DEPTH = 0.2
_MIN_EDGE_LENGTH = 0.85
_MIN_EDGE_CONTRAST = 0.2
_MIN_EDGE_LEVELS = 12  # grey levels: less is noise
# Fraction of the shorter side that a frame round a small picture may be thick.
_MAX_FRAME_THICKNESS = 0.12
_MIN_FRAME_CONTRAST = 0.25  # of the picture's contrast
_FRAME_TOLERANCE = 0.1  # of the picture's contrast: tones of one frame
_SHEET_SIDE = 256  # pixels of the longer side at which a sheet is searched for


def without_surroundings(pixels: Array) -> Array:
    """Return pixels with frames, strips and surroundings of a sheet replaced by paper.

    ``pixels`` is uint8, (H, W) or (H, W, 3), and so is the result.
    """
    if min(pixels.shape[:2]) < MIN_PAGE_SIDE:
        return _without_frame(pixels)
    pixels = _without_edges(_without_frame(pixels))
    small = downscaled(pixels, _SHEET_SIDE)
    sheet = _sheet_mask(small)
    if sheet is None:
        return pixels
    # The paper without its ink, by a closing; then continued beyond the edges of the sheet.
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (65, 65))
    paper = cv2.morphologyEx(small, cv2.MORPH_CLOSE, kernel, borderType=cv2.BORDER_REPLICATE)
    outside = 1 - cv2.erode(sheet, np.ones((3, 3), np.uint8))
    filled = cv2.inpaint(cv2.medianBlur(paper, 5), outside, 3, cv2.INPAINT_TELEA)
    return _replaced(pixels, 1 - sheet, filled)


def downscaled(values: Array, side: int) -> Array:
    """Return a picture with its longer side at most ``side`` pixels, by averaging areas."""
    height, width = values.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return values
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA))


def border_of(values: Array, depth: int = 0) -> Array:
    """Return the pixels that lie ``depth`` pixels inside the border of a picture, as one row.

    ``values`` is (H, W, ...); the result is (N, ...).
    """
    if depth:
        values = values[depth:-depth, depth:-depth]
    return np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])


def _replaced(pixels: Array, outside: Array, filled: Array) -> Array:
    """Return pixels (H, W, ...) with those ``outside`` (h, w), uint8, replaced by ``filled``.

    ``filled`` is (h, w, ...), uint8; both are enlarged to H x W.
    """
    size = (pixels.shape[1], pixels.shape[0])
    filled = cv2.resize(filled, size, interpolation=cv2.INTER_LINEAR)
    replaced = cv2.resize(outside, size, interpolation=cv2.INTER_NEAREST) > 0
    return np.where(replaced if pixels.ndim == 2 else replaced[..., None], filled, pixels)


# --- A frame of a few pixels round the picture ---------------------------------------------------


def _without_frame(pixels: Array) -> Array:
    """Return pixels with a frame of one tone along all four sides replaced by what it surrounds."""
    height, width = pixels.shape[:2]
    grey = pixels if pixels.ndim == 2 else pixels.mean(axis=2)
    most = int(_MAX_FRAME_THICKNESS * min(height, width))
    middles = (
        grey[:, width // 2],
        grey[::-1, width // 2],
        grey[height // 2],
        grey[height // 2, ::-1],
    )
    if any(len(np.unique(middle[: most + 1])) == 1 for middle in middles):
        return pixels  # no edge between a frame and what it surrounds
    corner_tones = grey[[0, 0, -1, -1], [0, -1, 0, -1]]
    contrast = float(grey.max()) - float(grey.min())
    tolerance = max(_FRAME_TOLERANCE * contrast, 1.0)
    tone = float(np.median(corner_tones))
    for depth in range(1, most + 1):
        if np.mean(np.abs(border_of(grey, depth - 1) - tone) <= tolerance) < 1:
            return pixels  # neither a frame nor uniform paper
        inner = border_of(grey, depth)
        differs = np.abs(inner - tone) > _MIN_FRAME_CONTRAST * contrast
        if differs.mean() >= 0.9:
            inside = grey[depth:-depth, depth:-depth]
            # A 1 that fills its crop is surrounded by paper, and has nothing in it.
            if float(np.ptp(inside)) < _MIN_FRAME_CONTRAST * contrast:
                return pixels
            paper = np.median(border_of(pixels, depth), axis=0)
            framed = np.empty_like(pixels)
            framed[:] = np.rint(paper).astype(np.uint8)
            framed[depth:-depth, depth:-depth] = pixels[depth:-depth, depth:-depth]
            return framed
    return pixels


# --- Strips along the edges ----------------------------------------------------------------------


def _without_edges(pixels: Array) -> Array:
    """Return pixels with strips of another tone along their edges replaced by paper.

    A scanner's dark strip, or a desk seen beside a sheet: it is bounded by a straight edge along a
    whole side, nearly parallel to it.
    """
    small = downscaled(pixels, _EDGE_SIDE)
    grey = small.astype(np.float32) if small.ndim == 2 else small.mean(axis=2, dtype=np.float32)
    sides = [np.rot90(grey, quarter) for quarter in range(4)]
    if all(_is_level(side) for side in sides):
        return pixels
    low, high = np.percentile(grey, (1, 99))
    least = max(_MIN_EDGE_CONTRAST * float(high - low), _MIN_EDGE_LEVELS)
    outside = np.zeros(grey.shape, np.uint8)
    for quarter, side in enumerate(sides):
        line = None if _is_level(side) else _edge_line(side, least)
        if line is not None:
            rows = np.arange(side.shape[0])[:, None]
            np.rot90(outside, quarter)[rows <= line] = 1
    if not outside.any() or outside.all():
        return pixels
    # The paper: what is typical of a neighbourhood, whichever is lighter, ink or paper.
    filled = cv2.medianBlur(cv2.inpaint(small, outside, 3, cv2.INPAINT_TELEA), 41)
    return _replaced(pixels, outside, filled)


def _is_level(grey: Array) -> bool:
    """Return whether typical tones along the top of ``grey`` (H, W) show no edge, as on bare paper.

    An edge along most of a side changes the median of the rows that lie beyond it.
    """
    rows = np.median(grey[: max(1, int(_MAX_EDGE_DEPTH * len(grey)) + _EDGE_STEP), ::3], axis=1)
    return bool(np.ptp(rows) < _MIN_EDGE_LEVELS)


def _edge_line(grey: Array, least: float) -> Array | None:
    """Return the rows (W,) of the deepest edge along the top of ``grey`` (H, W), or None.

    ``least`` is the change of tone, in grey levels, that makes an edge.
    """
    height, width = grey.shape
    depth = max(2 * _EDGE_STEP, int(_MAX_EDGE_DEPTH * height))
    # The row above the picture repeats its first one: so a frame of one pixel has an edge, too.
    top = np.vstack([grey[:1]] * (_EDGE_STEP - 1) + [grey[: depth + _EDGE_STEP]])
    change = top[_EDGE_STEP:] - top[:-_EDGE_STEP]
    center = (width - 1) / 2
    best: tuple[float, Array] | None = None
    for sign in (1, -1):
        y, x = np.nonzero(sign * change > least)
        if len(y) < _MIN_EDGE_LENGTH * width:
            continue
        for slope in np.tan(np.radians(_EDGE_ANGLES_DEGREES)):
            rows = np.rint(y - slope * (x - center)).astype(np.int64)
            # Each column counts once in a row, however its edge is blurred.
            keys = np.unique((rows + height) * width + x)
            votes = np.bincount(keys // width, minlength=3 * height)
            row = int(votes.argmax())
            if votes[row] < _MIN_EDGE_LENGTH * width:
                continue
            intercept = row - height
            line = intercept + slope * (np.arange(width) - center)
            if _tones_differ(grey, line, least) and (best is None or votes[row] > best[0]):
                best = (float(votes[row]), line + _EDGE_STEP)
    return None if best is None else best[1]


def _tones_differ(grey: Array, line: Array, least: float) -> bool:
    """Return whether what lies above a line of rows (W,) differs in tone from what lies below.

    A ruled line has an edge, too, but paper on both sides of it.
    """
    rows = np.arange(grey.shape[0])[:, None]
    above = grey[rows <= line]
    below = grey[(rows > line + _EDGE_STEP) & (rows <= line + 4 * _EDGE_STEP)]
    if not above.size or not below.size:
        return False
    return bool(abs(float(np.median(above)) - float(np.median(below))) > least)


# --- A sheet of paper on darker surroundings -----------------------------------------------------


def _sheet_mask(small: Array) -> Array | None:
    """Return the mask (H, W) uint8, 1 on a bright sheet on darker surroundings, or None.

    The sheet is the convex hull of the largest bright region, if that is a polygon of few corners
    with some dark writing on it.
    """
    brightness = cv2.medianBlur(small if small.ndim == 2 else small.max(axis=2), 5)
    # Logarithmic, because a shadow multiplies: paper in shadow then stays nearer to paper in light
    # than to the surroundings. 46 maps the logarithm of 256 to 255.
    logarithms = np.rint(46 * np.log1p(brightness.astype(np.float32))).astype(np.uint8)
    _, bright = cv2.threshold(logarithms, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    contours, _ = cv2.findContours(bright, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not contours:  # the whole picture is black
        return None
    outline = max(contours, key=cv2.contourArea)
    hull = cv2.convexHull(outline)
    corners = cv2.approxPolyDP(hull, 0.02 * cv2.arcLength(hull, True), True)
    area = cv2.contourArea(hull)
    left, top, box_width, box_height = cv2.boundingRect(hull)
    height, width = brightness.shape
    touches = (left == 0, top == 0, left + box_width == width, top + box_height == height)
    # A shadow's edge runs from one side of the picture to another, so a region that touches two
    # sides may be light, not a sheet. A bright 0 has round sides: they take eight corners.
    if (
        sum(touches) > 1
        or area < 0.1 * brightness.size
        or len(corners) > 6
        or cv2.contourArea(corners) < 0.92 * area
        or cv2.contourArea(outline) < 0.75 * area
    ):
        return None
    sheet = cv2.fillConvexPoly(np.zeros_like(brightness), corners, 1)
    sheet = np.asarray(cv2.erode(sheet, np.ones((7, 7), np.uint8), borderValue=1))
    inside = brightness[sheet > 0]
    written = np.count_nonzero(inside < 0.75 * np.median(inside)) / max(1, inside.size)
    return sheet if 0.0003 < written < 0.4 else None

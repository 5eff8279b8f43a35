"""Find the lines of ruled and squared paper in a mask of dark pixels.

Horizontal lines only: transpose the mask for vertical ones.
"""

from __future__ import annotations

import cv2
import numpy as np

from mnist_cli.arrays import Array

# Pixels: the mask is downscaled to about this longer side before the search. A line keeps at least
# one pixel of thickness, and the search takes a fraction of the time.
_HOUGH_SIDE = 500
# Degrees: pages lie straight within this range in most photos. At a quarter of a degree a line of
# `_HOUGH_SIDE` pixels deviates by at most 1 pixel at its ends.
_ANGLES_DEGREES = np.arange(-6, 6.01, 0.25)
# Fractions of the width. A line must be visible along `_MIN_VISIBLE` of the width, with pixels on
# `_MIN_AT_END` of it within `_END` of both borders: a digit's bar does not reach both.
_MIN_VISIBLE = 0.5
_END = 0.05
_MIN_AT_END = 0.02


def long_line_bands(mask: Array) -> Array:
    """Return bands (H, W), bool, around the thin, nearly horizontal lines from border to border.

    ``mask`` (H, W), bool, is True at dark pixels. Uses the Hough transform (Duda and Hart, 1972)
    over the few angles at which a page may lie.
    """
    height, width = mask.shape
    scale = max(1, round(max(height, width) / _HOUGH_SIDE))
    # Dilate before subsampling, so that no thin line is lost.
    dilated = cv2.dilate(mask.astype(np.uint8), np.ones((scale, 1), np.uint8))
    small = np.ascontiguousarray(dilated[::scale, ::scale])
    small_height, small_width = small.shape
    # Remove what is too thick, vertically, to be a line: an opening keeps just that.
    kernel = np.ones((max(4, small_height // 40) + 1, 1), np.uint8)
    small[cv2.morphologyEx(small, cv2.MORPH_OPEN, kernel) > 0] = 0
    # One vote per column, whatever the thickness: the upper edge of a line.
    y, x = np.nonzero(small[1:] > small[:-1])
    bands = np.zeros(mask.shape, np.uint8)
    if len(y) < _MIN_VISIBLE * small_width:
        return bands > 0
    for slope in np.tan(np.radians(_ANGLES_DEGREES)):
        rows = np.rint(y - slope * (x - small_width / 2)).astype(np.int64)
        is_inside = (rows >= 0) & (rows < small_height)
        votes = np.bincount(rows[is_inside], minlength=small_height + 1)
        for row in np.flatnonzero(votes[:-1] + votes[1:] >= _MIN_VISIBLE * small_width):
            on_line = x[(rows == row) | (rows == row + 1)]
            at_left = (on_line < _END * small_width).sum()
            at_right = (on_line > (1 - _END) * small_width).sum()
            if min(at_left, at_right) >= _MIN_AT_END * small_width:
                ends = (row + 1.5 + slope * (end - small_width / 2) for end in (0, small_width))
                first, last = (round(end * scale) for end in ends)
                cv2.line(bands, (0, first), (width, last), 1, 3 * scale + 2)
    return bands > 0


def line_pixels(mask: Array, bands: Array) -> tuple[Array, int]:
    """Return the line pixels (H, W), bool, that no stroke crosses, and the gap to close in pixels.

    ``mask`` (H, W), bool, is True at ink, ``bands`` is what `long_line_bands` found. A vertical run
    of ink clearly longer than the lines are thick is a stroke. The gap is what removal of a line
    leaves at most where a stroke as thin as the line crosses it.
    """
    columns = np.count_nonzero(bands & mask, axis=0)
    starts = np.diff(bands.astype(np.int8), axis=0) == 1
    lines_per_column = max(1, np.count_nonzero(starts, axis=0).max())
    thickness = 1.0
    if columns.any():
        thickness = max(1.0, float(np.median(columns[columns > 0])) / lines_per_column)
    longest_run = int(2 * thickness) + 2
    kernel = np.ones((longest_run, 1), np.uint8)
    strokes = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, kernel) > 0
    return bands & mask & ~strokes, longest_run + 1

"""The sheet on which a writer fills in ten examples of each digit, and how it is read.

`draw_template` prints it: ten rows of ten boxes, one digit a row, with an ArUco marker in each
corner (Garrido-Jurado et al., "Automatic generation and detection of highly reliable fiducial
markers under occlusion", Pattern Recognition 2014). `read_template` finds the markers in a photo or
scan, however it is turned or tilted, and cuts out the boxes.

Lengths are millimetres on the sheet; positions are (x, y) from its upper left corner.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from mnist_cli.arrays import CLASSES, Array
from mnist_cli.errors import PictureError
from mnist_cli.pictures.normalise import prepare
from mnist_cli.pictures.opening import Source, open_picture
from mnist_cli.records import replacing

SUFFIXES = (".pdf", ".png")

_WIDTH, _HEIGHT = 210, 297  # A4
_BOX_WIDTH, _BOX_HEIGHT = 16, 22
_BOXES_IN_ROW = 10
_GRID = (30, 38)  # the upper left corner of all boxes
_LABEL_X = 20  # the middle of the printed digits
_MARKER_SIDE = 12
# The upper left corner of each marker, in the order of their numbers.
_MARKERS = ((10, 10), (188, 10), (188, 275), (10, 275))
_LINES = (
    (16, "Write each digit ten times, one in a box, with a dark pen."),
    (22, "Leave boxes empty rather than strike out."),
    (281, "Photograph or scan the whole sheet with its four corner marks, then"),
    (287, "mnist collect PHOTO"),
)

_PRINTED_PIXELS_PER_MM = 12
_MM_PER_INCH = 25.4
_GREY = 205  # of the boxes' lines: seen by a writer, faint to a camera

# An A4 sheet that fills a picture of 1400 pixels has 4.7 pixels per millimetre.
_READ_PIXELS_PER_MM = 6
# Cut off each side of a box, so that its line is not taken for ink: more than a sheet's bending
# shifts it.
_INSET = 1.5
# Grey levels of 255 between paper and ink, below which a box is empty.
_MIN_CONTRAST = 30


def draw_template(path: Path) -> None:
    """Write the empty sheet, A4, as PDF or PNG. Raises `OutputError`."""
    from PIL import Image

    with replacing(path) as temporary:
        Image.fromarray(_template()).save(
            temporary, resolution=_PRINTED_PIXELS_PER_MM * _MM_PER_INCH
        )


def read_template(source: Source) -> list[tuple[int, int, Array]]:
    """Return the filled-in boxes of a sheet: digit, column from 1, and the box, (H, W), uint8.

    Raises `PictureError` for a picture that cannot be read, without the four markers of the
    template, or with no digit in it.
    """
    sheet = _upright_sheet(open_picture(source).pixels)
    boxes = [
        (digit, column + 1, box)
        for digit in range(CLASSES)
        for column in range(_BOXES_IN_ROW)
        if _is_filled(box := _cut_box(sheet, digit, column))
    ]
    if not boxes:
        raise PictureError("the template, but empty: no box has a digit in it")
    return boxes


def _template() -> Array:
    """Return the empty sheet as it is printed, (H, W), uint8."""
    from matplotlib import font_manager
    from PIL import Image, ImageDraw, ImageFont

    scale = _PRINTED_PIXELS_PER_MM
    page = Image.new("L", (_WIDTH * scale, _HEIGHT * scale), 255)
    draw = ImageDraw.Draw(page)
    font = font_manager.findfont("DejaVu Sans")
    small, large = (ImageFont.truetype(font, size * scale) for size in (4, 9))
    for y, text in _LINES:
        draw.text((_WIDTH / 2 * scale, y * scale), text, fill=0, font=small, anchor="mm")
    for row in range(CLASSES):
        left, top = _GRID[0], _GRID[1] + row * _BOX_HEIGHT
        middle = (_LABEL_X * scale, (top + _BOX_HEIGHT / 2) * scale)
        draw.text(middle, str(row), fill=0, font=large, anchor="mm")
        for column in range(_BOXES_IN_ROW):
            x = left + column * _BOX_WIDTH
            corners = [(x * scale, top * scale)]
            corners.append(((x + _BOX_WIDTH) * scale, (top + _BOX_HEIGHT) * scale))
            draw.rectangle(corners, outline=_GREY, width=scale // 3)
    for number, (x, y) in enumerate(_MARKERS):
        marker = cv2.aruco.generateImageMarker(_dictionary(), number, _MARKER_SIDE * scale)
        page.paste(Image.fromarray(marker), (x * scale, y * scale))
    return np.asarray(page)


def _dictionary() -> cv2.aruco.Dictionary:
    return cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_4X4_50)


def _upright_sheet(pixels: Array) -> Array:
    """Return the sheet in a picture, grey, flat and upright. Raises `PictureError`."""
    grey = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    corners, numbers, _ = cv2.aruco.ArucoDetector(_dictionary()).detectMarkers(grey)
    found = (
        {
            int(number): marker.reshape(4, 2)
            for number, marker in zip(np.ravel(numbers), corners, strict=True)
            if number < len(_MARKERS)
        }
        if numbers is not None
        else {}
    )
    if len(found) < len(_MARKERS):
        raise PictureError(
            f"not a whole template: {len(found)} of its {len(_MARKERS)} corner marks are seen; "
            "print one with --template, and photograph all of it, flat and sharp"
        )
    square = _MARKER_SIDE * np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    printed = np.concatenate([_MARKERS[number] + square for number in found])
    seen = np.concatenate(list(found.values()))
    scale = _READ_PIXELS_PER_MM
    matrix, _ = cv2.findHomography(seen, (printed * scale).astype(np.float32))
    if matrix is None:
        raise PictureError("not a flat template: its corner marks are in a line")
    size = (_WIDTH * scale, _HEIGHT * scale)
    return np.asarray(cv2.warpPerspective(grey, matrix, size, flags=cv2.INTER_CUBIC))


def _cut_box(sheet: Array, row: int, column: int) -> Array:
    """Return the inside of a box, (114, 78), uint8."""
    left, top = _GRID[0] + column * _BOX_WIDTH, _GRID[1] + row * _BOX_HEIGHT
    x_range, y_range = (
        slice(
            round((start + _INSET) * _READ_PIXELS_PER_MM),
            round((start + side - _INSET) * _READ_PIXELS_PER_MM),
        )
        for start, side in ((left, _BOX_WIDTH), (top, _BOX_HEIGHT))
    )
    return sheet[y_range, x_range]


def _is_filled(box: Array) -> bool:
    """Return whether a box has ink in it."""
    if np.median(box) - np.percentile(box, 1) < _MIN_CONTRAST:
        return False
    try:
        prepare(box, single=True)
    except PictureError:
        return False
    return True

"""Make images that show no digit, so that a network can learn to reject what is none.

Letters and signs in the fonts that Matplotlib brings along, pairs and halves of digits, scribbles,
and simple shapes. All are brought into MNIST's form, as a picture would be. Characters that look
like a digit in some handwriting (o, l, z, ...) are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from mnist_cli.arrays import IMAGE_SIZE, Array
from mnist_cli.pictures.normalise import as_mnist

# Non-digits per training digit: 11,000 for MNIST's 55,000.
SHARE = 0.2

_FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic"),
)
_CHARACTERS = (
    "ACEFGHJKLMNPRTUVWXYacdefhijkmnprtuvwxy"
    "αβγδεζηθκλμνξπρστφχψωΓΔΛΞΠΣΦΨΩ"
    "вджийклмнптфхцшщыэюяБГДЖИЙКЛМПФЦШЩЭЮЯ"
    "+-÷=*#%&@?<>^~$€§±≠≈∞√∑→←↑↓✓"
)
_FONT_PIXELS = 64
_CANVAS_SIDE = 96  # pixels
# Ranges of the distortions, each drawn uniformly.
_ROTATION_DEGREES = 15.0  # to either side
_SLANT = 0.3  # horizontal displacement per pixel of height, to either side
_MAX_STRETCH = 1.3  # of the width, or its inverse

# Digits whose left or right half looks like no digit.
_HALVES = ((0, "left"), (0, "right"), (2, "left"), (2, "right"), (3, "left"), (8, "left"))


def make_non_digits(count: int, images: Array, labels: Array, rng: np.random.Generator) -> Array:
    """Return ``count`` images (count, 28, 28), uint8, ink 255, that show no digit.

    ``images`` (N, 28, 28), uint8, with ``labels`` (N,), are the digits from which pairs and halves
    are made.
    """
    fonts = _open_fonts()
    halves = [np.flatnonzero(labels == digit) for digit, _ in _HALVES]

    def glyph() -> Array:
        return _distorted(_glyph(fonts, rng), rng)

    def pair() -> Array:
        first, second = images[rng.integers(0, len(images), 2)]
        return _pair(first, second, rng)

    def half() -> Array:
        number = int(rng.integers(len(_HALVES)))
        if not len(halves[number]):
            return glyph()
        return _half(images[rng.choice(halves[number])], _HALVES[number][1])

    # Half of all are characters, the commonest neighbours of digits.
    makers: tuple[Callable[[], Array], ...] = (
        *(glyph, glyph, glyph, glyph),
        *(pair, half, lambda: _scribble(rng), lambda: _distorted(_shape(rng), rng)),
    )
    made = np.empty((count, IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
    for index in range(count):
        canvas = makers[index % len(makers)]()
        made[index] = as_mnist(canvas)
    return made


def _open_fonts() -> list[Callable[[str], Array]]:
    """Return functions that draw a character as ink (H, W), float32, 0-1."""
    import matplotlib as mpl  # only for its fonts
    from PIL import ImageFont

    folder = Path(mpl.get_data_path()) / "fonts" / "ttf"
    fonts = [ImageFont.truetype(folder / f"{name}.ttf", _FONT_PIXELS) for name in _FONTS]

    def drawer(font: ImageFont.FreeTypeFont) -> Callable[[str], Array]:
        def draw(character: str) -> Array:
            mask = font.getmask(character)
            ink: Array = np.array(mask, dtype=np.float32).reshape(mask.size[::-1]) / 255
            return ink

        return draw

    return [drawer(font) for font in fonts]


def _glyph(fonts: Sequence[Callable[[str], Array]], rng: np.random.Generator) -> Array:
    character = _CHARACTERS[int(rng.integers(len(_CHARACTERS)))]
    ink = fonts[int(rng.integers(len(fonts)))](character)
    canvas = np.zeros((_CANVAS_SIDE, _CANVAS_SIDE), dtype=np.float32)
    height, width = (min(size, _CANVAS_SIDE) for size in ink.shape)
    top, left = (_CANVAS_SIDE - height) // 2, (_CANVAS_SIDE - width) // 2
    canvas[top : top + height, left : left + width] = ink[:height, :width]
    if rng.random() < 0.3:  # drawn by a pen of one width, as people write
        thin = _skeleton(canvas > 0.5)
        radius = int(rng.integers(1, 4))
        canvas = cv2.dilate(thin, _disc(radius)).astype(np.float32)
    return canvas


def _skeleton(mask: Array) -> Array:
    """Return the morphological skeleton (H, W), uint8, 1 on the middle lines of a mask."""
    remaining = mask.astype(np.uint8)
    skeleton = np.zeros_like(remaining)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    while remaining.any():
        eroded = cv2.erode(remaining, cross)
        skeleton = np.asarray(cv2.max(skeleton, cv2.subtract(remaining, cv2.dilate(eroded, cross))))
        remaining = np.asarray(eroded)
    return np.asarray(cv2.morphologyEx(skeleton, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)))


def _disc(radius: int) -> Array:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2))


def _distorted(canvas: Array, rng: np.random.Generator) -> Array:
    """Return ink (H, W) rotated, slanted, stretched, and thinner or thicker."""
    angle = np.deg2rad(rng.uniform(-_ROTATION_DEGREES, _ROTATION_DEGREES))
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    stretch = _MAX_STRETCH ** rng.uniform(-1, 1)
    matrix = 0.8 * rotation @ np.array([[stretch, rng.uniform(-_SLANT, _SLANT)], [0, 1 / stretch]])
    middle = np.full(2, _CANVAS_SIDE / 2)
    moved = np.c_[matrix, middle - matrix @ middle]
    distorted = cv2.warpAffine(canvas, moved, canvas.shape[::-1])
    change = int(rng.integers(-2, 4))  # of the stroke width, in pixels
    if change > 0:
        distorted = cv2.dilate(distorted, np.ones((change + 1,) * 2, np.uint8))
    elif change < 0:
        thinner = cv2.erode(distorted, np.ones((1 - change,) * 2, np.uint8))
        # Fonts have strokes that erosion removes altogether.
        distorted = thinner if thinner.sum() > 0.4 * distorted.sum() else distorted
    return _never_empty(np.asarray(distorted))


def _never_empty(canvas: Array) -> Array:
    """Return ink with at least one full pixel: an empty image has no bounding box."""
    if canvas.max() < 0.5:
        canvas = canvas.copy()
        canvas[canvas.shape[0] // 2, canvas.shape[1] // 2] = 1
    return canvas


def _pair(first: Array, second: Array, rng: np.random.Generator) -> Array:
    """Return two digits side by side, touching or nearly so, as ink (H, W), float32, 0-1."""
    canvas = np.zeros((2 * IMAGE_SIZE, 3 * IMAGE_SIZE), dtype=np.float32)
    canvas[14 : 14 + IMAGE_SIZE, :IMAGE_SIZE] = first
    end = np.flatnonzero(first.any(axis=0))[-1]
    left = np.flatnonzero(second.any(axis=0))[0]
    start = max(0, int(end - left + rng.integers(0, 3)))
    top = 14 + int(rng.integers(-4, 5))
    region = canvas[top : top + IMAGE_SIZE, start : start + IMAGE_SIZE]
    np.maximum(region, second, out=region)
    return canvas / 255


def _half(image: Array, side: str) -> Array:
    """Return the left or right half of a digit as ink (H, W), float32, 0-1."""
    columns = np.flatnonzero(image.any(axis=0))
    middle = (columns[0] + columns[-1] + 1) // 2
    ink = image.astype(np.float32) / 255
    if side == "left":
        ink[:, middle:] = 0
    else:
        ink[:, :middle] = 0
    return _never_empty(ink)


def _scribble(rng: np.random.Generator) -> Array:
    """Return one to three long random curves, as ink (H, W), float32, 0-1."""
    canvas = np.zeros((_CANVAS_SIDE, _CANVAS_SIDE), dtype=np.uint8)
    for _ in range(rng.integers(1, 4)):
        knots = rng.uniform(0.1, 0.9, (int(rng.integers(7, 12)), 2)) * _CANVAS_SIDE
        # A smooth curve through the middles of the polygon: corners cut twice (Chaikin, 1974).
        for _ in range(3):
            knots = np.stack(
                [0.75 * knots[:-1] + 0.25 * knots[1:], 0.25 * knots[:-1] + 0.75 * knots[1:]], axis=1
            ).reshape(-1, 2)
        cv2.polylines(
            canvas, [np.int32(knots)], False, 255, int(rng.integers(3, 9)), lineType=cv2.LINE_AA
        )
    return canvas.astype(np.float32) / 255


def _shape(rng: np.random.Generator) -> Array:
    """Return a frame, a disc, a block, a cross, a triangle, a grid or bars, as ink (H, W)."""
    canvas = np.zeros((_CANVAS_SIDE, _CANVAS_SIDE), dtype=np.uint8)
    low, high = 16, _CANVAS_SIDE - 16
    thickness = int(rng.integers(3, 10))
    flat = int(rng.integers(0, 24))
    kind = rng.integers(7)
    if kind == 0:
        cv2.rectangle(canvas, (low, low + flat), (high, high - flat), 255, thickness)
    elif kind == 1:
        cv2.circle(canvas, (48, 48), int(rng.integers(10, 30)), 255, -1)
    elif kind == 2:
        cv2.rectangle(canvas, (low, low + flat), (high, high - flat), 255, -1)
    elif kind == 3:
        cv2.line(canvas, (low, low + flat), (high, high - flat), 255, thickness)
        cv2.line(canvas, (low, high - flat), (high, low + flat), 255, thickness)
    elif kind == 4:
        corners = np.array([[rng.integers(low, high), low], [low, high - flat], [high, high]])
        cv2.polylines(canvas, [np.int32(corners)], True, 255, thickness, lineType=cv2.LINE_AA)
    elif kind == 5:
        for position in range(low, high + 1, int(rng.integers(16, 33))):
            cv2.line(canvas, (position, low), (position, high), 255, min(5, thickness))
            cv2.line(canvas, (low, position), (high, position), 255, min(5, thickness))
    else:
        for position in range(low, high, int(rng.integers(thickness + 8, 36))):
            cv2.line(canvas, (low, position), (high, position), 255, thickness)
    return canvas.astype(np.float32) / 255

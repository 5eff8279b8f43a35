"""A person's picture to digits as MNIST's were made: 28x28, white ink on black, 20 pixels high.

MNIST's makers took black-and-white scans, fitted each digit into 20x20 pixels (aspect kept,
antialiased) and put its centre of mass in the centre of 28x28 (LeCun et al., 1998). A model that
learned from those reads a photo only if the photo is brought to the same form. The way there:

1. `open_picture`: any file, array or PIL image to upright pixels on white, large ones shrunk.
2. `_grey`: the colour direction in which ink and paper differ most.
3. `_ink_strength`: paper to 0, ink to 1, uneven light divided out.
4. `_rulings`: the lines of ruled and squared paper taken away.
5. `_group`: pieces of ink to digits: broken strokes joined, touching digits split.
6. `_as_mnist`: one digit's ink to 28x28.

Pillow opens, OpenCV works. Coordinates are (x, y) or boxes (left, top, right, bottom), in pixels.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeAlias

import cv2
import numpy as np
from PIL import Image

from mnist_cli.architectures import IMAGE_SIZE, Array
from mnist_cli.errors import PictureError

if TYPE_CHECKING:
    from collections.abc import Iterator

Box: TypeAlias = tuple[int, int, int, int]
Source: TypeAlias = "str | os.PathLike[str] | bytes | Array | Image.Image"
# (N, 28, 28) uint8 -> probabilities (N, 10): evidence where the shape alone does not decide.
Classify: TypeAlias = Callable[[Array], Array]

# Formats by their first bytes: only what people's cameras, phones, scanners and paint programs
# write. Pillow reads some fifty more, one of which starts a program (EPS).
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"RIFF", "WEBP"),
    *((b"P%d" % kind, "PPM") for kind in range(1, 7)),
)
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WebP")

# A picture of 20,000 x 20,000 is still read; above it a file is refused by its header alone.
MAX_PIXELS = 400_000_000
# Pictures above this are decoded one at a time, so that threads do not add up their memory.
_LARGE_PIXELS = 40_000_000
# A page of 40 lines has strokes of 2 pixels at this length of side; a phone's photo is shrunk.
_WORKING_SIDE = 2000
_SMALL_SIDE = 256  # light and colour vary slowly: they are measured on a picture of this side

NO_DIGIT = "no digit found"

_DIGIT_SIDE = 20  # MNIST's: the longer side of a digit
_FINE_SIDE = 4 * _DIGIT_SIDE  # strokes are measured and changed at four times its size
# Of the strength of full ink: what belongs to a stroke, and what some of it must reach.
_WEAK = 0.2
_WEAK_CLEAN = 0.1  # in a picture that a program drew there is no noise to take for ink
_STRONG = 0.4
_FAINTEST = 0.4  # of full ink: the fainter parts of a digit are strengthened from here
_SPECK = 0.08  # of a digit's height: smaller pieces are dirt
_MOST_STROKES = 4.5  # met by a line through a digit, on average: 8 and 5 have up to 3
_FLATTEST = 5  # width by height: the bar of a 5 is shorter, a stray line flatter
_RULED_SIDE = 100  # pixels; ruled lines in smaller pictures cannot be told from strokes
# Width by height. Of MNIST's digits 3% are wider than 1.2 and 0.1% wider than 1.67.
_WIDE = 1.2
_VERY_WIDE = 1.7
# Probabilities: a part that is clearly a digit, a whole that is doubtful.
_CLEAR = 0.9
_DOUBTFUL = 0.8
# Stroke widths in pixels of the final picture. Of MNIST's test digits 0.1% are thinner than 1.6
# and 0.1% thicker than 6.7; the median is 3.0. Beyond, strokes are brought to the nearer target.
_THINNEST, _THIN = 1.6, 2.8
_THICKEST, _THICK = 6.7, 5.0
# Of 255. Less difference than this between paper and ink is a blank sheet.
_MIN_CONTRAST = 8
_MIN_DIGIT_PIXELS = 5  # a digit of fewer pixels in height and width cannot be told from a speck
_MAX_PIECES = 400  # more pieces of ink are a texture, not digits

_EXIF_ORIENTATION = 0x0112
_pillow_limit = threading.Lock()
_one_large = threading.Lock()


@dataclass(frozen=True, eq=False)
class PreparedDigit:
    """One digit of a picture: ``image`` (28, 28) uint8, ink 255, and its box in the picture.

    ``box`` is (left, top, right, bottom) in the upright picture's own pixels, right and bottom
    outside; ``line`` counts lines of writing from 0.
    """

    image: Array
    box: Box
    line: int


@dataclass(frozen=True, eq=False)
class Picture:
    """Upright ``pixels``, uint8, (H, W) or (H, W, 3); the original is ``factor`` times as large."""

    pixels: Array
    factor: float


@dataclass(frozen=True, eq=False)
class _Ink:
    """``strength`` (H, W) float32: paper 0, full ink 1.

    ``weak`` is the least strength of a stroke, ``floor`` what may still be paper, ``least``
    how many pixels a digit is long at the least.
    """

    strength: Array
    weak: float
    floor: float
    least: float


@dataclass(frozen=True, eq=False)
class _Piece:
    """Some of the ink, to be one digit: its ``mask`` (bool) within ``box``."""

    mask: Array
    box: Box

    @property
    def width(self) -> int:
        return self.box[2] - self.box[0]

    @property
    def height(self) -> int:
        return self.box[3] - self.box[1]


def prepare(
    source: Source, *, single: bool = False, classify: Classify | None = None
) -> list[PreparedDigit]:
    """Return the digits of a picture in reading order, each as MNIST would hold it.

    ``single`` takes all ink as one digit. ``classify`` decides where shapes do not: whether wide
    ink is two digits that touch. Raises `PictureError` for what cannot be read or shows no digit.
    """
    picture = open_picture(source)
    ink = _ink_strength(_grey(picture.pixels))
    pieces = _group(ink, single=single, classify=classify)
    if not pieces:
        raise PictureError(NO_DIGIT)
    prepared = []
    for number, line in enumerate(_lines(pieces)):
        for piece in line:
            box = _scaled(piece.box, picture.factor)
            prepared.append(PreparedDigit(_render(ink, piece), box, number))
    return prepared


# --- 1. Opening ----------------------------------------------------------------------------------


def open_picture(source: Source) -> Picture:
    """Return the upright pixels of a path, a file's bytes, an array or a PIL image.

    Arrays are (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); numbers in 0-1 or 0-255, others are
    stretched. Raises `PictureError`.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _decoded(source)
    if not isinstance(source, (str, bytes, os.PathLike)):
        raise PictureError(
            f"expected a path, bytes, an array or a PIL image, not {type(source).__name__}"
        )
    try:
        if isinstance(source, bytes):
            return _from_file(io.BytesIO(source))
        path = Path(os.fsdecode(source))
        if not path.exists():
            raise PictureError("there is no such file")
        if not path.is_file():
            raise PictureError("not a file")
        with path.open("rb") as file:
            return _from_file(file)
    except OSError as error:
        raise PictureError(f"cannot be read ({error.strerror or _brief(error)})") from error


def _from_file(file: IO[bytes]) -> Picture:
    start = file.read(16)
    if not start:
        raise PictureError("the file is empty (0 bytes)")
    kind = next((kind for magic, kind in _MAGIC if start.startswith(magic)), None)
    if kind is None or (kind == "WEBP" and start[8:12] != b"WEBP"):
        raise PictureError(f"not a picture ({', '.join(FORMATS)} are read)")
    try:
        with _any_size():
            image = Image.open(file, formats=(kind,))
        with image, _silenced() if kind == "TIFF" else nullcontext():
            return _decoded(image)
    except PictureError:
        raise
    except Exception as error:  # a damaged file makes Pillow's decoders raise almost anything
        raise PictureError(f"a damaged {kind} file ({_brief(error)})") from error


@contextmanager
def _any_size() -> Iterator[None]:
    """Let Pillow read the header of a picture of any size: `MAX_PIXELS` decides after it."""
    with _pillow_limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep libtiff from telling of faults on standard error, which it does past Python."""
    try:
        kept = os.dup(2)
    except OSError:  # there is no standard error
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _brief(error: BaseException) -> str:
    """Return what went wrong in one short line without paths or addresses."""
    said = " ".join(str(error).split())
    return said[:120] or type(error).__name__


def _require_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise PictureError(f"a picture without pixels ({width} x {height})")
    if width * height > MAX_PIXELS:
        raise PictureError(
            f"too large: {width:,} x {height:,} pixels, more than {MAX_PIXELS:,}; scale it down"
        )


def _decoded(image: Image.Image) -> Picture:
    width, height = image.size
    _require_size(width, height)
    with _one_large if width * height > _LARGE_PIXELS else nullcontext():
        shrink = max(1, -(-max(width, height) // _WORKING_SIDE))
        if shrink > 1:
            # A JPEG decodes at 1/2, 1/4 or 1/8 of its size in a fraction of the time and memory.
            image.draft(None, (width // shrink, height // shrink))
        pixels = _over_white(_shrunk(image))
    pixels = _upright(pixels, _orientation(image))
    return Picture(pixels, max(width, height) / max(pixels.shape[:2]))


def _shrunk(image: Image.Image) -> Array:
    """Return the pixels of a picture, uint8, its longer side at most `_WORKING_SIDE`."""
    to_bytes = _converter(image)
    width, height = image.size
    shrink = -(-max(width, height) // _WORKING_SIDE)
    if shrink <= 1:
        return to_bytes(image)
    # In strips: the whole in another mode would need the memory a second time.
    rows = shrink * 64
    strips = []
    for top in range(0, height, rows):
        strip = to_bytes(image.crop((0, top, width, min(top + rows, height))))
        size = (-(-width // shrink), -(-strip.shape[0] // shrink))
        strips.append(cv2.resize(strip, size, interpolation=cv2.INTER_AREA))
    return np.concatenate(strips)


def _converter(image: Image.Image) -> Callable[[Image.Image], Array]:
    """Return what turns this picture or a part of it into uint8, with 1 (no axis), 3 or 4 bands."""
    mode = image.mode
    if mode.startswith(("I", "F")):  # 16 and 32 bits: their range is not known beforehand
        low, high = _extrema(image)
        return lambda part: _stretched(np.asarray(part, dtype=np.float32), low, high)
    if mode in ("1", "L"):
        target = "L"
    elif mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        target = "RGBA"
    elif mode == "LAB":  # Pillow converts it only with a colour profile; its first band is light
        return lambda part: np.asarray(part.getchannel(0))
    else:
        target = "RGB"
    return lambda part: np.asarray(part if part.mode == target else part.convert(target))


def _extrema(image: Image.Image) -> tuple[float, float]:
    if image.mode.startswith("F"):
        values = np.asarray(image)
        _require_finite(values)
        return float(values.min()), float(values.max())
    low, high = image.getextrema()
    return float(low), float(high)  # type: ignore[arg-type]  # one band: two numbers


def _require_finite(values: Array) -> None:
    if not np.isfinite(values).all():
        raise PictureError("its pixels hold NaN or infinity; give finite numbers")


def _stretched(values: Array, low: float, high: float) -> Array:
    """Return ``values`` as uint8, ``low`` to 0 and ``high`` to 255."""
    scale = 255 / (high - low) if high > low else 0.0
    return np.asarray(np.clip((values - low) * scale + 0.5, 0, 255).astype(np.uint8))


def _over_white(pixels: Array) -> Array:
    """Return pixels without transparency, as paper would show them."""
    if pixels.ndim == 2 or pixels.shape[2] == 3:
        return pixels
    color, alpha = pixels[..., :3], pixels[..., 3:]
    if alpha.min() == 255:
        return np.ascontiguousarray(color)
    opacity = alpha.astype(np.float32) / 255
    light = (color - np.float32(255)) * opacity + 255
    if np.ptp(light) < _MIN_CONTRAST:  # white ink on nothing shows on black only
        light = color * opacity
    return np.asarray((light + 0.5).astype(np.uint8))


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # damaged EXIF data should not cost the picture
        return 1


def _upright(pixels: Array, orientation: int) -> Array:
    """Return pixels turned as the camera says it was held (EXIF orientation 1 to 8)."""
    if orientation in (5, 6, 7, 8):  # stored with rows and columns exchanged
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _from_array(values: Array) -> Picture:
    shape = values.shape
    if values.ndim == 3 and values.shape[0] == 1 and values.shape[2] not in (3, 4):
        values = values[0]
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if values.ndim != 2 and not (values.ndim == 3 and values.shape[2] in (3, 4)):
        raise PictureError(f"an array of shape {shape}; expected (H, W), (H, W, 3) or (H, W, 4)")
    if values.dtype.kind not in "buif":
        raise PictureError(f"an array of {values.dtype}; expected whole or real numbers")
    height, width = values.shape[:2]
    _require_size(width, height)
    if values.dtype.kind == "f":
        _require_finite(values)
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    elif low >= 0 and high <= 255:
        low, high = 0.0, 255.0
    if values.dtype != np.uint8 or high == 1:
        values = _stretched(values.astype(np.float32), low, high)
    shrink = -(-max(width, height) // _WORKING_SIDE)
    if shrink > 1:
        size = (-(-width // shrink), -(-height // shrink))
        values = cv2.resize(values, size, interpolation=cv2.INTER_AREA)
    pixels = _over_white(values)
    return Picture(pixels, max(width, height) / max(pixels.shape[:2]))


# --- 2. Colour to grey ---------------------------------------------------------------------------


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


# --- 3. Grey to strength of ink ------------------------------------------------------------------


def _ink_strength(grey: Array) -> _Ink:
    """Return how much ink covers each pixel. Raises `PictureError` for a blank picture.

    grey: (H, W) float32, 0-255.
    """
    low, high = float(grey.min()), float(grey.max())
    if high - low < _MIN_CONTRAST:
        raise PictureError(NO_DIGIT)
    paper = float(np.median(_border(grey)))
    farthest = low if paper - low >= high - paper else high
    distance = np.abs(grey - paper)
    on_paper = distance < abs(farthest - paper) / 2
    even = distance <= max(1.5, 0.02 * (high - low))
    if not even.any() or np.count_nonzero(even) < 0.75 * np.count_nonzero(on_paper):
        return _uneven_ink_strength(grey)
    # Drawn by a program: as it is, so that MNIST's own pictures stay what they are.
    strength = np.clip((paper - grey) / np.float32(paper - farthest), 0, 1)
    noise = float(strength[even].std())
    return _Ink(strength, max(_WEAK_CLEAN, 4 * noise), 3 * noise, _MIN_DIGIT_PIXELS)


def _border(grey: Array) -> Array:
    return np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])


def _uneven_ink_strength(grey: Array) -> _Ink:
    """Return the ink of a photo: light divided out, since shadow dims ink and paper alike."""
    if max(grey.shape) >= 400:
        grey = cv2.GaussianBlur(grey, (3, 3), 0)  # the sensor's noise; strokes here are wider
    small = cv2.medianBlur(_at_most(grey, _SMALL_SIDE), 3)
    if not _ink_is_dark(small):
        small, grey = 255 - small, 255 - grey
    light = np.maximum(_paper_light(small), 8)  # below 8 of 255 it is all noise
    height, width = grey.shape
    strength = 1 - grey / cv2.resize(light, (width, height), interpolation=cv2.INTER_LINEAR)
    # Half of a page or more is paper: the middle is paper's value, and what is spread below the
    # middle is paper's noise, whatever ink lies above.
    sample = strength[:: max(1, height // 500), :: max(1, width // 500)]
    middle = float(np.median(sample))
    noise = 1.4826 * float(np.median(middle - sample[sample <= middle]))
    strength -= np.float32(middle)
    standing_out = strength[strength > max(5 * noise, 0.05)]
    if standing_out.size < _MIN_DIGIT_PIXELS:
        raise PictureError(NO_DIGIT)
    full = float(np.percentile(standing_out, 98))
    weak, floor = max(4 * noise / full, _WEAK), max(3 * noise / full, 0.15)
    least = max(_MIN_DIGIT_PIXELS, 0.012 * max(grey.shape))  # grains and dust are smaller
    return _Ink(np.clip(strength / full, 0, 1), weak, floor, least)


def _ink_is_dark(small: Array) -> bool:
    """Return whether ink is darker than paper, by the border, or else by what stands out."""
    paper = float(np.median(_border(small)))
    low, high = np.percentile(small, (1, 99))
    darker, lighter = paper - low, high - paper
    if max(darker, lighter) >= 2 * min(darker, lighter):
        return bool(darker >= lighter)
    # A shadow may hold half of the border; but thin strokes stand out sharply, shadows do not.
    away = small - _smoothed(small, max(small.shape) / 10)
    return bool((away**3).sum() <= 0)


def _paper_light(small: Array) -> Array:
    """Return how bright bare paper would be at each pixel of a picture with dark ink."""
    side = max(small.shape)
    # Wider than any stroke, so that some paper is always near; narrower than most shadows.
    reach = max(3, side // 4) | 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    coarse = cv2.morphologyEx(small, cv2.MORPH_CLOSE, kernel, borderType=cv2.BORDER_REPLICATE)
    # The closing follows the brightest specks; the mean of what is not ink does not.
    strength = np.clip(1 - small / np.maximum(coarse, 1), 0, 1)
    threshold, _ = cv2.threshold(
        (strength * 255).astype(np.uint8), 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU
    )
    ink = cv2.dilate((strength * 255 > threshold).astype(np.uint8), np.ones((3, 3), np.uint8))
    bare = (1 - ink).astype(np.float32)
    sigma = max(1.0, side / 40)
    weight = _smoothed(bare, sigma)
    least = np.float32(0.02)  # in the middle of thick ink the closing decides
    return np.asarray((_smoothed(small * bare, sigma) + least * coarse) / (weight + least))


# --- 4. Ruled lines ------------------------------------------------------------------------------


def _rulings(mask: Array) -> Array:
    """Return the pixels (bool) that belong to the lines of ruled or squared paper alone."""
    across = _long_lines(mask)
    down = _long_lines(np.ascontiguousarray(mask.T)).T
    if not (across.any() or down.any()):
        return np.zeros_like(mask)
    removed, high = _line_alone(mask & ~down, across)
    removed_down, wide = _line_alone((mask & ~across).T, down.T)
    removed |= removed_down.T | (mask & across & down)
    # A stroke that crosses a line as thin as itself is cut by it: close the cut.
    rest = (mask & ~removed).astype(np.uint8)
    removed &= cv2.morphologyEx(rest, cv2.MORPH_CLOSE, np.ones((high, 1), np.uint8)) == 0
    removed &= cv2.morphologyEx(rest, cv2.MORPH_CLOSE, np.ones((1, wide), np.uint8)) == 0
    left = cv2.connectedComponentsWithStats((mask & ~removed).astype(np.uint8))[2][1:]
    sizes = left[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].max(axis=1, initial=0)
    # A single stroke from edge to edge is a digit, not paper: then nothing else would be left.
    if sizes.max(initial=0) < max(_MIN_DIGIT_PIXELS, 0.08 * min(mask.shape)):
        return np.zeros_like(mask)
    return removed


def _long_lines(mask: Array) -> Array:
    """Return the pixels (bool) of thin, nearly level lines that run from border to border."""
    height, width = mask.shape
    if width < _RULED_SIDE:
        return np.zeros_like(mask)
    run = max(9, width // 30)  # short enough for a line that climbs by 4 degrees
    # Thickened by a pixel each way, a line that climbs stays in one piece.
    thick = cv2.dilate(mask.astype(np.uint8), np.ones((3, 1), np.uint8))
    thickest = max(4, height // 40) + 2  # 2: of the thickening
    strokes = cv2.morphologyEx(thick, cv2.MORPH_OPEN, np.ones((thickest + 1, 1), np.uint8))
    thick[strokes > 0] = 0
    # The gaps are where strokes cross. With room at the sides, for a closing takes what lies
    # outside for ink, and would draw every short line out to the border.
    gap = width // 3
    thick = cv2.copyMakeBorder(thick, 0, 0, gap, gap, cv2.BORDER_CONSTANT)
    thick = cv2.morphologyEx(thick, cv2.MORPH_CLOSE, np.ones((1, gap), np.uint8))
    thick = np.ascontiguousarray(thick[:, gap:-gap])
    level = cv2.morphologyEx(thick, cv2.MORPH_OPEN, np.ones((1, run), np.uint8))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(level)
    left, top, wide, high, area = stats.T
    right, bottom = left + wide, top + high
    ends = (left < 0.03 * width).astype(int) + (right > 0.97 * width)
    leaves_sideways = (top < 0.03 * height) | (bottom > 0.97 * height)
    lines = (ends == 2) | ((ends == 1) & leaves_sideways & (wide > 0.5 * width))
    lines &= area <= wide * thickest
    lines[0] = False  # what is no line
    return np.asarray(lines[labels])


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


# --- 5. Mask to digits ---------------------------------------------------------------------------


def _group(ink: _Ink, *, single: bool, classify: Classify | None) -> list[_Piece]:
    """Return the pieces of ink that are one digit each. Raises `PictureError` if there is none."""
    mask = ink.strength > ink.weak
    mask &= ~_rulings(mask)
    pieces = _pieces(mask, ink.strength > _STRONG, ink.least)
    pieces = _without_clutter(pieces, mask.shape, ink.least)
    typical = _typical_height(pieces)
    pieces = [piece for piece in pieces if not _is_speck_or_line(piece, typical)]
    if not pieces:
        raise PictureError(NO_DIGIT)
    if single:
        return [_union(pieces)]
    pieces = _with_fragments_joined(pieces, typical)
    pieces = [piece for piece in pieces if not _is_small(piece, typical)]
    pieces = _without_scratches(pieces)
    if classify is None:
        return pieces

    def read(candidates: Sequence[_Piece]) -> Array:
        return classify(np.stack([_render(ink, piece) for piece in candidates]))

    pieces = _with_halves_joined(pieces, read)
    return [part for piece in pieces for part in _split(piece, ink, read)[0]]


def _pieces(mask: Array, strong: Array, least: float) -> list[_Piece]:
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
    if len(kept) > _MAX_PIECES:
        kept = kept[longer[kept] >= _SPECK * longer[kept].max()]
    if len(kept) > _MAX_PIECES:
        return []
    pieces = []
    for label in kept:
        left, top, wide, high = (int(value) for value in stats[label, :4])
        region = labels[top : top + high, left : left + wide]
        pieces.append(_Piece(region == label, (left, top, left + wide, top + high)))
    return pieces


def _without_clutter(pieces: list[_Piece], shape: tuple[int, ...], least: float) -> list[_Piece]:
    """Return pieces without textures, and without blots and edges where there is anything else.

    None, if none is ``least`` pixels long.
    """
    textures = [piece for piece in pieces if _is_texture(piece.mask)]
    if any(piece.mask.size > 0.5 * shape[0] * shape[1] for piece in textures):
        return []
    pieces = [piece for piece in pieces if piece not in textures]
    if max((max(piece.width, piece.height) for piece in pieces), default=0) < least:
        return []
    proper = [piece for piece in pieces if not _is_clutter(piece, shape)]
    tallest = max((piece.height for piece in proper), default=0)
    # Without something of a digit's size left, what seemed clutter must be the digit.
    broadest = max(min(piece.width, piece.height) for piece in pieces)
    return proper if tallest >= max(least, 0.15 * broadest) else pieces


def _is_texture(mask: Array) -> bool:
    """Return whether lines through the piece meet ink more often than through any digit."""
    rises = [
        float(np.count_nonzero(np.diff(mask.astype(np.int8), axis=axis) == 1, axis=axis).mean())
        for axis in (0, 1)
    ]
    return min(rises) > _MOST_STROKES


def _is_clutter(piece: _Piece, shape: tuple[int, ...]) -> bool:
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


def _typical_height(pieces: Sequence[_Piece]) -> float:
    """Return the median height of the larger pieces, 0 if there is none."""
    if not pieces:
        return 0.0
    heights = np.array([piece.height for piece in pieces], dtype=np.float64)
    return float(np.median(heights[heights >= heights.max() / 2]))


def _is_speck_or_line(piece: _Piece, typical: float) -> bool:
    """Return whether a piece is dirt, or flat as a ruler's line and longer than a digit's bar."""
    is_flat = piece.width > max(_FLATTEST * piece.height, 1.2 * typical)
    return is_flat or max(piece.width, piece.height) < _SPECK * typical


def _is_small(piece: _Piece, typical: float) -> bool:
    """Return whether a piece left over after joining is too small or flat to be a digit."""
    return piece.height < 0.35 * typical or (
        piece.width > 2.5 * piece.height and piece.height < 0.6 * typical
    )


def _without_scratches(pieces: list[_Piece]) -> list[_Piece]:
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


def _union(pieces: Sequence[_Piece]) -> _Piece:
    if len(pieces) == 1:
        return pieces[0]
    boxes = np.array([piece.box for piece in pieces])
    left, top = (int(value) for value in boxes[:, :2].min(axis=0))
    right, bottom = (int(value) for value in boxes[:, 2:].max(axis=0))
    mask = np.zeros((bottom - top, right - left), dtype=bool)
    for piece in pieces:
        x, y = piece.box[0] - left, piece.box[1] - top
        mask[y : y + piece.height, x : x + piece.width] |= piece.mask
    return _Piece(mask, (left, top, right, bottom))


def _with_fragments_joined(pieces: list[_Piece], typical: float) -> list[_Piece]:
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


def _partner(piece: _Piece, boxes: Array, typical: float) -> int | None:
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


Read: TypeAlias = Callable[[Sequence[_Piece]], Array]


def _with_halves_joined(pieces: list[_Piece], read: Read) -> list[_Piece]:
    """Return pieces with two joined where both together are a digit and one alone is none."""
    pairs = [
        (first, second)
        for first in range(len(pieces))
        for second in range(first + 1, len(pieces))
        if _may_be_halves(pieces[first], pieces[second])
    ]
    if not pairs or len(pairs) > _MAX_PIECES:
        return pieces
    alone = read(pieces).max(axis=1)
    together = read([_union([pieces[i], pieces[j]]) for i, j in pairs]).max(axis=1)
    gone: set[int] = set()
    joined = []
    for pair in np.argsort(-together):
        first, second = pairs[pair]
        weaker = min(alone[first], alone[second])
        if together[pair] < _CLEAR or weaker > _DOUBTFUL or gone & {first, second}:
            continue
        gone |= {first, second}
        joined.append(_union([pieces[first], pieces[second]]))
    return joined + [piece for number, piece in enumerate(pieces) if number not in gone]


def _may_be_halves(first: _Piece, second: _Piece) -> bool:
    """Return whether two pieces lie so near that they may be one digit in two strokes."""
    whole = _union_box(first.box, second.box)
    wide, high = whole[2] - whole[0], whole[3] - whole[1]
    gap_x = wide - first.width - second.width
    gap_y = high - first.height - second.height
    return wide <= 1.1 * high and (
        (gap_x <= 0.1 * high and gap_y < 0) or (gap_y <= 0.15 * high and gap_x < 0)
    )


def _union_box(first: Box, second: Box) -> Box:
    return (
        min(first[0], second[0]),
        min(first[1], second[1]),
        max(first[2], second[2]),
        max(first[3], second[3]),
    )


def _split(
    piece: _Piece, ink: _Ink, read: Read, cuts: int | None = None
) -> tuple[list[_Piece], float]:
    """Return the digits of which a wide piece is made, and how sure the least sure of them is.

    Many single digits are wide: a cut needs parts that are clearly read where the whole is not.
    ``cuts`` limits how often parts are cut again; by default by the width.
    """
    if cuts is None:
        if piece.width < _WIDE * piece.height:
            return [piece], 1.0
        # Each further cut multiplies the work by ten: only for what is as wide as three digits.
        cuts = min(2, max(1, round(1.2 * piece.width / piece.height) - 1))
    if cuts == 0 or piece.width < _WIDE * piece.height:
        return [piece], float(read([piece]).max())
    whole = float(read([piece]).max())
    very_wide = piece.width > _VERY_WIDE * piece.height
    if whole >= _DOUBTFUL and not very_wide:
        return [piece], whole
    best, surest = [piece], whole
    for left, right in _cuts(piece, ink):
        first, first_sure = _split(left, ink, read, cuts - 1)
        second, second_sure = _split(right, ink, read, cuts - 1)
        sure = min(first_sure, second_sure)
        if sure > max(surest, _CLEAR):
            best, surest = first + second, sure
    return best, surest


def _cuts(piece: _Piece, ink: _Ink) -> Iterator[tuple[_Piece, _Piece]]:
    """Yield ways to cut a piece in a left and a right part along paths of least ink."""
    left, top, right, bottom = piece.box
    strength = np.where(piece.mask, ink.strength[top:bottom, left:right], 0).astype(np.float32)
    scale = 40 / piece.height  # rows enough for a bend, few enough for a loop
    size = (max(8, round(piece.width * scale)), 40)
    small = cv2.resize(strength, size, interpolation=cv2.INTER_AREA)
    for center in (
        np.linspace(0.3, 0.7, 5)
        if piece.width < 1.6 * piece.height
        else (np.linspace(0.15, 0.85, 11))
    ):
        path = _seam(small, round(center * size[0]), reach=max(2, size[0] // 10))
        edge = np.interp(
            np.arange(piece.height), (np.arange(40) + 0.5) / scale, (path + 0.5) / scale
        )
        is_left = np.arange(piece.width) < edge[:, None]
        parts = [_trimmed(piece, piece.mask & side) for side in (is_left, ~is_left)]
        if all(part is not None and part.height > 0.4 * piece.height for part in parts):
            yield parts[0], parts[1]  # type: ignore[misc]  # neither is None


def _seam(strength: Array, center: int, *, reach: int) -> Array:
    """Return for each row the column of the path from top to bottom that meets the least ink."""
    low, high = max(0, center - reach), min(strength.shape[1], center + reach + 1)
    band = strength[:, low:high] + 0.01  # a straight path wins where there is no ink at all
    cost = band.copy()
    steps = np.zeros(band.shape, dtype=np.int64)
    for row in range(1, len(band)):
        before = np.pad(cost[row - 1], 1, constant_values=np.inf)
        choices = np.stack([before[:-2] + 0.01, before[1:-1], before[2:] + 0.01])
        steps[row] = choices.argmin(axis=0) - 1
        cost[row] += choices.min(axis=0)
    path = np.empty(len(band), dtype=np.int64)
    path[-1] = int(cost[-1].argmin())
    for row in range(len(band) - 1, 0, -1):
        path[row - 1] = path[row] + steps[row, path[row]]
    return path + low


def _trimmed(piece: _Piece, mask: Array) -> _Piece | None:
    """Return the largest connected part of ``mask``, which lies in the piece's box."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count == 1:
        return None
    label = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    left, top, wide, high = (int(value) for value in stats[label, :4])
    box = (piece.box[0] + left, piece.box[1] + top)
    part = labels[top : top + high, left : left + wide] == label
    return _Piece(part, (*box, box[0] + wide, box[1] + high))


def _lines(pieces: Sequence[_Piece]) -> list[list[_Piece]]:
    """Return pieces line by line from the top, each line from the left.

    From left to right, a piece goes to the line whose last piece it stands beside, so that a line
    may climb or fall.
    """
    lines: list[list[_Piece]] = []
    for piece in sorted(pieces, key=lambda piece: piece.box[0] + piece.box[2]):
        beside = [_beside(line[-1], piece) for line in lines]
        if beside and max(beside) >= 0.4:
            lines[int(np.argmax(beside))].append(piece)
        else:
            lines.append([piece])

    def middle(line: list[_Piece]) -> float:
        return float(np.mean([piece.box[1] + piece.box[3] for piece in line]))

    return sorted(lines, key=middle)


def _beside(first: _Piece, second: _Piece) -> float:
    """Return how much of the lower piece's height lies beside the other, up to 1."""
    shared = min(first.box[3], second.box[3]) - max(first.box[1], second.box[1])
    return shared / min(first.height, second.height)


def _scaled(box: Box, factor: float) -> Box:
    left, top, right, bottom = (round(value * factor) for value in box)
    return left, top, right, bottom


# --- 6. A digit to 28x28 -------------------------------------------------------------------------


def _render(ink: _Ink, piece: _Piece) -> Array:
    """Return one piece of ink as MNIST would hold it, (28, 28) uint8."""
    height, width = ink.strength.shape
    longer = max(piece.width, piece.height)
    # The mask ends where ink gets faint; the grey edge of a stroke reaches a little farther.
    reach = max(3, round(0.03 * longer))
    left, top = max(0, piece.box[0] - reach), max(0, piece.box[1] - reach)
    right, bottom = min(width, piece.box[2] + reach), min(height, piece.box[3] + reach)
    strength = ink.strength[top:bottom, left:right]
    own = np.zeros(strength.shape, np.uint8)
    y, x = piece.box[1] - top, piece.box[0] - left
    own[y : y + piece.height, x : x + piece.width] = piece.mask
    near = cv2.distanceTransform(1 - own, cv2.DIST_L2, 3)
    values = np.where(near <= reach, strength, 0)
    values[values <= ink.floor] = 0
    others = (strength > ink.weak) & (own == 0)
    if others.any():  # a neighbour's ink, or a ruled line's
        to_others = cv2.distanceTransform((~others).astype(np.uint8), cv2.DIST_L2, 3)
        values[to_others < near] = 0
    return _as_mnist(values.astype(np.float32))


def _cropped(values: Array) -> Array:
    rows, columns = np.flatnonzero(values.any(axis=1)), np.flatnonzero(values.any(axis=0))
    return values[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _as_mnist(values: Array) -> Array:
    """Return a digit's ink (H, W), float32 with 0 where there is none, as (28, 28) uint8."""
    values = _cropped(values)
    fine = _fitted(values, _FINE_SIDE)
    full = max(1e-3, float(np.percentile(fine[fine > 0], 90)))
    pixels = max(values.shape)
    # MNIST's makers had black and white: where there are pixels to spare, so do we. Small
    # pictures keep their greys, which hold all the shape they have.
    spare = float(np.clip((pixels - 1.2 * _DIGIT_SIDE) / _DIGIT_SIDE, 0, 1))
    if spare:
        # A pen that runs dry, or presses less, leaves fainter strokes: all are made as strong.
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (_FINE_SIDE // 4, _FINE_SIDE // 4))
        nearby = _smoothed(cv2.dilate(fine, kernel), _FINE_SIDE / 16)
        fine = fine * full / np.clip(nearby, _FAINTEST * full, full)
        fine = np.clip((fine / full - 0.4) * (1 + 1.5 * spare) + 0.5, 0, 1)
        full = 1.0
    width = _stroke_width(fine > full / 2)
    if pixels == _DIGIT_SIDE and _THINNEST <= width <= _THICKEST:
        small = values  # MNIST's own size: nothing to scale
    else:
        small = _fitted(_cropped(_with_stroke_width(fine, width)), _DIGIT_SIDE)
    return _centered(small / max(1e-3, float(small.max())))


def _fitted(values: Array, side: int) -> Array:
    """Return values scaled, aspect kept, until the longer side is ``side``."""
    height, width = values.shape
    scale = side / max(height, width)
    if scale == 1:
        return values
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(values, size, interpolation=method))


def _stroke_width(mask: Array) -> float:
    """Return the mean width of strokes in pixels of the final picture; mask is `_FINE_SIDE` long.

    Along a stroke of width w the distance to its edge is w / 4 on average.
    """
    padded = np.pad(mask.astype(np.uint8), 1)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[padded > 0]
    return 4 * float(distance.mean()) * _DIGIT_SIDE / _FINE_SIDE if distance.size else 0.0


def _with_stroke_width(fine: Array, width: float) -> Array:
    """Return a digit with strokes of MNIST's width where they are thinner or thicker than any."""
    per_pixel = _FINE_SIDE / _DIGIT_SIDE
    if width < _THINNEST:
        change = round((_THIN - width) * per_pixel)
        fine = np.pad(fine, change)
        operation = cv2.dilate
    elif width > _THICKEST:
        change = round((width - _THICK) * per_pixel)
        operation = cv2.erode
    else:
        return fine
    if change < 1:
        return fine
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (change + 1, change + 1))
    changed = np.asarray(operation(fine, kernel))
    return changed if changed.max() > 0.5 else fine


def _centered(small: Array) -> Array:
    """Return values (h, w), 0-1, h and w up to 20, with their centre of mass at (14, 14) of 28x28.

    Measured on MNIST: each of its digits' centres is within half a pixel of (14, 14).
    """
    height, width = small.shape
    mass = max(1e-6, float(small.sum()))
    y = float((small.sum(axis=1) * np.arange(height)).sum()) / mass
    x = float((small.sum(axis=0) * np.arange(width)).sum()) / mass
    top = int(np.clip(round(IMAGE_SIZE / 2 - y), 0, IMAGE_SIZE - height))
    left = int(np.clip(round(IMAGE_SIZE / 2 - x), 0, IMAGE_SIZE - width))
    image = np.zeros((IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
    image[top : top + height, left : left + width] = (small * 255 + 0.5).astype(np.uint8)
    return image

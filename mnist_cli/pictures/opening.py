"""Any file, array or PIL image to upright pixels on white, large pictures shrunk."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeAlias

import cv2
import numpy as np
from PIL import Image

from mnist_cli.arrays import Array
from mnist_cli.errors import PictureError

if TYPE_CHECKING:
    from collections.abc import Iterator

Source: TypeAlias = "str | os.PathLike[str] | bytes | Array | Image.Image"

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
# Pictures above this are decoded one at a time, so that a caller's threads do not add up memory.
_LARGE_PIXELS = 40_000_000
# A page of 30 lines has strokes of 2 pixels at this length of side; a phone's photo is shrunk.
_WORKING_SIDE = 1400
# Of 255. Less difference than this between paper and ink is a blank sheet.
MIN_CONTRAST = 8

_EXIF_ORIENTATION = 0x0112
_pillow_limit = threading.Lock()
_one_large = threading.Lock()
_one_silence = threading.Lock()


@dataclass(frozen=True, eq=False)
class Picture:
    """Upright ``pixels``, uint8, (H, W) or (H, W, 3); the original is ``factor`` times as large."""

    pixels: Array
    factor: float


def open_picture(source: Source) -> Picture:
    """Return the upright pixels of a path, a file's bytes, an array or a PIL image.

    Arrays are (H, W), (1, H, W), (H, W, 1), (H, W, 3) or (H, W, 4); numbers in 0-1 or 0-255,
    others are stretched. Raises `PictureError`.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        with _damage_told("picture"):
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
        raise PictureError(f"cannot be read ({error.strerror or brief(error)})") from error


def _from_file(file: IO[bytes]) -> Picture:
    start = file.read(16)
    if not start:
        raise PictureError("the file is empty (0 bytes)")
    kind = next((kind for magic, kind in _MAGIC if start.startswith(magic)), None)
    if kind is None or (kind == "WEBP" and start[8:12] != b"WEBP"):
        raise PictureError(f"not a picture ({', '.join(FORMATS)} are read)")
    with _damage_told(f"{kind} file"):
        with _any_size():
            image = Image.open(file, formats=(kind,))
        with image, _silenced() if kind == "TIFF" else nullcontext():
            return _decoded(image)


@contextmanager
def _damage_told(what: str) -> Iterator[None]:
    try:
        yield
    except PictureError:
        raise
    except Exception as error:  # damage makes Pillow's decoders raise almost anything
        raise PictureError(f"a damaged {what} ({brief(error)})") from error


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
    with _one_silence:  # standard error is the whole process's
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


def brief(error: BaseException) -> str:
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
        shrink = _shrink_factor(width, height)
        if shrink > 1:
            # A JPEG decodes at 1/2, 1/4 or 1/8 of its size in a fraction of the time and memory.
            image.draft(None, (width // shrink, height // shrink))
        pixels = _over_white(_shrunk(image))
    pixels = _upright(pixels, _orientation(image))
    return Picture(pixels, max(width, height) / max(pixels.shape[:2]))


def _shrink_factor(width: int, height: int) -> int:
    """Return by what whole number to divide the sides until both are within `_WORKING_SIDE`."""
    return max(1, -(-max(width, height) // _WORKING_SIDE))


def _shrunk(image: Image.Image) -> Array:
    """Return the pixels of a picture, uint8, its longer side at most `_WORKING_SIDE`."""
    to_bytes = _converter(image)
    width, height = image.size
    shrink = _shrink_factor(width, height)
    if shrink == 1:
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
    if np.ptp(light) < MIN_CONTRAST:  # white ink on nothing shows on black only
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
        values = _stretched(values.astype(np.float64), low, high)
    shrink = _shrink_factor(width, height)
    if shrink > 1:
        size = (-(-width // shrink), -(-height // shrink))
        values = cv2.resize(values, size, interpolation=cv2.INTER_AREA)
    pixels = _over_white(values)
    return Picture(pixels, max(width, height) / max(pixels.shape[:2]))

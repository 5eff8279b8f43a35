"""Open a picture: a file, bytes, an array or a PIL image to upright uint8 pixels.

Transparency is composited on white, and large pictures are downscaled.
"""

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
from mnist_cli.pictures.documents import register_heif, render_pdf_page, require_page, split_page

if TYPE_CHECKING:
    from collections.abc import Iterator

Source: TypeAlias = "str | os.PathLike[str] | bytes | Array | Image.Image"

# The first bytes of a file and its format in Pillow: what cameras, phones, scanners and paint
# programs write. Pillow reads some fifty more formats, one of which starts a program (EPS).
_FILE_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"RIFF", "WEBP"),
    (b"%PDF-", "PDF"),
    *((b"P%d" % kind, "PPM") for kind in range(1, 7)),
)
# The brand of an ISO media file, bytes 8 to 12 after "ftyp", and its format in Pillow.
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1"), "HEIF"),
}
# As messages list them.
FORMATS = ("AVIF", "BMP", "GIF", "HEIC", "JPEG", "PDF", "PNG", "PPM", "TIFF", "WebP")

# Suffixes of the files that a folder of pictures stands for.
SUFFIXES = frozenset(
    (
        *(".avif", ".bmp", ".gif", ".heic", ".heif", ".jpeg", ".jpg", ".pbm"),
        *(".pdf", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
    )
)

# Pixels: 20,000 x 20,000. A file whose header claims more is refused before it is decoded, because
# decompression bombs claim far more and no camera does.
MAX_PIXELS = 400_000_000
# Pixels. Only one picture above this is decoded at a time, to limit the memory of all threads.
_LARGE_PIXELS = 40_000_000
# Pixels of the longer side after opening. At this size a page of 30 lines still has strokes of 2
# pixels; the photos of phones are larger, and would only take longer to process.
_MAX_SIDE = 1400
# Grey levels of 255. A picture whose brightest and darkest pixels differ by less is blank.
MIN_CONTRAST = 8

_EXIF_ORIENTATION = 0x0112  # the number of the EXIF tag
_pillow_limit_lock = threading.Lock()
_large_picture_lock = threading.Lock()
_stderr_lock = threading.Lock()


@dataclass(frozen=True, eq=False)
class Picture:
    """An opened picture.

    ``pixels`` are upright, uint8, (H, W) or (H, W, 3). ``original_scale`` is the length of a side
    of the original divided by the same side of ``pixels``, at least 1.
    """

    pixels: Array
    original_scale: float


def open_picture(source: Source) -> Picture:
    """Return the upright pixels of a path, a file's bytes, an array or a PIL image.

    Arrays are (H, W), (1, H, W), (H, W, 1), (H, W, 3) or (H, W, 4). Values within 0-1 or 0-255 are
    taken as such; other ranges are rescaled to 0-255. A path may name a page, such as
    ``scan.pdf#2``. Raises `PictureError` for a source that is missing, damaged, too large, or no
    picture.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        with _decoder_errors_as_picture_errors("picture"):
            return _decode(source)
    if not isinstance(source, (str, bytes, os.PathLike)):
        raise PictureError(
            f"expected a path, bytes, an array or a PIL image, not {type(source).__name__}"
        )
    try:
        if isinstance(source, bytes):
            return _from_file(io.BytesIO(source))
        path, page = split_page(os.fsdecode(source))
        if not path.exists():
            raise PictureError("there is no such file")
        if not path.is_file():
            raise PictureError("not a file")
        with path.open("rb") as file:
            return _from_file(file, page)
    except OSError as error:
        raise PictureError(f"cannot be read ({error.strerror or short_message(error)})") from error


def pictures_below(folder: Path) -> list[Path]:
    """Return the files in a folder and its subfolders that look like pictures, sorted."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    ]


def short_message(error: BaseException) -> str:
    """Return an error's message on one line of at most 120 characters."""
    message = " ".join(str(error).split())
    return message[:120] or type(error).__name__


# --- Files and PIL images ------------------------------------------------------------------------


def _from_file(file: IO[bytes], page: int | None = None) -> Picture:
    kind = _kind_of(file.read(512))
    file.seek(0)
    with _decoder_errors_as_picture_errors(f"{kind} file"):
        if kind == "PDF":
            return _decode(render_pdf_page(file, page))
        if kind == "HEIF":
            register_heif()
        with _without_pillow_size_limit():
            image = Image.open(file, formats=(kind,))
        with image, _suppressed_stderr() if kind == "TIFF" else nullcontext():
            count = getattr(image, "n_frames", 1) if kind == "TIFF" else 1
            if index := require_page(page, count):
                image.seek(index)
            return _decode(image)


def _kind_of(start: bytes) -> str:
    """Return the format of a file with these first bytes. Raises `PictureError` if it is none."""
    if not start:
        raise PictureError("the file is empty (0 bytes)")
    if b"<svg" in start.lower():
        raise PictureError("an SVG drawing, which has no pixels; export it as PNG")
    kind = next((kind for magic, kind in _FILE_SIGNATURES if start.startswith(magic)), None)
    if start[4:8] == b"ftyp":
        kind = _BRANDS.get(start[8:12])
    if kind is None or (kind == "WEBP" and start[8:12] != b"WEBP"):
        raise PictureError(f"not a picture ({', '.join(FORMATS)} are read)")
    return kind


@contextmanager
def _decoder_errors_as_picture_errors(what: str) -> Iterator[None]:
    """Turn any error into a `PictureError` that calls ``what`` damaged."""
    try:
        yield
    except PictureError:
        raise
    except Exception as error:  # damage makes Pillow's decoders raise almost anything
        raise PictureError(f"a damaged {what} ({short_message(error)})") from error


@contextmanager
def _without_pillow_size_limit() -> Iterator[None]:
    """Let Pillow read the header of a picture of any size; `MAX_PIXELS` is checked afterwards."""
    with _pillow_limit_lock:  # the limit is a global of Pillow
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


@contextmanager
def _suppressed_stderr() -> Iterator[None]:
    """Discard what libtiff, a C library, writes to the process's standard error."""
    with _stderr_lock:  # standard error belongs to all threads
        try:
            saved = os.dup(2)
        except OSError:  # there is no standard error
            yield
            return
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null, 2)
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            os.close(null)


def _require_size(width: int, height: int) -> None:
    """Raise `PictureError` unless a picture has from 1 to `MAX_PIXELS` pixels."""
    if width < 1 or height < 1:
        raise PictureError(f"a picture without pixels ({width} x {height})")
    if width * height > MAX_PIXELS:
        raise PictureError(
            f"too large: {width:,} x {height:,} pixels, more than {MAX_PIXELS:,}; scale it down"
        )


def _decode(image: Image.Image) -> Picture:
    width, height = image.size
    _require_size(width, height)
    with _large_picture_lock if width * height > _LARGE_PIXELS else nullcontext():
        divisor = _downscaling_divisor(width, height)
        if divisor > 1:
            # A JPEG decodes at 1/2, 1/4 or 1/8 of its size in a fraction of the time and memory.
            image.draft(None, (width // divisor, height // divisor))
        pixels = _composite_on_white(_downscaled_pixels(image))
    pixels = _apply_orientation(pixels, _exif_orientation(image))
    return Picture(pixels, max(width, height) / max(pixels.shape[:2]))


def _downscaling_divisor(width: int, height: int) -> int:
    """Return the least whole number that brings the longer side within `_MAX_SIDE`."""
    return max(1, -(-max(width, height) // _MAX_SIDE))


def _downscaled_pixels(image: Image.Image) -> Array:
    """Return an image's pixels, uint8, the longer side at most `_MAX_SIDE`.

    The shape is (H, W), (H, W, 3) or, with transparency, (H, W, 4).
    """
    to_pixels = _pixel_converter(image)
    width, height = image.size
    divisor = _downscaling_divisor(width, height)
    if divisor == 1:
        return to_pixels(image)
    # In strips, because converting the whole image would double the memory.
    strip_rows = divisor * 64
    strips = []
    for top in range(0, height, strip_rows):
        strip = to_pixels(image.crop((0, top, width, min(top + strip_rows, height))))
        size = (-(-width // divisor), -(-strip.shape[0] // divisor))
        strips.append(cv2.resize(strip, size, interpolation=cv2.INTER_AREA))
    return np.concatenate(strips)


def _pixel_converter(image: Image.Image) -> Callable[[Image.Image], Array]:
    """Return the function that converts this image, or a crop of it, to uint8 pixels.

    Their shape is (H, W), (H, W, 3) or (H, W, 4).
    """
    mode = image.mode
    if mode.startswith(("I", "F")):  # 16 and 32 bits: the range of values differs between files
        low, high = _extrema(image)
        return lambda part: _rescaled_to_uint8(np.asarray(part, dtype=np.float32), low, high)
    if mode in ("1", "L"):
        target = "L"
    elif mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        target = "RGBA"
    elif mode == "LAB":  # Pillow converts it only with a colour profile; band 0 is the lightness
        return lambda part: np.asarray(part.getchannel(0))
    else:
        target = "RGB"
    return lambda part: np.asarray(part if part.mode == target else part.convert(target))


def _extrema(image: Image.Image) -> tuple[float, float]:
    """Return the least and largest value of a single-band image."""
    if image.mode.startswith("F"):
        values = np.asarray(image)
        _require_finite(values)
        return float(values.min()), float(values.max())
    low, high = image.getextrema()
    return float(low), float(high)  # type: ignore[arg-type]  # one band: two numbers


def _require_finite(values: Array) -> None:
    if not np.isfinite(values).all():
        raise PictureError("its pixels hold NaN or infinity; give finite numbers")


def _rescaled_to_uint8(values: Array, low: float, high: float) -> Array:
    """Return values as uint8, with ``low`` mapped to 0 and ``high`` to 255."""
    scale = 255 / (high - low) if high > low else 0.0
    return np.asarray(np.clip((values - low) * scale + 0.5, 0, 255).astype(np.uint8))


def _composite_on_white(pixels: Array) -> Array:
    """Return pixels without an alpha channel, composited on white.

    On black where white would leave a blank picture: then the ink itself is white.
    """
    if pixels.ndim == 2 or pixels.shape[2] == 3:
        return pixels
    color, alpha = pixels[..., :3], pixels[..., 3:]
    if alpha.min() == 255:
        return np.ascontiguousarray(color)
    opacity = alpha.astype(np.float32) / 255
    composite = (color - np.float32(255)) * opacity + 255
    if np.ptp(composite) < MIN_CONTRAST:
        composite = color * opacity
    return np.asarray((composite + 0.5).astype(np.uint8))


def _exif_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1, which is upright, where there is none."""
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # the picture can be read without its EXIF data, however damaged
        return 1


def _apply_orientation(pixels: Array, orientation: int) -> Array:
    """Return upright pixels, given the EXIF orientation (1 to 8) that they are stored in."""
    if orientation in (5, 6, 7, 8):  # stored with rows and columns exchanged
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


# --- Arrays --------------------------------------------------------------------------------------


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
        values = _rescaled_to_uint8(values.astype(np.float64), low, high)
    divisor = _downscaling_divisor(width, height)
    if divisor > 1:
        size = (-(-width // divisor), -(-height // divisor))
        values = cv2.resize(values, size, interpolation=cv2.INTER_AREA)
    pixels = _composite_on_white(values)
    return Picture(pixels, max(width, height) / max(pixels.shape[:2]))

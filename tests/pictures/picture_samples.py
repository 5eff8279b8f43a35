"""Pictures of MNIST's digits in many forms, and what the tests of pictures measure."""

from __future__ import annotations

import io
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from PIL import Image

from mnist_cli.arrays import Array
from mnist_cli.data.dataset import Dataset
from mnist_cli.errors import PictureError
from mnist_cli.pictures.normalise import prepare
from mnist_cli.pictures.opening import Source


def digit(data: Dataset, label: int, number: int = 0, *, height: int = 80) -> Array:
    """A digit of the test set, cropped to its ink: (height, width) uint8, ink 255."""
    index = np.flatnonzero(data.test_labels == label)[number]
    image = data.test_images[index]
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    ink = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    width = max(1, round(ink.shape[1] * height / ink.shape[0]))
    return np.asarray(cv2.resize(ink, (width, height), interpolation=cv2.INTER_CUBIC))


def page(
    *placed: tuple[Array, int, int],
    size: tuple[int, int] = (200, 300),
    paper: int = 235,
    ink: int = 40,
) -> Array:
    """A page (H, W) uint8 with images of ink at (x, y); ``paper`` and ``ink`` are grey levels."""
    cover = np.zeros(size, dtype=np.float32)
    for image, x, y in placed:
        part = cover[y : y + image.shape[0], x : x + image.shape[1]]
        np.maximum(part, image / 255, out=part)
    return np.rint(paper + (ink - paper) * cover).astype(np.uint8)


def photograph(grey: Array, *, seed: int = 0) -> Array:
    """A photo of a page: light from a corner, a soft shadow, sensor noise."""
    height, width = grey.shape
    y, x = np.mgrid[:height, :width] / max(grey.shape)
    light = 0.55 + 0.45 * (x + y) / (x + y).max()
    light *= 1 - 0.3 / (1 + np.exp(-40 * (x - 0.55)))
    noise = np.random.default_rng(seed).normal(0, 3, grey.shape)
    return np.clip(grey * light + noise, 0, 255).astype(np.uint8)


def _rgb(grey: Array) -> Image.Image:
    return Image.fromarray(np.dstack([grey, grey, grey]))


def _transparent(grey: Array) -> Image.Image:
    """Black ink on a transparent background: the shape is in the alpha channel alone."""
    black = np.zeros_like(grey)
    return Image.fromarray(np.dstack([black, black, black, 255 - grey]))


ENCODINGS: dict[str, tuple[str, Callable[[Array], Image.Image]]] = {
    "1-bit PNG": ("PNG", lambda grey: Image.fromarray(grey).convert("1", dither=0)),
    "palette PNG": ("PNG", lambda grey: _rgb(grey).quantize(8)),
    "grey PNG": ("PNG", Image.fromarray),
    "16-bit PNG": ("PNG", lambda grey: Image.fromarray(grey.astype(np.uint16) * 16)),
    "grey and alpha PNG": ("PNG", lambda grey: _transparent(grey).convert("LA")),
    "RGBA PNG": ("PNG", lambda grey: _transparent(grey)),
    "JPEG": ("JPEG", _rgb),
    "CMYK JPEG": ("JPEG", lambda grey: _rgb(grey).convert("CMYK")),
    "GIF": ("GIF", Image.fromarray),
    "BMP": ("BMP", _rgb),
    "TIFF": ("TIFF", _rgb),
    "CMYK TIFF": ("TIFF", lambda grey: _rgb(grey).convert("CMYK")),
    "LAB TIFF": ("TIFF", lambda grey: Image.merge("LAB", [Image.fromarray(grey)] * 3)),
    "float TIFF": ("TIFF", lambda grey: Image.fromarray(grey.astype(np.float32) / 7 - 3)),
    "32-bit TIFF": ("TIFF", lambda grey: Image.fromarray(grey.astype(np.int32) * 1000)),
    "WebP": ("WEBP", _rgb),
    "PGM": ("PPM", Image.fromarray),
}


def encode(kind: str, grey: Array) -> bytes:
    file_format, make = ENCODINGS[kind]
    file = io.BytesIO()
    make(grey).save(file, file_format)
    return file.getvalue()


def only_digit(pixels: Source) -> Array:
    """The image of the one digit that a picture must have."""
    (found,) = prepare(pixels)
    return found.image


def similarity(first: Array, second: Array) -> float:
    """The correlation of two images, -1 to 1."""
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def best_similarity(first: Array, second: Array) -> float:
    """The largest similarity over shifts by a pixel: noise changes the rounding of the centre."""
    moves = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    return max(similarity(np.roll(first, move, (0, 1)), second) for move in moves)


def refusal(source: Source, **options: bool) -> str:
    with pytest.raises(PictureError) as error:
        prepare(source, **options)
    message = str(error.value)
    assert "\n" not in message
    return message

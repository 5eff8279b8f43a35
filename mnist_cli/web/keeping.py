"""A drawing with its label, kept in a folder that `mnist train --dataset` takes."""

from __future__ import annotations

import hashlib
from pathlib import Path

from PIL import Image

from mnist_cli.arrays import CLASSES
from mnist_cli.pictures.opening import open_picture
from mnist_cli.prediction import Model
from mnist_cli.records import replacing


def keep(reader: Model, picture: bytes, label: int, folder: Path) -> Path:
    """Write a picture of one digit below the folder of its label and return the path.

    The name is a digest of the pixels, so that the same drawing counts once. Raises `PictureError`
    for a picture that shows no digit, because training on it would fail, and `OutputError`.
    """
    assert 0 <= label < CLASSES
    reader.prepare(picture, single=True)
    pixels = open_picture(picture).pixels
    digest = hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).hexdigest()
    path = folder / str(label) / f"drawn-{digest[:16]}.png"
    if path.exists():
        return path
    with replacing(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")
    return path


def kept_count(folder: Path) -> int:
    """Return how many drawings a folder holds."""
    return sum(1 for _ in folder.glob("[0-9]/drawn-*.png"))

"""Pictures on disk for the tests of prediction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from idx_files import mnist
from PIL import Image


def save_digits(folder: Path) -> Path:
    """Save ten test digits, 0.png to 9.png, dark on light, in a new folder and return it."""
    data = mnist()
    folder.mkdir()
    for label in range(10):
        index = np.flatnonzero(data.test_labels == label)[0]
        page = np.full((60, 70), 255, np.uint8)
        page[20:48, 9:37] -= data.test_images[index]
        Image.fromarray(page).save(folder / f"{label}.png")
    return folder

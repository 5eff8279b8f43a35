"""The sheet of `mnist collect`, filled in."""

from __future__ import annotations

import cv2
import numpy as np
from idx_files import mnist

from mnist_cli.pictures import template

SCALE = template._PRINTED_PIXELS_PER_MM


def filled_in(*, columns: int = 10) -> np.ndarray:
    """Return the template with one of MNIST's digits, 14 mm high, in each box."""
    page = template._template().copy()
    data = mnist()
    for digit in range(10):
        rows = np.flatnonzero(data.test_labels == digit)
        for column in range(columns):
            ink = cv2.resize(data.test_images[rows[column]], (14 * SCALE, 14 * SCALE))
            left = (template._GRID[0] + column * template._BOX_WIDTH + 1) * SCALE
            top = (template._GRID[1] + digit * template._BOX_HEIGHT + 4) * SCALE
            box = page[top : top + 14 * SCALE, left : left + 14 * SCALE]
            np.minimum(box, 255 - ink, out=box)
    return page

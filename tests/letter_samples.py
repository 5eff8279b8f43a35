"""A made data set of letters: 26 classes in the form of EMNIST's, upright, to be learned fast."""

from __future__ import annotations

import functools
from pathlib import Path

import cv2
import numpy as np

from mnist_cli.names import class_names

LETTERS = class_names("emnist-letters")
NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")


def drawn_letter(letter: str, rng: np.random.Generator) -> np.ndarray:
    """Return a letter (28, 28), uint8, light on black, moved by up to 2 pixels."""
    page = np.zeros((28, 28), np.uint8)
    left, bottom = 7 + rng.integers(-2, 3), 21 + rng.integers(-2, 3)
    place = (int(left), int(bottom))
    return cv2.putText(page, letter, place, cv2.FONT_HERSHEY_SIMPLEX, 0.7, 255, 2, cv2.LINE_AA)


@functools.cache
def letters(train: int = 12, test: int = 3) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz, with ``train`` and ``test`` images of each letter."""
    rng = np.random.default_rng(0)
    arrays = []
    for count in (train, test):
        labels = np.tile(np.arange(26, dtype=np.uint8), count)
        arrays += [np.array([drawn_letter(LETTERS[label], rng) for label in labels]), labels]
    return dict(zip(NPZ_KEYS, arrays, strict=True))


def write_letters(folder: Path, *, named: bool = True) -> Path:
    """Write the letters as an .npz file, which names them or not, and return its path."""
    path = folder / "letters.npz"
    names = {"class_names": np.array(LETTERS)} if named else {}
    np.savez(path, **letters(), **names)
    return path

"""A folder of pictures sorted by digit: ``0`` to ``9``, also below ``train`` and ``test``.

Each picture shows one digit and is prepared as `mnist predict --single` prepares it, so that a
model trained on them sees what it will see when it reads others. Without ``train`` and ``test``,
one picture in six of each digit is kept for the test, spread evenly over their names.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

import numpy as np

from mnist_cli.arrays import CLASSES, IMAGE_SIZE, Array
from mnist_cli.data.dataset import Arrays, Format, OnProgress
from mnist_cli.data.messages import printable
from mnist_cli.errors import DataError, MnistError
from mnist_cli.names import plural

TEST_ONE_IN = 6

_DIGITS = tuple(str(digit) for digit in range(CLASSES))
_PARTS = ("train", "test")
# The pictures of each digit.
_Files: TypeAlias = list[list[Path]]


def is_sorted_by_digit(path: Path) -> bool:
    """Return whether a path is a folder with a folder of a digit in it, or below ``train``."""
    return any((path / below / digit).is_dir() for below in ("", *_PARTS) for digit in _DIGITS)


def read_folder(folder: Path, on_progress: OnProgress | None = None) -> Arrays:
    """Return training images, their labels, test images and theirs, from a folder of pictures.

    ``on_progress`` is called after each picture. Raises `DataError` if a digit has no pictures or
    too few, and for pictures that cannot be read.
    """
    if any((folder / part).is_dir() for part in _PARTS):
        parts = [_find_pictures(folder / part, minimum=1) for part in _PARTS]
    else:
        pictures = _find_pictures(folder, minimum=2)
        parts = [[_kept(files, test=test) for files in pictures] for test in (False, True)]
    images = iter(_read(folder, [path for part in parts for path in _flat(part)], on_progress))
    arrays = []
    for part in parts:
        labels = np.repeat(np.arange(CLASSES, dtype=np.uint8), [len(files) for files in part])
        shape = (len(labels), IMAGE_SIZE, IMAGE_SIZE)
        arrays += [np.array([next(images) for _ in labels], np.uint8).reshape(shape), labels]
    return arrays


FORMAT = Format(
    "a folder of pictures sorted into folders 0 to 9", matches=is_sorted_by_digit, read=read_folder
)


def _find_pictures(folder: Path, *, minimum: int) -> _Files:
    """Return the pictures of each digit. Raises `DataError` if one has fewer than ``minimum``."""
    from mnist_cli.pictures.opening import pictures_below  # imports OpenCV

    found = [pictures_below(folder / digit) for digit in _DIGITS]
    counts = [len(files) for files in found]
    fewest = min(counts)
    if fewest < minimum:
        few = [digit for digit in _DIGITS if counts[int(digit)] == fewest]
        raise DataError(
            f"{printable(folder)} has {_counted(fewest)} of {', '.join(few)}; "
            f"expected folders 0 to 9 with at least {_counted(minimum)} in each. Add pictures of "
            f"{'this digit' if len(few) == 1 else 'these digits'}."
        )
    return found


def _counted(count: int) -> str:
    return plural(count, "picture") if count else "no pictures"


def _kept(files: list[Path], *, test: bool) -> list[Path]:
    """Return those of two or more pictures that are for the test, or the others."""
    step = min(TEST_ONE_IN, len(files))
    return [path for number, path in enumerate(files) if (number % step == step - 1) == test]


def _flat(files: _Files) -> Iterable[Path]:
    return (path for paths in files for path in paths)


def _read(folder: Path, paths: list[Path], on_progress: OnProgress | None) -> list[Array]:
    """Return the prepared pictures. Raises `DataError` that names the first of all bad ones."""
    from mnist_cli.pictures.normalise import UNEXPECTED_ERRORS, prepare  # imports OpenCV

    images, errors = [], []
    for number, path in enumerate(paths, start=1):
        try:
            images.append(prepare(path, single=True)[0].image)
        except (MnistError, *UNEXPECTED_ERRORS) as error:
            errors.append(f"{printable(path.relative_to(folder))}: {error}")
        if on_progress is not None:
            on_progress(number, len(paths))
    if errors:
        raise DataError(
            f"{len(errors)} of {len(paths)} pictures in {printable(folder)} cannot be read "
            f"({errors[0]}{', ...' * (len(errors) > 1)}). Mend or remove "
            f"{'it' if len(errors) == 1 else 'them'}."
        )
    return images

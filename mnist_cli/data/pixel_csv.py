"""CSV of pixels: a row for each image, its label and then its 784 pixels, row by row.

So are the files of Kaggle's digit recogniser, with a header, and the ones that go around as
``mnist_train.csv``, without. A folder holds one for training and one for the test; of a single
file, or beside a ``test.csv`` without labels as Kaggle's, one image in six of each class is for the
test.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TextIO

import numpy as np

from mnist_cli.arrays import IMAGE_SIZE, Array
from mnist_cli.config import MAX_CLASSES
from mnist_cli.data.dataset import Arrays, ClassNames, Format, OnProgress, split_off_test
from mnist_cli.data.messages import one_line, printable
from mnist_cli.errors import DataError

PIXELS = IMAGE_SIZE**2
_LABEL = "label"
_NAMES = ("{}.csv", "mnist_{}.csv")
_ROWS = 1000  # parsed at a time
_MAX_LINE = 32_768  # characters: a row of quoted pixels with blanks has some 6,000
_SHOWN = 20  # characters of a wrong value


def read_rows(
    path: Path, *, labelled: bool, on_progress: OnProgress | None = None
) -> Iterator[tuple[Array, Array]]:
    """Yield images (n, 28, 28), uint8, and their labels (n,), uint8, some rows at a time.

    Labels are zeros unless the rows are ``labelled``. A header is recognised by its names.
    ``on_progress`` is told how many of about how many rows have been read. Raises `DataError` that
    names the line of a wrong row, `OSError` for an unreadable file.
    """
    done = characters = 0
    with path.open(encoding="utf-8-sig", newline=None) as file:
        lines = _lines(file, path, labelled=labelled)
        while chunk := list(islice(lines, _ROWS)):
            rows = [line for line in chunk if line[1].strip()]
            if rows and not done and not characters:
                rows = rows[_has_header(rows[0][1], path, labelled=labelled) :]
            characters += sum(len(line) for _, line in chunk)
            if not rows:
                continue
            values = _parsed(rows, path, labelled=labelled)
            done += len(rows)
            if on_progress is not None:
                estimate = max(done, round(path.stat().st_size * done / characters))
                on_progress(done, estimate)
            pixels = values[:, labelled:].astype(np.uint8)
            labels = values[:, 0] if labelled else np.zeros(len(values))
            yield pixels.reshape(-1, IMAGE_SIZE, IMAGE_SIZE), labels.astype(np.uint8)
    if not done:
        raise DataError(f"{printable(path)} has no rows; expected {_expected(labelled)}.")


def _lines(file: TextIO, path: Path, *, labelled: bool) -> Iterator[tuple[int, str]]:
    """Yield the lines of a file with their numbers. Raises `DataError` for one that is no text."""
    number = 0
    try:
        while line := file.readline(_MAX_LINE):
            number += 1
            yield number, line
    except UnicodeDecodeError as error:
        # Text is decoded some kilobytes at a time: more lines may precede the one that fails.
        number += 1 + error.object[: error.start].count(b"\n")
        raise DataError(
            f"Line {number} of {printable(path)} is no text; expected {_expected(labelled)}. "
            "Save it as CSV in UTF-8."
        ) from error


def has_labels(path: Path) -> bool:
    """Return whether the first line of a file has one value more than an image has pixels."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return len(file.readline(_MAX_LINE).split(",")) != PIXELS


def read(path: Path, on_progress: OnProgress | None = None) -> tuple[Arrays, ClassNames]:
    """Return the four arrays of a file or a folder of files. Raises as `read_rows`."""
    if not path.is_dir():
        return split_off_test(*_read_file(path, on_progress), source=path), None
    train, test = (_find(path, part) for part in ("train", "test"))
    if train is None:
        raise DataError(
            f"{printable(path)} has a test.csv, but no train.csv; expected both, or a training "
            "file alone. Add it, or name the file."
        )
    if test is None or not has_labels(test):
        return split_off_test(*_read_file(train, on_progress), source=train), None
    return [*_read_file(train, on_progress), *_read_file(test, on_progress)], None


def _matches(path: Path) -> bool:
    if path.is_dir():
        return any(_find(path, part) is not None for part in ("train", "test"))
    return path.suffix.lower() == ".csv"


FORMAT = Format("a .csv file of pixels", matches=_matches, read=read)


def _find(folder: Path, part: str) -> Path | None:
    candidates = (folder / name.format(part) for name in _NAMES)
    return next((path for path in candidates if path.is_file()), None)


def _read_file(path: Path, on_progress: OnProgress | None) -> tuple[Array, Array]:
    parts = list(read_rows(path, labelled=True, on_progress=on_progress))
    images, labels = zip(*parts, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _expected(labelled: bool) -> str:
    return f"rows of {'a label and ' * labelled}{PIXELS} pixels, 0 to 255, with commas between"


def _has_header(line: str, path: Path, *, labelled: bool) -> bool:
    """Return whether the first line has names. Raises `DataError` for other columns."""
    names = [name.strip().strip('"') for name in line.split(",")]
    if not names[0] or names[0][0] in "-.0123456789":
        return False
    if len(names) != PIXELS + labelled or (names[0].lower() == _LABEL) != labelled:
        known = [number for number, name in enumerate(names, 1) if name.lower() == _LABEL]
        found = f"{len(names)} columns from {printable(names[0][:_SHOWN])} on"
        found += f", the label in column {known[0]}" if known else ", none of them label"
        columns = f"{'label, ' * labelled}pixel0 to pixel{PIXELS - 1}"
        raise DataError(
            f"{printable(path)} has {found}; expected {PIXELS + labelled} columns, {columns}. "
            "Put the columns in this order."
        )
    return True


def _parsed(rows: list[tuple[int, str]], path: Path, *, labelled: bool) -> Array:
    """Return the values of numbered lines (n, columns), int64. Raises `DataError` for a bad one."""
    columns = PIXELS + labelled
    try:
        lines = [line for _, line in rows]
        values = np.loadtxt(lines, np.int64, delimiter=",", quotechar='"', comments=None, ndmin=2)
        if values.shape == (len(rows), columns) and values.min() >= 0 and values.max() <= 255:
            return values
    except (ValueError, OverflowError):
        pass
    # Slowly, to say which.
    return np.array([_row(number, line, path, labelled=labelled) for number, line in rows])


def _row(number: int, line: str, path: Path, *, labelled: bool) -> list[int]:
    """Return the values of one line. Raises `DataError` that names it."""
    where = f"Line {number} of {printable(path)}"
    cells = [cell.strip().strip('"').strip() for cell in line.split(",")]
    if len(cells) != PIXELS + labelled:
        raise DataError(
            f"{where} has {len(cells)} values; expected {PIXELS + labelled}: "
            f"{'a label and ' * labelled}{PIXELS} pixels. Mend or remove it."
        )
    values = []
    for column, cell in enumerate(cells, start=1):
        what = "label" if labelled and column == 1 else "pixel"
        limit = MAX_CLASSES - 1 if what == "label" else 255
        if not (cell.isascii() and cell.isdecimal() and len(cell) < 6 and int(cell) <= limit):
            shown = one_line(cell[:_SHOWN]) or "nothing"
            raise DataError(
                f"{where} has {shown} in column {column}; expected a {what}, a whole number from 0 "
                f"to {limit}. Mend or remove it."
            )
        values.append(int(cell))
    return values

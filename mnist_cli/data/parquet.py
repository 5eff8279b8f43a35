"""Parquet, in the layout of Hugging Face's ``mnist``: images as PNG or JPEG files in a column.

A column ``image`` has structs with the ``bytes`` of a file, a column ``label`` whole numbers, which
the file's metadata may name. A folder, or ``mnist`` or ``data`` below it, has files for training
and for the test; of a single file one image in six of each class is for the test.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from mnist_cli.arrays import IMAGE_SIZE, Array
from mnist_cli.config import MAX_CLASSES
from mnist_cli.data.dataset import Arrays, ClassNames, Format, OnProgress, split_off_test
from mnist_cli.data.messages import one_line, printable, reason
from mnist_cli.errors import DataError

_SUBFOLDERS = ("", "mnist", "data")
_ROWS = 1000  # decoded at a time
_IMAGE, _LABEL = "image", "label"
_PICTURES = ("PNG", "JPEG")  # of all that Pillow reads: for EPS it would start Ghostscript


def _files(path: Path, part: str) -> list[Path]:
    """Return the files of a part in the first place that has some."""
    places = (sorted((path / below).glob(f"{part}*.parquet")) for below in _SUBFOLDERS)
    return next((found for found in places if found), [])


def _matches(path: Path) -> bool:
    if path.is_dir():
        return any(_files(path, part) for part in ("train", "test"))
    return path.suffix.lower() == ".parquet"


def read(path: Path, on_progress: OnProgress | None = None) -> tuple[Arrays, ClassNames]:
    """Return the four arrays of a file or a folder of files, and the names of the classes.

    Raises `DataError` for what is damaged or of another layout, and without pyarrow.
    """
    if not path.is_dir():
        (images, labels), names = _read_part([path], on_progress)
        return split_off_test(images, labels, source=path), names
    arrays: Arrays = []
    found: ClassNames = None
    for part in ("train", "test"):
        files = _files(path, part)
        if not files:
            raise DataError(
                f"{printable(path)} has no {part}*.parquet; expected files for training and for "
                "the test. Add them, or name one file."
            )
        pair, names = _read_part(files, on_progress)
        arrays += pair
        found = found or names
    return arrays, found


FORMAT = Format("a .parquet file of images", matches=_matches, read=read)


def _read_part(
    paths: list[Path], on_progress: OnProgress | None
) -> tuple[tuple[Array, Array], ClassNames]:
    """Return the images and labels of files, and the names of the classes."""
    parts, names = zip(*(_read_file(path, on_progress) for path in paths), strict=True)
    images, labels = zip(*parts, strict=True)
    return (np.concatenate(images), np.concatenate(labels)), names[0]


def _read_file(
    path: Path, on_progress: OnProgress | None
) -> tuple[tuple[Array, Array], ClassNames]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(
            f"{printable(path)} needs pyarrow, which is not installed. Install it into this "
            "environment: pip install 'mnist-cli[parquet]'"
        ) from error
    try:
        with parquet.ParquetFile(path) as file:
            _require_layout(file.schema_arrow, path)
            count = file.metadata.num_rows
            images = np.zeros((count, IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
            labels = np.zeros(count, dtype=np.uint8)
            row = 0
            for batch in file.iter_batches(_ROWS, columns=[_IMAGE, _LABEL]):
                pairs = zip(*(batch.column(name).to_pylist() for name in (_IMAGE, _LABEL)))  # noqa: B905  # columns of a batch are equally long
                for image, label in pairs:
                    images[row] = _decoded(image, path, row)
                    labels[row] = _label(label, path, row)
                    row += 1
                if on_progress is not None:
                    on_progress(row, count)
            if not count:
                raise DataError(f"{printable(path)} has no rows; expected images and labels.")
            if row != count:
                raise ValueError(f"{row} rows, not {count}")
            return (images, labels), _names(file.schema_arrow)
    except (pyarrow.ArrowException, MemoryError, ValueError, IndexError) as error:
        # The last two come of names that are no text, and of numbers of rows that contradict.
        raise DataError(
            f"{printable(path)} is no whole Parquet file ({reason(error)[:200]}). Copy it again."
        ) from error


def _require_layout(schema: Any, path: Path) -> None:
    """Raise `DataError` unless there are a column of structs with bytes, and one of integers."""
    from pyarrow import types

    kinds = {field.name: field.type for field in schema}
    image, label = kinds.get(_IMAGE), kinds.get(_LABEL)
    fields = [field.name for field in image] if image and types.is_struct(image) else []
    if "bytes" not in fields or label is None or not types.is_integer(label):
        found = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
        raise DataError(
            f"{printable(path)} has the columns {one_line(found)[:200]}; expected image (a struct "
            "with the bytes of a PNG or JPEG file) and label (whole numbers). Name them so."
        )


def _names(schema: Any) -> ClassNames:
    """Return the names of the classes as Hugging Face's ``datasets`` writes them, if it did."""
    try:
        facts = json.loads((schema.metadata or {})[b"huggingface"])
        names = facts["info"]["features"][_LABEL]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return tuple(names) if isinstance(names, list) else None


def _decoded(value: Any, path: Path, row: int) -> Array:
    """Return the image (28, 28), uint8, of a struct. Raises `DataError` that names the row."""
    from PIL import Image

    content = value and value.get("bytes")
    where = f"Row {row} of {printable(path)}"
    if not content:
        raise DataError(f"{where} has no image; expected the bytes of a PNG or JPEG file.")
    try:
        with Image.open(io.BytesIO(content), formats=_PICTURES) as image:
            if image.size != (IMAGE_SIZE, IMAGE_SIZE):  # before it is decoded
                raise DataError(
                    f"{where} has an image of {image.width}x{image.height} pixels; expected "
                    f"{IMAGE_SIZE}x{IMAGE_SIZE}. Convert it."
                )
            return np.asarray(image.convert("L"))
    except DataError:
        raise
    except Exception as error:  # Pillow fails on damaged files in many ways
        raise DataError(
            f"{where} has an image that cannot be read ({reason(error)[:120]}); expected the "
            "bytes of a PNG or JPEG file. Convert or remove it."
        ) from error


def _label(value: Any, path: Path, row: int) -> int:
    if value is None or not 0 <= value < MAX_CLASSES:
        raise DataError(
            f"Row {row} of {printable(path)} has the label {value}; expected 0 to "
            f"{MAX_CLASSES - 1}. Mend or remove it."
        )
    return int(value)

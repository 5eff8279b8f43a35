"""NPZ: a zip archive of NumPy arrays with the names of Keras' ``mnist.npz``.

Classes may be named by an array of strings beside them, ``class_names``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mnist_cli.arrays import Array
from mnist_cli.data.dataset import (
    PARTS,
    Arrays,
    ClassNames,
    Format,
    Part,
    require_labels,
    require_shape,
)
from mnist_cli.data.messages import printable
from mnist_cli.errors import DataError

CLASS_NAMES = "class_names"


def read_archive(path: Path) -> tuple[Arrays, ClassNames]:
    """Return the four arrays in an ``.npz``, and its ``class_names`` if it has such an array.

    Raises `DataError` for a damaged file or arrays of another kind, `OSError` for an unreadable
    file.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = [_read_array(archive, path, part) for part in PARTS]
            return arrays, _read_names(archive, path)
    except (DataError, OSError):
        raise
    except Exception as error:  # zipfile, zlib and NumPy fail on damaged files in many ways
        raise DataError(
            f"{printable(path)} is not a whole .npz file of plain arrays; expected a folder of IDX "
            f"files, or an .npz of {', '.join(part.npz_key for part in PARTS)}."
        ) from error


def _is_not_folder(path: Path) -> bool:
    return not path.is_dir()


# Any file: the message about one that is no archive then says what an archive must hold.
FORMAT = Format("an .npz file", matches=_is_not_folder, read=lambda path, _: read_archive(path))


def _read_array(archive: Mapping[str, Array], path: Path, part: Part) -> Array:
    """Return one array of an open archive, (N, 28, 28) or (N,), uint8, C-contiguous."""
    if part.npz_key not in archive:
        raise DataError(
            f"{printable(path)} has no {part.npz_key} ({part.description}); expected "
            f"{', '.join(part.npz_key for part in PARTS)}, "
            f"found {printable(', '.join(list(archive)[:8]) or 'nothing')}."
        )
    where = f"{part.npz_key} in {printable(path)}"
    array = archive[part.npz_key]
    if not isinstance(array, np.ndarray):  # NumPy returns the bytes of a member that is no array
        raise TypeError(f"{part.npz_key} is not an array")
    _require_dtype(array.dtype, part, where=where)
    if part.dims == 3 and array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]  # (N, 28, 28, 1) -> (N, 28, 28)
    require_shape(array.shape, part, where=where)
    require_labels(array, part, where=where)
    return np.ascontiguousarray(array, dtype=np.uint8)


def _read_names(archive: Mapping[str, Array], path: Path) -> ClassNames:
    if CLASS_NAMES not in archive:
        return None
    names = archive[CLASS_NAMES]
    if names.dtype.kind != "U" or names.ndim != 1:
        raise DataError(
            f"{CLASS_NAMES} in {printable(path)} is {names.dtype} of shape {names.shape}; expected "
            "strings, one for each class. Save it again."
        )
    return tuple(names.tolist())


def _require_dtype(dtype: np.dtype[np.generic], part: Part, *, where: str) -> None:
    """Raise `DataError` unless images are uint8 and labels are integers of any width.

    Floating-point images are refused because their range is ambiguous: 0-1, -1 to 1 or 0-255.
    """
    if part.dims == 3 and dtype != np.uint8:
        raise DataError(f"{where} is {dtype}; expected uint8, 0-255. Convert and save it again.")
    if part.dims == 1 and dtype.kind not in "iu":
        raise DataError(f"{where} is {dtype}; expected uint8, 0-255. Convert and save it again.")

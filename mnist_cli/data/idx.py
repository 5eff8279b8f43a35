"""IDX, the format of the original MNIST files: a folder of four files, each plain or gzipped.

Described at http://yann.lecun.com/exdb/mnist/ under "the IDX file format": two zero bytes, a type
code, the number of dimensions, each size as a big-endian uint32, then the values.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import IO, TypeAlias

import numpy as np

from mnist_cli.arrays import Array
from mnist_cli.data.dataset import (
    IDX_UNSIGNED_BYTE,
    PARTS,
    Arrays,
    Format,
    Part,
    require_labels,
    require_shape,
)
from mnist_cli.data.messages import printable, reason
from mnist_cli.errors import DataError

SUBFOLDERS = ("", "raw", "MNIST/raw")  # torchvision stores the files in the last two
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK_BYTES = 1 << 20  # 1 MiB at a time: see `_read_content`

_BinaryFile: TypeAlias = IO[bytes] | gzip.GzipFile


def read_folder(folder: Path) -> Arrays:
    """Return the four arrays in a folder of IDX files, or in torchvision's subfolders of it.

    Raises `DataError` for a missing, damaged or foreign file, `OSError` for an unreadable one.
    """
    candidates = [folder / subfolder for subfolder in SUBFOLDERS]
    # The one with the most of the files; of equals the first, so that a message about an empty
    # folder names the folder that was given.
    chosen = max(
        candidates, key=lambda place: sum(_find(place, part) is not None for part in PARTS)
    )
    arrays = []
    for part in PARTS:
        path = _find(chosen, part)
        if path is None:
            usual, other = file_names(part)[0], file_names(part)[2]
            raise DataError(
                f"No {part.description} in {printable(chosen)}: looked for {usual} and {other}, "
                "with and without .gz. Put the four IDX files in one folder and name that."
            )
        arrays.append(read_file(path, part))
    return arrays


FORMAT = Format(
    "a folder of IDX files",
    matches=Path.is_dir,
    read=lambda folder, _: (read_folder(folder), None),
)


def file_names(part: Part) -> tuple[str, ...]:
    """Return the names that the IDX file of a part may have, the usual one first."""
    endings = (f"-idx{part.dims}-ubyte", f".idx{part.dims}-ubyte")
    return tuple(part.idx_stem + ending + gz for ending in endings for gz in ("", ".gz"))


def read_file(path: Path, part: Part) -> Array:
    """Return the array in an IDX file, gzipped or not: (N, 28, 28) or (N,), uint8.

    Gzip is recognised by the content, not by the name: browsers unpack files without renaming them.
    Raises `DataError` for a file that is damaged or holds something else, `OSError` if it cannot
    be opened.
    """
    with path.open("rb") as file:
        is_gzipped = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
        file.seek(0)
        if not is_gzipped:
            return _decode(file, part, where=printable(path))
        try:
            with gzip.GzipFile(fileobj=file) as unzipped:
                return _decode(unzipped, part, where=printable(path))
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(
                f"{printable(path)} is a damaged gzip file ({reason(error)}). Copy it again."
            ) from error


def write_folder(folder: Path, arrays: Arrays) -> None:
    """Write four arrays as IDX files, not gzipped, into a folder. Raises `OSError`."""
    for array, part in zip(arrays, PARTS, strict=True):
        header = struct.pack(f">HBB{array.ndim}I", 0, IDX_UNSIGNED_BYTE, array.ndim, *array.shape)
        with (folder / file_names(part)[0]).open("wb") as file:
            file.write(header)
            file.write(np.ascontiguousarray(array, np.uint8).data)


def _find(folder: Path, part: Part) -> Path | None:
    candidates = (folder / name for name in file_names(part))
    return next((path for path in candidates if path.is_file()), None)


def _decode(file: _BinaryFile, part: Part, *, where: str) -> Array:
    """Return the array in an open uncompressed IDX file; ``where`` names the file in messages."""
    magic = file.read(4)
    if not magic:
        raise DataError(
            f"{where} is empty; expected {part.description} as an IDX file. Copy it again."
        )
    _require_magic(magic, part, where=where)
    header = file.read(4 * part.dims)
    if len(header) < 4 * part.dims:
        raise DataError(
            f"{where} is truncated: expected a header of {4 + 4 * part.dims} bytes, "
            f"but it has {4 + len(header)}. Copy it again."
        )
    shape = struct.unpack(f">{part.dims}I", header)
    require_shape(shape, part, where=where)
    content = _read_content(file, math.prod(shape), where=where)
    array = np.frombuffer(content, dtype=np.uint8).reshape(shape)
    require_labels(array, part, where=where)
    return array


def _require_magic(magic: bytes, part: Part, *, where: str) -> None:
    """Raise `DataError` unless ``magic`` starts an IDX file of uint8 with ``part.dims`` sizes."""
    if len(magic) < 4 or magic[:2] != b"\0\0":
        raise DataError(
            f"{where} is not an IDX file: expected {part.description}, starting with "
            f"00 00 08 {part.dims:02x}, but it starts with {magic.hex(' ')}."
        )
    if magic[2] != IDX_UNSIGNED_BYTE:
        raise DataError(
            f"{where} holds numbers of IDX type 0x{magic[2]:02x}; expected unsigned bytes, type "
            f"0x{IDX_UNSIGNED_BYTE:02x}. Save the {part.description} as unsigned bytes."
        )
    if magic[3] != part.dims:
        kinds = {1: "labels (1 dimension)", 3: "images (3 dimensions)"}
        came = kinds.get(magic[3], f"an array of {magic[3]} dimensions")
        raise DataError(
            f"{where} holds {came}; expected {part.description}, {kinds[part.dims]}. "
            "Check that the files are not swapped."
        )


def _read_content(file: _BinaryFile, expected_bytes: int, *, where: str) -> bytearray:
    """Return the rest of a file, which must be ``expected_bytes`` long; else raise `DataError`.

    The file is read in chunks, so that a header which claims terabytes allocates only what the
    file really holds.
    """
    content = bytearray()
    # Ask for one byte past the end: it detects surplus content, and gzip checks its CRC only there.
    while chunk := file.read(min(_CHUNK_BYTES, expected_bytes + 1 - len(content))):
        content += chunk
    if len(content) != expected_bytes:
        truncated = len(content) < expected_bytes
        raise DataError(
            f"{where} is {'truncated' if truncated else 'too long'}: its header promises "
            f"{expected_bytes} bytes of content, but it has "
            f"{len(content) if truncated else 'more'}. Copy it again."
        )
    return content

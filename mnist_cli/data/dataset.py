"""Datasets of 28x28 pictures: the embedded MNIST, its two siblings, or a person's own files.

Every reader trusts nothing a file says: sizes are compared with what is there before memory is
taken for them, nothing is ever unpickled, and whatever is wrong ends in one line of `DataError`.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import importlib.resources
import math
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeAlias

import numpy as np

from mnist_cli.arrays import CLASSES, IMAGE_SIZE, Array
from mnist_cli.errors import DataError, UsageError
from mnist_cli.randomness import stream

DATASETS = ("fashion-mnist", "kmnist", "mnist")
VALIDATION_ONE_IN = 12  # 5,000 of MNIST's 60,000

_TORCHVISION_CLASSES = {"fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}
_SUBFOLDERS = ("", "raw", "MNIST/raw")  # the last two are torchvision's
_GZIP_MAGIC = b"\x1f\x8b"
_UNSIGNED_BYTE = 0x08
_CHUNK_BYTES = 1 << 20

_Readable: TypeAlias = IO[bytes] | gzip.GzipFile


@dataclass(frozen=True)
class _Part:
    """One of the four arrays of a dataset, and what it is called in each format."""

    what: str  # in messages
    idx_stem: str
    npz_key: str
    dims: int
    embedded_sha256: str  # of MNIST's own uncompressed IDX file

    @property
    def file_names(self) -> tuple[str, ...]:
        """The names an IDX file of this part may have, the usual one first."""
        endings = (f"-idx{self.dims}-ubyte", f".idx{self.dims}-ubyte")
        return tuple(self.idx_stem + ending + gz for ending in endings for gz in ("", ".gz"))


_PARTS = (
    _Part(
        what="training images",
        idx_stem="train-images",
        npz_key="x_train",
        dims=3,
        embedded_sha256="ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    _Part(
        what="training labels",
        idx_stem="train-labels",
        npz_key="y_train",
        dims=1,
        embedded_sha256="65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    _Part(
        what="test images",
        idx_stem="t10k-images",
        npz_key="x_test",
        dims=3,
        embedded_sha256="0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    _Part(
        what="test labels",
        idx_stem="t10k-labels",
        npz_key="y_test",
        dims=1,
        embedded_sha256="ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test pictures with their labels.

    Images are (N, 28, 28), uint8, 0 for background to 255 for ink; labels (N,), int64, 0-9.
    ``sha256`` identifies the content: the same arrays give the same digest, in whatever format
    they were stored.
    """

    name: str
    train_images: Array
    train_labels: Array
    test_images: Array
    test_labels: Array
    sha256: str


@dataclass(frozen=True, eq=False)
class Split:
    """A dataset's training images, parted in those that teach and those that choose.

    Shapes and types are those of `Dataset`.
    """

    train_images: Array
    train_labels: Array
    validation_images: Array
    validation_labels: Array


def load_dataset(name_or_path: str = "mnist") -> Dataset:
    """Return the dataset of that name, or the one at that path.

    ``mnist`` is part of the package. ``fashion-mnist`` and ``kmnist`` are fetched by torchvision
    once, into the user's cache folder. A path is
    a folder of IDX files (gzipped or not, torchvision's layout too) or a Keras-style ``.npz``. A
    known name wins over a folder of that name: write ``./mnist`` for the folder.

    Raises `UsageError` for what is neither a name nor a path, `DataError` for what cannot be read.
    """
    with _reading(name_or_path):
        if name_or_path == "mnist":
            return _load_embedded()
        if name_or_path in _TORCHVISION_CLASSES:
            return _load_cached(name_or_path)
        return _load_path(name_or_path)


@contextlib.contextmanager
def _reading(what: str | Path) -> Iterator[None]:
    """Turn an `OSError` into a `DataError` that names the file, or ``what`` was to be read."""
    try:
        yield
    except OSError as error:
        where = error.filename or what
        raise DataError(f"Cannot read {_show(where)}: {_reason(error)}.") from error


def fetch(name_or_path: str) -> None:
    """Have torchvision fetch the dataset, if it is one of those and not in the cache yet.

    `load_dataset` does so too; this is for whoever wants it done beforehand. Raises `DataError` if
    it fails.
    """
    if name_or_path not in _TORCHVISION_CLASSES:
        return
    folder = _cache_folder() / name_or_path
    with _reading(folder):
        if not folder.is_dir():
            _download(name_or_path, folder)


def split(dataset: Dataset, *, seed: int, limit: int | None = None) -> Split:
    """Part the training images in training (eleven twelfths) and validation (one twelfth).

    Which image goes where depends only on the seed and the number of images. ``limit``, for a
    quick try, keeps that many training images and at most as many validation images: the first of
    the full split, so that a larger limit only adds images. The test set is never cut.

    Raises what `training_count` does.
    """
    training_count(dataset, limit=limit)
    count = len(dataset.train_labels)
    validation_count = count // VALIDATION_ONE_IN
    order = stream(seed, "split").permutation(count)
    validation, train = order[:validation_count][:limit], order[validation_count:][:limit]
    return Split(
        train_images=dataset.train_images[train],
        train_labels=dataset.train_labels[train],
        validation_images=dataset.train_images[validation],
        validation_labels=dataset.train_labels[validation],
    )


def training_count(dataset: Dataset, *, limit: int | None) -> int:
    """Return how many images `split` leaves to train on.

    Raises `UsageError` for a limit below 1 or above what there is, `DataError` when there are too
    few images to set any aside.
    """
    count = len(dataset.train_labels)
    validation_count = count // VALIDATION_ONE_IN
    if validation_count == 0:
        raise DataError(
            f"{_show(dataset.name)} has {count} training images, but at least "
            f"{VALIDATION_ONE_IN} are needed to set one in {VALIDATION_ONE_IN} aside for "
            "validation. Use a larger dataset."
        )
    available = count - validation_count
    if limit is not None and not 1 <= limit <= available:
        raise UsageError(
            f"limit must be from 1 to {available} (the training images of "
            f"{_show(dataset.name)} after validation is set aside), not {limit}."
        )
    return limit or available


# --- The three places a dataset comes from ---------------------------------------------------


def _load_embedded() -> Dataset:
    """Return MNIST from the package's own files; `DataError` unless every byte is right."""
    folder = importlib.resources.files("mnist_cli.data")
    try:
        with contextlib.ExitStack() as stack:
            arrays = []
            for part in _PARTS:
                resource = folder / f"{part.idx_stem}-idx{part.dims}-ubyte.gz"
                # as_file, because the package may be imported from a zip.
                path = stack.enter_context(importlib.resources.as_file(resource))
                arrays.append(_read_idx(path, part))
    except (DataError, OSError) as error:
        raise _damaged_package(str(error)) from error
    digests = [_idx_sha256(array) for array in arrays]
    for part, digest in zip(_PARTS, digests, strict=True):
        if digest != part.embedded_sha256:
            raise _damaged_package(f"SHA-256 of the {part.what} is {digest[:12]}...")
    return _dataset("mnist", arrays, source="mnist", digests=digests)


def _damaged_package(detail: str) -> DataError:
    return DataError(
        f"The embedded MNIST is damaged ({_one_line(detail)}); reinstall mnist-cli, "
        "or name a folder of the original files."
    )


def _load_cached(name: str) -> Dataset:
    """Return a dataset from the user's cache folder, fetching it there if it is not in it."""
    fetch(name)
    folder = _cache_folder() / name
    try:
        return _dataset(name, _read_folder(folder), source=str(folder))
    except DataError as error:
        raise DataError(
            f"The cached {name} is damaged ({_one_line(str(error))}); "
            f"delete {_show(folder)} and it is fetched again."
        ) from error


def _cache_folder() -> Path:
    from platformdirs import user_cache_path  # not needed for the embedded data

    return user_cache_path("mnist-cli")


def _download(name: str, folder: Path) -> None:
    """Do `_fetch` in a process of its own: torchvision brings torch, which TensorFlow's may not."""
    script = (
        "import sys, pathlib; from mnist_cli.data import dataset; "
        "dataset._fetch(sys.argv[1], pathlib.Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", script, name, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        # The last line of a traceback: the error's class, a colon, its message.
        last_line = (done.stderr.strip().splitlines() or [f"Cannot fetch {name}."])[-1]
        raise DataError(last_line.removeprefix(f"{DataError.__module__}.{DataError.__name__}: "))


def _fetch(name: str, folder: Path) -> None:
    """Fetch a dataset with torchvision, which checks its MD5, and put its IDX files in ``folder``.

    The files arrive under a temporary name and are renamed when whole, so that nobody ever reads
    half a dataset and an interrupted fetch leaves nothing. Raises `DataError` if it fails.
    """
    class_name = _TORCHVISION_CLASSES[name]
    try:
        from torchvision import datasets
    except Exception as error:  # a mismatched torch makes it fail with almost anything
        raise DataError(
            f"Cannot fetch {name}: torchvision cannot be imported ({_reason(error)}). "
            "Install the torchvision that fits your torch, or give a folder of the IDX files."
        ) from error
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder.parent) as temporary:
            getattr(datasets, class_name)(root=temporary, download=True)
            downloaded = Path(temporary) / class_name / "raw"
            _read_folder(downloaded)  # raises if anything is wrong, before anyone can see it
            _publish(downloaded, folder)
    except Exception as error:  # torchvision's own errors, the network's, the disk's
        raise DataError(
            f"Cannot fetch {name} into {_show(folder.parent)} ({_reason(error)}). "
            "Check the network and the folder, or give a folder of the IDX files."
        ) from error


def _publish(downloaded: Path, folder: Path) -> None:
    """Rename a finished download into place, or drop it if another process was first."""
    try:
        downloaded.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
        shutil.rmtree(downloaded)


def _load_path(name: str) -> Dataset:
    path = Path(name)
    if "\0" in name or not name or not path.exists():
        raise UsageError(
            f"Unknown dataset {name!r}: neither a known name nor an existing path. Choose from "
            f"{', '.join(DATASETS)}, or give a folder of IDX files or an .npz file."
        )
    arrays = _read_folder(path) if path.is_dir() else _read_npz(path)
    return _dataset(name, arrays, source=name)


def _dataset(
    name: str, arrays: list[Array], *, source: str, digests: list[str] | None = None
) -> Dataset:
    """Put checked arrays, in the order of `_PARTS`, together as one dataset.

    Raises `DataError` if images and labels differ in number.
    """
    train_images, train_labels, test_images, test_labels = arrays
    for what, images, labels in (
        ("training", train_images, train_labels),
        ("test", test_images, test_labels),
    ):
        if len(images) != len(labels):
            raise DataError(
                f"{_show(source)} has {len(images)} {what} images but {len(labels)} {what} "
                "labels; expected one label for each image. Use files that belong together."
            )
    digests = digests or [_idx_sha256(array) for array in arrays]
    return Dataset(
        name=name,
        train_images=train_images,
        train_labels=train_labels.astype(np.int64),
        test_images=test_images,
        test_labels=test_labels.astype(np.int64),
        sha256=hashlib.sha256("".join(digests).encode("ascii")).hexdigest(),
    )


def _idx_sha256(array: Array) -> str:
    """Return the SHA-256 of a uint8 array as an uncompressed IDX file.

    For a file that was read as IDX this is the digest of the file; for an array from elsewhere,
    that of the file it would be. So one pass serves both the check and ``Dataset.sha256``.
    """
    magic = struct.pack(">HBB", 0, _UNSIGNED_BYTE, array.ndim)
    digest = hashlib.sha256(magic + struct.pack(f">{array.ndim}I", *array.shape))
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


# --- IDX: http://yann.lecun.com/exdb/mnist/, "the IDX file format" ---------------------------


def _read_folder(folder: Path) -> list[Array]:
    """Return the four arrays in a folder of IDX files, uint8, in the order of `_PARTS`."""
    places = [folder / subfolder for subfolder in _SUBFOLDERS]
    # The fullest place; of equals the first, so that nothing anywhere is told of ``folder``.
    place = max(places, key=lambda place: sum(_find(place, part) is not None for part in _PARTS))
    arrays = []
    for part in _PARTS:
        path = _find(place, part)
        if path is None:
            usual, other = part.file_names[0], part.file_names[2]
            raise DataError(
                f"No {part.what} in {_show(place)}: looked for {usual} and {other}, "
                "with and without .gz. Put the four IDX files in one folder and name that."
            )
        arrays.append(_read_idx(path, part))
    return arrays


def _find(folder: Path, part: _Part) -> Path | None:
    candidates = (folder / name for name in part.file_names)
    return next((path for path in candidates if path.is_file()), None)


def _read_idx(path: Path, part: _Part) -> Array:
    """Return the array in an IDX file, gzipped or not: (N, 28, 28) or (N,), uint8.

    The content, not the name, tells whether it is gzipped: browsers unpack silently.
    Raises `DataError` for a file that is damaged or of another kind, `OSError` if it won't open.
    """
    with path.open("rb") as file:
        gzipped = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
        file.seek(0)
        if not gzipped:
            return _decode_idx(file, part, where=_show(path))
        try:
            with gzip.GzipFile(fileobj=file) as unzipped:
                return _decode_idx(unzipped, part, where=_show(path))
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(
                f"{_show(path)} is a damaged gzip file ({_reason(error)}). Copy it again."
            ) from error


def _decode_idx(file: _Readable, part: _Part, *, where: str) -> Array:
    magic = file.read(4)
    if not magic:
        raise DataError(f"{where} is empty; expected {part.what} as an IDX file. Copy it again.")
    _require_magic(magic, part, where=where)
    header = file.read(4 * part.dims)
    if len(header) < 4 * part.dims:
        raise DataError(
            f"{where} is truncated: expected a header of {4 + 4 * part.dims} bytes, "
            f"but it has {4 + len(header)}. Copy it again."
        )
    shape = struct.unpack(f">{part.dims}I", header)
    _require_shape(shape, part, where=where)
    content = _read_content(file, math.prod(shape), where=where)
    array = np.frombuffer(content, dtype=np.uint8).reshape(shape)
    _require_digits(array, part, where=where)
    return array


def _require_magic(magic: bytes, part: _Part, *, where: str) -> None:
    """Raise `DataError` unless an IDX file starts as one of unsigned bytes in ``part.dims``."""
    if len(magic) < 4 or magic[:2] != b"\0\0":
        raise DataError(
            f"{where} is not an IDX file: expected {part.what}, starting with "
            f"00 00 08 {part.dims:02x}, but it starts with {magic.hex(' ')}."
        )
    if magic[2] != _UNSIGNED_BYTE:
        raise DataError(
            f"{where} holds numbers of IDX type 0x{magic[2]:02x}; expected unsigned bytes, type "
            f"0x{_UNSIGNED_BYTE:02x}. Save the {part.what} as unsigned bytes."
        )
    if magic[3] != part.dims:
        kinds = {1: "labels (1 dimension)", 3: "images (3 dimensions)"}
        came = kinds.get(magic[3], f"an array of {magic[3]} dimensions")
        raise DataError(
            f"{where} holds {came}; expected {part.what}, {kinds[part.dims]}. "
            "Check that the files are not swapped."
        )


def _read_content(file: _Readable, expected_bytes: int, *, where: str) -> bytearray:
    """Return the rest of a file, which must be ``expected_bytes`` long.

    Read piece by piece: a header that promises terabytes then costs only what is really there.
    """
    content = bytearray()
    # One byte past the end, to notice what is too much and to make gzip and zip check their CRC.
    while piece := file.read(min(_CHUNK_BYTES, expected_bytes + 1 - len(content))):
        content += piece
    if len(content) != expected_bytes:
        truncated = len(content) < expected_bytes
        raise DataError(
            f"{where} is {'truncated' if truncated else 'too long'}: its header promises "
            f"{expected_bytes} bytes of content, but it has "
            f"{len(content) if truncated else 'more'}. Copy it again."
        )
    return content


# --- NPZ: a zip of NPY arrays, as in Keras' mnist.npz ----------------------------------------


def _read_npz(path: Path) -> list[Array]:
    """Return the four arrays in an ``.npz``, uint8, in the order of `_PARTS`."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return [_read_member(archive, path, part) for part in _PARTS]
    except (DataError, OSError):
        raise
    except Exception as error:  # zipfile, zlib and NumPy fail on damaged files in many ways
        raise DataError(
            f"{_show(path)} is not a whole .npz file of plain arrays; expected a folder of IDX "
            f"files, or an .npz of {', '.join(part.npz_key for part in _PARTS)}."
        ) from error


def _read_member(archive: Mapping[str, Array], path: Path, part: _Part) -> Array:
    if part.npz_key not in archive:
        raise DataError(
            f"{_show(path)} has no {part.npz_key} ({part.what}); expected "
            f"{', '.join(part.npz_key for part in _PARTS)}, "
            f"found {_show(', '.join(list(archive)[:8]) or 'nothing')}."
        )
    where = f"{part.npz_key} in {_show(path)}"
    array = archive[part.npz_key]
    if not isinstance(array, np.ndarray):  # NumPy gives the bytes of a member that is no array
        raise TypeError(f"{part.npz_key} is not an array")
    _require_dtype(array.dtype, part, where=where)
    if part.dims == 3 and array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]  # (N, 28, 28, 1) -> (N, 28, 28)
    _require_shape(array.shape, part, where=where)
    _require_digits(array, part, where=where)
    return np.ascontiguousarray(array, dtype=np.uint8)


def _require_dtype(dtype: np.dtype[np.generic], part: _Part, *, where: str) -> None:
    """Raise `DataError` unless images are uint8 and labels are integers of any width.

    Floating-point images are refused because their range is a guess: 0-1, -1 to 1 or 0-255.
    """
    if part.dims == 3 and dtype != np.uint8:
        raise DataError(f"{where} is {dtype}; expected uint8, 0-255. Convert and save it again.")
    if part.dims == 1 and dtype.kind not in "iu":
        raise DataError(f"{where} is {dtype}; expected uint8, 0-9. Convert and save it again.")


# --- What holds for images and labels in any format ------------------------------------------


def _require_shape(shape: tuple[int, ...], part: _Part, *, where: str) -> None:
    """Raise `DataError` unless ``shape`` is (N, 28, 28) for images, (N,) for labels, N > 0."""
    size = (IMAGE_SIZE, IMAGE_SIZE) if part.dims == 3 else ()
    if len(shape) != part.dims or shape[1:] != size:
        expected = f"(N, {IMAGE_SIZE}, {IMAGE_SIZE})" if size else "(N,)"
        raise DataError(
            f"{where} has the shape {shape}; expected {part.what} of shape {expected}. "
            "Convert and save it again."
        )
    if shape[0] < 1:
        raise DataError(f"{where} holds no {part.what}; expected at least 1. Use another dataset.")


def _require_digits(array: Array, part: _Part, *, where: str) -> None:
    """Raise `DataError` if an array of labels holds another number than 0-9."""
    if part.dims == 1 and not ((array >= 0) & (array < CLASSES)).all():
        first = int(np.flatnonzero((array < 0) | (array >= CLASSES))[0])
        raise DataError(
            f"{where} has label {array[first]} at position {first}; expected 0 to "
            f"{CLASSES - 1}. Use a dataset of {CLASSES} classes."
        )


# --- Messages --------------------------------------------------------------------------------


def _show(text: str | Path) -> str:
    """Return a path or name as it is, or escaped if it would break or garble the line."""
    return str(text) if str(text).isprintable() else repr(str(text))


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _reason(error: BaseException) -> str:
    """Return why something failed, in one line without a full stop."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return _one_line(text).rstrip(".") or type(error).__name__

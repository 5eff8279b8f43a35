"""`Dataset`, which every format is read into, and what all readers of formats share.

A reader does not trust what a file says about itself: it compares sizes with what the file holds
before it allocates memory, never unpickles, and raises `DataError` with a message of one line.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from mnist_cli.arrays import CLASSES, IMAGE_SIZE, Array
from mnist_cli.data.messages import printable
from mnist_cli.errors import DataError

IDX_UNSIGNED_BYTE = 0x08  # the code of the type uint8 in an IDX header

# Training images, training labels, test images, test labels: the order of `PARTS`. Images are
# (N, 28, 28) and labels (N,), both uint8.
Arrays: TypeAlias = list[Array]
# Told how many of how many images have been read.
OnProgress: TypeAlias = Callable[[int, int], None]


@dataclass(frozen=True)
class Part:
    """One of the four arrays of a dataset.

    ``description`` names it in messages, ``idx_stem`` and ``npz_key`` in the files of each format.
    ``dims`` is 3 for images and 1 for labels.
    """

    description: str
    idx_stem: str
    npz_key: str
    dims: int


PARTS = (
    Part("training images", idx_stem="train-images", npz_key="x_train", dims=3),
    Part("training labels", idx_stem="train-labels", npz_key="y_train", dims=1),
    Part("test images", idx_stem="t10k-images", npz_key="x_test", dims=3),
    Part("test labels", idx_stem="t10k-labels", npz_key="y_test", dims=1),
)


@dataclass(frozen=True)
class Format:
    """A way to store a dataset on disk.

    ``description`` names it in messages, after "give". ``matches`` says whether a path that exists
    has this format, ``read`` returns its four arrays; it raises `DataError` or `OSError`, and
    reports progress if that takes long.
    """

    description: str
    matches: Callable[[Path], bool]
    read: Callable[[Path, OnProgress | None], Arrays]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test images with their labels.

    Images are (N, 28, 28), uint8, 0 for background to 255 for ink; labels are (N,), int64, 0-9.
    ``sha256`` identifies the content: equal arrays have equal digests, whatever the format they
    were stored in. ``shows_digits`` is False if the labels stand for something else.
    """

    name: str
    train_images: Array
    train_labels: Array
    test_images: Array
    test_labels: Array
    sha256: str
    shows_digits: bool = True


def from_arrays(
    name: str, arrays: Arrays, *, source: str, digests: list[str] | None = None
) -> Dataset:
    """Return the dataset of these arrays, which must have passed the checks below.

    ``source`` names in messages where they were read from. ``digests`` are their `idx_sha256`,
    where those are known already. Raises `DataError` if images and labels differ in number.
    """
    train_images, train_labels, test_images, test_labels = arrays
    for subset, images, labels in (
        ("training", train_images, train_labels),
        ("test", test_images, test_labels),
    ):
        if len(images) != len(labels):
            raise DataError(
                f"{printable(source)} has {len(images)} {subset} images but {len(labels)} {subset} "
                "labels; expected one label for each image. Use files that belong together."
            )
    digests = digests or [idx_sha256(array) for array in arrays]
    return Dataset(
        name=name,
        train_images=train_images,
        train_labels=train_labels.astype(np.int64),
        test_images=test_images,
        test_labels=test_labels.astype(np.int64),
        sha256=hashlib.sha256("".join(digests).encode("ascii")).hexdigest(),
    )


def idx_sha256(array: Array) -> str:
    """Return the SHA-256 of a uint8 array as an uncompressed IDX file, in hexadecimal.

    One digest serves both `Dataset.sha256`, for arrays from any format, and the comparison of the
    embedded files with the authors'.
    """
    magic = struct.pack(">HBB", 0, IDX_UNSIGNED_BYTE, array.ndim)
    digest = hashlib.sha256(magic + struct.pack(f">{array.ndim}I", *array.shape))
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def require_shape(shape: tuple[int, ...], part: Part, *, where: str) -> None:
    """Raise `DataError` unless ``shape`` is (N, 28, 28) for images, (N,) for labels, N > 0.

    ``where`` names the file in the message.
    """
    size = (IMAGE_SIZE, IMAGE_SIZE) if part.dims == 3 else ()
    if len(shape) != part.dims or shape[1:] != size:
        expected = f"(N, {IMAGE_SIZE}, {IMAGE_SIZE})" if size else "(N,)"
        raise DataError(
            f"{where} has the shape {shape}; expected {part.description} of shape {expected}. "
            "Convert and save it again."
        )
    if shape[0] < 1:
        raise DataError(
            f"{where} holds no {part.description}; expected at least 1. Use another dataset."
        )


def require_digit_labels(array: Array, part: Part, *, where: str) -> None:
    """Raise `DataError` if ``array`` has labels other than 0-9; images always pass.

    ``where`` names the file in the message.
    """
    if part.dims == 1 and not ((array >= 0) & (array < CLASSES)).all():
        first = int(np.flatnonzero((array < 0) | (array >= CLASSES))[0])
        raise DataError(
            f"{where} has label {array[first]} at position {first}; expected 0 to "
            f"{CLASSES - 1}. Use a dataset of {CLASSES} classes."
        )

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
from mnist_cli.config import MAX_CLASSES, MIN_CLASSES
from mnist_cli.data.messages import printable
from mnist_cli.errors import DataError
from mnist_cli.names import DIGITS, numbered, require_names

IDX_UNSIGNED_BYTE = 0x08  # the code of the type uint8 in an IDX header

# Training images, training labels, test images, test labels: the order of `PARTS`. Images are
# (N, 28, 28) and labels (N,), both uint8.
Arrays: TypeAlias = list[Array]
# The names of the classes, in the order of their labels; None if a file does not tell.
ClassNames: TypeAlias = "tuple[str, ...] | None"
TEST_ONE_IN = 6  # of the images of each class, where no test images are given
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
    has this format, ``read`` returns its four arrays and the names of the classes; it raises
    `DataError` or `OSError`, and reports progress if that takes long.
    """

    description: str
    matches: Callable[[Path], bool]
    read: Callable[[Path, OnProgress | None], tuple[Arrays, ClassNames]]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test images with their labels.

    Images are (N, 28, 28), uint8, 0 for background to 255 for ink; labels are (N,), int64, and
    number the classes that ``class_names`` names. ``sha256`` identifies the content: equal arrays
    have equal digests, whatever the format they were stored in.
    """

    name: str
    train_images: Array
    train_labels: Array
    test_images: Array
    test_labels: Array
    sha256: str
    class_names: tuple[str, ...] = DIGITS

    @property
    def shows_digits(self) -> bool:
        """Whether the classes are the ten digits."""
        return self.class_names == DIGITS


def from_arrays(
    name: str,
    arrays: Arrays,
    *,
    source: str,
    class_names: ClassNames = None,
    digests: list[str] | None = None,
) -> Dataset:
    """Return the dataset of these arrays, which must have passed the checks below.

    ``source`` names in messages where they were read from. ``digests`` are their `idx_sha256`,
    where those are known already. Raises `DataError` if images and labels differ in number, or
    labels and ``class_names``, and for names that `require_names` refuses; without names, see
    `_numbered_classes`.
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
    if class_names is None:
        class_names = _numbered_classes(train_labels, test_labels, source=source)
    try:
        require_names(class_names)
    except ValueError as error:
        raise DataError(f"{printable(source)} {error}. Rename it.") from error
    highest = int(max(train_labels.max(), test_labels.max()))
    if highest >= len(class_names):
        raise DataError(
            f"{printable(source)} has the label {highest}, but names {len(class_names)} classes; "
            "expected a name for each label from 0 on. Name them all, or none."
        )
    require_class_count(len(class_names), where=printable(source))
    digests = digests or [idx_sha256(array) for array in arrays]
    return Dataset(
        name=name,
        train_images=train_images,
        train_labels=train_labels.astype(np.int64),
        test_images=test_images,
        test_labels=test_labels.astype(np.int64),
        sha256=hashlib.sha256("".join(digests).encode("ascii")).hexdigest(),
        class_names=class_names,
    )


def _numbered_classes(train_labels: Array, test_labels: Array, *, source: str) -> tuple[str, ...]:
    """Return the names of classes that have none of their own: their labels.

    Labels up to 9 are the ten digits, of which there may be no images; higher ones go from 0 to
    the highest. Raises `DataError` for gaps among those.
    """
    highest = int(max(train_labels.max(), test_labels.max()))
    if highest < CLASSES:
        return DIGITS
    counts = np.bincount(train_labels, minlength=highest + 1)
    if counts.all():
        return numbered(highest + 1)
    raise DataError(
        f"{printable(source)} has labels up to {highest}, but no training image with label "
        f"{int(counts.argmin())}; expected labels from 0 on without a gap. Number the classes anew."
    )


def require_class_count(count: int, *, where: str) -> None:
    """Raise `DataError` for too few or too many classes; ``where`` names their source."""
    if not MIN_CLASSES <= count <= MAX_CLASSES:
        raise DataError(
            f"{where} has {count:,} {'class' if count == 1 else 'classes'}; expected "
            f"{MIN_CLASSES} to {MAX_CLASSES}. Use a data set of fewer or more."
        )


def split_off_test(images: Array, labels: Array, *, source: str | Path) -> Arrays:
    """Return the four arrays of one set of images: one in six of each class is for the test.

    They are spread evenly over the images of their class. Raises `DataError`, which names
    ``source``, for a class of a single image.
    """
    is_test = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if len(rows) < 2:
            raise DataError(
                f"{printable(source)} has 1 image with label {label}; expected at least 2 of each "
                "class, for training and for the test. Add images of this class, or remove it."
            )
        step = min(TEST_ONE_IN, len(rows))
        is_test[rows[step - 1 :: step]] = True
    return [images[~is_test], labels[~is_test], images[is_test], labels[is_test]]


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


def require_labels(array: Array, part: Part, *, where: str) -> None:
    """Raise `DataError` if ``array`` has labels beyond 0-255; images always pass.

    ``where`` names the file in the message.
    """
    if part.dims == 1 and not ((array >= 0) & (array < MAX_CLASSES)).all():
        first = int(np.flatnonzero((array < 0) | (array >= MAX_CLASSES))[0])
        raise DataError(
            f"{where} has label {array[first]} at position {first}; expected 0 to "
            f"{MAX_CLASSES - 1}. Use a dataset of at most {MAX_CLASSES} classes."
        )

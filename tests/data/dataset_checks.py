"""What the tests of datasets share: what equal content is, and the error a load must end in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mnist_cli.data.dataset import Dataset
from mnist_cli.data.registry import load_dataset
from mnist_cli.errors import DataError

PARTS = ("train_images", "train_labels", "test_images", "test_labels")
TRAIN_IMAGES = "train-images-idx3-ubyte"
TRAIN_LABELS = "train-labels-idx1-ubyte"
FILES = (TRAIN_IMAGES, TRAIN_LABELS, "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def assert_same_content(left: Dataset, right: Dataset) -> None:
    for part in PARTS:
        np.testing.assert_array_equal(getattr(left, part), getattr(right, part))
    assert left.sha256 == right.sha256


def loading_error(name: str | Path) -> str:
    """Return the message that loading must fail with, after checking what holds for all."""
    with pytest.raises(DataError) as caught:
        load_dataset(str(name))
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.isprintable()
    return message


def assert_valid_or_refused(path: Path) -> None:
    """Check that loading gives a valid dataset or a `DataError` of one printable line."""
    message = ""
    try:
        dataset = load_dataset(str(path))
    except DataError as error:
        message = str(error)
    else:
        assert dataset.train_images.shape == (len(dataset.train_labels), 28, 28)
        assert dataset.train_images.dtype == np.uint8
        assert set(dataset.train_labels.tolist()) <= set(range(len(dataset.class_names)))
    assert message.isprintable()


def mutate(content: bytes, edits: list[tuple[int, bytes]], cut: int | None) -> bytes:
    """Return ``content`` up to ``cut``, overwritten at each position with the bytes beside it."""
    mutated = bytearray(content)
    for position, replacement in edits:
        start = position % len(mutated)
        mutated[start : start + len(replacement)] = replacement
    return bytes(mutated[:cut])

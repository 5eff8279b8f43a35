"""How training images are split into training and validation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from idx_files import mnist

from mnist_cli.data.dataset import Dataset
from mnist_cli.data.split import Split, split
from mnist_cli.errors import DataError, UsageError


def _numbered(count: int) -> Dataset:
    """A dataset whose images carry their own number in the first two pixels."""
    images = np.zeros((count, 28, 28), dtype=np.uint8)
    numbers = np.arange(count)
    images[:, 0, 0], images[:, 0, 1] = numbers // 256, numbers % 256
    return Dataset("numbered", images, numbers % 10, images[:5], numbers[:5] % 10, "")


def _numbers(images: np.ndarray) -> list[int]:
    return [int(number) for number in images[:, 0, 0].astype(int) * 256 + images[:, 0, 1]]


def _all_numbers(parts: Split) -> tuple[list[int], list[int]]:
    return _numbers(parts.train_images), _numbers(parts.validation_images)


def test_mnist_is_split_in_55000_and_5000() -> None:
    parts = split(mnist(), seed=0)
    assert parts.train_images.shape == (55_000, 28, 28)
    assert parts.train_labels.shape == (55_000,)
    assert parts.validation_images.shape == (5_000, 28, 28)
    assert parts.validation_labels.shape == (5_000,)
    assert parts.train_images.dtype == np.uint8
    assert parts.validation_labels.dtype == np.int64


@given(count=st.integers(12, 3000), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_split_uses_every_image_once_with_its_own_label(count: int, seed: int) -> None:
    parts = split(_numbered(count), seed=seed)
    train, validation = _all_numbers(parts)
    assert sorted(train + validation) == list(range(count))
    assert len(validation) == count // 12
    assert parts.train_labels.tolist() == [number % 10 for number in train]
    assert parts.validation_labels.tolist() == [number % 10 for number in validation]


def test_split_depends_on_the_seed_and_on_nothing_else() -> None:
    first, again, other = (_all_numbers(split(_numbered(600), seed=s)) for s in (1, 1, 2))
    assert first == again
    assert set(first[1]) != set(other[1])


def test_limit_keeps_the_first_of_the_full_split() -> None:
    train, validation = _all_numbers(split(_numbered(600), seed=3))
    assert _all_numbers(split(_numbered(600), seed=3, limit=10)) == (train[:10], validation[:10])
    assert _all_numbers(split(_numbered(600), seed=3, limit=100)) == (train[:100], validation)
    assert _all_numbers(split(_numbered(600), seed=3, limit=550)) == (train, validation)


@pytest.mark.parametrize("limit", [0, -1, 551])
def test_limit_out_of_range_says_the_range(limit: int) -> None:
    with pytest.raises(UsageError, match=rf"limit must be from 1 to 550 .*, not {limit}\."):
        split(_numbered(600), seed=0, limit=limit)


def test_too_few_images_to_validate_on_is_a_data_error() -> None:
    with pytest.raises(DataError, match="has 11 training images, but at least 12 are needed"):
        split(_numbered(11), seed=0)


def test_split_copies_so_that_the_dataset_stays_as_it_is() -> None:
    dataset = _numbered(24)
    parts = split(dataset, seed=0)
    parts.train_images[:] = 255
    assert dataset.train_images.max() < 255

"""How many classes a data set has, and their names: from its labels, or from names beside them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from dataset_checks import loading_error
from hypothesis import given
from hypothesis import strategies as st
from idx_files import mnist
from letter_samples import LETTERS, letters, write_letters

from mnist_cli.data.dataset import Dataset, from_arrays, split_off_test
from mnist_cli.data.registry import load_copy, load_dataset, require_same_classes, save_copy
from mnist_cli.errors import DataError, UsageError
from mnist_cli.names import DIGITS, class_names, numbered


def of_labels(
    labels: list[int], test: list[int] | None = None, names: tuple[str, ...] | None = None
) -> Dataset:
    arrays = []
    for part in (labels, test or labels):
        arrays += [np.zeros((len(part), 28, 28), np.uint8), np.array(part, np.uint8)]
    return from_arrays("made", arrays, source="made", class_names=names)


@given(count=st.integers(10, 256))
def test_labels_without_a_gap_are_as_many_classes_named_by_number(count: int) -> None:
    assert of_labels(list(range(count))).class_names == numbered(count)


@pytest.mark.parametrize("labels", [[3, 8], [1, 2, 9], [5, 5], [0, 1, 2], [0, 0]])
def test_some_of_ten_digits_are_still_ten_digits(labels: list[int]) -> None:
    data = of_labels(labels)
    assert data.class_names == DIGITS
    assert data.shows_digits


def test_a_class_of_the_test_alone_counts() -> None:
    assert of_labels([0, 1], test=[7]).class_names == DIGITS
    with pytest.raises(DataError, match="labels up to 26, but no training image with label 2;"):
        of_labels([0, 1], test=[26])


def test_labels_from_1_on_are_refused_with_the_label_that_is_missing() -> None:
    with pytest.raises(DataError, match=r"labels up to 26, but no training image with label 0;"):
        of_labels(list(range(1, 27)))


def test_one_class_is_refused() -> None:
    with pytest.raises(DataError, match="made has 1 class; expected 2 to 256"):
        of_labels([0, 0, 0], names=("a",))


def test_an_npz_may_name_its_classes(tmp_path: Path) -> None:
    assert load_dataset(str(write_letters(tmp_path))).class_names == LETTERS
    assert load_dataset(str(write_letters(tmp_path, named=False))).class_names == numbered(26)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (np.array(LETTERS[:20]), "has the label 25, but names 20 classes"),
        (np.array([*LETTERS, *map(str, range(274))]), "has 300 classes; expected 2 to 256"),
        (np.arange(26), "class_names in .* is int64 of shape"),
        (np.array(["a"], dtype=object), r"not a whole \.npz file"),
    ],
)
def test_names_that_do_not_fit_are_refused(tmp_path: Path, names: np.ndarray, said: str) -> None:
    np.savez(tmp_path / "letters.npz", **letters(), class_names=names)
    assert re.search(said, loading_error(tmp_path / "letters.npz"))


BAD_NAMES = [
    (("a", ""), "has a class named ''"),
    (("a", " "), "has a class named ' '"),
    (("a", "b\x1b[31m"), r"has a class named 'b\x1b[31m'"),
    (("a", "b\nc"), r"has a class named 'b\nc'"),
    (("a", "a"), "has two classes named 'a'"),
]


@pytest.mark.parametrize(("names", "said"), BAD_NAMES)
def test_names_that_cannot_be_shown_or_told_apart_are_refused(
    tmp_path: Path, names: tuple[str, ...], said: str
) -> None:
    pair = {"x": np.zeros((2, 28, 28), np.uint8), "y": np.arange(2, dtype=np.uint8)}
    arrays = {f"{key}_{part}": pair[key] for key in pair for part in ("train", "test")}
    np.savez(tmp_path / "bad.npz", **arrays, class_names=np.array(names))
    assert said in loading_error(tmp_path / "bad.npz")


def test_a_copy_for_another_machine_keeps_the_names(tmp_path: Path) -> None:
    data = load_dataset(str(write_letters(tmp_path)))
    save_copy(data, tmp_path / "copy.npz")
    copy = load_copy(data.name, tmp_path / "copy.npz")
    assert (copy.class_names, copy.sha256) == (LETTERS, data.sha256)


def test_one_image_in_six_of_each_class_is_for_the_test() -> None:
    labels = np.array([0] * 13 + [1] * 2 + [2] * 6, np.uint8)
    images = np.arange(len(labels)).astype(np.uint8)
    _, train, tested, test = split_off_test(images, labels, source="made")
    assert np.bincount(train).tolist() == [11, 1, 5]
    assert np.bincount(test).tolist() == [2, 1, 1]
    assert tested.tolist() == [5, 11, 14, 20]


@pytest.mark.parametrize(("labels", "lone"), [([0], 0), ([0, 1], 0), ([*range(12)] * 2 + [12], 12)])
def test_a_class_of_one_image_cannot_be_divided(labels: list[int], lone: int) -> None:
    with pytest.raises(DataError, match=f"made has 1 image with label {lone}; expected at least 2"):
        split_off_test(np.zeros(len(labels)), np.array(labels, np.uint8), source="made")


# --- Models and data sets ----------------------------------------------------------------------


def test_a_model_tests_its_own_classes_and_files_that_name_none(tmp_path: Path) -> None:
    named = load_dataset(str(write_letters(tmp_path)))
    require_same_classes("model", LETTERS, "emnist-letters", named)
    unnamed = load_dataset(str(write_letters(tmp_path, named=False)))
    require_same_classes("model", LETTERS, "emnist-letters", unnamed)
    require_same_classes("model", numbered(26), "letters.npz", named)
    require_same_classes("model", DIGITS, "mnist", of_labels([0, 1, 2]))
    require_same_classes("model", ("a", "b", "c"), "letters", of_labels([0, 1, 2]))


@pytest.mark.parametrize(
    ("names", "trained_on"),
    [
        (DIGITS, "mnist"),
        (numbered(26), "mnist"),
        (class_names("fashion-mnist"), "fashion-mnist"),
        (LETTERS[:25], "letters.npz"),
    ],
)
def test_a_model_of_other_classes_is_refused_in_one_line(
    tmp_path: Path, names: tuple[str, ...], trained_on: str
) -> None:
    letters_data = load_dataset(str(write_letters(tmp_path)))
    with pytest.raises(UsageError) as caught:
        require_same_classes("my-model", names, trained_on, letters_data)
    message = str(caught.value)
    assert f"my-model tells {len(names)} classes" in message
    assert "26 classes (a, b, ..., z)" in message
    assert len(message.splitlines()) == 1


def test_a_model_of_clothes_does_not_test_digits() -> None:
    with pytest.raises(UsageError, match="MNIST has 10 classes"):
        require_same_classes("model", class_names("fashion-mnist"), "fashion-mnist", mnist())

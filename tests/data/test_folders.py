"""Folders of pictures sorted by digit: every layout that is read, and every one that is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dataset_checks import loading_error
from idx_files import mnist, write_dataset
from letter_samples import drawn_letter
from PIL import Image

from mnist_cli.data.registry import load_dataset
from mnist_cli.pictures.normalise import prepare


def write_pictures(folder: Path, *, each: int, first: int = 0) -> Path:
    """Write ``each`` of MNIST's digits into folders 0 to 9, dark on light and enlarged."""
    data = mnist()
    for digit in range(10):
        rows = np.flatnonzero(data.train_labels == digit)[first : first + each]
        (folder / str(digit)).mkdir(parents=True, exist_ok=True)
        for number, row in enumerate(rows):
            picture = Image.fromarray(255 - data.train_images[row]).resize((84, 84))
            picture.save(folder / str(digit) / f"{number:02}.png")
    return folder


def test_pictures_are_prepared_as_predict_prepares_them(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "own", each=2)
    data = load_dataset(str(folder))
    assert data.train_images.shape == data.test_images.shape == (10, 28, 28)
    np.testing.assert_array_equal(data.train_labels, range(10))
    np.testing.assert_array_equal(data.test_labels, range(10))
    for digit in range(10):
        for part, name in ((data.train_images, "00.png"), (data.test_images, "01.png")):
            expected = prepare(folder / str(digit) / name, single=True)[0].image
            np.testing.assert_array_equal(part[digit], expected)
    assert data.shows_digits


def test_one_picture_in_six_of_each_digit_is_kept_for_the_test(tmp_path: Path) -> None:
    data = load_dataset(str(write_pictures(tmp_path / "own", each=13)))
    assert np.bincount(data.train_labels).tolist() == [11] * 10
    assert np.bincount(data.test_labels).tolist() == [2] * 10


def test_folders_train_and_test_are_taken_as_they_are(tmp_path: Path) -> None:
    write_pictures(tmp_path / "own" / "train", each=3)
    write_pictures(tmp_path / "own" / "test", each=1, first=3)
    data = load_dataset(str(tmp_path / "own"))
    assert np.bincount(data.train_labels).tolist() == [3] * 10
    assert np.bincount(data.test_labels).tolist() == [1] * 10


def test_subfolders_are_searched_and_other_files_are_no_pictures(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "own", each=2)
    (folder / "3" / "anna").mkdir()
    (folder / "3" / "00.png").rename(folder / "3" / "anna" / "00.png")
    (folder / "3" / "notes.txt").write_text("not a picture")
    (folder / "3" / ".hidden.png").write_bytes(b"not one either")
    (folder / "README.md").write_text("mine")
    assert len(load_dataset(str(folder)).train_labels) == 10


def test_the_same_pictures_have_the_same_digest_and_others_another(tmp_path: Path) -> None:
    first, again = (write_pictures(tmp_path / name, each=2) for name in ("a", "b"))
    other = write_pictures(tmp_path / "c", each=2, first=1)
    digests = [load_dataset(str(folder)).sha256 for folder in (first, again, other)]
    assert digests[0] == digests[1] != digests[2]


def test_reading_reports_how_many_of_how_many_are_read(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    folder = write_pictures(tmp_path / "own", each=2)
    load_dataset(str(folder), on_progress=lambda done, count: seen.append((done, count)))
    assert seen == [(done, 20) for done in range(1, 21)]


@pytest.mark.parametrize("below", ["", "raw", "MNIST/raw"])
def test_idx_files_beside_pictures_are_read_as_before(tmp_path: Path, below: str) -> None:
    idx = write_dataset(tmp_path / "tv" / below)
    (tmp_path / "tv" / "cats").mkdir()
    Image.new("L", (28, 28)).save(tmp_path / "tv" / "cats" / "p.png")
    assert load_dataset(str(tmp_path / "tv")).sha256 == load_dataset(str(idx)).sha256


# --- Refused -----------------------------------------------------------------------------------


def _without_seven(folder: Path) -> str:
    for path in (folder / "7").iterdir():
        path.unlink()
    return "has no pictures of 7; expected folders 0 to 9 with at least 2 pictures in each"


def _without_two_folders(folder: Path) -> str:
    for digit in "28":
        for path in (folder / digit).iterdir():
            path.unlink()
        (folder / digit).rmdir()
    return "no pictures of 2, 8; expected folders 0 to 9"


def _one_picture_of_four(folder: Path) -> str:
    (folder / "4" / "01.png").unlink()
    return "has 1 picture of 4; expected folders 0 to 9 with at least 2 pictures in each"


def _one_picture_in_all(folder: Path) -> str:
    for path in folder.rglob("*.png"):
        if path.parent.name != "5" or path.name != "00.png":
            path.unlink()
    return "has no pictures of 0, 1, 2, 3, 4, 6, 7, 8, 9"


def _a_damaged_picture(folder: Path) -> str:
    path = folder / "6" / "01.png"
    path.write_bytes(path.read_bytes()[:60])
    return "1 of 20 pictures"


def _two_blank_pictures(folder: Path) -> str:
    for name in ("00.png", "01.png"):
        Image.new("L", (60, 60), 255).save(folder / "9" / name)
    return "2 of 20 pictures"


def _train_without_test(folder: Path) -> str:
    (folder / "train").mkdir()
    for digit in range(10):
        (folder / str(digit)).rename(folder / "train" / str(digit))
    return "test has no pictures of 0, 1, 2"


@pytest.mark.parametrize(
    "spoil",
    [
        *(_without_seven, _without_two_folders, _one_picture_of_four, _one_picture_in_all),
        *(_a_damaged_picture, _two_blank_pictures, _train_without_test),
    ],
)
def test_a_spoilt_folder_is_refused_in_one_line_that_names_what_is_wrong(
    spoil: object, tmp_path: Path
) -> None:
    folder = write_pictures(tmp_path / "own", each=2)
    said = spoil(folder)  # type: ignore[operator]
    message = loading_error(folder)
    assert said in message
    assert str(folder) in message


def test_pictures_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "own", each=2)
    (folder / "6" / "01.png").write_bytes(b"")
    assert "6/01.png: the file is empty" in loading_error(folder)


# --- Other names than digits -------------------------------------------------------------------


def write_letter_pictures(folder: Path, names: tuple[str, ...], *, each: int) -> Path:
    """Write pictures of letters, dark on light and enlarged, into a folder for each name."""
    rng = np.random.default_rng(0)
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(each):
            page = Image.fromarray(255 - drawn_letter(name[0], rng)).resize((84, 84))
            page.save(folder / name / f"{number:02}.png")
    return folder


def test_folders_of_other_names_are_classes_in_the_order_of_the_alphabet(tmp_path: Path) -> None:
    folder = write_letter_pictures(tmp_path / "own", ("x", "a", "k"), each=7)
    data = load_dataset(str(folder))
    assert data.class_names == ("a", "k", "x")
    assert np.bincount(data.train_labels).tolist() == [6] * 3
    assert np.bincount(data.test_labels).tolist() == [1] * 3
    expected = prepare(folder / "k" / "00.png", single=True)[0].image
    np.testing.assert_array_equal(data.train_images[6], expected)
    assert not data.shows_digits


def test_folders_of_numbers_beyond_9_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    names = tuple(map(str, (*range(12), 100)))
    data = load_dataset(str(write_letter_pictures(tmp_path / "own", names, each=2)))
    assert data.class_names == names


def test_named_classes_below_train_and_test_must_be_in_both(tmp_path: Path) -> None:
    write_letter_pictures(tmp_path / "own" / "train", ("cat", "dog"), each=2)
    write_letter_pictures(tmp_path / "own" / "test", ("cat", "dog"), each=1)
    data = load_dataset(str(tmp_path / "own"))
    assert (data.class_names, len(data.train_labels), len(data.test_labels)) == (
        ("cat", "dog"),
        4,
        2,
    )
    write_letter_pictures(tmp_path / "own" / "test", ("bird",), each=1)
    message = loading_error(tmp_path / "own")
    assert "has no pictures of bird; expected 3 folders with at least 1 picture in each" in message
    assert "Add pictures of this class." in message


@pytest.mark.parametrize(("count", "said"), [(1, "has 1 class;"), (300, "has 300 classes;")])
def test_too_few_or_too_many_folders_are_refused(tmp_path: Path, count: int, said: str) -> None:
    folder = tmp_path / "own"
    for number in range(count):
        (folder / f"class{number}").mkdir(parents=True)
        (folder / f"class{number}" / "a.png").write_bytes(b"")
    message = loading_error(folder)
    assert said in message
    assert "expected 2 to 256" in message


def test_pictures_are_sought_no_deeper_than_a_folder_below_those_of_the_classes(
    tmp_path: Path,
) -> None:
    nested = write_letter_pictures(tmp_path / "own", ("a", "b"), each=2)
    for name in "ab":
        (nested / name / "anna").mkdir()
        (nested / name / "00.png").rename(nested / name / "anna" / "00.png")
        (nested / name / "01.png").rename(nested / name / "anna" / "01.png")
    (nested / "a" / "anna" / "more").mkdir()
    (nested / "a" / "anna" / "more" / "deep.png").write_bytes(b"")
    assert load_dataset(str(nested)).class_names == ("a", "b")
    (tmp_path / "home" / "some").mkdir(parents=True)
    nested.rename(tmp_path / "home" / "some" / "own")
    assert "No training images" in loading_error(tmp_path / "home")


def test_a_folder_without_any_pictures_is_none_of_pictures(tmp_path: Path) -> None:
    (tmp_path / "own" / "notes").mkdir(parents=True)
    assert "No training images" in loading_error(tmp_path / "own")

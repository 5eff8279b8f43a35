"""Pages are read the right way up, and lines in reading order."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from picture_samples import digit, page

from mnist_cli.arrays import Array
from mnist_cli.data.dataset import Dataset
from mnist_cli.data.registry import load_dataset
from mnist_cli.errors import PictureError, UsageError
from mnist_cli.prediction import Model, Prediction

ROWS = ("27435", "52374", "34725")


@pytest.fixture(scope="module")
def mnist_data() -> Dataset:
    return load_dataset()


@pytest.fixture(scope="module")
def reader() -> Model:
    return Model()


@pytest.fixture(scope="module")
def written(mnist_data: Dataset) -> Callable[..., Array]:
    """Rows of digits as a page, each label always the same digit of the test set."""

    def write(*rows: str, height: int = 50, step: int = 70, gaps: tuple[int, ...] = ()) -> Array:
        placed = []
        for line, row in enumerate(rows):
            for place, label in enumerate(row):
                x = 60 + step * place + sum(120 for gap in gaps if place >= gap)
                placed.append((digit(mnist_data, int(label), 1, height=height), x, 60 + 85 * line))
        longest = max(map(len, rows))
        width = 120 + step * longest + 120 * len(gaps)
        return page(*placed, size=(130 + 85 * len(rows), width))

    return write


def read(reader: Model, picture: Array, **options: object) -> Prediction:
    (answer,) = reader.read([picture], **options)  # type: ignore[arg-type]
    if isinstance(answer, PictureError):
        raise answer
    return answer


@pytest.mark.parametrize("quarters", range(4))
def test_a_page_turned_by_quarters_is_read_and_the_answer_says_so(
    reader: Model, written: Callable[..., Array], quarters: int
) -> None:
    upright = written(*ROWS)
    answer = read(reader, np.ascontiguousarray(np.rot90(upright, quarters)))
    assert answer.text == "\n".join(ROWS)
    assert answer.rotation == 90 * quarters
    assert answer.to_json()["rotation"] == 90 * quarters
    assert [len(line) for line in answer.lines()] == [5, 5, 5]


@pytest.mark.parametrize("quarters", range(4))
def test_boxes_are_in_pixels_of_the_picture_as_it_was(
    reader: Model, written: Callable[..., Array], quarters: int
) -> None:
    picture = np.ascontiguousarray(np.rot90(written(*ROWS), quarters))
    for one in read(reader, picture).digits:
        left, top, right, bottom = one.box
        inside = picture[top:bottom, left:right]
        around = picture[max(0, top - 6) : bottom + 6, max(0, left - 6) : right + 6]
        assert np.count_nonzero(inside < 140) == np.count_nonzero(around < 140)


def test_rotate_turns_without_judging(reader: Model, written: Callable[..., Array]) -> None:
    turned = np.ascontiguousarray(np.rot90(written(*ROWS)))
    assert read(reader, turned, rotate=90).text == "\n".join(ROWS)
    assert read(reader, turned, rotate="90").rotation == 90
    kept = read(reader, turned, rotate=0)
    assert kept.rotation == 0
    assert kept.text != "\n".join(ROWS)
    with pytest.raises(UsageError, match="Choose from auto, 0, 90, 180, 270"):
        read(reader, turned, rotate=45)


@pytest.mark.parametrize("label", range(10))
@pytest.mark.parametrize("quarters", range(4))
def test_a_lone_digit_is_never_turned(
    reader: Model, mnist_data: Dataset, label: int, quarters: int
) -> None:
    picture = page((digit(mnist_data, label, height=100), 100, 50))
    assert read(reader, np.ascontiguousarray(np.rot90(picture, quarters))).rotation == 0


def test_a_5_with_a_loose_bar_is_a_lone_digit(reader: Model) -> None:
    pixels = np.full((200, 160), 250, dtype=np.uint8)
    cv2.ellipse(pixels, (80, 120), (38, 38), 0, -110, 140, 20, 8)
    cv2.line(pixels, (65, 55), (63, 85), 20, 8)
    cv2.line(pixels, (76, 42), (130, 38), 20, 8)
    answer = read(reader, pixels)
    assert (answer.text, answer.rotation) == ("5", 0)


@pytest.mark.slow
def test_upright_sheets_are_not_turned(reader: Model, mnist_data: Dataset) -> None:
    rng = np.random.default_rng(2)
    for _ in range(100):
        placed = []
        for line in range(rng.integers(1, 4)):
            for place in range(rng.integers(1, 6)):
                ink = digit(mnist_data, int(rng.integers(10)), int(rng.integers(80)), height=45)
                placed.append((ink, 30 + 70 * place, 30 + 80 * line))
        assert read(reader, page(*placed, size=(280, 420))).rotation == 0


@pytest.mark.parametrize("degrees", [-30, -15, 8, 20, 30])
def test_lines_that_rise_or_fall_by_up_to_30_degrees_are_read(
    reader: Model, written: Callable[..., Array], degrees: float
) -> None:
    upright = np.pad(written(*ROWS), 150, constant_values=235)
    height, width = upright.shape
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
    tilted = cv2.warpAffine(upright, matrix, (width, height), borderValue=235)
    answer = read(reader, tilted)
    assert answer.text == "\n".join(ROWS)
    assert answer.rotation == 0


def test_lines_that_converge_are_read(reader: Model, written: Callable[..., Array]) -> None:
    upright = written(*ROWS, height=60, step=75)
    height, width = upright.shape
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=np.float32)
    seen = corners + np.array([[60, 0], [-60, 40], [0, 0], [0, 0]], dtype=np.float32)
    matrix = cv2.getPerspectiveTransform(corners, seen)
    photo = cv2.warpPerspective(upright, matrix, (width, height), borderValue=235)
    assert read(reader, photo).text == "\n".join(ROWS)


def test_two_columns_are_read_row_by_row(reader: Model, written: Callable[..., Array]) -> None:
    answer = read(reader, written("27435", "52374", "34725", gaps=(2,)))
    assert answer.text == "\n".join(ROWS)


def test_one_digit_per_line_is_read(reader: Model, written: Callable[..., Array]) -> None:
    assert read(reader, written("2", "7", "4", "3")).text == "2\n7\n4\n3"


def test_screen_text_of_few_pixels_is_read(reader: Model) -> None:
    large = np.full((80, 420), 255, np.uint8)
    cv2.putText(large, "2743527", (20, 60), cv2.FONT_HERSHEY_SIMPLEX, 1.8, 0, 5, cv2.LINE_AA)
    small = cv2.resize(large, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    assert read(reader, small).text == "2743527"


def test_outlined_digits_are_read_filled(reader: Model) -> None:
    filled = np.zeros((130, 480), np.uint8)
    cv2.putText(filled, "2 0 3 7 5", (20, 95), cv2.FONT_HERSHEY_SIMPLEX, 2.5, 255, 10)
    outlines = cv2.morphologyEx(filled, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    assert read(reader, 255 - outlines).text == "20375"


def test_what_is_no_digit_is_listed(reader: Model, written: Callable[..., Array]) -> None:
    picture = written(*ROWS)
    picture[-30:-27, 60:400] = 40
    answer = read(reader, picture)
    assert answer.text == "\n".join(ROWS)
    assert any(box[2] - box[0] > 300 and box[3] - box[1] < 12 for box in answer.rejected)

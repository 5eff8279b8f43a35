"""Ink is segmented into digits in reading order, without what is no digit."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from picture_samples import digit, only_digit, page, similarity

import mnist_cli
from mnist_cli.data.dataset import Dataset
from mnist_cli.data.registry import load_dataset
from mnist_cli.pictures.normalise import prepare


@pytest.fixture(scope="module")
def mnist_data() -> Dataset:
    return load_dataset()


def test_the_lines_of_a_table_are_no_digit(mnist_data: Dataset) -> None:
    pixels = np.full((345, 345), 245, dtype=np.uint8)
    for edge in range(20, 321, 100):
        cv2.line(pixels, (edge, 20), (edge, 320), 30, 3)
        cv2.line(pixels, (20, edge), (320, edge), 30, 3)
    for number in range(9):
        ink = digit(mnist_data, number, height=50)
        y, x = 45 + 100 * (number // 3), 45 + 100 * (number % 3)
        part = pixels[y : y + 50, x : x + ink.shape[1]]
        np.minimum(part, 255 - ink, out=part)
    found = prepare(pixels)
    assert [one.line for one in found] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert all(40 <= one.box[3] - one.box[1] <= 60 for one in found)


def test_a_ring_around_a_digit_is_no_digit(mnist_data: Dataset) -> None:
    clean = page((digit(mnist_data, 5), 120, 60))
    ringed = clean.copy()
    cv2.circle(ringed, (150, 100), 80, 50, 4)
    assert similarity(only_digit(ringed), only_digit(clean)) > 0.98


def test_a_box_around_a_digit_is_no_digit(mnist_data: Dataset) -> None:
    clean = page((digit(mnist_data, 5), 100, 60))
    for bottom in (165, 230):  # complete, and cut off by the edge of the picture
        boxed = clean.copy()
        cv2.rectangle(boxed, (70, 30), (200, bottom), 50, 3)
        assert similarity(only_digit(boxed), only_digit(clean)) > 0.98


def test_a_box_that_touches_its_digit_is_no_digit(mnist_data: Dataset) -> None:
    ink = digit(mnist_data, 5)
    clean = page((ink, 100, 60))
    boxed = clean.copy()
    cv2.rectangle(boxed, (98, 50), (100 + ink.shape[1], 150), 50, 2)
    assert similarity(only_digit(boxed), only_digit(clean)) > 0.9


def test_a_1_close_beside_a_4_is_no_part_of_it(mnist_data: Dataset) -> None:
    for number in range(6):
        four = digit(mnist_data, 4, number, height=60)
        pixels = page((four, 60, 60))
        cv2.line(pixels, (66 + four.shape[1], 60), (66 + four.shape[1], 119), 40, 5)
        assert len(mnist_cli.predict(pixels).digits) == 2


def test_bars_much_lower_than_the_digits_are_none(mnist_data: Dataset) -> None:
    pixels = page(*((digit(mnist_data, 3, n, height=60), 40 + 80 * n, 60) for n in range(3)))
    pixels[78:92, 28:32] = pixels[78:92, 276:280] = 40
    assert mnist_cli.predict(pixels).text == "333"


def test_small_round_zeros_beside_tall_digits_are_digits(mnist_data: Dataset) -> None:
    placed = [(digit(mnist_data, 7, n, height=90), 30 + 160 * n, 40) for n in range(3)]
    pixels = page(*placed, size=(200, 560))
    for x in (120, 280, 480):
        cv2.circle(pixels, (x, 105), 12, 40, 3)
    assert mnist_cli.predict(pixels).text == "707070"


def test_specks_are_ignored(mnist_data: Dataset) -> None:
    clean = page((digit(mnist_data, 6), 100, 60))
    dirty = clean.copy()
    for x, y in np.random.default_rng(0).integers(0, (300, 40), (12, 2)):
        dirty[y : y + 2, x : x + 2] = 60
    assert similarity(only_digit(dirty), only_digit(clean)) > 0.98


def test_an_underline_and_a_dark_edge_are_no_digits(mnist_data: Dataset) -> None:
    pixels = page((digit(mnist_data, 6), 100, 60))
    pixels[185:188, 60:240] = 40
    pixels[:, 285:] = 70
    assert similarity(only_digit(pixels), only_digit(page((digit(mnist_data, 6), 100, 60)))) > 0.98


def test_digits_are_in_reading_order_with_their_bounding_boxes(mnist_data: Dataset) -> None:
    places = [(20, 20), (110, 30), (200, 10), (30, 150), (150, 140)]
    inks = [digit(mnist_data, label, 5) for label in (3, 4, 6, 9, 2)]
    placed = [(ink, x, y) for ink, (x, y) in zip(inks, places, strict=True)]
    found = prepare(page(*placed, size=(260, 300)))
    assert [one.line for one in found] == [0, 0, 0, 1, 1]
    for one, (ink, x, y) in zip(found, placed, strict=True):
        expected = (x, y, x + ink.shape[1], y + ink.shape[0])
        # The faint edges of a stroke are outside the box.
        assert np.abs(np.subtract(one.box, expected)).max() <= 3


def test_a_rising_line_of_text_is_one_line(mnist_data: Dataset) -> None:
    placed = [
        (digit(mnist_data, 3, number), 20 + 100 * number, 160 - 25 * number) for number in range(6)
    ]
    found = prepare(page(*placed, size=(300, 640)))
    assert [one.line for one in found] == [0] * 6
    lefts = [one.box[0] for one in found]
    assert lefts == sorted(lefts)


def test_each_digit_of_a_column_is_a_line(mnist_data: Dataset) -> None:
    placed = [(digit(mnist_data, label, 1, height=50), 40, 20 + 70 * label) for label in range(6)]
    found = prepare(page(*placed, size=(450, 300)))
    assert [one.line for one in found] == list(range(6))


def test_the_detached_bar_of_a_5_is_part_of_it() -> None:
    pixels = np.full((200, 400), 250, dtype=np.uint8)
    for left in (40, 220):
        cv2.ellipse(pixels, (left + 40, 120), (38, 38), 0, -110, 140, 20, 8)
        cv2.line(pixels, (left + 25, 55), (left + 23, 85), 20, 8)
        cv2.line(pixels, (left + 36, 42), (left + 90, 38), 20, 8)
    found = prepare(pixels)
    assert len(found) == 2
    assert all(one.box[1] <= 40 and one.box[3] >= 155 for one in found)


def test_single_takes_all_ink_as_one_digit(mnist_data: Dataset) -> None:
    pixels = page((digit(mnist_data, 3), 30, 50), (digit(mnist_data, 8), 170, 60))
    assert len(prepare(pixels)) == 2
    (found,) = prepare(pixels, single=True)
    assert found.box[0] <= 33
    assert found.box[2] >= 200


def test_a_page_can_hold_a_thousand_digits(mnist_data: Dataset) -> None:
    pixels = np.full((1700, 1400), 255, dtype=np.uint8)
    for row in range(40):
        for column in range(30):
            place = (20 + 45 * column, 50 + 40 * row)
            cv2.putText(pixels, str((row + column) % 10), place, 0, 1, 0, 2)
    found = prepare(pixels)
    assert len(found) == 1200
    assert found[-1].line == 39

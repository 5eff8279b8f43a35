"""The sheet for a writer's own digits: printed, filled in, photographed, and cut out again."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from idx_files import mnist
from PIL import Image
from template_samples import SCALE, filled_in

from mnist_cli.errors import PictureError
from mnist_cli.pictures import template
from mnist_cli.pictures.template import draw_template, read_template
from mnist_cli.prediction import Model


def _as_photo(page: np.ndarray) -> np.ndarray:
    height, width = page.shape
    corners = np.float32([[0, 0], [width, 0], [width, height], [0, height]])
    seen = np.float32([[180, 90], [width - 60, 200], [width - 200, height - 90], [50, height - 50]])
    matrix = cv2.getPerspectiveTransform(corners, seen)
    photo = cv2.warpPerspective(page, matrix, (width, height), borderValue=60)
    noise = np.random.default_rng(0).normal(0, 4, photo.shape)
    return np.uint8(np.clip(photo * np.linspace(1, 0.65, width) + noise, 0, 255))


VIEWS = {
    "as printed": lambda page: page,
    "on its side": lambda page: np.rot90(page).copy(),
    "upside down": lambda page: np.rot90(page, 2).copy(),
    "small": lambda page: cv2.resize(page, None, fx=0.3, fy=0.3, interpolation=cv2.INTER_AREA),
    "in colour": lambda page: np.repeat(page[..., None], 3, axis=2),
    "as a photo": _as_photo,
}


@pytest.mark.parametrize("view", VIEWS)
def test_every_filled_in_box_is_cut_out_with_its_digit(view: str) -> None:
    boxes = read_template(VIEWS[view](filled_in()))
    assert [(digit, column) for digit, column, _ in boxes] == [
        (digit, column) for digit in range(10) for column in range(1, 11)
    ]
    answers = list(Model().read((box for *_, box in boxes), single=True))
    right = sum(
        answer.text == str(digit)
        for answer, (digit, *_) in zip(answers, boxes, strict=True)
        if not isinstance(answer, PictureError)
    )
    # The model reads 99.6% of these digits: of 100 it may misread 2. A line of a box that was cut
    # out with them, or a row too far, would spoil far more.
    assert right >= 98


def test_empty_boxes_are_left_out() -> None:
    boxes = read_template(_as_photo(filled_in(columns=3)))
    assert {column for _, column, _ in boxes} == {1, 2, 3}
    assert len(boxes) == 30


@pytest.mark.parametrize("suffix", template.SUFFIXES)
def test_the_printed_file_is_an_a4_sheet_that_is_read_again(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"sheet{suffix}"
    draw_template(path)
    with pytest.raises(PictureError, match="empty"):
        read_template(path)
    if suffix == ".pdf":
        import pypdfium2

        page = pypdfium2.PdfDocument(path)[0]
        # In points of 1/72 inch: A4 is 210 x 297 mm.
        np.testing.assert_allclose(page.get_size(), (595.3, 841.9), atol=0.2)


def _without_a_corner(page: np.ndarray) -> np.ndarray:
    page[: 30 * SCALE, : 30 * SCALE] = 255
    return page


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_without_a_corner, "3 of its 4 corner marks"),
        (lambda page: page[40 * SCALE :], "2 of its 4 corner marks"),
        (lambda page: page[:, ::-1].copy(), "0 of its 4 corner marks"),
        (lambda page: cv2.GaussianBlur(page, (0, 0), 5 * SCALE), "0 of its 4 corner marks"),
        (lambda page: np.full_like(page, 255), "0 of its 4 corner marks"),
    ],
    ids=["a corner covered", "cut off", "mirrored", "out of focus", "blank"],
)
def test_what_is_not_the_whole_template_is_refused(spoil: object, said: str) -> None:
    with pytest.raises(PictureError, match=said) as caught:
        read_template(spoil(filled_in()))  # type: ignore[operator]
    assert "--template" in str(caught.value)


def test_another_sheet_of_digits_is_refused() -> None:
    page = Image.new("L", (800, 1100), 255)
    page.paste(Image.fromarray(255 - mnist().test_images[0]).resize((200, 200)), (300, 300))
    with pytest.raises(PictureError, match="not a whole template"):
        read_template(page)

"""Frames, strips and desks along the edges of a picture are taken for paper, not for ink."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from picture_samples import best_similarity, digit, only_digit, page, photograph, similarity

from mnist_cli.arrays import Array
from mnist_cli.data.dataset import Dataset
from mnist_cli.data.registry import load_dataset
from mnist_cli.pictures.borders import without_surroundings


@pytest.fixture(scope="module")
def mnist_data() -> Dataset:
    return load_dataset()


@pytest.fixture(scope="module")
def clean(mnist_data: Dataset) -> Array:
    """A page with an 8, whose holes would be digits if its ink were paper."""
    return page((digit(mnist_data, 8, 2, height=200), 180, 110), size=(420, 560))


@pytest.mark.parametrize(("thickness", "tone"), [(1, 0), (3, 128), (6, 90)])
@pytest.mark.parametrize("scale", [1.0, 0.15])
def test_a_frame_round_the_picture_is_no_paper(
    clean: Array, thickness: int, tone: int, scale: float
) -> None:
    small = cv2.resize(clean, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    framed = np.pad(small, thickness, constant_values=tone)
    assert similarity(only_digit(framed), only_digit(small)) > 0.97


@pytest.mark.parametrize("tone", [20, 100, 255])
@pytest.mark.parametrize("edges", [(0, 1), (0, 2), (1, 3), (0, 1, 2, 3)])
def test_strips_along_edges_are_no_paper(clean: Array, tone: int, edges: tuple[int, ...]) -> None:
    photo = photograph(np.minimum(clean, 200))
    striped = photo.copy()
    for edge in edges:
        np.rot90(striped, edge)[:20] = tone
    assert best_similarity(only_digit(striped), only_digit(photo)) > 0.9


@pytest.mark.parametrize("degrees", [-4, 3])
def test_a_desk_beside_a_sheet_that_lies_askew_is_no_paper(clean: Array, degrees: float) -> None:
    photo = photograph(clean)
    y, x = np.mgrid[:420, :560]
    desk = y < 25 + np.tan(np.radians(degrees)) * (x - 280)
    seen = np.where(desk, 40, photo).astype(np.uint8)
    assert best_similarity(only_digit(seen), only_digit(photo)) > 0.9


def test_a_ruled_line_and_a_bar_that_fills_its_crop_are_no_frame() -> None:
    ruled = np.full((200, 300), 240, np.uint8)
    ruled[12:15] = 90
    bar = np.zeros((60, 30), np.uint8)
    bar[1:-1, 1:-1] = 255
    for pixels in (ruled, bar):
        assert np.array_equal(without_surroundings(pixels), pixels)

"""Ink is found in any colour, polarity, illumination and paper, and not where there is none."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from picture_samples import (
    best_similarity,
    digit,
    only_digit,
    page,
    photograph,
    refusal,
    similarity,
)
from PIL import Image

import mnist_cli
from mnist_cli.data.dataset import Dataset
from mnist_cli.data.registry import load_dataset
from mnist_cli.pictures.ink import NO_DIGIT
from mnist_cli.pictures.normalise import prepare


@pytest.fixture(scope="module")
def mnist_data() -> Dataset:
    return load_dataset()


@pytest.mark.parametrize(
    ("ink", "paper"),
    [
        ((240, 220, 60), (255, 255, 255)),  # yellow on white: it differs in blue alone
        ((200, 60, 60), (90, 130, 90)),  # red on green, of the same grey
        ((40, 60, 180), (250, 250, 245)),
        ((250, 250, 250), (20, 70, 40)),  # chalk
        ((90, 0, 120), (250, 200, 30)),
    ],
)
def test_colored_ink_is_found_on_colored_paper(
    mnist_data: Dataset, ink: tuple[int, int, int], paper: tuple[int, int, int]
) -> None:
    cover = page((digit(mnist_data, 3), 100, 60), paper=0, ink=255)[..., None] / 255
    colored = np.rint(np.array(paper) * (1 - cover) + np.array(ink) * cover).astype(np.uint8)
    assert similarity(only_digit(colored), only_digit(page((digit(mnist_data, 3), 100, 60)))) > 0.95


def test_light_ink_is_found_beside_dark_ink(mnist_data: Dataset) -> None:
    ink = digit(mnist_data, 3)
    left = page((ink, 40, 60), paper=0, ink=255)[..., None] / 255
    right = page((ink, 180, 60), paper=0, ink=255)[..., None] / 255
    yellow, blue = np.array([[255, 235, 40], [20, 40, 180]])
    colored = np.rint(255 - (255 - yellow) * left - (255 - blue) * right).astype(np.uint8)
    pencil = np.rint(245 - 60 * left[..., 0] - 210 * right[..., 0]).astype(np.uint8)
    for picture in (colored, pencil):
        first, second = prepare(picture)
        assert similarity(first.image, second.image) > 0.95


@pytest.mark.parametrize("light", [False, True])
def test_where_the_border_is_half_ink_the_reading_with_digits_is_taken(
    mnist_data: Dataset, light: bool
) -> None:
    pixels = page(*((digit(mnist_data, 8, n), 40 + 80 * n, 60) for n in range(3)))
    for y, x in ((slice(0, 25), slice(0, 220)), (slice(175, 200), slice(80, 300))):
        pixels[y, x] = 40  # two dark bars: most of the border is dark
    pixels[:, :8] = pixels[:, -8:] = 40
    answer = mnist_cli.predict(255 - pixels if light else pixels)
    assert answer.text == "888"


def test_broken_strokes_of_a_small_one_bit_scan_are_closed(mnist_data: Dataset) -> None:
    for label in (0, 3, 7):
        image = digit(mnist_data, label, 2, height=26)
        scan = np.pad(np.where(image > 127, 255, 0).astype(np.uint8), 4)
        broken = scan.copy()
        broken[16:17] = 0
        assert len(prepare(broken)) == len(prepare(scan)) == 1


@pytest.mark.parametrize("label", range(10))
def test_uneven_illumination_and_shadows_are_corrected(mnist_data: Dataset, label: int) -> None:
    clean = page((digit(mnist_data, label, 2, height=200), 180, 110), size=(420, 560))
    # Noise moves edges by a fraction of a pixel.
    assert best_similarity(only_digit(photograph(clean)), only_digit(clean)) > 0.93


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("label", range(10))
def test_ruled_and_squared_lines_are_removed(
    mnist_data: Dataset, label: int, squared: bool
) -> None:
    clean = page((digit(mnist_data, label, 4, height=170), 180, 110), size=(420, 560))
    ruled = clean.copy()
    for y in range(25, 420, 60):
        ruled[y : y + 2] = np.minimum(ruled[y : y + 2], 150)
    for x in range(35, 560, 60) if squared else ():
        ruled[:, x : x + 2] = np.minimum(ruled[:, x : x + 2], 150)
    assert best_similarity(only_digit(photograph(ruled)), only_digit(clean)) > 0.85


def test_a_1_from_edge_to_edge_is_no_ruled_line() -> None:
    pixels = np.full((200, 150), 240, dtype=np.uint8)
    pixels[:, 70:78] = 20
    image = only_digit(pixels)
    assert np.count_nonzero(image.any(axis=1)) == 20
    assert np.count_nonzero(image.any(axis=0)) <= 4


@pytest.mark.parametrize("label", [1, 3, 6, 8])
@pytest.mark.parametrize("surroundings", [25, 110])
def test_the_surroundings_of_a_sheet_are_ignored(
    mnist_data: Dataset, label: int, surroundings: int
) -> None:
    clean = page((digit(mnist_data, label, 2, height=200), 180, 110), size=(420, 560))
    corners = np.array([[0, 0], [560, 0], [560, 420], [0, 420]], dtype=np.float32)
    seen = np.array([[130, 90], [720, 120], [690, 540], [110, 500]], dtype=np.float32)
    turned = cv2.getPerspectiveTransform(corners, seen)
    flat = cv2.warpPerspective(clean, turned, (820, 620), borderValue=235)
    photo = cv2.warpPerspective(clean, turned, (820, 620), borderValue=surroundings)
    assert best_similarity(only_digit(photograph(photo)), only_digit(flat)) > 0.9


def test_close_crops_with_soft_edges_are_read(mnist_data: Dataset) -> None:
    similar = []
    for label in range(10):
        ink = digit(mnist_data, label, 3, height=100)
        expected = only_digit(255 - np.pad(ink, 12))
        crops = (ink, 255 - ink, 255 - np.pad(ink, 2))
        similar += [best_similarity(only_digit(crop), expected) for crop in crops]
    # Strokes at the border may lose their grey edge; a 0 that fills the crop loses more.
    assert np.mean(np.array(similar) > 0.85) >= 0.9


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_blank_picture_has_no_digit(value: int, single: bool) -> None:
    assert refusal(np.full((90, 120), value, np.uint8), single=single) == NO_DIGIT


@pytest.mark.parametrize("fall", [0.0, 0.05, 0.15, 0.3, 0.6])
def test_a_blank_sheet_in_any_illumination_has_no_digit(fall: float) -> None:
    y, x = np.mgrid[:600, :800] / 800
    rng = np.random.default_rng(0)
    lights = {
        "from a side": x,
        "from a corner": (x + y) / 2,
        "from a lamp": np.hypot(x - 0.4, y - 0.3),
        "with a soft shadow": 1 / (1 + np.exp(-12 * (x + 0.2 * y - 0.6))),
    }
    for noise in (1, 4):
        for light in lights.values():
            sheet = 220 * (1 - fall * light) + rng.normal(0, noise, light.shape)
            file = io.BytesIO()
            Image.fromarray(sheet.astype(np.uint8)).save(file, "JPEG", quality=85)
            assert refusal(file.getvalue()) == NO_DIGIT


@pytest.mark.parametrize("side", [28, 64, 256, 900])
@pytest.mark.parametrize("kind", ["uniform", "normal", "faint", "bits", "color"])
def test_noise_has_no_digit(side: int, kind: str) -> None:
    rng = np.random.default_rng(side)
    pixels = {
        "uniform": lambda: rng.integers(0, 256, (side, side), dtype=np.uint8),
        "normal": lambda: np.clip(rng.normal(128, 40, (side, side)), 0, 255).astype(np.uint8),
        "faint": lambda: np.clip(rng.normal(200, 3, (side, side)), 0, 255).astype(np.uint8),
        "bits": lambda: rng.integers(0, 2, (side, side), dtype=np.uint8) * 255,
        "color": lambda: rng.integers(0, 256, (side, side, 3), dtype=np.uint8),
    }[kind]()
    assert refusal(pixels) == NO_DIGIT


def test_pictures_of_few_pixels_have_no_digit() -> None:
    rng = np.random.default_rng(0)
    for height in range(1, 5):
        for width in range(1, 5):
            pixels = rng.integers(0, 256, (height, width), dtype=np.uint8)
            assert refusal(pixels) == NO_DIGIT
    assert refusal(np.zeros((1, 500), np.uint8)) == NO_DIGIT

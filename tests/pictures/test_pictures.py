"""A person's picture becomes MNIST's 28x28: every kind of picture, several digits, bad input."""

from __future__ import annotations

import io
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from mnist_cli.arrays import Array
from mnist_cli.data.dataset import Dataset
from mnist_cli.data.registry import load_dataset
from mnist_cli.errors import PictureError
from mnist_cli.pictures.ink import NO_DIGIT
from mnist_cli.pictures.normalise import prepare
from mnist_cli.pictures.opening import MAX_PIXELS, Source


@pytest.fixture(scope="module")
def mnist_data() -> Dataset:
    return load_dataset()


def digit(data: Dataset, label: int, number: int = 0, *, height: int = 80) -> Array:
    """A test digit as ink, (height, width) uint8, cropped."""
    index = np.flatnonzero(data.test_labels == label)[number]
    image = data.test_images[index]
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    ink = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    width = max(1, round(ink.shape[1] * height / ink.shape[0]))
    return np.asarray(cv2.resize(ink, (width, height), interpolation=cv2.INTER_CUBIC))


def page(
    *placed: tuple[Array, int, int],
    size: tuple[int, int] = (200, 300),
    paper: int = 235,
    ink: int = 40,
) -> Array:
    """A page (H, W) uint8 with the given ink at (x, y), paper and ink in those greys."""
    cover = np.zeros(size, dtype=np.float32)
    for image, x, y in placed:
        part = cover[y : y + image.shape[0], x : x + image.shape[1]]
        np.maximum(part, image / 255, out=part)
    return np.rint(paper + (ink - paper) * cover).astype(np.uint8)


def alike(first: Array, second: Array) -> float:
    """The correlation of two images."""
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def alike_in_noise(first: Array, second: Array) -> float:
    """The same, best of moves by a pixel: noise tips the rounding of the centre of mass."""
    moves = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    return max(alike(np.roll(first, move, (0, 1)), second) for move in moves)


def only(pixels: Source) -> Array:
    """The one digit that a picture must hold."""
    (found,) = prepare(pixels)
    return found.image


# --- As MNIST was made ---------------------------------------------------------------------------


def test_mnists_own_images_pass_unchanged(mnist_data: Dataset) -> None:
    images = mnist_data.test_images[:2000]
    changed = [
        index
        for index, image in enumerate(images)
        # Whites are stretched from 254 to 255, or from a little less.
        if np.abs(prepare(image, single=True)[0].image - image.astype(int)).max() > 3
    ]
    # Not all: some have specks apart from the digit, and a few strokes are of extreme width.
    assert len(changed) <= 0.05 * len(images)


@pytest.mark.parametrize("side", [28, 60, 150, 700])
@pytest.mark.parametrize(("paper", "ink"), [(255, 0), (0, 255), (200, 120), (60, 110)])
def test_size_place_paper_ink_and_polarity_do_not_matter(
    mnist_data: Dataset, side: int, paper: int, ink: int
) -> None:
    image = mnist_data.test_images[7]
    canvas = np.zeros((side, side), dtype=np.uint8)
    canvas[side - 28 :, (side - 28) // 3 :][:28, :28] = image
    grey = np.rint(paper + (ink - paper) * (canvas / 255)).astype(np.uint8)
    # Fifty greys in place of 256 lose the faintest edges.
    assert alike(only(grey), image) > 0.98


def test_a_digit_is_20_pixels_long_and_its_mass_is_in_the_middle(mnist_data: Dataset) -> None:
    for label in range(10):
        image = only(page((digit(mnist_data, label, 3, height=130), 90, 30)))
        rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
        longer = max(np.ptp(rows), np.ptp(columns)) + 1
        assert 19 <= longer <= 20
        mass = image / image.sum()
        center = [(mass.sum(axis=axis) * np.arange(28)).sum() for axis in (1, 0)]
        assert np.abs(np.subtract(center, 14)).max() <= 0.5  # whole-pixel shifts come that near
        assert image.max() == 255


@pytest.mark.parametrize("thickness", [1, 3, 60])
def test_hair_lines_and_thick_markers_get_strokes_that_mnist_has(thickness: int) -> None:
    pixels = np.full((400, 400), 255, dtype=np.uint8)
    cv2.ellipse(pixels, (200, 200), (90, 130), 0, 0, 360, 0, thickness)
    image = only(pixels)
    enlarged = cv2.resize(image, (112, 112), interpolation=cv2.INTER_LINEAR)
    inside = cv2.distanceTransform((enlarged > 127).astype(np.uint8), cv2.DIST_L2, 5)
    # 4 x the mean distance to the edge, at four times the size: MNIST's are 1.6 to 6.7.
    assert 1.4 <= inside[inside > 0].mean() <= 7


# --- Files of every kind -------------------------------------------------------------------------


def _rgb(grey: Array) -> Image.Image:
    return Image.fromarray(np.dstack([grey, grey, grey]))


SAVED: dict[str, tuple[str, Callable[[Array], Image.Image]]] = {
    "1-bit PNG": ("PNG", lambda grey: Image.fromarray(grey).convert("1", dither=0)),
    "palette PNG": ("PNG", lambda grey: _rgb(grey).quantize(8)),
    "grey PNG": ("PNG", Image.fromarray),
    "16-bit PNG": ("PNG", lambda grey: Image.fromarray(grey.astype(np.uint16) * 16)),
    "grey and alpha PNG": ("PNG", lambda grey: _transparent(grey).convert("LA")),
    "RGBA PNG": ("PNG", lambda grey: _transparent(grey)),
    "JPEG": ("JPEG", _rgb),
    "CMYK JPEG": ("JPEG", lambda grey: _rgb(grey).convert("CMYK")),
    "GIF": ("GIF", Image.fromarray),
    "BMP": ("BMP", _rgb),
    "TIFF": ("TIFF", _rgb),
    "CMYK TIFF": ("TIFF", lambda grey: _rgb(grey).convert("CMYK")),
    "LAB TIFF": ("TIFF", lambda grey: Image.merge("LAB", [Image.fromarray(grey)] * 3)),
    "float TIFF": ("TIFF", lambda grey: Image.fromarray(grey.astype(np.float32) / 7 - 3)),
    "32-bit TIFF": ("TIFF", lambda grey: Image.fromarray(grey.astype(np.int32) * 1000)),
    "WebP": ("WEBP", _rgb),
    "PGM": ("PPM", Image.fromarray),
}


def _transparent(grey: Array) -> Image.Image:
    """Black ink on nothing: all of the shape is in the alpha channel."""
    black = np.zeros_like(grey)
    return Image.fromarray(np.dstack([black, black, black, 255 - grey]))


def _file(kind: str, grey: Array) -> bytes:
    file_format, make = SAVED[kind]
    file = io.BytesIO()
    make(grey).save(file, file_format)
    return file.getvalue()


@pytest.mark.parametrize("kind", SAVED)
def test_every_mode_and_format_shows_the_same_digit(mnist_data: Dataset, kind: str) -> None:
    grey = page((digit(mnist_data, 4), 100, 60), paper=255, ink=0)
    # A palette of 8 and one bit change the greys at the edges of strokes; lossy compression moves
    # the edges, too: by half a pixel, which for strokes of two pixels is a correlation of 0.9.
    least = 0.9 if "JPEG" in kind or kind == "WebP" else 0.95
    assert alike(only(_file(kind, grey)), only(grey)) > least


def test_white_ink_on_nothing_is_seen(mnist_data: Dataset) -> None:
    ink = page((digit(mnist_data, 4), 100, 60), paper=0, ink=255)
    white = np.full_like(ink, 255)
    picture = Image.fromarray(np.dstack([white, white, white, ink]))
    assert alike(only(picture), only(ink)) > 0.99


@pytest.mark.parametrize(
    ("ink", "paper"),
    [
        ((240, 220, 60), (255, 255, 255)),  # yellow on white: seen in blue alone
        ((200, 60, 60), (90, 130, 90)),  # red on green, of the same grey
        ((40, 60, 180), (250, 250, 245)),
        ((250, 250, 250), (20, 70, 40)),  # chalk
        ((90, 0, 120), (250, 200, 30)),
    ],
)
def test_colored_ink_is_seen_on_colored_paper(
    mnist_data: Dataset, ink: tuple[int, int, int], paper: tuple[int, int, int]
) -> None:
    cover = page((digit(mnist_data, 3), 100, 60), paper=0, ink=255)[..., None] / 255
    colored = np.rint(np.array(paper) * (1 - cover) + np.array(ink) * cover).astype(np.uint8)
    assert alike(only(colored), only(page((digit(mnist_data, 3), 100, 60)))) > 0.95


@pytest.mark.parametrize("orientation", range(1, 9))
def test_phone_photos_are_turned_as_exif_says(mnist_data: Dataset, orientation: int) -> None:
    upright = page((digit(mnist_data, 4), 100, 60))
    # What a camera stores that is to be shown by each of these operations.
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = Image.fromarray(upright)
    if orientation in undo:
        stored = stored.transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    stored.save(file, "PNG", exif=exif)
    (found,) = prepare(file.getvalue())
    (expected,) = prepare(upright)
    assert found.box == expected.box
    assert np.array_equal(found.image, expected.image)


@pytest.mark.parametrize(
    "convert",
    [
        lambda grey: grey / 255,
        lambda grey: grey.astype(np.float64),
        lambda grey: grey > 128,
        lambda grey: (grey > 128).astype(np.int64),
        lambda grey: grey.astype(np.uint16) * 257,
        lambda grey: grey.astype(np.float32) / 10 - 5,
        lambda grey: grey[..., None],
        lambda grey: grey[None],
        lambda grey: np.dstack([grey] * 3),
        lambda grey: np.dstack([grey] * 3 + [np.full_like(grey, 255)]),
        lambda grey: Image.fromarray(grey),
    ],
)
def test_arrays_of_any_kind_and_pil_images(
    mnist_data: Dataset, convert: Callable[[Array], Source]
) -> None:
    grey = page((digit(mnist_data, 2), 100, 60), paper=255, ink=0)
    assert alike(only(convert(grey)), only(grey)) > 0.95  # one bit has no grey edges


def test_an_animation_shows_its_first_frame(mnist_data: Dataset) -> None:
    frames = [Image.fromarray(page((digit(mnist_data, label), 90, 50))) for label in (3, 1, 8)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    assert alike(only(file.getvalue()), only(np.asarray(frames[0]))) > 0.95


# --- Paper, light, lines -------------------------------------------------------------------------


def _photo(grey: Array, *, seed: int = 0) -> Array:
    """Light that falls from a corner, a soft shadow, a sensor's noise."""
    height, width = grey.shape
    y, x = np.mgrid[:height, :width] / max(grey.shape)
    light = 0.55 + 0.45 * (x + y) / (x + y).max()
    light *= 1 - 0.3 / (1 + np.exp(-40 * (x - 0.55)))
    noise = np.random.default_rng(seed).normal(0, 3, grey.shape)
    return np.clip(grey * light + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("label", range(10))
def test_uneven_light_and_shadows_are_taken_off(mnist_data: Dataset, label: int) -> None:
    clean = page((digit(mnist_data, label, 2, height=200), 180, 110), size=(420, 560))
    # Noise moves edges by a part of a pixel.
    assert alike_in_noise(only(_photo(clean)), only(clean)) > 0.93


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("label", range(10))
def test_the_lines_of_ruled_and_squared_paper_are_taken_off(
    mnist_data: Dataset, label: int, squared: bool
) -> None:
    clean = page((digit(mnist_data, label, 4, height=170), 180, 110), size=(420, 560))
    ruled = clean.copy()
    for y in range(25, 420, 60):
        ruled[y : y + 2] = np.minimum(ruled[y : y + 2], 150)
    for x in range(35, 560, 60) if squared else ():
        ruled[:, x : x + 2] = np.minimum(ruled[:, x : x + 2], 150)
    assert alike_in_noise(only(_photo(ruled)), only(clean)) > 0.85


@pytest.mark.parametrize("label", [1, 3, 6, 8])
@pytest.mark.parametrize("desk", [25, 110])
def test_a_sheet_is_told_from_the_desk_it_lies_on(
    mnist_data: Dataset, label: int, desk: int
) -> None:
    clean = page((digit(mnist_data, label, 2, height=200), 180, 110), size=(420, 560))
    corners = np.array([[0, 0], [560, 0], [560, 420], [0, 420]], dtype=np.float32)
    seen = np.array([[130, 90], [720, 120], [690, 540], [110, 500]], dtype=np.float32)
    turned = cv2.getPerspectiveTransform(corners, seen)
    flat = cv2.warpPerspective(clean, turned, (820, 620), borderValue=235)
    photo = cv2.warpPerspective(clean, turned, (820, 620), borderValue=desk)
    assert alike_in_noise(only(_photo(photo)), only(flat)) > 0.9


def test_a_table_is_no_digit(mnist_data: Dataset) -> None:
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


def test_a_ring_drawn_about_a_digit_is_no_digit(mnist_data: Dataset) -> None:
    clean = page((digit(mnist_data, 5), 120, 60))
    ringed = clean.copy()
    cv2.circle(ringed, (150, 100), 80, 50, 4)
    assert alike(only(ringed), only(clean)) > 0.98


def test_a_box_drawn_about_a_digit_is_no_digit(mnist_data: Dataset) -> None:
    clean = page((digit(mnist_data, 5), 100, 60))
    for bottom in (165, 230):  # whole, and cut off by the picture's edge
        boxed = clean.copy()
        cv2.rectangle(boxed, (70, 30), (200, bottom), 50, 3)
        assert alike(only(boxed), only(clean)) > 0.98


def test_specks_are_dropped(mnist_data: Dataset) -> None:
    clean = page((digit(mnist_data, 6), 100, 60))
    dirty = clean.copy()
    for x, y in np.random.default_rng(0).integers(0, (300, 40), (12, 2)):
        dirty[y : y + 2, x : x + 2] = 60
    assert alike(only(dirty), only(clean)) > 0.98


def test_a_stray_line_and_a_dark_edge_are_no_digits(mnist_data: Dataset) -> None:
    pixels = page((digit(mnist_data, 6), 100, 60))
    pixels[185:188, 60:240] = 40
    pixels[:, 285:] = 70
    assert alike(only(pixels), only(page((digit(mnist_data, 6), 100, 60)))) > 0.98


def test_a_one_from_edge_to_edge_is_no_ruled_line() -> None:
    pixels = np.full((200, 150), 240, dtype=np.uint8)
    pixels[:, 70:78] = 20
    image = only(pixels)
    assert np.count_nonzero(image.any(axis=1)) == 20
    assert np.count_nonzero(image.any(axis=0)) <= 4


# --- Several digits ------------------------------------------------------------------------------


def test_digits_come_line_by_line_from_the_left_with_their_boxes(mnist_data: Dataset) -> None:
    places = [(20, 20), (110, 30), (200, 10), (30, 150), (150, 140)]
    inks = [digit(mnist_data, label, 5) for label in (3, 4, 6, 9, 2)]
    placed = [(ink, x, y) for ink, (x, y) in zip(inks, places, strict=True)]
    found = prepare(page(*placed, size=(260, 300)))
    assert [one.line for one in found] == [0, 0, 0, 1, 1]
    for one, (ink, x, y) in zip(found, placed, strict=True):
        expected = (x, y, x + ink.shape[1], y + ink.shape[0])
        assert np.abs(np.subtract(one.box, expected)).max() <= 3  # faint edges are not ink


def test_a_climbing_line_is_one_line(mnist_data: Dataset) -> None:
    placed = [
        (digit(mnist_data, 3, number), 20 + 100 * number, 160 - 25 * number) for number in range(6)
    ]
    found = prepare(page(*placed, size=(300, 640)))
    assert [one.line for one in found] == [0] * 6
    lefts = [one.box[0] for one in found]
    assert lefts == sorted(lefts)


def test_a_column_of_digits_is_a_line_each(mnist_data: Dataset) -> None:
    placed = [(digit(mnist_data, label, 1, height=50), 40, 20 + 70 * label) for label in range(6)]
    found = prepare(page(*placed, size=(450, 300)))
    assert [one.line for one in found] == list(range(6))


def test_the_loose_bar_of_a_five_is_part_of_it() -> None:
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


# --- Bad input -----------------------------------------------------------------------------------


def _refusal(source: Source, **options: bool) -> str:
    with pytest.raises(PictureError) as error:
        prepare(source, **options)
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_blank_picture_has_no_digit(value: int, single: bool) -> None:
    assert _refusal(np.full((90, 120), value, np.uint8), single=single) == NO_DIGIT


@pytest.mark.parametrize("fall", [0.0, 0.05, 0.15, 0.3, 0.6])
def test_a_blank_sheet_in_any_light_has_no_digit(fall: float) -> None:
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
            assert _refusal(file.getvalue()) == NO_DIGIT


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
    assert _refusal(pixels) == NO_DIGIT


def test_pictures_of_few_pixels_have_no_digit() -> None:
    rng = np.random.default_rng(0)
    for height in range(1, 5):
        for width in range(1, 5):
            pixels = rng.integers(0, 256, (height, width), dtype=np.uint8)
            assert _refusal(pixels) == NO_DIGIT
    assert _refusal(np.zeros((1, 500), np.uint8)) == NO_DIGIT


def test_a_page_may_hold_a_thousand_digits(mnist_data: Dataset) -> None:
    pixels = np.full((1700, 1400), 255, dtype=np.uint8)
    for row in range(40):
        for column in range(30):
            place = (20 + 45 * column, 50 + 40 * row)
            cv2.putText(pixels, str((row + column) % 10), place, 0, 1, 0, 2)
    found = prepare(pixels)
    assert len(found) == 1200
    assert found[-1].line == 39


def test_close_crops_with_soft_edges_are_read(mnist_data: Dataset) -> None:
    similar = []
    for label in range(10):
        ink = digit(mnist_data, label, 3, height=100)
        expected = only(255 - np.pad(ink, 12))
        crops = (ink, 255 - ink, 255 - np.pad(ink, 2))
        similar += [alike_in_noise(only(crop), expected) for crop in crops]
    # Strokes that end at the border may lose a grey edge; a 0 that fills the crop loses more.
    assert np.mean(np.array(similar) > 0.85) >= 0.9


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.array([[np.nan, 1.0], [0.0, 1.0]]), "NaN"),
        (np.array([[np.inf, 1.0], [0.0, 1.0]]), "infinity"),
        (np.zeros((0, 5)), "without pixels"),
        (np.zeros(7), "expected (H, W)"),
        (np.zeros((2, 3, 4, 5)), "expected (H, W)"),
        (np.zeros((4, 4), dtype=complex), "expected whole or real numbers"),
        (np.array([["a", "b"]]), "expected whole or real numbers"),
        (np.broadcast_to(np.uint8(0), (MAX_PIXELS // 1000, 1001)), "too large"),
    ],
)
def test_bad_arrays_are_refused(values: Array, said: str) -> None:
    assert said in _refusal(values)


def test_bad_files_are_refused_in_a_line(tmp_path: Path, mnist_data: Dataset) -> None:
    whole = _file("grey PNG", page((digit(mnist_data, 3), 90, 50)))
    (tmp_path / "text.png").write_text("This is not a picture,\nwhatever its name says.\n")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    assert "not a picture" in _refusal(tmp_path / "text.png")
    assert "0 bytes" in _refusal(tmp_path / "empty.png")
    assert "damaged PNG" in _refusal(tmp_path / "cut.png")
    assert "no such file" in _refusal(tmp_path / "absent.png")
    assert "not a file" in _refusal(tmp_path)
    assert "not list" in _refusal([1, 2, 3])  # type: ignore[arg-type]
    with Image.open(tmp_path / "cut.png") as lazy:
        assert "damaged picture" in _refusal(lazy)


def _png_header(width: int, height: int) -> bytes:
    """A PNG file that claims a size and has a little data."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(bytes(10_000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def test_a_decompression_bomb_is_refused_before_it_is_decoded() -> None:
    began = time.perf_counter()
    for width, height in ((100_000, 100_000), (2**31 - 1, 2**31 - 1), (20_001, 20_001)):
        assert "too large" in _refusal(_png_header(width, height))
    assert time.perf_counter() - began < 5  # decoding the first would take minutes
    # Whoever uses Pillow beside this finds its own limit unchanged.
    assert Image.MAX_IMAGE_PIXELS is not None


@pytest.mark.slow
def test_a_picture_of_20000_by_20000_is_read(tmp_path: Path) -> None:
    image = Image.new("1", (20_000, 20_000), 1)
    ImageDraw.Draw(image).ellipse((7000, 6000, 13_000, 14_000), outline=0, width=1200)
    image.save(tmp_path / "large.png")
    (found,) = prepare(tmp_path / "large.png")
    assert np.abs(np.subtract(found.box, (7000, 6000, 13_001, 14_001))).max() <= 30
    assert found.image[14, 14] == 0
    assert found.image[:, 14].max() == 255


def test_threads_share_nothing(mnist_data: Dataset) -> None:
    stderr = os.fstat(2).st_ino  # libtiff is kept from writing there, which concerns all threads
    files = [
        _file(("grey PNG", "TIFF")[n % 2], page((digit(mnist_data, n % 10, n), 90, 50)))
        for n in range(40)
    ]
    expected = [only(file) for file in files]
    found: list[Array | None] = [None] * len(files)

    def work(start: int) -> None:
        for index in range(start, len(files), 4):
            found[index] = only(files[index])

    threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert os.fstat(2).st_ino == stderr
    for one, other in zip(found, expected, strict=True):
        assert one is not None
        assert np.array_equal(one, other)

"""Any file, array or PIL image is opened, or refused with a reason."""

from __future__ import annotations

import io
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from picture_samples import ENCODINGS, digit, encode, only_digit, page, refusal, similarity
from PIL import Image, ImageDraw

from mnist_cli.arrays import Array
from mnist_cli.data.dataset import Dataset
from mnist_cli.data.registry import load_dataset
from mnist_cli.pictures.normalise import prepare
from mnist_cli.pictures.opening import MAX_PIXELS, Source


@pytest.fixture(scope="module")
def mnist_data() -> Dataset:
    return load_dataset()


@pytest.mark.parametrize("kind", ENCODINGS)
def test_every_mode_and_format_shows_the_same_digit(mnist_data: Dataset, kind: str) -> None:
    grey = page((digit(mnist_data, 4), 100, 60), paper=255, ink=0)
    # A palette of 8 and one bit change the greys at the edges of strokes; lossy compression moves
    # the edges, too: by half a pixel, which for strokes of two pixels is a correlation of 0.9.
    least = 0.9 if "JPEG" in kind or kind == "WebP" else 0.95
    assert similarity(only_digit(encode(kind, grey)), only_digit(grey)) > least


def test_white_ink_on_a_transparent_background_is_found(mnist_data: Dataset) -> None:
    ink = page((digit(mnist_data, 4), 100, 60), paper=0, ink=255)
    white = np.full_like(ink, 255)
    picture = Image.fromarray(np.dstack([white, white, white, ink]))
    assert similarity(only_digit(picture), only_digit(ink)) > 0.99


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_rotated_by_their_exif_orientation(
    mnist_data: Dataset, orientation: int
) -> None:
    upright = page((digit(mnist_data, 4), 100, 60))
    # How a camera stores a picture that each orientation shows upright.
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
def test_arrays_of_any_type_and_pil_images_show_the_same_digit(
    mnist_data: Dataset, convert: Callable[[Array], Source]
) -> None:
    grey = page((digit(mnist_data, 2), 100, 60), paper=255, ink=0)
    # Pixels of one bit have no grey edges.
    assert similarity(only_digit(convert(grey)), only_digit(grey)) > 0.95


def test_the_first_frame_of_an_animation_is_read(mnist_data: Dataset) -> None:
    frames = [Image.fromarray(page((digit(mnist_data, label), 90, 50))) for label in (3, 1, 8)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    assert similarity(only_digit(file.getvalue()), only_digit(np.asarray(frames[0]))) > 0.95


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
    assert said in refusal(values)


def test_bad_files_are_refused_in_one_line(tmp_path: Path, mnist_data: Dataset) -> None:
    whole = encode("grey PNG", page((digit(mnist_data, 3), 90, 50)))
    (tmp_path / "text.png").write_text("This is not a picture,\nwhatever its name says.\n")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    assert "not a picture" in refusal(tmp_path / "text.png")
    assert "0 bytes" in refusal(tmp_path / "empty.png")
    assert "damaged PNG" in refusal(tmp_path / "cut.png")
    assert "no such file" in refusal(tmp_path / "absent.png")
    assert "not a file" in refusal(tmp_path)
    assert "not list" in refusal([1, 2, 3])  # type: ignore[arg-type]
    with Image.open(tmp_path / "cut.png") as lazy:
        assert "damaged picture" in refusal(lazy)


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
        assert "too large" in refusal(_png_header(width, height))
    assert time.perf_counter() - began < 5  # decoding the first would take minutes
    # Pillow's own limit is unchanged for other users of it.
    assert Image.MAX_IMAGE_PIXELS is not None


@pytest.mark.slow
def test_a_picture_of_20000_by_20000_pixels_is_read(tmp_path: Path) -> None:
    image = Image.new("1", (20_000, 20_000), 1)
    ImageDraw.Draw(image).ellipse((7000, 6000, 13_000, 14_000), outline=0, width=1200)
    image.save(tmp_path / "large.png")
    (found,) = prepare(tmp_path / "large.png")
    assert np.abs(np.subtract(found.box, (7000, 6000, 13_001, 14_001))).max() <= 30
    assert found.image[14, 14] == 0
    assert found.image[:, 14].max() == 255


def test_threads_give_the_same_digits_as_one(mnist_data: Dataset) -> None:
    stderr = os.fstat(2).st_ino  # redirected while libtiff decodes, for all threads
    files = [
        encode(("grey PNG", "TIFF")[n % 2], page((digit(mnist_data, n % 10, n), 90, 50)))
        for n in range(40)
    ]
    expected = [only_digit(file) for file in files]
    found: list[Array | None] = [None] * len(files)

    def work(start: int) -> None:
        for index in range(start, len(files), 4):
            found[index] = only_digit(files[index])

    threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert os.fstat(2).st_ino == stderr
    for one, other in zip(found, expected, strict=True):
        assert one is not None
        assert np.array_equal(one, other)

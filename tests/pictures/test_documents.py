"""Files of phones and scanners: HEIC, AVIF, PDF and TIFF of several pages."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from picture_samples import best_similarity, digit, only_digit, page, refusal
from PIL import Image

from mnist_cli import predict
from mnist_cli.arrays import Array
from mnist_cli.data.registry import load_dataset
from mnist_cli.errors import PictureError
from mnist_cli.pictures.documents import pages, split_page
from mnist_cli.prediction import find_pictures


@pytest.fixture(scope="module")
def sheets() -> list[Array]:
    """A page of paper for each of the digits 3, 4 and 5."""
    data = load_dataset()
    return [page((digit(data, label), 100, 60), paper=255, ink=0) for label in (3, 4, 5)]


def _write(path: Path, sheets: list[Array], **options: object) -> Path:
    first, *others = [Image.fromarray(sheet) for sheet in sheets]
    first.save(path, save_all=True, append_images=others, **options)
    return path


@pytest.mark.parametrize("suffix", ["heic", "avif"])
def test_a_photo_of_a_phone_shows_its_digit(
    suffix: str, sheets: list[Array], tmp_path: Path
) -> None:
    pillow_heif.register_heif_opener()
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(sheets[1]).convert("RGB").save(path)
    # Lossy compression moves the edges of strokes by up to half a pixel, and the centre by one.
    assert best_similarity(only_digit(path), only_digit(sheets[1])) > 0.9
    assert find_pictures(str(tmp_path)) == [str(path)]


@pytest.mark.parametrize("suffix", ["pdf", "tif"])
def test_every_page_of_a_file_is_a_picture_of_its_own(
    suffix: str, sheets: list[Array], tmp_path: Path
) -> None:
    path = _write(tmp_path / f"scan.{suffix}", sheets)
    names = find_pictures(str(path))
    assert names == [f"{path}#1", f"{path}#2", f"{path}#3"]
    assert find_pictures(str(tmp_path)) == names
    for name, sheet in zip(names, sheets, strict=True):
        # A PDF page is rendered at another size, from a JPEG: as above.
        assert best_similarity(only_digit(name), only_digit(sheet)) > 0.9
    assert predict(names[1]).text == "4"


@pytest.mark.parametrize("suffix", ["pdf", "tif"])
def test_a_page_must_exist_and_be_named(suffix: str, sheets: list[Array], tmp_path: Path) -> None:
    path = _write(tmp_path / f"scan.{suffix}", sheets)
    assert refusal(path) == "has 3 pages; name one of them, such as FILE#1"
    assert refusal(f"{path}#4") == "has no page 4, but 3 in all"
    single = _write(tmp_path / f"one.{suffix}", sheets[:1])
    assert find_pictures(str(single)) == [str(single)]
    assert best_similarity(only_digit(single), only_digit(sheets[0])) > 0.9
    assert refusal(f"{single}#2") == "has no page 2, but 1 in all"


def test_a_file_whose_own_name_ends_like_a_page_is_that_file(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png#2"
    assert split_page(str(path)) == (tmp_path / "sheet.png", 2)
    path.touch()
    assert split_page(str(path)) == (path, None)


def test_a_pdf_of_500_pages_has_500_names(tmp_path: Path) -> None:
    path = _write(tmp_path / "long.pdf", [np.full((20, 20), 255, np.uint8)] * 500)
    assert pages(str(path))[::499] == [f"{path}#1", f"{path}#500"]


def _pdf(trailer: bytes, *, kids: bytes = b"[3 0 R]", count: int = 1) -> bytes:
    """A minimal PDF file without a table of its objects, which readers rebuild."""
    return (
        b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
        b"2 0 obj<</Type/Pages/Kids " + kids + b"/Count %d>>endobj\n" % count
        + b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 72 72]>>endobj\n"
        b"trailer<</Root 1 0 R" + trailer + b">>\n%%EOF\n"
    )  # fmt: skip


def test_bad_documents_are_refused_in_one_line(sheets: list[Array], tmp_path: Path) -> None:
    encrypted = _pdf(
        b"/ID[<00><00>]/Encrypt<</Filter/Standard/V 1/R 2/P -4/O<%s>/U<%s>>>"
        % (b"00" * 32, b"11" * 32)
    )
    assert refusal(encrypted) == "an encrypted PDF file; save it without a password"
    assert refusal(_pdf(b"")) == "no digit found"
    assert refusal(_pdf(b"", kids=b"[]", count=0)).startswith("a damaged PDF file")
    assert refusal(b"%PDF-1.7 and nothing else").startswith("a damaged PDF file")
    pillow_heif.register_heif_opener()
    file = io.BytesIO()
    Image.fromarray(sheets[0]).convert("RGB").save(file, "HEIF")
    content = file.getvalue()
    assert refusal(content[: len(content) // 2]).startswith("a damaged HEIF file")
    assert "export it as PNG" in refusal(b'<?xml version="1.0"?><svg width="9"></svg>')
    empty = tmp_path / "empty.pdf"
    empty.touch()
    assert find_pictures(str(empty)) == [str(empty)]
    assert refusal(empty) == "the file is empty (0 bytes)"


@pytest.mark.parametrize(
    ("module", "content"), [("pypdfium2", _pdf(b"")), ("pillow_heif", b"\0\0\0\x18ftypheic")]
)
def test_a_missing_package_is_named_with_its_installation(
    module: str, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert "pip install 'mnist-cli[pictures]'" in refusal(content)


def test_a_clipboard_without_a_picture_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from mnist_cli.cli.sources import find_sources

    monkeypatch.setattr("PIL.ImageGrab.grabclipboard", lambda: None)
    with pytest.raises(PictureError, match="holds no picture"):
        find_sources([], clipboard=True)

    def refuse() -> None:
        raise NotImplementedError("wl-paste or xclip is required")

    monkeypatch.setattr("PIL.ImageGrab.grabclipboard", refuse)
    with pytest.raises(PictureError, match=r"cannot be read: wl-paste or xclip is required\."):
        find_sources([], clipboard=True)


def test_the_picture_on_the_clipboard_is_read(
    sheets: list[Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mnist_cli.cli.sources import find_sources

    monkeypatch.setattr("PIL.ImageGrab.grabclipboard", lambda: Image.fromarray(sheets[2]))
    [(name, content)], failed = find_sources([], clipboard=True)
    assert (name, failed) == ("clipboard", 0)
    assert predict(content).text == "5"

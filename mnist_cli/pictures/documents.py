"""Files of several pages: how a page is named, how many there are, and PDF pages as pictures.

Page 2 of ``scan.pdf`` or ``scan.tif`` is ``scan.pdf#2`` or ``scan.tif#2``.
"""

from __future__ import annotations

import io
import re
from contextlib import closing
from pathlib import Path
from typing import IO, Any

from PIL import Image

from mnist_cli.errors import PictureError

# Suffixes of files that may have several pages.
SUFFIXES = (".pdf", ".tif", ".tiff")

_RESOLUTION_DPI = 200
_POINTS_PER_INCH = 72
# Pixels of the longer side of a rendered page, whatever size the file claims: A3 has 3,300.
_MAX_SIDE = 4000


def split_page(name: str) -> tuple[Path, int | None]:
    """Return the file that a name stands for, and its page, from 1, if the name has one.

    A file whose own name ends in ``#2`` is that file.
    """
    match = re.fullmatch(r"(.+)#([1-9]\d{0,5})", name)
    if match is None or Path(name).exists():
        return Path(name), None
    return Path(match[1]), int(match[2])


def pages(name: str) -> list[str]:
    """Return the names of a file's pages: the file's own unless it has several.

    A file that cannot be opened has one, so that its error is reported when it is read.
    """
    path = Path(name)
    if path.suffix.lower() not in SUFFIXES or not path.is_file():
        return [name]
    try:
        with path.open("rb") as file:
            count = _count_pages(file)
    except Exception:  # damage makes decoders raise almost anything
        return [name]
    return [name] if count <= 1 else [f"{name}#{page}" for page in range(1, count + 1)]


def _count_pages(file: IO[bytes]) -> int:
    is_pdf = file.read(5) == b"%PDF-"
    file.seek(0)
    if is_pdf:
        with closing(_open_pdf(file)) as document:
            return len(document)
    with Image.open(file, formats=("TIFF",)) as image:
        return int(getattr(image, "n_frames", 1))


def require_page(page: int | None, count: int) -> int:
    """Return the index, from 0, of the page to read in a file of ``count`` pages.

    Raises `PictureError` if there is no such page, or if it must be named.
    """
    if page is None and count > 1:
        raise PictureError(f"has {count:,} pages; name one of them, such as FILE#1")
    if count == 0 or (page or 1) > count:
        raise PictureError(f"has no page {page or 1}, but {count:,} in all")
    return (page or 1) - 1


def render_pdf_page(file: IO[bytes], page: int | None) -> Image.Image:
    """Return a page of a PDF file, rendered at 200 dpi. Raises `PictureError`."""
    with closing(_open_pdf(file)) as document:
        sheet = document[require_page(page, len(document))]
        longer = max(sheet.get_size())
        scale = min(_RESOLUTION_DPI / _POINTS_PER_INCH, _MAX_SIDE / max(longer, 1))
        image: Image.Image = sheet.render(scale=scale).to_pil()
        return image


def _open_pdf(file: IO[bytes]) -> Any:
    try:
        import pypdfium2
    except ImportError:
        raise PictureError(
            "a PDF file, which needs pypdfium2: pip install 'mnist-cli[pictures]'"
        ) from None
    # From memory: PDFium would read a file object at the pace of single small calls.
    data = file.read() if not isinstance(file, io.BytesIO) else file.getvalue()
    try:
        return pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower():
            raise PictureError("an encrypted PDF file; save it without a password") from None
        raise


def register_heif() -> None:
    """Let Pillow open HEIC and HEIF files. Raises `PictureError` if pillow-heif is missing."""
    try:
        import pillow_heif
    except ImportError:
        raise PictureError(
            "a HEIC file, which needs pillow-heif: pip install 'mnist-cli[pictures]'"
        ) from None
    pillow_heif.register_heif_opener()

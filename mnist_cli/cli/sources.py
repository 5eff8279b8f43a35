"""Which pictures the arguments of `mnist predict` stand for."""

from __future__ import annotations

import sys
from typing import TypeAlias

from mnist_cli.cli.output import say
from mnist_cli.errors import MnistError, PictureError

# A picture's name and its path, or its bytes from standard input.
Named: TypeAlias = tuple[str, str | bytes]


def find_sources(names: list[str], *, clipboard: bool = False) -> tuple[list[Named], int]:
    """Return name and path, or bytes, of each picture, and how many names have none."""
    from mnist_cli.prediction import find_pictures

    sources: list[Named] = []
    failed = 0
    if clipboard:
        sources.append(("clipboard", _clipboard()))
    for name in names:
        try:
            if name == "-":
                if any(isinstance(source, bytes) for _, source in sources):
                    raise PictureError("standard input holds one picture: name it once")
                sources.append(("-", sys.stdin.buffer.read()))
            else:
                sources += [(_printable(path), path) for path in find_pictures(name)]
        except MnistError as error:  # noqa: PERF203  # the other names are still looked at
            failed += 1
            say_unread(_printable(name), error)
    return sources, failed


def _clipboard() -> bytes:
    """Return the picture on the clipboard as a PNG file. Raises `PictureError`."""
    import io

    from PIL import Image, ImageGrab

    try:
        found = ImageGrab.grabclipboard()
    except (OSError, NotImplementedError, ChildProcessError) as error:
        raise PictureError(f"The clipboard cannot be read: {error}.") from error
    if not isinstance(found, Image.Image):
        raise PictureError("The clipboard holds no picture. Copy one, or name its file.")
    file = io.BytesIO()
    found.save(file, format="PNG")
    return file.getvalue()


def say_unread(name: str, error: MnistError) -> None:
    """Say in one line on standard error why a picture could not be read."""
    say(" ".join(f"{name}: {error}".split()))


def _printable(name: str) -> str:
    """Return a file's name with ``?`` for characters that cannot be printed."""
    text = name.encode("utf-8", "replace").decode("utf-8")
    return "".join(sign if sign.isprintable() else "?" for sign in text)

"""Parts of error messages: each message is one printable line, whatever a path or file holds."""

from __future__ import annotations

from pathlib import Path


def printable(text: str | Path) -> str:
    """Return a path or name as it is, or its `repr` if it has unprintable characters."""
    return str(text) if str(text).isprintable() else repr(str(text))


def one_line(text: str) -> str:
    """Return the text on one line: runs of blanks and unprintable characters become one space."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def reason(error: BaseException) -> str:
    """Return why something failed, in one line without a full stop."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return one_line(text).rstrip(".") or type(error).__name__

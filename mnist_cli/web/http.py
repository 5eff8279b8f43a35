"""What the views share: requests to checked values, and answers and errors as JSON."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mnist_cli.errors import MnistError, PictureError

MAX_BODY_BYTES = 10_000_000
Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]
_T = TypeVar("_T", bool, int, float, str)


class RequestError(MnistError):
    """A request that is refused with an HTTP ``status`` of 4xx and one sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def status_of(error: MnistError) -> int:
    """Return the HTTP status that tells of an error: 422 for a picture, 500 for our own files."""
    if isinstance(error, RequestError):
        return error.status
    return 422 if isinstance(error, PictureError) else 500


def problem(status: int, sentence: str) -> JSONResponse:
    """Return the one form of an error: ``{"error": sentence}`` with its status."""
    return JSONResponse({"error": " ".join(sentence.split())}, status)


def content_type(request: Request) -> str:
    """Return the media type of a request's body in lower case, without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_json(request: Request) -> dict[str, Any]:
    """Return the JSON object in a request's body. Raises `RequestError`."""
    if content_type(request) != "application/json":
        raise RequestError(415, "Expected a body of the type application/json.")
    try:
        document = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise RequestError(400, "The body is no JSON. Send one JSON object.") from error
    if not isinstance(document, dict):
        raise RequestError(400, "Expected a JSON object, such as {}.")
    return document


def field(document: dict[str, Any], name: str, kind: type[_T], default: _T | None = None) -> _T:
    """Return a field of a JSON object, which must be of a type. Raises `RequestError`.

    Without a default it must be there. A whole number is also a ``float``, true is no ``int``.
    """
    value = document.get(name, default)
    if kind is float and type(value) is int and abs(value) < 2**53:
        value = float(value)
    if type(value) is not kind:
        raise RequestError(400, f'"{name}" should be {_KINDS[kind]}.')
    return value


_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}


def require_between(name: str, value: float, low: float, high: float) -> None:
    """Raise `RequestError` unless a number lies within limits."""
    if not low <= value <= high:  # also for NaN
        raise RequestError(400, f'"{name}" should be from {low:g} to {high:g}.')

"""Who may ask, and how much: checked for every request before anything else sees it.

A page of another site must not reach a server on this machine. Its requests carry the site's
``Origin``; a name of its own that it lets point to 127.0.0.1 (DNS rebinding) is in ``Host``.
Whoever listens beyond this machine demands a token, the first part of every path.
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
import sys
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mnist_cli.web.http import MAX_BODY_BYTES, RequestError, problem

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
_RAW_HEADERS = [(name.encode(), value.encode()) for name, value in HEADERS.items()]


def is_loopback(host: str) -> bool:
    """Return whether a host, a name or an address, is this machine and no other."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def new_token() -> str:
    """Return a token that cannot be guessed: 128 bits, in characters of a path."""
    return secrets.token_urlsafe(16)


class Guard:
    """An application that lets through only requests of its own page and of programs.

    ``host`` is where the server listens; with ``token`` a path starts with ``/token/``.
    """

    def __init__(self, app: ASGIApp, *, host: str, token: str | None) -> None:
        self._app = app
        self._host = host
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_RAW_HEADERS]
            await send(message)

        try:
            await self._app(self._admitted(scope), _limited(receive), send_with_headers)
        except ClientDisconnect:
            return
        except RequestError as error:
            await problem(error.status, str(error))(scope, receive, send_with_headers)
        except Exception as error:  # answered, and raised again by Starlette; the server goes on
            line = f"{scope['method']} {scope['path']} failed: {type(error).__name__}: {error}"
            print(*line.split(), file=sys.stderr)

    def _admitted(self, scope: Scope) -> MutableMapping[str, Any]:
        """Return the request without the token in its path. Raises `RequestError`."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_ours(host):
            raise RequestError(403, "This server does not go by the name in the Host header.")
        self._require_own_page(scope, headers, host)
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit():
            raise RequestError(400, "Content-Length should be a whole number.")
        if len(length) > 9 or int(length) > MAX_BODY_BYTES:
            raise _too_large()
        if self._token is None:
            return scope
        _, token, rest = (*scope["path"].split("/", 2), "", "")[:3]
        is_known = secrets.compare_digest(token.encode("utf-8", "replace"), self._token.encode())
        if not is_known or not scope["path"].startswith(f"/{token}/"):
            raise RequestError(
                403, "Open the whole address that mnist draw printed, with its token."
            )
        return {**scope, "path": f"/{rest}", "raw_path": f"/{rest}".encode("utf-8", "replace")}

    def _is_ours(self, host: str) -> bool:
        """Return whether a Host header is this machine; a foreign name may be DNS rebinding.

        A port may differ from ours, as through a tunnel.
        """
        name, colon, port = host.lower().rpartition(":")
        if not colon or not port.isdigit():
            name = host.lower()
        name = name.removeprefix("[").removesuffix("]")
        if is_loopback(name):
            return True
        if is_loopback(self._host):
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in (self._host.lower(), socket.gethostname().lower())
        return True

    def _require_own_page(self, scope: Scope, headers: Headers, host: str) -> None:
        """Raise `RequestError` for what a page of another site sends, but for a link to ours."""
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in (
            f"http://{host}".lower(),
            f"https://{host}".lower(),  # behind a proxy
        ):
            raise RequestError(403, "Pages of other sites may not use this server.")
        site = headers.get("sec-fetch-site", "none")
        is_link = scope["method"] == "GET" and headers.get("sec-fetch-mode") == "navigate"
        if site not in ("same-origin", "none") and not is_link:
            raise RequestError(403, "Pages of other sites may not use this server.")


def _too_large() -> RequestError:
    return RequestError(413, f"The body is too large: at most {MAX_BODY_BYTES:,} bytes are taken.")


def _limited(receive: Receive) -> Receive:
    """Return a ``receive`` that raises `RequestError` for a body over the limit."""
    received = 0

    async def limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > MAX_BODY_BYTES:
            raise _too_large()
        return message

    return limited

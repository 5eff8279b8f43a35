"""The application, and the server that runs it until Ctrl-C."""

from __future__ import annotations

import errno
import hashlib
import socket
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from mnist_cli.errors import MnistError, UsageError
from mnist_cli.web import views
from mnist_cli.web.connections import Connection
from mnist_cli.web.http import Endpoint, problem, status_of
from mnist_cli.web.security import Guard
from mnist_cli.web.state import State

STATIC = Path(__file__).with_name("static")
_TYPES = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".html": "text/html",
    ".svg": "image/svg+xml",
}
_SENTENCES = {
    404: "There is nothing at this address.",
    405: "This address does not take that method.",
}


def create_app(state: State, *, host: str = "127.0.0.1", token: str | None = None) -> ASGIApp:
    """Return the application: the page, its files and the API of its views."""
    app = Starlette(
        routes=[*_static_routes(), *views.ROUTES],
        exception_handlers={
            HTTPException: _http_problem,
            MnistError: _expected_problem,
            Exception: _unexpected_problem,
        },
    )
    app.router.redirect_slashes = False  # a redirect would lose the token
    app.state.mnist = state
    return Guard(app, host=host, token=token)


def _static_routes() -> list[Route]:
    """Return a route for each file of the page: read now, so that no request names a file."""
    routes = []
    for path in sorted(STATIC.iterdir()):
        address = "/" if path.name == "index.html" else f"/static/{path.name}"
        routes.append(Route(address, _file(path), methods=["GET"]))
    return routes


def _file(path: Path) -> Endpoint:
    content = path.read_bytes()
    etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    headers = {"cache-control": "no-cache", "etag": etag}

    async def send_file(request: Request) -> Response:
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=_TYPES[path.suffix], headers=headers)

    return send_file


async def _http_problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem(error.status_code, _SENTENCES.get(error.status_code, error.detail))


async def _expected_problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, MnistError)
    return problem(status_of(error), str(error))


async def _unexpected_problem(_: Request, error: Exception) -> Response:
    return problem(500, f"This is a defect of the program: {type(error).__name__}. Report it.")


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens at ``host``, on any free port if ``port`` is 0.

    Raises `UsageError` for a host that is none, `MnistError` if the port is in use.
    """
    if not 0 <= port <= 65_535:
        raise UsageError(f"--port should be from 0 (any free one) to 65535, not {port}.")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(512)
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", None)
        if number == errno.EADDRINUSE:
            raise MnistError(
                f"Port {port} of {host} is in use. Choose another with --port, or leave it out."
            ) from error
        if number == errno.EACCES:
            raise MnistError(
                f"Port {port} needs more rights. Choose one from 1024 on with --port."
            ) from error
        raise UsageError(
            f"--host should be an address of this machine, such as 127.0.0.1, not {host}."
        ) from error
    return listening


def address_of(listening: socket.socket, token: str | None = None) -> str:
    """Return the address to open in a browser on this machine."""
    host, port = listening.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{port}/" + (f"{token}/" if token else "")


def serve(app: ASGIApp, listening: socket.socket) -> None:
    """Serve until Ctrl-C, which raises `KeyboardInterrupt` here once all is closed."""
    config = uvicorn.Config(
        app,
        http=Connection,
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",  # an error is in its answer
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )
    uvicorn.Server(config).run(sockets=[listening])

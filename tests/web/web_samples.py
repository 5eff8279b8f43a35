"""Drawings, models and servers for the tests of the page."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from starlette.types import ASGIApp

from mnist_cli.arrays import Array
from mnist_cli.networks.spec import parameter_shapes
from mnist_cli.training import checkpoint
from mnist_cli.training.checkpoint import PRETRAINED
from mnist_cli.web.models import load_models
from mnist_cli.web.server import create_app
from mnist_cli.web.state import State

# The strokes of each digit as a hand draws them: points (x, y) in percent of the digit's square.
STROKES: tuple[tuple[tuple[tuple[int, int], ...], ...], ...] = (
    (((50, 10), (28, 22), (20, 50), (28, 78), (50, 90), (72, 78), (80, 50), (72, 22), (50, 10)),),
    (((50, 10), (50, 90)),),
    (((24, 30), (32, 14), (52, 10), (70, 20), (72, 36), (54, 58), (24, 88), (78, 88)),),
    (((26, 16), (50, 10), (70, 20), (66, 40), (46, 48), (70, 58), (74, 76), (52, 90), (26, 84)),),
    (((58, 10), (24, 60), (80, 60)), ((64, 36), (62, 92))),
    (((74, 12), (34, 12), (30, 46), (52, 42), (72, 54), (72, 76), (50, 90), (26, 84)),),
    (((64, 10), (40, 30), (28, 60), (36, 84), (56, 90), (72, 76), (66, 60), (46, 56), (30, 66)),),
    (((22, 14), (78, 14), (58, 48), (44, 90)),),
    (
        (
            *((68, 22), (50, 10), (32, 22), (38, 40), (62, 58), (70, 76), (50, 90)),
            *((30, 76), (38, 58), (62, 40), (68, 22)),
        ),
    ),
    (((70, 30), (54, 12), (34, 20), (32, 40), (50, 50), (68, 38), (71, 28), (68, 60), (58, 90)),),
)


def drawn(*digits: int, ink: int = 20, paper: int = 255) -> Array:
    """A page (280, 280 for each digit) uint8 with digits drawn side by side."""
    page = np.full((280, 280 * len(digits)), paper, np.uint8)
    for place, digit in enumerate(digits):
        for stroke in STROKES[digit]:
            points = np.array(stroke) * 1.8 + (50 + 280 * place, 50)
            cv2.polylines(page, [points.astype(np.int32)], False, ink, 15, cv2.LINE_AA)
    return page


def png(pixels: Array) -> bytes:
    """The pixels as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def save_model(folder: Path, name: str, *, framework: str = "numpy", shift: int = 0) -> Path:
    """Write the packaged model under a name; with a shift it takes each digit for another."""
    made = checkpoint.load(PRETRAINED)
    *_, weight, bias = parameter_shapes(made.spec)
    rolled = {key: np.roll(made.weights[key], shift, axis=0) for key in (weight, bias)}
    path = folder / f"{name}.safetensors"
    checkpoint.save(path, replace(made, framework=framework, weights={**made.weights, **rolled}))
    return path


def made_app(folder: Path, **options: Any) -> ASGIApp:
    """The application with the models of ``folder``/models, keeping in ``folder``/kept."""
    models = folder / "models"
    return create_app(State(load_models(models), models, folder / "kept"), **options)


@dataclass(frozen=True)
class Answer:
    """What an application answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The sentence of an error, which must be the whole answer."""
        assert self.status >= 400
        ((name, sentence),) = self.document.items()
        assert name == "error"
        assert "\n" not in sentence
        assert sentence.endswith((".", "}", "]")), sentence
        return str(sentence)


def ask(
    app: ASGIApp,
    method: str,
    path: str,
    headers: dict[str, str] | None = None,
    body: bytes = b"",
    *,
    parts: int = 1,
) -> Answer:
    """Send one request as it comes from the wire, in as many parts as wished; lets errors out."""
    given = {"host": "127.0.0.1:8000", "content-length": str(len(body)), **(headers or {})}
    path, _, query = path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("utf-8", "replace"),
        "query_string": query.encode("utf-8", "replace"),
        "root_path": "",
        "headers": [(k.lower().encode(), v.encode("latin-1", "replace")) for k, v in given.items()],
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 8000),
    }
    size = -(-len(body) // parts) or 1
    chunks = [body[start : start + size] for start in range(0, len(body), size)] or [b""]
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        if not chunks:
            return {"type": "http.disconnect"}
        chunk = chunks.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(chunks)}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return Answer(
        sent[0]["status"],
        {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]},
        b"".join(message.get("body", b"") for message in sent[1:]),
    )


def as_json(value: Any) -> dict[str, Any]:
    """Headers and body of a JSON request, as keywords of `ask`."""
    return {"headers": {"content-type": "application/json"}, "body": json.dumps(value).encode()}


@contextmanager
def running(*arguments: object, **environment: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run ``mnist draw`` on a free port; yield its address and its process, end it by Ctrl-C."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mnist_cli", "draw", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(20)
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()

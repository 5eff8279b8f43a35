"""5,000 requests of all kinds: each is answered, none by a failure of the server."""

from __future__ import annotations

import base64
import json
import random
from pathlib import Path
from typing import Any

import pytest
from web_samples import ask, drawn, made_app, png, save_model

from mnist_cli.web import views
from mnist_cli.web.server import STATIC

REQUESTS = 5_000
PICTURES = [png(drawn(3)[::2, ::2]), png(drawn(4, 7)[::4, ::4]), png(drawn(0)[::9, ::9])]
PATHS = [
    *("/", "/static/main.js", "/static/../x", "/%2e%2e/", "//", "/api", "/ü", "/a?b=c"),
    *(route.path for route in views.ROUTES),
    *["/api/keep"] * 3,  # which takes the fewest bodies
]
TYPES = ["image/png", "application/json", "application/json; charset=x", "text/html", "image/", ""]
WORDS = [
    "single",
    "rotate",
    "picture",
    "label",
    "model",
    "layer",
    "unit",
    "true",
    "auto",
    "\0",
    "ü",
]


def some_value(rng: random.Random, depth: int = 0) -> Any:
    """A JSON value that may be anything."""
    picture = base64.b64encode(rng.choice(PICTURES)).decode()
    simple = [
        *(None, True, False, 0, -1, 7, 1.5, 1e308, float("nan"), 10**40, "", "3", "../../x"),
        *(picture, picture[:-3], "data:image/png;base64," + picture, "data:,", "\ud800", "🙂"),
    ]
    if depth > 2 or rng.random() < 0.8:
        return rng.choice(simple)
    if rng.random() < 0.5:
        return [some_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(WORDS): some_value(rng, depth + 1) for _ in range(rng.randrange(4))}


def some_body(rng: random.Random) -> bytes:
    """A picture or JSON, whole or damaged, or noise."""
    kind = rng.randrange(5)
    if kind == 0:
        return rng.choice(PICTURES)
    if kind == 1:  # a damaged picture
        body = bytearray(rng.choice(PICTURES))
        for _ in range(rng.randrange(1, 20)):
            body[rng.randrange(len(body))] = rng.randrange(256)
        return bytes(body[: rng.randrange(len(body))] if rng.random() < 0.5 else body)
    if kind == 2:
        return rng.randbytes(rng.randrange(200))
    document = {word: some_value(rng) for word in rng.sample(WORDS, rng.randrange(len(WORDS)))}
    if rng.random() < 0.5:
        picture = base64.b64encode(rng.choice(PICTURES)).decode()
        document |= {"picture": picture, "label": rng.randrange(12), "rotate": 0, "single": True}
    body = json.dumps(document).encode()
    return body[: rng.randrange(len(body) + 1)] if kind == 3 else body


def some_headers(rng: random.Random) -> dict[str, str]:
    headers = {"content-type": rng.choice(TYPES)}
    odd = {
        "host": ["evil.example", "", "[::1", "localhost:x", "127.0.0.1:99999", "\xff"],
        "origin": ["null", "http://evil.example", "http://127.0.0.1:8000", "\xff"],
        "content-length": ["", "x", "-5", "99999999999", "3"],
        "sec-fetch-site": ["cross-site", "same-origin", "x"],
        "if-none-match": ["*", '"x"'],
        "range": ["bytes=0-3", "x"],
        "cookie": ["a=b" * 999],
    }
    for name, values in odd.items():
        if rng.random() < 0.05:
            headers[name] = rng.choice(values)
    return headers


@pytest.mark.parametrize("token", [None, "a-token"])
def test_no_request_makes_the_server_fail(
    tmp_path: Path, token: str | None, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models").mkdir()
    save_model(tmp_path / "models", "cnn")
    app = made_app(tmp_path, token=token)
    rng = random.Random(21)
    seen = set()
    for _ in range(REQUESTS // 2):
        method = rng.choice(
            ["GET", "POST", "POST", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "X"]
        )
        path = rng.choice(PATHS)
        if rng.random() < 0.3:
            path += (
                f"?{rng.choice(WORDS)}={rng.choice(WORDS)}&rotate={rng.choice(['0', '90', 'x'])}"
            )
        if token and rng.random() < 0.9:
            path = f"/{token}{path}"
        answer = ask(
            app, method, path, some_headers(rng), some_body(rng), parts=rng.randrange(1, 4)
        )
        assert answer.status < 500, (method, path, answer)
        if answer.status >= 400:
            assert method == "HEAD" or answer.document["error"]
        assert b"Traceback" not in answer.body
        assert answer.headers["x-content-type-options"] == "nosniff"
        seen.add(answer.status)
    assert seen >= {200, 201, 400, 403, 404, 405, 413, 415, 422}  # it went everywhere
    assert capfd.readouterr().err == ""
    written = {path.parent.name for path in (tmp_path / "kept").rglob("*.png")}
    assert written <= {str(digit) for digit in range(10)}
    assert {path.name for path in tmp_path.iterdir()} == {"models", "kept"}
    assert len(list(STATIC.iterdir())) > 5

"""Who may use the page and its API: other sites, other names, tokens, paths."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from starlette.types import ASGIApp
from web_samples import Answer, ask, drawn, made_app, png

from mnist_cli.web.server import STATIC

TOKEN = "a-token-of-a-test"
PNG = {"content-type": "image/png"}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> ASGIApp:
    return made_app(tmp_path_factory.mktemp("security"))


@pytest.fixture(scope="module")
def open_app(tmp_path_factory: pytest.TempPathFactory) -> ASGIApp:
    """The application of a server that listens to the whole network."""
    return made_app(tmp_path_factory.mktemp("security"), host="0.0.0.0", token=TOKEN)


def page(app: ASGIApp, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return ask(app, "GET", "/", named)


def test_the_page_and_each_of_its_files_are_served_with_a_strict_policy(app: ASGIApp) -> None:
    for path in STATIC.iterdir():
        address = "/" if path.name == "index.html" else f"/static/{path.name}"
        answer = ask(app, "GET", address)
        assert answer.status == 200
        assert answer.body == path.read_bytes()
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert not [name for name in answer.headers if name.startswith("access-control")]
        known = {"if-none-match": answer.headers["etag"]}
        assert ask(app, "GET", address, known).status == 304


def test_the_page_has_no_inline_script_or_style() -> None:
    html = (STATIC / "index.html").read_text()
    assert html.count("<script") == html.count('<script type="module" src=') == 1
    assert "<style" not in html
    assert " style=" not in html
    assert " on" not in html.replace(" on it", "")


@pytest.mark.parametrize(
    "name", ["127.0.0.1:8000", "localhost", "LocalHost:1", "[::1]:80", "[::1]"]
)
def test_names_of_this_machine_are_served(app: ASGIApp, name: str) -> None:
    assert page(app, host=name).status == 200


@pytest.mark.parametrize(
    "name",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:80",
        "192.168.1.7",
        "",
        "[",
        ":",
    ],
)
def test_other_names_are_refused_as_dns_rebinding_would_use_them(app: ASGIApp, name: str) -> None:
    answer = page(app, host=name)
    assert answer.status == 403
    assert "Host" in answer.error


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://127.0.0.1:8000"}, 200),
        ({"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"}, 200),
        ({"origin": "http://127.0.0.1:9000"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "none"}, 200),
    ],
)
def test_pages_of_other_sites_are_refused(
    app: ASGIApp, headers: dict[str, str], status: int
) -> None:
    answer = ask(app, "POST", "/api/predict", {**PNG, **headers}, png(drawn(3)))
    assert answer.status == status
    assert status == 200 or "other sites" in answer.error


def test_a_link_from_another_site_opens_the_page(app: ASGIApp) -> None:
    assert page(app, sec_fetch_site="cross-site", sec_fetch_mode="navigate").status == 200
    assert page(app, sec_fetch_site="cross-site", sec_fetch_mode="no-cors").status == 403


def test_there_is_no_cors(app: ASGIApp) -> None:
    asked = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    answer = ask(app, "OPTIONS", "/api/predict", asked)
    assert answer.status == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "path", ["/", "/static/main.js", "/api/models", "/x", f"/{TOKEN}", f"/{TOKEN}x/", "//", "/ü/"]
)
def test_beyond_this_machine_every_path_needs_the_token(open_app: ASGIApp, path: str) -> None:
    answer = ask(open_app, "GET", path)
    assert answer.status == 403
    assert "token" in answer.error


def test_with_the_token_the_page_is_served(open_app: ASGIApp) -> None:
    for name in ("192.168.1.7:8000", socket.gethostname(), "localhost"):
        assert ask(open_app, "GET", f"/{TOKEN}/", {"host": name}).status == 200
    assert ask(open_app, "GET", f"/{TOKEN}/api/models").status == 200
    assert ask(open_app, "GET", f"/{TOKEN}/", {"host": "evil.example"}).status == 403


@pytest.mark.parametrize(
    "path",
    [
        "/static/../server.py",
        "/static/..%2fserver.py",
        "/static/%2e%2e/server.py",
        "/static/....//server.py",
        "/static//etc/passwd",
        "/static/main.js/",
        "/static/main.js\0.html",
        "/static/C:\\Windows\\win.ini",
        "/static/..\\server.py",
        "/static/",
        "/../../../../etc/passwd",
        "/static/index.html",
        "/api/models/../keep",
        "/models/pretrained.safetensors",
    ],
)
def test_no_path_leads_to_a_file(app: ASGIApp, path: str) -> None:
    answer = ask(app, "GET", path)
    assert answer.status == 404
    assert answer.error == "There is nothing at this address."


@pytest.mark.parametrize("length", ["-1", "1e3", "ten", "", "9" * 40, "\u0661\u0662"])
def test_a_length_is_a_number_within_the_limit(app: ASGIApp, length: str) -> None:
    answer = ask(app, "POST", "/api/predict", {**PNG, "content-length": length}, b"x")
    assert answer.status == (413 if length.startswith("9") else 400)
    assert answer.error


def test_static_files_are_all_of_a_kind_that_is_known() -> None:
    assert {path.suffix for path in Path(STATIC).iterdir()} <= {".html", ".css", ".js", ".svg"}

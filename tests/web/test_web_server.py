"""`mnist draw` as a process: it starts, says what is wrong in a line, and ends by Ctrl-C."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import stat
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import uvicorn
from outcomes import Outcome
from web_samples import drawn, png, running, save_model

from mnist_cli.web import connections
from mnist_cli.web.server import listen, serve

Mnist = Callable[..., Outcome]
SLOW = 1_000


def get(address: str, body: bytes | None = None) -> bytes:
    request = urllib.request.Request(address, body, {"Content-Type": "image/png"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return bytes(answer.read())


def test_it_serves_all_models_but_a_broken_one_until_ctrl_c(tmp_path: Path) -> None:
    save_model(tmp_path, "torch-cnn", framework="torch")
    (tmp_path / "broken.safetensors").write_text("no model")
    with running("--no-browser", "--models-dir", tmp_path) as (address, process):
        assert address.startswith("http://127.0.0.1:")
        assert b"<title>mnist draw</title>" in get(address)
        answer = json.loads(get(f"{address}api/predict", png(drawn(7))))
        assert [each["text"] for each in answer["models"]] == ["7"]
        process.send_signal(2)
        assert process.wait(10) == 130
        assert process.stderr is not None
        broken, ready, end = process.stderr.read().splitlines()
    assert broken.startswith("broken.safetensors is left out: ")
    assert ready == "1 model answers. Ctrl-C ends the server."
    assert end == "Interrupted."


def test_it_loads_no_framework() -> None:
    script = """
import sys
from pathlib import Path
from mnist_cli.web import server, state, models
server.create_app(state.State(models.load_models(Path("nowhere")), Path("x"), Path("y")))
heavy = {"torch", "tensorflow", "jax", "sklearn", "scipy", "matplotlib"} & set(sys.modules)
sys.exit(f"loaded: {heavy}" if heavy else 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_other_commands_load_no_server(tmp_path: Path) -> None:
    (tmp_path / "7.png").write_bytes(png(drawn(7)))
    script = """
import sys
from mnist_cli.cli import app
sys.argv = ["mnist", "predict", sys.argv[1]]
try:
    app.main()
except SystemExit as end:
    code = end.code
heavy = {"starlette", "uvicorn", "asyncio"} & set(sys.modules)
sys.exit(f"loaded: {heavy}" if heavy else code)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "7.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_port_in_use_is_told(mnist: Mnist) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        outcome = mnist("draw", "--no-browser", "--port", port)
    assert outcome.exit_code == 1
    assert outcome.stdout == ""
    assert outcome.stderr == (
        f"Error: Port {port} of 127.0.0.1 is in use. Choose another with --port, or leave it out.\n"
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--port", "70000"), "--port should be from 0"),
        (("--port", "-1"), "--port should be from 0"),
        (("--host", "192.0.2.1"), "--host should be an address of this machine"),
        (("--host", "no such host"), "--host should be an address of this machine"),
        (("--host", "x" * 300), "--host should be an address of this machine"),
        (("--models-dir", "nowhere"), "--models-dir should be a folder"),
    ],
)
def test_wrong_usage_is_one_line(mnist: Mnist, arguments: tuple[str, ...], says: str) -> None:
    outcome = mnist("draw", "--no-browser", *arguments)
    assert outcome.exit_code == 2
    (line,) = outcome.stderr.splitlines()
    assert says in line


def test_it_opens_a_browser(tmp_path: Path) -> None:
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened\n')
    browser.chmod(browser.stat().st_mode | stat.S_IEXEC)
    with running(BROWSER=f"{browser} %s") as (address, _):
        opened = tmp_path / "opened"
        for _ in range(200):
            if opened.exists() and opened.read_text():
                break
            time.sleep(0.05)
        assert opened.read_text().strip() == address


def test_without_a_browser_it_says_so_and_serves(tmp_path: Path) -> None:
    with running(DISPLAY="", WAYLAND_DISPLAY="", BROWSER="") as (address, process):
        assert get(address)
        process.send_signal(2)
        process.wait(10)
        assert process.stderr is not None
        assert "No browser was found: open the address above in one." in process.stderr.read()


def test_beyond_this_machine_the_address_has_a_token() -> None:
    with running("--no-browser", "--host", "0.0.0.0") as (address, _):
        token = urlsplit(address).path.strip("/")
        assert len(token) >= 20
        assert get(address)
        with pytest.raises(urllib.error.HTTPError, match="403"):
            get(address.replace(token, ""))


def test_a_thousand_slow_connections_take_nothing_down(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4_096), hard))
    try:
        with ExitStack() as stack:
            address, process = stack.enter_context(running("--no-browser"))
            place = (str(urlsplit(address).hostname), int(urlsplit(address).port or 0))
            for number in range(SLOW):
                slow = stack.enter_context(socket.create_connection(place, timeout=20))
                if number % 2:
                    slow.sendall(b"POST /api/predict HTTP/1.1\r\nHost: localhost\r\nContent-Le")
            answer = json.loads(get(f"{address}api/predict", png(drawn(7))))
            assert answer["models"][0]["text"] == "7"
            assert process.poll() is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def serving_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    """Serve an application that reads the body and answers; end it afterwards."""

    async def app(_: object, receive: Callable, send: Callable) -> None:  # type: ignore[type-arg]
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(0.6)  # longer than a request may take to arrive
        await send({"type": "http.response.body", "body": b"done"})

    made: list[uvicorn.Server] = []
    usual = uvicorn.Server.__init__

    def remember(self: uvicorn.Server, config: uvicorn.Config) -> None:
        made.append(self)
        usual(self, config)

    monkeypatch.setattr(uvicorn.Server, "__init__", remember)
    listening = listen("127.0.0.1", 0)
    thread = threading.Thread(target=serve, args=(app, listening))
    thread.start()
    try:
        yield listening.getsockname()
    finally:
        made[0].should_exit = True
        thread.join(10)
        assert not thread.is_alive()


HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"


@pytest.mark.parametrize("sent", [b"", b"POST / HT", HEAD, HEAD + b"123"])
def test_a_request_that_does_not_arrive_is_cut_off(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.3)
    with (
        serving_in_a_thread(monkeypatch) as place,
        socket.create_connection(place, timeout=10) as slow,
    ):
        slow.sendall(sent)
        with suppress(ConnectionResetError):  # the other way to see that it was cut off
            assert slow.recv(100) == b""


def test_a_slow_answer_is_not_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.3)
    with (
        serving_in_a_thread(monkeypatch) as place,
        socket.create_connection(place, timeout=10) as patient,
    ):
        patient.sendall(HEAD + b"123456789")
        seen = b""
        while b"done" not in seen:
            part = patient.recv(1_000)
            assert part, seen
            seen += part

"""What all tests share: a fake framework, small data, and the command line as a function."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from idx_files import write_dataset
from outcomes import Outcome

from mnist_cli.cli import app
from mnist_cli.scratch.engine.worker_group import can_fork

FAKE_FRAMEWORK = Path(__file__).parent / "fake_framework"


@pytest.fixture(scope="session", autouse=True)
def fake_framework(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let this process and its children find the entry point of the fake framework."""
    sys.path.append(str(FAKE_FRAMEWORK))
    paths = [str(FAKE_FRAMEWORK), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    # Two workers of tests share the cores: threads of PyTorch that wait must not take them.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # JAX compiles a program once, not in each classifier: half of the time of its tests.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path_factory.mktemp("jax"))
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"


@pytest.fixture(params=["processes", "threads"])
def worker_kinds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run with workers of the NumPy network that are processes, and with threads."""
    if request.param == "threads":
        monkeypatch.setattr("mnist_cli.scratch.engine.worker_group.can_fork", lambda: False)
        monkeypatch.setattr("mnist_cli.scratch.engine.network.can_fork", lambda: False)
    elif not can_fork():
        pytest.skip("workers are threads here")
    return str(request.param)


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 480 training and 100 test digits of MNIST: 440 to train, 40 to validate."""
    return write_dataset(tmp_path_factory.mktemp("data"), train=480, test=100)


@pytest.fixture
def on_terminal() -> Callable[..., bytes]:
    """Run ``mnist`` with arguments on a terminal of its own; return all that it wrote there."""

    def run(*arguments: object) -> bytes:
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "mnist_cli", *map(str, arguments)],
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "200"},
        )
        os.close(theirs)
        seen = b""
        try:
            while chunk := os.read(ours, 65_536):
                seen += chunk
        except OSError:  # Linux' way of saying that the other end is closed
            pass
        process.wait()
        os.close(ours)
        return seen

    return run


@pytest.fixture
def mnist(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Run ``mnist`` with arguments in this process; its workers are processes of their own."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["mnist", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_info:
            app.main()
        captured = capfd.readouterr()
        return Outcome(int(exit_info.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the last drawing of a figure put on it, a `chart_checks.Drawn`."""
    from chart_checks import watch_drawing  # imports Matplotlib

    return watch_drawing(monkeypatch)

"""What all tests share: a fake framework, small data, and the command line as a function."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from idx_files import write_dataset

from mnist_cli import cli

FAKE_FRAMEWORK = Path(__file__).parent / "fake_framework"


@pytest.fixture(scope="session", autouse=True)
def fake_framework() -> None:
    """Let this process and its children find the entry point of the fake framework."""
    sys.path.append(str(FAKE_FRAMEWORK))
    paths = [str(FAKE_FRAMEWORK), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 480 training and 100 test digits of MNIST: 440 to train, 40 to validate."""
    return write_dataset(tmp_path_factory.mktemp("data"), train=480, test=100)


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code and what it said."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Any:
        """Standard output as the one JSON document it must be."""
        return json.loads(self.stdout)


@pytest.fixture
def mnist(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Run ``mnist`` with arguments in this process; its workers are processes of their own."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["mnist", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_info:
            cli.main()
        captured = capfd.readouterr()
        return Outcome(int(exit_info.value.code or 0), captured.out, captured.err)

    return run

"""The screen of runs that are at work at the same time."""

from __future__ import annotations

import io
from typing import Any

import pytest
from made_records import make_record
from rich.console import Console

from mnist_cli.reporting import console
from mnist_cli.reporting.console import TrainingProgress

STEP = {"event": "step", "step": 30, "total_steps": 60, "epoch": 1, "loss": 0.5}


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is written to a terminal of 100 columns."""
    text = io.StringIO()
    terminal = Console(file=text, force_terminal=True, width=100, color_system=None)
    monkeypatch.setattr(console, "stderr", lambda: terminal)
    return text


def _at_work(progress: TrainingProgress, run: int, node: str, **step: Any) -> None:
    progress.start_run(f"NumPy MLP seed {run} on {node}", run=run)
    progress.on_event(STEP | {"images_per_second": 1234.0} | step, run=run)


def test_each_run_at_work_has_a_line_with_node_epoch_and_speed(screen: io.StringIO) -> None:
    with TrainingProgress([1, 1, 2]) as progress:
        _at_work(progress, 0, "n1")
        _at_work(progress, 2, "n2", epoch=7)
        progress._progress.refresh()
        shown = screen.getvalue()
    for each in ("MLP seed 0 on n1", "MLP seed 2 on n2", "epoch 7", "1,234 images/s", "left"):
        assert each in shown
    assert "0 of 3 finished, 2 at work" in shown
    # Half of the first run and half of the third, which counts twice: 1.5 of 4.
    assert " 38%" in shown


def test_runs_end_in_any_order_and_leave_a_line_each(screen: io.StringIO) -> None:
    with TrainingProgress([1, 1]) as progress:
        _at_work(progress, 0, "n1")
        _at_work(progress, 1, "n2")
        progress.finish_run(make_record("numpy", "mlp", seed=1), run=1)
        progress.finish_run(failure="out of memory", run=0)
        assert progress._bars == {}
    lines = [line.strip() for line in screen.getvalue().splitlines()]
    assert any("seed 1 on n2" in line and "test " in line for line in lines)
    assert any("failed NumPy MLP seed 0 on n1: out of memory" in line for line in lines)


def test_a_run_that_is_begun_again_keeps_its_line(screen: io.StringIO) -> None:
    with TrainingProgress([1, 1]) as progress:
        _at_work(progress, 0, "n1")
        progress.start_run("NumPy MLP seed 0 on n2", run=0)
        assert len(progress._bars) == 1
        assert progress._labels == {0: "NumPy MLP seed 0 on n2"}

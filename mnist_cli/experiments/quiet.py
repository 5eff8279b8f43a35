"""Runs on a quiet machine: wait until others take little of it, repeat a run they disturbed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from mnist_cli.conditions import DISTURBING_SHARE, observe
from mnist_cli.machine import gpu_state
from mnist_cli.records import RunRecord

if TYPE_CHECKING:
    from mnist_cli.experiments.run import Observer

LIMIT_SECONDS = 300.0  # of waiting before a run
_WINDOW_SECONDS = 3.0


def run_quietly(
    execute: Callable[[], RunRecord], observer: Observer, *, uses_gpu: bool
) -> RunRecord:
    """Return what ``execute`` returns: started in a quiet moment, and once more if disturbed.

    The repeated run counts, whatever its figures.
    """
    _wait(observer, uses_gpu=uses_gpu)
    record = execute()
    if record.conditions and record.conditions.is_disturbed:
        share = f"{record.conditions.taken_share:.0%}"
        observer.note(f"Others took {share} of the cores during this run; it is repeated once.")
        _wait(observer, uses_gpu=uses_gpu)
        record = execute()
    return record


def _wait(observer: Observer, *, uses_gpu: bool) -> None:
    """Wait until others take no more than `DISTURBING_SHARE`, but at most `LIMIT_SECONDS`."""
    minutes = f"{LIMIT_SECONDS / 60:g} minutes"
    began = time.monotonic()
    is_told = False
    while (taken := _taken_share(uses_gpu=uses_gpu)) > DISTURBING_SHARE:
        if not is_told:
            text = f"Others take {taken:.0%} of the machine: waiting for a quiet moment"
            observer.note(f"{text}, up to {minutes}.")
            is_told = True
        if time.monotonic() - began >= LIMIT_SECONDS:
            observer.note(f"No quiet moment in {minutes}; going on.")
            return
        observer.on_event(
            {"event": "phase", "name": f"waiting until quiet, others take {taken:.0%}"}
        )


def _taken_share(*, uses_gpu: bool) -> float:
    """Return which part of the cores or the GPU, whichever is more, others take at this moment."""
    on_gpu = (gpu_state() or {}).get("busy_share", 0.0) if uses_gpu else 0.0
    return max(observe(_WINDOW_SECONDS).taken_share, on_gpu)

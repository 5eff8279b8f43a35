"""Wait for what other processes do."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import psutil


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline, f"not within 30 s: {what}"
        time.sleep(0.05)


def job_processes() -> list[psutil.Process]:
    """The processes of jobs on the nodes of this cluster, also without a parent."""
    ours = os.environ["XDG_CACHE_HOME"]
    return [
        each
        for each in psutil.process_iter(["cmdline", "environ"])
        if "mnist_cli.runners.process" in (each.info["cmdline"] or [])
        and (each.info["environ"] or {}).get("XDG_CACHE_HOME") == ours
    ]

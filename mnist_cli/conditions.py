"""What the machine did while a run was measured: others' load, steal, clock, throttling, GPU.

Counters of the system are read before and after, so that measuring costs a run nothing.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mnist_cli.machine import gpu_state, limiting_group

# From this share of the cores on, what others take is told and a run is called disturbed.
DISTURBING_SHARE = 0.05
# The system counts in hundredths of a second: over less time, a share of 5% says little.
_MIN_SECONDS = 0.5


@dataclass(frozen=True)
class Conditions:
    """What the machine did in the ``seconds`` of a run. None is what the system does not tell.

    ``others_share`` (0-1) is the part of the cores' time that other processes took, and
    ``steal_share`` the part that the host of a virtual machine gave to others. ``clock_mhz`` is the
    mean over the cores, at the end. In ``throttled_periods`` of ``quota_periods`` the CPU quota was
    used up, and the run stopped for ``throttled_seconds``, summed over its threads. The rest is of
    the GPU, at the end, and None for a run on a CPU; ``gpu_others`` is the number of other
    processes on it.
    """

    seconds: float
    others_share: float | None = None
    steal_share: float | None = None
    clock_mhz: float | None = None
    quota_periods: int | None = None
    throttled_periods: int | None = None
    throttled_seconds: float | None = None
    gpu_clock_mhz: float | None = None
    gpu_max_clock_mhz: float | None = None
    gpu_others: int | None = None

    @property
    def taken_share(self) -> float:
        """The part of the cores' time that others took, on this machine or its host."""
        return (self.others_share or 0.0) + (self.steal_share or 0.0)

    @property
    def is_disturbed(self) -> bool:
        """Whether others took more than `DISTURBING_SHARE`."""
        return self.taken_share > DISTURBING_SHARE


@dataclass(frozen=True)
class Counters:
    """The system's counters at one moment, in seconds: sums over the cores of this process.

    ``counted_seconds`` are all that the system counts, idle ones included. ``own_seconds`` are
    those of this process and its children, living or finished; ``throttling`` has the three figures
    of its quota that `Conditions` has, since the group was made.
    """

    clock_seconds: float
    cores: int
    counted_seconds: float
    idle_seconds: float
    steal_seconds: float
    own_seconds: float
    throttling: dict[str, Any]


def read_counters() -> Counters:
    """Return the counters of this moment."""
    import psutil  # `mnist predict` does without

    cores = psutil.cpu_times(percpu=True)
    if hasattr(os, "sched_getaffinity"):
        allowed = os.sched_getaffinity(0)
        if max(allowed) < len(cores):  # else some are offline, and the list is numbered otherwise
            cores = [cores[number] for number in allowed]
    return Counters(
        clock_seconds=time.monotonic(),
        cores=len(cores),
        counted_seconds=sum(map(sum, cores)),
        # Not the busy ones, which Linux only samples: it measures how long a core is idle.
        idle_seconds=sum(core.idle + getattr(core, "iowait", 0.0) for core in cores),
        steal_seconds=sum(getattr(core, "steal", 0.0) for core in cores),
        own_seconds=_own_seconds(),
        throttling=_throttling(),
    )


def conditions_since(before: Counters, *, on_gpu: bool = False) -> Conditions:
    """Return what the machine has done since ``before``."""
    after = read_counters()
    seconds = after.clock_seconds - before.clock_seconds
    all_seconds = seconds * after.cores
    shares: dict[str, Any] = {}
    # Some sandboxes count nothing.
    if seconds >= _MIN_SECONDS and after.counted_seconds > before.counted_seconds:
        idle = after.idle_seconds - before.idle_seconds
        steal = after.steal_seconds - before.steal_seconds
        own = after.own_seconds - before.own_seconds
        for name, taken in (
            ("others_share", all_seconds - idle - steal - own),
            ("steal_share", steal),
        ):
            shares[name] = min(max(taken / all_seconds, 0.0), 1.0)
    throttling = {
        name: after.throttling[name] - figure
        for name, figure in before.throttling.items()
        if name in after.throttling
    }
    gpu = (gpu_state() if on_gpu else None) or {}
    processes = gpu.get("processes")
    return Conditions(
        seconds=seconds,
        **shares,
        **throttling,
        clock_mhz=_clock_mhz(),
        gpu_clock_mhz=gpu.get("clock_mhz"),
        gpu_max_clock_mhz=gpu.get("max_clock_mhz"),
        # One of them is this one; a container may see none.
        gpu_others=int(processes) - 1 if processes else None,
    )


def observe(seconds: float = _MIN_SECONDS) -> Conditions:
    """Wait for so long and return what the machine did meanwhile."""
    before = read_counters()
    time.sleep(seconds)
    return conditions_since(before)


def _own_seconds() -> float:
    """Return the processor seconds of this process and its children, such as NumPy's workers."""
    import psutil

    finished = sum(os.times()[2:4])
    living = 0.0
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has ended meanwhile
            living += sum(child.cpu_times()[:4])  # its own, and of its finished children
    return time.process_time() + finished + living


def _throttling() -> dict[str, Any]:
    """Return the figures of the quota so far, or nothing if there is none."""
    limiting = limiting_group()
    if limiting is None:
        return {}
    try:
        text = (limiting[0] / "cpu.stat").read_text()
    except OSError:
        return {}
    figures = {name: int(value) for name, value in map(str.split, text.splitlines())}
    # Version 2 counts microseconds, version 1 nanoseconds.
    seconds = figures.get("throttled_usec", 0) / 1e6 or figures.get("throttled_time", 0) / 1e9
    return {
        "quota_periods": figures.get("nr_periods", 0),
        "throttled_periods": figures.get("nr_throttled", 0),
        "throttled_seconds": seconds,
    }


def _clock_mhz() -> float | None:
    import psutil

    with suppress(AttributeError, NotImplementedError, OSError, RuntimeError):
        return getattr(psutil.cpu_freq(), "current", None) or None
    return None

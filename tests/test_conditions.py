"""What the machine did during a run, from counters before and after it."""

from __future__ import annotations

import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mnist_cli import conditions
from mnist_cli.conditions import Conditions, Counters


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Conditions]:
    """Return the conditions of ten seconds on two cores in which the counters rose so far.

    By default the run takes all 20 seconds of the two.
    """

    def counted(*, on_gpu: bool = False, **rises: Any) -> Conditions:
        start = {"clock_seconds": 1000.0, "counted_seconds": 2000.0, "idle_seconds": 1500.0}
        start |= {"steal_seconds": 7.0, "own_seconds": 3.0}
        rises = {"clock_seconds": 10.0, "counted_seconds": 20.0, "own_seconds": 20.0} | rises
        throttling = rises.get("throttling", ({}, {}))  # before and after
        before = Counters(cores=2, **start, throttling=throttling[0])
        end = {name: figure + rises.get(name, 0.0) for name, figure in start.items()}
        after = Counters(cores=2, **end, throttling=throttling[1])
        monkeypatch.setattr(conditions, "read_counters", lambda: after)
        return conditions.conditions_since(before, on_gpu=on_gpu)

    return counted


def test_a_machine_of_ones_own_has_no_others(counted: Callable[..., Conditions]) -> None:
    seen = counted(idle_seconds=5.0, own_seconds=15.0)
    assert (seen.seconds, seen.others_share, seen.steal_share) == (10.0, 0.0, 0.0)
    assert not seen.is_disturbed


def test_what_is_busy_and_not_the_run_is_others(counted: Callable[..., Conditions]) -> None:
    # Of 20 seconds 2 are idle and 12 the run's: 6 are others'.
    seen = counted(idle_seconds=2.0, own_seconds=12.0)
    assert seen.others_share == pytest.approx(0.3)
    assert seen.is_disturbed


def test_what_the_host_takes_away_disturbs_as_others_do(counted: Callable[..., Conditions]) -> None:
    seen = counted(idle_seconds=0.8, own_seconds=18.0, steal_seconds=0.8)
    assert seen.others_share == pytest.approx(0.02)
    assert seen.steal_share == pytest.approx(0.04)
    assert seen.is_disturbed  # 6% together
    assert not counted(idle_seconds=1.2, own_seconds=18.0, steal_seconds=0.4).is_disturbed


def test_what_a_living_child_takes_is_the_runs_own() -> None:
    # Such as NumPy's workers, which live on after the last epoch.
    work = "import time\nwhile time.process_time() < 0.5: pass\nprint('done', flush=True); input()"
    before = conditions.read_counters().own_seconds
    child = subprocess.Popen(
        [sys.executable, "-c", work], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "done\n"
        living = conditions.read_counters().own_seconds - before
        child.communicate("\n")
    finished = conditions.read_counters().own_seconds - before
    assert living >= 0.48  # the system counts in hundredths, user and system time apart
    assert finished >= living - 0.02


def test_counters_that_disagree_a_little_give_no_negative_share(
    counted: Callable[..., Conditions],
) -> None:
    assert counted(idle_seconds=0.1, own_seconds=20.1).others_share == 0.0


def test_shares_of_less_than_half_a_second_are_not_told(counted: Callable[..., Conditions]) -> None:
    seen = counted(clock_seconds=0.4, counted_seconds=0.8, own_seconds=0.2)
    assert seen.others_share is seen.steal_share is None
    assert not seen.is_disturbed


def test_a_system_that_counts_nothing_tells_no_shares(counted: Callable[..., Conditions]) -> None:
    assert counted(counted_seconds=0.0).others_share is None


def test_throttling_is_that_of_the_run(counted: Callable[..., Conditions]) -> None:
    names = ("quota_periods", "throttled_periods", "throttled_seconds")
    before, after = (
        dict(zip(names, figures, strict=True)) for figures in ((100, 10, 2.0), (200, 35, 4.5))
    )
    seen = counted(throttling=(before, after))
    assert tuple(getattr(seen, name) for name in names) == (100, 25, 2.5)
    unlimited = counted()
    assert all(getattr(unlimited, name) is None for name in names)


@pytest.mark.parametrize("line", ["throttled_usec 2500000", "throttled_time 2500000000"])
def test_throttling_is_read_in_both_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    (tmp_path / "cpu.stat").write_text(f"nr_periods 40\nnr_throttled 8\n{line}\n")
    monkeypatch.setattr(conditions, "limiting_group", lambda: (tmp_path, 1.5))
    expected = {"quota_periods": 40, "throttled_periods": 8, "throttled_seconds": 2.5}
    assert conditions.read_counters().throttling == expected
    (tmp_path / "cpu.stat").unlink()
    assert conditions.read_counters().throttling == {}


@pytest.mark.parametrize(("processes", "others"), [(1.0, 0), (3.0, 2), (0.0, None)])
def test_a_run_on_a_gpu_tells_its_clocks_and_others_on_it(
    counted: Callable[..., Conditions],
    monkeypatch: pytest.MonkeyPatch,
    processes: float,
    others: int | None,
) -> None:
    state = {"clock_mhz": 1410.0, "max_clock_mhz": 1980.0, "processes": processes}
    monkeypatch.setattr(conditions, "gpu_state", lambda: state)
    seen = counted(on_gpu=True)
    assert (seen.gpu_clock_mhz, seen.gpu_max_clock_mhz, seen.gpu_others) == (1410, 1980, others)
    assert counted().gpu_clock_mhz is None  # a run on a CPU asks no driver


def test_only_the_cores_of_the_process_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    core = namedtuple("core", "user system idle iowait steal")
    cores = [core(10.0 * number, 1.0, 5.0, 2.0, 0.5 * number) for number in range(4)]
    monkeypatch.setattr("psutil.cpu_times", lambda percpu: cores)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {1, 3}, raising=False)
    counters = conditions.read_counters()
    assert (counters.cores, counters.idle_seconds, counters.steal_seconds) == (2, 14.0, 2.0)
    assert counters.counted_seconds == 10 + 30 + 2 * 8 + 2
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {1, 9}, raising=False)
    assert conditions.read_counters().cores == 4  # some are offline: which is which is not told


def test_the_clock_is_left_out_where_the_system_does_not_tell(
    counted: Callable[..., Conditions], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psutil.cpu_freq", lambda: SimpleNamespace(current=2600.0))
    assert counted().clock_mhz == 2600
    monkeypatch.setattr("psutil.cpu_freq", lambda: None)
    assert counted().clock_mhz is None

    def fail() -> None:
        raise FileNotFoundError

    monkeypatch.setattr("psutil.cpu_freq", fail)
    assert counted().clock_mhz is None


def test_a_processs_own_work_is_that_of_its_finished_children_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(conditions.time, "process_time", lambda: 3.0)
    # User and system time of the process and of its children, and the time of day.
    monkeypatch.setattr("os.times", lambda: (1.0, 2.0, 30.0, 40.0, 999.0))
    assert conditions.read_counters().own_seconds == 73


def test_predict_and_help_do_without_psutil() -> None:
    code = (
        "import sys; from mnist_cli import prediction, records\n"
        "from mnist_cli.api.arguments import checked_threads; checked_threads(None)\n"
        "from mnist_cli.cli import app\n"
        "print('psutil' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_observing_waits_and_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(conditions.time, "sleep", slept.append)
    assert isinstance(conditions.observe(2.0), Conditions)
    assert slept == [2.0]

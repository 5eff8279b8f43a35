"""A job's process: what it runs under, how it ends, and what is said when it ends badly.

A shell script stands in for the worker where a real one would have to break in a certain way.
"""

from __future__ import annotations

import io
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.errors import FrameworkError, MnistError, UsageError
from mnist_cli.runners import process
from mnist_cli.runners.base import EvaluateJob, Job, PredictJob, TrainJob

on_linux = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
Processes = list["subprocess.Popen[str]"]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Processes:
    """The processes that the runner starts, in order."""
    processes: Processes = []
    popen = subprocess.Popen

    def start(*arguments: Any, **options: Any) -> Any:
        processes.append(popen(*arguments, **options))
        return processes[-1]

    monkeypatch.setattr(process.subprocess, "Popen", start)
    return processes


@pytest.fixture
def job(small_data: Path) -> TrainJob:
    config = TrainConfig(epochs=1, batch_size=20)
    return TrainJob("fake", ModelSpec("mlp"), config, threads=3, dataset=str(small_data))


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let a shell script be the worker."""

    def stand_in(script: str) -> None:
        path = tmp_path / "worker"
        path.write_text(f"#!/bin/sh\nread job\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(process.sys, "executable", str(path))

    return stand_in


def _ignore(event: dict[str, Any]) -> None:
    pass


# --- The environment ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("OMP_NUM_THREADS", "3"),
        ("MKL_NUM_THREADS", "3"),
        ("OPENBLAS_NUM_THREADS", "1"),
        ("KERAS_BACKEND", "tensorflow"),
        ("TF_ENABLE_ONEDNN_OPTS", "1"),
        ("PYTHONSAFEPATH", "1"),
    ],
)
def test_a_users_variables_do_not_change_what_is_measured(
    monkeypatch: pytest.MonkeyPatch, name: str, expected: str
) -> None:
    monkeypatch.setenv(name, "7")
    assert process.process_environment(3)[name] == expected


def test_other_variables_of_the_user_reach_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert process.process_environment(3)["CUDA_VISIBLE_DEVICES"] == "1"


@on_linux
def test_a_worker_is_started_with_its_environment(job: TrainJob, started: Processes) -> None:
    seen: dict[str, str] = {}

    def look(event: dict[str, Any]) -> None:
        content = Path(f"/proc/{started[0].pid}/environ").read_text().split("\0")
        seen.update(line.split("=", 1) for line in content if "=" in line)

    process.run(job, look)
    expected = process.process_environment(3)
    assert {name: seen.get(name) for name in expected} == expected


def test_numpy_has_one_blas_thread_in_a_worker() -> None:
    code = (
        "import numpy, threadpoolctl\n"
        "for library in threadpoolctl.threadpool_info():\n"
        "    print(library['user_api'], library['num_threads'])\n"
    )
    said = _python(code)
    assert "blas 1" in said
    assert not [line for line in said if line.startswith("blas") and line != "blas 1"]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the variables are glibc's")
def test_memory_that_a_worker_frees_stays_its_own_and_counts() -> None:
    code = (
        "import numpy\n"
        "from pathlib import Path\n"
        "def resident():\n"
        "    lines = Path('/proc/self/status').read_text().splitlines()\n"
        "    return next(int(l.split()[1]) for l in lines if l.startswith('VmRSS')) // 1024\n"
        "before = resident()\n"
        "numpy.ones(64 * 2**20, numpy.uint8)\n"  # freed at once
        "print(resident() - before)\n"
    )
    # 64 MiB, less what was free before; without the variables it is given back: 0 or so.
    assert int(_python(code)[0]) > 48


def _python(code: str) -> list[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env=process.process_environment(2),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no PYTHONSAFEPATH")
def test_files_in_the_working_folder_shadow_no_module_of_a_worker(
    job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("numpy", "torch", "json", "mnist_cli"):
        Path(f"{name}.py").write_text("raise SystemExit('the wrong module')\n")
    assert process.run(replace(job, framework="numpy"), _ignore)["epochs"] == 1
    code = "from importlib.util import find_spec; print(find_spec('torch').origin)"
    assert not _python(code)[0].startswith(str(tmp_path))


# --- The job and its events --------------------------------------------------------------------


@pytest.mark.parametrize(
    "job",
    [
        TrainJob("torch", ModelSpec("mlp", "sigmoid"), TrainConfig(seed=3, patience=2), 2),
        TrainJob("fake", ModelSpec("cnn"), TrainConfig(), 1, "kmnist", 100, "cpu", "a/b", True),
        EvaluateJob("numpy", "model.safetensors", 2, dataset="kmnist", device="cpu"),
        PredictJob("numpy", "model.safetensors", 2, images="digits.npy", device="cpu"),
    ],
)
def test_a_job_arrives_as_it_was_sent(job: Job) -> None:
    assert process.read_job(process.job_json(job)) == job


def test_events_come_in_order_and_the_result_last(job: TrainJob) -> None:
    events: list[dict[str, Any]] = []
    result = process.run(job, events.append)
    assert [event["event"] for event in events] == ["phase", "phase", "epoch"]
    assert result["history"][0]["epoch"] == 1


def test_errors_of_the_worker_are_raised_as_themselves_or_as_the_general_one(
    job: TrainJob, worker: Callable[[str], None]
) -> None:
    message = '"message": "so it went"'
    worker(f"""echo '{{"event": "error", "type": "UsageError", {message}}}'""")
    with pytest.raises(UsageError, match="so it went"):
        process.run(job, _ignore)
    worker(f"""echo '{{"event": "error", "type": "NewerError", {message}}}'""")
    with pytest.raises(MnistError, match="so it went"):
        process.run(job, _ignore)


def test_a_worker_killed_in_the_middle_of_a_line_is_a_crash(
    job: TrainJob, worker: Callable[[str], None]
) -> None:
    worker("""printf '{"event": "epo'; kill -9 $$""")
    with pytest.raises(FrameworkError, match=r"The fake process was killed by SIGKILL"):
        process.run(job, _ignore)


def test_a_worker_that_ends_without_a_result_is_a_crash(
    job: TrainJob, worker: Callable[[str], None]
) -> None:
    worker("""echo '{"event": "phase", "name": "loading"}'""")
    events: list[dict[str, Any]] = []
    with pytest.raises(
        FrameworkError, match=r"The fake process crashed: it printed nothing\. Run it"
    ):
        process.run(job, events.append)
    assert events == [{"event": "phase", "name": "loading"}]


def test_a_crash_keeps_all_that_the_worker_printed(
    job: TrainJob, started: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FRAMEWORK", "crash 1")
    with pytest.raises(FrameworkError, match="RuntimeError: the fake framework broke") as caught:
        process.run(job, _ignore)
    assert "frameworks print what they like" in caught.value.details
    assert "Traceback" in caught.value.details
    assert started[0].returncode == 1


@pytest.mark.parametrize(
    ("exit_code", "said"),
    [
        (1, "crashed: the last line."),
        (-signal.SIGSEGV, "was killed by SIGSEGV: the last line."),
        (-signal.SIGKILL, "was killed by SIGKILL (out of memory?): the last line."),
    ],
)
def test_a_crash_says_how_it_ended_and_what_was_said_last(
    job: TrainJob, exit_code: int, said: str
) -> None:
    stderr = io.StringIO()
    stderr.write("the first line\n  the last line  \n\n")
    assert said in str(process._crash_error(job, exit_code, stderr))


# --- The end -----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["", "crash 1", "kill 1", "nan 1"])
def test_no_process_outlives_its_run(
    job: TrainJob, started: Processes, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setenv("FAKE_FRAMEWORK", how)
    if how:
        with pytest.raises(MnistError):
            process.run(job, _ignore)
    else:
        process.run(job, _ignore)
    assert started[0].poll() is not None


def test_an_interrupted_run_stops_its_process(
    job: TrainJob, started: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(event: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("FAKE_FRAMEWORK", "sleep 1")
    with pytest.raises(KeyboardInterrupt):
        process.run(job, interrupt)
    assert started[0].returncode == 128 + signal.SIGTERM  # an orderly end


def test_ctrl_c_in_the_terminal_is_the_parents_to_handle(job: TrainJob, started: Processes) -> None:
    def interrupt(event: dict[str, Any]) -> None:
        started[0].send_signal(signal.SIGINT)

    assert process.run(job, interrupt)["epochs"] == 1


def test_a_process_that_ignores_the_order_to_stop_is_killed(
    job: TrainJob,
    started: Processes,
    worker: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(event: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(process, "_GRACE_SECONDS", 0.2)
    worker("""trap '' TERM; echo '{"event": "phase", "name": "x"}'; while :; do sleep 0.1; done""")
    with pytest.raises(KeyboardInterrupt):
        process.run(job, interrupt)
    assert started[0].returncode == -signal.SIGKILL


def test_a_process_that_hangs_after_its_result_does_not_lose_it(
    job: TrainJob,
    started: Processes,
    worker: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process, "_GRACE_SECONDS", 0.2)
    worker("""echo '{"event": "result", "result": {"epochs": 1}}'; exec sleep 600""")
    assert process.run(job, _ignore) == {"epochs": 1}
    assert started[0].returncode == -signal.SIGTERM


def test_a_process_that_is_done_is_left_to_end_by_itself(
    job: TrainJob, started: Processes, worker: Callable[[str], None]
) -> None:
    worker("""echo '{"event": "result", "result": {}}'; sleep 0.3; exit 0""")
    assert process.run(job, _ignore) == {}
    assert started[0].returncode == 0


def test_a_run_past_its_timeout_is_stopped_and_one_before_it_is_not(
    job: TrainJob, started: Processes, worker: Callable[[str], None]
) -> None:
    worker("exec sleep 600")
    with pytest.raises(FrameworkError, match=r"fake process was stopped after 0\.2 s, the timeout"):
        process.run(job, _ignore, timeout_seconds=0.2)
    assert started[0].returncode == -signal.SIGKILL
    worker("""echo '{"event": "result", "result": {}}'""")
    before = threading.active_count()
    assert process.run(job, _ignore, timeout_seconds=600) == {}
    deadline = time.monotonic() + 30
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before  # the timer is gone, and keeps no program waiting


def test_without_a_timeout_a_run_may_take_its_time(
    job: TrainJob, worker: Callable[[str], None]
) -> None:
    worker("""sleep 0.3; echo '{"event": "result", "result": {}}'""")
    assert process.run(job, _ignore) == {}


@pytest.mark.parametrize(
    ("handler", "exit_code"), [("signal.SIG_DFL", -signal.SIGTERM), ("signal.SIG_IGN", 1)]
)
def test_a_worker_whose_parent_is_gone_ends_even_if_it_cannot_handle_a_signal(
    handler: str, exit_code: int
) -> None:
    code = (
        "import queue, signal, threading, time\n"
        "from mnist_cli.runners import process\n"
        "process._GRACE_SECONDS = 0.1\n"
        f"signal.signal(signal.SIGTERM, {handler})\n"
        "arguments = process._input_lines(), queue.SimpleQueue()\n"
        "threading.Thread(target=process._exit_with_parent, args=arguments, daemon=True).start()\n"
        "time.sleep(600)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait(60) == exit_code

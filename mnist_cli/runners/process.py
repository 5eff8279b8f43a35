"""Execute a job in a process of its own: the job goes in, events and one result come out.

The parent (`run`) starts ``python -m mnist_cli.runners.process`` with thread counts already in its
environment, because frameworks read them once, when imported. The job is sent as a line of JSON on
standard input, which then stays open: when it closes, the child knows that the parent is gone. A
live training is sent its settings there, a line each time they change.
Events come back as lines of JSON on the child's standard output; what a framework prints goes to
standard error.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from queue import SimpleQueue
from typing import IO, Any, TypeAlias

from mnist_cli import errors
from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.errors import FrameworkError, MnistError
from mnist_cli.names import framework_name
from mnist_cli.runners import tasks
from mnist_cli.runners.base import (
    EvaluateJob,
    ExportJob,
    ImportJob,
    Job,
    MapJob,
    OnEvent,
    Outcome,
    PredictJob,
    TrainJob,
)

Execute: TypeAlias = Callable[[Job, OnEvent], dict[str, Any]]  # as `run` does
_GRACE_SECONDS = 10


class ProcessRunner:
    """Executes jobs on this machine, one at a time, in the order in which they were submitted."""

    def __init__(self, execute: Execute | None = None) -> None:
        self._execute = execute
        self._waiting: deque[tuple[int, Job]] = deque()
        self._submitted = 0

    def submit(self, job: Job) -> int:
        """Take a job to execute, and return its handle."""
        self._waiting.append((self._submitted, job))
        self._submitted += 1
        return self._submitted - 1

    def wait(self, on_event: Callable[[int, dict[str, Any]], None]) -> Outcome:
        """Execute the next job, and return how it ended."""
        handle, job = self._waiting.popleft()
        on_event(handle, {"event": "started"})
        execute = self._execute or run
        try:
            return Outcome(handle, execute(job, lambda event: on_event(handle, event)))
        except MnistError as error:
            return Outcome(handle, error=error)

    def cancel(self, handle: int) -> None:
        """Give up a job that has not been started."""
        self._waiting = deque(pair for pair in self._waiting if pair[0] != handle)

    def close(self) -> None:
        """Forget the jobs that have not been started; no process outlives `wait`."""
        self._waiting.clear()


def run(
    job: Job,
    on_event: OnEvent,
    *,
    timeout_seconds: float | None = None,
    on_start: Callable[[subprocess.Popen[str]], None] = lambda _: None,
) -> dict[str, Any]:
    """Execute a job in a process of its own and return its result.

    ``on_event`` is called with each event, ``on_start`` with the process once it has its job:
    `send` steers a live one, and it may be terminated. Raises the `MnistError` that ended the job,
    or `FrameworkError` if its process crashed or was still running after ``timeout_seconds``. No
    process outlives the call, except the worker processes of a killed one, which end within a
    fraction of a second.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "mnist_cli.runners.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            encoding="utf-8",
            env=process_environment(job.threads),
        )
        has_timed_out = threading.Event()

        def stop_after_timeout() -> None:
            has_timed_out.set()
            process.kill()

        timer = threading.Timer(timeout_seconds or 0, stop_after_timeout)
        if timeout_seconds is not None:
            timer.start()
        try:
            _write(process, {"task": type(job).__name__, **asdict(job)})
            on_start(process)
            result = _exchange(process, on_event)
            with suppress(subprocess.TimeoutExpired):  # a framework may hang at its exit
                process.wait(_GRACE_SECONDS)
        finally:
            timer.cancel()
            _terminate(process)
        if result is not None:
            return result
        if has_timed_out.is_set():
            raise FrameworkError(
                f"The {framework_name(job.framework)} process was stopped after "
                f"{timeout_seconds:g} s, the timeout for a run. Give it longer, or fewer epochs."
            )
        raise _crash_error(job, process.returncode, stderr)


def process_environment(threads: int) -> dict[str, str]:
    """Return the environment variables that a job's process runs under."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        # NumPy's matrix products: the scratch network has workers of its own.
        "OPENBLAS_NUM_THREADS": "1",
        # Keep freed memory in the process (glibc only): otherwise each batch's feature maps are
        # requested from the system again, page by page.
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(2**32),
        # Another backend in the user's keras.json would be measured instead, unnoticed.
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # By default TensorFlow does not use oneDNN on processors without VNNI or AMX.
        "TF_ENABLE_ONEDNN_OPTS": "1",
        "PYTHONIOENCODING": "utf-8",
        # Modules must not be shadowed by files in the working folder.
        "PYTHONSAFEPATH": "1",
    }


def send(process: subprocess.Popen[str], settings: dict[str, Any]) -> None:
    """Send a live training its new settings, unless it has ended."""
    with suppress(OSError, ValueError):  # a closed pipe, of either side
        _write(process, settings)


def _write(process: subprocess.Popen[str], document: dict[str, Any]) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(document) + "\n")
    process.stdin.flush()


def _exchange(process: subprocess.Popen[str], on_event: OnEvent) -> dict[str, Any] | None:
    """Read events; return the result, or None if the child ended without one."""
    assert process.stdout is not None
    for line in process.stdout:
        try:
            event = json.loads(line)
        except ValueError:  # killed in the middle of a line
            return None
        if event["event"] == "result":
            result: dict[str, Any] = event["result"]
            return result
        if event["event"] == "error":
            raise getattr(errors, event["type"], MnistError)(event["message"])
        on_event(event)
    return None


def _terminate(process: subprocess.Popen[str]) -> None:
    """Stop a process that is still running."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _crash_error(job: Job, exit_code: int, stderr: IO[str]) -> FrameworkError:
    """Return the error that says how the job's process ended."""
    stderr.seek(0)
    output = stderr.read()
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    how = f"was killed by {signal.Signals(-exit_code).name}" if exit_code < 0 else "crashed"
    hint = " (out of memory?)" if exit_code == -9 else ""
    error = FrameworkError(
        f"The {framework_name(job.framework)} process {how}{hint}: "
        f"{lines[-1] if lines else 'it printed nothing'}. "
        "Run it again with --debug to see all it printed."
    )
    error.details = output
    error.was_killed = exit_code == -signal.SIGKILL
    return error


# --- The child's side --------------------------------------------------------------------------


def main() -> None:
    """Execute the one job that is sent on standard input."""
    # Ctrl-C goes to all processes of the terminal: the parent handles it and sends SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stop)
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what frameworks print must not mix with the events

    def emit(event: dict[str, Any]) -> None:
        events.write(json.dumps(event) + "\n")
        events.flush()

    lines = _input_lines()
    job = read_job(next(lines))
    settings: SimpleQueue[dict[str, Any]] = SimpleQueue()
    threading.Thread(target=_exit_with_parent, args=(lines, settings), daemon=True).start()
    try:
        match job:
            case TrainJob(live=True):
                tasks.train_live(job, emit, settings)
            case TrainJob():
                result = tasks.train(job, emit)
            case EvaluateJob():
                result = tasks.evaluate(job, emit)
            case PredictJob():
                result = tasks.predict(job)
            case ExportJob():
                result = tasks.export(job)
            case ImportJob():
                result = tasks.import_file(job)
            case MapJob():
                result = tasks.map_digits(job, emit)
        emit({"event": "result", "result": result})
    except MnistError as error:
        emit({"event": "error", "type": type(error).__name__, "message": str(error)})
    except Exception:
        traceback.print_exc()
        raise SystemExit(1) from None


def _stop(*_: object) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def _input_lines() -> Iterator[str]:
    """Yield the lines of standard input as they come."""
    # Not those of sys.stdin: its lock, held by a thread, would block the interpreter's exit.
    rest = b""
    while part := os.read(0, 65_536):
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            yield line.decode()


def _exit_with_parent(lines: Iterator[str], settings: SimpleQueue[dict[str, Any]]) -> None:
    """Pass on settings; when standard input closes, the parent is gone: end this process."""
    for line in lines:
        settings.put(json.loads(line))
    os.kill(os.getpid(), signal.SIGTERM)  # an orderly end, if the main thread can handle it
    time.sleep(_GRACE_SECONDS)
    os._exit(1)


def job_json(job: Job) -> str:
    """Return a job as one line of JSON."""
    return json.dumps({"task": type(job).__name__, **asdict(job)})


def read_job(line: str) -> Job:
    """Return the job whose `job_json` is ``line``."""
    values = json.loads(line)
    task = values.pop("task")
    for kind in (EvaluateJob, PredictJob, ExportJob, ImportJob, MapJob):
        if task == kind.__name__:
            return kind(**values)
    spec, config = ModelSpec(**values.pop("spec")), TrainConfig(**values.pop("config"))
    return TrainJob(spec=spec, config=config, **values)


if __name__ == "__main__":
    main()

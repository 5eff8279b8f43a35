"""What a node of a cluster does for a driver elsewhere: one run at a time, as `process.run` does.

Nothing here knows the engine that carries jobs to the node and results home.
"""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from mnist_cli import machine, records
from mnist_cli.errors import DataError, MnistError
from mnist_cli.runners import process
from mnist_cli.runners.base import TrainJob

# The driver asks for news at most this often: of the steps between, the latest is enough.
NEWS_SECONDS = 0.5
_CHECKPOINT = "checkpoint.safetensors"


class NodeAgent:
    """Executes jobs on its node. Its methods are called from several threads.

    ``execute`` stands in for `process.run` in benchmarks.
    """

    def __init__(self, name: str, *, timing: str, execute: process.Execute | None = None) -> None:
        self._name = name
        self._timing = timing
        self._execute = execute
        self._lock = threading.Lock()
        self._events: list[dict[str, Any]] = []
        self._folder: Path | None = None
        self._sent_ns = 0  # when the checkpoint that was sent last was written

    def probe(self) -> dict[str, Any]:
        """Return the kind of this machine, and how fast it is in a short probe."""
        self._probe_seconds = machine.probe_seconds()
        kind = machine.machine_kind(machine.describe_machine() | {"node": self._name})
        return {"kind": kind, "probe_seconds": self._probe_seconds}

    def run(
        self,
        job_json: str,
        timeout_seconds: float | None,
        files: dict[str, str],
        *contents: Any,
    ) -> dict[str, Any]:
        """Execute a `TrainJob`: return its ``result`` or ``error``, with what is left to tell.

        ``files`` has the SHA-256 of each file that the job names, and ``contents``, in the same
        order, their bytes as uint8 arrays. The record says on which node the run was, and whether
        it had the node to itself.
        """
        job = process.read_job(job_json)
        assert isinstance(job, TrainJob)
        with tempfile.TemporaryDirectory(prefix="mnist-cli-") as folder:
            self._folder, self._sent_ns = Path(folder), 0
            try:
                result = self._run(job, timeout_seconds, files, contents)
                end: dict[str, Any] = {"result": result, **self.news()}
            except MnistError as error:
                end = {
                    "error": type(error).__name__,
                    "message": str(error),
                    "details": error.details,
                    "was_killed": error.was_killed,
                    **self.news(),
                }
            self._folder = None
        return end

    def _run(
        self,
        job: TrainJob,
        timeout_seconds: float | None,
        files: dict[str, str],
        contents: Sequence[Any],
    ) -> dict[str, Any]:
        assert self._folder is not None
        local = {
            name: str(self._stored(name, digest, content))
            for (name, digest), content in zip(files.items(), contents, strict=True)
            if name != job.checkpoint
        }
        if job.checkpoint is not None:
            path = self._folder / _CHECKPOINT
            if job.checkpoint in files:  # to go on from
                place = list(files).index(job.checkpoint)
                path.write_bytes(_checked(job.checkpoint, files[job.checkpoint], contents[place]))
                self._sent_ns = path.stat().st_mtime_ns
            local[job.checkpoint] = str(path)
        execute = self._execute or process.run
        options = {} if self._execute else {"timeout_seconds": timeout_seconds}
        result = execute(replace(job, files=local), self._tell, **options)
        if "environment" in result:
            result["environment"] |= {"node": self._name, "probe_seconds": self._probe_seconds}
            result["timing"] = self._timing
        return result

    def news(self) -> dict[str, Any]:
        """Return what has happened since the last call: events, and the checkpoint if it is new."""
        with self._lock:
            events, self._events = self._events, []
        content = None
        folder = self._folder
        if folder is not None:
            path = folder / _CHECKPOINT
            with suppress(FileNotFoundError):  # not yet, or the run has ended meanwhile
                written_ns = path.stat().st_mtime_ns
                if written_ns != self._sent_ns:
                    content, self._sent_ns = path.read_bytes(), written_ns
        return {"events": events, "checkpoint": content}

    def cancel(self) -> None:
        """Stop the run that is going on: its process, and so those that it started."""
        import psutil

        children = psutil.Process().children(recursive=True)
        for child in children:
            with suppress(psutil.Error):  # it has ended meanwhile
                child.terminate()
        for child in psutil.wait_procs(children, timeout=3)[1]:
            with suppress(psutil.Error):
                child.kill()

    def _tell(self, event: dict[str, Any]) -> None:
        with self._lock:
            if event["event"] == "step" and self._events and self._events[-1]["event"] == "step":
                self._events.pop()
            self._events.append(event)

    def _stored(self, name: str, digest: str, content: Any) -> Path:
        """Return the node's own copy of a file, which is written once and checked at each use."""
        from platformdirs import user_cache_path

        path = user_cache_path("mnist-cli") / "cluster" / f"{digest}{Path(name).suffix}"
        if not path.exists() or sha256(path.read_bytes()) != digest:
            whole = _checked(name, digest, content)
            with records.replacing(path) as temporary:
                temporary.write_bytes(whole)
        return path


def sha256(content: bytes) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def _checked(name: str, digest: str, content: Any) -> bytes:
    """Return the bytes of a uint8 array. Raises `DataError` unless they have this SHA-256."""
    whole = bytes(content)
    if sha256(whole) != digest:
        raise DataError(
            f"{name} did not arrive whole: expected SHA-256 {digest[:12]}..., "
            f"got {sha256(whole)[:12]}.... Start again with --resume."
        )
    return whole

"""A training in a process of its own, whose model answers beside the others while it learns."""

from __future__ import annotations

import subprocess
import tempfile
import threading
from collections import deque
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from mnist_cli.errors import MnistError
from mnist_cli.names import model_name
from mnist_cli.networks.spec import parameter_count
from mnist_cli.prediction import Model
from mnist_cli.runners import process
from mnist_cli.runners.base import TrainJob
from mnist_cli.training.live import Settings
from mnist_cli.web.models import LIVE, Models, NamedModel

# A training that no page watches ends after this time, which a reload of the page takes less than.
UNWATCHED_SECONDS = 10.0
# Some minutes of them; who comes later sees the newest.
_MAX_EVENTS = 4_000
_CLOSING_SECONDS = 5.0  # it may be in the middle of an import


@dataclass
class Training:
    """One training. ``status`` is starting, loading, running, paused, finished or ended.

    Ended by an error, ``error`` is its sentence. Events are numbered from 1.
    """

    job: TrainJob
    models: Models
    settings: Settings
    status: str = "starting"
    error: str | None = None
    watchers: int = 0
    _events: deque[tuple[int, dict[str, Any]]] = field(
        default_factory=lambda: deque(maxlen=_MAX_EVENTS)
    )
    _count: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _process: subprocess.Popen[str] | None = None
    _timer: threading.Timer | None = None
    _is_stopped: bool = False

    def __post_init__(self) -> None:
        # A daemon: should the server end otherwise than by `close`, the process ends by itself.
        self._thread = threading.Thread(target=self._run, daemon=True, name="training")

    @property
    def has_ended(self) -> bool:
        """Whether its process is gone."""
        return self.status == "ended"

    def to_json(self) -> dict[str, Any]:
        """Return what `GET /api/live` says of it."""
        return {
            "title": model_name(self.job.framework, self.job.spec.arch, self.job.spec.activation),
            "line": self.job.spec.line,
            "arch": self.job.spec.arch,
            "framework": self.job.framework,
            "parameters": parameter_count(self.job.spec),
            "batch_size": self.job.config.batch_size,
            "status": self.status,
            "error": self.error,
            "settings": asdict(self.settings),
        }

    def start(self) -> None:
        """Begin to train."""
        self._thread.start()
        self.end_unless_watched()

    def change(self, settings: Settings) -> None:
        """Go on with other settings."""
        self.settings = settings
        if self._process is not None:  # else it is told once it has started
            process.send(self._process, asdict(settings))
        self._add({"event": "settings", **asdict(settings)})

    def stop(self) -> None:
        """End the process; its last model stays among the answers."""
        self._is_stopped = True
        if self._process is not None:
            self._process.terminate()

    def close(self) -> None:
        """End the process, and wait until it is gone."""
        self.stop()
        self._thread.join(_CLOSING_SECONDS)

    def end_unless_watched(self) -> None:
        """Stop in a while, if no page follows the events then."""

        def stop() -> None:
            if not self.watchers:
                self.stop()

        if self._timer is not None:  # one is enough, however many pages come and go
            self._timer.cancel()
        self._timer = threading.Timer(UNWATCHED_SECONDS, stop)
        self._timer.daemon = True
        self._timer.start()

    def events_after(self, number: int) -> list[tuple[int, dict[str, Any]]]:
        """Return the events after one, with their numbers."""
        with self._lock:
            return [each for each in self._events if each[0] > number]

    def _run(self) -> None:
        try:
            with tempfile.TemporaryDirectory(prefix="mnist-live-") as folder:
                path = Path(folder) / f"{LIVE}.safetensors"
                job = replace(self.job, checkpoint=str(path))
                process.run(job, partial(self._take, path), on_start=self._take_process)
        except (MnistError, OSError) as error:  # also how a stopped process ends
            if not self._is_stopped:
                self.error = str(error)
        self._add({"event": "status", "status": "ended", "error": self.error})
        self.status = "ended"  # after its event, which is the last

    def _take_process(self, started: subprocess.Popen[str]) -> None:
        self._process = started
        process.send(started, asdict(self.settings))
        if self._is_stopped:
            started.terminate()

    def _take(self, path: Path, event: dict[str, Any]) -> None:
        """Take one event of the process; with each sample there is a new model at ``path``."""
        if event["event"] == "status":
            self.status = event["status"]
        elif event["event"] == "sample":
            self.models.put(NamedModel(LIVE, Model(path, threads=1)))
        self._add(event)

    def _add(self, event: dict[str, Any]) -> None:
        with self._lock:
            self._count += 1
            self._events.append((self._count, event))

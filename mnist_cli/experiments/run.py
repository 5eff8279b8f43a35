"""Execute the runs of a plan one at a time, surviving failures, Ctrl-C and kills."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from mnist_cli.data.orientation import checked
from mnist_cli.data.registry import fetch, load_dataset
from mnist_cli.data.split import training_count
from mnist_cli.errors import DivergedError, FrameworkError, OutputError, RecordError
from mnist_cli.experiments.document import build_document, load_document, records_of
from mnist_cli.experiments.machine_warnings import library_limits
from mnist_cli.experiments.plan import Key, job_key, job_label
from mnist_cli.experiments.quiet import run_quietly
from mnist_cli.machine import describe_machine
from mnist_cli.records import RunRecord, require_writable, write_json
from mnist_cli.runners import process
from mnist_cli.runners.base import Job, OnEvent, Runner, TrainJob
from mnist_cli.training import recipe

# Settings that older documents do not name, as they were then.
_OLDER_SETTINGS: dict[str, Any] = {
    "activation": "relu",
    "lines": {},
    "runner": "process",
    "timing": "exclusive",
    "fix_orientation": False,
}
_SAVING_FACTOR = 4  # at most a fifth of a driver's time goes into writing, if that may wait
# What a run is on and of, by which the runs of one experiment on one machine are equal.
_SAME_MACHINE = ("cpu", "cores", "os", "python", "data_sha256")
_SAME_DATA = ("data_sha256",)


class Observer(Protocol):
    """Receives the progress of the runs, for example `console.TrainingProgress`."""

    def start_run(self, label: str, *, run: int | None = None) -> None:
        """Called when a run begins; ``run`` is its number in the plan, by default the next."""

    def on_event(self, event: Mapping[str, Any], *, run: int | None = None) -> None:
        """Called with each event of a run, by default of the one that began last."""

    def finish_run(
        self, record: RunRecord | None = None, *, failure: str = "", run: int | None = None
    ) -> None:
        """Called when a run has ended: with a record, or with why it failed."""

    def note(self, text: str) -> None:
        """Called with a message for the user."""


def run_jobs(
    jobs: Sequence[TrainJob],
    *,
    path: Path | None,
    settings: Mapping[str, Any],
    observer: Observer,
    resume: bool = False,
    timeout_seconds: float | None = None,
    quiet_machine: bool = False,
    runner: Runner | None = None,
) -> dict[str, Any]:
    """Execute the jobs and return the document, also written to ``path`` if given.

    Without ``runner`` that is on this machine, one at a time, each stopped after
    ``timeout_seconds`` and, with ``quiet_machine``, as `quiet.run_quietly` says. After each run the
    document so far is written to a ``.partial.json`` file beside ``path``; with ``resume`` the runs
    found there are not repeated. A run whose framework is missing, crashes, hangs or diverges
    becomes a failure and the others go on; any other error would occur in every run, and is raised.
    Raises `RecordError` if the experiment to resume had other ``settings``, and `OutputError` if
    another experiment is running in the folder.
    """
    data_sha256 = require_possible(jobs, observer)
    if runner is None:
        runner = process.ProcessRunner(
            functools.partial(_run_quietly, observer=observer, timeout_seconds=timeout_seconds)
            if quiet_machine
            else functools.partial(process.run, timeout_seconds=timeout_seconds)
        )
    execute = functools.partial(_execute, jobs, settings=settings, observer=observer, runner=runner)
    if path is None:
        return execute({}, save=lambda _: None)
    partial = path.with_suffix(".partial.json")
    with folder_lock(path.parent):
        for existing in (path, partial):
            _keep_aside_unless_readable(existing, observer)
        finished: dict[Key, RunRecord] = {}
        if resume:
            finished = _finished(partial, path, settings, data_sha256=data_sha256)
            if len(finished) == len(jobs):
                observer.note(f"All {len(jobs)} runs are there already; none is missing.")
        elif partial.exists() and load_document(partial)["runs"]:
            aside = keep_aside(partial)
            observer.note(f"An unfinished comparison was found; it is kept as {aside}.")
        document = execute(finished, save=lambda document: write_json(partial, document))
        if not document["runs"] and path.exists():  # a mistyped --device, say
            observer.note(f"No run was finished: the earlier record is {keep_aside(path)} now.")
        write_json(path, document)
        partial.unlink(missing_ok=True)
    return document


def _execute(
    jobs: Sequence[TrainJob],
    finished: dict[Key, RunRecord],
    *,
    settings: Mapping[str, Any],
    observer: Observer,
    runner: Runner,
    save: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Execute the jobs that are not ``finished``; ``save`` gets the document as it grows."""
    failures: list[dict[str, Any]] = []

    def write() -> dict[str, Any]:
        document = build_document(jobs, finished, failures, settings)
        save(document)
        return document

    runs: dict[int, int] = {}  # places in the plan, by the runner's handle
    limits: set[str] = set()

    def finish(run: int, record: RunRecord | None, failure: str = "") -> None:
        observer.finish_run(record, failure=failure, run=run)
        for text in library_limits([record] if record else []):
            if text not in limits:
                limits.add(text)
                observer.note(f"Warning: {text}.")

    def on_event(handle: int, event: dict[str, Any]) -> None:
        run = runs[handle]
        if event["event"] == "started":
            node = event.get("node")
            label = job_label(jobs[run], jobs)
            observer.start_run(f"{label} on {node}" if node else label, run=run)
        else:
            observer.on_event(event, run=run)

    with Growing(write, may_skip=not isinstance(runner, process.ProcessRunner)) as growing:
        for run, job in enumerate(jobs):
            if job_key(job) in finished:
                observer.start_run(job_label(job, jobs), run=run)
                finish(run, finished[job_key(job)])
            else:
                runs[runner.submit(job)] = run
        for _ in range(len(runs)):
            outcome = runner.wait(on_event)
            run = runs[outcome.handle]
            key = job_key(jobs[run])
            record, failure = None, ""
            try:
                record = finished[key] = RunRecord.from_json(outcome.value())
            except (FrameworkError, DivergedError) as error:
                failure = str(error)
                names = ("framework", "arch", "batch_size", "seed")
                failures.append(dict(zip(names, key, strict=True)) | {"error": failure})
            growing.update()
            finish(run, record, failure)
    return growing.document


class Growing:
    """The document of an experiment, written after each run and at the end of the block.

    With ``may_skip`` less often while that would take more than a part of the time: with thousands
    of runs a document takes seconds, and on a cluster several end in each. A killed driver then
    loses the last seconds of them, and does these again.
    """

    def __init__(self, write: Callable[[], dict[str, Any]], *, may_skip: bool) -> None:
        self._write_document = write
        self._may_skip = may_skip
        self._write()

    def __enter__(self) -> Growing:
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_behind:
            self._write()

    def update(self) -> None:
        """Write the document, now or with a later run."""
        elapsed = time.monotonic() - self._written_at
        self._is_behind = self._may_skip and elapsed < _SAVING_FACTOR * self._seconds
        if not self._is_behind:
            self._write()

    def _write(self) -> None:
        began = time.monotonic()
        self.document = self._write_document()
        self._written_at = time.monotonic()
        self._seconds = self._written_at - began
        self._is_behind = False


def _run_quietly(
    job: Job, on_event: OnEvent, *, timeout_seconds: float | None, observer: Observer
) -> dict[str, Any]:
    """Execute a job in a quiet moment of this machine and return its record as JSON."""

    def execute() -> RunRecord:
        return RunRecord.from_json(process.run(job, on_event, timeout_seconds=timeout_seconds))

    assert isinstance(job, TrainJob)  # a comparison has no others
    return run_quietly(execute, observer, uses_gpu=job.device != "cpu").to_json()


def require_possible(jobs: Sequence[TrainJob], observer: Observer) -> str:
    """Raise early what would make a later run fail: bad data, limit, or too large a batch.

    Returns the SHA-256 of the data set, which is fetched first.
    """
    largest = max(jobs, key=lambda job: job.config.batch_size)
    said: list[str] = []

    def say_once(text: str) -> None:
        if not said:
            said.append(text)
            observer.note(text)

    fetch(largest.dataset, say_once)
    dataset = load_dataset(largest.dataset)
    if largest.fix_orientation:
        dataset = checked(dataset, fix=True, say=lambda _: None)
    recipe.require_batch(largest.config, training_count(dataset, limit=largest.limit))
    return dataset.sha256


def _finished(
    partial: Path, path: Path, settings: Mapping[str, Any], *, data_sha256: str
) -> dict[Key, RunRecord]:
    """Return the runs of an unfinished experiment, or of a finished one that had failures."""
    found = next((candidate for candidate in (partial, path) if candidate.exists()), None)
    if found is None:
        return {}
    document = load_document(found)
    for name, value in settings.items():
        if name == "runs" and document["settings"][name] < value:
            continue  # more repeats than last time: the finished ones are the first of them
        if document["settings"].get(name, _OLDER_SETTINGS.get(name)) != value:
            raise RecordError(
                f"Cannot resume {found}: it was measured with {name} "
                f"{document['settings'].get(name)}, not {value}. That is another comparison: give "
                "the same settings, or leave --resume out to start anew."
            )
    here = describe_machine() | {"data_sha256": data_sha256}
    names = _SAME_DATA if settings.get("runner") == "ray" else _SAME_MACHINE
    for record in records_of(document):
        for name in names:
            if record.environment[name] != here[name]:
                raise RecordError(
                    f"Cannot resume {found}: its runs had {name} {record.environment[name]}, "
                    f"here it is {here[name]}. Leave --resume out to start anew."
                )
    return {(r.framework, r.arch, r.batch_size, r.seed): r for r in records_of(document)}


def _keep_aside_unless_readable(path: Path, observer: Observer) -> None:
    """Rename a document that this program cannot read, so that it is not overwritten."""
    if not path.exists():
        return
    try:
        load_document(path)
    except RecordError as error:
        observer.note(f"{error} It is kept as {keep_aside(path)}.")


def keep_aside(path: Path) -> Path:
    """Rename a document to a name that is free, and return that."""
    aside = next(
        candidate
        for number in itertools.count(1)
        if not (candidate := path.with_suffix(f".kept-{number}.json")).exists()
    )
    return path.rename(aside)


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which the system releases whenever the process ends."""
    require_writable(folder)
    try:
        with FileLock(folder / ".mnist.lock", timeout=0):
            yield
    except Timeout:
        raise OutputError(
            f"Another comparison or search is running in {folder}. "
            "Wait for it, or choose another folder with --results-dir."
        ) from None

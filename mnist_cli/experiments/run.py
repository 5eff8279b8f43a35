"""Runs of a plan, one at a time: they survive failures, Ctrl-C and kills."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from mnist_cli.data.registry import load_dataset
from mnist_cli.data.split import training_count
from mnist_cli.errors import DivergedError, FrameworkError, OutputError, RecordError
from mnist_cli.experiments.document import build_document, load_document, records_of
from mnist_cli.experiments.plan import job_key, job_label
from mnist_cli.records import RunRecord, describe_machine, require_writable, write_json
from mnist_cli.runners import process
from mnist_cli.runners.base import TrainJob
from mnist_cli.training import recipe


class Observer(Protocol):
    """What follows the runs; `console.TrainingProgress` is one."""

    def start_run(self, label: str) -> None:
        """A run begins."""

    def on_event(self, event: Mapping[str, Any]) -> None:
        """The current run reports."""

    def finish_run(self, record: RunRecord | None = None, *, failure: str = "") -> None:
        """The current run has ended: with a record, or with the message of its failure."""

    def note(self, text: str) -> None:
        """Something the user should know."""


def run_jobs(
    jobs: Sequence[TrainJob],
    *,
    path: Path,
    settings: Mapping[str, Any],
    observer: Observer,
    resume: bool,
    timeout_seconds: float | None = None,
) -> dict[str, Any]:
    """Do the jobs one at a time and return the document, in the end also at ``path``.

    Until then each finished run stands in a file ``.partial.json`` beside it; with ``resume`` the
    runs found there are not done again. A run whose framework is missing, crashes, hangs or
    diverges becomes a failure and the others go on; any other error would meet every run, and is
    raised. Raises `RecordError` if what is to be resumed had other ``settings``, and
    `OutputError` if another experiment is at work in the folder.
    """
    partial = path.with_suffix(".partial.json")
    dataset = _require_possible(jobs)
    with _alone_in(path.parent):
        for existing in (path, partial):
            _keep_aside_unless_readable(existing, observer)
        finished: dict[tuple[str, str, int, int], RunRecord] = {}
        if resume:
            finished = _finished(partial, path, settings, data_sha256=dataset)
            if len(finished) == len(jobs):
                observer.note(f"All {len(jobs)} runs are there already; none is missing.")
        elif partial.exists() and load_document(partial)["runs"]:
            aside = _keep_aside(partial)
            observer.note(f"An unfinished comparison was found; it is kept as {aside}.")
        failures: list[dict[str, Any]] = []
        document = build_document(jobs, finished, failures, settings)
        write_json(partial, document)
        for job in jobs:
            observer.start_run(job_label(job, jobs))
            record = finished.get(job_key(job))
            failure = ""
            if record is None:
                try:
                    result = process.run(job, observer.on_event, timeout_seconds=timeout_seconds)
                    record = finished[job_key(job)] = RunRecord.from_json(result)
                except (FrameworkError, DivergedError) as error:
                    failure = str(error)
                    names = ("framework", "arch", "batch_size", "seed")
                    failures.append(
                        dict(zip(names, job_key(job), strict=True)) | {"error": failure}
                    )
                document = build_document(jobs, finished, failures, settings)
                write_json(partial, document)
            observer.finish_run(record, failure=failure)
        if not finished and path.exists():  # a mistyped --device, say
            observer.note(f"No run was finished: the earlier record is {_keep_aside(path)} now.")
        write_json(path, document)
        partial.unlink(missing_ok=True)
    return document


def _require_possible(jobs: Sequence[TrainJob]) -> str:
    """Raise now what would otherwise end the last run: bad data, limit, or too large a batch.

    Returns the SHA-256 of the dataset.
    """
    largest = max(jobs, key=lambda job: job.config.batch_size)
    dataset = load_dataset(largest.dataset)
    recipe.require_batch(largest.config, training_count(dataset, limit=largest.limit))
    return dataset.sha256


def _finished(
    partial: Path, path: Path, settings: Mapping[str, Any], *, data_sha256: str
) -> dict[tuple[str, str, int, int], RunRecord]:
    """Return the runs of an unfinished experiment, or of a finished one that had failures."""
    found = next((candidate for candidate in (partial, path) if candidate.exists()), None)
    if found is None:
        return {}
    document = load_document(found)
    for name, value in settings.items():
        if name == "runs" and document["settings"][name] < value:
            continue  # more repeats than last time: those there are the first of them
        if document["settings"].get(name) != value:
            raise RecordError(
                f"Cannot resume {found}: it was measured with {name} "
                f"{document['settings'].get(name)}, not {value}. That is another comparison: give "
                "the same settings, or leave --resume out to start anew."
            )
    here = describe_machine() | {"data_sha256": data_sha256}
    for record in records_of(document):
        for name in ("cpu", "cores", "os", "python", "data_sha256"):
            if record.environment[name] != here[name]:
                raise RecordError(
                    f"Cannot resume {found}: its runs had {name} {record.environment[name]}, "
                    f"here it is {here[name]}. Leave --resume out to start anew."
                )
    return {(r.framework, r.arch, r.batch_size, r.seed): r for r in records_of(document)}


def _keep_aside_unless_readable(path: Path, observer: Observer) -> None:
    """Rename a document that this program cannot read, so that nothing is ever lost."""
    if not path.exists():
        return
    try:
        load_document(path)
    except RecordError as error:
        observer.note(f"{error} It is kept as {_keep_aside(path)}.")


def _keep_aside(path: Path) -> Path:
    aside = next(
        candidate
        for number in itertools.count(1)
        if not (candidate := path.with_suffix(f".kept-{number}.json")).exists()
    )
    return path.rename(aside)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the system frees it when the process ends, however it ends."""
    require_writable(folder)
    try:
        with FileLock(folder / ".mnist.lock", timeout=0):
            yield
    except Timeout:
        raise OutputError(
            f"Another comparison is at work in {folder}. "
            "Wait for it, or choose another folder with --results-dir."
        ) from None

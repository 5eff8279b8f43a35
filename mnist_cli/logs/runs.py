"""Logs of runs, written as their events and records come."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mnist_cli.errors import MnistError, OutputError
from mnist_cli.logs.formats import (
    CURVE,
    EPOCH,
    FORMATS,
    Ending,
    Point,
    Run,
    RunLog,
    Values,
    require_format,
)
from mnist_cli.names import dataset_name, model_name
from mnist_cli.records import RunRecord, require_writable
from mnist_cli.runners.base import TrainJob

if TYPE_CHECKING:
    from mnist_cli.experiments.run import Observer

_T = TypeVar("_T")
_R = TypeVar("_R")

# Points are written at most this often, so that it takes next to nothing of a training.
_SECONDS_BETWEEN_WRITES = 5.0
# The fields of a record that are figures of the whole run.
_FIGURES = (
    "test_accuracy",
    "test_loss",
    "train_seconds",
    "images_per_second",
    "import_seconds",
    "warmup_seconds",
    "evaluate_seconds",
    "wall_seconds",
    "peak_rss_mib",
    "parameters",
    "operations",
    "model_epoch",
)


@dataclass(frozen=True)
class Logs:
    """Which formats are written, and the folder of all logs.

    Raises `UsageError` for an unknown format, `FrameworkError` if its extra is missing, and
    `OutputError` if the folder cannot be written.
    """

    formats: Sequence[str]
    folder: Path

    def __post_init__(self) -> None:
        for name in self.formats:
            require_format(name)
        if self.formats:
            require_writable(self.folder, option="--log-dir")

    @contextmanager
    def opened(
        self,
        observer: Observer,
        jobs: Sequence[TrainJob],
        *,
        experiment: str | None = None,
        settings: Values | None = None,
    ) -> Iterator[LoggedRuns]:
        """Yield an observer that logs the runs of ``jobs`` and tells ``observer`` of them too.

        ``jobs`` may grow. The runs of an ``experiment`` are logged in a folder of its name, where
        the whole has a log too, with its ``settings``. What has not ended at the end of the block
        is logged as failed after an error, else as interrupted. Raises `OutputError` if a format
        cannot be begun; one that fails later is given up, with a note, and the runs go on.
        """
        runs = LoggedRuns(self, observer, jobs)
        try:
            if experiment is not None:
                runs.start_experiment(experiment, settings or {})
            yield runs
        except BaseException as error:
            status = "failed" if isinstance(error, Exception) else "interrupted"
            runs.close(Ending(status, str(error) or type(error).__name__))
            raise
        runs.close(Ending("finished"))


@dataclass
class _Open:
    """A run whose log is being written: by format, with the points that wait."""

    run: Run
    logs: dict[str, RunLog]
    written_at: float  # by the monotonic clock
    epoch: int = 0
    points: list[Point] = field(default_factory=list)


class LoggedRuns:
    """An `experiments.run.Observer` that logs runs and tells another observer of them."""

    def __init__(self, logs: Logs, observer: Observer, jobs: Sequence[TrainJob]) -> None:
        self._observer = observer
        self._jobs = jobs
        self._root = logs.folder
        self._formats = list(logs.formats)  # those that have not failed
        self._begun: set[str] = set()
        self._began = datetime.now().strftime("%Y%m%d-%H%M%S")
        self._whole: _Open | None = None
        self._open: dict[int, _Open] = {}  # by the number of the run in the plan
        self._latest = -1

    def start_experiment(self, name: str, settings: Values) -> None:
        """Begin the log of the whole."""
        self._whole = self._begin(f"{name}-{self._began}", _flat(settings), is_experiment=True)

    def start_run(self, label: str, *, run: int | None = None) -> None:
        """Begin the log of a run."""
        self._latest = run = self._latest + 1 if run is None else run
        self._observer.start_run(label, run=run)
        self._start(run)

    def _start(self, run: int) -> None:
        if run in self._open:
            self._end(self._open.pop(run), Ending("interrupted", "the run was begun again"))
        job = self._jobs[run]
        name = f"{job.framework}-{job.spec.arch}"
        if self._whole is None:
            name = f"{name}-{self._began}"
        elif job.validates_only:
            name = f"{self._whole.run.name}/trial-{run + 1}"
        else:
            config = job.config
            name = f"{self._whole.run.name}/{name}-batch{config.batch_size}-seed{config.seed}"
        self._open[run] = self._begin(name, _settings(job))

    def on_event(self, event: Mapping[str, Any], *, run: int | None = None) -> None:
        """Take the points of an epoch; they are written now or with a later one."""
        run = self._latest if run is None else run
        if event["event"] == "epoch" and self._formats:  # first: what is shown has been logged
            self._take(run, event)
        self._observer.on_event(event, run=run)

    def _take(self, run: int, event: Mapping[str, Any]) -> None:
        if event["epoch"] <= self._open[run].epoch:  # it has been repeated, or moved
            self._start(run)
        this = self._open[run]
        this.epoch = event["epoch"]
        this.points += _points(event)
        if time.monotonic() - this.written_at >= _SECONDS_BETWEEN_WRITES:
            self._write(this)

    def finish_run(
        self,
        record: RunRecord | None = None,
        *,
        failure: str = "",
        run: int | None = None,
        files: Sequence[Path] = (),
    ) -> None:
        """End the log of a run, with its confusion matrix, its model and ``files``."""
        run = self._latest if run is None else run
        self._observer.finish_run(record, failure=failure, run=run)
        this = self._open.pop(run)
        if record is None:  # a trial of a search has none
            self._end(this, Ending("failed" if failure else "finished", failure))
            return
        if not this.epoch:  # it was finished before
            this.points += _points_of(record)
        if record.checkpoint and Path(record.checkpoint).exists():
            files = [*files, Path(record.checkpoint)]
        try:
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                pictures = self._pictures(record, Path(folder))
                self._end(this, _ending(record, [*pictures, *files]))
        except OSError as error:  # no room for pictures
            self.note(f"Warning: the logs have no confusion matrix: {error}")
            self._end(this, _ending(record, files))

    def end_experiment(self, document: Mapping[str, Any], files: Sequence[Path]) -> None:
        """End the log of the whole, with its document and charts."""
        if self._whole is not None:
            figures = {name: float(len(document[name])) for name in ("runs", "failures")}
            environment = _flat(document["environment"])
            ending = Ending("finished", "", figures, environment, tuple(files))
            self._end(self._whole, ending)
            self._whole = None

    def note(self, text: str) -> None:
        """Tell the observer."""
        self._observer.note(text)

    def close(self, ending: Ending) -> None:
        """End what is open; a run without a record has not finished, even if all is well."""
        stopped = Ending("interrupted", "it was stopped")
        for each in self._open.values():
            self._end(each, stopped if ending.status == "finished" else ending)
        self._open.clear()
        if self._whole is not None:
            self._end(self._whole, ending)
            self._whole = None

    def _begin(self, name: str, settings: Values, *, is_experiment: bool = False) -> _Open:
        """Begin a log in each format, in a folder of its own."""
        run = Run(self._root, self._root / name, settings, is_experiment=is_experiment)
        if not self._formats:
            return _Open(run, {}, 0.0)
        number = 1
        while run.folder.exists():
            number += 1
            run = replace(run, folder=self._root / f"{name}-{number}")
        logs = {}
        for each in list(self._formats):
            parent = self._whole.logs.get(each) if self._whole else None
            log = self._attempt(each, _opener(each), replace(run, parent=parent))
            if log is not None:
                logs[each] = log
        if self._whole is None:
            for place in dict.fromkeys(log.place for log in logs.values()):
                self.note(f"log in: {place}")
        return _Open(run, logs, time.monotonic())

    def _write(self, this: _Open) -> None:
        for name, log in this.logs.items() if this.points else ():
            self._attempt(name, log.add, this.points)
        this.points, this.written_at = [], time.monotonic()

    def _end(self, this: _Open, ending: Ending) -> None:
        self._write(this)
        for name, log in this.logs.items():
            self._attempt(name, log.end, ending)

    def _attempt(self, name: str, act: Callable[[_T], _R], argument: _T) -> _R | None:
        """Return what ``act`` returns, or None if the format has failed, now or before.

        Raises `OutputError` if it has never succeeded: then the training has not begun.
        """
        if name not in self._formats:
            return None
        try:
            result = act(argument)
        except Exception as error:  # whatever a format's library raises must end no training
            why = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            if name not in self._begun:
                raise OutputError(
                    f"The {name} log cannot be begun: {why}. Choose another --log-dir, "
                    f"or leave --log {name} out."
                ) from error
            self._formats.remove(name)
            self.note(f"Warning: the {name} log ends here, the training does not: {why}.")
            return None
        self._begun.add(name)
        return result

    def _pictures(self, record: RunRecord, folder: Path) -> list[Path]:
        """Draw the confusion matrix, if the data set is here and the disk not full."""
        from mnist_cli.reporting.charts import confusion
        from mnist_cli.reporting.results import dataset_of
        from mnist_cli.training import evaluation

        dataset = dataset_of(record) if self._formats else None
        if dataset is None:
            return []
        names = dataset.class_names
        matrix = evaluation.confusion_matrix(
            dataset.test_labels, record.test_errors, classes=len(names)
        )
        path = folder / "confusion.png"
        name = model_name(record.framework, record.arch, record.activation)
        title = f"{name} on {dataset_name(record.dataset)}"
        try:
            confusion.draw(matrix, path, title=title, class_names=names)
        except MnistError as error:
            self.note(f"Warning: the logs have no confusion matrix: {error}")
            return []
        return [path]


def _opener(name: str) -> Callable[[Run], RunLog]:
    """Return what begins a log in a format, in a folder that is made for it if it needs one."""

    def begin(run: Run) -> RunLog:
        if FORMATS[name].has_folder:
            run.folder.mkdir(parents=True, exist_ok=True)
        return FORMATS[name].open(run)

    return begin


def _settings(job: TrainJob) -> dict[str, Any]:
    """Return the settings of a run, without those that it does not have."""
    settings = {
        "framework": job.framework,
        **asdict(job.spec),
        "dataset": job.dataset,
        "limit": job.limit,
        "device": job.device,
        "started_from": job.started_from,
        **asdict(job.config),
    }
    del settings["classes"]  # the data's, which the job has not loaded
    return {name: value for name, value in settings.items() if value is not None}


def _points(epoch: Mapping[str, Any]) -> list[Point]:
    """Return the points of an ``epoch`` event; the last has the figures of the epoch too.

    A trial of a search reports epochs alone, which are its steps.
    """
    if "curve" not in epoch:
        return [Point(epoch["epoch"], epoch["epoch"], time.time(), _epoch_figures(epoch))]
    began = time.time() - epoch["train_seconds"]
    columns = zip(*(epoch["curve"][name] for name in ("step", *CURVE)), strict=True)
    points = [
        Point(step, epoch["epoch"], began + figures[-1], dict(zip(CURVE, figures, strict=True)))
        for step, *figures in columns
    ]
    points[-1].figures.update(_epoch_figures(epoch))
    return points


def _points_of(record: RunRecord) -> list[Point]:
    """Return a point per epoch of a run whose events were told to another."""
    steps = record.train_images // record.batch_size
    return [
        Point(
            row.epoch * steps,
            row.epoch,
            time.time(),
            {"train_seconds": row.train_seconds, **_epoch_figures(asdict(row))},
        )
        for row in record.history
    ]


def _epoch_figures(row: Mapping[str, float]) -> dict[str, float]:
    fields = {name: name.removeprefix("epoch_") for name in EPOCH}
    return {name: row[field] for name, field in fields.items() if field in row}


def _ending(record: RunRecord, files: Sequence[Path]) -> Ending:
    figures = {name: getattr(record, name) for name in _FIGURES}
    figures |= {f"seconds_to_{mark}": value for mark, value in record.time_to_accuracy.items()}
    conditions = record.conditions and asdict(record.conditions)
    return Ending(
        status="finished",
        figures={name: float(value) for name, value in figures.items() if value is not None},
        environment=_flat({**record.environment, "conditions": conditions}),
        files=tuple(files),
    )


def _flat(values: Values, prefix: str = "") -> dict[str, Any]:
    """Return nested values under names such as ``conditions.seconds``, without empty ones."""
    pairs: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            pairs |= _flat(value, f"{prefix}{name}.")
        elif value not in (None, [], ""):
            pairs[prefix + name] = value
    return pairs

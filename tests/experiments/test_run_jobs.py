"""The runs of an experiment, one after the other: what is executed, written, resumed and told.

The runs themselves are made up: `execute` stands in for the runner.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from made_records import make_record

from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.data.registry import load_dataset
from mnist_cli.errors import (
    DataError,
    DivergedError,
    FrameworkError,
    OutputError,
    RecordError,
    UsageError,
)
from mnist_cli.experiments import run
from mnist_cli.experiments.document import load_document, records_of
from mnist_cli.experiments.plan import job_key, plan_jobs
from mnist_cli.machine import describe_machine
from mnist_cli.records import RunRecord
from mnist_cli.runners.base import TrainJob

SETTINGS = {"frameworks": ["fake"], "runs": 2, "learning_rate": 0.1, "activation": "relu"}


class Observer:
    """Notes what it is told, and what the file beside it held at the end of each run."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.labels: list[str] = []
        self.events: list[Mapping[str, Any]] = []
        self.ends: list[tuple[RunRecord | None, str]] = []
        self.runs_on_disk: list[int] = []
        self.notes: list[str] = []

    def start_run(self, label: str, *, run: int | None = None) -> None:
        self.labels.append(label)

    def on_event(self, event: Mapping[str, Any], *, run: int | None = None) -> None:
        self.events.append(event)

    def finish_run(
        self, record: RunRecord | None = None, *, failure: str = "", run: int | None = None
    ) -> None:
        self.ends.append((record, failure))
        if self.path is not None:
            self.runs_on_disk.append(len(load_document(self.path)["runs"]))

    def note(self, text: str) -> None:
        self.notes.append(text)


class Runner:
    """Returns a made-up record for each job, or raises what ``errors`` has for its number."""

    def __init__(self, sha256: str) -> None:
        self.sha256 = sha256
        self.jobs: list[TrainJob] = []
        self.timeouts: list[float | None] = []
        self.errors: dict[int, BaseException] = {}

    def __call__(
        self, job: TrainJob, on_event: Any, *, timeout_seconds: float | None = None
    ) -> dict[str, Any]:
        self.jobs.append(job)
        self.timeouts.append(timeout_seconds)
        on_event({"event": "phase", "name": "warming up"})
        if len(self.jobs) in self.errors:
            raise self.errors[len(self.jobs)]
        record = make_record(job.framework, job.spec.arch, seed=job.config.seed, epochs=1)
        environment = describe_machine() | {"data_sha256": self.sha256, "threads": job.threads}
        return replace(
            record, batch_size=job.config.batch_size, test_errors=(), environment=environment
        ).to_json()


@pytest.fixture
def execute(small_data: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    runner = Runner(load_dataset(str(small_data)).sha256)
    monkeypatch.setattr(run.process, "run", runner)
    return runner


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results" / "comparison_results.json"


@pytest.fixture
def compare(small_data: Path, execute: Runner, path: Path) -> Callable[..., Any]:
    """Run two rounds of two networks; return the document and the observer."""

    def compare(
        *, runs: int = 2, settings: Mapping[str, Any] = {}, to: Path | None = path, **options: Any
    ) -> tuple[dict[str, Any], Observer]:
        execute.jobs.clear()
        observer = Observer(to and to.with_suffix(".partial.json"))
        document = run.run_jobs(
            _jobs(small_data, runs),
            path=to,
            settings={**SETTINGS, "runs": runs, **settings},
            observer=observer,
            **options,
        )
        return document, observer

    return compare


def _jobs(data: Path, runs: int, *, batch_sizes: tuple[int, ...] = (20,)) -> list[TrainJob]:
    template = TrainJob("fake", ModelSpec("mlp"), TrainConfig(batch_size=20), 1, dataset=str(data))
    return plan_jobs(
        template,
        frameworks=["fake"],
        networks=[ModelSpec("cnn"), ModelSpec("mlp")],
        runs=runs,
        batch_sizes=batch_sizes,
    )


def _stop_in_run(execute: Runner, number: int, compare: Callable[..., Any]) -> None:
    execute.errors = {number: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        compare()
    execute.errors = {}


def _edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_every_run_is_executed_in_the_order_of_the_plan_and_told(
    compare: Callable[..., Any], execute: Runner, small_data: Path
) -> None:
    document, observer = compare()
    jobs = _jobs(small_data, 2)
    assert execute.jobs == jobs
    assert [(r.arch, r.seed) for r in records_of(document)] == [
        ("cnn", 0),
        ("mlp", 0),
        ("mlp", 1),
        ("cnn", 1),
    ]
    assert observer.labels == [
        "fake CNN seed 0",
        "fake MLP seed 0",
        "fake MLP seed 1",
        "fake CNN seed 1",
    ]
    assert len(observer.events) == 4
    assert [record for record, _ in observer.ends] == records_of(document)
    assert {failure for _, failure in observer.ends} == {""}
    assert observer.notes == []


def test_each_finished_run_is_on_disk_before_the_next_begins(
    compare: Callable[..., Any], path: Path
) -> None:
    document, observer = compare()
    assert observer.runs_on_disk == [1, 2, 3, 4]
    assert load_document(path) == json.loads(json.dumps(document))
    assert sorted(file.name for file in path.parent.iterdir()) == [".mnist.lock", path.name]


def test_without_a_path_nothing_is_written(
    compare: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    document, _ = compare(to=None)
    assert len(document["runs"]) == 4
    assert list(tmp_path.iterdir()) == []


def test_the_timeout_is_that_of_each_run(compare: Callable[..., Any], execute: Runner) -> None:
    compare(timeout_seconds=60)
    assert execute.timeouts == [60] * 4


def test_a_variable_that_limits_a_framework_is_told_once_after_its_first_run(
    compare: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = ["NumPy is limited to Haswell kernels by OPENBLAS_CORETYPE"]
    monkeypatch.setattr(run, "library_limits", lambda records: told if records else [])
    _, observer = compare()
    assert observer.notes == ["Warning: NumPy is limited to Haswell kernels by OPENBLAS_CORETYPE."]


@pytest.mark.parametrize("quiet_machine", [True, False])
def test_runs_are_quiet_ones_if_asked_for(
    compare: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, quiet_machine: bool
) -> None:
    quiet = []

    def run_quietly(execute: Callable[[], RunRecord], _: Any, *, uses_gpu: bool) -> RunRecord:
        quiet.append(uses_gpu)
        return execute()

    monkeypatch.setattr(run, "run_quietly", run_quietly)
    document, _ = compare(quiet_machine=quiet_machine)
    assert len(document["runs"]) == 4
    assert quiet == [True] * 4 * quiet_machine  # "auto" may be a GPU


@pytest.mark.parametrize("error", [FrameworkError("it broke"), DivergedError("it broke")])
def test_a_run_that_fails_is_a_failure_and_the_others_go_on(
    compare: Callable[..., Any], execute: Runner, error: Exception
) -> None:
    execute.errors = {2: error}
    document, observer = compare()
    assert document["failures"] == [
        {"framework": "fake", "arch": "mlp", "batch_size": 20, "seed": 0, "error": "it broke"}
    ]
    assert len(document["runs"]) == 3
    assert observer.ends[1] == (None, "it broke")
    assert observer.ends[2][1] == ""
    assert observer.runs_on_disk == [1, 1, 2, 3]


def test_an_error_that_every_run_would_have_is_raised(
    compare: Callable[..., Any], execute: Runner, path: Path
) -> None:
    execute.errors = {2: DataError("no such data")}
    with pytest.raises(DataError):
        compare()
    assert len(load_document(path.with_suffix(".partial.json"))["runs"]) == 1
    assert not path.exists()


@pytest.mark.parametrize("stopped_in", [1, 2, 4])
def test_resuming_executes_the_runs_that_are_missing(
    compare: Callable[..., Any], execute: Runner, small_data: Path, path: Path, stopped_in: int
) -> None:
    _stop_in_run(execute, stopped_in, compare)
    document, observer = compare(resume=True)
    assert execute.jobs == _jobs(small_data, 2)[stopped_in - 1 :]
    assert len(document["runs"]) == len(observer.ends) == 4
    assert load_document(path) == json.loads(json.dumps(document))
    assert not path.with_suffix(".partial.json").exists()


def test_resuming_prefers_the_unfinished_experiment_to_an_earlier_one(
    compare: Callable[..., Any], execute: Runner
) -> None:
    compare()
    _stop_in_run(execute, 3, compare)
    compare(resume=True)
    assert len(execute.jobs) == 2


def test_resuming_does_failed_runs_of_a_finished_experiment_again(
    compare: Callable[..., Any], execute: Runner
) -> None:
    execute.errors = {2: FrameworkError("it broke")}
    compare()
    execute.errors = {}
    document, _ = compare(resume=True)
    assert [job.spec.arch for job in execute.jobs] == ["mlp"]
    assert document["failures"] == []
    assert len(document["runs"]) == 4


def test_resuming_a_complete_experiment_executes_nothing_and_says_so(
    compare: Callable[..., Any], execute: Runner
) -> None:
    first, _ = compare()
    again, observer = compare(resume=True)
    assert execute.jobs == []
    assert again["runs"] == first["runs"]
    assert observer.notes == ["All 4 runs are there already; none is missing."]
    _, observer = compare(runs=3, resume=True)
    assert observer.notes == []
    assert {job.config.seed for job in execute.jobs} == {2}


def test_resuming_where_nothing_is_there_executes_all(
    compare: Callable[..., Any], execute: Runner
) -> None:
    _, observer = compare(resume=True)
    assert len(execute.jobs) == 4
    assert observer.notes == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"learning_rate": 0.2}, "learning_rate 0.1, not 0.2"),
        ({"runs": 1}, "runs 2, not 1"),
        ({"activation": "sigmoid"}, "activation relu, not sigmoid"),
        ({"something": "new"}, "something None, not new"),
    ],
)
def test_another_experiment_is_not_resumed(
    compare: Callable[..., Any], execute: Runner, path: Path, settings: dict[str, Any], said: str
) -> None:
    compare()
    before = path.read_bytes()
    with pytest.raises(RecordError, match=f"Cannot resume .*{path.name}: .* {said}"):
        compare(resume=True, settings=settings)
    assert execute.jobs == []
    assert path.read_bytes() == before


def test_a_document_from_before_a_setting_is_resumed_with_what_was_then_the_only_choice(
    compare: Callable[..., Any], execute: Runner, path: Path
) -> None:
    compare()
    _edit(path, lambda document: document["settings"].pop("activation"))
    compare(resume=True)
    assert execute.jobs == []
    _edit(path, lambda document: document["settings"].pop("activation"))
    with pytest.raises(RecordError, match="activation"):
        compare(resume=True, settings={"activation": "sigmoid"})


@pytest.mark.parametrize("name", ["cpu", "cores", "os", "python", "data_sha256"])
def test_runs_of_another_machine_python_or_data_are_not_resumed(
    compare: Callable[..., Any], path: Path, name: str
) -> None:
    compare()
    _edit(path, lambda document: document["runs"][-1]["environment"].update({name: "other"}))
    with pytest.raises(RecordError, match=f"its runs had {name} other, here it is "):
        compare(resume=True)


def test_starting_anew_keeps_an_unfinished_experiment_and_numbers_what_it_keeps(
    compare: Callable[..., Any], execute: Runner, path: Path
) -> None:
    for number in (1, 2):
        _stop_in_run(execute, 2, compare)
        _, observer = compare()
        assert len(execute.jobs) == 4
        kept = path.with_name(f"comparison_results.partial.kept-{number}.json")
        assert len(load_document(kept)["runs"]) == 1
        assert observer.notes == [f"An unfinished comparison was found; it is kept as {kept}."]


def test_an_experiment_stopped_in_its_first_run_leaves_nothing_to_keep(
    compare: Callable[..., Any], execute: Runner, path: Path
) -> None:
    _stop_in_run(execute, 1, compare)
    _, observer = compare()
    assert observer.notes == []
    assert sorted(file.name for file in path.parent.iterdir()) == [".mnist.lock", path.name]


def test_an_experiment_without_a_finished_run_keeps_the_earlier_record(
    compare: Callable[..., Any], execute: Runner, path: Path
) -> None:
    execute.errors = {number: FrameworkError("no") for number in range(1, 5)}
    _, observer = compare()
    assert observer.notes == []  # there is no earlier record
    execute.errors = {}
    compare()
    first = path.read_bytes()
    execute.errors = {number: FrameworkError("no") for number in range(1, 5)}
    _, observer = compare()
    kept = path.with_suffix(".kept-1.json")
    assert kept.read_bytes() == first
    assert observer.notes == [f"No run was finished: the earlier record is {kept} now."]
    assert load_document(path)["runs"] == []


@pytest.mark.parametrize("name", ["comparison_results.json", "comparison_results.partial.json"])
@pytest.mark.parametrize("resume", [True, False])
def test_a_document_that_cannot_be_read_is_kept_aside(
    compare: Callable[..., Any], execute: Runner, path: Path, name: str, resume: bool
) -> None:
    damaged = path.with_name(name)
    damaged.parent.mkdir()
    damaged.write_text("{ half")
    _, observer = compare(resume=resume)
    kept = damaged.with_suffix(".kept-1.json")
    assert kept.read_text() == "{ half"
    (note,) = observer.notes
    assert str(damaged) in note
    assert f"It is kept as {kept}." in note
    assert len(execute.jobs) == len(load_document(path)["runs"]) == 4


def test_two_experiments_do_not_share_a_folder(
    compare: Callable[..., Any], execute: Runner, path: Path
) -> None:
    path.parent.mkdir()
    with FileLock(path.parent / ".mnist.lock"), pytest.raises(OutputError, match="is running in"):
        compare()
    assert execute.jobs == []
    compare()  # the lock is free again
    compare(resume=True)


def test_a_folder_that_cannot_be_written_is_found_before_the_first_run(
    compare: Callable[..., Any], execute: Runner, path: Path
) -> None:
    path.parent.write_text("in the way")
    with pytest.raises(OutputError, match=r"Cannot write to the folder .*results: a part of this"):
        compare()
    assert execute.jobs == []


def test_what_would_make_a_later_run_fail_is_found_before_the_first(
    execute: Runner, small_data: Path, path: Path
) -> None:
    def start(jobs: list[TrainJob]) -> None:
        run.run_jobs(jobs, path=path, settings=SETTINGS, observer=Observer())

    with pytest.raises(UsageError, match="at most the 440 training images, not 441"):
        start(_jobs(small_data, 1, batch_sizes=(20, 441, 40)))
    limited = [replace(job, limit=30) for job in _jobs(small_data, 1, batch_sizes=(20, 31))]
    with pytest.raises(UsageError, match="at most the 30 training images, not 31"):
        start(limited)
    with pytest.raises(UsageError, match="limit must be"):
        start([replace(job, limit=441) for job in limited])
    assert execute.jobs == []
    assert not path.parent.exists()


def test_runs_that_differ_in_batch_size_are_told_apart(
    execute: Runner, small_data: Path, path: Path
) -> None:
    jobs = _jobs(small_data, 1, batch_sizes=(20, 40))
    observer = Observer()
    document = run.run_jobs(jobs, path=path, settings=SETTINGS, observer=observer)
    assert {(r.arch, r.batch_size, r.seed) for r in records_of(document)} == {
        job_key(job)[1:] for job in jobs
    }
    assert observer.labels[0] == "fake CNN batch 20"
    execute.jobs.clear()
    run.run_jobs(jobs, path=path, settings=SETTINGS, observer=observer, resume=True)
    assert execute.jobs == []

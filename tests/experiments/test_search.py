"""A search without a cluster: its space, its trials, and its document on disk."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer.main
from made_search import epoch_event, make_search, pretend

from mnist_cli.api import tuning
from mnist_cli.cli import app
from mnist_cli.config import SEARCH_SPACE, ModelSpec, TrainConfig
from mnist_cli.errors import RecordError, UsageError
from mnist_cli.experiments import search
from mnist_cli.runners.base import TrainJob
from mnist_cli.runners.search import EPOCH_FIELDS

Mnist = Callable[..., Any]
SCHEMAS = json.loads(Path(__file__).parents[1].joinpath("schemas.json").read_text())
LINE = "conv 8, relu, pool, dense 32, relu"
SPACE = {name: search.read_values(name, given) for name, given in SEARCH_SPACE.items()}
TEMPLATE = TrainJob("numpy", ModelSpec("mlp"), TrainConfig(epochs=3), 1)


def require_schema(document: Any) -> None:
    jsonschema.Draft202012Validator({**SCHEMAS, "$ref": "#/$defs/tune"}).validate(document)


# --- The space -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("learning_rate", "0.01:0.3", search.Values((0.01, 0.3), is_range=True)),
        ("learning_rate", "0.1:0.1", search.Values((0.1,))),
        ("learning_rate", " 1e-2 , 0.1,0.01", search.Values((0.01, 0.1))),
        ("learning_rate", 0.1, search.Values((0.1,))),
        ("batch_size", "16:512", search.Values((16, 512), is_range=True)),
        ("batch_size", [32, 64], search.Values((32, 64))),
    ],
)
def test_a_setting_is_a_value_a_range_or_choices(
    name: str, given: object, expected: search.Values
) -> None:
    read = search.read_values(name, given)
    assert read == expected
    assert all(type(value) is (int if name == "batch_size" else float) for value in read.values)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--learning-rate", "fast"], "learning rate must be a number, a range such as 0.01:0.3"),
        (["--learning-rate", "0.01:0.1:1"], "or numbers separated by commas, not '0.01:0.1:1'."),
        (["--learning-rate", "0.3:0.01"], "must go from a lower to a higher number, not '0.3:0"),
        (["--learning-rate", "0:0.1"], "learning rate must be a number above 0, not 0.0."),
        (["--learning-rate", "0.1:nan"], "learning rate must be a number above 0, not nan."),
        (["--batch-size", "32,,64"], "batch size must be a whole number, a range such as 32:64"),
        (["--batch-size", "1.5"], "batch size must be a whole number"),
        (["--batch-size", "inf"], "batch size must be a whole number"),
        (["--batch-size", "32,1e400"], "batch size must be a whole number"),
        (["--batch-size", "64:1000"], "batch size must be at most the 440 training images"),
        (["--label-smoothing", "0:1"], "label smoothing must be from 0 to below 1, not 1.0."),
        (["--warmup-fraction", "0.5:1.5"], "warmup fraction must be in (0, 1), not 1.5."),
        (["--decay-power", "0:1"], "decay power must be above 0 to 10, not 0.0."),
        (["--arch", "conv 8, rleu"], "rleu"),
        (["--trials", "0"], "trials must be from 1 to 10000, not 0."),
        (["--reduction-factor", "1"], "reduction factor must be from 2 to 100, not 1."),
        (["--threads", "0"], "threads must be from 1 to 1024, not 0."),
        (["--epochs", "0"], "epochs must be from 1 to 10000, not 0."),
        (["--device", "tpu"], "Unknown device 'tpu'."),
        (["--address", "nowhere"], "address must be auto, local, ray://HOST:PORT or HOST:PORT"),
    ],
)
def test_wrong_options_are_named_before_anything_starts(
    mnist: Mnist, small_data: Path, tmp_path: Path, options: list[str], said: str
) -> None:
    data = ["--framework", "fake", "--dataset", small_data, "--results-dir", tmp_path]
    outcome = mnist("tune", *data, *options)
    assert outcome.exit_code == 2
    assert said in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1


def test_a_space_with_too_few_trials_is_refused() -> None:
    fixed = {name: search.read_values(name, values.values[0]) for name, values in SPACE.items()}
    with pytest.raises(UsageError, match="nothing to search"):
        search.plan_trials(TEMPLATE, [ModelSpec("mlp")], fixed, 2)
    few = fixed | {"batch_size": search.read_values("batch_size", "32,64")}
    networks = [ModelSpec("mlp"), ModelSpec("cnn")]
    assert len(search.plan_trials(TEMPLATE, networks, few, 4)) == 4
    with pytest.raises(UsageError, match=r"only 4 different trials .* give --trials 4"):
        search.plan_trials(TEMPLATE, networks, few, 5)


def test_trials_cover_the_space_and_more_of_them_begin_with_the_same_ones() -> None:
    networks = [ModelSpec("mlp"), ModelSpec("cnn")]
    jobs = search.plan_trials(TEMPLATE, networks, SPACE, 64)
    assert search.plan_trials(TEMPLATE, networks, SPACE, 40) == jobs[:40]
    assert len(set(jobs)) == 64
    assert {job.config.seed for job in jobs} == {0}
    assert {job.config.batch_size for job in jobs} == {32, 64, 128, 256}
    rates = sorted(job.config.learning_rate for job in jobs)
    assert 0.01 <= rates[0] < 0.012
    assert 0.25 < rates[-1] <= 0.3
    # Uniform on a logarithmic scale: the middle is the geometric mean, 0.055. A Halton sequence of
    # 64 points has its median within a few ranks of it.
    assert 0.045 < rates[32] < 0.066
    assert sum(job.spec.arch == "mlp" for job in jobs) == 32


# --- The document ----------------------------------------------------------------------------


def test_the_document_has_every_trial_and_a_command_that_trains_the_best(tmp_path: Path) -> None:
    document = make_search(20, ["mlp", LINE], path=tmp_path / "tune_results.json")
    require_schema(document)
    assert json.loads((tmp_path / "tune_results.json").read_text()) == document
    assert not (tmp_path / "tune_results.partial.json").exists()
    states = [trial["state"] for trial in document["trials"]]
    assert {"finished", "stopped", "diverged"} == set(states)
    best = document["trials"][document["best"] - 1]
    finished = [trial for trial in document["trials"] if trial["state"] == "finished"]
    accuracy = max(trial["history"][-1]["validation_accuracy"] for trial in finished)
    assert best["history"][-1]["validation_accuracy"] == accuracy
    words = shlex.split(document["command"])
    assert words[:2] == ["mnist", "train"]
    train = typer.main.get_command(app.app).commands["train"]  # type: ignore[attr-defined]
    options = train.make_context("train", words[2:]).params
    for name in SEARCH_SPACE:
        assert options[name] == best[name]
    assert options["arch"] == (LINE if best["arch"] != "mlp" else "mlp")
    assert (options["framework"], options["epochs"], options["seed"]) == ("numpy", 5, 0)


def test_a_trial_that_is_lost_before_it_begins_has_failed() -> None:
    def execute(jobs: Any, finished: Any, on_event: Any) -> None:
        lost = {"event": "ended", "state": "failed", "error": "lost 4 times"}
        on_event(1, lost)
        pretend({number: job for number, job in jobs.items() if number > 1}, finished, on_event)

    document = make_search(4, execute=execute)
    assert document["trials"][0]["state"] == "failed"
    assert document["best"] is not None


def test_of_equally_accurate_trials_the_best_has_the_lowest_loss() -> None:
    def trial(number: int, state: str, accuracy: float, loss: float) -> dict[str, Any]:
        row = {"validation_accuracy": accuracy, "validation_loss": loss}
        return {"number": number, "state": state, "history": [row]}

    trials = [
        trial(1, "finished", 0.9, 0.3),
        trial(2, "finished", 0.9, 0.2),
        trial(3, "stopped", 0.99, 0.1),  # not trained to the end
    ]
    best = search.best_trial(trials)
    assert best is not None
    assert best["number"] == 2


def test_the_command_names_what_is_not_as_usual() -> None:
    job = TrainJob(
        "torch", ModelSpec("cnn"), TrainConfig(augment=True), 1, dataset="my digits", limit=100
    )
    words = search.command(job)
    assert words.endswith("--seed 0 --dataset 'my digits' --limit 100 --augment")
    assert search.command(replace(job, fix_orientation=True)) == f"{words} --fix-orientation"
    assert search.command(replace(job, device="cuda")).count(" --device cuda ") == 1


def test_a_trial_that_is_begun_again_counts_once(tmp_path: Path) -> None:
    def lose_one(jobs: Any, finished: Any, on_event: Any) -> None:
        on_event(1, {"event": "started", "node": "n1"})
        on_event(1, epoch_event(1, 0.5, 5))
        on_event(1, {"event": "again", "reason": "its node was lost"})
        pretend(jobs, finished, on_event)

    document = make_search(4, execute=lose_one, path=tmp_path / "tune_results.json")
    require_schema(document)
    assert [trial["retries"] for trial in document["trials"]] == [1, 0, 0, 0]
    epochs = [row["epoch"] for row in document["trials"][0]["history"]]
    assert epochs == list(range(1, len(epochs) + 1))
    assert set(document["trials"][0]["history"][0]) == set(EPOCH_FIELDS)


# --- To be resumed ---------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for a driver that is gone."""


def killed_after(ended: int) -> search.Execute:
    def execute(jobs: Any, finished: Any, on_event: Any) -> None:
        count = 0

        def counted(number: int, event: dict[str, Any]) -> None:
            nonlocal count
            if count == ended and event["event"] == "epoch":
                on_event(number, event)
                raise Killed
            on_event(number, event)
            count += event["event"] == "ended"

        pretend(jobs, finished, counted)

    return execute


def test_a_killed_search_is_resumed_without_a_trial_twice(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tune_results.json"
    whole = make_search(12)
    with pytest.raises(Killed):
        make_search(12, path=path, execute=killed_after(5))
    assert not path.exists()
    begun: list[int] = []
    known: list[list[float]] = []

    def note(jobs: Any, finished: Any, on_event: Any) -> None:
        begun.extend(jobs)
        known.extend(finished)
        pretend(jobs, finished, on_event)

    resumed = make_search(12, path=path, execute=note, resume=True)
    assert begun == list(range(6, 13))  # the sixth was at work
    assert (
        known
        == [  # so that ASHA compares the others with these
            [row["validation_accuracy"] for row in trial["history"]]
            for trial in whole["trials"][:5]
        ]
    )
    assert resumed["trials"] == whole["trials"]
    more = make_search(14, path=path, execute=note, resume=True)
    assert begun[7:] == [13, 14]
    assert more["trials"][:12] == whole["trials"]
    capfd.readouterr()
    assert make_search(14, path=path, execute=note, resume=True)["trials"] == more["trials"]
    assert "All 14 trials are there already; none is missing." in capfd.readouterr().err
    assert len(begun) == 9


def test_a_trial_that_failed_is_tried_again_and_one_that_diverged_is_not(tmp_path: Path) -> None:
    path = tmp_path / "tune_results.json"

    def fail_first(jobs: Any, finished: Any, on_event: Any) -> None:
        on_event(1, {"event": "started", "node": "n1"})
        on_event(1, {"event": "ended", "state": "failed", "error": "out of memory"})
        pretend({n: job for n, job in jobs.items() if n > 1}, finished, on_event)

    before = make_search(20, path=path, execute=fail_first)
    assert [trial["number"] for trial in before["trials"] if trial["state"] == "failed"] == [1]
    assert any(trial["state"] == "diverged" for trial in before["trials"])
    begun: list[int] = []

    def note(jobs: Any, finished: Any, on_event: Any) -> None:
        begun.extend(jobs)
        pretend(jobs, finished, on_event)

    make_search(20, path=path, execute=note, resume=True)
    assert begun == [1]


def test_a_search_from_before_digits_could_be_turned_is_resumed(tmp_path: Path) -> None:
    path = tmp_path / "tune_results.json"
    document = make_search(4, path=path)
    del document["settings"]["fix_orientation"]
    path.write_text(json.dumps(document))
    assert make_search(4, path=path, resume=True)["trials"] == document["trials"]


def test_every_trial_of_a_search_turns_its_digits_if_asked(
    small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[TrainJob] = []

    def look(jobs: Any, finished: Any, on_event: Any, **_: Any) -> None:
        seen.extend(jobs.values())
        pretend(jobs, finished, on_event)

    monkeypatch.setattr("mnist_cli.runners.search.run_trials", look)
    found = tuning.tune("fake", dataset=small_data, trials=2, batch_size=32, fix_orientation=True)
    assert all(job.fix_orientation for job in seen)
    assert found.document["settings"]["fix_orientation"] is True
    require_schema(found.document)


def test_another_search_is_not_resumed(tmp_path: Path) -> None:
    path = tmp_path / "tune_results.json"
    make_search(6, path=path)
    with pytest.raises(RecordError, match=r"made with space .*another search"):
        make_search(6, path=path, resume=True, learning_rate="0.01:0.2")
    with pytest.raises(RecordError, match="made with trials 6, not 5"):
        make_search(5, path=path, resume=True)


@pytest.mark.parametrize("content", ["{", "[]", '{"schema_version": 9}', '{"schema_version": 1}'])
def test_a_damaged_document_is_not_resumed_and_not_overwritten(
    tmp_path: Path, content: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tune_results.json"
    path.write_text(content)
    with pytest.raises(RecordError, match="is damaged"):
        make_search(4, path=path, resume=True)
    make_search(4, path=path)
    assert (tmp_path / "tune_results.kept-1.json").read_text() == content
    assert "It is kept as" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("place", "change"),
    [
        ("settings", {"trials": None}),
        ("trial", {"retries": None}),
        ("trial", {"number": 7}),
        ("trial", {"learning_rate": "fast"}),
        ("trial", {"state": "finished", "history": [], "error": "lost"}),
    ],
)
def test_a_document_with_a_damaged_field_is_not_resumed(
    tmp_path: Path, place: str, change: dict[str, Any]
) -> None:
    path = tmp_path / "tune_results.json"
    document = make_search(4, path=path)
    damaged = document["settings"] if place == "settings" else document["trials"][0]
    damaged |= change
    path.write_text(json.dumps(document))
    with pytest.raises(RecordError, match="is damaged"):
        make_search(4, path=path, resume=True)


@pytest.mark.parametrize("name", ["number", "retries", "error"])
def test_a_document_without_a_field_is_not_resumed(tmp_path: Path, name: str) -> None:
    path = tmp_path / "tune_results.json"
    document = make_search(4, path=path)
    del document["trials"][0][name]
    path.write_text(json.dumps(document))
    with pytest.raises(RecordError, match="is damaged"):
        make_search(4, path=path, resume=True)


def test_an_unfinished_search_is_kept_when_another_begins(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tune_results.json"
    with pytest.raises(Killed):
        make_search(6, path=path, execute=killed_after(2))
    make_search(4, path=path)
    assert (tmp_path / "tune_results.partial.kept-1.json").exists()
    assert "An unfinished search was found." in capfd.readouterr().err

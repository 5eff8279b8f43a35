"""What survives a kill or a failure of a comparison, and what `--resume` does with it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from outcomes import Outcome

from mnist_cli.experiments import run as experiment_run
from mnist_cli.experiments.document import load_document

Mnist = Callable[..., Outcome]
Start = Callable[..., subprocess.Popen[str]]
# What differs from one measurement to the next; all else must be equal.
MEASURED = re.compile(
    r"seconds|per_second|peak_rss|created|time_to_accuracy|speed|faster|conditions"
)


def _without_measurements(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_measurements(v) for k, v in value.items() if not MEASURED.search(k)}
    return [_without_measurements(item) for item in value] if isinstance(value, list) else value


@pytest.fixture
def quick(small_data: Path, tmp_path: Path) -> list[str]:
    """Options for runs of a fraction of a second each."""
    options = ["--framework", "fake", "--epochs", "2", "--dataset", str(small_data)]
    return [*options, "--results-dir", str(tmp_path / "results")]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start ``mnist`` with arguments and variables; what still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(command: list[str], **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "mnist_cli", *command],
            env={**os.environ, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def _wait_for_runs(partial: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if partial.exists() and len(json.loads(partial.read_text())["runs"]) >= count:
            return
        time.sleep(0.02)
    raise AssertionError(f"{partial} never had {count} runs")


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_comparison_killed_in_run_4_of_6_resumes_to_the_unbroken_document(
    mnist: Mnist,
    quick: list[str],
    tmp_path: Path,
    start: Start,
    small_data: Path,
    sent: signal.Signals,
) -> None:
    command = ["compare", "--runs", "3", *quick]
    # Three rounds of two networks, every other one in reverse: the fourth run never ends.
    process = start(command, FAKE_FRAMEWORK="sleep 1", FAKE_FRAMEWORK_ONLY="cnn 1")
    partial = tmp_path / "results" / "comparison_results.partial.json"
    _wait_for_runs(partial, 3)
    process.send_signal(sent)  # to the parent alone: the child must notice
    _, stderr = process.communicate(timeout=30)
    if sent == signal.SIGINT:
        assert process.returncode == 130
        assert "Traceback" not in stderr
    assert len(json.loads(partial.read_text())["runs"]) == 3
    assert not (tmp_path / "results" / "comparison_results.json").exists()

    resumed = mnist(*command, "--resume", "--json")
    assert resumed.exit_code == 0, resumed.stderr
    assert not partial.exists()
    assert resumed.stderr.count("1/2") == 3  # only the missing three were trained
    unbroken = mnist(*command[:-1], tmp_path / "other", "--json")
    ours, theirs = _without_measurements(resumed.document), _without_measurements(unbroken.document)
    for run in (*ours["runs"], *theirs["runs"]):
        run["checkpoint"] = bool(run["checkpoint"])  # they lie in different folders
    assert ours == theirs


def test_a_kill_in_the_first_run_resumes_with_none_of_the_last_comparison(
    mnist: Mnist, quick: list[str], tmp_path: Path, start: Start
) -> None:
    mnist("compare", "--arch", "mlp", *quick)
    command = ["compare", "--runs", "2", *quick]
    process = start(command, FAKE_FRAMEWORK="sleep 1")
    _wait_for_runs(tmp_path / "results" / "comparison_results.partial.json", 0)
    process.kill()
    process.communicate()
    resumed = mnist(*command, "--resume", "--json")
    assert resumed.exit_code == 0, resumed.stderr
    assert resumed.stderr.count("1/2") == 4  # each of the four was trained now


def test_resuming_does_failed_runs_again(
    mnist: Mnist, quick: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FRAMEWORK", "kill 1")
    command = ["compare", "--arch", "mlp", *quick, "--json"]
    failed = mnist(*command)
    assert failed.exit_code == 1
    (failure,) = failed.document["failures"]
    assert "killed by SIGKILL" in failure["error"]
    monkeypatch.delenv("FAKE_FRAMEWORK")
    resumed = mnist(*command, "--resume")
    assert resumed.exit_code == 0
    assert resumed.document["failures"] == []
    assert len(resumed.document["runs"]) == 1


def test_resuming_what_is_complete_says_so_and_measures_nothing(
    mnist: Mnist, quick: list[str]
) -> None:
    command = ["compare", "--arch", "mlp", "--runs", "2", *quick, "--json"]
    first = mnist(*command)
    resumed = mnist(*command, "--resume")
    assert resumed.exit_code == 0, resumed.stderr
    assert "All 2 runs are there already; none is missing." in resumed.stderr
    assert resumed.document["runs"] == first.document["runs"]


def test_resuming_with_more_runs_does_the_new_ones(mnist: Mnist, quick: list[str]) -> None:
    command = ["compare", "--arch", "mlp", *quick, "--json"]
    first = mnist(*command)
    more = mnist(*command, "--runs", "3", "--resume")
    assert more.exit_code == 0, more.stderr
    assert more.document["runs"][0] == first.document["runs"][0]
    assert sorted(run["seed"] for run in more.document["runs"]) == [0, 1, 2]
    assert more.document["settings"]["runs"] == 3
    fewer = mnist(*command, "--runs", "2", "--resume")
    assert fewer.exit_code == 1
    assert "runs 3, not 2" in fewer.stderr


def test_a_changed_setting_is_another_comparison_and_is_named(
    mnist: Mnist, quick: list[str], tmp_path: Path
) -> None:
    mnist("compare", "--arch", "mlp", *quick)
    path = tmp_path / "results" / "comparison_results.json"
    before = path.read_text()
    outcome = mnist("compare", "--arch", "mlp", *quick, "--resume", "--learning-rate", "0.01")
    assert outcome.exit_code == 1
    assert "learning_rate 0.1, not 0.01" in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1
    assert path.read_text() == before


@pytest.mark.parametrize(("name", "value"), [("cpu", "Abacus"), ("data_sha256", "00")])
def test_runs_of_another_machine_or_data_are_not_resumed(
    mnist: Mnist, quick: list[str], tmp_path: Path, name: str, value: str
) -> None:
    mnist("compare", "--arch", "mlp", *quick)
    path = tmp_path / "results" / "comparison_results.json"
    document = json.loads(path.read_text())
    document["runs"][0]["environment"][name] = value
    path.write_text(json.dumps(document))
    outcome = mnist("compare", "--arch", "mlp", *quick, "--resume")
    assert outcome.exit_code == 1
    assert f"its runs had {name} {value}" in outcome.stderr


def test_starting_anew_keeps_an_unfinished_comparison_aside(
    mnist: Mnist, quick: list[str], tmp_path: Path, start: Start
) -> None:
    process = start(["compare", *quick], FAKE_FRAMEWORK="sleep 1", FAKE_FRAMEWORK_ONLY="mlp 0")
    partial = tmp_path / "results" / "comparison_results.partial.json"
    _wait_for_runs(partial, 1)
    process.kill()
    process.communicate()
    before = partial.read_text()
    outcome = mnist("compare", "--arch", "mlp", *quick)
    assert outcome.exit_code == 0
    assert "An unfinished comparison was found" in outcome.stderr
    assert partial.with_name("comparison_results.partial.kept-1.json").read_text() == before


def test_an_unfinished_comparison_leaves_the_last_whole_one_in_place(
    mnist: Mnist, quick: list[str], tmp_path: Path, start: Start
) -> None:
    mnist("compare", "--arch", "mlp", *quick)
    path = tmp_path / "results" / "comparison_results.json"
    before = path.read_text()
    process = start(["compare", *quick], FAKE_FRAMEWORK="sleep 1", FAKE_FRAMEWORK_ONLY="mlp 0")
    _wait_for_runs(path.with_suffix(".partial.json"), 1)
    process.kill()
    process.communicate()
    assert path.read_text() == before


def test_a_comparison_without_a_finished_run_keeps_the_earlier_record(
    mnist: Mnist, quick: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mnist("compare", "--arch", "mlp", *quick)
    path = tmp_path / "results" / "comparison_results.json"
    before = path.read_bytes()
    monkeypatch.setenv("FAKE_FRAMEWORK", "crash 1")
    outcome = mnist("compare", "--arch", "mlp", *quick)
    assert outcome.exit_code == 1
    kept = path.with_suffix(".kept-1.json")
    assert f"No run was finished: the earlier record is {kept} now." in outcome.stderr
    assert kept.read_bytes() == before
    assert not json.loads(path.read_text())["runs"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{ this is no JSON", "is damaged"),
        ('{"schema_version": 99}', "schema version 99; this program reads 1"),
        ('{"schema_version": 1}', "is damaged"),
        ('{"schema_version": 1, "runs": [], "settings": {}, "failures": []}', "is damaged"),
        ("[]", "is damaged"),
    ],
)
def test_records_that_cannot_be_read_are_named_and_kept_aside(
    mnist: Mnist, quick: list[str], tmp_path: Path, content: str, said: str
) -> None:
    path = tmp_path / "results" / "comparison_results.json"
    path.parent.mkdir()
    path.write_text(content)
    outcome = mnist("compare", "--arch", "mlp", *quick, "--resume")
    assert outcome.exit_code == 0, outcome.stderr
    assert said in outcome.stderr
    kept = path.with_name("comparison_results.kept-1.json")
    assert str(kept) in outcome.stderr
    assert kept.read_text() == content
    assert len(load_document(path)["runs"]) == 1


def test_a_full_disk_ends_in_one_line_and_keeps_the_runs_before(
    mnist: Mnist, quick: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = experiment_run.write_json
    calls = []

    def fill_up(path: Path, document: Any) -> None:
        calls.append(path)
        if len(calls) == 3:  # an empty document first, then one for each run
            from mnist_cli import records

            monkeypatch.setattr(records.json, "dumps", _no_space)
        written(path, document)

    monkeypatch.setattr(experiment_run, "write_json", fill_up)
    outcome = mnist("compare", *quick)
    assert outcome.exit_code == 1
    assert "No space left on device" in outcome.stderr.splitlines()[-1]
    partial = tmp_path / "results" / "comparison_results.partial.json"
    assert len(json.loads(partial.read_text())["runs"]) == 1


def _no_space(*_: Any, **__: Any) -> str:
    raise OSError(28, "No space left on device")


def test_a_second_comparison_in_the_same_folder_says_so_and_stops(
    mnist: Mnist, quick: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    with FileLock(folder / ".mnist.lock"):
        outcome = mnist("compare", *quick)
    assert outcome.exit_code == 1
    assert "Another comparison or search is running" in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1

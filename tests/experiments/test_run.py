"""Comparisons and sweeps: the plan, what survives a kill, what is refused, what is reported."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from conftest import Outcome
from filelock import FileLock

from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.errors import RecordError
from mnist_cli.experiments import run as experiment_run
from mnist_cli.experiments.document import load_document
from mnist_cli.experiments.plan import plan_jobs
from mnist_cli.reporting import tables
from mnist_cli.runners.process import TrainJob

Mnist = Callable[..., Outcome]
SCHEMAS = json.loads(Path(__file__).parents[1].joinpath("schemas.json").read_text())
# What differs from one measurement to the next; all else must be equal.
MEASURED = re.compile(r"seconds|per_second|peak_rss|created|time_to_accuracy|speed|faster")


def _validate(document: Any, name: str) -> None:
    jsonschema.Draft202012Validator({**SCHEMAS, "$ref": f"#/$defs/{name}"}).validate(document)


def _without_measurements(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_measurements(v) for k, v in value.items() if not MEASURED.search(k)}
    return [_without_measurements(item) for item in value] if isinstance(value, list) else value


@pytest.fixture
def quick(small_data: Path, tmp_path: Path) -> list[str]:
    """Options for runs of a fraction of a second each."""
    options = ["--framework", "fake", "--epochs", "2", "--dataset", str(small_data)]
    return [*options, "--results-dir", str(tmp_path / "results")]


def test_rounds_are_reversed_in_turn_and_runs_differ_in_seed_only() -> None:
    template = TrainJob("numpy", ModelSpec("mlp"), TrainConfig(seed=5), 2, checkpoint="models")
    jobs = plan_jobs(template, frameworks=["numpy", "torch"], archs=["cnn", "mlp"], runs=3)
    cells = [(job.framework, job.spec.arch) for job in jobs]
    assert cells[:4] == [("numpy", "cnn"), ("torch", "cnn"), ("numpy", "mlp"), ("torch", "mlp")]
    assert cells[4:8] == cells[3::-1]
    assert cells[8:] == cells[:4]
    assert [job.config.seed for job in jobs] == [5] * 4 + [6] * 4 + [7] * 4
    assert jobs[1].checkpoint == "models/torch-cnn.safetensors"
    assert {job.checkpoint for job in jobs[4:]} == {None}


@pytest.mark.parametrize(
    ("scaling", "rates"),
    [("none", [0.1, 0.1, 0.1]), ("linear", [0.025, 0.1, 0.4]), ("sqrt", [0.05, 0.1, 0.2])],
)
def test_the_learning_rate_follows_the_batch_size(scaling: str, rates: list[float]) -> None:
    template = TrainJob("numpy", ModelSpec("mlp"), TrainConfig(learning_rate=0.1), 2)
    jobs = plan_jobs(
        template,
        frameworks=["numpy"],
        archs=["mlp"],
        runs=1,
        batch_sizes=[16, 64, 256],
        lr_scaling=scaling,
    )
    assert [job.config.batch_size for job in jobs] == [16, 64, 256]
    assert [job.config.learning_rate for job in jobs] == pytest.approx(rates)


def test_every_json_document_keeps_to_its_schema(
    mnist: Mnist, quick: list[str], small_data: Path, tmp_path: Path
) -> None:
    _validate(mnist("compare", "--runs", 2, "--json", *quick).document, "experiment")
    broken = mnist("compare", "--framework", "absent", "--json", *quick).document
    assert broken["failures"]
    _validate(broken, "experiment")
    sizes = ["--batch-sizes", "20,40", "--arch", "mlp"]
    _validate(mnist("sweep-batch", *sizes, "--json", *quick).document, "experiment")
    _validate(mnist("train", "--json", *quick).document, "train")
    results = ["--results-dir", tmp_path / "results"]
    _validate(mnist("report", "--json", *results).document, "report")
    _validate(mnist("info", "--json").document, "info")
    mnist("train", *quick[2:], "--framework", "numpy", "--arch", "mlp")
    options = ["--dataset", small_data, *results]
    _validate(mnist("evaluate", "numpy-mlp", "--json", *options).document, "evaluate")


def test_the_schema_notices_a_wrong_document() -> None:
    with pytest.raises(jsonschema.ValidationError):
        _validate({"schema_version": 1}, "experiment")


def _start(command: list[str], **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "mnist_cli", *command],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _wait_for_runs(partial: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if partial.exists() and len(json.loads(partial.read_text())["runs"]) >= count:
            return
        time.sleep(0.02)
    raise AssertionError(f"{partial} never had {count} runs")


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_comparison_killed_in_run_4_of_6_resumes_to_the_unbroken_document(
    mnist: Mnist, quick: list[str], tmp_path: Path, small_data: Path, sent: signal.Signals
) -> None:
    command = ["compare", "--runs", "3", *quick]
    process = _start(command, FAKE_FRAMEWORK="slow 0.3")
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


def test_one_killed_child_gives_five_rows_and_a_failure_row(
    mnist: Mnist, quick: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FRAMEWORK", "kill 1")
    monkeypatch.setenv("FAKE_FRAMEWORK_ONLY", "mlp 1")
    outcome = mnist("compare", "--runs", 3, "--json", *quick)
    assert outcome.exit_code == 1
    assert len(outcome.document["runs"]) == 5
    (failure,) = outcome.document["failures"]
    assert (failure["arch"], failure["seed"]) == ("mlp", 1)


def test_a_kill_in_the_first_run_resumes_with_none_of_the_last_comparison(
    mnist: Mnist, quick: list[str], tmp_path: Path
) -> None:
    mnist("compare", "--arch", "mlp", *quick)
    command = ["compare", "--runs", "2", *quick]
    process = _start(command, FAKE_FRAMEWORK="sleep 1")
    _wait_for_runs(tmp_path / "results" / "comparison_results.partial.json", 0)
    process.kill()
    process.communicate()
    resumed = mnist(*command, "--resume", "--json")
    assert resumed.exit_code == 0, resumed.stderr
    assert resumed.stderr.count("1/2") == 4  # each of the four was trained now


def test_starting_anew_keeps_an_unfinished_comparison_aside(
    mnist: Mnist, quick: list[str], tmp_path: Path
) -> None:
    process = _start(["compare", "--runs", "3", *quick], FAKE_FRAMEWORK="slow 0.3")
    partial = tmp_path / "results" / "comparison_results.partial.json"
    _wait_for_runs(partial, 1)
    process.kill()
    process.communicate()
    before = partial.read_text()
    outcome = mnist("compare", "--arch", "mlp", *quick)
    assert outcome.exit_code == 0
    assert "An unfinished comparison was found" in outcome.stderr
    assert partial.with_name("comparison_results.partial.kept-1.json").read_text() == before


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


def test_a_run_that_hangs_past_the_timeout_becomes_a_failure(
    mnist: Mnist, quick: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FRAMEWORK", "sleep 1")
    outcome = mnist("compare", "--arch", "mlp", "--timeout", 3, "--json", *quick)
    assert outcome.exit_code == 1
    assert "stopped after 3 s, the --timeout" in outcome.document["failures"][0]["error"]


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
@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_records_that_cannot_be_read_are_named_and_kept_aside(
    mnist: Mnist, quick: list[str], tmp_path: Path, content: str, said: str, resume: list[str]
) -> None:
    path = tmp_path / "results" / "comparison_results.json"
    path.parent.mkdir()
    path.write_text(content)
    outcome = mnist("compare", "--arch", "mlp", *quick, *resume)
    assert outcome.exit_code == 0, outcome.stderr
    assert said in outcome.stderr
    kept = path.with_name("comparison_results.kept-1.json")
    assert str(kept) in outcome.stderr
    assert kept.read_text() == content
    assert len(load_document(path)["runs"]) == 1


def test_an_unfinished_comparison_leaves_the_last_whole_one_in_place(
    mnist: Mnist, quick: list[str], tmp_path: Path
) -> None:
    mnist("compare", "--arch", "mlp", *quick)
    path = tmp_path / "results" / "comparison_results.json"
    before = path.read_text()
    process = _start(["compare", "--runs", "3", *quick], FAKE_FRAMEWORK="slow 0.3")
    _wait_for_runs(path.with_suffix(".partial.json"), 1)
    process.kill()
    process.communicate()
    assert path.read_text() == before


def test_a_second_comparison_in_the_same_folder_says_so_and_stops(
    mnist: Mnist, quick: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    with FileLock(folder / ".mnist.lock"):
        outcome = mnist("compare", *quick)
    assert outcome.exit_code == 1
    assert "Another comparison is running" in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1


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


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--batch-sizes", "16,zero"], "batch sizes must be whole numbers"),
        (["--batch-sizes", ""], "batch sizes must be whole numbers"),
        (["--batch-sizes", "0,16"], "batch size must be from 1 to 65536, not 0."),
        (["--batch-sizes", "441"], "at most the 440 training images, not 441"),
        (["--lr-scaling", "cubic"], "Unknown learning-rate scaling 'cubic'"),
        (["--runs", "0"], "runs must be from 1 to 1000, not 0."),
        (["--timeout", "0"], "timeout must be from above 0 to 1000000 seconds, not 0"),
        (["--timeout", "nan"], "timeout must be from above 0 to 1000000 seconds, not nan"),
    ],
)
def test_a_wrong_sweep_ends_in_one_line_and_exit_code_2(
    mnist: Mnist, quick: list[str], options: list[str], said: str
) -> None:
    outcome = mnist("sweep-batch", *quick, *options)
    assert outcome.exit_code == 2
    assert said in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1


def test_a_sweep_writes_its_document_and_chart(
    mnist: Mnist, quick: list[str], tmp_path: Path
) -> None:
    outcome = mnist("sweep-batch", "--batch-sizes", "40,20", "--arch", "mlp", *quick)
    assert outcome.exit_code == 0, outcome.stderr
    assert "batch" in outcome.stdout
    document = load_document(tmp_path / "results" / "batch_size_comparison.json")
    assert [row["batch_size"] for row in document["summary"]] == [20, 40]
    assert (tmp_path / "results" / "batch_size_comparison.png").exists()


@pytest.fixture
def reported(mnist: Mnist, quick: list[str], tmp_path: Path) -> Path:
    """A results folder with a comparison, a sweep and a training, its pictures deleted."""
    mnist("compare", "--runs", 2, *quick)
    mnist("sweep-batch", "--batch-sizes", "20,40", "--arch", "mlp", *quick)
    mnist("train", *quick)
    folder = tmp_path / "results"
    for picture in folder.glob("*.png"):
        picture.unlink()
    return folder


def test_report_redraws_every_chart_without_training(mnist: Mnist, reported: Path) -> None:
    outcome = mnist("report", "--results-dir", reported)
    assert outcome.exit_code == 0, outcome.stderr
    assert sorted(path.name for path in reported.glob("*.png")) == [
        "batch_size_comparison.png",
        "comparison_results.png",
        "fake-cnn_training.png",
        "sample_predictions.png",
    ]
    page = (reported / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert not re.search(r'(src|href)="(?!data:)', page)  # nothing is fetched from anywhere
    assert page.count("<figcaption>") == 4


def test_report_speaks_markdown_csv_and_json(mnist: Mnist, reported: Path) -> None:
    def say(form: str) -> str:
        return mnist("report", "--results-dir", reported, "--format", form).stdout

    assert "| fake | CNN |" in say("markdown")
    assert "at batch 64, proportional to the square root of batch size, " in say("markdown")
    document = load_document(reported / "batch_size_comparison.json")
    document["settings"]["limit"] = 2000
    assert "(at most 2,000 training images)" in tables.caption(document)
    comparison, sweep = say("csv").split("\n\n")
    rows = list(csv.DictReader(io.StringIO(comparison)))
    assert [(row["framework"], row["arch"], row["n"]) for row in rows] == [
        ("fake", "cnn", "2"),
        ("fake", "mlp", "2"),
    ]
    assert 0 < float(rows[0]["test_accuracy_mean"]) < 1
    assert [row["batch_size"] for row in csv.DictReader(io.StringIO(sweep))] == ["20", "40"]
    assert set(json.loads(say("json"))) == {"comparison_results", "batch_size_comparison"}
    assert "images" in say("table")


def test_report_draws_a_training_that_stands_alone(
    mnist: Mnist, quick: list[str], tmp_path: Path
) -> None:
    mnist("train", *quick)
    picture = tmp_path / "results" / "fake-cnn_training.png"
    picture.unlink()
    outcome = mnist("report", "--results-dir", picture.parent)
    assert outcome.exit_code == 0, outcome.stderr
    assert f"written: {picture}" in outcome.stderr
    assert "No comparison and no sweep" in outcome.stderr
    assert picture.exists()
    assert (picture.parent / "report.html").read_text().count("<figcaption>") == 1


def test_report_of_an_empty_folder_says_what_to_do(mnist: Mnist, tmp_path: Path) -> None:
    outcome = mnist("report", "--results-dir", tmp_path)
    assert outcome.exit_code == 1
    assert "mnist compare" in outcome.stderr
    assert mnist("report", "--format", "pdf").exit_code == 2


def test_report_names_damaged_records_and_leaves_them_alone(mnist: Mnist, tmp_path: Path) -> None:
    path = tmp_path / "comparison_results.json"
    path.write_text("{")
    outcome = mnist("report", "--results-dir", tmp_path)
    assert outcome.exit_code == 1
    assert str(path) in outcome.stderr
    assert path.read_text() == "{"
    with pytest.raises(RecordError):
        load_document(path)


@pytest.mark.slow
def test_frameworks_end_a_whole_epoch_of_mnist_with_the_same_accuracy(
    mnist: Mnist, tmp_path: Path
) -> None:
    frameworks = [o for name in ("numpy", "tensorflow", "torch") for o in ("--framework", name)]
    options = ["--arch", "mlp", "--epochs", 1, "--results-dir", tmp_path, "--json"]
    document = mnist("compare", *frameworks, *options).document
    accuracies = [run["history"][-1]["validation_accuracy"] for run in document["runs"]]
    assert len(accuracies) == 3
    # Rounding alone tells them apart: 0.3 points are 15 of the 5,000 validation images.
    assert max(accuracies) - min(accuracies) <= 0.003
    assert min(accuracies) > 0.95


def test_the_parent_of_a_comparison_is_small_and_loads_no_framework(quick: list[str]) -> None:
    script = (
        "import sys; sys.argv = ['mnist', *sys.argv[1:]]\n"
        "from mnist_cli.cli import app\n"
        "try: app.main()\n"
        "finally:\n"
        "    heavy = {'torch', 'tensorflow', 'keras', 'torchvision', 'sklearn', 'pandas'}\n"
        "    print(heavy & set(sys.modules))\n"
        "    from mnist_cli.records import peak_rss_mib\n"
        "    assert peak_rss_mib() <= 200, peak_rss_mib()\n"
    )
    mnist_itself = ["--dataset", "mnist", "--limit", "1000"]
    done = subprocess.run(
        [sys.executable, "-c", script, "compare", *quick, *mnist_itself],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.rstrip().endswith("set()")

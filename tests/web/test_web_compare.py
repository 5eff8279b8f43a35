"""The records of the results folder in the API: equal to the files, and told as by the report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from made_records import make_record
from starlette.types import ASGIApp
from web_samples import Answer, ask

from mnist_cli.experiments.document import load_document
from mnist_cli.records import write_json
from mnist_cli.reporting import tables
from mnist_cli.reporting.verdicts import verdicts
from mnist_cli.web.models import load_models
from mnist_cli.web.server import create_app
from mnist_cli.web.state import State

RESULTS = Path(__file__).parents[2] / "results"
COMPARISON = "comparison_results.json"
# Means of the same numbers, added up in another order.
ROUNDING = 1e-12


def made_app(folder: Path) -> ASGIApp:
    return create_app(State(load_models(folder / "models"), folder, folder, folder))


def records_in(folder: Path) -> Answer:
    return ask(made_app(folder), "GET", "/api/records")


def chart_of(record: dict[str, Any], title: str) -> Any:
    (chart,) = [each for each in record["charts"] if each["title"] == title]
    return chart


def runs_by_series(path: Path) -> dict[str, list[Any]]:
    """The runs of a document as they are in the file, by framework and network."""
    runs: dict[str, list[Any]] = {}
    for run in json.loads(path.read_text())["runs"]:
        names = {"numpy": "NumPy", "tensorflow": "TensorFlow", "torch": "PyTorch"}
        runs.setdefault(f"{names[run['framework']]} {run['arch'].upper()}", []).append(run)
    return runs


@pytest.fixture(scope="module")
def ours() -> dict[str, Any]:
    """The records of this repository, by name."""
    answer = records_in(RESULTS).document
    assert answer["problems"] == []
    return {record["name"]: record for record in answer["records"]}


def test_the_lines_of_a_comparison_are_means_of_the_files_runs(ours: dict[str, Any]) -> None:
    record = ours["comparison_results"]
    runs = runs_by_series(RESULTS / COMPARISON)
    fields = {
        "Test accuracy by epoch": ("epoch", "test_accuracy"),
        "Validation accuracy by training time": ("train_seconds", "validation_accuracy"),
        "Validation loss by epoch": ("epoch", "validation_loss"),
        "Training loss by epoch": ("epoch", "train_loss"),
    }
    assert {each["name"] for each in record["series"]} == set(runs)
    for title, (x, y) in fields.items():
        chart = chart_of(record, title)
        for series, points in zip(record["series"], chart["points"], strict=True):
            histories = [run["history"] for run in runs[series["name"]]]
            expected = [
                [fmean(row[x] for row in rows), fmean(row[y] for row in rows)]
                for rows in zip(*histories, strict=True)
            ]
            assert points == [pytest.approx(each, abs=ROUNDING) for each in expected]


def test_the_bars_of_a_comparison_have_every_run_of_the_file(ours: dict[str, Any]) -> None:
    record = ours["comparison_results"]
    runs = runs_by_series(RESULTS / COMPARISON)
    fields = {
        "Final test accuracy": "test_accuracy",
        "Total training time": "train_seconds",
        "Throughput": "images_per_second",
        "Peak memory": "peak_rss_mib",
    }
    summary = json.loads((RESULTS / COMPARISON).read_text())["summary"]
    for title, field in fields.items():
        bars = chart_of(record, title)["bars"]
        for series, bar in zip(record["series"], bars, strict=True):
            assert bar["runs"] == [run[field] for run in runs[series["name"]]]
        assert sorted(bar["ci95"] for bar in bars) == sorted(row[field]["ci95"] for row in summary)


def test_a_sweep_is_told_by_batch_size(ours: dict[str, Any]) -> None:
    record = ours["batch_size_comparison"]
    runs = runs_by_series(RESULTS / "batch_size_comparison.json")
    for number, series in enumerate(record["series"]):
        by_size: dict[int, list[Any]] = {}
        for run in runs[series["name"]]:
            by_size.setdefault(run["batch_size"], []).append(run)
        points = chart_of(record, "Final test accuracy")["points"][number]
        assert points == [
            [size, pytest.approx(fmean(run["test_accuracy"] for run in by_size[size]))]
            for size in sorted(by_size)
        ]
        to_mark = chart_of(record, "Time to 98% validation accuracy")["points"][number]
        reached = [
            size
            for size in sorted(by_size)
            if any(run["time_to_accuracy"]["0.98"] is not None for run in by_size[size])
        ]
        assert [size for size, _ in to_mark] == reached


def test_words_are_those_of_the_report(ours: dict[str, Any]) -> None:
    for name, record in ours.items():
        document = load_document(RESULTS / f"{name}.json")
        header, rows = tables.table(document)
        assert record["table"] == {"header": header, "rows": rows}
        assert record["caption"] == tables.caption(document)
        assert record["warnings"] == tables.warning_lines(document)
        assert record["lines"] == verdicts(document)


def test_warnings_and_failures_are_told(tmp_path: Path) -> None:
    document = json.loads((RESULTS / COMPARISON).read_text())
    for run in document["runs"]:
        run["environment"]["device"] = "cuda" if run["framework"] == "torch" else "cpu"
    document["failures"] = [{"framework": "torch", "arch": "cnn", "error": "out of memory"}]
    write_json(tmp_path / COMPARISON, document)
    (record,) = records_in(tmp_path).document["records"]
    assert any("ran on different devices" in line for line in record["warnings"])
    assert record["failures"] == ["PyTorch CNN failed: out of memory"]


def test_a_training_is_told_as_it_is_in_its_file(tmp_path: Path) -> None:
    made = make_record("tensorflow", "mlp", epochs=3)
    write_json(tmp_path / "tensorflow-mlp_training.json", made.to_json())
    (record,) = records_in(tmp_path).document["records"]
    assert record["title"] == "Training of TensorFlow MLP"
    assert [each["name"] for each in record["series"]] == ["training", "validation", "test"]
    loss, accuracy = record["charts"]
    assert loss["points"] == [
        [[row.epoch, row.train_loss] for row in made.history],
        [[row.epoch, row.validation_loss] for row in made.history],
        [[row.epoch, row.test_loss] for row in made.history],
    ]
    assert accuracy["points"][0] == []  # no training accuracy is measured
    assert accuracy["points"][2] == [[row.epoch, row.test_accuracy] for row in made.history]


def test_without_records_the_answer_is_empty(tmp_path: Path) -> None:
    answer = records_in(tmp_path / "missing").document
    assert answer["records"] == []
    assert answer["problems"] == []


def damaged_documents() -> dict[str, str]:
    document = json.loads((RESULTS / COMPARISON).read_text())
    without = {**document, "architectures": [{}]}
    odd = {**document, "settings": {**document["settings"], "threads": "two"}}
    return {
        "no JSON": "{",
        "a list": "[]",
        "a newer version": json.dumps({**document, "schema_version": 99}),
        "a row without its fields": json.dumps(without),
        "a text for a number": json.dumps(odd),
    }


@pytest.mark.parametrize("kind", damaged_documents())
def test_a_broken_record_is_one_line_and_the_rest_is_shown(tmp_path: Path, kind: str) -> None:
    (tmp_path / COMPARISON).write_text(damaged_documents()[kind])
    shutil.copy(RESULTS / "batch_size_comparison.json", tmp_path)
    answer = records_in(tmp_path)
    assert answer.status == 200
    assert [each["name"] for each in answer.document["records"]] == ["batch_size_comparison"]
    (problem,) = answer.document["problems"]
    assert str(tmp_path / COMPARISON) in problem
    assert "\n" not in problem


@pytest.mark.parametrize("loss", [float("nan"), "much", None])
def test_a_training_with_a_loss_that_is_no_number_is_one_line(tmp_path: Path, loss: Any) -> None:
    made = make_record(epochs=2).to_json()
    made["history"][1]["validation_loss"] = loss
    (tmp_path / "a_training.json").write_text(json.dumps(made))
    write_json(tmp_path / "b_training.json", make_record(epochs=2).to_json())
    (tmp_path / "c_training.json").mkdir()  # not a file at all
    answer = records_in(tmp_path).document
    assert [each["name"] for each in answer["records"]] == ["b_training"]
    (problem,) = answer["problems"]
    assert "a_training.json" in problem


def test_records_are_read_anew_each_time(tmp_path: Path) -> None:
    app = made_app(tmp_path)
    assert ask(app, "GET", "/api/records").document["records"] == []
    write_json(tmp_path / "a_training.json", make_record(epochs=2).to_json())
    assert len(ask(app, "GET", "/api/records").document["records"]) == 1


def test_records_are_only_read(tmp_path: Path) -> None:
    assert ask(made_app(tmp_path), "POST", "/api/records").status == 405

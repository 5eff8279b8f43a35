"""`mnist results` and `mnist compare-records`: what was measured before, here and elsewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from made_records import ENVIRONMENT, make_records
from outcomes import Outcome
from rich.console import Console

from mnist_cli.errors import RecordError
from mnist_cli.experiments import search, statistics
from mnist_cli.experiments.robustness import Robustness
from mnist_cli.machine import describe_machine
from mnist_cli.records import RunRecord, write_json
from mnist_cli.reporting import console

Mnist = Callable[..., Outcome]
SCHEMAS = json.loads(Path(__file__).parents[1].joinpath("schemas.json").read_text())


def _validate(document: Any, name: str) -> None:
    jsonschema.Draft202012Validator({**SCHEMAS, "$ref": f"#/$defs/{name}"}).validate(document)


def write_comparison(path: Path, records: list[RunRecord]) -> Path:
    document = {
        "schema_version": 1,
        "created": "2026-01-31T12:00:00+00:00",
        "settings": {},
        "runs": [record.to_json() for record in records],
        "failures": [],
        "summary": statistics.summarize(records),
        "frameworks": [],
        "architectures": [],
        "environment": dict(describe_machine()),
    }
    write_json(path, document)
    return path


RECORDS = make_records(("numpy", "torch"), seeds=2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Results with a comparison of eight runs, and a record of one training below."""
    write_comparison(tmp_path / "comparison_results.json", RECORDS)
    later = replace(
        RECORDS[0],
        framework="jax",
        test_accuracy=0.9999,
        train_seconds=0.5,
        environment={**ENVIRONMENT, "date": "2026-02-01"},
    )
    write_json(tmp_path / "more" / "jax-cnn_training.json", later.to_json())
    return tmp_path


def _listed(outcome: Outcome) -> list[dict[str, Any]]:
    assert outcome.exit_code == 0, outcome.stderr
    _validate(outcome.document, "results")
    return list(outcome.document)


def test_runs_of_all_records_are_listed_newest_first(mnist: Mnist, folder: Path) -> None:
    runs = _listed(mnist("results", folder, "--json"))
    assert len(runs) == 9
    assert (runs[0]["framework"], runs[0]["date"]) == ("jax", "2026-02-01")
    assert runs[0]["file"] == str(folder / "more" / "jax-cnn_training.json")
    table = mnist("results", folder)
    assert "9 runs, data set MNIST" in table.stdout
    assert "99.99%" in table.stdout
    assert table.stderr == ""


@pytest.mark.parametrize(
    ("sort", "field", "falls"),
    [
        ("accuracy", "test_accuracy", True),
        ("seconds", "train_seconds", False),
        ("speed", "images_per_second", True),
        ("date", "date", True),
        ("framework", "framework", False),
        ("network", "arch", False),
        ("batch-size", "batch_size", False),
        ("seed", "seed", False),
    ],
)
def test_runs_are_sorted_best_first_and_the_other_way_round(
    mnist: Mnist, folder: Path, sort: str, field: str, falls: bool
) -> None:
    values = [run[field] for run in _listed(mnist("results", folder, "--sort", sort, "--json"))]
    assert values == sorted(values, reverse=falls)
    turned = _listed(mnist("results", folder, "--sort", sort, "--reverse", "--json"))
    assert [run[field] for run in turned] == values[::-1]


def test_runs_of_a_framework_or_network_alone_are_listed(mnist: Mnist, folder: Path) -> None:
    runs = _listed(mnist("results", folder, "--framework", "pytorch", "--arch", "mlp", "--json"))
    assert [(run["framework"], run["arch"]) for run in runs] == [("torch", "mlp")] * 2
    none = mnist("results", folder, "--arch", "resnet")
    assert (none.exit_code, none.stdout) == (1, "")
    assert none.stderr == f"Error: None of the 9 runs in {folder} is of resnet.\n"


def test_a_run_is_listed_once_and_a_model_without_a_record_too(
    mnist: Mnist, small_data: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    quick = ("--framework", "fake", "--dataset", small_data, "--results-dir", results)
    mnist("train", "--arch", "mlp", "--epochs", 2, "--log", "csv", *quick)
    (run,) = _listed(mnist("results", results, "--json"))
    assert run["file"] == str(results / "fake-mlp_training.json")
    (results / "fake-mlp_training.json").unlink()
    (again,) = _listed(mnist("results", results, "--json"))
    assert again == {**run, "file": str(results / "models" / "fake-mlp.safetensors")}


def test_broken_and_foreign_files_are_named_and_the_rest_is_listed(
    mnist: Mnist, folder: Path
) -> None:
    newer = RECORDS[0].to_json() | {"schema_version": 2}
    cut = (folder / "comparison_results.json").read_text()[:1000]
    missing = RECORDS[0].to_json()
    del missing["epochs"]
    contents = {
        "cut.json": cut,
        "list.json": "[1, 2]",
        "missing.json": json.dumps(missing),
        "nested.json": "[" * 200_000,
        "newer.json": json.dumps(newer),
        "other.json": '{"accuracy": 1}',
        "typed.json": json.dumps(RECORDS[0].to_json() | {"environment": {"date": 5}}),
        "model.safetensors": "no model",
    }
    for name, text in contents.items():
        (folder / name).write_text(text)
    outcome = mnist("results", folder, "--json")
    assert len(_listed(outcome)) == 9
    lines = outcome.stderr.splitlines()
    assert len(lines) == len(contents)
    for line, name in zip(lines, sorted(contents, key=lambda name: name[-4:]), strict=True):
        assert line.startswith(f"Skipped: {folder / name}")
    assert "has schema version 2; this program reads 1" in outcome.stderr


def test_other_documents_of_this_program_are_passed_over(mnist: Mnist, folder: Path) -> None:
    trials = [{"state": "waiting", "history": []}]
    write_json(folder / "tune_results.json", search.build_document([], trials, {}))
    write_json(folder / "robustness.json", Robustness("mnist", 100, 0, ()).to_json())
    outcome = mnist("results", folder, "--json")
    assert len(_listed(outcome)) == 9
    assert outcome.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (["absent"], 1, "No folder absent. Name one with results"),
        (["empty"], 1, "No runs in empty. Make some with 'mnist train'."),
        (["foreign"], 1, "No runs in foreign. foreign/x.json has no runs"),
        (["empty", "--sort", "colour"], 2, "Unknown order 'colour'. Choose from date, accuracy"),
    ],
)
def test_a_folder_without_runs_is_one_line(
    mnist: Mnist,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    exit_code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("foreign").mkdir()
    Path("foreign", "x.json").write_text("{}")
    outcome = mnist("results", *arguments)
    assert (outcome.exit_code, outcome.stdout) == (exit_code, "")
    (line,) = outcome.stderr.splitlines()
    assert line.startswith(f"Error: {said}")


def test_the_list_of_runs_stands_in_80_columns(folder: Path) -> None:
    from mnist_cli.api.results import list_results

    runs = list_results(folder).runs
    screen = Console(width=80)
    with screen.capture() as shown:
        screen.print(console.stored_runs_table(runs, width=80))
    rows = [line for line in shown.get().splitlines() if line.startswith("202")]
    assert len(rows) == 9
    assert "comparison_results" not in shown.get()
    wide = Console(width=160)
    with wide.capture() as shown:
        wide.print(console.stored_runs_table(runs, width=160))
    assert shown.get().count("comparison_results.json") == 8


def test_a_machine_whose_name_looks_like_markup_is_shown(mnist: Mnist, tmp_path: Path) -> None:
    record = replace(RECORDS[0], environment={**ENVIRONMENT, "cpu": "X [/b]"})
    write_json(tmp_path / "record.json", record.to_json())
    assert "X [/b]" in mnist("results", tmp_path).stdout


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """The comparisons of two machines, of which the second is slower and lacks a framework."""
    slower = [
        replace(
            record,
            train_seconds=2 * record.train_seconds,
            environment={**record.environment, "cpu": "Other", "threads": 4},
        )
        for record in RECORDS
        if record.framework == "torch"
    ]
    return (
        write_comparison(tmp_path / "a.json", RECORDS),
        write_comparison(tmp_path / "b.json", slower),
    )


def test_two_comparisons_are_set_side_by_side(mnist: Mnist, two: tuple[Path, Path]) -> None:
    outcome = mnist("compare-records", *two)
    assert outcome.exit_code == 0, outcome.stderr
    for said in (
        f"first: {two[0]}, ",
        " 0.50",
        "the first takes 0.50x (95% CI",
        "NumPy CNN, NumPy MLP: not compared: only the first has it.",
        "The machines differ in:",
    ):
        assert said in outcome.stdout
    assert re.search(r"^PyTorch +CNN ", outcome.stdout, re.M)
    document = mnist("compare-records", *two, "--json").document
    _validate(document, "compare-records")
    assert [cell["arch"] for cell in document["cells"]] == ["cnn", "mlp"]
    assert [row["name"] for row in document["environment"]] == ["cpu", "threads"]


def test_a_comparison_beside_itself_differs_in_nothing(
    mnist: Mnist, two: tuple[Path, Path]
) -> None:
    outcome = mnist("compare-records", two[0], two[0])
    assert "The machines differ in nothing recorded." in outcome.stdout
    assert "not compared" not in outcome.stdout
    assert "significantly" not in outcome.stdout


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No records at "),
        ("{", " is damaged (JSONDecodeError"),
        ("[]", " is no record of a comparison or a sweep"),
        ("[" * 200_000, " is damaged (RecursionError"),
        ('{"framework": "numpy"}', " is no record of a comparison or a sweep: it has no runs."),
        ('{"schema_version": 2, "runs": []}', " has schema version 2; this program reads 1."),
    ],
)
def test_what_is_no_comparison_is_one_line(
    mnist: Mnist, two: tuple[Path, Path], content: str | None, said: str
) -> None:
    path = two[1].with_name("c.json")
    if content is not None:
        path.write_text(content)
    for pair in ((two[0], path), (path, two[1])):
        outcome = mnist("compare-records", *pair)
        assert (outcome.exit_code, outcome.stdout) == (1, "")
        (line,) = outcome.stderr.splitlines()
        assert line.startswith("Error: ")
        assert str(path) in line
        assert said in line


def test_python_has_both(two: tuple[Path, Path]) -> None:
    import mnist_cli

    assert len(mnist_cli.list_results(two[0].parent, framework="torch").runs) == 8
    assert mnist_cli.compare_records(*two)["files"][1]["runs"] == 4
    with pytest.raises(RecordError):
        mnist_cli.list_results("absent")

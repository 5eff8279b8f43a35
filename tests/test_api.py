"""The Python API: what a script or a notebook does with it."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mnist_cli
from mnist_cli.data.registry import load_dataset
from mnist_cli.errors import CheckpointError, UsageError
from mnist_cli.records import RunRecord

QUICK = {"framework": "fake", "arch": "mlp", "epochs": 2, "batch_size": 20, "progress": False}


@pytest.fixture
def quick(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., RunRecord]:
    """A training of a second, in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    return lambda **changes: mnist_cli.train(**{**QUICK, "dataset": str(small_data), **changes})


def test_training_returns_a_record_and_writes_nothing(
    quick: Callable[..., RunRecord], tmp_path: Path
) -> None:
    record = quick()
    assert isinstance(record, RunRecord)
    assert (record.framework, record.arch, len(record.history)) == ("fake", "mlp", 2)
    assert record.checkpoint is None
    assert list(tmp_path.iterdir()) == []


def test_training_with_a_results_folder_writes_what_the_command_writes(
    quick: Callable[..., RunRecord], tmp_path: Path, mnist: Callable[..., Any], small_data: Path
) -> None:
    record = quick(results_dir=tmp_path / "api")
    options = ("--epochs", "2", "--batch-size", "20", "--dataset", str(small_data))
    mnist("train", "--framework", "fake", "--arch", "mlp", *options, "--results-dir", "cli")
    names = {
        folder: {str(path.relative_to(folder)) for path in Path(folder).rglob("*.*")}
        for folder in ("api", "cli")
    }
    assert names["api"] == names["cli"]
    document = json.loads(Path("api/fake-mlp_training.json").read_text())
    assert RunRecord.from_json(document) == record


def test_progress_goes_to_standard_error_and_can_be_turned_off(
    quick: Callable[..., RunRecord], capfd: pytest.CaptureFixture[str]
) -> None:
    quick()
    assert capfd.readouterr() == ("", "")
    quick(progress=True)
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "fake MLP  2/2" in shown.err


def test_names_and_defaults_are_those_of_the_options() -> None:
    # What only one of the two sides has: a stream, a format, or nothing to show progress on.
    only_here = {
        "self",
        "progress",
        "source",
        "files",
        "show",
        "save_plot",
        "as_csv",
        "as_json",
        "clipboard",
        "model",
        "models",
        "robustness",
    }
    functions = {
        "evaluate": ("evaluate", "evaluate_all", "measure_robustness"),
        "export": ("export_model",),
        "import_file": ("import_model",),
    }
    for name in ("train", "evaluate", "compare", "sweep_batch", "tune", "predict", *functions):
        module = importlib.import_module(f"mnist_cli.cli.{name}")
        api = {
            parameter: value
            for function in functions.get(name, (name,))
            for parameter, value in inspect.signature(
                inspect.unwrap(getattr(mnist_cli, function))
            ).parameters.items()
        }
        cli = inspect.signature(getattr(module, name)).parameters
        assert set(api) - only_here == set(cli) - only_here, name
        for parameter in set(api) & set(cli) - {"results_dir", "batch_sizes"}:
            assert api[parameter].default == cli[parameter].default, (name, parameter)


@pytest.mark.parametrize(
    ("call", "near"),
    [
        (lambda: mnist_cli.train(epoch=3), "train() has no keyword 'epoch'. Did you mean 'epochs'"),
        (lambda: mnist_cli.compare(frameworks=["torch"]), "Did you mean 'framework'?"),
        (lambda: mnist_cli.sweep_batch(batch_size=[8]), "Did you mean 'batch_sizes'?"),
        (lambda: mnist_cli.predict(np.zeros((9, 9)), singel=True), "Did you mean 'single'?"),
        (lambda: mnist_cli.train(lr=0.1), "Did you mean 'learning_rate'?"),
        (lambda: mnist_cli.load_model(zzz=1), "It takes model, framework"),
    ],
)
def test_an_unknown_keyword_names_the_nearest_known_one(call: Callable[[], Any], near: str) -> None:
    with pytest.raises(UsageError) as caught:
        call()
    assert near in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epochs": 1.5}, "epochs must be a whole number, not 1.5."),
        ({"epochs": True}, "epochs must be a whole number, not True."),
        ({"epochs": None}, "epochs must be a whole number, not None."),
        ({"threads": "2"}, "threads must be a whole number, not '2'."),
        ({"learning_rate": "0.1"}, "learning_rate must be a number, not '0.1'."),
        ({"augment": 1}, "augment must be True or False, not 1."),
        ({"arch": 3}, "arch must be a string, not 3."),
        ({"dataset": None}, "dataset must be a path, not None."),
        ({"results_dir": 3}, "results_dir must be a path, not 3."),
    ],
)
def test_a_value_of_the_wrong_type_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        mnist_cli.train(**changes)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: mnist_cli.sweep_batch([]), "batch_sizes must be a list of whole numbers, not []."),
        (lambda: mnist_cli.sweep_batch("32,64"), "batch_sizes must be a list of whole numbers"),
        (lambda: mnist_cli.sweep_batch(32), "batch_sizes must be a list of whole numbers, not 32."),
        (lambda: mnist_cli.compare([]), "framework must be a name or a list of names, not []."),
        (lambda: mnist_cli.compare(arch=[1]), "arch must be a name or a list of names, not [1]."),
        (lambda: mnist_cli.compare(runs=1.5), "runs must be a whole number, not 1.5."),
    ],
)
def test_an_empty_or_wrong_list_is_refused(call: Callable[[], Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        call()
    assert str(caught.value).startswith(said)


def test_numbers_of_numpy_are_taken(quick: Callable[..., RunRecord]) -> None:
    record = quick(epochs=np.int64(1), learning_rate=np.float32(0.5), augment=np.bool_(False))
    assert (record.epochs, record.learning_rate) == (1, 0.5)
    assert json.dumps(record.to_json())


def test_a_record_prints_its_result_in_one_line(quick: Callable[..., RunRecord]) -> None:
    record = quick()
    expected = f"RunRecord(fake MLP: {record.test_accuracy:.2%} test accuracy after 2 epochs)"
    assert repr(record) == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 0},
        {"framework": "jaxx"},
        {"arch": "rnn"},
        {"device": "tpu"},
        {"threads": 0},
        {"limit": 0},
        {"learning_rate": float("nan")},
    ],
)
def test_errors_are_those_of_the_command_line(
    changes: dict[str, Any],
    quick: Callable[..., RunRecord],
    mnist: Callable[..., Any],
    small_data: Path,
) -> None:
    with pytest.raises(UsageError) as caught:
        quick(**changes)
    options = {**QUICK, "dataset": str(small_data), **changes}
    del options["progress"]
    arguments = [
        part
        for name, value in options.items()
        for part in ("--" + name.replace("_", "-"), str(value))
    ]
    outcome = mnist("train", *arguments)
    assert outcome.exit_code == 2
    assert outcome.stderr.strip().splitlines()[-1] == f"Error: {caught.value}"


def test_to_resume_without_a_folder_is_a_usage_error(quick: Callable[..., RunRecord]) -> None:
    with pytest.raises(UsageError, match="resume needs results_dir"):
        quick(resume=True)


def test_a_comparison_holds_its_runs_table_verdicts_and_chart(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    comparison = mnist_cli.compare(
        ["fake", "numpy"],
        arch="mlp",
        runs=2,
        batch_size=20,
        dataset=str(small_data),
        progress=False,
    )
    assert {(run.framework, run.seed) for run in comparison.runs} == {
        ("fake", 0),
        ("fake", 1),
        ("numpy", 0),
        ("numpy", 1),
    }
    assert comparison.failures == []
    assert comparison.table().splitlines()[0].startswith("| framework | network |")
    assert "NumPy" in comparison.table()
    (sentence,) = comparison.verdicts()
    assert sentence.startswith("MLP: fake is ")
    assert "as fast as NumPy" in sentence
    png, size = comparison.plot()._repr_png_()
    assert png.startswith(b"\x89PNG")
    assert size["width"] == 800
    assert "<table>" in comparison._repr_html_()
    assert list(tmp_path.iterdir()) == []
    comparison.plot().save(tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes() == png


def test_a_failed_run_of_a_comparison_is_among_its_failures(
    small_data: Path, tmp_path: Path
) -> None:
    comparison = mnist_cli.compare(
        ["absent", "fake"], arch="mlp", batch_size=20, dataset=str(small_data), progress=False
    )
    assert [run.framework for run in comparison.runs] == ["fake"]
    (failure,) = comparison.failures
    assert failure["framework"] == "absent"
    assert "absent failed" not in comparison.table()
    assert "absent MLP failed" in comparison._repr_html_()


def test_a_sweep_compares_batch_sizes(small_data: Path) -> None:
    sweep = mnist_cli.sweep_batch(
        [40, 20], framework="fake", arch="mlp", epochs=1, dataset=str(small_data), progress=False
    )
    assert sweep.is_sweep
    assert [run.batch_size for run in sweep.runs] == [20, 40]
    assert sweep.plot().png.startswith(b"\x89PNG")


def test_an_evaluation_scores_every_test_image_and_draws_its_confusion_matrix(
    quick: Callable[..., RunRecord], small_data: Path, tmp_path: Path
) -> None:
    record = quick(framework="numpy", results_dir="results")
    evaluation = mnist_cli.evaluate("numpy-mlp", dataset=str(small_data), progress=False)
    assert evaluation.accuracy == record.test_accuracy
    labels = load_dataset(str(small_data)).test_labels
    assert np.mean(np.array(evaluation.predictions) == labels) == evaluation.accuracy
    assert evaluation._repr_png_()[0].startswith(b"\x89PNG")
    assert not list(tmp_path.glob("results/*_confusion.png"))
    mnist_cli.evaluate(
        tmp_path / "results/models/numpy-mlp.safetensors",
        dataset=str(small_data),
        results_dir="other",
        progress=False,
    )
    names = {"numpy-mlp_confusion.png", "numpy-mlp_predictions.png"}
    assert {path.name for path in Path("other").iterdir()} == names


def test_a_loaded_model_reads_many_pictures(quick: Callable[..., RunRecord]) -> None:
    quick(framework="numpy", results_dir="results")
    images = load_dataset().test_images[:3]
    model = mnist_cli.load_model("numpy-mlp")
    texts = [answer.text for answer in model.read(images)]
    assert texts == [model.predict(image).text for image in images]
    assert set(model.checkpoint.weights) == {"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"}
    assert texts == [mnist_cli.predict(image, model="numpy-mlp").text for image in images]
    with pytest.raises(CheckpointError, match="No model at"):
        mnist_cli.load_model("absent-mlp")


def test_records_show_themselves_in_a_notebook(quick: Callable[..., RunRecord]) -> None:
    record = quick()
    assert "<td>2</td>" in record._repr_html_()
    assert record.plot().png.startswith(b"\x89PNG")
    prediction = mnist_cli.predict(load_dataset().test_images[0])
    assert "<b>7</b>" in prediction._repr_html_()
    assert "data:image/png;base64," in prediction._repr_html_()


def test_training_works_in_a_thread(quick: Callable[..., RunRecord]) -> None:
    records: list[RunRecord] = []
    thread = threading.Thread(target=lambda: records.append(quick()))
    thread.start()
    thread.join(60)
    assert len(records) == 1


def test_training_works_in_a_running_event_loop(quick: Callable[..., RunRecord]) -> None:
    async def cell() -> RunRecord:
        return quick()

    assert len(asyncio.run(cell()).history) == 2


def test_a_script_needs_no_main_guard(small_data: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    options = {**QUICK, "framework": "numpy", "dataset": str(small_data), "threads": 1}
    script.write_text(
        "import mnist_cli\n"
        f"record = mnist_cli.train(**{options!r})\n"
        "print(record.framework, len(record.history))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout == "numpy 2\n"


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, mnist_cli; print({'numpy', 'rich', 'typer', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

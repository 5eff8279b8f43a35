"""`mnist evaluate` with several models: side by side, as an ensemble, on disturbed images."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from idx_files import write_dataset
from outcomes import Outcome

import mnist_cli
from mnist_cli.data.registry import load_dataset
from mnist_cli.names import class_names
from mnist_cli.training.checkpoint import PRETRAINED, load, save
from mnist_cli.training.evaluation import probabilities

Mnist = Callable[..., Outcome]


@pytest.fixture(scope="module")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), train=480, test=40)


@pytest.fixture(scope="module")
def results(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results with two models: the package's, as `good`, and a quickly trained MLP."""
    folder = tmp_path_factory.mktemp("results")
    options = {"arch": "mlp", "epochs": 1, "dataset": str(small_data), "progress": False}
    mnist_cli.train("numpy", results_dir=folder, **options)
    shutil.copy(PRETRAINED, folder / "models" / "good.safetensors")
    return folder


def test_several_models_stand_side_by_side(mnist: Mnist, results: Path, small_data: Path) -> None:
    where = ("--dataset", small_data, "--results-dir", results)
    outcome = mnist("evaluate", "good", "numpy-mlp", *where, "--json")
    assert outcome.exit_code == 0, outcome.stderr
    good, mlp = outcome.document["models"]
    assert "ensemble" not in outcome.document
    (alone,) = (mnist("evaluate", "numpy-mlp", *where, "--json").document,)
    assert mlp == alone
    assert good["accuracy"] > mlp["accuracy"]
    table = mnist("evaluate", "good", "numpy-mlp", *where).stdout
    assert "40 test images" in table
    assert f"{good['accuracy']:.2%}" in table


def test_an_ensemble_answers_with_the_mean_of_probabilities(
    mnist: Mnist, results: Path, small_data: Path
) -> None:
    models = [mnist_cli.load_model(name, results_dir=results) for name in ("good", "numpy-mlp")]
    test = load_dataset(str(small_data))
    mean = np.mean([probabilities(each.logits(test.test_images)) for each in models], axis=0)
    where = ("--dataset", small_data, "--results-dir", results)
    outcome = mnist("evaluate", "good", "numpy-mlp", "--ensemble", "--json", *where)
    report = outcome.document["ensemble"]
    assert report["accuracy"] == np.mean(mean.argmax(axis=1) == test.test_labels)
    loss = -np.mean(np.log(mean[np.arange(40), test.test_labels]))
    assert report["loss"] == pytest.approx(loss, rel=1e-6)  # float32 probabilities, summed
    assert report["checkpoint"] == "ensemble of good, numpy-mlp"
    shown = mnist("evaluate", "good", "numpy-mlp", "--ensemble", *where)
    assert "ensemble of good, numpy-mlp" in shown.stdout
    for name in ("ensemble_confusion.png", "ensemble_predictions.png"):
        assert f"written: {results / name}" in shown.stderr
        assert (results / name).read_bytes().startswith(b"\x89PNG")


def test_an_ensemble_of_one_model_is_the_model(results: Path, small_data: Path) -> None:
    where = {"dataset": str(small_data), "results_dir": results, "progress": False}
    alone, together = mnist_cli.evaluate_all("good", ensemble=True, **where)
    assert together.predictions == alone.predictions
    assert together.confidences == pytest.approx(alone.confidences, abs=1e-12)  # log, then exp


def test_robustness_is_written_drawn_and_printed(
    mnist: Mnist, results: Path, small_data: Path
) -> None:
    where = ("--dataset", small_data, "--results-dir", results, "--limit", 20)
    outcome = mnist("evaluate", "good", "numpy-mlp", "--robustness", "--json", *where)
    assert outcome.exit_code == 0, outcome.stderr
    document = outcome.document
    assert (document["images"], document["seed"], len(document["curves"])) == (20, 0, 16)
    assert json.loads((results / "robustness.json").read_text()) == document
    assert (results / "robustness.png").read_bytes().startswith(b"\x89PNG")
    shown = mnist("evaluate", "good", "--robustness", *where)
    assert "rotation, degrees" in shown.stdout
    assert f"written: {results / 'robustness.json'}" in shown.stderr
    assert max(map(len, shown.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "said", "exit_code"),
    [
        (("good", "absent", "--ensemble"), "No model at", 1),
        (("good", "broken", "--robustness"), "not a whole safetensors file", 1),
        (("good", "good", "--ensemble"), "named twice", 2),
        (("good", "clothes", "--ensemble"), "clothes tells 10 classes (T-shirt, trouser, ", 2),
        (("good", "numpy-mlp", "--framework", "torch"), "Leave --framework", 2),
        (("good", "--robustness", "--ensemble"), "one at a time", 2),
        (("good", "--limit", "3"), "--limit goes with --robustness", 2),
        (("good", "--robustness", "--limit", "0"), "limit must be from 1", 2),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(
    mnist: Mnist, results: Path, arguments: tuple[str, ...], said: str, exit_code: int
) -> None:
    models = results / "models"
    (models / "broken.safetensors").write_bytes(b"no model")
    names = class_names("fashion-mnist")
    clothes = replace(load(PRETRAINED), dataset="fashion-mnist", class_names=names)
    save(models / "clothes.safetensors", clothes)
    outcome = mnist("evaluate", *arguments, "--results-dir", results)
    assert outcome.exit_code == exit_code
    assert said in outcome.stderr.replace("\n", " ")
    assert "Traceback" not in outcome.stderr

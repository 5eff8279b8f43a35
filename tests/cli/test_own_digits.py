"""A user's own handwriting: sheets to folders, and a training that goes on from a model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from idx_files import mnist as digits
from outcomes import Outcome
from PIL import Image
from template_samples import filled_in

import mnist_cli
from mnist_cli.data.registry import load_dataset
from mnist_cli.data.split import OWN_ONE_IN, mix, split
from mnist_cli.errors import CheckpointError, UsageError
from mnist_cli.training import checkpoint

Mnist = Callable[..., Outcome]


@pytest.fixture(scope="module")
def sheet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A template with three digits of MNIST in each row."""
    path = tmp_path_factory.mktemp("sheets") / "mine.png"
    Image.fromarray(filled_in(columns=3)).save(path)
    return path


@pytest.fixture(scope="module")
def own(sheet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits of the sheet as a data set."""
    folder = tmp_path_factory.mktemp("own") / "anna"
    mnist_cli.collect(sheet, folder)
    return folder


def _names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*"))


# --- Collecting --------------------------------------------------------------------------------


def test_collect_prints_a_template_and_makes_a_data_set_of_a_sheet(
    mnist: Mnist, sheet: Path, tmp_path: Path
) -> None:
    printed = mnist("collect", "--template", tmp_path / "sheet.pdf")
    assert printed.exit_code == 0, printed.stderr
    assert printed.stderr == f"written: {tmp_path / 'sheet.pdf'}\n"
    folder = tmp_path / "mine"
    outcome = mnist("collect", sheet, "--folder", folder)
    assert outcome.exit_code == 0, outcome.stderr
    assert "mine.png: 30 digits  (0: 3, 1: 3," in outcome.stdout
    assert f"mnist train --from pretrained --dataset {folder}" in outcome.stderr
    data = load_dataset(str(folder))
    assert np.bincount(data.train_labels).tolist() == [2] * 10


def test_a_sheet_collected_twice_is_in_the_folder_once(sheet: Path, tmp_path: Path) -> None:
    first = mnist_cli.collect(sheet, tmp_path)
    assert mnist_cli.collect(str(sheet), tmp_path) == first
    assert len(_names(tmp_path)) == 30


def test_collect_tells_as_json_what_it_found(mnist: Mnist, sheet: Path, tmp_path: Path) -> None:
    document = mnist("collect", sheet, "--folder", tmp_path, "--json").document
    assert document == {
        "folder": str(tmp_path),
        "sheets": [{"file": str(sheet), "digits": {str(digit): 3 for digit in range(10)}}],
    }


def test_a_sheet_that_is_not_the_template_is_named_and_the_others_are_collected(
    mnist: Mnist, sheet: Path, tmp_path: Path
) -> None:
    Image.new("L", (300, 400), 255).save(tmp_path / "other.png")
    folder = tmp_path / "mine"
    outcome = mnist("collect", tmp_path / "other.png", "absent.png", sheet, "--folder", folder)
    assert outcome.exit_code == 1
    lines = outcome.stderr.splitlines()
    assert "other.png: not a whole template: 0 of its 4 corner marks" in lines[0]
    assert "absent.png: there is no such file" in lines[1]
    assert len(_names(folder)) == 30


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Name a photo of a filled-in sheet"),
        (("sheet.png", "--template", "new.pdf"), "Name a photo of a filled-in sheet"),
        (("--template", "new.docx"), "must end in .pdf or .png"),
    ],
)
def test_collect_refuses_what_it_cannot_do(
    mnist: Mnist, arguments: tuple[str, ...], said: str
) -> None:
    outcome = mnist("collect", *arguments)
    assert outcome.exit_code == 2
    assert said in outcome.stderr


def test_a_folder_that_cannot_be_written_is_named(
    mnist: Mnist, sheet: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    outcome = mnist("collect", sheet, "--folder", tmp_path / "file")
    assert outcome.exit_code == 1
    assert "Cannot write" in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1


# --- Training that goes on from a model ---------------------------------------------------------


def test_own_digits_are_about_one_in_five_of_the_mix_and_mnist_is_whole() -> None:
    data = digits()
    base = split(data, seed=0)
    own = split(load_dataset(), seed=1, limit=90)
    mixed = mix(own, base)
    count = len(base.train_labels)
    np.testing.assert_array_equal(mixed.train_images[:count], base.train_images)
    np.testing.assert_array_equal(mixed.train_labels[:count], base.train_labels)
    added = len(mixed.train_labels) - count
    assert added % 90 == 0
    assert added / len(mixed.train_labels) == pytest.approx(1 / OWN_ONE_IN, abs=0.001)
    assert len(mixed.validation_labels) == 5_000 + 90


def test_many_own_digits_are_not_repeated() -> None:
    base = split(digits(), seed=0, limit=100)
    own = split(digits(), seed=1, limit=500)
    assert len(mix(own, base).train_labels) == 600


def test_training_goes_on_from_the_packaged_model_and_says_so(
    mnist: Mnist, own: Path, tmp_path: Path
) -> None:
    command = ("train", "--framework", "numpy", "--from", "pretrained", "--dataset", own)
    options = ("--limit", 2000, "--epochs", 1, "--results-dir", tmp_path, "--json")
    record = mnist(*command, *options).document
    assert record["started_from"] == str(checkpoint.PRETRAINED)
    origin = checkpoint.load(checkpoint.PRETRAINED)
    assert (record["arch"], record["label_smoothing"]) == ("cnn", origin.config.label_smoothing)
    assert (record["augment"], record["reject"]) == (origin.config.augment, origin.config.reject)
    assert record["learning_rate"] == 0.01
    # A network with random weights has about 90% on validation after so few images.
    assert record["history"][0]["validation_accuracy"] > 0.98
    assert _names(tmp_path) == [
        "models/numpy-cnn-anna.safetensors",
        "numpy-cnn-anna_training.json",
        "numpy-cnn-anna_training.png",
    ]
    model = checkpoint.load(tmp_path / "models/numpy-cnn-anna.safetensors")
    assert model.started_from == str(checkpoint.PRETRAINED)
    assert model.calibration is not None


def test_training_goes_on_from_a_model_of_any_line(mnist: Mnist, own: Path, tmp_path: Path) -> None:
    line = "conv 4 5x5 stride 2, batchnorm, relu, pool, dropout 0.2, dense 20, relu"
    command = ("train", "--framework", "numpy", "--epochs", 1, "--results-dir", tmp_path, "--json")
    first = mnist(*command, "--arch", line, "--limit", 2000).document
    name = f"numpy-{first['arch']}"
    second = mnist(*command, "--from", name, "--dataset", own, "--limit", 2000).document
    assert (second["arch"], second["line"]) == (first["arch"], first["line"])
    assert second["started_from"] == str(tmp_path / "models" / f"{name}.safetensors")
    one, other = (
        checkpoint.load(tmp_path / "models" / f"{each}.safetensors")
        for each in (name, f"{name}-{own.stem}")
    )
    assert one.spec == other.spec
    # It starts where the other ended: with random weights its loss would begin at 2.3 again.
    assert second["history"][0]["train_loss"] < first["history"][0]["train_loss"]


def test_a_model_of_another_network_is_refused(mnist: Mnist, own: Path, tmp_path: Path) -> None:
    outcome = mnist(
        *("train", "--from", "pretrained", "--arch", "mlp", "--dataset", own),
        *("--framework", "fake", "--results-dir", tmp_path),
    )
    assert outcome.exit_code == 2
    assert "a cnn with relu, not a mlp with relu. Leave --arch" in outcome.stderr


def test_a_missing_model_is_named(mnist: Mnist, own: Path, tmp_path: Path) -> None:
    outcome = mnist("train", "--from", "absent", "--dataset", own, "--results-dir", tmp_path)
    assert outcome.exit_code == 1
    assert f"No model at {tmp_path}/models/absent.safetensors" in outcome.stderr


def test_the_model_to_go_on_from_is_never_replaced(mnist: Mnist, own: Path, tmp_path: Path) -> None:
    model = tmp_path / "models" / "fake-cnn-anna.safetensors"
    model.parent.mkdir()
    shutil.copy(checkpoint.PRETRAINED, model)
    before = model.read_bytes()
    with pytest.raises(UsageError, match="both the model to go on from and the one to write"):
        mnist_cli.train("fake", from_model=model, dataset=own, results_dir=tmp_path, progress=False)
    assert model.read_bytes() == before


def test_a_training_that_goes_on_is_resumed_and_not_with_another_model(
    mnist: Mnist, own: Path, tmp_path: Path
) -> None:
    command = ("train", "--framework", "fake", "--from", "pretrained", "--dataset", own)
    options = ("--limit", 200, "--batch-size", 20, "--results-dir", tmp_path, "--json")
    first = mnist(*command, *options, "--epochs", 2).document
    again = mnist(*command, *options, "--epochs", 2, "--resume").document
    assert again["history"] == first["history"]
    plain = mnist(*command[:3], "--dataset", own, *options, "--epochs", 2)
    assert plain.exit_code == 2  # limit: there are fewer own digits
    other = tmp_path / "other.safetensors"
    shutil.copy(checkpoint.PRETRAINED, other)
    changed = mnist(*(*command[:4], other, *command[5:]), *options, "--epochs", 2, "--resume")
    assert changed.exit_code == 1
    assert "started_from" in changed.stderr


def test_a_model_with_other_pixels_is_refused(own: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    checkpoint.save(other, replace(checkpoint.load(checkpoint.PRETRAINED), pixel_mean=0.5))
    with pytest.raises(CheckpointError, match="another mean"):
        mnist_cli.train("fake", from_model=other, dataset=own, progress=False)


def test_a_folder_with_a_class_missing_ends_a_training_in_one_line(
    mnist: Mnist, own: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "own"
    shutil.copytree(own, folder)
    shutil.rmtree(folder / "8")
    outcome = mnist("train", "--framework", "fake", "--dataset", folder, "--results-dir", tmp_path)
    assert outcome.exit_code == 1
    assert "has no pictures of 8" in outcome.stderr
    assert not (tmp_path / "models").exists()

"""A model of 26 letters, from training to pictures, reports, export and import."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from idx_files import real_digits, write_dataset
from letter_samples import LETTERS, drawn_letter, write_letters
from outcomes import Outcome
from PIL import Image

from mnist_cli import evaluate, evaluate_all, export_model, import_model, load_model, train
from mnist_cli.config import ModelSpec
from mnist_cli.errors import CheckpointError, UsageError
from mnist_cli.networks.spec import parameter_shapes, written_layers
from mnist_cli.prediction import Digit, Prediction
from mnist_cli.training import checkpoint
from mnist_cli.web.models import load_models

SCHEMAS = json.loads(Path(__file__).with_name("schemas.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with ``numpy-mlp``, trained on letters beside it."""
    folder = tmp_path_factory.mktemp("letters")
    data = write_letters(folder)
    train(
        "numpy",
        arch="mlp",
        epochs=12,
        batch_size=16,
        learning_rate=0.02,
        threads=1,
        dataset=data,
        results_dir=folder,
        progress=False,
    )
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    return folder / "models" / "numpy-mlp.safetensors"


# --- Networks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["cnn", "mlp", "lenet5", "linear", "deep", "resnet", "best"])
@pytest.mark.parametrize("classes", [2, 26, 256])
def test_the_last_layer_of_a_known_network_has_a_unit_for_each_class(
    arch: str, classes: int
) -> None:
    digits, others = ModelSpec(arch), ModelSpec(arch, classes=classes)
    assert ModelSpec(arch).with_classes(classes) == others
    assert others.with_classes(10) == digits
    *hidden, last = parameter_shapes(others).values()
    *same, _ = parameter_shapes(digits).values()
    assert last == (classes,)
    assert hidden[:-1] == same[:-1]
    assert len(written_layers(others)) == len(written_layers(digits))


@pytest.mark.parametrize("classes", [0, 1, 257, 300])
def test_other_numbers_of_classes_are_refused(classes: int) -> None:
    with pytest.raises(UsageError, match=f"classes must be from 2 to 256, not {classes}"):
        ModelSpec("cnn", classes=classes)


# --- Training and files ------------------------------------------------------------------------


def test_letters_are_learned_and_the_model_names_them(folder: Path, model: Path) -> None:
    saved = checkpoint.load(model)
    assert saved.class_names == LETTERS
    assert saved.spec == ModelSpec("mlp", classes=26)
    assert saved.model_epoch.test_accuracy > 0.5  # of 12 images of each; chance is 0.04
    record = json.loads((folder / "numpy-mlp_training.json").read_text())
    assert (record["classes"], record["parameters"]) == (26, 784 * 128 + 128 + 128 * 26 + 26)
    jsonschema.validate(record, {"$defs": SCHEMAS["$defs"], **SCHEMAS["$defs"]["train"]})


def test_a_training_of_letters_goes_on(folder: Path, model: Path, mnist: Any) -> None:
    weights = checkpoint.load(model).weights
    arguments = ["--arch", "mlp", "--epochs", 12, "--batch-size", 16, "--learning-rate", 0.02]
    outcome = mnist(
        "train", "--framework", "numpy", *arguments, "--threads", 1, "--resume",
        "--dataset", folder / "letters.npz", "--results-dir", folder,
    )  # fmt: skip
    assert "Nothing is left to train" in outcome.stderr
    np.testing.assert_array_equal(
        checkpoint.load(model).weights["fc2.weight"], weights["fc2.weight"]
    )


def test_older_models_have_the_ten_digits(tmp_path: Path, model: Path) -> None:
    from safetensors import safe_open
    from safetensors.numpy import save_file

    packaged = checkpoint.load(checkpoint.PRETRAINED)
    checkpoint.save(tmp_path / "new.safetensors", packaged)
    with safe_open(tmp_path / "new.safetensors", framework="numpy") as file:
        metadata = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert json.loads(metadata.pop("class_names")) == list("0123456789")
    for dataset, first in (("mnist", "0"), ("fashion-mnist", "T-shirt"), ("kmnist", "o")):
        metadata["dataset"] = json.dumps(dataset)
        save_file(tensors, tmp_path / "old.safetensors", metadata=metadata)
        assert checkpoint.load(tmp_path / "old.safetensors").class_names[0] == first
    for names in (["a"] * 9, list(range(10)), 7, []):
        metadata["class_names"] = json.dumps(names)
        save_file(tensors, tmp_path / "bad.safetensors", metadata=metadata)
        with pytest.raises(CheckpointError, match="damaged checkpoint"):
            checkpoint.load(tmp_path / "bad.safetensors")


# --- Reports -----------------------------------------------------------------------------------


def test_tables_and_charts_name_the_letters(folder: Path, mnist: Any, drawn: Any) -> None:
    data = ["--dataset", folder / "letters.npz", "--results-dir", folder, "--threads", 1]
    outcome: Outcome = mnist("evaluate", "numpy-mlp", *data)
    assert outcome.stdout.split()[outcome.stdout.split().index("class") :][0] == "class"
    assert [line.split()[0] for line in outcome.stdout.splitlines()[-26:]] == list(LETTERS)
    report = mnist("evaluate", "numpy-mlp", *data, "--json").document
    jsonschema.validate(report, {"$defs": SCHEMAS["$defs"], **SCHEMAS["$defs"]["evaluate"]})
    assert [row["name"] for row in report["per_class"]] == list(LETTERS)
    assert report["class_names"] == list(LETTERS)
    assert np.array(report["confusion_matrix"]).shape == (26, 26)


def test_the_confusion_matrix_has_the_letters_on_its_axes(
    folder: Path, model: Path, tmp_path: Path, drawn: Any
) -> None:
    from mnist_cli.reporting.charts import confusion

    found = evaluate(model, dataset=folder / "letters.npz", threads=1, progress=False)
    confusion.draw(found.confusion_matrix, tmp_path / "c.png", title="t", class_names=LETTERS)
    (panel,) = drawn.figure.axes
    assert [text.get_text() for text in panel.get_xticklabels()] == list(LETTERS)
    assert panel.get_ylabel() == "true class"


@pytest.mark.parametrize("count", [2, 60])
def test_charts_of_any_number_of_classes_are_drawn(tmp_path: Path, count: int) -> None:
    from mnist_cli.data.dataset import from_arrays
    from mnist_cli.reporting.charts import confusion, dataset, predictions

    names = tuple(f"${number}_{{" for number in range(count))  # no mathematics
    labels = np.arange(count, dtype=np.uint8)
    images = np.zeros((count, 28, 28), np.uint8)
    confusion.draw(np.eye(count), tmp_path / "c.png", title="t", class_names=names)
    arrays = [images, labels, images, labels]
    data = from_arrays("made", arrays, source="made", class_names=names)
    dataset.draw(data, tmp_path / "d.png")
    predictions.draw(
        images, labels, labels[::-1], labels / 256, tmp_path / "p.png", title="t", class_names=names
    )
    assert all((tmp_path / name).stat().st_size for name in ("c.png", "d.png", "p.png"))


# --- Other classes -----------------------------------------------------------------------------


def test_a_model_of_letters_does_not_test_digits(
    small_data: Path, folder: Path, model: Path
) -> None:
    with pytest.raises(UsageError, match=r"numpy-mlp tells 26 classes .* MNIST has 10 classes"):
        evaluate(model, threads=1, progress=False)
    with pytest.raises(UsageError, match=r"cnn tells 10 classes .* has 26 classes"):
        evaluate("pretrained", dataset=folder / "letters.npz", threads=1, progress=False)
    with pytest.raises(UsageError, match="tells 26 classes"):
        evaluate_all([model, "pretrained"], threads=1, progress=False)
    with pytest.raises(UsageError, match="tell different numbers of classes apart"):
        evaluate_all([model, "pretrained"], dataset=small_data, threads=1, progress=False)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"reject": True}, "--reject teaches what is none of the ten digits, but .* 26 classes"),
        ({"from_model": "pretrained"}, "tells 10 classes .* has 26 classes"),
    ],
)
def test_what_needs_ten_digits_says_so(folder: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        train(
            "numpy",
            arch=None if "from_model" in options else "mlp",
            epochs=1,
            threads=1,
            dataset=folder / "letters.npz",
            progress=False,
            **options,
        )


def test_letters_are_augmented_without_habits_of_digits(folder: Path) -> None:
    record = train(
        "fake",
        arch="mlp",
        epochs=1,
        batch_size=16,
        dataset=folder / "letters.npz",
        augment=True,
        progress=False,
    )
    assert record.augment


# --- Pictures ----------------------------------------------------------------------------------


def test_pictures_are_answered_with_names(folder: Path, mnist: Any) -> None:
    rng = np.random.default_rng(3)
    strip = 255 - np.hstack([drawn_letter(letter, rng) for letter in "xoz"])
    path = folder / "word.png"
    Image.fromarray(strip).resize((252, 84)).save(path)
    answer = mnist("predict", path, "--model", "numpy-mlp", "--results-dir", folder, "--json")
    (found,) = answer.document
    assert len(found["text"]) == len(found["digits"]) == 3
    assert set(found["text"]) <= set(LETTERS)
    assert [digit["label"] for digit in found["digits"]] == list(found["text"])
    assert [LETTERS[digit["digit"]] for digit in found["digits"]] == list(found["text"])
    plot = folder / "word-plot.png"
    told = mnist(
        "predict", path, "--model", "numpy-mlp", "--results-dir", folder, "--save-plot", plot
    )
    assert plot.stat().st_size
    best = told.stdout.splitlines()[1].split()[0]
    assert best == found["text"][0]


def test_names_of_several_letters_are_written_apart_and_lines_keep_their_classes() -> None:
    names = ("cat", "dog", "a b")
    box = (0, 0, 1, 1)
    image = np.zeros((28, 28), np.uint8)
    digits = tuple(
        Digit(best, 0.8, (0.1, 0.1, 0.8), box, True, image, names) for best in (1, 2, 0, 1)
    )
    answer = Prediction("x.png", "dog a b\ncat dog", digits)
    assert [[digit.label for digit in line] for line in answer.lines()] == [
        ["dog", "a b"],
        ["cat", "dog"],
    ]


# --- Other programs ----------------------------------------------------------------------------


@pytest.mark.slow
def test_letters_are_exported_and_imported_again(folder: Path, model: Path, tmp_path: Path) -> None:
    data = folder / "letters.npz"
    (written,) = export_model(model, "onnx", output=tmp_path / "l.onnx", threads=1, progress=False)
    back = import_model(
        written.path, output=tmp_path / "back.safetensors", dataset=data, progress=False
    )
    assert back.largest_difference < 1e-4  # as exports are held to
    found, saved = checkpoint.load(Path(back.path)), checkpoint.load(model)
    assert (found.class_names, found.spec) == (saved.class_names, saved.spec)
    for name, array in saved.weights.items():
        np.testing.assert_array_equal(found.weights[name], array)
    with pytest.raises(CheckpointError, match=r"26 values of an image, not 10, .* of mnist"):
        import_model(written.path, output=tmp_path / "no.safetensors", progress=False)


def test_the_page_leaves_out_what_tells_no_digits_and_says_why(model: Path) -> None:
    models = load_models(model.parent)
    assert [named.name for named in models.named] == ["pretrained"]
    (line,) = models.problems
    assert "numpy-mlp.safetensors is left out: it tells 26 classes" in line


def test_a_data_set_of_other_classes_than_asked_for_before_is_not_resumed(
    folder: Path, tmp_path: Path, small_data: Path
) -> None:
    options = {"arch": "mlp", "epochs": 1, "batch_size": 16, "progress": False}
    train("fake", dataset=small_data, results_dir=tmp_path, **options)
    with pytest.raises(CheckpointError, match="Cannot resume"):
        train("fake", dataset=folder / "letters.npz", results_dir=tmp_path, resume=True, **options)


def test_fixed_digits_are_trained_and_tested_upright(
    tmp_path: Path, mnist: Callable[..., Outcome]
) -> None:
    lying = tmp_path / "lying"
    write_dataset(lying, train=480, test=100)
    x_train, y_train, x_test, y_test = real_digits(480, 100)
    arrays = {"x_train": x_train.swapaxes(1, 2), "y_train": y_train}
    arrays |= {"x_test": x_test.swapaxes(1, 2), "y_test": y_test}
    np.savez(tmp_path / "lying.npz", **{name: np.array(each) for name, each in arrays.items()})
    options = ["--dataset", tmp_path / "lying.npz", "--results-dir", tmp_path]
    found = mnist("evaluate", "pretrained", "--framework", "numpy", *options)
    assert "lying.npz look transposed" in found.stderr
    fixed = mnist(
        "evaluate", "pretrained", "--framework", "numpy", *options, "--fix-orientation", "--json"
    )
    assert fixed.document["accuracy"] > 0.97
    assert "were turned upright" in fixed.stderr
    compared = mnist(
        "compare",
        "--framework",
        "fake",
        "--arch",
        "mlp",
        "--epochs",
        1,
        "--runs",
        2,
        *options,
        "--fix-orientation",
    )
    assert compared.exit_code == 0, compared.stderr
    assert compared.stderr.count("were turned upright") == 1
    assert (tmp_path / "sample_predictions.png").is_file()
    record = json.loads((tmp_path / "comparison_results.json").read_text())
    assert record["settings"]["fix_orientation"]
    assert load_model("pretrained").class_names[0] == "0"

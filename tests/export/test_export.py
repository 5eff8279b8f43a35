"""Exports: each format is read again by its own runtime, and by programs without this package."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from convert_driver import Runtimes, kept_processes, save_model
from outcomes import Outcome

from mnist_cli import export_model
from mnist_cli.cli import export, import_file
from mnist_cli.config import NETWORKS
from mnist_cli.data.registry import load_dataset
from mnist_cli.errors import FrameworkError, OutputError, UsageError
from mnist_cli.export.formats import FORMATS
from mnist_cli.importing.source import PIXELS
from mnist_cli.prediction import Model
from mnist_cli.runners import process
from mnist_cli.training import checkpoint
from mnist_cli.training.evaluation import probabilities

pytestmark = pytest.mark.slow

# Beside the known networks: what they lack, padding with a stride and even kernels among it.
LINES = {
    **{name: name for name in NETWORKS},
    "odd": "conv 4 5x5 stride 2, gelu, conv 6 4x4 valid, sigmoid, pool max 3, batchnorm, "
    "dense 12, batchnorm, residual(dense 12, tanh), dropout .3",
}
Mnist = Callable[..., Outcome]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of each network."""
    folder = tmp_path_factory.mktemp("models")
    for name, line in LINES.items():
        save_model(folder / f"{name}.safetensors", line)
    return folder


@pytest.fixture(scope="module")
def runtimes() -> Iterator[Runtimes]:
    with kept_processes() as kept:
        yield kept


@pytest.fixture(scope="module")
def exported(models: Path, runtimes: Runtimes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with each network in each format: writing them verifies them."""
    folder = tmp_path_factory.mktemp("exports")
    for name in LINES:
        written = export_model(
            models / f"{name}.safetensors", list(FORMATS), output=folder, progress=False
        )
        assert [each.format for each in written] == list(FORMATS)
        for each in written:
            # The logits of these networks are up to some tens, of which 1e-4 is 20 roundings.
            assert each.largest_difference <= 1e-4 * 3, each
            assert each.size_bytes > 0
    return folder


@pytest.fixture(scope="module")
def expected(models: Path) -> dict[str, np.ndarray]:
    """The probabilities of ten digits by model."""
    images = load_dataset().test_images[:10]
    return {
        name: probabilities(Model(models / f"{name}.safetensors").logits(images)) for name in LINES
    }


def _run_elsewhere(code: str, folder: Path) -> dict[str, list[list[float]]]:
    """Return what code prints as JSON in a process that cannot import this package."""
    np.save(folder / "images.npy", load_dataset().test_images[:10])
    start = "import sys\nsys.modules['mnist_cli'] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", start + code],
        cwd=folder,
        env={**process.process_environment(2), "PYTHONPATH": "", "PYTHONSAFEPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


# The programs of others give probabilities in float32; 1e-5 is some 100 roundings at 1.
TOLERANCE = 1e-5


@pytest.mark.parametrize("name", LINES)
def test_an_onnx_file_is_valid_and_takes_any_number_of_raw_pixels(
    exported: Path, expected: dict[str, np.ndarray], name: str
) -> None:
    import onnx
    import onnxruntime

    path = exported / f"{name}.onnx"
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images = load_dataset().test_images[:10]
    for count in (1, 10):
        (found,) = session.run(None, {"images": images[:count]})
        np.testing.assert_allclose(found, expected[name][:count], atol=TOLERANCE)


def test_keras_and_litert_load_their_files_without_this_package(
    exported: Path, expected: dict[str, np.ndarray]
) -> None:
    code = (
        "import json, keras, numpy, pathlib, tensorflow as tf\n"
        "images = numpy.load('images.npy')\n"
        "files = sorted(pathlib.Path().glob('*.keras'))\n"
        "models = {file.stem: keras.models.load_model(file) for file in files}\n"
        "found = {n: m(images).numpy().tolist() for n, m in models.items()}\n"
        "for file in pathlib.Path().glob('*.tflite'):\n"
        "    run = tf.lite.Interpreter(str(file)).get_signature_runner()\n"
        "    answers = run(images=images)['probabilities'].tolist()\n"
        "    found[file.stem] = [found[file.stem], answers]\n"
        "print(json.dumps(found))\n"
    )
    found = _run_elsewhere(code, exported)
    assert found.keys() == LINES.keys()
    for name, (keras_values, litert_values) in found.items():
        np.testing.assert_allclose(keras_values, expected[name], atol=TOLERANCE)
        np.testing.assert_allclose(litert_values, expected[name], atol=TOLERANCE)


@pytest.mark.parametrize("kind", ["torch", "huggingface"])
def test_model_py_stands_alone(exported: Path, expected: dict[str, np.ndarray], kind: str) -> None:
    code = (
        "import json, numpy, pathlib, runpy, torch\n"
        "images, found = numpy.load('images.npy'), {}\n"
        f"for file in sorted(pathlib.Path().glob('*-{kind}/model.py')):\n"
        "    model = runpy.run_path(str(file))\n"
        "    with torch.inference_mode():\n"
        "        logits = model['load']()(model['normalise'](images))\n"
        f"    found[file.parent.name.removesuffix('-{kind}')] = logits.softmax(1).tolist()\n"
        "print(json.dumps(found))\n"
    )
    found = _run_elsewhere(code, exported)
    assert found.keys() == LINES.keys()
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name], atol=TOLERANCE)


def test_model_py_of_the_cnn_is_short(exported: Path) -> None:
    code = (exported / "cnn-torch" / "model.py").read_text()
    assert len([line for line in code.splitlines() if line.strip()]) <= 40


@pytest.mark.parametrize("name", LINES)
def test_a_hugging_face_folder_has_weights_settings_and_a_card(
    exported: Path, models: Path, name: str
) -> None:
    from safetensors.numpy import load_file

    folder, model = (
        exported / f"{name}-huggingface",
        checkpoint.load(models / f"{name}.safetensors"),
    )
    weights = load_file(folder / "model.safetensors")
    assert weights.keys() == model.weights.keys()
    for key, array in weights.items():
        np.testing.assert_array_equal(array, model.weights[key])
    config = json.loads((folder / "config.json").read_text())
    assert (config["line"], config["image_mean"]) == (model.spec.line, [0.2])
    card = (folder / "README.md").read_text()
    for text in ("94.00%", "95.00%", model.spec.line, "| batch size | 64 |", "library_name"):
        assert text in card


@pytest.mark.parametrize("name", ["onnx", "keras", "tflite"])
def test_raw_files_take_normalised_images_and_give_logits(
    models: Path, runtimes: Runtimes, tmp_path: Path, name: str
) -> None:
    (written,) = export_model(
        models / "lenet5.safetensors", name, raw=True, output=tmp_path / f"raw.{name}"
    )
    assert written.path == str(tmp_path / f"raw.{name}")
    assert written.largest_difference <= 3e-4  # as above


def test_what_differs_is_not_kept(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtimes: Runtimes
) -> None:
    def disturbed(job: Any, on_event: Any) -> dict[str, Any]:
        logits = np.array(runtimes(job, on_event)["logits"])
        logits[700, 3] += 0.01
        return {"logits": logits.tolist()}

    monkeypatch.setattr(process, "run", disturbed)
    for name in ("onnx", "torch"):
        with pytest.raises(FrameworkError, match=r"differ from the model's by up to 0\.01"):
            export_model(models / "mlp.safetensors", name, output=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux")
@pytest.mark.parametrize("name", FORMATS)
def test_a_full_disk_leaves_nothing(
    models: Path, exported: Path, tmp_path: Path, runtimes: Runtimes, name: str
) -> None:
    # A limit on the size of files stands in for a full disk: less than the CNN takes.
    worker = runtimes.processes[FORMATS[name].runtime].pid
    limits = resource.prlimit(worker, resource.RLIMIT_FSIZE)
    resource.prlimit(worker, resource.RLIMIT_FSIZE, (800_000, limits[1]))
    try:
        with pytest.raises(OutputError, match=f"Cannot write the {name} file"):
            export_model(models / "cnn.safetensors", name, output=tmp_path)
    finally:
        resource.prlimit(worker, resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_other_files_is_not_replaced_and_an_export_is(
    models: Path, tmp_path: Path, runtimes: Runtimes
) -> None:
    place = tmp_path / "mlp-torch"
    place.mkdir()
    (place / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="with other files"):
        export_model(models / "mlp.safetensors", ["torch"], output=tmp_path)
    assert (place / "notes.txt").read_text() == "mine"
    (place / "notes.txt").unlink()
    for name in ("mlp", "linear"):
        export_model(models / f"{name}.safetensors", "torch", output=place)
    assert sorted(each.name for each in place.iterdir()) == ["model.py", "model.safetensors"]
    assert "dense 10" in (place / "model.py").read_text()
    assert [each.name for each in tmp_path.iterdir()] == ["mlp-torch"]


@pytest.mark.parametrize(
    ("to", "options", "said"),
    [
        ("tensorrt", {}, "Unknown format 'tensorrt'. Choose from onnx, keras"),
        ([], {}, "Name at least one format"),
        ("keras", {"output": "model.h5"}, "--output must end in .keras, or be a folder"),
        (["onnx", "torch"], {"raw": True}, "--raw does not go with torch"),
    ],
)
def test_a_wrong_request_is_a_usage_error(
    models: Path, tmp_path: Path, to: Any, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        export_model(models / "mlp.safetensors", to, **{"output": tmp_path, **options})


def test_onnx_that_is_not_installed_is_named_with_its_extra(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mnist_cli.export.formats.find_spec", lambda name: None)
    with pytest.raises(FrameworkError, match=r"pip install 'mnist-cli\[onnx\]'"):
        export_model(models / "mlp.safetensors", "onnx", output=tmp_path)


def test_the_command_says_what_it_wrote(
    mnist: Mnist, models: Path, tmp_path: Path, runtimes: Runtimes
) -> None:
    command = ("export", "mlp", "--to", "onnx", "--results-dir", tmp_path)
    (tmp_path / "models").mkdir()
    os.link(models / "mlp.safetensors", tmp_path / "models" / "mlp.safetensors")
    outcome = mnist(*command)
    assert outcome.exit_code == 0, outcome.stderr
    assert f"onnx: {tmp_path / 'exports' / 'mlp.onnx'}, 0.41 MB" in outcome.stdout
    (document,) = mnist(*command, "--json").document
    assert (document["format"], document["size_bytes"]) == (
        "onnx",
        (tmp_path / "exports" / "mlp.onnx").stat().st_size,
    )


def test_the_commands_know_the_formats_and_the_pixels() -> None:
    # Written out there, because listing the options must not load what knows them.
    assert tuple(FORMATS) == export.FORMATS
    assert tuple(PIXELS) == import_file.PIXELS

"""Imports: files of every kind come back as they went out, and tutorials' files come in."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from convert_driver import Runtimes, kept_processes, save_model
from outcomes import Outcome

from mnist_cli import export_model, import_model
from mnist_cli.config import NETWORKS
from mnist_cli.errors import CheckpointError, FrameworkError, OutputError, UsageError
from mnist_cli.importing import keras_config, reading, state_dict
from mnist_cli.networks.language import find_network
from mnist_cli.runners import process, tasks
from mnist_cli.runners.base import ExportJob, ImportJob
from mnist_cli.training import checkpoint
from mnist_cli.training.checkpoint import PRETRAINED

pytestmark = pytest.mark.slow

ODD = (
    "conv 4 5x5 stride 2, tanh, conv 6 4x4 valid, sigmoid, pool max 3, batchnorm, dense 12, "
    "batchnorm, residual(dense 12, tanh), dropout .3"
)
LINES = {**{name: name for name in NETWORKS}, "odd": ODD, "gelu": "conv 3, gelu"}
KINDS = {
    "onnx": "export-{}.onnx",
    "keras": "export-{}.keras",
    "h5": "export-{}.h5",
    "state_dict": "export-{}.pt",
    "safetensors": "export-{}/model.safetensors",
}
# What each file of a tutorial is as a line, by the file.
TUTORIALS = {
    "keras-convnet.keras": "conv 32 valid, relu, pool, conv 64 valid, relu, pool, dropout 0.5",
    "keras-convnet.h5": "conv 32 valid, relu, pool, conv 64 valid, relu, pool, dropout 0.5",
    "tensorflow-quickstart.keras": "dense 128, relu, dropout 0.2",
    "keras-mlp.keras": "dense 512, relu, dropout 0.2, dense 512, relu",
    "keras-cnn.keras": "conv 32 valid, relu, conv 64 valid, relu, pool, dropout 0.25, "
    "dense 128, relu, dropout 0.5",
    "tensorflow-experts.keras": "conv 32 valid, relu, dense 128, relu",
    "tensorflow-deep.keras": "conv 32 5x5, relu, pool, conv 64 5x5, relu, pool, dense 1024, relu, "
    "dropout 0.5",
    "keras-sigmoids.keras": "dense 30, sigmoid, dense 10, sigmoid",
    "keras-kaggle.keras": "batchnorm, conv 32 valid, relu, batchnorm, conv 32 7x7 stride 2, relu, "
    "batchnorm, dropout 0.4, conv 64 4x4 valid, relu, pool avg 10, batchnorm",
    "keras-strided.keras": "conv 6 5x5 stride 2, batchnorm, tanh, conv 5 5x5, sigmoid, conv 4, "
    "relu, pool avg 14",
    "keras-residual.keras": "conv 8, relu, residual(conv 8, batchnorm), relu, pool 4",
    "keras-residual.h5": "conv 8, relu, residual(conv 8, batchnorm), relu, pool 4",
    "keras-nested.keras": "conv 3 5x5 valid, pool avg 4, dense 12, sigmoid",
    "torch-example.onnx": "conv 32 valid, relu, conv 64 valid, relu, pool, dense 128, relu",
    "torch-quickstart.onnx": "dense 512, relu, dense 512, relu",
    "torch-lenet.onnx": "conv 6 5x5, sigmoid, pool avg, conv 16 5x5 valid, sigmoid, pool avg, "
    "dense 120, sigmoid, dense 84, sigmoid",
    "torch-lightning.onnx": "dense 128, relu, dense 256, relu",
    "torch-blitz.onnx": "conv 6 5x5 valid, relu, pool, conv 16 5x5 valid, relu, pool, "
    "dense 120, relu, dense 84, relu",
    "torch-older.onnx": "conv 10 5x5 valid, pool, relu, conv 20 5x5 valid, pool, relu, "
    "dense 50, relu",
    "torch-convolutions.onnx": "conv 16 stride 2, relu, conv 16 stride 2, relu, conv 10 1x1, "
    "pool avg 7",
    "torch-batchnorm.onnx": "conv 8, relu, pool, residual(conv 8), relu, conv 12 stride 2, relu, "
    "pool avg 7, dense 20, batchnorm, tanh",
}
Mnist = Callable[..., Outcome]


@pytest.fixture(scope="module")
def runtimes() -> Iterator[Runtimes]:
    with kept_processes() as kept:
        yield kept


@pytest.fixture(scope="module")
def files(runtimes: Runtimes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files of all kinds, exported here or made by the frameworks themselves."""
    folder = tmp_path_factory.mktemp("files")
    for name, line in LINES.items():
        model = folder / f"{name}.safetensors"
        save_model(model, line)
        for kind, suffix in (("onnx", ".onnx"), ("keras", ".keras"), ("torch", "")):
            export_model(model, kind, output=folder / f"export-{name}{suffix}", progress=False)
    (folder / "export-gelu.keras").rename(folder / "gelu.keras")  # no .h5 can hold it
    for framework, script in (("torch", "torch_models.py"), ("tensorflow", "keras_models.py")):
        runtimes.make(framework, Path(__file__).with_name(script), folder)
    (folder / "gelu.keras").rename(folder / "export-gelu.keras")
    return folder


@pytest.fixture
def take(files: Path, small_data: Path, tmp_path: Path) -> Callable[..., Any]:
    """Import a file of `files`, or another, and return what is said and the model."""

    def import_it(name: str | Path, **options: Any) -> tuple[Any, checkpoint.Checkpoint]:
        output = tmp_path / "imported.safetensors"
        options = {"dataset": small_data, "output": output, "progress": False, **options}
        found = import_model(files / name, **options)
        return found, checkpoint.load(Path(found.path))

    return import_it


# --- What comes in -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LINES)
def test_a_network_comes_back_as_it_went_out(
    files: Path, take: Callable[..., Any], name: str, kind: str
) -> None:
    if (name, kind) == ("gelu", "h5"):
        pytest.skip("Keras' old format holds no GELU by tanh")
    bare = {"arch": LINES[name], "pixels": "0.2,0.4"} if kind == "state_dict" else {}
    found, model = take(KINDS[kind].format(name), **bare)
    original = checkpoint.load(files / f"{name}.safetensors")
    assert model.spec == original.spec
    # Scale and offset in the file are float32: 6e-8 of each.
    assert (model.pixel_mean, model.pixel_std) == pytest.approx((0.2, 0.4), rel=1e-6)
    assert model.weights.keys() == original.weights.keys()
    for key, array in original.weights.items():
        # A variance is rounded twice, because epsilon is taken off and added again.
        np.testing.assert_allclose(model.weights[key], array, atol=1e-6)
    assert (found.largest_difference is None) == (kind in ("state_dict", "safetensors"))
    assert model.history[-1].test_accuracy == found.test_accuracy


@pytest.mark.parametrize("name", TUTORIALS)
def test_files_of_tutorials_come_in(take: Callable[..., Any], name: str) -> None:
    found, model = take(name)
    assert found.line == TUTORIALS[name]
    # Compared with the file's own runtime; these logits are below 100, of which it is 1e-6.
    assert found.largest_difference <= 3e-4
    assert model.versions == {"imported_from": name}
    expected = {"torch": (0.1307, 0.3081), "keras": (0, 1), "tensorflow": (0, 1)}
    mean, std = expected[name.split("-")[0]]
    if name.startswith("keras-strided"):  # normalises once more: x / 127.5 - 1
        mean, std = 127.5, 127.5
    assert (found.pixel_mean, found.pixel_std) == pytest.approx((mean, std))


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [("0-1", (0, 1)), ("0-255", (0, 1 / 255)), ("-1-1", (0.5, 0.5)), ("0.3,0.7", (0.3, 0.7))],
)
def test_an_option_says_how_pixels_enter(
    take: Callable[..., Any], pixels: str, expected: tuple[float, float]
) -> None:
    found, model = take("torch-quickstart.onnx", pixels=pixels)
    assert (model.pixel_mean, model.pixel_std) == pytest.approx(expected, rel=1e-6)
    assert found.largest_difference <= 3e-4 * 30  # logits of pixels up to 255 are in the hundreds


def test_a_state_dict_without_a_line_is_told_by_its_shapes_and_accuracy(
    take: Callable[..., Any], tmp_path: Path
) -> None:
    import safetensors.numpy as st

    bare = tmp_path / "bare.safetensors"
    st.save_file(checkpoint.load(PRETRAINED).weights, bare)
    found, _ = take(bare)
    assert found.line == find_network("cnn").line
    assert found.test_accuracy > 0.97
    assert "The file has weights and no graph. Assumed" in found.notes[0]
    # A residual is not seen in shapes: the accuracy gives it away.
    found, _ = take("torch-batchnorm.pt")
    assert "Warning: only" in found.notes[-1]


def test_pixels_of_a_state_dict_are_told_by_accuracy_too(
    take: Callable[..., Any], tmp_path: Path
) -> None:
    import safetensors.numpy as st

    weights = checkpoint.load(PRETRAINED).weights
    first = weights["conv1.weight"]
    weights["conv1.bias"] -= first.sum((1, 2, 3)) * np.float32(0.1307 / 0.3081)
    weights["conv1.weight"] = first / np.float32(255 * 0.3081)  # now for pixels of 0-255
    st.save_file(weights, tmp_path / "bare.safetensors")
    found, _ = take(tmp_path / "bare.safetensors")
    assert (found.pixel_mean, found.pixel_std) == (0, 1 / 255)
    assert "Pixels enter as 0-255" in found.notes[1]


@pytest.mark.parametrize("name", ["torch-example", "training", "parallel"])
def test_where_accuracy_says_nothing_the_likeliest_geometry_is_taken(
    files: Path, tmp_path: Path, runtimes: Runtimes, name: str
) -> None:
    weights = tmp_path / "weights.safetensors"
    job = ImportJob("torch", str(files / f"{name}.pt"), 1, str(weights), "")
    order = runtimes(job, None)["order"]
    tensors, _ = state_dict.read_safetensors(weights)
    found, tried = state_dict.infer({each: tensors[each] for each in order}, lambda network: 0.1)
    assert found.line == TUTORIALS["torch-example.onnx"]
    assert tried > 4  # other activations and strides fit as well


def test_wrong_pixels_are_warned_of_with_better_ones(
    take: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "raw.onnx"
    export_model("pretrained", "onnx", raw=True, output=path, progress=False)
    found, _ = take(path, pixels="0-255")
    (note,) = found.notes
    assert "Warning: only" in note
    assert "With --pixels mnist it would be about" in note
    found, _ = take(path)  # our own files say it
    assert found.pixel_mean == 0.1307


def test_the_command_imports_and_evaluates(
    mnist: Mnist, files: Path, small_data: Path, tmp_path: Path
) -> None:
    options = ("--dataset", small_data, "--results-dir", tmp_path)
    outcome = mnist("import", files / "export-mlp.onnx", *options)
    assert outcome.exit_code == 0, outcome.stderr
    assert "mlp: dense 128, relu" in outcome.stdout
    assert "agrees with its own runtime" in outcome.stderr
    document = mnist("import", files / "export-mlp.onnx", *options, "--json").document
    assert document["path"] == str(tmp_path / "models" / "export-mlp.safetensors")
    evaluated = mnist("evaluate", "export-mlp", "--framework", "numpy", "--json", *options).document
    assert evaluated["accuracy"] == document["test_accuracy"]


# --- What is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lambda.keras", "the layer Lambda, which holds code"),
        ("lambda.h5", "the layer Lambda, which holds code"),
        ("custom.keras", "the custom layer Halve"),
        ("erf-gelu.keras", "the activation gelu by the error function"),
        ("elu.keras", "the activation elu"),
        ("overlapping.keras", r"windows of \(3, 3\) a stride of \(2, 2\)"),
        ("classes.keras", "gives 7 values of an image, not 10"),
        ("recurrent.keras", "the layer LSTM"),
        ("colour.keras", "expected an input of 28x28 pixels, not 32x32x3"),
        ("only.weights.h5", "has weights and no network"),
        ("evil.pt", "is not a state_dict that can be read safely"),
        ("whole.pt", "is not a state_dict that can be read safely"),
        ("script.pt", "is not a state_dict that can be read safely"),
        ("list.pt", "holds no state_dict"),
        ("recurrent.pt", "no layer's weights"),
    ],
)
def test_what_a_line_cannot_say_is_refused_and_nothing_is_run_or_written(
    take: Callable[..., Any], files: Path, tmp_path: Path, name: str, said: str
) -> None:
    with pytest.raises(CheckpointError, match=said):
        take(name)
    assert list(tmp_path.iterdir()) == []
    assert not (Path.cwd() / "evil-ran").exists()
    assert not (files / "evil-ran").exists()


@pytest.mark.parametrize("name", ["lambda.keras", "custom.keras", "lambda.h5"])
def test_code_is_found_before_keras_reads_the_file(files: Path, name: str) -> None:
    with pytest.raises(CheckpointError):
        keras_config.require_safe(files / name)
    assert "keras" not in sys.modules


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.98])
def test_a_file_cut_short_is_refused(
    take: Callable[..., Any], files: Path, tmp_path: Path, kind: str, share: float
) -> None:
    whole = files / KINDS[kind].format("mlp")
    cut = tmp_path / f"cut{whole.suffix}"
    content = whole.read_bytes()
    cut.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError) as error:
        take(cut)
    assert "\n" not in str(error.value).strip()
    assert list(tmp_path.iterdir()) == [cut]


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("model.pkl", {}, "Pickles of whole models are never read"),
        ("missing.onnx", {}, "There is no file"),
        ("export-mlp.onnx", {"arch": "mlp"}, "--arch is for a file without a graph"),
        ("export-mlp.onnx", {"pixels": "bright"}, "pixels must be mnist, 0-1"),
        ("export-mlp.onnx", {"pixels": "0,0"}, "pixels must be mnist, 0-1"),
        ("export-mlp.onnx", {"output": "model.onnx"}, "--output must be another .safetensors"),
        ("mlp.safetensors", {}, "is a model of this program already"),
        ("export-cnn.pt", {"arch": "mlp"}, "weights of more layers than"),
        ("export-mlp.pt", {"arch": "cnn"}, "too few weights"),
        ("export-mlp.pt", {"arch": "dense 64, relu"}, "The weights are not those of"),
        ("letters.safetensors", {}, "gives 26 values of an image, not 10, .* with --dataset"),
    ],
)
def test_a_wrong_request_is_refused_in_one_line(
    take: Callable[..., Any], files: Path, name: str, options: dict[str, Any], said: str
) -> None:
    import safetensors.numpy as st

    (files / "model.pkl").touch()
    letters = {"fc1.weight": np.zeros((32, 784)), "fc2.weight": np.zeros((26, 32))}
    st.save_file(letters, files / "letters.safetensors")
    with pytest.raises((CheckpointError, UsageError), match=said):
        take(name, **options)


@pytest.mark.parametrize("suffix", [".keras", ".pt"])
def test_a_zip_bomb_is_refused_before_it_is_unpacked(
    take: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    import zipfile

    bomb = tmp_path / f"bomb{suffix}"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", bytes(20_000_000))
    assert bomb.stat().st_size < 100_000
    monkeypatch.setattr(reading, "MAX_BYTES", 10_000_000)  # a gigabyte would take seconds to make
    with pytest.raises(CheckpointError, match="would take 20,000,002 bytes unpacked"):
        take(bomb)


def test_arrays_in_other_files_and_packed_ones_are_refused_in_hdf5(
    files: Path, tmp_path: Path
) -> None:
    import shutil

    import h5py

    path = tmp_path / "model.h5"
    for name, said in (("link", "in another file"), ("bomb", "bytes of weights, unpacked")):
        shutil.copy(files / "keras-convnet.h5", path)
        with h5py.File(path, "a") as file:
            if name == "link":
                file["model_weights/link"] = h5py.ExternalLink(str(files / "lambda.h5"), "/")
            else:
                zeros = {"shape": (2**30,), "dtype": "f4", "compression": "gzip"}
                file.create_dataset("model_weights/bomb", **zeros)
        with pytest.raises(CheckpointError, match=said):
            keras_config.require_safe(path)
    assert path.stat().st_size < 1_000_000


def test_what_answers_otherwise_than_its_own_runtime_is_not_kept(
    take: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, runtimes: Runtimes
) -> None:
    def disturbed(job: Any, on_event: Any) -> dict[str, Any]:
        result = runtimes(job, on_event)
        result["outputs"][3][4] += 0.01
        return dict(result)

    monkeypatch.setattr(process, "run", disturbed)
    for name in ("torch-quickstart.onnx", "torch-example.onnx", "export-mlp.keras"):
        with pytest.raises(CheckpointError, match="answers otherwise than its own runtime"):
            take(name)
    assert list(tmp_path.iterdir()) == []


def test_a_runtime_that_cannot_be_imported_is_named(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    out = str(tmp_path / "out")
    jobs = {
        tasks.import_file: ImportJob("onnx", str(files / "export-mlp.onnx"), 1, out, out),
        tasks.export: ExportJob(
            "onnx", str(files / "mlp.safetensors"), 1, "onnx", out, str(files / "images.npy")
        ),
    }
    np.save(files / "images.npy", np.zeros((2, 28, 28), np.uint8))
    for task, job in jobs.items():
        with pytest.raises(FrameworkError, match="ONNX Runtime cannot be imported"):
            task(job)


def test_a_full_disk_leaves_nothing(files: Path, small_data: Path, tmp_path: Path) -> None:
    # A limit on the size of files stands in for a full disk: more than the 100 images take, less
    # than the weights.
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "from mnist_cli.cli import app\n"
        "app.main()\n"
    )
    command = ["import", "--dataset", small_data, "--results-dir", tmp_path]
    for name in ("export-mlp.onnx", "export-mlp/model.safetensors"):
        done = subprocess.run(
            [sys.executable, "-c", code, *command, files / name],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert done.stderr.startswith("Error: Cannot write")
        assert len(done.stderr.splitlines()) == 1
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    with pytest.raises(OutputError):
        import_model(files / "export-mlp.onnx", output="/dev/null/x.safetensors")

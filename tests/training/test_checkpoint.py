"""Checkpoints: what is saved comes back, and what is not one is refused in one line."""

from __future__ import annotations

import json
import pickle
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import mnist_cli
from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.errors import CheckpointError, OutputError
from mnist_cli.networks.language import find_network
from mnist_cli.networks.spec import initial_weights, parameter_shapes
from mnist_cli.records import EpochRecord
from mnist_cli.training import checkpoint, recipe
from mnist_cli.training.checkpoint import Calibration, Checkpoint

ROW = EpochRecord(
    epoch=1,
    train_loss=0.4,
    validation_loss=0.2,
    validation_accuracy=0.95,
    test_loss=0.21,
    test_accuracy=0.94,
    train_seconds=1.5,
    images_per_second=36_000.0,
)


@pytest.fixture(params=["cnn", "mlp"])
def model(request: pytest.FixtureRequest) -> Checkpoint:
    spec = ModelSpec(request.param)
    weights = recipe.starting_weights(spec, 0)
    return Checkpoint(
        spec=spec,
        config=TrainConfig(seed=7),
        framework="numpy",
        dataset="mnist",
        dataset_sha256="00",
        train_images=55_000,
        history=(ROW,),
        weights=weights,
        velocities={name: array * 2 for name, array in weights.items()},
        best_weights={name: array * 3 for name, array in weights.items()},
        versions={"numpy": "2"},
        calibration=Calibration(temperature=0.6, sure_probability=0.8, sure_evidence=2.5),
    )


@pytest.fixture
def saved(model: Checkpoint, tmp_path: Path) -> Path:
    path = tmp_path / "models" / "numpy.safetensors"
    checkpoint.save(path, model)
    return path


def _rewrite(
    path: Path,
    *,
    tensors: dict[str, Any] | None = None,
    drop: tuple[str, ...] = (),
    **details: Any,
) -> None:
    """Save a checkpoint again with some tensors or metadata changed; None drops one."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        metadata = dict(file.metadata())
    metadata |= {name: json.dumps(value) for name, value in details.items()}
    for name in drop:
        del metadata[name]
    kept = {n: t for n, t in (load_file(path) | (tensors or {})).items() if t is not None}
    save_file(kept, path, metadata=metadata)


def test_a_checkpoint_comes_back_as_it_was_saved(model: Checkpoint, saved: Path) -> None:
    found = checkpoint.load(saved)
    for name, array in model.weights.items():
        np.testing.assert_array_equal(found.weights[name], array)
        np.testing.assert_array_equal(found.velocities[name], model.velocities[name])
        np.testing.assert_array_equal(found.best_weights[name], model.best_weights[name])
    blank = {"weights": {}, "velocities": {}, "best_weights": {}}
    assert replace(found, **blank) == replace(model, **blank)  # type: ignore[arg-type]


def test_a_model_from_before_a_setting_has_what_was_then_the_only_choice(saved: Path) -> None:
    _rewrite(saved, recipe={"epochs": 5, "learning_rate": 0.05}, calibration=None)
    old = checkpoint.load(saved)
    assert old.config == TrainConfig(epochs=5, learning_rate=0.05, label_smoothing=0, decay_power=1)
    assert old.calibration is None


def test_a_model_from_before_lines_has_that_of_its_name(saved: Path) -> None:
    expected = checkpoint.load(saved).spec
    _rewrite(saved, drop=("line",))
    assert checkpoint.load(saved).spec == expected


def test_a_model_carries_its_line_and_running_statistics(model: Checkpoint, tmp_path: Path) -> None:
    spec = find_network("conv 3, batchnorm, relu, pool 4, dense 9, residual(dense 9, tanh)")
    weights = initial_weights(spec, np.random.default_rng(0))
    velocities = {
        name: np.ones(shape, np.float32) for name, shape in parameter_shapes(spec).items()
    }
    path = tmp_path / "own.safetensors"
    own = replace(model, spec=spec, weights=weights, velocities=velocities, best_weights=weights)
    checkpoint.save(path, own)
    found = checkpoint.load(path)
    assert found.spec == spec
    assert found.weights.keys() == found.best_weights.keys() == weights.keys()
    assert "bn1.running_var" in found.weights
    assert "bn1.running_var" not in found.velocities


def test_the_model_in_the_package_is_of_a_format_that_is_read() -> None:
    # Model files of version 1 are out there: a program that reads no more of them is another one.
    (path,) = (Path(mnist_cli.__file__).parent / "pretrained").glob("*.safetensors")
    assert checkpoint.load(path).spec.arch == "cnn"


def test_strided_weights_are_saved_with_their_own_values(model: Checkpoint, tmp_path: Path) -> None:
    # safetensors alone would write the memory of the transposed array, not its values.
    strided = {n: np.asfortranarray(a) for n, a in model.weights.items()}
    assert not strided["fc1.weight"].flags.c_contiguous
    path = tmp_path / "strided.safetensors"
    checkpoint.save(path, replace(model, weights=strided, velocities={}))
    for name, array in checkpoint.load(path).weights.items():
        np.testing.assert_array_equal(array, model.weights[name])


def test_metadata_tells_a_stranger_what_the_model_is(saved: Path) -> None:
    from safetensors import safe_open

    with safe_open(saved, framework="numpy") as file:
        metadata = file.metadata()
    assert json.loads(metadata["normalization"]) == {"mean": 0.1307, "std": 0.3081}
    assert json.loads(metadata["seed"]) == 7
    assert json.loads(metadata["test_accuracy"]) == 0.94
    assert json.loads(metadata["recipe"])["momentum"] == 0.9
    assert json.loads(metadata["versions"]) == {"numpy": "2"}


@pytest.mark.parametrize(
    ("unfinished", "patience", "epoch"), [(False, None, 3), (False, 2, 2), (True, 2, 3)]
)
def test_metadata_names_the_accuracy_of_the_weights_in_the_file(
    model: Checkpoint, tmp_path: Path, unfinished: bool, patience: int | None, epoch: int
) -> None:
    from safetensors import safe_open

    history = tuple(
        replace(
            ROW, epoch=n, validation_loss=loss, validation_accuracy=n / 10, test_accuracy=n / 20
        )
        for n, loss in ((1, 0.3), (2, 0.1), (3, 0.2))  # the second is the best
    )
    saved = replace(model, history=history, config=TrainConfig(patience=patience))
    if not unfinished:
        saved = replace(saved, velocities={}, best_weights={})
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, saved)
    with safe_open(path, framework="numpy") as file:
        metadata = {name: json.loads(value) for name, value in file.metadata().items()}
    assert metadata["epochs_completed"] == 3
    assert metadata["validation_accuracy"] == epoch / 10
    assert metadata["test_accuracy"] == epoch / 20
    assert len(metadata["history"]) == 3


def test_a_model_predicts_in_float32_whatever_it_was_trained_in(model: Checkpoint) -> None:
    built: dict[str, Any] = {}

    class Adapter:
        def build(self, spec: ModelSpec, config: TrainConfig, **options: Any) -> Any:
            built.update(options, spec=spec, config=config)
            return self

        def import_weights(self, weights: Any) -> None:
            built["weights"] = weights

    mixed = replace(model, config=TrainConfig(precision="bfloat16", batch_size=32))
    mixed.classifier(Adapter(), device="cuda", threads=3)  # type: ignore[arg-type]
    assert built == {
        "spec": model.spec,
        "config": TrainConfig(batch_size=32),
        "device": "cuda",
        "threads": 3,
        "weights": model.weights,
    }


def test_a_model_is_named_by_its_path_or_by_its_name_in_the_results(tmp_path: Path) -> None:
    results = tmp_path / "results"
    named = results / "models" / "torch-cnn.safetensors"
    assert checkpoint.model_path("torch-cnn", results) == named
    # A path that is there, or has an ending, is taken as it stands.
    assert checkpoint.model_path("no-such.safetensors", results) == Path("no-such.safetensors")
    (tmp_path / "mine").touch()
    assert checkpoint.model_path(tmp_path / "mine", results) == tmp_path / "mine"


def test_saving_leaves_no_other_file_behind(saved: Path) -> None:
    assert [path.name for path in saved.parent.iterdir()] == ["numpy.safetensors"]


def test_a_save_that_fails_keeps_the_old_checkpoint(
    model: Checkpoint, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    before = saved.read_bytes()
    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(OutputError, match="No space left on device"):
        checkpoint.save(saved, model)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["numpy.safetensors"]


def test_a_disk_that_fills_up_is_an_output_error_too(model: Checkpoint, tmp_path: Path) -> None:
    # The library has an error of its own for it; a limit on file size stands in for a full disk.
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        with pytest.raises(OutputError, match="Cannot write"):
            checkpoint.save(tmp_path / "model.safetensors", model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


def _missing(path: Path) -> None:
    path.unlink()


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _truncated_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


def _text(path: Path) -> None:
    path.write_text("these are not weights\n" * 20)


def _foreign(path: Path) -> None:
    save_file({"weight": np.zeros(3, np.float32)}, path)


def _newer(path: Path) -> None:
    _rewrite(path, format_version=checkpoint.FORMAT_VERSION + 1)


def _other_arch(path: Path) -> None:
    arch = checkpoint.load(path).spec.arch
    _rewrite(path, line=ModelSpec({"cnn": "mlp", "mlp": "cnn"}[arch]).line)


def _no_line(path: Path) -> None:
    _rewrite(path, line="conv 4 4x4")


def _unknown_arch(path: Path) -> None:
    _rewrite(path, arch="transformer", drop=("line",))


def _missing_weight(path: Path) -> None:
    _rewrite(path, tensors={"fc2.bias": None})


def _wrong_shape(path: Path) -> None:
    _rewrite(path, tensors={"fc2.weight": np.zeros((128, 10), np.float32)})


def _wrong_dtype(path: Path) -> None:
    _rewrite(path, tensors={"fc2.bias": np.zeros(10, np.float64)})


def _not_finite(path: Path) -> None:
    _rewrite(path, tensors={"fc2.bias": np.full(10, np.nan, np.float32)})


def _flat_normalization(path: Path) -> None:
    _rewrite(path, normalization={"mean": 0.1, "std": 0.0})


def _cold_calibration(path: Path) -> None:
    _rewrite(path, calibration={"temperature": 0, "sure_probability": 0.9, "sure_evidence": 2})


def _calibration_in_words(path: Path) -> None:
    _rewrite(path, calibration={"temperature": 1, "sure_probability": "high", "sure_evidence": 2})


def _infinite_mean(path: Path) -> None:
    _rewrite(path, normalization={"mean": float("inf"), "std": 0.3})


def _infinite_spread(path: Path) -> None:
    _rewrite(path, normalization={"mean": 0.1, "std": float("inf")})


def _endless_evidence(path: Path) -> None:
    limits = {"temperature": 1, "sure_probability": 0.9, "sure_evidence": float("nan")}
    _rewrite(path, calibration=limits)


def _velocity_of_wrong_shape(path: Path) -> None:
    _rewrite(path, tensors={"velocity.fc2.bias": np.zeros(9, np.float32)})


def _missing_best_weight(path: Path) -> None:
    _rewrite(path, tensors={"best.fc2.bias": None})


def _infinite_velocity(path: Path) -> None:
    _rewrite(path, tensors={"velocity.fc2.bias": np.full(10, np.inf, np.float32)})


def _metadata_of_another_program(path: Path) -> None:
    save_file({"weight": np.zeros(3, np.float32)}, path, metadata={"format": "pt"})


def _no_history(path: Path) -> None:
    _rewrite(path, history=[{"epoch": 1}])


def _classes_that_cannot_be_shown(path: Path) -> None:
    _rewrite(path, class_names=[*"012345678", "9\n"])


def _two_classes_of_one_name(path: Path) -> None:
    _rewrite(path, class_names=[*"0123456788"])


def _bad_recipe(path: Path) -> None:
    _rewrite(path, recipe={"epochs": 5, "surprise": 1})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_missing, "No model at"),
        (_folder, "No model at"),
        (_empty, "not a whole safetensors file"),
        (_truncated, "not a whole safetensors file"),
        (_truncated_header, "not a whole safetensors file"),
        (_text, "not a whole safetensors file"),
        (_foreign, "not a checkpoint of this program"),
        (_newer, "Upgrade mnist-cli"),
        (_other_arch, "not those of the"),
        (_no_line, r"conv 4 \^4x4: the kernel must be odd"),
        (_unknown_arch, "Unknown architecture 'transformer'"),
        (_missing_weight, "fc2.bias should be"),
        (_wrong_shape, "fc2.weight should be"),
        (_wrong_dtype, "fc2.bias should hold finite float32"),
        (_not_finite, "fc2.bias should hold finite float32"),
        (_bad_recipe, "surprise"),
        (_classes_that_cannot_be_shown, r"has a class named '9\\n'; expected printable"),
        (_two_classes_of_one_name, "has two classes named '8'"),
        (_infinite_mean, "finite mean"),
        (_infinite_spread, "finite mean and a std above 0"),
        (_endless_evidence, "finite numbers"),
        (_velocity_of_wrong_shape, "fc2.bias should be"),
        (_missing_best_weight, "fc2.bias should be"),
        (_infinite_velocity, "velocity.fc2.bias should hold finite float32"),
        (_metadata_of_another_program, "not a checkpoint of this program"),
        (_no_history, "is a damaged checkpoint"),
        (_flat_normalization, "std above 0"),
        (_cold_calibration, "temperature above 0"),
        (_calibration_in_words, "damaged checkpoint"),
    ],
)
def test_what_is_not_a_whole_checkpoint_is_refused_in_one_line(
    saved: Path, damage: Any, message: str
) -> None:
    damage(saved)
    with pytest.raises(CheckpointError, match=message) as error_info:
        checkpoint.load(saved)
    assert str(saved) in str(error_info.value)
    assert "\n" not in str(error_info.value)


def test_a_pickle_is_refused_and_never_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "sprung",))

    path = tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointError):
        checkpoint.load(path)
    assert not (tmp_path / "sprung").exists()

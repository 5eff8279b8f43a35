"""What a worker does with a job: the record of a training, and the logits of a saved model."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from idx_files import real_digits

from mnist_cli import adapters, machine
from mnist_cli.conditions import Conditions
from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.data import registry
from mnist_cli.data.registry import load_dataset
from mnist_cli.networks.language import find_network
from mnist_cli.networks.spec import parameter_count
from mnist_cli.records import EpochRecord, RunRecord
from mnist_cli.runners import tasks
from mnist_cli.runners.base import EvaluateJob, PredictJob, TrainJob
from mnist_cli.training import checkpoint, evaluation, loop, recipe
from mnist_cli.training.checkpoint import Checkpoint
from mnist_cli.training.loop import Fit

SETTINGS = {
    "epochs": 2,
    "batch_size": 20,
    "learning_rate": 0.05,
    "label_smoothing": 0.2,
    "warmup_fraction": 0.4,
    "decay_power": 2.0,
    "precision": "bfloat16",
    "augment": True,
    "reject": True,
    "patience": 2,
    "seed": 3,
}


@pytest.fixture
def train(small_data: Path) -> Callable[..., RunRecord]:
    """Train the fake framework in this process; ``changes`` are those of the job."""

    def train(emit: Any = lambda event: None, **changes: Any) -> RunRecord:
        config = TrainConfig(**({"epochs": 2, "batch_size": 20} | changes.pop("config", {})))
        job = TrainJob("fake", ModelSpec("mlp", "sigmoid"), config, 1, dataset=str(small_data))
        # As JSON, because that is how it leaves the worker.
        return RunRecord.from_json(
            json.loads(json.dumps(tasks.train(replace(job, **changes), emit)))
        )

    return train


@pytest.mark.parametrize(
    ("precision", "is_emulated", "said"),
    [
        ("float32", True, ""),
        ("bfloat16", True, "no instructions for bfloat16"),
        ("bfloat16", False, "Without convolutions bfloat16 gains nothing"),  # an MLP
    ],
)
def test_bfloat16_that_does_not_pay_is_noted_before_the_training(
    train: Callable[..., RunRecord],
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    is_emulated: bool,
    said: str,
) -> None:
    monkeypatch.setattr(machine, "emulates_bfloat16", lambda environment: is_emulated)
    events: list[dict[str, Any]] = []
    train(events.append, config={"precision": precision})
    kinds = [event["event"] for event in events]
    notes = [event["text"] for event in events if event["event"] == "note"]
    assert any("bfloat16" in text for text in notes) == bool(said)
    if said:
        assert said in notes[0]
        assert kinds.index("note") < kinds.index("epoch")


@pytest.mark.parametrize("network", ["cnn", "residual(conv 1, relu)"])
def test_convolutions_gain_from_bfloat16(network: str) -> None:
    job = TrainJob("fake", find_network(network), TrainConfig(precision="bfloat16"), 1)
    environment = {"device": "cpu", "cpu_isa": "AVX512_CORE_BF16"}
    assert tasks._precision_notes(job, environment) == []


def test_a_job_that_only_validates_depends_on_no_test_image(
    train: Callable[..., RunRecord], small_data: Path, tmp_path: Path
) -> None:
    whole = load_dataset(str(small_data))
    other = replace(whole, test_images=255 - whole.test_images, test_labels=whole.test_labels * 0)
    registry.save_copy(other, tmp_path / "other.npz")
    one, two = (
        train(validates_only=True, dataset=str(data)).history[-1]
        for data in (small_data, tmp_path / "other.npz")
    )
    assert replace(one, train_seconds=0, images_per_second=0) == replace(
        two, train_seconds=0, images_per_second=0
    )
    assert (one.test_accuracy, one.test_loss) == (one.validation_accuracy, one.validation_loss)


def test_a_record_names_every_setting_of_its_run(
    train: Callable[..., RunRecord], small_data: Path
) -> None:
    record = train(config=SETTINGS, threads=3, limit=100)
    for name, value in SETTINGS.items():
        assert getattr(record, name) == value, name
    # A new setting that a record has a field for must be filled in too.
    both = {field.name for field in fields(TrainConfig)} & {f.name for f in fields(RunRecord)}
    assert both == SETTINGS.keys()
    assert (record.framework, record.arch, record.activation) == ("fake", "mlp", "sigmoid")
    assert record.parameters == parameter_count(ModelSpec("mlp", "sigmoid"))
    assert record.train_images == 100 + 20  # one made non-digit for five digits
    dataset = load_dataset(str(small_data))
    assert record.dataset == dataset.name
    environment = record.environment
    assert environment["data_sha256"] == dataset.sha256
    assert environment["threads"] == 3
    assert environment["fake"] == "1.0"
    assert environment["cpu"]
    today = datetime.now(timezone.utc).date()
    assert abs((today - datetime.fromisoformat(environment["date"]).date()).days) <= 1  # midnight


def test_a_record_says_what_the_machine_did_and_which_kernels_blas_used(
    train: Callable[..., RunRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def fit(*arguments: Any, **options: Any) -> Fit:
        order.append("fit")
        return fitted(*arguments, **options)

    def conditions_since(before: object, *, on_gpu: bool) -> Conditions:
        order.append(f"{before}, after, on a GPU: {on_gpu}")
        return Conditions(9.5, others_share=0.25)

    fitted = loop.fit
    monkeypatch.setattr(loop, "fit", fit)
    monkeypatch.setattr("mnist_cli.conditions.read_counters", lambda: "before")
    monkeypatch.setattr("mnist_cli.conditions.conditions_since", conditions_since)
    monkeypatch.setattr("mnist_cli.machine.blas_kernels", lambda: {"openblas": "Zen"})
    record = train()
    assert order == ["fit", "before, after, on a GPU: False"]
    assert record.conditions == Conditions(9.5, others_share=0.25)
    assert record.environment["blas_kernels"] == {"openblas": "Zen"}
    assert {"cpu_quota", "cpu_isa", "onednn_isa", "variables"} <= record.environment.keys()


def test_a_record_has_the_figures_of_the_kept_epoch_and_the_seconds_of_all(
    train: Callable[..., RunRecord], monkeypatch: pytest.MonkeyPatch, small_data: Path
) -> None:
    def row(epoch: int, validation: float) -> EpochRecord:
        losses = {"train_loss": 1.0, "validation_loss": 1.0, "test_loss": epoch / 10}
        accuracies = {"validation_accuracy": validation, "test_accuracy": epoch / 20}
        # Ten seconds each, at 100, 200 and 300 images per second.
        speed = {"train_seconds": 10.0 * epoch, "images_per_second": 100.0 * epoch}
        return EpochRecord(epoch=epoch, **losses, **accuracies, **speed)

    labels = load_dataset(str(small_data)).test_labels
    logits = np.eye(10, dtype=np.float32)[labels]
    logits[4] = np.roll(logits[4], 1)  # one mistake: the digit after the right one
    history = (row(1, 0.97), row(2, 0.985), row(3, 0.98))
    made = Fit(history, 2, logits, warmup_seconds=5.0, evaluate_seconds=7.0)
    monkeypatch.setattr(loop, "fit", lambda *_, **__: made)
    record = train()
    assert record.history == history
    assert record.model_epoch == 2
    assert (record.test_accuracy, record.test_loss) == (0.1, 0.2)
    assert record.test_errors == ((4, int(labels[4] + 1) % 10),)
    assert (record.warmup_seconds, record.evaluate_seconds) == (5.0, 7.0)
    assert record.train_seconds == 30.0
    assert record.images_per_second == pytest.approx(200)
    assert record.time_to_accuracy == {"0.98": 20.0, "0.99": None}


def test_seconds_of_the_import_are_apart_and_those_of_calibrating_are_in_none(
    train: Callable[..., RunRecord], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Clock:
        now = 1000.0

        def perf_counter(self) -> float:
            return self.now

    clock, load = Clock(), adapters.load

    def slow_import(name: str) -> Any:
        clock.now += 30
        return load(name)

    def slow_calibration(*_: Any) -> None:
        clock.now += 500

    monkeypatch.setattr(tasks, "time", clock)
    monkeypatch.setattr(adapters, "load", slow_import)
    monkeypatch.setattr(loop, "calibrate", slow_calibration)
    record = train(checkpoint=str(tmp_path / "model.safetensors"))
    assert record.import_seconds == 30
    assert record.wall_seconds == 30  # the loop has another clock
    assert clock.now == 1530


def test_a_run_tells_its_phases(train: Callable[..., RunRecord], tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    train(events.append, dataset="mnist", limit=100)
    names = [event["name"] for event in events if event["event"] == "phase"]
    assert names == ["loading mnist and fake", "warming up"]
    events.clear()
    train(events.append, checkpoint=str(tmp_path / "model.safetensors"))
    assert [event["name"] for event in events if event["event"] == "phase"][2:] == ["calibrating"]
    assert not [event for event in events if event["event"] == "note"]


def test_data_are_fetched_where_an_interruption_ends_it(
    train: Callable[..., RunRecord], monkeypatch: pytest.MonkeyPatch, small_data: Path
) -> None:
    fetched = []

    def fetch(name: str, say: object) -> None:
        fetched.append((name, threading.current_thread()))

    monkeypatch.setattr(registry, "fetch", fetch)
    train()
    assert fetched == [(str(small_data), threading.main_thread())]


def test_the_seed_decides_weights_and_split(
    train: Callable[..., RunRecord], monkeypatch: pytest.MonkeyPatch, small_data: Path
) -> None:
    seen: list[tuple[Any, Checkpoint]] = []
    fit = loop.fit

    def watch(classifier: Any, data: Any, start: Checkpoint, **options: Any) -> Fit:
        seen.append((data, start))
        return fit(classifier, data, start, **options)

    monkeypatch.setattr(loop, "fit", watch)
    for seed in (3, 3, 4):
        train(config={"seed": seed})
    (data, start), (same_data, same), (other_data, other) = seen
    given = recipe.starting_weights(ModelSpec("mlp", "sigmoid"), 3)
    for name, array in given.items():
        np.testing.assert_array_equal(start.weights[name], array)
        np.testing.assert_array_equal(same.weights[name], array)
    assert not np.array_equal(other.weights["fc1.weight"], given["fc1.weight"])
    np.testing.assert_array_equal(data.validation.images, same_data.validation.images)
    assert not np.array_equal(data.validation.images, other_data.validation.images)


def test_the_three_parts_are_normalised_and_keep_their_labels(small_data: Path) -> None:
    from mnist_cli.data.split import split

    dataset = load_dataset(str(small_data))
    parts = split(dataset, seed=0)
    data = loop.prepare(dataset, parts, TrainConfig())
    for ours, images, labels in (
        (data.train, parts.train_images, parts.train_labels),
        (data.validation, parts.validation_images, parts.validation_labels),
        (data.test, dataset.test_images, dataset.test_labels),
    ):
        np.testing.assert_array_equal(ours.images, recipe.normalize(images))
        np.testing.assert_array_equal(ours.labels, labels)
    np.testing.assert_array_equal(data.train_pixels, parts.train_images)
    np.testing.assert_array_equal(data.validation_pixels, parts.validation_images)


def test_a_model_file_says_what_made_it(
    train: Callable[..., RunRecord], tmp_path: Path, small_data: Path
) -> None:
    path = tmp_path / "model.safetensors"
    record = train(checkpoint=str(path), config={"seed": 3})
    model = checkpoint.load(path)
    assert record.checkpoint == str(path)
    dataset = load_dataset(str(small_data))
    assert (model.framework, model.dataset, model.dataset_sha256, model.train_images) == (
        "fake",
        dataset.name,
        dataset.sha256,
        440,
    )
    assert model.spec == ModelSpec("mlp", "sigmoid")
    assert model.config == TrainConfig(epochs=2, batch_size=20, seed=3)
    assert model.versions["fake"] == "1.0"
    assert model.history == record.history


def test_without_a_file_nothing_is_resumed(train: Callable[..., RunRecord]) -> None:
    events: list[dict[str, Any]] = []
    assert len(train(events.append, resume=True).history) == 2
    assert not [event for event in events if event["event"] == "note"]


# --- A saved model -----------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path, small_data: Path) -> Path:
    """An untrained model in bfloat16 whose pixels are normalised in its own way."""
    spec = ModelSpec("mlp")
    row = EpochRecord(1, 1.0, 1.0, 0.5, 1.0, 0.5, 1.0, 100.0)
    path = tmp_path / "model.safetensors"
    made = Checkpoint(
        spec=spec,
        config=TrainConfig(precision="bfloat16"),
        framework="torch",
        dataset="mnist",
        dataset_sha256="0",
        train_images=440,
        history=(row,),
        weights=recipe.starting_weights(spec, 0),
        pixel_mean=0.5,
        pixel_std=0.25,
    )
    checkpoint.save(path, made)
    return path


def _expected_logits(model: Path, images: np.ndarray) -> np.ndarray:
    config = TrainConfig()
    classifier = adapters.load("numpy").build(ModelSpec("mlp"), config, device="cpu", threads=1)
    classifier.import_weights(checkpoint.load(model).weights)
    pixels = (images.astype(np.float64) / 255 - 0.5) / 0.25
    return classifier.predict_logits(pixels.astype(np.float32))


def test_predicting_uses_the_models_own_normalisation(model: Path, tmp_path: Path) -> None:
    images = real_digits(train=12, test=20)[2]
    np.save(tmp_path / "digits.npy", images)
    job = PredictJob("numpy", str(model), 1, images=str(tmp_path / "digits.npy"))
    logits = json.loads(json.dumps(tasks.predict(job)))["logits"]
    # Pixels differ by a float32 rounding or two, the logits of 784 of them by about 1e-5.
    np.testing.assert_allclose(logits, _expected_logits(model, images), atol=1e-4)


def test_an_evaluation_is_of_the_whole_test_set(model: Path, small_data: Path) -> None:
    job = EvaluateJob("numpy", str(model), 1, dataset=str(small_data))
    report = json.loads(json.dumps(tasks.evaluate(job, lambda _: None)))
    dataset = load_dataset(str(small_data))
    expected = _expected_logits(model, dataset.test_images)
    assert (report["framework"], report["checkpoint"]) == ("numpy", str(model))
    assert (report["dataset"], report["images"]) == (dataset.name, 100)
    assert report["accuracy"] == evaluation.accuracy(expected, dataset.test_labels)
    assert report["predictions"] == expected.argmax(axis=1).tolist()

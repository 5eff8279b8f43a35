"""What the process of a job does: train, evaluate, predict, map, export or import.

It is the only process that imports a framework.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NoReturn

from mnist_cli.errors import FrameworkError, MnistError, OutputError
from mnist_cli.names import framework_name
from mnist_cli.runners.base import (
    EvaluateJob,
    ExportJob,
    ImportJob,
    MapJob,
    OnEvent,
    PredictJob,
    TrainJob,
)

if TYPE_CHECKING:
    from pathlib import Path
    from queue import SimpleQueue

    from mnist_cli.adapters.base import Adapter, Classifier
    from mnist_cli.arrays import Array
    from mnist_cli.data.dataset import Dataset
    from mnist_cli.training.checkpoint import Checkpoint
    from mnist_cli.training.loop import Fit, TrainingData

_PICTURES_PER_EVENT = 50

# The fields of `TrainConfig` that a `RunRecord` has too.
_RECORDED_SETTINGS = (
    "epochs",
    "batch_size",
    "learning_rate",
    "label_smoothing",
    "warmup_fraction",
    "decay_power",
    "precision",
    "augment",
    "reject",
    "patience",
    "seed",
)


def train(job: TrainJob, emit: OnEvent) -> dict[str, Any]:
    """Train a network and return its `records.RunRecord` as JSON."""
    started = time.perf_counter()
    from pathlib import Path

    from mnist_cli import machine, records, torchrun
    from mnist_cli.conditions import conditions_since, read_counters
    from mnist_cli.networks import spec
    from mnist_cli.training import evaluation, loop

    emit({"event": "phase", "name": f"loading {job.dataset} and {job.framework}"})
    job, adapter, import_seconds, dataset, data = _load(job, emit)
    classifier = adapter.build(job.spec, job.config, device=job.device, threads=job.threads)
    environment = _environment(job, adapter)
    for note in _precision_notes(job, environment):
        emit({"event": "note", "text": note})
    path = Path(job.local(job.checkpoint)) if job.checkpoint else None
    start = _initial_state(job, dataset, len(data.train.labels), environment, path, emit)
    emit({"event": "phase", "name": "warming up"})
    before = read_counters()
    if job.distributed:
        path = path if torchrun.is_main() else None
        fit = _fit_together(classifier, data, start, path=path, emit=emit)
    else:
        fit = loop.fit(classifier, data, start, path=path, emit=emit)
    conditions = conditions_since(before, on_gpu=environment["device"] != "cpu")
    if job.distributed:  # the other processes here would count as others
        conditions = replace(conditions, others_share=None)

    last, kept = fit.history[-1], fit.history[fit.model_epoch - 1]
    record = records.RunRecord(
        framework=job.framework,
        **asdict(job.spec),
        parameters=spec.parameter_count(job.spec),
        operations=spec.operation_count(job.spec),
        dataset=dataset.name,
        train_images=len(data.train.labels),
        **{name: getattr(job.config, name) for name in _RECORDED_SETTINGS},
        model_epoch=fit.model_epoch,
        history=fit.history,
        test_accuracy=kept.test_accuracy,
        test_loss=kept.test_loss,
        test_errors=evaluation.errors(fit.test_logits, data.test.labels),
        import_seconds=import_seconds,
        warmup_seconds=fit.warmup_seconds,
        train_seconds=last.train_seconds,
        evaluate_seconds=fit.evaluate_seconds,
        wall_seconds=time.perf_counter() - started,
        images_per_second=records.throughput(fit.history),
        time_to_accuracy=records.time_to_accuracy(fit.history),
        peak_rss_mib=machine.peak_rss_mib(),
        checkpoint=job.checkpoint,
        started_from=job.started_from,
        environment=environment | {"data_sha256": dataset.sha256},
        conditions=conditions,
    )
    if path is not None:  # after the record, whose figures are of the training alone
        emit({"event": "phase", "name": "calibrating"})
        loop.calibrate(classifier, data, path)
    return record.to_json()


def _environment(job: TrainJob, adapter: Adapter) -> dict[str, Any]:
    """Return the machine and the versions of a run, as JSON values."""
    from mnist_cli import machine

    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        **machine.describe_machine(),
        "blas_kernels": machine.blas_kernels(),
        "threads": job.threads,
        **adapter.environment(),
    }


def _fit_together(
    classifier: Classifier,
    data: TrainingData,
    start: Checkpoint,
    *,
    path: Path | None,
    emit: OnEvent,
) -> Fit:
    """Train as `loop.fit` does, in all processes of torchrun, which then part."""
    from mnist_cli.adapters.torch_distributed import DistributedClassifier
    from mnist_cli.training import loop

    assert isinstance(classifier, DistributedClassifier)
    classifier.require_same(start)
    fit = loop.fit(classifier, data, start, path=path, emit=emit)
    classifier.leave()
    return fit


def _precision_notes(job: TrainJob, environment: dict[str, Any]) -> list[str]:
    """Return why bfloat16 does not pay in a run, if it does not: see docs/performance.md."""
    from mnist_cli import machine
    from mnist_cli.networks import spec

    if job.config.precision != "bfloat16" or environment["device"] != "cpu":
        return []
    if machine.emulates_bfloat16(environment):
        return ["This processor has no instructions for bfloat16: float32 would be faster."]
    if not any(isinstance(layer, spec.Conv) for layer in spec.parameter_layers(job.spec)):
        return ["Without convolutions bfloat16 gains nothing on a CPU: float32 is as fast."]
    return []


def train_live(job: TrainJob, emit: OnEvent, changes: SimpleQueue[dict[str, Any]]) -> NoReturn:
    """Train a network that is steered by ``changes``, until the process is ended."""
    from pathlib import Path

    from mnist_cli.training import live

    assert job.checkpoint is not None
    path = Path(job.checkpoint)
    emit({"event": "status", "status": "loading"})
    job, adapter, _, dataset, data = _load(job, emit)
    classifier = adapter.build(job.spec, job.config, device=job.device, threads=job.threads)
    versions = adapter.environment()
    start = _initial_state(job, dataset, len(data.train.labels), versions, path, emit)
    settings = live.Settings(job.config.epochs, job.config.learning_rate)
    live.LiveTraining(classifier, data, start, settings, changes, path=path, emit=emit).run()


def _load(job: TrainJob, emit: OnEvent) -> tuple[TrainJob, Adapter, float, Dataset, TrainingData]:
    """Return the job with as many classes as its data set has, the adapter, and the data.

    Beside them the seconds of the adapter's import; a thread loads the data meanwhile.
    """
    from pathlib import Path

    from mnist_cli import adapters
    from mnist_cli.data.orientation import checked
    from mnist_cli.data.registry import fetch, load_copy, load_dataset
    from mnist_cli.data.split import mix, split
    from mnist_cli.training import loop

    seed = job.config.seed

    def show_reading(done: int, count: int) -> None:
        if done % _PICTURES_PER_EVENT == 0:
            emit({"event": "phase", "name": f"reading images: {done:,} of {count:,}"})

    def say(text: str) -> None:
        emit({"event": "phase", "name": text})

    def note(text: str) -> None:
        emit({"event": "note", "text": text})

    def load() -> tuple[Dataset, TrainingData]:
        if job.dataset in job.files:
            dataset = load_copy(job.dataset, Path(job.local(job.dataset)))
        else:
            dataset = load_dataset(job.dataset, on_progress=show_reading)
        dataset = checked(dataset, fix=job.fix_orientation, say=note)
        dataset = _as_started_from(job, dataset)
        if job.started_from and dataset.shows_digits and job.dataset != "mnist":
            mnist = split(load_dataset(), seed=seed, limit=job.limit)
            parts = mix(split(dataset, seed=seed), mnist)
        else:
            parts = split(dataset, seed=seed, limit=job.limit)
        data = loop.prepare(dataset, parts, job.config)
        return dataset, replace(data, test=data.validation) if job.validates_only else data

    if job.dataset not in job.files:
        fetch(job.dataset, say)  # in this thread, where an interruption ends it
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(load)
        began = time.perf_counter()
        adapter = adapters.load(job.framework)
        if job.distributed:
            from mnist_cli.adapters.torch_distributed import adapter
        import_seconds = time.perf_counter() - began
        dataset, data = loading.result()
    spec = job.spec.with_classes(len(dataset.class_names))
    return replace(job, spec=spec), adapter, import_seconds, dataset, data


def _as_started_from(job: TrainJob, dataset: Dataset) -> Dataset:
    """Return the dataset with the classes of the model that the training starts from, if any.

    Raises `UsageError` if the model tells other classes apart.
    """
    from pathlib import Path

    from mnist_cli.data.registry import require_same_classes
    from mnist_cli.training import checkpoint

    if not job.started_from:
        return dataset
    origin = checkpoint.load(Path(job.local(job.started_from)))
    name = Path(job.started_from).stem
    require_same_classes(name, origin.class_names, origin.dataset, dataset)
    return replace(dataset, class_names=origin.class_names)


def _initial_state(
    job: TrainJob,
    dataset: Dataset,
    train_images: int,
    environment: dict[str, Any],
    path: Path | None,
    emit: OnEvent,
) -> Checkpoint:
    """Return the state to train from: initial or a model's weights, or the checkpoint to resume."""
    from pathlib import Path

    from mnist_cli.training import checkpoint, loop, recipe

    if job.started_from:
        weights = checkpoint.load(Path(job.local(job.started_from))).weights
    else:
        weights = recipe.starting_weights(job.spec, job.config.seed)
    start = checkpoint.Checkpoint(
        spec=job.spec,
        config=job.config,
        framework=job.framework,
        dataset=dataset.name,
        dataset_sha256=dataset.sha256,
        train_images=train_images,
        history=(),
        weights=weights,
        versions=environment,
        started_from=job.started_from,
        class_names=dataset.class_names,
    )
    if not job.resume or path is None:
        return start
    start = loop.resumable(path, start)
    if not start.history:
        note = f"There is no {job.checkpoint} to resume: training anew."
    elif loop.is_finished(start):
        note = "Nothing is left to train: the run is finished."
    else:
        note = f"Going on after epoch {len(start.history)} of {job.config.epochs}."
    emit({"event": "note", "text": note})
    return start


def evaluate(job: EvaluateJob, emit: OnEvent) -> dict[str, Any]:
    """Test a saved model and return what `EvaluateJob` says."""
    from pathlib import Path

    from mnist_cli.data.orientation import checked
    from mnist_cli.data.registry import fetch, load_dataset, require_same_classes
    from mnist_cli.training import checkpoint, evaluation

    def note(text: str) -> None:
        emit({"event": "note", "text": text})

    fetch(job.dataset, lambda text: emit({"event": "phase", "name": text}))
    dataset = checked(load_dataset(job.dataset), fix=job.fix_orientation, say=note)
    model = checkpoint.load(Path(job.checkpoint))
    require_same_classes(Path(job.checkpoint).stem, model.class_names, model.dataset, dataset)
    logits = _logits(job, dataset.test_images)
    report = evaluation.report(
        logits,
        dataset.test_labels,
        class_names=model.class_names,
        framework=job.framework,
        checkpoint=job.checkpoint,
        dataset=dataset.name,
    )
    return asdict(report)


def predict(job: PredictJob) -> dict[str, Any]:
    """Return the logits of prepared digits as JSON."""
    import numpy as np

    return {"logits": _logits(job, np.load(job.images)).tolist()}


def export(job: ExportJob) -> dict[str, Any]:
    """Write a model in another format and return the logits that it has there as JSON."""
    from pathlib import Path

    import numpy as np

    from mnist_cli.export.formats import FORMATS
    from mnist_cli.training import checkpoint, recipe

    model = checkpoint.load(Path(job.checkpoint))
    exporter, path = FORMATS[job.to].exporter, Path(job.path)
    images = np.load(job.images)
    if job.raw:
        images = recipe.normalize(images, mean=model.pixel_mean, std=model.pixel_std)
    try:
        exporter.export(model, path, raw=job.raw)
    except MnistError:
        raise
    except ImportError as error:
        raise _missing(job.framework, error) from error
    except Exception as error:  # the writers raise errors of their own for a full disk
        raise OutputError(
            f"Cannot write the {job.to} file: {error}. Free space, or choose another --output."
        ) from error
    try:
        return {"logits": exporter.verify(path, images).tolist()}
    except ImportError as error:
        raise _missing(job.framework, error) from error
    except Exception as error:
        raise FrameworkError(
            f"The {job.to} file was written, but its own runtime cannot read it "
            f"({type(error).__name__}: {error}). Nothing is kept."
        ) from error


def import_file(job: ImportJob) -> dict[str, Any]:
    """Read a model of another program and return what `ImportJob` says."""
    from mnist_cli.importing import reading

    try:
        return reading.read(job)
    except ImportError as error:
        raise _missing(job.framework, error) from error


def _missing(framework: str, error: ImportError) -> FrameworkError:
    return FrameworkError(
        f"{framework_name(framework)} cannot be imported ({error}). "
        "Install it into this environment."
    )


def map_digits(job: MapJob, emit: OnEvent) -> dict[str, Any]:
    """Return the map that `MapJob` asks for, as JSON."""
    from pathlib import Path

    from mnist_cli import mapping
    from mnist_cli.data.registry import load_dataset
    from mnist_cli.tracing import Trace
    from mnist_cli.training import checkpoint, recipe

    def told(name: str, share: float) -> None:
        emit({"event": "phase", "name": name, "share": share})

    told("loading the test digits", 0.0)
    model = checkpoint.load(Path(job.checkpoint))
    dataset = load_dataset()
    indices = mapping.chosen(dataset)[: mapping.point_count(model.spec, job.layer)]
    images = recipe.normalize(
        dataset.test_images[indices], mean=model.pixel_mean, std=model.pixel_std
    )
    network = Trace(model.spec, model.weights)
    return mapping.compute(network, images, job.layer, job.method, told).to_json()


def _logits(job: EvaluateJob | PredictJob, images: Array) -> Array:
    """Return the logits (N, classes) that the job's model has for images (N, 28, 28), uint8."""
    from pathlib import Path

    from mnist_cli import adapters
    from mnist_cli.training import checkpoint, recipe

    model = checkpoint.load(Path(job.checkpoint))
    adapter = adapters.load(job.framework)
    classifier = model.classifier(adapter, device=job.device, threads=job.threads)
    return classifier.predict_logits(
        recipe.normalize(images, mean=model.pixel_mean, std=model.pixel_std)
    )

"""`train` and `evaluate`."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_cli.api.arguments import (
    DEFAULTS,
    PathLike,
    checked_device,
    checked_threads,
    checks_arguments,
    results_folder,
)
from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.records import RunRecord, require_writable, write_json
from mnist_cli.runners.base import EvaluateJob, TrainJob

if TYPE_CHECKING:
    from mnist_cli.training.evaluation import Evaluation


@checks_arguments
def train(
    framework: str = "torch",
    *,
    arch: str = "cnn",
    activation: str = "relu",
    epochs: int = DEFAULTS.epochs,
    batch_size: int = DEFAULTS.batch_size,
    learning_rate: float = DEFAULTS.learning_rate,
    label_smoothing: float = DEFAULTS.label_smoothing,
    seed: int = DEFAULTS.seed,
    threads: int | None = None,
    device: str = "auto",
    warmup_fraction: float = DEFAULTS.warmup_fraction,
    decay_power: float = DEFAULTS.decay_power,
    target_accuracy: float | None = None,
    patience: int | None = None,
    augment: bool = False,
    reject: bool = False,
    precision: str = DEFAULTS.precision,
    dataset: PathLike = "mnist",
    limit: int | None = None,
    results_dir: PathLike | None = None,
    resume: bool = False,
    progress: bool = True,
) -> RunRecord:
    """Train one network and return its record.

    With ``results_dir`` the model, the record and a chart are written there, and ``resume`` goes
    on from the model's last epoch. Raises `UsageError` for a wrong argument, `DataError`,
    `FrameworkError` or `DivergedError` if the run fails.
    """
    from mnist_cli import adapters
    from mnist_cli.names import model_name
    from mnist_cli.reporting.console import TrainingProgress
    from mnist_cli.runners import process

    framework = adapters.resolve(framework)
    folder = results_folder(results_dir, resume=resume)
    job = TrainJob(
        framework=framework,
        spec=ModelSpec(arch, activation),
        config=TrainConfig(
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            label_smoothing=label_smoothing,
            seed=seed,
            warmup_fraction=warmup_fraction,
            decay_power=decay_power,
            target_accuracy=target_accuracy,
            patience=patience,
            augment=augment,
            reject=reject,
            precision=precision,
        ),
        threads=checked_threads(threads),
        dataset=os.fspath(dataset),
        limit=limit,
        device=checked_device(device),
        checkpoint=None if folder is None else str(training_files(folder, framework, arch)[0]),
        resume=resume,
    )
    if folder is not None:
        require_writable(folder)
    with TrainingProgress([arch], is_shown=progress) as shown:
        shown.start_run(model_name(framework, arch, activation))
        result = process.run(job, shown.on_event)
    record = RunRecord.from_json(result)
    if folder is not None:
        from mnist_cli.reporting.charts import training

        _, record_path, chart_path = training_files(folder, framework, arch)
        write_json(record_path, result)
        training.draw(record, chart_path)
    return record


def training_files(folder: Path, framework: str, arch: str) -> tuple[Path, Path, Path]:
    """Return where a training writes its model, its record and its chart."""
    name = f"{framework}-{arch}"
    record = folder / f"{name}_training.json"
    return folder / "models" / f"{name}.safetensors", record, record.with_suffix(".png")


@checks_arguments
def evaluate(
    model: PathLike,
    *,
    framework: str | None = None,
    dataset: PathLike = "mnist",
    threads: int | None = None,
    device: str = "auto",
    results_dir: PathLike | None = None,
    progress: bool = True,
) -> Evaluation:
    """Test a saved model, in any framework, and return its evaluation.

    ``model`` is a file, or a name such as ``torch-cnn`` in the models of ``results_dir``, by
    default ``results``. ``framework`` is by default the one that trained it. With ``results_dir``
    two charts are written there: the confusion matrix, and sample predictions. Raises
    `CheckpointError` for a bad model, `UsageError` and `DataError`.
    """
    from mnist_cli import adapters
    from mnist_cli.names import framework_name
    from mnist_cli.reporting import console
    from mnist_cli.runners import process
    from mnist_cli.training import checkpoint
    from mnist_cli.training.evaluation import Evaluation

    folder = results_folder(results_dir)
    path = checkpoint.model_path(model, folder or Path("results"))
    if framework is None:
        # NumPy computes every model, also one of a framework that is not installed here.
        writer = checkpoint.load(path).framework
        framework = writer if writer in adapters.names() else "numpy"
    job = EvaluateJob(
        framework=adapters.resolve(framework),
        checkpoint=str(path),
        threads=checked_threads(threads),
        dataset=os.fspath(dataset),
        device=checked_device(device),
    )
    if folder is not None:
        require_writable(folder)
    text = f"{framework_name(job.framework)} evaluates {path}"
    status: AbstractContextManager[Any] = nullcontext()
    if progress:
        status = console.stderr().status(text)
    with status:
        evaluation = Evaluation(**process.run(job, lambda _: None))
        if folder is not None:
            _draw_evaluation(evaluation, *evaluation_files(folder, path))
    return evaluation


def evaluation_files(folder: Path, model: Path) -> tuple[Path, Path]:
    """Return where an evaluation writes its confusion matrix and its sample predictions."""
    return folder / f"{model.stem}_confusion.png", folder / f"{model.stem}_predictions.png"


def _draw_evaluation(evaluation: Evaluation, confusion_path: Path, samples_path: Path) -> None:
    from mnist_cli.data.registry import load_dataset
    from mnist_cli.names import dataset_name
    from mnist_cli.reporting.charts import confusion, predictions

    title = f"{Path(evaluation.checkpoint).stem} on {dataset_name(evaluation.dataset)}"
    confusion.draw(evaluation.confusion_matrix, confusion_path, title=title)
    test = load_dataset(evaluation.dataset)
    predictions.draw(
        test.test_images,
        test.test_labels,
        evaluation.predictions,
        evaluation.confidences,
        samples_path,
        title=title,
    )

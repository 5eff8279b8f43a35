"""`train` and `evaluate`."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from mnist_cli import torchrun
from mnist_cli.api.arguments import (
    DEFAULTS,
    Names,
    PathLike,
    Paths,
    checked_device,
    checked_logs,
    checked_threads,
    checks_arguments,
    resolve_archs,
    results_folder,
)
from mnist_cli.api.places import Place
from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.errors import CheckpointError, UsageError
from mnist_cli.records import RunRecord, require_writable, write_json
from mnist_cli.runners.base import EvaluateJob, Runner, TrainJob

if TYPE_CHECKING:
    from mnist_cli.experiments.run import Observer
    from mnist_cli.training.checkpoint import Checkpoint
    from mnist_cli.training.evaluation import Evaluation

# The default peak of the learning rate for a training that goes on from another model.
TUNING_RATE = 0.01


@checks_arguments
def train(
    framework: str = "torch",
    *,
    arch: str | None = None,
    arch_file: Paths = None,
    activation: str | None = None,
    epochs: int = DEFAULTS.epochs,
    batch_size: int = DEFAULTS.batch_size,
    learning_rate: float | None = None,
    label_smoothing: float | None = None,
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
    fix_orientation: bool = False,
    limit: int | None = None,
    from_model: PathLike | None = None,
    results_dir: PathLike | None = None,
    runner: str = "process",
    address: str | None = None,
    gpus_per_run: int | None = None,
    resume: bool = False,
    log: Names = None,
    log_dir: PathLike | None = None,
    progress: bool = True,
) -> RunRecord:
    """Train one network, by default a CNN, and return its record.

    ``arch`` is a known name, one from the TOML file ``arch_file``, or a line of layers.
    With ``results_dir`` the model, the record and a chart are written there, and ``resume`` goes
    on from the model's last epoch. ``from_model`` is a finished model to start from: a file, a name
    in the models of ``results_dir``, or ``pretrained``. Then network, label smoothing,
    augmentation and rejection are the model's, the learning rate is `TUNING_RATE`, and MNIST is
    mixed with the data set; see `data.split.mix`. ``fix_orientation`` turns digits that lie
    otherwise than MNIST's; see `data.orientation`. ``runner``, ``address``, ``gpus_per_run``,
    ``log`` and ``log_dir`` are as in `compare`: a node of a cluster trains. In processes that
    torchrun started each does its part, and rank 0 alone writes. Raises `UsageError` for a wrong
    argument, `CheckpointError`, `DataError`, `FrameworkError` or `DivergedError` if the run fails.
    """
    from mnist_cli import adapters
    from mnist_cli.names import model_name
    from mnist_cli.reporting.console import TrainingProgress
    from mnist_cli.runners.process import ProcessRunner

    place = Place(runner, address, False, gpus_per_run, threads, device)
    framework = adapters.resolve(framework)
    rank = torchrun.current_rank()
    if rank is not None:
        rank.require(framework, runner=runner, batch_size=batch_size)
    folder = results_folder(results_dir, resume=resume)
    is_main = torchrun.is_main()
    logs = checked_logs(log, log_dir, folder)
    if not is_main:
        logs = checked_logs(None, None, folder)
    origin_path, origin = _origin(from_model, folder)
    spec = _network(origin, arch, activation, arch_file)
    if learning_rate is None:
        learning_rate = DEFAULTS.learning_rate if origin is None else TUNING_RATE
    if label_smoothing is None:
        label_smoothing = (DEFAULTS if origin is None else origin.config).label_smoothing
    job = TrainJob(
        framework=framework,
        spec=spec,
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
            augment=augment or (origin is not None and origin.config.augment),
            reject=reject or (origin is not None and origin.config.reject),
            precision=precision,
        ),
        threads=1,  # those of the place, once it is known
        dataset=os.fspath(dataset),
        fix_orientation=fix_orientation,
        limit=limit,
        device=checked_device(device),
        resume=resume,
        started_from=None if origin_path is None else str(origin_path),
        distributed=rank is not None,
    )
    if folder is not None:
        model_path, record_path, chart_path = training_files(folder, _stem(job))
        job = replace(job, checkpoint=str(model_path))
        _require_other_file(job)
        if is_main:
            require_writable(folder)
    label = model_name(framework, spec.arch, spec.activation)
    with (
        TrainingProgress([1], is_shown=progress and is_main) as shown,
        logs.opened(shown, [job]) as logged,
        place.opened([framework], timeout=None, note=shown.note) as (executor, cores),
    ):
        result = _executed(replace(job, threads=cores), executor or ProcessRunner(), logged, label)
        record = RunRecord.from_json(result)
        charts = []
        if folder is not None and is_main:
            from mnist_cli.reporting.charts import training

            write_json(record_path, result)
            training.draw(record, chart_path)
            charts = [chart_path]
        logged.finish_run(record, run=0, files=charts)
    return record


def _executed(job: TrainJob, runner: Runner, shown: Observer, label: str) -> dict[str, Any]:
    """Return the result of one job, and show its progress."""

    def on_event(_: int, event: dict[str, Any]) -> None:
        if event["event"] == "started":
            node = event.get("node")
            shown.start_run(f"{label} on {node}" if node else label, run=0)
        else:
            shown.on_event(event, run=0)

    runner.submit(job)
    return runner.wait(on_event).value()


def training_files(folder: Path, stem: str) -> tuple[Path, Path, Path]:
    """Return where a training writes its model, its record and its chart.

    ``stem`` is the name of the model's file without its suffix.
    """
    record = folder / f"{stem}_training.json"
    return folder / "models" / f"{stem}.safetensors", record, record.with_suffix(".png")


def _stem(job: TrainJob) -> str:
    """Return the name of a job's model: that of the data set is in it if another model began it."""
    name = f"{job.framework}-{job.spec.arch}"
    return f"{name}-{Path(job.dataset).resolve().stem}" if job.started_from else name


def _origin(
    from_model: PathLike | None, folder: Path | None
) -> tuple[Path | None, Checkpoint | None]:
    """Return the file of the model to go on from, and the model. Raises `CheckpointError`."""
    if from_model is None:
        return None, None
    from mnist_cli.training import checkpoint, recipe

    path = checkpoint.model_path(from_model, folder or Path("results"))
    origin = checkpoint.load(path)
    if (origin.pixel_mean, origin.pixel_std) != (recipe.PIXEL_MEAN, recipe.PIXEL_STD):
        raise CheckpointError(
            f"{path} expects pixels with another mean and standard deviation than "
            f"{recipe.PIXEL_MEAN} and {recipe.PIXEL_STD}. Go on from a model of this program."
        )
    return path, origin


def _network(
    origin: Checkpoint | None, arch: str | None, activation: str | None, arch_file: Paths
) -> ModelSpec:
    """Return the network asked for, or that of the model to go on from."""
    if origin is not None and arch is None and arch_file is None:
        asked = [replace(origin.spec, activation=activation or origin.spec.activation)]
    else:
        if arch is None and arch_file is None:
            arch = "cnn"
        activation = activation or ("relu" if origin is None else origin.spec.activation)
        asked = resolve_archs(arch, activation=activation, arch_file=arch_file)
    if len(asked) > 1:
        names = ", ".join(each.arch for each in asked)
        raise UsageError(f"There are several networks to train: {names}. Choose with --arch.")
    if origin is not None and asked[0] != origin.spec:
        raise UsageError(
            f"The model to go on from is a {origin.spec.arch} with {origin.spec.activation}, not a "
            f"{asked[0].arch} with {asked[0].activation}. Leave --arch and --activation out."
        )
    return asked[0]


def _require_other_file(job: TrainJob) -> None:
    """Raise `UsageError` if a new training would replace the model that it starts from."""
    if job.started_from and not job.resume and job.checkpoint:
        path = Path(job.checkpoint)
        if path.exists() and path.samefile(job.started_from):
            raise UsageError(
                f"{path} is both the model to go on from and the one to write. "
                "Choose another --results-dir, or rename it."
            )


@checks_arguments
def evaluate(
    model: PathLike,
    *,
    framework: str | None = None,
    dataset: PathLike = "mnist",
    fix_orientation: bool = False,
    threads: int | None = None,
    device: str = "auto",
    results_dir: PathLike | None = None,
    progress: bool = True,
) -> Evaluation:
    """Test a saved model, in any framework, and return its evaluation.

    ``model`` is a file, or a name such as ``torch-cnn`` in the models of ``results_dir``, by
    default ``results``. ``framework`` is by default the one that trained it. ``fix_orientation`` is
    as in `train`. With ``results_dir`` two charts are written there: the confusion matrix, and
    sample predictions. Raises `CheckpointError` for a bad model, `UsageError` and `DataError`.
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
        fix_orientation=fix_orientation,
        device=checked_device(device),
    )
    if folder is not None:
        require_writable(folder)
    text = f"{framework_name(job.framework)} evaluates {path}"

    with console.stderr().status(escape(text)) if progress else nullcontext() as status:

        def on_event(event: dict[str, Any]) -> None:
            if status is not None and event["event"] == "phase":
                status.update(escape(event["name"]))
            elif status is not None and event["event"] == "note":
                status.console.print(event["text"], markup=False, soft_wrap=True)

        evaluation = Evaluation(**process.run(job, on_event))
        if folder is not None:
            draw_evaluation(
                evaluation,
                *evaluation_files(folder, path),
                name=path.stem,
                fix_orientation=fix_orientation,
            )
    return evaluation


def evaluation_files(folder: Path, model: Path) -> tuple[Path, Path]:
    """Return where an evaluation writes its confusion matrix and its sample predictions."""
    return folder / f"{model.stem}_confusion.png", folder / f"{model.stem}_predictions.png"


def draw_evaluation(
    evaluation: Evaluation,
    confusion_path: Path,
    samples_path: Path,
    *,
    name: str,
    fix_orientation: bool = False,
) -> None:
    """Draw the confusion matrix and sample predictions of what is called ``name``."""
    from mnist_cli.data.orientation import checked
    from mnist_cli.data.registry import load_dataset
    from mnist_cli.names import dataset_name
    from mnist_cli.reporting.charts import confusion, predictions

    title = f"{name} on {dataset_name(evaluation.dataset)}"
    names = evaluation.class_names
    confusion.draw(evaluation.confusion_matrix, confusion_path, title=title, class_names=names)
    test = load_dataset(evaluation.dataset)
    if fix_orientation:
        test = checked(test, fix=True, say=lambda _: None)
    predictions.draw(
        test.test_images,
        test.test_labels,
        evaluation.predictions,
        evaluation.confidences,
        samples_path,
        title=title,
        class_names=names,
    )

"""The Python API: what the commands do, as functions that return records.

Names and defaults are those of the command line's options, except that nothing is written unless
``results_dir`` is given. The functions work in scripts (no ``__main__`` guard is needed), in
threads and in notebooks: each run trains in a process of its own, started by its command line.
Errors are those of `mnist_cli.errors`; an unknown keyword names the nearest known one.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar

from mnist_cli.config import (
    ARCHITECTURES,
    DEVICES,
    ModelSpec,
    TrainConfig,
    require_choice,
    require_range,
)
from mnist_cli.errors import PictureError, UsageError
from mnist_cli.experiments.plan import COMPARISON, LR_SCALINGS, SWEEP, network, plan_jobs
from mnist_cli.records import RunRecord, available_cores, require_writable, write_json
from mnist_cli.runners.base import EvaluateJob, TrainJob

if TYPE_CHECKING:
    from mnist_cli.pictures.opening import Source
    from mnist_cli.prediction import Prediction, Reader
    from mnist_cli.reporting.comparison import Comparison
    from mnist_cli.training.evaluation import Evaluation

PathLike: TypeAlias = "str | os.PathLike[str]"
# One name or several; None for all there are.
Names: TypeAlias = "str | Iterable[str] | None"

_P = ParamSpec("_P")
_R = TypeVar("_R")

_DEFAULTS = TrainConfig()
_MAX_TIMEOUT_SECONDS = 1e6  # timers take no infinity


def _checks_keywords(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Raise `UsageError` for an unknown keyword, naming the nearest known one."""

    @functools.wraps(function)
    def checked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        known = function.__code__.co_varnames[: _parameter_count(function)]
        for name in kwargs:
            if name not in known:
                import difflib

                near = difflib.get_close_matches(name, known, n=1)
                hint = f"Did you mean '{near[0]}'?" if near else f"It takes {', '.join(known)}."
                raise UsageError(f"{function.__name__}() has no keyword '{name}'. {hint}")
        return function(*args, **kwargs)

    return checked


def _parameter_count(function: Callable[..., Any]) -> int:
    code = function.__code__
    return code.co_argcount + code.co_kwonlyargcount


@_checks_keywords
def train(
    framework: str = "torch",
    *,
    arch: str = "cnn",
    activation: str = "relu",
    epochs: int = _DEFAULTS.epochs,
    batch_size: int = _DEFAULTS.batch_size,
    learning_rate: float = _DEFAULTS.learning_rate,
    label_smoothing: float = _DEFAULTS.label_smoothing,
    seed: int = _DEFAULTS.seed,
    threads: int | None = None,
    device: str = "auto",
    warmup_fraction: float = _DEFAULTS.warmup_fraction,
    decay_power: float = _DEFAULTS.decay_power,
    target_accuracy: float | None = None,
    patience: int | None = None,
    augment: bool = False,
    precision: str = _DEFAULTS.precision,
    dataset: str = "mnist",
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
    folder = _results_folder(results_dir, resume=resume)
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
            precision=precision,
        ),
        threads=_threads(threads),
        dataset=os.fspath(dataset),
        limit=limit,
        device=_device(device),
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


@_checks_keywords
def evaluate(
    model: PathLike,
    *,
    framework: str | None = None,
    dataset: str = "mnist",
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

    folder = _results_folder(results_dir)
    path = checkpoint.model_path(model, folder or Path("results"))
    if framework is None:
        # NumPy computes every model, also one of a framework that is not installed here.
        writer = checkpoint.load(path).framework
        framework = writer if writer in adapters.names() else "numpy"
    job = EvaluateJob(
        framework=adapters.resolve(framework),
        checkpoint=str(path),
        threads=_threads(threads),
        dataset=os.fspath(dataset),
        device=_device(device),
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
    from mnist_cli.data.dataset import load_dataset
    from mnist_cli.reporting.charts import confusion, predictions

    title = f"{Path(evaluation.checkpoint).stem} on {evaluation.dataset}"
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


@_checks_keywords
def compare(
    framework: Names = None,
    *,
    arch: Names = None,
    activation: str = "relu",
    epochs: int = _DEFAULTS.epochs,
    runs: int = 1,
    batch_size: int = _DEFAULTS.batch_size,
    learning_rate: float = _DEFAULTS.learning_rate,
    label_smoothing: float = _DEFAULTS.label_smoothing,
    augment: bool = False,
    precision: str = _DEFAULTS.precision,
    seed: int = _DEFAULTS.seed,
    threads: int | None = None,
    device: str = "cpu",
    target_accuracy: float | None = None,
    dataset: str = "mnist",
    limit: int | None = None,
    results_dir: PathLike | None = None,
    timeout: float | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Comparison:
    """Train networks in several frameworks under equal conditions and return the comparison.

    ``framework`` and ``arch`` are names or lists of names, by default all there are. ``runs``
    repeats each with seeds ``seed``, ``seed`` + 1, ... With ``results_dir`` models, records and
    charts are written there, and ``resume`` does only the runs that are missing. A run that fails
    or takes longer than ``timeout`` seconds is among the comparison's ``failures``.
    """
    frameworks, archs = _frameworks(framework), _archs(arch)
    folder = _results_folder(results_dir, resume=resume)
    template = TrainJob(
        framework=frameworks[0],
        spec=_template_spec(archs, activation),
        config=TrainConfig(
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            label_smoothing=label_smoothing,
            seed=seed,
            target_accuracy=target_accuracy,
            augment=augment,
            precision=precision,
        ),
        threads=_threads(threads),
        dataset=os.fspath(dataset),
        limit=limit,
        device=_device(device),
        checkpoint=None if folder is None else str(folder / "models"),
    )
    return _run_experiment(
        COMPARISON,
        template,
        {"frameworks": frameworks, "archs": archs, "runs": runs},
        folder=folder,
        timeout=timeout,
        resume=resume,
        progress=progress,
    )


@_checks_keywords
def sweep_batch(
    batch_sizes: Sequence[int] = (16, 32, 64, 128, 256, 512),
    *,
    lr_scaling: str = "sqrt",
    framework: Names = None,
    arch: Names = None,
    activation: str = "relu",
    epochs: int = 3,
    runs: int = 1,
    learning_rate: float = _DEFAULTS.learning_rate,
    label_smoothing: float = _DEFAULTS.label_smoothing,
    augment: bool = False,
    precision: str = _DEFAULTS.precision,
    seed: int = _DEFAULTS.seed,
    threads: int | None = None,
    device: str = "cpu",
    dataset: str = "mnist",
    limit: int | None = None,
    results_dir: PathLike | None = None,
    timeout: float | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Comparison:
    """Train at several batch sizes and return the comparison.

    ``learning_rate`` is the peak at a batch of 64; ``lr_scaling`` (``none``, ``linear`` or
    ``sqrt``) says how it follows the batch size. The rest is as in `compare`.
    """
    frameworks, archs = _frameworks(framework), _archs(arch)
    require_choice("learning-rate scaling", lr_scaling, LR_SCALINGS)
    folder = _results_folder(results_dir, resume=resume)
    template = TrainJob(
        framework=frameworks[0],
        spec=_template_spec(archs, activation),
        config=TrainConfig(
            epochs=epochs,
            learning_rate=learning_rate,
            label_smoothing=label_smoothing,
            seed=seed,
            augment=augment,
            precision=precision,
        ),
        threads=_threads(threads),
        dataset=os.fspath(dataset),
        limit=limit,
        device=_device(device),
    )
    return _run_experiment(
        SWEEP,
        template,
        {
            "frameworks": frameworks,
            "archs": archs,
            "runs": runs,
            "batch_sizes": sorted(set(batch_sizes)),
            "lr_scaling": lr_scaling,
        },
        folder=folder,
        timeout=timeout,
        resume=resume,
        progress=progress,
    )


@_checks_keywords
def predict(
    source: Source,
    *,
    model: PathLike | None = None,
    framework: str = "numpy",
    single: bool = False,
    threads: int | None = None,
    device: str = "auto",
    results_dir: PathLike = "results",
) -> Prediction:
    """Read the digits in one picture: a path, a file's bytes, an array or a PIL image.

    ``model`` is a file, or a name such as ``torch-cnn`` in the models of ``results_dir``; by
    default the one in this package. ``single`` takes all ink as one digit. For many pictures
    `load_model` loads a model once. Raises `PictureError` for what is no picture or shows no
    digit, `CheckpointError` for a bad model.
    """
    loaded = load_model(
        model, framework=framework, threads=threads, device=device, results_dir=results_dir
    )
    (answer,) = loaded.read([source], single=single)
    if isinstance(answer, PictureError):
        raise answer
    return answer


@_checks_keywords
def load_model(
    model: PathLike | None = None,
    *,
    framework: str = "numpy",
    threads: int | None = None,
    device: str = "auto",
    results_dir: PathLike = "results",
) -> Reader:
    """Return a model that reads pictures: by default the one in this package.

    ``model`` is a file, or a name such as ``torch-cnn`` in the models of ``results_dir``.
    ``framework`` computes it, whichever trained it. Raises `CheckpointError` for a bad model.
    """
    from mnist_cli.prediction import NUMPY, Reader
    from mnist_cli.training.checkpoint import model_path

    if framework != NUMPY:  # always installed; looking for others takes a while
        from mnist_cli import adapters

        framework = adapters.resolve(framework)
    return Reader(
        None if model is None else model_path(model, Path(results_dir)),
        framework=framework,
        threads=_threads(threads),
        device=_device(device),
    )


def _run_experiment(
    name: str,
    template: TrainJob,
    plan: dict[str, Any],
    *,
    folder: Path | None,
    timeout: float | None,
    resume: bool,
    progress: bool,
) -> Comparison:
    """Run and draw a comparison or a sweep; ``plan`` holds the arguments of `plan_jobs`."""
    from mnist_cli.experiments.run import run_jobs
    from mnist_cli.reporting.comparison import Comparison
    from mnist_cli.reporting.console import TrainingProgress

    require_range("runs", plan["runs"], 1, 1000)
    if timeout is not None and not 0 < timeout <= _MAX_TIMEOUT_SECONDS:
        raise UsageError(f"timeout must be from above 0 to 1000000 seconds, not {timeout:g}.")
    jobs = plan_jobs(template, **plan)
    with TrainingProgress([job.spec.arch for job in jobs], is_shown=progress) as observer:
        document = run_jobs(
            jobs,
            path=None if folder is None else folder / f"{name}.json",
            settings=_settings(template, plan),
            observer=observer,
            resume=resume,
            timeout_seconds=timeout,
        )
    if folder is None:
        return Comparison(document)
    from mnist_cli.reporting.results import draw_document

    charts = [chart for chart, _ in draw_document(name, document, folder)]
    return Comparison(document, (folder / f"{name}.json", *charts))


def _settings(template: TrainJob, plan: dict[str, Any]) -> dict[str, Any]:
    """Return what must be equal for an experiment to be resumed."""
    job = asdict(template)
    config, spec = job.pop("config"), job.pop("spec")
    for of_one_run in ("framework", "checkpoint", "resume"):
        del job[of_one_run]
    return {**config, **job, "activation": spec["activation"], **plan}


def _results_folder(results_dir: PathLike | None, *, resume: bool = False) -> Path | None:
    """Return the folder to write to, or None to write nothing."""
    if results_dir is None and resume:
        raise UsageError("resume needs results_dir, the folder of what is to be resumed.")
    return None if results_dir is None else Path(results_dir)


def _listed(names: str | Iterable[str]) -> list[str]:
    """Return names, each once."""
    return list(dict.fromkeys([names] if isinstance(names, str) else names))


def _frameworks(names: Names) -> list[str]:
    """Return the frameworks asked for, by default all; none is imported."""
    from mnist_cli import adapters

    return _listed(adapters.resolve(name) for name in _listed(names or adapters.names()))


def _archs(names: Names) -> list[str]:
    return [ModelSpec(arch).arch for arch in _listed(names or ARCHITECTURES)]


def _template_spec(archs: Sequence[str], activation: str) -> ModelSpec:
    """Return the spec that carries the MLP's activation, if an MLP is to be trained."""
    return network("mlp", activation) if "mlp" in archs else ModelSpec(archs[0], activation)


def _device(name: str) -> str:
    require_choice("device", name, DEVICES)
    return name


def _threads(threads: int | None) -> int:
    """Return the number of threads to use: as asked for, else one for each available core."""
    if threads is None:
        return available_cores()
    # With more threads than cores they wait for one another, up to a standstill.
    require_range("threads", threads, 1, available_cores())
    return threads

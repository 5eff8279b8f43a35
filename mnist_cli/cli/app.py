"""The command line: parse, call, show, exit code. No maths; nothing heavy until it is needed."""

from __future__ import annotations

import json
import sys
import traceback
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mnist_cli import __version__
from mnist_cli.config import ARCHITECTURES, DEVICES, ModelSpec, TrainConfig, require_choice
from mnist_cli.errors import MnistError, PictureError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from mnist_cli.prediction import Prediction
    from mnist_cli.runners.base import TrainJob

app = typer.Typer(
    name="mnist",
    help="Train, evaluate, compare and use digit classifiers in PyTorch, TensorFlow and NumPy.",
    epilog="Add --debug to any command to see what lies behind an error.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

_DEFAULTS = TrainConfig()
_LONGEST_TIMEOUT_SECONDS = 1e6  # timers take no infinity
_RESUMABLE = ("train", "compare", "sweep-batch")
_FEW_PICTURES = 8  # read in a moment: no progress bar
_MOST_PLOTTED = 6  # pictures in one plot
_INTERRUPTED = 130  # Typer's exit code for Ctrl-C, and every shell's

Framework = Annotated[str, typer.Option(help="numpy, tensorflow or torch.")]
Frameworks = Annotated[
    list[str] | None, typer.Option("--framework", help="Repeatable; default: all of them.")
]
Archs = Annotated[list[str] | None, typer.Option("--arch", help="cnn or mlp; default: both.")]
Epochs = Annotated[int, typer.Option(help="Passes over the training images.")]
BatchSize = Annotated[int, typer.Option(help="Images a step.")]
LearningRate = Annotated[float, typer.Option(help="Peak of the one-cycle schedule.")]
LabelSmoothing = Annotated[
    float, typer.Option(help="Share of each label that all ten digits divide among them.")
]
Seed = Annotated[int, typer.Option(help="Decides weights, split and batch order.")]
Threads = Annotated[
    int | None, typer.Option(help="Processor threads.", show_default="all available cores")
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
OneDevice = Annotated[
    str, typer.Option(help="cpu, cuda or auto; the same for all, or they cannot be compared.")
]
TargetAccuracy = Annotated[
    float | None,
    typer.Option(
        help="Stop once validation accuracy (0-1) reaches this; up to ten looks an epoch."
    ),
]
DatasetName = Annotated[
    str,
    typer.Option(
        "--dataset",
        help="mnist, fashion-mnist, kmnist, a folder of IDX files, or an .npz file.",
    ),
]
Limit = Annotated[int | None, typer.Option(help="Train on this many images only: a quick try.")]
ResultsDir = Annotated[Path, typer.Option(help="Where models, records and charts go.")]
Runs = Annotated[int, typer.Option(help="Repeats of each, with seeds seed, seed+1, ...")]
Timeout = Annotated[
    float | None, typer.Option(help="Seconds after which a run is given up.", show_default="none")
]
ResumeRuns = Annotated[bool, typer.Option("--resume", help="Do only the runs still missing.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mnist {__version__}")
        raise typer.Exit


@app.callback()
def common(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Train, evaluate, compare and use digit classifiers in PyTorch, TensorFlow and NumPy."""


@app.command()
def train(
    framework: Framework = "torch",
    arch: Annotated[str, typer.Option(help="cnn or mlp.")] = "cnn",
    activation: Annotated[str, typer.Option(help="The MLP's: relu or sigmoid.")] = "relu",
    epochs: Epochs = _DEFAULTS.epochs,
    batch_size: BatchSize = _DEFAULTS.batch_size,
    learning_rate: LearningRate = _DEFAULTS.learning_rate,
    label_smoothing: LabelSmoothing = _DEFAULTS.label_smoothing,
    seed: Seed = _DEFAULTS.seed,
    threads: Threads = None,
    device: Device = "auto",
    warmup_fraction: Annotated[
        float, typer.Option(help="Share of the steps over which the learning rate rises.")
    ] = _DEFAULTS.warmup_fraction,
    decay_power: Annotated[
        float, typer.Option(help="It falls by half a cosine to this power: 1, or more for sooner.")
    ] = _DEFAULTS.decay_power,
    target_accuracy: TargetAccuracy = None,
    augment: Annotated[
        bool, typer.Option("--augment", help="Bend the pictures a little, anew each epoch.")
    ] = False,
    precision: Annotated[
        str, typer.Option(help="float32, or bfloat16: the layers in mixed precision.")
    ] = _DEFAULTS.precision,
    dataset: DatasetName = "mnist",
    limit: Limit = None,
    results_dir: ResultsDir = Path("results"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train one network and save its model, record and chart."""
    from mnist_cli.records import RunRecord, require_writable, write_json
    from mnist_cli.reporting import charts, console
    from mnist_cli.runners import process
    from mnist_cli.runners.base import TrainJob

    name = f"{_framework(framework)}-{arch}"
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
            augment=augment,
            precision=precision,
        ),
        threads=_threads(threads),
        dataset=dataset,
        limit=limit,
        device=_device(device),
        checkpoint=str(results_dir / "models" / f"{name}.safetensors"),
        resume=resume,
    )
    require_writable(results_dir)
    with console.TrainingProgress([arch]) as progress:
        progress.start_run(f"{framework} {arch}")
        result = process.run(job, progress.on_event)
    record = RunRecord.from_json(result)
    record_path = results_dir / f"{name}_training.json"
    write_json(record_path, result)
    chart = record_path.with_suffix(".png")
    charts.training_chart(record, chart)
    if as_json:
        _print_json(result)
    else:
        console.stdout().print(console.history_table(record))
        if target_accuracy is not None:
            is_reached = record.history[-1].validation_accuracy >= target_accuracy
            when = f"reached after {record.train_seconds:.1f} s of training"
            typer.echo(f"target {target_accuracy:.4g}: {when if is_reached else 'not reached'}")
        _say_written(record.checkpoint, record_path, chart)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="A .safetensors file, or a name such as torch-cnn.")],
    framework: Annotated[
        str | None,
        typer.Option(help="Which framework reads it.", show_default="the one that wrote it"),
    ] = None,
    dataset: DatasetName = "mnist",
    threads: Threads = None,
    device: Device = "auto",
    results_dir: ResultsDir = Path("results"),
    as_json: AsJson = False,
) -> None:
    """Test a saved model, in any framework, and draw where it errs."""
    from mnist_cli import adapters
    from mnist_cli.data.registry import load_dataset
    from mnist_cli.records import require_writable
    from mnist_cli.reporting import charts, console
    from mnist_cli.runners import process
    from mnist_cli.runners.base import EvaluateJob
    from mnist_cli.training import checkpoint

    path = _model_path(model, results_dir)
    if framework is None:
        # A model may come from a framework that is not here: then NumPy reads it, as it can all.
        writer = checkpoint.load(path).framework
        framework = writer if writer in adapters.names() else "numpy"
    job = EvaluateJob(
        framework=_framework(framework),
        checkpoint=str(path),
        threads=_threads(threads),
        dataset=dataset,
        device=_device(device),
    )
    require_writable(results_dir)
    with console.stderr().status(f"{job.framework} reads {path}"):
        result = process.run(job, lambda _: None)
        predictions, confidences = result.pop("predictions"), result.pop("confidences")
        confusion = results_dir / f"{path.stem}_confusion.png"
        samples = results_dir / f"{path.stem}_predictions.png"
        title = f"{path.stem} on {result['dataset']}"
        test = load_dataset(dataset)
        charts.confusion_chart(result["confusion_matrix"], confusion, title=title)
        charts.predictions_chart(
            test.test_images, test.test_labels, predictions, confidences, samples, title=title
        )
    if as_json:
        _print_json(result)
    else:
        console.stdout().print(console.evaluation_table(result))
        _say_written(confusion, samples)


@app.command()
def compare(
    framework: Frameworks = None,
    arch: Archs = None,
    epochs: Epochs = _DEFAULTS.epochs,
    runs: Runs = 1,
    batch_size: BatchSize = _DEFAULTS.batch_size,
    learning_rate: LearningRate = _DEFAULTS.learning_rate,
    label_smoothing: LabelSmoothing = _DEFAULTS.label_smoothing,
    seed: Seed = _DEFAULTS.seed,
    threads: Threads = None,
    device: OneDevice = "cpu",
    target_accuracy: TargetAccuracy = None,
    dataset: DatasetName = "mnist",
    limit: Limit = None,
    results_dir: ResultsDir = Path("results"),
    timeout: Timeout = None,
    resume: ResumeRuns = False,
    as_json: AsJson = False,
) -> None:
    """Train both networks in every framework under equal conditions, and compare."""
    from mnist_cli.experiments import plan as plans
    from mnist_cli.runners.base import TrainJob

    frameworks, archs = _cells(framework, arch)
    template = TrainJob(
        framework=frameworks[0],
        spec=ModelSpec(archs[0]),
        config=TrainConfig(
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            label_smoothing=label_smoothing,
            seed=seed,
            target_accuracy=target_accuracy,
        ),
        threads=_threads(threads),
        dataset=dataset,
        limit=limit,
        device=_device(device),
        checkpoint=str(results_dir / "models"),
    )
    _run_experiment(
        template,
        results_dir / f"{plans.COMPARISON}.json",
        plan={"frameworks": frameworks, "archs": archs, "runs": runs},
        timeout=timeout,
        resume=resume,
        as_json=as_json,
    )


@app.command()
def sweep_batch(
    batch_sizes: Annotated[str, typer.Option(help="With commas between.")] = "16,32,64,128,256,512",
    lr_scaling: Annotated[
        str, typer.Option(help="How the learning rate follows the batch: none, linear or sqrt.")
    ] = "sqrt",
    framework: Frameworks = None,
    arch: Archs = None,
    epochs: Epochs = 3,
    runs: Runs = 1,
    learning_rate: Annotated[
        float, typer.Option(help=f"Peak at batch size {_DEFAULTS.batch_size}.")
    ] = _DEFAULTS.learning_rate,
    label_smoothing: LabelSmoothing = _DEFAULTS.label_smoothing,
    seed: Seed = _DEFAULTS.seed,
    threads: Threads = None,
    device: OneDevice = "cpu",
    dataset: DatasetName = "mnist",
    limit: Limit = None,
    results_dir: ResultsDir = Path("results"),
    timeout: Timeout = None,
    resume: ResumeRuns = False,
    as_json: AsJson = False,
) -> None:
    """Train at several batch sizes: what is fast, and what it costs in accuracy."""
    from mnist_cli.experiments import plan as plans
    from mnist_cli.runners.base import TrainJob

    frameworks, archs = _cells(framework, arch)
    require_choice("learning-rate scaling", lr_scaling, plans.LR_SCALINGS)
    try:
        sizes = sorted({int(size) for size in batch_sizes.split(",")})
    except ValueError:
        raise UsageError(
            f"batch sizes must be whole numbers with commas between, such as 32,64, "
            f"not '{batch_sizes}'."
        ) from None
    template = TrainJob(
        framework=frameworks[0],
        spec=ModelSpec(archs[0]),
        config=TrainConfig(
            epochs=epochs, learning_rate=learning_rate, label_smoothing=label_smoothing, seed=seed
        ),
        threads=_threads(threads),
        dataset=dataset,
        limit=limit,
        device=_device(device),
    )
    _run_experiment(
        template,
        results_dir / f"{plans.SWEEP}.json",
        plan={
            "frameworks": frameworks,
            "archs": archs,
            "runs": runs,
            "batch_sizes": sizes,
            "lr_scaling": lr_scaling,
        },
        timeout=timeout,
        resume=resume,
        as_json=as_json,
    )


@app.command()
def predict(
    files: Annotated[
        list[str],
        typer.Argument(
            help="Pictures, folders of them, patterns such as 'scans/*.png'; - is standard input."
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="A .safetensors file, or the name of one that mnist train wrote.",
            show_default="the one inside this package",
        ),
    ] = None,
    framework: Framework = "numpy",
    single: Annotated[
        bool, typer.Option("--single", help="Each picture shows one digit, whatever it looks like.")
    ] = False,
    show: Annotated[bool, typer.Option("--show", help="Draw what the network saw.")] = False,
    save_plot: Annotated[
        Path | None,
        typer.Option(help="A PNG file for boxes, prepared digits and probabilities."),
    ] = None,
    threads: Threads = None,
    device: Device = "auto",
    results_dir: Annotated[Path, typer.Option(help="Where that model is looked for.")] = Path(
        "results"
    ),
    as_csv: Annotated[bool, typer.Option("--csv", help="One line a picture.")] = False,
    as_json: AsJson = False,
) -> None:
    """Read the digits in pictures: photos, scans, drawings."""
    import time
    import warnings

    from mnist_cli import prediction

    if as_csv and as_json:
        raise UsageError("--csv and --json exclude each other. Leave one out.")
    if framework != prediction.NUMPY:  # which is always there; to look for others takes a while
        _framework(framework)
    if save_plot is not None:
        _require_png(save_plot)
    # Pillow warns of small faults in files; here a picture is read, or refused in a line.
    warnings.simplefilter("ignore")
    sources, failed = _sources(files)
    reader = prediction.Reader(
        None if model is None else _model_path(model, results_dir),
        framework=framework,
        threads=_threads(threads),
        device=_device(device),
    )
    printer = _PredictionPrinter(as_csv=as_csv, as_json=as_json, show=show)
    plotted: list[tuple[str, str | bytes, Prediction]] = []
    unread = 0
    began = time.perf_counter()
    with _reading_progress(len(sources)) as advance:
        answers = reader.read((source for _, source in sources), single=single)
        for (name, source), answer in zip(sources, answers, strict=True):
            advance()
            if isinstance(answer, MnistError):
                unread += 1
                _say_unread(name, answer)
                continue
            printer.print(name, answer)
            if save_plot is not None and len(plotted) < _MOST_PLOTTED:
                plotted.append((name, source, answer))
    printer.close()
    seconds = time.perf_counter() - began
    if len(sources) > 1:
        note = f"; {unread:,} could not be read" if unread else ""
        speed = f"{len(sources) / seconds:,.0f} a second"
        _say(f"{len(sources):,} pictures in {seconds:.1f} s, {speed}{note}")
    if save_plot is not None and plotted:
        from mnist_cli.reporting import charts

        charts.reading_chart(plotted, save_plot, pictures=len(sources) - unread)
        _say_written(save_plot)
    if failed or unread:
        raise typer.Exit(1)


@app.command()
def report(
    results_dir: ResultsDir = Path("results"),
    output_format: Annotated[
        str, typer.Option("--format", help="table, markdown, csv or json.")
    ] = "table",
    as_json: AsJson = False,
) -> None:
    """Draw every chart and table again from the records, and write report.html."""
    from mnist_cli.records import require_writable
    from mnist_cli.reporting import reports

    require_choice("format", output_format, ("table", "markdown", "csv", "json"))
    documents = reports.load_all(results_dir)
    require_writable(results_dir)
    written = reports.draw_all(documents, results_dir)
    if not documents:
        _say(f"No comparison and no sweep in {results_dir}: there is a chart, but no table.")
    if as_json or output_format == "json":
        _print_json(documents)
    elif output_format == "table":
        for document in documents.values():
            _show_experiment(document)
    else:
        text = reports.as_markdown if output_format == "markdown" else reports.as_csv
        typer.echo("\n".join(text(document) for document in documents.values()), nl=False)
    _say_written(*written)


@app.command()
def info(as_json: AsJson = False) -> None:
    """Show versions, devices, threads and data."""
    from mnist_cli import adapters
    from mnist_cli.data.registry import DATASETS
    from mnist_cli.records import describe_machine, version_of
    from mnist_cli.reporting import console

    packages = ("numpy", "torch", "tensorflow", "keras", "scikit-learn", "matplotlib")
    document = {
        **describe_machine(),
        "threads": _threads(None),
        "frameworks": list(adapters.names()),
        "versions": {name: version_of(name) for name in packages},
        "datasets": list(DATASETS),
    }
    if as_json:
        _print_json(document)
    else:
        console.stdout().print(console.info_table(document))


def main() -> None:
    """Run the command line; every expected error ends in one line and its exit code."""
    arguments = sys.argv[1:] or ["--help"]
    debug = "--debug" in arguments
    if debug:
        arguments.remove("--debug")
    try:
        code = app(arguments, prog_name="mnist", standalone_mode=False)
        if code == _INTERRUPTED:
            resumable = arguments[0] in _RESUMABLE
            _say("Interrupted." + " Go on with the same command and --resume." * resumable)
    except MnistError as error:
        code = _fail(str(error), error.exit_code)
        if debug:
            traceback.print_exc()
            _say(error.details)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "mnist"
        said = error.format_message().rstrip(".?")
        code = _fail(f"{said}. See '{command} --help'.", error.exit_code)
    except Exception as error:
        if debug:
            traceback.print_exc()
        code = _fail(
            f"This is a defect of the program, not of your command: {type(error).__name__}: "
            f"{error}. Run it again with --debug and report what it prints.",
            1,
        )
    sys.exit(code)


def _fail(message: str, exit_code: int) -> int:
    _say("Error: " + " ".join(message.split()))
    return exit_code


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _say_written(*paths: Path | str | None) -> None:
    for path in paths:
        if path is not None:
            _say(f"written: {path}")


def _print_json(document: Any) -> None:
    typer.echo(json.dumps(document, indent=1))


def _sources(names: list[str]) -> tuple[list[tuple[str, str | bytes]], int]:
    """Return each picture's name and path, or bytes from standard input, and the names without."""
    from mnist_cli.prediction import find_pictures

    sources: list[tuple[str, str | bytes]] = []
    failed = 0
    for name in names:
        try:
            if name == "-":
                if any(isinstance(source, bytes) for _, source in sources):
                    raise PictureError("standard input holds one picture: name it once")
                sources.append(("-", sys.stdin.buffer.read()))
            else:
                sources += [(_printable(path), path) for path in find_pictures(name)]
        except MnistError as error:  # noqa: PERF203  # the other names are still looked at
            failed += 1
            _say_unread(_printable(name), error)
    return sources, failed


def _model_path(model: str, results_dir: Path) -> Path:
    """Return the file of a model given by its path, or by its name among the results."""
    path = Path(model)
    if not path.exists() and path.suffix == "":
        return results_dir / "models" / f"{model}.safetensors"
    return path


def _require_png(path: Path) -> None:
    """Raise, before a long job, if a chart cannot be written to ``path``."""
    from mnist_cli.records import require_writable

    if path.suffix.lower() != ".png":
        raise UsageError(f"--save-plot draws a PNG: give a name that ends in .png, not {path}.")
    require_writable(path.parent, option="--save-plot")
    with suppress(OSError):  # a name too long: what writes to it will say so
        if path.is_dir():
            raise UsageError(f"--save-plot must be a file, not the folder {path}.")


def _say_unread(name: str, error: MnistError) -> None:
    _say(" ".join(f"{name}: {error}".split()))


def _printable(name: str) -> str:
    """Return a file's name with ``?`` for what is no text, or would move the cursor."""
    text = name.encode("utf-8", "replace").decode("utf-8")
    return "".join(sign if sign.isprintable() else "?" for sign in text)


class _PredictionPrinter:
    """Prints answers as they come, as text, CSV or one JSON list.

    In whole lines and through `print`, which a progress bar can move out of its way.
    """

    def __init__(self, *, as_csv: bool, as_json: bool, show: bool) -> None:
        self._as_csv, self._as_json, self._show = as_csv, as_json, show
        self._printed = 0

    def print(self, name: str, answer: Prediction) -> None:
        if self._as_json:
            item = json.dumps({**answer.to_json(), "file": name}, indent=1)
            print("," if self._printed else "[", item, sep="\n", flush=True)
        elif self._as_csv:
            import csv

            writer = csv.writer(sys.stdout, lineterminator="\n")
            if not self._printed:
                writer.writerow(("file", "text", "confidence", "sure"))
            sure = "yes" if answer.sure else "no"
            text = answer.text.replace("\n", " / ")
            row = (name, text, f"{answer.confidence:.4f}", sure)
            writer.writerow(row)
        else:
            print("\n".join(_prediction_lines(name, answer)), flush=True)
        if self._show:
            from mnist_cli.reporting import console

            images = [digit.image for digit in answer.digits]
            machine_readable = self._as_json or self._as_csv
            pictures = console.half_blocks(images, err=machine_readable)
            print(pictures, file=sys.stderr if machine_readable else sys.stdout)
        self._printed += 1

    def close(self) -> None:
        if self._as_json:
            print("]" if self._printed else "[]")


def _prediction_lines(name: str, answer: Prediction) -> list[str]:
    """Return the answer as text: for one digit its three likeliest readings, in a line."""
    tops = [
        ", ".join(f"{digit} {share:.1%}" for digit, share in digit.top()) for digit in answer.digits
    ]
    if len(tops) == 1:
        note = "" if answer.sure else "  not sure"
        return [f"{name}: {answer.text}  ({tops[0]}){note}"]
    # A question mark after each digit that is not sure.
    marks = iter("" if digit.sure else "?" for digit in answer.digits)
    text = "".join(" / " if sign == "\n" else sign + next(marks) for sign in answer.text)
    note = "" if answer.sure else "  not sure"
    return [f"{name}: {text}  ({answer.confidence:.1%}){note}", *(f"    {top}" for top in tops)]


def _reading_progress(count: int) -> AbstractContextManager[Callable[[], None]]:
    """Return a bar on standard error for more than a few pictures, if a person sees it."""
    if count <= _FEW_PICTURES or not sys.stderr.isatty():
        return nullcontext(lambda: None)
    from mnist_cli.reporting import console

    return console.reading_progress(count)


def _cells(frameworks: list[str] | None, archs: list[str] | None) -> tuple[list[str], list[str]]:
    """Return the frameworks and architectures asked for, each once; all of them by default."""
    from mnist_cli import adapters

    names = [_framework(name) for name in dict.fromkeys(frameworks or adapters.names())]
    return names, [ModelSpec(arch).arch for arch in dict.fromkeys(archs or ARCHITECTURES)]


def _settings(template: TrainJob, plan: dict[str, Any]) -> dict[str, Any]:
    """Return what makes an experiment the same one when it is resumed."""
    job = asdict(template)
    config = job.pop("config")
    for of_one_run in ("framework", "spec", "checkpoint", "resume"):
        del job[of_one_run]
    return {**config, **job, **plan}


def _run_experiment(
    template: TrainJob,
    path: Path,
    *,
    plan: dict[str, Any],
    timeout: float | None,
    resume: bool,
    as_json: bool,
) -> None:
    """Run, draw and show a comparison or a sweep; exit with 1 if a run failed.

    ``plan`` holds the arguments of `experiments.plan`.
    """
    from mnist_cli.experiments import plan as plans
    from mnist_cli.experiments.run import run_jobs
    from mnist_cli.reporting import console, reports

    _require_range("runs", plan["runs"], 1, 1000)
    if timeout is not None and not 0 < timeout <= _LONGEST_TIMEOUT_SECONDS:
        raise UsageError(f"timeout must be from above 0 to 1000000 seconds, not {timeout:g}.")
    jobs = plans.plan_jobs(template, **plan)
    with console.TrainingProgress([job.spec.arch for job in jobs]) as progress:
        document = run_jobs(
            jobs,
            path=path,
            settings=_settings(template, plan),
            observer=progress,
            resume=resume,
            timeout_seconds=timeout,
        )
    written = reports.draw(path.stem, document, path.parent)
    if as_json:
        _print_json(document)
    else:
        _show_experiment(document)
        _say_written(path, *written)
        if template.checkpoint and Path(template.checkpoint).is_dir():
            _say(f"models in: {template.checkpoint}")
    if document["failures"]:
        raise typer.Exit(1)


def _show_experiment(document: Mapping[str, Any]) -> None:
    from mnist_cli.reporting import console, reports

    out = console.stdout()
    out.print(console.experiment_table(document))
    for line in reports.verdicts(document):
        # A terminal gets lines broken between words, a file or a pipe gets them whole.
        out.print(line, markup=False, highlight=False, soft_wrap=not out.is_terminal)


def _require_range(what: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise UsageError(f"{what} must be from {low} to {high}, not {value}.")


def _framework(name: str) -> str:
    """Return ``name`` if there is such a framework; importing none."""
    from mnist_cli import adapters

    require_choice("framework", name, adapters.names())
    return name


def _device(name: str) -> str:
    require_choice("device", name, DEVICES)
    return name


def _threads(threads: int | None) -> int:
    """Return the number of threads to use: as asked, else every available core."""
    from mnist_cli.records import available_cores

    if threads is None:
        return available_cores()
    # More threads than cores only get in each other's way, to the point of standing still.
    _require_range("threads", threads, 1, available_cores())
    return threads

"""Options that commands share, each declared once, and the completion of their values."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from mnist_cli.config import (
    ACTIVATIONS,
    DEVICES,
    NETWORKS,
    PRECISIONS,
    ROTATIONS,
    RUNNERS,
    TrainConfig,
)

DEFAULTS = TrainConfig()
RESULTS = Path("results")


def _starting_with(incomplete: str, values: Iterable[str]) -> list[str]:
    return [value for value in values if value.startswith(incomplete)]


def complete_framework(incomplete: str) -> list[str]:
    """Return the frameworks and their aliases that start with ``incomplete``."""
    from mnist_cli import adapters

    return _starting_with(incomplete, [*adapters.names(), *adapters.ALIASES])


def complete_model(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the models in the results folder whose names start with ``incomplete``."""
    folder = Path(ctx.params.get("results_dir") or RESULTS) / "models"
    names = (path.stem for path in sorted(folder.glob("*.safetensors")))
    return _starting_with(incomplete, names)


def complete_dataset(incomplete: str) -> list[str]:
    """Return the named data sets that start with ``incomplete``."""
    from mnist_cli.data.registry import DATASETS

    return _starting_with(incomplete, DATASETS)


def choice(
    *names: str,
    help: str,  # noqa: A002  # Typer's own name
    values: Iterable[str],
    show_default: bool | str = True,
) -> Any:
    """Return an option whose values a shell can complete; the API checks them."""
    return typer.Option(
        *names,
        help=help,
        show_default=show_default,
        autocompletion=lambda incomplete: _starting_with(incomplete, values),
    )


_FRAMEWORK_HELP = "numpy, tensorflow (or keras, tf), torch (or pytorch), jax if installed"

Framework = Annotated[
    str, typer.Option(help=f"{_FRAMEWORK_HELP}.", autocompletion=complete_framework)
]
Frameworks = Annotated[
    list[str] | None,
    typer.Option(
        "--framework",
        help=f"{_FRAMEWORK_HELP}; repeatable.",
        show_default="all",
        autocompletion=complete_framework,
    ),
]
_ARCH_HELP = (
    "A network by name (see 'mnist networks') or as a line, 'conv 16, relu, dense 64, relu'"
)
ArchFile = Annotated[
    list[Path] | None,
    typer.Option(help="TOML file of networks by name; repeatable.", show_default="none"),
]
Archs = Annotated[
    list[str] | None,
    typer.Option(
        "--arch",
        help=f"{_ARCH_HELP}; repeatable.",
        show_default="cnn and mlp, or all of --arch-file",
        autocompletion=lambda incomplete: _starting_with(incomplete, NETWORKS),
    ),
]
_ACTIVATION_HELP = "The MLP's: relu or sigmoid."
_LEARNING_RATE_HELP = "Peak of the one-cycle schedule."
_LABEL_SMOOTHING_HELP = "Share of each label that is spread evenly over all classes."
Activation = Annotated[str, choice(help=_ACTIVATION_HELP, values=ACTIVATIONS)]
Epochs = Annotated[int, typer.Option(help="Passes over the training images.")]
BatchSize = Annotated[int, typer.Option(help="Images per step.")]
LearningRate = Annotated[float, typer.Option(help=_LEARNING_RATE_HELP)]
LabelSmoothing = Annotated[float, typer.Option(help=_LABEL_SMOOTHING_HELP)]
# Those that a model to go on from decides if they are left out.
OptionalArch = Annotated[
    str | None,
    choice(help=f"{_ARCH_HELP}.", values=NETWORKS, show_default="cnn, or as in --from"),
]
OptionalActivation = Annotated[
    str | None,
    choice(help=_ACTIVATION_HELP, values=ACTIVATIONS, show_default="relu, or as in --from"),
]
OptionalLearningRate = Annotated[
    float | None, typer.Option(help=_LEARNING_RATE_HELP, show_default="0.1; with --from 0.01")
]
OptionalLabelSmoothing = Annotated[
    float | None,
    typer.Option(help=_LABEL_SMOOTHING_HELP, show_default="0.1, or as in --from"),
]
Augment = Annotated[
    bool, typer.Option("--augment", help="Augment with small elastic distortions, each epoch anew.")
]
Precision = Annotated[
    str,
    choice(
        help="float32; tf32 (CUDA) or bfloat16 for mixed precision (not in NumPy).",
        values=PRECISIONS,
    ),
]
Seed = Annotated[int, typer.Option(help="Decides initial weights, split and batch order.")]
Threads = Annotated[
    int | None, typer.Option(help="Processor threads.", show_default="all available cores")
]
Device = Annotated[
    str, choice(help="auto, cpu, cuda, or mps (Apple; PyTorch only).", values=DEVICES)
]
Single = Annotated[bool, typer.Option("--single", help="Take all ink as one digit.")]
Rotate = Annotated[str, choice(help="auto, or degrees clockwise.", values=ROTATIONS)]
SameDevice = Annotated[
    str,
    choice(help="cpu, cuda, mps or auto, for all: else they cannot be compared.", values=DEVICES),
]
TargetAccuracy = Annotated[
    float | None,
    typer.Option(
        help="Stop once validation accuracy (0-1) reaches this; checked ten times per epoch."
    ),
]
DatasetName = Annotated[
    str,
    typer.Option(
        "--dataset",
        help="A name (mnist, emnist-letters, fashion-mnist, ...), a folder of IDX files or of "
        "pictures by class, or a .csv, .parquet or .npz file: see docs/datasets.md.",
        autocompletion=complete_dataset,
    ),
]
FixOrientation = Annotated[
    bool,
    typer.Option("--fix-orientation", help="Turn digits that lie otherwise than MNIST's upright."),
]
Limit = Annotated[int | None, typer.Option(help="Train on this many images only: a quick try.")]
ResultsDir = Annotated[Path, typer.Option(help="Folder for models, records and charts.")]
Runs = Annotated[int, typer.Option(help="Repeats of each, with seeds seed, seed+1, ...")]
Timeout = Annotated[
    float | None, typer.Option(help="Seconds after which a run is stopped.", show_default="none")
]
QuietMachine = Annotated[
    bool,
    typer.Option(
        "--quiet-machine",
        help="Wait before each run until others take little of the machine; repeat a run once "
        "that they disturbed.",
    ),
]
ResumeRuns = Annotated[bool, typer.Option("--resume", help="Do only the runs that are missing.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
LOGS = ("csv", "jsonl", "mlflow", "tensorboard")
Log = Annotated[
    list[str] | None,
    choice(
        "--log",
        help=f"Also log curves, figures and pictures: {', '.join(LOGS)}; repeatable.",
        values=LOGS,
        show_default="none",
    ),
]
LogDir = Annotated[
    Path | None, typer.Option(help="Folder for logs.", show_default="logs in the results folder")
]
Runner = Annotated[
    str,
    choice(help="process: on this machine. ray: on the nodes of a cluster.", values=RUNNERS),
]
Address = Annotated[
    str | None,
    choice(
        help="Of the Ray cluster: auto, local (one for this call), ray://HOST:PORT or HOST:PORT.",
        values=("auto", "local", "ray://"),
        show_default="auto",
    ),
]
ShareNodes = Annotated[
    bool,
    typer.Option(
        "--share-nodes", help="Several runs at a time on a node: for accuracy, not for speed."
    ),
]
GpusPerRun = Annotated[
    int | None,
    typer.Option(help="GPUs of a node that each run has.", show_default="1 with --device cuda"),
]

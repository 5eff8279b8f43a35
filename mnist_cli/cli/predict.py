"""`mnist predict`: the digits in pictures."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mnist_cli.cli import options
from mnist_cli.cli.options import RESULTS
from mnist_cli.cli.output import require_png, say, say_written
from mnist_cli.cli.sources import find_sources, say_unread
from mnist_cli.errors import MnistError, UsageError

if TYPE_CHECKING:
    from mnist_cli.cli.predictions import PredictionPrinter
    from mnist_cli.cli.sources import Named
    from mnist_cli.errors import PictureError
    from mnist_cli.prediction import Prediction

_FEW_PICTURES = 8  # read in a moment: no progress bar
_MAX_PLOTTED = 6  # pictures in one plot


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
            autocompletion=options.complete_model,
        ),
    ] = None,
    framework: options.Framework = "numpy",
    single: options.Single = False,
    rotate: options.Rotate = "auto",
    show: Annotated[bool, typer.Option("--show", help="Draw the network's input.")] = False,
    save_plot: Annotated[
        Path | None,
        typer.Option(help="A PNG file for boxes, lines, prepared digits and probabilities."),
    ] = None,
    threads: options.Threads = None,
    device: options.Device = "auto",
    results_dir: Annotated[Path, typer.Option(help="Folder whose models have names.")] = RESULTS,
    as_csv: Annotated[bool, typer.Option("--csv", help="One line per picture.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Read the digits in pictures: photos, scans, drawings."""
    import warnings

    from mnist_cli import api
    from mnist_cli.cli.predictions import PredictionPrinter

    if as_csv and as_json:
        raise UsageError("--csv and --json exclude each other. Leave one out.")
    if save_plot is not None:
        require_png(save_plot)
    # Pillow warns of small faults in files; here a picture is read, or refused in one line.
    warnings.simplefilter("ignore")
    sources, failed = find_sources(files)
    reader = api.load_model(
        model, framework=framework, threads=threads, device=device, results_dir=results_dir
    )
    printer = PredictionPrinter(as_csv=as_csv, as_json=as_json, show=show)
    answers = reader.read((source for _, source in sources), single=single, rotate=rotate)
    plotted, unread = _print_answers(answers, sources, printer)
    if save_plot is not None and plotted:
        from mnist_cli.reporting.charts import reading

        reading.draw(plotted, save_plot, pictures=len(sources) - unread)
        say_written(save_plot)
    if failed or unread:
        raise typer.Exit(1)


def _print_answers(
    answers: Iterator[Prediction | PictureError], sources: list[Named], printer: PredictionPrinter
) -> tuple[list[tuple[str, str | bytes, Prediction]], int]:
    """Read and print every picture; return the first few, to plot, and how many failed."""
    import time

    plotted: list[tuple[str, str | bytes, Prediction]] = []
    unread = 0
    began = time.perf_counter()
    with _progress(len(sources)) as advance:
        for (name, source), answer in zip(sources, answers, strict=True):
            advance()
            if isinstance(answer, MnistError):
                unread += 1
                say_unread(name, answer)
                continue
            printer.print(name, answer)
            if len(plotted) < _MAX_PLOTTED:
                plotted.append((name, source, answer))
    printer.close()
    if len(sources) > 1:
        seconds = time.perf_counter() - began
        note = f"; {unread:,} could not be read" if unread else ""
        speed = f"{len(sources) / seconds:,.0f} per second"
        say(f"{len(sources):,} pictures in {seconds:.1f} s, {speed}{note}")
    return plotted, unread


def _progress(count: int) -> AbstractContextManager[Callable[[], None]]:
    """Return a progress bar on standard error, for a terminal and more than a few pictures."""
    if count <= _FEW_PICTURES or not sys.stderr.isatty():
        return nullcontext(lambda: None)
    from mnist_cli.reporting import console

    return console.reading_progress(count)

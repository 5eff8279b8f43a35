"""`mnist predict`: the digits in pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mnist_cli.cli import options
from mnist_cli.cli.options import RESULTS
from mnist_cli.cli.output import require_png, say_written
from mnist_cli.cli.sources import find_sources
from mnist_cli.errors import UsageError


def predict(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            help="Pictures, folders of them, patterns such as 'scans/*.png', pages such as "
            "scan.pdf#2; - is standard input."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A .safetensors file, or the name of one that mnist train wrote.",
            show_default="the one inside this package",
            autocompletion=options.complete_model,
        ),
    ] = None,
    framework: options.Framework = "numpy",
    clipboard: Annotated[
        bool, typer.Option("--clipboard", help="Read the picture on the clipboard.")
    ] = False,
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

    from mnist_cli.api import reading
    from mnist_cli.cli.predictions import PredictionPrinter, print_answers

    if as_csv and as_json:
        raise UsageError("--csv and --json exclude each other. Leave one out.")
    if not files and not clipboard:
        raise UsageError("Name a picture, a folder or a pattern; - is standard input.")
    if save_plot is not None:
        require_png(save_plot)
    # Pillow warns of small faults in files; here a picture is read, or refused in one line.
    warnings.simplefilter("ignore")
    sources, failed = find_sources(files or [], clipboard=clipboard)
    reader = reading.load_model(
        model, framework=framework, threads=threads, device=device, results_dir=results_dir
    )
    printer = PredictionPrinter(as_csv=as_csv, as_json=as_json, show=show)
    answers = reader.read((source for _, source in sources), single=single, rotate=rotate)
    plotted, unread = print_answers(answers, sources, printer)
    if save_plot is not None and plotted:
        from mnist_cli.reporting.charts import reading as chart

        chart.draw(plotted, save_plot, pictures=len(sources) - unread)
        say_written(save_plot)
    if failed or unread:
        raise typer.Exit(1)

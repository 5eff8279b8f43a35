"""`mnist submit`: predictions for Kaggle."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mnist_cli.cli import options
from mnist_cli.cli.options import RESULTS
from mnist_cli.cli.output import print_json, say_written


def submit(
    model: Annotated[
        str,
        typer.Argument(
            help="A .safetensors file, a name such as torch-cnn, or pretrained.",
            show_default=False,
            autocompletion=options.complete_model,
        ),
    ],
    images: Annotated[
        Path, typer.Argument(help="A CSV file of pixels, as Kaggle's test.csv.", show_default=False)
    ],
    output: Annotated[Path, typer.Option(help="The file to write.")] = Path("submission.csv"),
    threads: options.Threads = None,
    results_dir: options.ResultsDir = RESULTS,
    as_json: options.AsJson = False,
) -> None:
    """Predict the images of a CSV file, and write Kaggle's submission.csv."""
    from mnist_cli.api import submitting

    done = submitting.submit(model, images, output=output, threads=threads, results_dir=results_dir)
    if as_json:
        print_json(asdict(done))
        return
    typer.echo(f"{done.images:,} images predicted, {done.sure / done.images:.1%} of them sure")
    say_written(done.path)

"""`mnist import`: a model of another program."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mnist_cli.cli import options
from mnist_cli.cli.options import RESULTS
from mnist_cli.cli.output import print_json, say, say_written

PIXELS = ("mnist", "0-1", "0-255", "-1-1")


def import_file(
    file: Annotated[
        Path,
        typer.Argument(
            help="An .onnx, .keras or .h5 file, or a state_dict in .pt or .safetensors.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            help="The .safetensors file to write.", show_default="models in the results folder"
        ),
    ] = None,
    pixels: Annotated[
        str | None,
        options.choice(
            help="How pixels enter the file: mnist (mean 0.1307, std 0.3081), 0-1, 0-255, -1-1, or "
            "MEAN,STD.",
            values=PIXELS,
            show_default="by the file's framework",
        ),
    ] = None,
    arch: Annotated[
        str | None,
        typer.Option(
            help="The network of a state_dict, a name or a line.", show_default="inferred"
        ),
    ] = None,
    dataset: options.DatasetName = "mnist",
    threads: options.Threads = None,
    results_dir: options.ResultsDir = RESULTS,
    as_json: options.AsJson = False,
) -> None:
    """Read a model of PyTorch, Keras or ONNX; no code in it is run."""
    from mnist_cli.api.importing import import_model

    found = import_model(
        file,
        output=output,
        pixels=pixels,
        arch=arch,
        dataset=dataset,
        threads=threads,
        results_dir=results_dir,
    )
    for note in found.notes:
        say(note)
    if as_json:
        print_json(asdict(found))
        return
    typer.echo(f"{found.arch}: {found.line}")
    typer.echo(f"pixels: (pixel / 255 - {found.pixel_mean:g}) / {found.pixel_std:g}")
    typer.echo(f"test accuracy: {found.test_accuracy:.2%}")
    if found.largest_difference is None:
        say("The file has no graph to compare with: the accuracy is the evidence.")
    else:
        say(f"agrees with its own runtime to {found.largest_difference:.1g} on 1,000 digits")
    say_written(found.path)

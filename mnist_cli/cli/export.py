"""`mnist export`: a model in the formats of others."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mnist_cli.cli import options
from mnist_cli.cli.options import RESULTS
from mnist_cli.cli.output import print_json, say

FORMATS = ("onnx", "keras", "tflite", "torch", "huggingface")


def export(
    model: Annotated[
        str,
        typer.Argument(
            help="A .safetensors file, a name such as torch-cnn, or pretrained.",
            show_default=False,
            autocompletion=options.complete_model,
        ),
    ],
    to: Annotated[
        list[str],
        options.choice(
            "--to", help=f"{', '.join(FORMATS)}; repeatable.", values=FORMATS, show_default=False
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            help="The file or folder to write; for several formats the folder for all.",
            show_default="exports in the results folder",
        ),
    ] = None,
    raw: Annotated[
        bool,
        typer.Option("--raw", help="Take normalised images and give logits, not probabilities."),
    ] = False,
    threads: options.Threads = None,
    results_dir: options.ResultsDir = RESULTS,
    as_json: options.AsJson = False,
) -> None:
    """Write a model for other programs, each file compared with it before it is kept."""
    from mnist_cli.api.exporting import export_model

    written = export_model(
        model, to, output=output, raw=raw, threads=threads, results_dir=results_dir
    )
    if as_json:
        print_json([asdict(each) for each in written])
        return
    for each in written:
        typer.echo(f"{each.format}: {each.path}, {each.size_bytes / 1e6:,.2f} MB")
        say(f"its logits of 1,000 digits differ by at most {each.largest_difference:.1g}")

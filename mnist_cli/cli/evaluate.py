"""`mnist evaluate`: a saved model on the test set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mnist_cli.cli import options
from mnist_cli.cli.options import RESULTS
from mnist_cli.cli.output import print_json, say_written


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="A .safetensors file, or a name such as torch-cnn.",
            autocompletion=options.complete_model,
        ),
    ],
    framework: Annotated[
        str | None,
        typer.Option(
            help="Which framework computes it.",
            show_default="the one that trained it",
            autocompletion=options.complete_framework,
        ),
    ] = None,
    dataset: options.DatasetName = "mnist",
    threads: options.Threads = None,
    device: options.Device = "auto",
    results_dir: options.ResultsDir = RESULTS,
    as_json: options.AsJson = False,
) -> None:
    """Test a saved model, in any framework, and draw its errors."""
    from mnist_cli.api import training
    from mnist_cli.reporting import console

    evaluation = training.evaluate(
        model,
        framework=framework,
        dataset=dataset,
        threads=threads,
        device=device,
        results_dir=results_dir,
    )
    if as_json:
        print_json(evaluation.to_json())
    else:
        console.stdout().print(console.evaluation_table(evaluation.to_json()))
        say_written(*training.evaluation_files(results_dir, Path(evaluation.checkpoint)))

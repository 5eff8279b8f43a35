"""`mnist data`: what is in a data set."""

from __future__ import annotations

from typing import Annotated

import typer

from mnist_cli.cli import options
from mnist_cli.cli.options import RESULTS
from mnist_cli.cli.output import print_json, print_lines, say_written


def data(
    dataset: Annotated[
        str,
        typer.Argument(
            help="A name, such as mnist or emnist-letters, or a path: see docs/datasets.md.",
            show_default=False,
            autocompletion=options.complete_dataset,
        ),
    ],
    fix_orientation: options.FixOrientation = False,
    results_dir: options.ResultsDir = RESULTS,
    as_json: options.AsJson = False,
) -> None:
    """Show a data set: samples, classes, pixels, duplicates, and which way its digits lie."""
    from mnist_cli.api import inspecting
    from mnist_cli.reporting import console, data_summary

    summary = inspecting.inspect_data(
        dataset, fix_orientation=fix_orientation, results_dir=results_dir
    )
    chart = inspecting.data_chart(results_dir, dataset)
    if as_json:
        print_json({**summary.to_json(), "chart": str(chart)})
        return
    out = console.stdout()
    out.print(data_summary.table(summary.to_json()))
    print_lines(out, data_summary.lines(summary.to_json()))
    say_written(chart)

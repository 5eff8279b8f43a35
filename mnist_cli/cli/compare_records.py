"""`mnist compare-records`: two machines' comparisons side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mnist_cli.cli import options
from mnist_cli.cli.output import print_json, print_lines


def compare_records(
    first: Annotated[
        Path, typer.Argument(help="A record of 'mnist compare' or 'mnist sweep-batch'.")
    ],
    second: Annotated[Path, typer.Argument(help="Another, as a rule of another machine.")],
    as_json: options.AsJson = False,
) -> None:
    """Set two comparisons side by side: accuracy, time, and how their machines differ."""
    from mnist_cli.api import results
    from mnist_cli.reporting import console, stored

    comparison = results.compare_records(first, second)
    if as_json:
        print_json(comparison)
        return
    out = console.stdout()
    print_lines(out, stored.files_lines(comparison))
    if comparison["cells"]:
        out.print(console.machines_table(comparison))
    print_lines(out, stored.machines_lines(comparison))
    if comparison["environment"]:
        out.print(console.differences_table(comparison["environment"]))
    else:
        out.print("The machines differ in nothing recorded.")

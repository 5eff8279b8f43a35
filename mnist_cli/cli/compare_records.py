"""`mnist compare-records`: two machines' comparisons side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mnist_cli.cli import options
from mnist_cli.cli.output import print_json


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
    for line in stored.files_lines(comparison):
        out.print(line, markup=False, highlight=False, soft_wrap=not out.is_terminal)
    if comparison["cells"]:
        out.print(console.machines_table(comparison))
    for line in stored.machines_lines(comparison):
        out.print(line, markup=False, highlight=False, soft_wrap=not out.is_terminal)
    if comparison["environment"]:
        out.print(console.differences_table(comparison["environment"]))
    else:
        out.print("The machines differ in nothing recorded.")

"""`mnist results`: the runs that are in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mnist_cli.cli import options
from mnist_cli.cli.options import RESULTS
from mnist_cli.cli.output import print_json, say
from mnist_cli.config import NETWORKS, SORTS


def results(
    folder: Annotated[Path, typer.Argument(help="A folder of records and models.")] = RESULTS,
    sort: Annotated[
        str,
        options.choice(
            help=f"{', '.join(SORTS)}: the newest, most accurate or fastest first.", values=SORTS
        ),
    ] = "date",
    reverse: Annotated[bool, typer.Option("--reverse", help="The other way round.")] = False,
    framework: Annotated[
        str | None,
        typer.Option(
            help="Only runs of this framework.",
            show_default="all",
            autocompletion=options.complete_framework,
        ),
    ] = None,
    arch: Annotated[
        str | None,
        options.choice(
            help="Only runs of the network of this name.", values=NETWORKS, show_default="all"
        ),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """List the runs in a folder's records and models."""
    from mnist_cli.api.results import list_results
    from mnist_cli.reporting import console

    found = list_results(folder, sort=sort, reverse=reverse, framework=framework, arch=arch)
    for problem in found.problems:
        say(f"Skipped: {problem}")
    if as_json:
        print_json(found.to_json())
    else:
        out = console.stdout()
        out.print(console.stored_runs_table(found.runs, width=out.width))

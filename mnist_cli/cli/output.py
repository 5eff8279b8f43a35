"""What commands print: notes on standard error, results on standard output."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mnist_cli.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from mnist_cli.reporting.comparison import Comparison


def say(text: str) -> None:
    """Print a note on standard error."""
    typer.echo(text, err=True)


def say_written(*paths: Path | str) -> None:
    """Name the files that were written."""
    for path in paths:
        say(f"written: {path}")


def print_json(document: Any) -> None:
    """Print the one JSON document of a command."""
    typer.echo(json.dumps(document, indent=1))


def print_lines(out: Console, lines: Iterable[str]) -> None:
    """Print sentences: a terminal wraps them between words, a file or a pipe gets whole lines."""
    for line in lines:
        out.print(line, markup=False, highlight=False, soft_wrap=not out.is_terminal)


def show_comparison(comparison: Comparison) -> None:
    """Print table, warnings and verdicts of a comparison or sweep."""
    from mnist_cli.reporting import console
    from mnist_cli.reporting.verdicts import network_lines

    out = console.stdout()
    out.print(console.experiment_table(comparison.document))
    lines = [*network_lines(comparison.document), *comparison.warnings(), *comparison.verdicts()]
    print_lines(out, lines)


def finish_experiment(comparison: Comparison, results_dir: Path, *, as_json: bool) -> None:
    """Print a comparison or sweep and its files; exit with 1 if a run failed."""
    if as_json:
        print_json(comparison.to_json())
        for line in comparison.warnings():
            say(line)
    else:
        show_comparison(comparison)
        say_written(*comparison.files)
        models = results_dir / "models"
        if models.is_dir() and not comparison.is_sweep:
            say(f"models in: {models}")
    if comparison.failures:
        raise typer.Exit(1)


def require_png(path: Path) -> None:
    """Raise `UsageError` or `OutputError`, before a long job, if no chart can be written."""
    from mnist_cli.records import require_writable

    if path.suffix.lower() != ".png":
        raise UsageError(f"--save-plot draws a PNG: give a name that ends in .png, not {path}.")
    require_writable(path.parent, option="--save-plot")
    with suppress(OSError):  # a name too long: writing to it will report that
        if path.is_dir():
            raise UsageError(f"--save-plot must be a file, not the folder {path}.")

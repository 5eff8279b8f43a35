"""`mnist collect`: your own handwriting as a data set."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from mnist_cli.cli import options
from mnist_cli.cli.output import print_json, say, say_written
from mnist_cli.cli.sources import find_sources, say_unread
from mnist_cli.errors import PictureError, UsageError


def collect(
    sheets: Annotated[
        list[str] | None,
        typer.Argument(help="Photos or scans of filled-in sheets, as predict takes them."),
    ] = None,
    template: Annotated[
        Path | None,
        typer.Option(help="Write the empty sheet to print, a PDF or PNG file, and nothing else."),
    ] = None,
    folder: Annotated[Path, typer.Option(help="Folder for the digits, in folders 0 to 9.")] = Path(
        "my-digits"
    ),
    as_json: options.AsJson = False,
) -> None:
    """Cut filled-in sheets of your own digits into a data set for mnist train --dataset."""
    from mnist_cli.api import collecting
    from mnist_cli.pictures.template import SUFFIXES, draw_template

    if (template is None) == (not sheets):
        raise UsageError("Name a photo of a filled-in sheet, or --template sheet.pdf to print one.")
    if template is not None:
        if template.suffix.lower() not in SUFFIXES:
            raise UsageError(f"--template must end in {' or '.join(SUFFIXES)}, not {template}.")
        draw_template(template)
        say_written(template)
        return
    sources, failed = find_sources(sheets or [])
    found = []
    for name, source in sources:
        try:
            written = collecting.collect(source, folder)
        except PictureError as error:
            failed += 1
            say_unread(name, error)
            continue
        counts = Counter(path.parent.name for path in written)
        found.append({"file": name, "digits": dict(sorted(counts.items()))})
        if not as_json:
            each = ", ".join(f"{digit}: {counts[digit]}" for digit in map(str, range(10)))
            typer.echo(f"{name}: {len(written)} digits  ({each})")
    if as_json:
        print_json({"folder": str(folder), "sheets": found})
    elif found:
        say(f"Next: mnist train --from pretrained --dataset {folder} --framework numpy")
    if failed:
        raise typer.Exit(1)

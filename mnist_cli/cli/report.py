"""`mnist report`: charts, tables and the page, drawn again from the records."""

from __future__ import annotations

from typing import Annotated

import typer

from mnist_cli.cli import options
from mnist_cli.cli.options import RESULTS
from mnist_cli.cli.output import print_json, say, say_written, show_comparison
from mnist_cli.config import require_choice

FORMATS = ("table", "markdown", "csv", "json")


def report(
    results_dir: options.ResultsDir = RESULTS,
    output_format: Annotated[
        str, options.choice("--format", help="table, markdown, csv or json.", values=FORMATS)
    ] = "table",
    as_json: options.AsJson = False,
) -> None:
    """Draw every chart and table again from the records, and write report.html."""
    from mnist_cli.records import require_writable
    from mnist_cli.reporting import results, tables
    from mnist_cli.reporting.comparison import Comparison

    require_choice("format", output_format, FORMATS)
    documents = results.load_documents(results_dir)
    require_writable(results_dir)
    written = results.draw_report(documents, results_dir)
    if not documents:
        say(f"No comparison and no sweep in {results_dir}: there is a chart, but no table.")
    if as_json or output_format == "json":
        print_json(documents)
    elif output_format == "table":
        for document in documents.values():
            show_comparison(Comparison(dict(document)))
    else:
        text = tables.as_markdown if output_format == "markdown" else tables.as_csv
        typer.echo("\n".join(text(document) for document in documents.values()), nl=False)
    say_written(*written)

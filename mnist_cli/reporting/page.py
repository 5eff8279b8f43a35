"""The page `report.html`: every table, verdict and chart in one self-contained file."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from mnist_cli.experiments.plan import COMPARISON, SWEEP
from mnist_cli.names import model_name
from mnist_cli.reporting.tables import Document, caption, table, warning_lines
from mnist_cli.reporting.verdicts import network_lines, verdicts

TITLES = {
    COMPARISON: "Comparison of frameworks and networks",
    SWEEP: "Comparison of batch sizes",
}


def render_page(documents: Mapping[str, Document], charts: Sequence[tuple[Path, str]]) -> str:
    """Return the page as HTML that loads nothing from elsewhere.

    ``documents`` by the name of their experiment; ``charts`` are PNG files with a description.
    """
    parts = []
    for name, document in documents.items():
        parts += [f"<h2>{TITLES[name]}</h2>", document_html(document)]
    parts.append("<h2>Charts</h2>")
    for path, description in charts:
        image = base64.b64encode(path.read_bytes()).decode("ascii")
        parts.append(
            f'<figure><img alt="{html.escape(path.stem)}" src="data:image/png;base64,{image}">'
            f"<figcaption>{description}</figcaption></figure>"
        )
    return _PAGE.format(body="\n".join(parts))


def document_html(document: Document) -> str:
    """Return caption, warnings, table, lines, verdicts and failures of a document as HTML."""
    parts = [f"<p>{html.escape(caption(document))}</p>"]
    parts += [f"<p><strong>{html.escape(line)}</strong></p>" for line in warning_lines(document)]
    parts.append(table_html(*table(document)))
    if lines := [*network_lines(document), *verdicts(document)]:
        parts += ["<ul>", *(f"<li>{html.escape(line)}</li>" for line in lines), "</ul>"]
    for failure in document["failures"]:
        model = model_name(failure["framework"], failure["arch"])
        parts.append(f"<p>{html.escape(model)} failed: {html.escape(failure['error'])}</p>")
    return "\n".join(parts)


def table_html(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, is_html: bool = False
) -> str:
    """Return a table as HTML; ``is_html`` says that cells are HTML already, not text."""
    if not is_html:
        rows = [[html.escape(cell) for cell in row] for row in rows]
    lines = [_row("th", header), *(_row("td", row) for row in rows)]
    return "<table>" + "\n".join(lines) + "</table>"


def _row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>"


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>mnist report</title>
<style>
body {{ font: 16px/1.5 sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; font-size: 0.85rem; }}
th, td {{ padding: 0.25rem 0.6rem; text-align: right; border-bottom: 1px solid #ddd; }}
th:nth-child(-n+2), td:nth-child(-n+2) {{ text-align: left; }}
img {{ width: 100%; }}
figure {{ margin: 2rem 0; }}
figcaption {{ color: #555; }}
</style>
<h1>mnist report</h1>
{body}
</html>
"""

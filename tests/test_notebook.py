"""The notebook in docs/ runs from top to bottom, in a kernel, as a reader would run it."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebook.ipynb"


@pytest.mark.slow
def test_the_notebook_runs_and_shows_tables_and_charts(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) >= 10
    shown = [
        kind
        for cell in cells
        for output in cell.outputs
        if output.output_type == "execute_result"
        for kind in output.data
    ]
    assert shown.count("image/png") >= 4  # a training, a confusion matrix, two comparisons
    assert shown.count("text/html") >= 3  # a record, a prediction, a comparison

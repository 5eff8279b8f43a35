"""A comparison or sweep as an object: its records, table, verdicts and chart."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnist_cli.experiments.document import records_of
from mnist_cli.experiments.plan import COMPARISON, SWEEP
from mnist_cli.records import RunRecord
from mnist_cli.reporting.notebook import Chart, chart
from mnist_cli.reporting.tables import as_markdown_table, caption, is_sweep, warning_lines
from mnist_cli.reporting.verdicts import network_lines, verdicts


@dataclass(frozen=True)
class Comparison:
    """The result of `compare` or `sweep_batch`.

    ``document`` is what the commands write as JSON. ``files`` are those that were written, the
    document first.
    """

    document: dict[str, Any]
    files: tuple[Path, ...] = ()

    @property
    def name(self) -> str:
        """The name of its files: ``comparison_results`` or ``batch_size_comparison``."""
        return SWEEP if self.is_sweep else COMPARISON

    @property
    def is_sweep(self) -> bool:
        """Whether it compares batch sizes."""
        return is_sweep(self.document)

    @property
    def runs(self) -> list[RunRecord]:
        """The record of each finished run."""
        return records_of(self.document)

    @property
    def failures(self) -> list[dict[str, Any]]:
        """Framework, arch, batch size, seed and error of each run that failed."""
        return list(self.document["failures"])

    def table(self) -> str:
        """Return the summary as a Markdown table."""
        return as_markdown_table(self.document)

    def verdicts(self) -> list[str]:
        """Return a sentence for each pair of frameworks, and on the networks of each framework."""
        return verdicts(self.document)

    def warnings(self) -> list[str]:
        """Return a line for each way in which the machine spoilt the runs."""
        return warning_lines(self.document)

    def plot(self) -> Chart:
        """Draw the main chart. Raises `UsageError` if no run has finished."""
        from mnist_cli.reporting.results import CHARTS

        module, *_ = CHARTS[self.name]
        return chart(lambda path: module.draw(self.runs, path, failures=self.failures))

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as JSON values."""
        return self.document

    def __repr__(self) -> str:
        """Return caption, table, lines of layers, warnings and verdicts as text."""
        lines = [*network_lines(self.document), *self.warnings(), *self.verdicts()]
        return "\n".join([caption(self.document), "", self.table(), "", *lines])

    def _repr_html_(self) -> str:
        from mnist_cli.reporting.page import document_html

        return document_html(self.document)

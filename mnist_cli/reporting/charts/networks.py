"""The chart of a comparison of networks: a small panel for each, and a row for each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from mnist_cli.experiments.statistics import statistic
from mnist_cli.records import RunRecord
from mnist_cli.reporting.charts.captions import (
    dataset_names,
    experiment_caption,
    listed,
    three_digits,
)
from mnist_cli.reporting.charts.panels import (
    accuracy_interval,
    draw_curve,
    fit_accuracy_scale,
    fit_scale,
    label_panel,
    write_beside,
)
from mnist_cli.reporting.charts.style import (
    FAINT,
    INK,
    Cell,
    figure_with_legend,
    group_by_cell,
    save,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 3  # of small panels
_SPREAD = 0.5  # of a row's height, taken by the frameworks in it


def draw(
    records: Sequence[RunRecord], path: Path, *, failures: Iterable[Mapping[str, Any]] = ()
) -> None:
    """Draw any number of networks: accuracy by epoch, final accuracy, time, and size.

    ``failures`` have ``framework`` and ``arch``; the caption names them.
    """
    # Each network has panels and rows of its own, so that all lines can be full ones.
    cells = [replace(cell, line_style="-") for cell in group_by_cell(records)]
    networks = list(dict.fromkeys(cell.network for cell in cells))
    title = (
        f"{len(networks)} networks in {listed(sorted(cell.framework for cell in cells))}, "
        f"trained on {dataset_names(records)}"
    )
    strips = math.ceil(len(networks) / _COLUMNS)
    height = 1.5 + 0.36 * len(networks)
    figure, rows = figure_with_legend(
        title, cells, [2.5] * strips + [height] * 2, is_by_network=False
    )
    curves = [
        panel
        for number, row in enumerate(rows[:strips])
        for panel in _small_panels(row, networks[number * _COLUMNS :][:_COLUMNS])
    ]
    for panel, network in zip(curves, networks, strict=True):
        for cell in cells:
            if cell.network == network:
                draw_curve(panel, cell, "test_accuracy")
        fit_accuracy_scale(panel.yaxis)
    low = min(panel.get_ylim()[0] for panel in curves)
    high = max(panel.get_ylim()[1] for panel in curves)
    for panel in curves:
        panel.set_ylim(low, high)
    (accuracy, seconds), (parameters, operations) = (row.subplots(1, 2) for row in rows[strips:])
    several = any(len(cell.runs) > 1 for cell in cells)
    title = f"Final test accuracy{', 95% interval' * several}"
    label_panel(accuracy, title, "test accuracy, %")
    _accuracies(accuracy, cells, networks)
    fit_accuracy_scale(accuracy.xaxis)
    label_panel(seconds, "Training time", "training seconds, without evaluation")
    _dots(seconds, cells, networks, lambda cell: (fmean(cell.values("train_seconds")), None))
    label_panel(parameters, "Size", "trainable parameters")
    _bars(parameters, cells, networks, "parameters")
    label_panel(operations, "Work", "operations per image")
    _bars(operations, cells, networks, "operations")
    for panel in (seconds, parameters, operations):
        fit_scale(panel.xaxis)
    for panel in (parameters, operations):
        panel.xaxis.set_major_formatter(lambda value, _: _short_number(value))
    for panel in (seconds, operations):
        panel.set_yticklabels([])  # the names are on the left
    notes = ["points and lines: mean of runs"] * several
    save(figure, path, experiment_caption(records, notes, failures))


def _small_panels(row: Any, networks: Sequence[str]) -> list[Axes]:
    """Return a panel for each network of a row, named, the first with an axis label."""
    panels: list[Axes] = list(row.subplots(1, _COLUMNS))
    for unused in panels[len(networks) :]:
        unused.set_visible(False)
    for panel, network in zip(panels, networks, strict=False):
        label_panel(panel, network, "epoch", "test accuracy, %" * (panel is panels[0]))
    return panels[: len(networks)]


def _accuracies(panel: Axes, cells: Sequence[Cell], networks: Sequence[str]) -> None:
    """Draw the mean final test accuracy of each cell with its 95% interval."""

    def figures(cell: Cell) -> tuple[float, list[list[float]] | None]:
        found = statistic(cell.values("test_accuracy"))
        return found["mean"], accuracy_interval(found)

    _dots(panel, cells, networks, figures)


def _dots(
    panel: Axes,
    cells: Sequence[Cell],
    networks: Sequence[str],
    figures: Callable[[Cell], tuple[float, list[list[float]] | None]],
) -> None:
    """Draw a point for each cell in its network's row, frameworks below one another.

    ``figures`` returns its mean and, if there is one, how far its interval reaches to either side.
    """
    frameworks = list(dict.fromkeys(cell.framework for cell in cells))
    for cell in cells:
        place = frameworks.index(cell.framework) - (len(frameworks) - 1) / 2
        mean, interval = figures(cell)
        panel.errorbar(
            mean,
            networks.index(cell.network) + _SPREAD * place / len(frameworks),
            xerr=interval,
            color=cell.look.color,
            marker=cell.look.marker,
            markersize=7,
            capsize=3,
            elinewidth=1.5,
            clip_on=False,
        )
    _name_rows(panel, networks)


def _bars(panel: Axes, cells: Sequence[Cell], networks: Sequence[str], field: str) -> None:
    """Draw what is the same in every framework: a point for each network, with its number."""
    values = {cell.network: getattr(cell.runs[0], field) for cell in cells}
    for row, network in enumerate(networks):
        value = values[network]  # None in an older record
        panel.plot(math.nan if value is None else value, row, "o", color=INK, markersize=7)
        text = "not known" if value is None else _short_number(value)
        write_beside(panel, row, text, color=FAINT)
    _name_rows(panel, networks)


def _name_rows(panel: Axes, networks: Sequence[str]) -> None:
    panel.set_yticks(range(len(networks)), list(networks))
    panel.set_ylim(len(networks) - 0.5, -0.5)
    panel.tick_params(axis="y", length=0)


def _short_number(value: float) -> str:
    """Return ``9,999``, ``421 k`` or ``8.53 M``."""
    if value < 10_000:
        return f"{value:,.0f}"
    return f"{three_digits(value / 1e3)} k" if value < 1e6 else f"{three_digits(value / 1e6)} M"

"""Lines, scales, ticks and labels of a panel: what several charts draw."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from mnist_cli.arrays import Array
from mnist_cli.records import RunRecord
from mnist_cli.reporting.charts.style import (
    FAINT,
    FONT_POINTS,
    GRID,
    HOLLOW,
    INK,
    NAME_CHARACTERS,
    PANEL_TITLE_POINTS,
    Cell,
    shortened,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import XAxis, YAxis

    Axis: TypeAlias = XAxis | YAxis

WHISKERS = "whiskers: minimum and maximum of runs"


def label_panel(panel: Axes, title: str, x_label: str, y_label: str = "") -> None:
    """Set title, axis labels, grid and colours of a panel."""
    panel.set_title(title, loc="left", fontsize=PANEL_TITLE_POINTS, color=INK, pad=10)
    panel.set_xlabel(x_label, fontsize=FONT_POINTS, color=INK)
    panel.set_ylabel(y_label, fontsize=FONT_POINTS, color=INK)
    panel.tick_params(labelsize=FONT_POINTS, color=FAINT, labelcolor=INK)
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(FAINT)
    panel.grid(color=GRID, linewidth=0.8)
    panel.set_axisbelow(True)


def draw_line(
    panel: Axes,
    cell: Cell,
    xs: Sequence[float],
    ys: Sequence[float],
    *,
    label: str = "",
    linewidth: float = 0,
    **style: Any,
) -> None:
    """Draw a line in the style of ``cell``, labelled at its end; ``style`` goes to Matplotlib."""
    width = linewidth or cell.look.line_width
    usual: dict[str, Any] = {
        "color": cell.look.color,
        "linestyle": cell.line_style,
        "marker": cell.look.marker,
        "markersize": 3.5 + 1.6 * width,
        "markevery": math.ceil(len(ys) / 12),
        "markeredgecolor": "white",
        "markeredgewidth": 0.7,
        "clip_on": False,
        "zorder": 4 - width / 10,
    }
    (line,) = panel.plot(xs, ys, linewidth=width, **usual | (HOLLOW if cell.hollow else {}) | style)
    if label:
        arrow = {"arrowstyle": "-", "color": line.get_color(), "linewidth": 1.0}
        panel.annotate(
            label,
            (xs[-1], ys[-1]),
            (1.07, 0.5),
            textcoords="axes fraction",
            va="center",
            fontsize=FONT_POINTS,
            color=INK,
            annotation_clip=False,
            arrowprops={**arrow, "relpos": (0, 0.5), "shrinkA": 0, "shrinkB": 5},
        )


def draw_curve(panel: Axes, cell: Cell, field: str, **style: Any) -> None:
    """Draw an `EpochRecord` field by epoch, averaged over runs; ``style`` goes to `draw_line`."""
    from matplotlib.ticker import MaxNLocator

    ys = cell.curve(field)
    draw_line(panel, cell, range(1, len(ys) + 1), ys, **style)
    epochs = int(drawn_values(panel.xaxis).max())
    pad = 0.5 if epochs == 1 else min(0.03 * (epochs - 1), 0.45)
    panel.set_xlim(1 - pad, epochs + pad)
    panel.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))


def draw_by_number(
    panel: Axes, cells: Sequence[Cell], field: str, value: Callable[[RunRecord], float | None]
) -> None:
    """Draw the mean of ``value`` over runs against ``field``, with whiskers from min to max.

    Where no run has a value, a cross in the framework's colour is drawn above the panel.
    """
    missing: list[tuple[Cell, int]] = []
    for cell in cells:
        found: dict[int, list[float]] = {number: [] for number in numbers_of(cell.runs, field)}
        for run in cell.runs:
            if (result := value(run)) is not None:
                found[number_of(run, field)].append(result)
        means = [fmean(results) if results else math.nan for results in found.values()]
        draw_line(panel, cell, list(found), means, markevery=1)
        for number, results in found.items():
            if not results:
                missing.append((cell, number))
            if len(results) > 1:
                ends = [min(results), max(results)]
                panel.plot([number, number], ends, "_-", color=cell.look.color, markersize=7)
    _doubling_axis(panel, numbers_of([run for cell in cells for run in cell.runs], field))
    _mark_missing(panel, cells, missing)


def number_of(record: RunRecord, field: str) -> int:
    """Return an integer field of a record, or the number of threads of its environment."""
    return int(record.environment["threads"] if field == "threads" else getattr(record, field))


def numbers_of(records: Iterable[RunRecord], field: str) -> list[int]:
    """Return the distinct values of `number_of`, ascending."""
    return sorted({number_of(record, field) for record in records})


def _doubling_axis(panel: Axes, sizes: Sequence[int]) -> None:
    """Use a log-2 scale with a tick at each size; label from the largest down where it fits."""
    from matplotlib.ticker import NullLocator

    pad = 2**0.5 * (sizes[-1] / sizes[0]) ** 0.01
    panel.set_xscale("log", base=2)
    panel.set_xlim(sizes[0] / pad, sizes[-1] * pad)
    inches = 3.6 / math.log2(sizes[-1] / sizes[0] * pad * pad)  # per doubling
    names: list[str] = []
    edge = math.inf
    for size in reversed(sizes):
        half = (0.32 * len(f"{size}") + 0.3) * FONT_POINTS / 72 / inches
        fits = math.log2(size) + half <= edge
        names.append(f"{size}" if fits else "")
        edge = math.log2(size) - half if fits else edge
    panel.set_xticks(sizes, names[::-1])
    panel.xaxis.set_minor_locator(NullLocator())


def _mark_missing(panel: Axes, cells: Sequence[Cell], missing: Sequence[tuple[Cell, int]]) -> None:
    """Mark sizes without a value above the panel: one row per network, frameworks side by side."""
    from matplotlib.transforms import ScaledTranslation

    networks = list(dict.fromkeys(cell.network for cell, _ in missing))[::-1]
    heights = {network: 11 + 15 * row for row, network in enumerate(networks)}
    panel.set_title(panel.get_title("left"), loc="left", pad=10 + 16 * len(networks))
    for network, height in heights.items():
        panel.annotate(
            f"{network} not reached"
            if len(network) < NAME_CHARACTERS
            else f"{shortened(network)} ✗",
            (0, 1),
            (-4, height),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=FONT_POINTS,
            color=INK,
        )
    for cell, size in missing:
        row = [each for each in cells if each.network == cell.network]
        gap = min(11, 220 / len(panel.get_xticks()) / len(row))
        x_points = gap * (row.index(cell) - (len(row) - 1) / 2)
        y_points = heights[cell.network]
        offset = ScaledTranslation(x_points / 72, y_points / 72, panel.figure.dpi_scale_trans)
        place = panel.get_xaxis_transform() + offset
        panel.scatter(
            size,
            1,
            45,
            color=cell.look.color,
            marker="x",
            linewidths=2.2,
            transform=place,
            clip_on=False,
        )


def row_positions(cells: Sequence[Cell]) -> list[float]:
    """Return the y position of each cell's row, with a gap where the network changes."""
    networks = list(dict.fromkeys(cell.network for cell in cells))
    return [row + 0.5 * networks.index(cell.network) for row, cell in enumerate(cells)]


def label_rows(panel: Axes, cells: Sequence[Cell], texts: Sequence[str]) -> None:
    """Label each row with its model on the left and its value on the right."""
    rows = row_positions(cells)
    panel.set_yticks(rows, [cell.name for cell in cells])
    pad = 0.6 + max(4 - rows[-1], 0) / 2  # so that few bars do not become too thick
    panel.set_ylim(rows[-1] + pad, -pad)
    panel.grid(visible=False, axis="y")
    panel.tick_params(axis="y", length=0)
    for row, text in zip(rows, texts, strict=True):
        write_beside(panel, row, text, color=INK)


def write_beside(panel: Axes, row: float, text: str, *, color: str) -> None:
    """Write a value on the right of a panel, at the height of ``row``."""
    panel.annotate(
        text,
        (1, row),
        (16, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        va="center",
        fontsize=FONT_POINTS,
        color=color,
    )


def drawn_values(axis: Axis) -> Array:
    """Return the finite coordinates along an axis of all lines in its panel."""
    lines = [getattr(line, f"get_{axis.axis_name}data")() for line in axis.axes.lines]
    values: Array = np.concatenate([np.asarray(line, dtype=float) for line in lines])
    return values[np.isfinite(values)]


def fit_scale(axis: Axis) -> None:
    """Use a log scale if the values span a factor of 10 or more, else a linear one from 0."""
    from matplotlib.ticker import LogLocator, NullLocator

    values = drawn_values(axis)
    use_few_ticks(axis)
    if not values.size:
        axis.set_ticks([])
    elif 0 < 10 * values.min() <= values.max():
        name, label = axis.axis_name, axis.get_label_text()
        axis.axes.set(**{f"{name}scale": "log", f"{name}label": f"{label}, log scale"})
        decades = math.log10(values.max() / values.min())
        subs = (1, 2, 5) if decades < 1.5 else (1, 3) if decades < 3.5 else (1,)
        axis.set_major_locator(LogLocator(subs=subs, numticks=8))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter("{x:,g}")
    else:
        axis.axes.set(**{f"{axis.axis_name}lim": (0, None)})


def fit_accuracy_scale(axis: Axis) -> None:
    """Use `accuracy_limits` of the values drawn along an axis."""
    axis.axes.set(**{f"{axis.axis_name}lim": accuracy_limits(drawn_values(axis))})
    use_few_ticks(axis)


def accuracy_limits(percents: Sequence[float] | Array) -> tuple[float, float]:
    """Return axis limits close around the values, in percent, within 0-100."""
    low, high = min(percents), max(percents)
    pad = max(0.08 * (high - low), 0.1)
    return max(low - pad, 0.0), min(high + pad, 100.0)


def accuracy_interval(figures: Mapping[str, Any]) -> list[list[float]] | None:
    """Return the half-widths of a `statistic` in percent, below and above, that lie in 0-100.

    Of two runs that differ much the interval is wider than that, and would be drawn off the page.
    """
    if figures["ci95"] is None:
        return None
    return [
        [min(figures["ci95"], figures["mean"])],
        [min(figures["ci95"], 100 - figures["mean"])],
    ]


def use_few_ticks(axis: Axis) -> None:
    """Use at most 4 ticks on an x axis and 6 on a y axis, with thousands separators."""
    from matplotlib.ticker import MaxNLocator

    most = 4 if axis.axis_name == "x" else 6
    axis.set_major_locator(MaxNLocator(nbins=most, steps=[1, 2, 5, 10]))
    axis.set_major_formatter("{x:,g}")

"""Records to PNG files. Charts read records and arrays and nothing else.

Every chart is 1600 pixels wide and drawn to be read at half that. A framework has one colour and
one marker everywhere, an architecture one line style, so that nothing is told by colour alone.
Matplotlib is imported when a chart is drawn, and its global state is left alone.
"""

from __future__ import annotations

import math
import statistics
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from mnist_cli.architectures import CLASSES, Array
from mnist_cli.config import ARCHITECTURES
from mnist_cli.errors import UsageError
from mnist_cli.records import RunRecord, replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.lines import Line2D
    from matplotlib.text import Annotation
    from numpy.typing import ArrayLike

LineStyle: TypeAlias = Literal["-", "--", ":", "-."]

WIDTH_INCHES = 10.0
DPI = 160
FONT_POINTS = 11.0
PANEL_TITLE_POINTS = 12.5
TITLE_POINTS = 15.0
CAPTION_CHARACTERS = 118
TITLE_CHARACTERS = 70
NAME_CHARACTERS = 14

INK = "#222222"
FAINT = "#6B6B6B"
GRID = "#E3E3E3"
RIGHT = "#00796B"
WRONG = "#C62828"

KEY_COLUMNS = 5
GRID_SAMPLES = 40
GRID_COLUMNS = 8


@dataclass(frozen=True)
class Look:
    """How a framework is drawn, in every chart."""

    color: str
    marker: str


# Told apart by the colour-blind (blues against vermilion) and in grey: the lightness L* is
# 17, 62 and 41. The spares keep 6 or more from these and from each other.
LOOKS: Mapping[str, Look] = {
    "numpy": Look("#17245C", "^"),
    "tensorflow": Look("#349EDA", "s"),
    "torch": Look("#AD360A", "o"),
}
SPARE_LOOKS = (
    Look("#571F72", "D"),
    Look("#1F8A4C", "v"),
    Look("#D4A017", "P"),
    Look("#5E4A3A", "X"),
)
LINE_STYLES: Mapping[str, LineStyle] = {"cnn": "-", "mlp": "--", "mlp sigmoid": ":"}


@dataclass(frozen=True)
class Cell:
    """All runs of one framework and one architecture."""

    framework: str
    arch: str
    look: Look
    runs: tuple[RunRecord, ...]

    @property
    def name(self) -> str:
        """``torch cnn``, shortened to fit an axis."""
        return f"{_short(self.framework)} {self.arch}"

    @property
    def line_style(self) -> LineStyle:
        """The architecture's line style."""
        return LINE_STYLES.get(self.arch, "-.")

    def values(self, field: str) -> list[float]:
        """Return one number of each run."""
        return [float(getattr(run, field)) for run in self.runs]

    def curve(self, field: str) -> list[float]:
        """Return the mean over runs of an `EpochRecord` field, for the epochs all runs reached."""
        rows = zip(*(run.history for run in self.runs), strict=False)
        return [statistics.fmean(getattr(epoch, field) for epoch in row) for row in rows]


@dataclass(frozen=True)
class LineEnd:
    """A label to be, and the point (in data units) where its line ends."""

    text: str
    x: float
    y: float
    color: str


def training_chart(record: RunRecord, path: Path) -> None:
    """Draw one run's losses and accuracies by epoch.

    Raises `OutputError` if ``path`` cannot be written.
    """
    _save(training_figure(record), path)


def comparison_chart(
    records: Sequence[RunRecord], path: Path, *, failures: Iterable[Mapping[str, Any]] = ()
) -> None:
    """Draw frameworks and architectures side by side, in six panels.

    ``failures`` have ``framework`` and ``arch``, and are named in the caption. Raises `UsageError`
    if there is no record and `OutputError` if ``path`` cannot be written.
    """
    _save(comparison_figure(records, failures=failures), path)


def confusion_chart(matrix: ArrayLike, path: Path, *, title: str) -> None:
    """Draw a confusion matrix (10, 10) of counts, true digits down and predicted ones across.

    Raises `OutputError` if ``path`` cannot be written.
    """
    _save(confusion_figure(np.asarray(matrix), title=title), path)


def predictions_chart(
    images: Array,
    labels: ArrayLike,
    predictions: ArrayLike,
    confidences: ArrayLike,
    path: Path,
    *,
    title: str,
) -> None:
    """Draw up to 40 images and how they were read, the most confident mistakes first.

    images: (N, 28, 28), uint8. labels, predictions: (N,), digits. confidences: (N,), 0-1.
    Raises `OutputError` if ``path`` cannot be written.
    """
    read = np.asarray(labels), np.asarray(predictions), np.asarray(confidences)
    _save(predictions_figure(images, *read, title=title), path)


def framework_looks(frameworks: Iterable[str]) -> dict[str, Look]:
    """Return each framework's look; unknown ones take the spare looks in order of name."""
    names = sorted(set(frameworks))
    spares = cycle(SPARE_LOOKS)
    return {name: LOOKS[name] if name in LOOKS else next(spares) for name in names}


def spread(positions: Sequence[float], gap: float, *, low: float, high: float) -> list[float]:
    """Return the nearest positions (least squares) that keep ``gap`` and lie in [low, high].

    The order is kept. If they do not all fit, the gap shrinks until they do.
    """
    count = len(positions)
    gap = min(gap, (high - low) / max(count - 1, 1))
    order = sorted(range(count), key=lambda index: positions[index])
    # Less its share of gaps, each position must only not fall below the one before: pool those
    # that do, and give each pool its mean.
    pools: list[list[float]] = []
    for rank, index in enumerate(order):
        pools.append([positions[index] - rank * gap])
        while len(pools) > 1 and statistics.fmean(pools[-2]) > statistics.fmean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    top = high - gap * (count - 1)
    levels = [min(max(statistics.fmean(pool), low), top) for pool in pools for _ in pool]
    placed = [0.0] * count
    for rank, index in enumerate(order):
        placed[index] = levels[rank] + rank * gap
    return placed


def interval_95(values: Sequence[float]) -> float:
    """Return half the width of the mean's 95% interval (Student's t); 0 for a single value."""
    from scipy import stats

    if len(values) < 2:
        return 0.0
    error = statistics.stdev(values) / math.sqrt(len(values))
    return float(stats.t.ppf(0.975, len(values) - 1)) * error


def choose_samples(labels: Array, predictions: Array, confidences: Array, count: int) -> Array:
    """Return the indices of up to ``count`` images: mistakes, then ones read right.

    Half are the most confident mistakes and half are right ones spread evenly over the set; where
    one kind runs short, the other fills up.
    """
    wrong = np.flatnonzero(labels != predictions)
    right = np.flatnonzero(labels == predictions)
    wrong_count = min(len(wrong), max(count // 2, count - len(right)))
    right_count = min(len(right), count - wrong_count)
    boldest = wrong[np.argsort(-confidences[wrong], kind="stable")][:wrong_count]
    even = np.linspace(0, len(right) - 1, right_count).astype(int)
    return np.concatenate([boldest, right[even]])


def training_figure(record: RunRecord) -> Figure:
    """Return the figure of `training_chart`."""
    cell = _cells([record])[0]
    figure = _figure(5.2, f"{cell.name} on {record.dataset}: {_result(record)}")
    loss, accuracy = figure.subplots(1, 2)
    _panel(loss, "Loss by epoch", y_label="loss (cross-entropy per image)")
    _panel(accuracy, "Accuracy by epoch", y_label="accuracy, %")
    ends = {
        loss: [
            _draw_curve(loss, cell, "train_loss", "training", width=1.3, hollow=True),
            _draw_curve(loss, cell, "validation_loss", "validation", width=2.6),
        ],
        accuracy: [
            _draw_curve(accuracy, cell, "validation_accuracy", "validation", width=2.6),
            _draw_curve(
                accuracy, cell, "test_accuracy", "test", width=1.3, hollow=True, color=FAINT
            ),
        ],
    }
    _loss_axis(loss)
    _accuracy_axis(accuracy)
    for panel in ends:
        _epoch_axis(panel, len(record.history))
    _caption(figure, [*_setting([record]), *_speed(record)])
    _label_line_ends(figure, ends)
    return figure


def comparison_figure(
    records: Sequence[RunRecord], *, failures: Iterable[Mapping[str, Any]] = ()
) -> Figure:
    """Return the figure of `comparison_chart`."""
    if not records:
        raise UsageError("There is no finished run to draw. Train at least one network.")
    cells = _cells(records)
    row_inches = max(3.7, 1.3 + 0.34 * len(cells))
    entries = _key_entries(cells)
    key_inches = 0.3 * math.ceil(len(entries) / KEY_COLUMNS)
    figure = _figure(1.3 + key_inches + 3 * row_inches, _comparison_title(cells))
    # A subfigure to a row: long names in one row then take no width from the others.
    grid = figure.add_gridspec(4, 1, height_ratios=[key_inches, *[row_inches] * 3])
    top, *rows = [figure.add_subfigure(grid[row]) for row in range(4)]
    _key(top, entries)
    panels = [panel for row in rows for panel in row.subplots(1, 2)]
    ends = {
        panels[0]: _loss_panel(panels[0], cells),
        panels[1]: _test_accuracy_panel(panels[1], cells),
    }
    _convergence_panel(panels[2], cells)
    _final_accuracy_panel(panels[3], cells)
    _seconds_panel(panels[4], cells)
    _memory_panel(panels[5], cells)
    _caption(figure, [*_runs_per_cell(cells), *_setting(records), *_failed(failures)])
    _label_line_ends(figure, ends)
    return figure


def confusion_figure(matrix: Array, *, title: str) -> Figure:
    """Return the figure of `confusion_chart`."""
    total = int(matrix.sum())
    wrong = total - int(np.trace(matrix))
    figure = _figure(9.6, f"{title}: {_wrong_of(wrong, total)}")
    panel = figure.subplots()
    errors = np.ma.masked_array(matrix, mask=np.eye(CLASSES, dtype=bool))
    highest = max(int(errors.max()), 1)
    panel.set_facecolor("#E9ECEF")  # shows through on the diagonal
    panel.imshow(errors, cmap="Oranges", vmin=0, vmax=highest * 1.25)
    for true, predicted in np.ndindex(matrix.shape):
        _count(panel, true, predicted, int(matrix[true, predicted]), highest)
    panel.set_xticks(range(CLASSES))
    panel.set_yticks(range(CLASSES))
    panel.set_xticks(np.arange(CLASSES + 1) - 0.5, minor=True)
    panel.set_yticks(np.arange(CLASSES + 1) - 0.5, minor=True)
    panel.grid(which="minor", color="white", linewidth=2)
    panel.tick_params(which="both", length=0, labelsize=TITLE_POINTS, labelcolor=INK)
    panel.spines[:].set_visible(False)
    panel.set_xlabel("predicted digit", fontsize=TITLE_POINTS, color=INK)
    panel.set_ylabel("true digit", fontsize=TITLE_POINTS, color=INK, labelpad=10)
    _caption(figure, ["Counts of images", "grey: read right", "orange: mistakes, darker for more"])
    return figure


def predictions_figure(
    images: Array, labels: Array, predictions: Array, confidences: Array, *, title: str
) -> Figure:
    """Return the figure of `predictions_chart`."""
    chosen = choose_samples(labels, predictions, confidences, GRID_SAMPLES)
    rows = max(math.ceil(len(chosen) / GRID_COLUMNS), 1)
    wrong = int(np.count_nonzero(labels != predictions))
    figure = _figure(1.2 + 1.5 * rows, f"{title}: {_wrong_of(wrong, len(labels))}")
    panels = figure.subplots(rows, GRID_COLUMNS, squeeze=False).ravel()
    for panel in panels[len(chosen) :]:
        panel.set_axis_off()
    for panel, index in zip(panels, chosen, strict=False):
        _sample(
            panel, images[index], int(labels[index]), int(predictions[index]), confidences[index]
        )
    _caption(
        figure,
        [
            "✗ 5 → 3, 97%: a 5 read as 3 with 97% confidence",
            "most confident mistakes first",
            "✓ read right",
        ],
    )
    return figure


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, facecolor="white")


def _figure(height_inches: float, title: str) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1, wspace=0.04)
    figure = Figure(figsize=(WIDTH_INCHES, height_inches), dpi=DPI, layout=layout)
    FigureCanvasAgg(figure)  # the figure keeps it
    rows = math.ceil(len(title) / TITLE_CHARACTERS)
    lines = textwrap.fill(title, min(TITLE_CHARACTERS, len(title) // rows + 8))
    figure.suptitle(lines, fontsize=TITLE_POINTS, fontweight="bold", color=INK, parse_math=False)
    return figure


def _caption(figure: Figure, parts: Sequence[str]) -> None:
    # No-break spaces (\xa0): lines break between the parts, not within one.
    text = "\xa0· ".join(part.replace(" ", "\xa0") for part in parts)
    lines = textwrap.fill(text, CAPTION_CHARACTERS).replace("\xa0·\n", "\n")
    figure.supxlabel(lines, x=0.015, ha="left", fontsize=FONT_POINTS, color=FAINT, parse_math=False)


def _panel(panel: Axes, title: str, *, x_label: str = "", y_label: str = "") -> None:
    panel.set_title(title, loc="left", fontsize=PANEL_TITLE_POINTS, color=INK, pad=10)
    panel.set_xlabel(x_label, fontsize=FONT_POINTS, color=INK)
    panel.set_ylabel(y_label, fontsize=FONT_POINTS, color=INK)
    panel.tick_params(labelsize=FONT_POINTS, color=FAINT, labelcolor=INK)
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(FAINT)
    panel.grid(color=GRID, linewidth=0.8)
    panel.set_axisbelow(True)


def _draw_curve(
    panel: Axes,
    cell: Cell,
    field: str,
    label: str,
    *,
    width: float,
    hollow: bool = False,
    color: str = "",
    seconds: bool = False,
) -> LineEnd:
    """Draw a curve by epoch or by training seconds; accuracies in percent."""
    color = color or cell.look.color
    scale = 100 if field.endswith("accuracy") else 1
    ys = [scale * value for value in cell.curve(field)]
    xs = cell.curve("train_seconds") if seconds else [float(n + 1) for n in range(len(ys))]
    panel.plot(
        xs,
        ys,
        color=color,
        linestyle=cell.line_style,
        linewidth=width,
        marker=cell.look.marker,
        markersize=3.5 + 1.6 * width,
        markevery=math.ceil(len(ys) / 12),
        markerfacecolor="white" if hollow else color,
        markeredgecolor=color if hollow else "white",
        markeredgewidth=1.2 if hollow else 0.7,
        clip_on=False,
        zorder=3,
    )
    return LineEnd(label, xs[-1], ys[-1], color)


def _widths(cells: Sequence[Cell]) -> list[float]:
    """Return line widths that fall with drawing order, so that lines that coincide all show."""
    frameworks = sorted({cell.framework for cell in cells})
    step = 2.0 / max(len(frameworks) - 1, 1)
    return [1.6 + step * (len(frameworks) - 1 - frameworks.index(c.framework)) for c in cells]


def _loss_panel(panel: Axes, cells: Sequence[Cell]) -> list[LineEnd]:
    _panel(panel, "Loss: validation (bold), training (faint)", y_label="loss per image")
    for cell in cells:
        panel.plot(
            range(1, len(cell.curve("train_loss")) + 1),
            cell.curve("train_loss"),
            color=cell.look.color,
            linestyle=cell.line_style,
            linewidth=1.2,
            marker=cell.look.marker,
            markersize=3,
            markevery=math.ceil(len(cell.curve("train_loss")) / 12),
            alpha=0.4,
        )
    ends = [
        _draw_curve(panel, cell, "validation_loss", cell.name, width=width)
        for cell, width in zip(cells, _widths(cells), strict=True)
    ]
    _loss_axis(panel)
    _epoch_axis(panel, _longest(cells))
    return ends


def _test_accuracy_panel(panel: Axes, cells: Sequence[Cell]) -> list[LineEnd]:
    _panel(panel, "Test accuracy by epoch", y_label="test accuracy, %")
    ends = [
        _draw_curve(panel, cell, "test_accuracy", cell.name, width=width)
        for cell, width in zip(cells, _widths(cells), strict=True)
    ]
    _accuracy_axis(panel)
    _epoch_axis(panel, _longest(cells))
    return ends


def _convergence_panel(panel: Axes, cells: Sequence[Cell]) -> None:
    _panel(
        panel,
        "Validation accuracy by training time",
        x_label="training seconds",
        y_label="validation accuracy, %",
    )
    for cell in cells:
        _draw_curve(panel, cell, "validation_accuracy", cell.name, width=2, seconds=True)
    _accuracy_axis(panel)
    seconds = [second for cell in cells for second in cell.curve("train_seconds")]
    if min(seconds) > 0 and max(seconds) / min(seconds) >= 10:
        _log_axis(panel, "x", seconds)
        panel.set_xlabel("training seconds, log scale")
    else:
        panel.set_xlim(left=0)
        panel.xaxis.set_major_formatter("{x:g}")
        _few_ticks(panel.xaxis)


def _final_accuracy_panel(panel: Axes, cells: Sequence[Cell]) -> None:
    repeated = any(len(cell.runs) > 1 for cell in cells)
    title = "Final test accuracy, 95% interval" if repeated else "Final test accuracy"
    _panel(panel, title, x_label="test accuracy, %")
    reach: list[float] = []
    texts = []
    for row, cell in zip(_rows(cells), cells, strict=True):
        values = [100 * value for value in cell.values("test_accuracy")]
        mean, half = statistics.fmean(values), interval_95(values)
        panel.errorbar(
            mean,
            row,
            xerr=half or None,
            color=cell.look.color,
            marker=cell.look.marker,
            markersize=9,
            markerfacecolor=cell.look.color if cell.line_style == "-" else "white",
            markeredgewidth=1.8,
            capsize=5,
            elinewidth=2,
            clip_on=False,
        )
        reach += [mean - half, mean + half, *values]
        texts.append(f"{mean:.2f} ± {half:.2f}" if half else f"{mean:.2f}")
    panel.set_xlim(_accuracy_limits(reach))
    panel.xaxis.set_major_formatter("{x:g}")
    _few_ticks(panel.xaxis)
    _cell_axis(panel, cells, texts)


def _seconds_panel(panel: Axes, cells: Sequence[Cell]) -> None:
    _panel(panel, "Total training time", x_label="training seconds, without evaluation")
    _bars(panel, cells, "train_seconds", "s")


def _memory_panel(panel: Axes, cells: Sequence[Cell]) -> None:
    _panel(panel, "Peak memory of the process", x_label="peak memory, MiB")
    _bars(panel, cells, "peak_rss_mib", "MiB")


def _bars(panel: Axes, cells: Sequence[Cell], field: str, unit: str) -> None:
    """Draw a bar for each cell's mean, with a dot for each of several runs."""
    texts = []
    for row, cell in zip(_rows(cells), cells, strict=True):
        values = cell.values(field)
        mean = statistics.fmean(values)
        texts.append(f"{_three_digits(mean)} {unit}" if mean else "not known")
        if not mean:
            continue
        panel.barh(
            row,
            mean,
            height=0.62,
            facecolor=(cell.look.color, 1.0 if cell.line_style == "-" else 0.22),
            edgecolor=cell.look.color,
            linestyle=cell.line_style,
            linewidth=1.5,
        )
        if len(values) > 1:
            panel.plot(
                values,
                [row] * len(values),
                linestyle="none",
                marker="o",
                markersize=4.5,
                markerfacecolor="white",
                markeredgecolor=INK,
                clip_on=False,
                zorder=4,
            )
    highest = max(value for cell in cells for value in cell.values(field))
    panel.set_xlim(0, 1.04 * highest or 1)
    panel.xaxis.set_major_formatter("{x:,g}")
    _few_ticks(panel.xaxis)
    _cell_axis(panel, cells, texts)


def _rows(cells: Sequence[Cell]) -> list[float]:
    """Return each cell's row, with a gap where the architecture changes."""
    archs = list(dict.fromkeys(cell.arch for cell in cells))
    return [row + 0.5 * archs.index(cell.arch) for row, cell in enumerate(cells)]


def _cell_axis(panel: Axes, cells: Sequence[Cell], texts: Sequence[str]) -> None:
    """Name the rows on the left and write their values on the right."""
    rows = _rows(cells)
    panel.set_yticks(rows, [cell.name for cell in cells])
    pad = 0.6 + max(4 - rows[-1], 0) / 2  # so that few bars do not grow fat
    panel.set_ylim(rows[-1] + pad, -pad)
    panel.grid(visible=False, axis="y")
    panel.tick_params(axis="y", length=0)
    for row, text in zip(rows, texts, strict=True):
        panel.annotate(
            text,
            (1.07, row),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=FONT_POINTS,
            color=INK,
        )


def _loss_axis(panel: Axes) -> None:
    from matplotlib.lines import Line2D

    lines = [line for line in panel.lines if isinstance(line, Line2D)]
    losses = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in lines])
    panel.yaxis.set_major_formatter("{x:g}")
    _few_ticks(panel.yaxis, most=6)
    if losses.min() > 0 and losses.max() / losses.min() >= 10:
        _log_axis(panel, "y", losses)
        panel.set_ylabel(f"{panel.get_ylabel()}, log scale")


def _log_axis(panel: Axes, which: str, values: Sequence[float] | Array) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    axis = panel.xaxis if which == "x" else panel.yaxis
    (panel.set_xscale if which == "x" else panel.set_yscale)("log")
    decades = math.log10(max(values) / min(values))
    subs = (1, 2, 5) if decades < 1.5 else (1, 3) if decades < 3.5 else (1,)
    axis.set_major_locator(LogLocator(subs=subs, numticks=8))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter("{x:g}")


def _accuracy_axis(panel: Axes) -> None:
    percents = [float(y) for line in panel.lines for y in np.asarray(line.get_ydata())]
    panel.set_ylim(_accuracy_limits(percents))
    panel.yaxis.set_major_formatter("{x:g}")
    _few_ticks(panel.yaxis, most=6)


def _accuracy_limits(percents: Sequence[float]) -> tuple[float, float]:
    """Return axis limits that show differences: around the values, never from 0, within 0-100."""
    low, high = min(percents), max(percents)
    pad = max(0.08 * (high - low), 0.1)
    return max(low - pad, 0.0), min(high + pad, 100.0)


def _epoch_axis(panel: Axes, epochs: int) -> None:
    from matplotlib.ticker import MaxNLocator

    panel.set_xlabel("epoch", fontsize=FONT_POINTS, color=INK)
    pad = 0.5 if epochs == 1 else min(0.03 * (epochs - 1), 0.45)
    panel.set_xlim(1 - pad, epochs + pad)
    panel.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))


def _few_ticks(axis: Axis, *, most: int = 4) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=most, steps=[1, 2, 5, 10]))


def _label_line_ends(figure: Figure, ends: Mapping[Axes, Sequence[LineEnd]]) -> None:
    """Label lines to the right of their panel, moved apart; the layout of the figure is final."""
    labels = {
        panel: [_end_label(panel, end) for end in line_ends] for panel, line_ends in ends.items()
    }
    engine = figure.get_layout_engine()
    if engine:
        engine.execute(figure)
    figure.set_layout_engine("none")  # a panel's height fixes the gap between its labels
    for panel, placed in labels.items():
        to_fraction = panel.transScale + panel.transLimits
        wanted = [float(to_fraction.transform(label.xy)[1]) for label in placed]
        gap = 1.3 * FONT_POINTS / 72 * figure.dpi / panel.bbox.height
        for label, y in zip(placed, spread(wanted, gap, low=0.0, high=1.0), strict=True):
            label.set_position((1.07, y))


def _end_label(panel: Axes, end: LineEnd) -> Annotation:
    return panel.annotate(
        end.text,
        (end.x, end.y),
        (1.07, 0.5),
        textcoords="axes fraction",
        va="center",
        fontsize=FONT_POINTS,
        color=INK,
        annotation_clip=False,
        arrowprops={
            "arrowstyle": "-",
            "color": end.color,
            "linewidth": 1.0,
            "relpos": (0, 0.5),
            "shrinkA": 0,
            "shrinkB": 5,
        },
    )


def _key_entries(cells: Sequence[Cell]) -> list[Line2D]:
    """Return samples of the colours, markers and line styles, labelled with what they mean."""
    from matplotlib.lines import Line2D

    looks = {cell.framework: cell.look for cell in cells}
    styles = {cell.arch: cell.line_style for cell in cells}
    return [
        Line2D([], [], color=look.color, marker=look.marker, markersize=8, lw=0, label=_short(name))
        for name, look in sorted(looks.items())
    ] + [
        Line2D([], [], color=INK, linestyle=style, linewidth=2, label=arch)
        for arch, style in styles.items()
    ]


def _key(figure: SubFigure, entries: Sequence[Line2D]) -> None:
    figure.legend(
        handles=entries,
        loc="center",
        ncols=min(len(entries), KEY_COLUMNS),
        fontsize=FONT_POINTS,
        labelcolor=INK,
        frameon=False,
        handlelength=2.6,
        columnspacing=1.8,
    )


def _count(panel: Axes, true: int, predicted: int, count: int, highest: int) -> None:
    mistake = true != predicted
    dark = mistake and count > 0.75 * highest
    color = "white" if dark else "#BBBBBB" if count == 0 else INK
    panel.text(
        predicted,
        true,
        f"{count}",
        ha="center",
        va="center",
        fontsize=13,
        fontweight="bold" if count and mistake else "normal",
        color=color,
    )


def _sample(panel: Axes, image: Array, label: int, prediction: int, confidence: float) -> None:
    right = label == prediction
    color = RIGHT if right else WRONG
    panel.imshow(image, cmap="gray_r", vmin=0, vmax=255)
    panel.set_xticks([])
    panel.set_yticks([])
    panel.spines[:].set_color(color)
    panel.spines[:].set_linewidth(1.5 if right else 3)
    text = f"✓ {label}" if right else f"✗ {label} → {prediction}"
    panel.set_title(f"{text}, {_percent(confidence)}", fontsize=FONT_POINTS, color=color, pad=5)


def _percent(confidence: float) -> str:
    return ">99%" if 0.995 <= confidence < 1 else f"{confidence:.0%}"


def _cells(records: Sequence[RunRecord]) -> list[Cell]:
    """Group runs by architecture (CNN first), then framework."""
    looks = framework_looks(record.framework for record in records)
    groups: dict[tuple[str, str], list[RunRecord]] = {}
    for record in records:
        groups.setdefault((_arch_name(record), record.framework), []).append(record)
    known = {arch: place for place, arch in enumerate(ARCHITECTURES)}
    order = sorted(groups, key=lambda key: (known.get(key[0], len(known)), *key))
    return [Cell(name, arch, looks[name], tuple(groups[arch, name])) for arch, name in order]


def _arch_name(record: RunRecord) -> str:
    return record.arch if record.activation == "relu" else f"{record.arch} {record.activation}"


def _longest(cells: Sequence[Cell]) -> int:
    return max(len(cell.curve("train_loss")) for cell in cells)


def _short(name: str) -> str:
    return name if len(name) <= NAME_CHARACTERS else name[: NAME_CHARACTERS - 1] + "…"


def _three_digits(value: float) -> str:
    """Return a number with about three digits: 1,234, 123, 12.3, 1.23."""
    decimals = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:,.{decimals}f}"


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _listed(items: Sequence[str]) -> str:
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def _wrong_of(wrong: int, total: int) -> str:
    share = f" ({wrong / total:.2%})" if total else ""
    return f"{wrong:,} wrong of {total:,}{share}"


def _result(record: RunRecord) -> str:
    epochs = _plural(len(record.history), "epoch")
    return f"{record.test_accuracy:.2%} of test images right after {epochs}"


def _comparison_title(cells: Sequence[Cell]) -> str:
    archs = _listed(list(dict.fromkeys(cell.arch for cell in cells)))
    frameworks = _listed([_short(name) for name in sorted({cell.framework for cell in cells})])
    dataset = _listed(sorted({run.dataset for cell in cells for run in cell.runs}))
    return f"{archs} in {frameworks}, trained on {dataset}"


def _runs_per_cell(cells: Sequence[Cell]) -> list[str]:
    counts = sorted({len(cell.runs) for cell in cells})
    seeds = sorted({run.seed for cell in cells for run in cell.runs})
    count = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    several = "s" if counts[-1] > 1 else ""
    parts = [f"n = {count} run{several} each, {_seeds(seeds)}"]
    if several:
        parts.append("lines and bars: mean of runs; white dots: single runs")
    return parts


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _setting(records: Sequence[RunRecord]) -> list[str]:
    """Return the data, recipe and hardware: each once if it is the same for all runs."""
    return [
        *_distinct(f"{run.dataset}, {run.train_images:,} training images" for run in records),
        *_distinct(f"batch {run.batch_size}" for run in records),
        *_distinct(_hardware(run.environment) for run in records),
        *_distinct(str(run.environment.get("date", "")) for run in records),
    ]


def _speed(record: RunRecord) -> list[str]:
    return [
        f"n = 1 run, {_seeds([record.seed])}",
        f"trained in {_three_digits(record.train_seconds)} s",
        f"{record.images_per_second:,.0f} images/s",
    ]


def _distinct(texts: Iterable[str]) -> list[str]:
    return [text for text in dict.fromkeys(texts) if text]


def _hardware(environment: Mapping[str, Any]) -> str:
    threads = environment.get("threads")
    device = str(environment.get("device") or "")
    parts = [
        str(environment.get("cpu") or ""),
        _plural(threads, "thread") if isinstance(threads, int) else "",
        f"device {device}" if device else "",
    ]
    return ", ".join(part for part in parts if part)


def _failed(failures: Iterable[Mapping[str, Any]]) -> list[str]:
    names = Counter(f"{failure['framework']} {failure['arch']}" for failure in failures)
    return [
        f"{name} failed" + (f" {count} times" if count > 1 else "") for name, count in names.items()
    ]

"""Colours, type sizes, figures and the grouping of runs: what all charts share.

Every chart is 1600 pixels wide and drawn to be read at half that. A framework has one colour,
marker and line width in every chart, an architecture one line style, so that no distinction
depends on colour alone. Matplotlib is imported when a chart is drawn, and its global state is left
alone.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from mnist_cli.config import ARCHITECTURES
from mnist_cli.errors import UsageError
from mnist_cli.names import framework_name, network_name
from mnist_cli.records import RunRecord, replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

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
RIGHT_FILL = "#DDF1EE"
WRONG = "#C62828"
LEGEND_COLUMNS = 5


@dataclass(frozen=True)
class Look:
    """How a framework is drawn, in every chart."""

    color: str
    marker: str
    line_width: float = 2.0


# Distinguishable for the colour-blind (blues against vermilion) and in grey: the lightness L* is
# 30, 17, 62 and 41. The spare colours differ by at least 5 from these and from each other. Thin
# lines are drawn over thick ones, so that coinciding lines all remain visible.
LOOKS: Mapping[str, Look] = {
    "jax": Look("#662889", "D", 2.1),
    "numpy": Look("#17245C", "^", 3.6),
    "tensorflow": Look("#349EDA", "s", 2.6),
    "torch": Look("#AD360A", "o", 1.6),
}
SPARE_LOOKS = (
    Look("#1F8A4C", "v"),
    Look("#D4A017", "P"),
    Look("#48362A", "X"),
    Look("#C86790", "p"),
)
LINE_STYLES: Mapping[str, LineStyle] = {"CNN": "-", "MLP": "--", "MLP sigmoid": ":"}
SPARE_LINE_STYLES: Sequence[LineStyle] = ("-.", ":", "--", "-")
HOLLOW: dict[str, Any] = {
    "markerfacecolor": "white",
    "markeredgecolor": "auto",
    "markeredgewidth": 1.2,
}


@dataclass(frozen=True)
class Cell:
    """All runs of one framework and one network, with the names that a chart shows."""

    framework: str
    network: str
    look: Look
    runs: tuple[RunRecord, ...]
    line_style: LineStyle = "-"

    @property
    def name(self) -> str:
        """``PyTorch CNN``, shortened to fit an axis."""
        return f"{self.framework} {self.network}"

    @property
    def hollow(self) -> bool:
        """Whether the network's markers and bars are drawn without filling."""
        return self.line_style != "-"

    def values(self, field: str) -> list[float]:
        """Return a `RunRecord` field of each run; accuracies in percent."""
        return [percent_factor(field) * getattr(run, field) for run in self.runs]

    def curve(self, field: str) -> list[float]:
        """Return the mean of an `EpochRecord` field over runs, for epochs that all completed."""
        rows = zip(*(run.history for run in self.runs), strict=False)
        return [
            percent_factor(field) * fmean(getattr(epoch, field) for epoch in row) for row in rows
        ]


def framework_looks(frameworks: Iterable[str]) -> dict[str, Look]:
    """Return the look of each framework; unknown ones get spare looks, in alphabetical order."""
    names = sorted(set(frameworks))
    spares = cycle(SPARE_LOOKS)
    return {name: LOOKS[name] if name in LOOKS else next(spares) for name in names}


def network_styles(networks: Iterable[str]) -> dict[str, LineStyle]:
    """Return the line style of each network; unknown ones get spare styles, in turn."""
    spares = cycle(SPARE_LINE_STYLES)
    return {
        name: LINE_STYLES[name] if name in LINE_STYLES else next(spares)
        for name in dict.fromkeys(networks)
    }


def spread(positions: Sequence[float], gap: float, *, low: float, high: float) -> list[float]:
    """Return positions at least ``gap`` apart within [low, high], moved as little as possible.

    Least squares by isotonic regression (pool adjacent violators). The order is unchanged. If not
    all fit, the gap is reduced until they do.
    """
    count = len(positions)
    gap = min(gap, (high - low) / max(count - 1, 1))
    order = sorted(range(count), key=lambda index: positions[index])
    # With the gaps subtracted, positions must only be non-decreasing: pool violators and replace
    # each pool by its mean.
    pools: list[list[float]] = []
    for rank, index in enumerate(order):
        pools.append([positions[index] - rank * gap])
        while len(pools) > 1 and fmean(pools[-2]) > fmean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    top = high - gap * (count - 1)
    levels = [min(max(fmean(pool), low), top) for pool in pools for _ in pool]
    placed = [0.0] * count
    for rank, index in enumerate(order):
        placed[index] = levels[rank] + rank * gap
    return placed


def new_figure(height_inches: float, title: str) -> Figure:
    """Return an empty figure with a title, broken into lines of similar length."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1, wspace=0.04)
    figure = Figure(figsize=(WIDTH_INCHES, height_inches), dpi=DPI, layout=layout)
    FigureCanvasAgg(figure)  # attaches itself to the figure
    rows = math.ceil(len(title) / TITLE_CHARACTERS)
    lines = textwrap.fill(title, min(TITLE_CHARACTERS, len(title) // rows + 8))
    figure.suptitle(lines, fontsize=TITLE_POINTS, fontweight="bold", color=INK, parse_math=False)
    return figure


def figure_with_legend(
    title: str, cells: Sequence[Cell], inches: Sequence[float], *, is_by_network: bool = True
) -> tuple[Figure, list[SubFigure]]:
    """Return a figure with a legend of frameworks and networks, and its rows, ``inches`` high.

    ``is_by_network`` False leaves the networks out of the legend: they are named elsewhere.

    Each row is a subfigure of its own, so that long labels in one do not narrow the others.
    """
    from matplotlib.lines import Line2D

    looks = {cell.framework: cell.look for cell in cells}
    networks = {cell.network: cell for cell in cells} if is_by_network else {}
    handles = [
        Line2D([], [], color=look.color, marker=look.marker, markersize=8, lw=0, label=name)
        for name, look in sorted(looks.items())
    ] + [
        Line2D(
            [],
            [],
            color=INK,
            linestyle=cell.line_style,
            linewidth=2,
            marker="o",
            markersize=7,
            markerfacecolor="white" if cell.hollow else INK,
            label=network,
        )
        for network, cell in networks.items()
    ]
    legend_inches = 0.3 * math.ceil(len(handles) / LEGEND_COLUMNS)
    heights = [legend_inches, *inches]
    figure = new_figure(1.3 + sum(heights), title)
    top, *rows = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights).ravel()
    top.legend(
        handles=handles,
        loc="center",
        ncols=min(len(handles), LEGEND_COLUMNS),
        fontsize=FONT_POINTS,
        labelcolor=INK,
        frameon=False,
        handlelength=2.6,
        columnspacing=1.8,
    )
    return figure, rows


def save(figure: Figure, path: Path, caption: Sequence[str]) -> None:
    """Add the caption, move overlapping line labels apart, and write the file."""
    from matplotlib.text import Annotation

    # No-break spaces (\xa0): lines break between the parts, not within one.
    text = "\xa0· ".join(part.replace(" ", "\xa0") for part in caption)
    lines = textwrap.fill(text, CAPTION_CHARACTERS).replace("\xa0·\n", "\n")
    figure.supxlabel(lines, x=0.015, ha="left", fontsize=FONT_POINTS, color=FAINT, parse_math=False)
    engine = figure.get_layout_engine()
    if engine:
        engine.execute(figure)
    figure.set_layout_engine("none")  # the label gap depends on the final panel height
    for panel in figure.axes:
        notes = [text for text in panel.texts if isinstance(text, Annotation)]
        ends = [note for note in notes if note.arrow_patch]
        to_fraction = panel.transScale + panel.transLimits
        wanted = [float(to_fraction.transform(end.xy)[1]) for end in ends]
        gap = 1.3 * FONT_POINTS / 72 * figure.dpi / panel.bbox.height
        for end, y in zip(ends, spread(wanted, gap, low=0.0, high=1.0), strict=True):
            end.set_position((1.07, y))
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, facecolor="white")


def group_by_cell(records: Sequence[RunRecord]) -> list[Cell]:
    """Return one `Cell` for each framework and network: known networks first, CNN before MLP."""
    if not records:
        raise UsageError("There is no finished run to draw. Train at least one network.")
    looks = framework_looks(record.framework for record in records)
    groups: dict[tuple[str, str], list[RunRecord]] = {}
    for record in records:
        groups.setdefault((network_of(record), record.framework), []).append(record)
    rank = {network_name(arch): place for place, arch in enumerate(ARCHITECTURES)}
    order = sorted(groups, key=lambda key: (rank.get(key[0], len(rank)), *key))
    styles = network_styles(network for network, _ in order)
    return [
        Cell(
            shortened(framework_name(framework)),
            network,
            looks[framework],
            tuple(runs),
            styles[network],
        )
        for network, framework in order
        if (runs := groups[network, framework])
    ]


def network_of(record: RunRecord) -> str:
    """Return the displayed name of a run's network."""
    return network_name(record.arch, record.activation)


def shortened(name: str, most: int = NAME_CHARACTERS) -> str:
    """Return a name of at most so many characters, with an ellipsis if it was longer."""
    return name if len(name) <= most else name[: most - 1] + "…"


def percent_factor(field: str) -> int:
    """Return 100 for accuracies, which charts show in percent, else 1."""
    return 100 if field.endswith("accuracy") else 1

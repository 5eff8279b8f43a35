"""Records to PNG files. Charts read records and arrays and nothing else.

Every chart is 1600 pixels wide and drawn to be read at half that. A framework has one colour,
marker and line width everywhere, an architecture one line style, so that nothing is told by colour
alone. Matplotlib is imported when a chart is drawn, and its global state is left alone.

Every chart raises `OutputError` if it cannot be written, and `UsageError` if there is no record.
"""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from mnist_cli.arrays import CLASSES, Array
from mnist_cli.config import ARCHITECTURES
from mnist_cli.errors import UsageError
from mnist_cli.experiments.statistics import statistic
from mnist_cli.records import RunRecord, replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import XAxis, YAxis
    from matplotlib.figure import Figure, SubFigure
    from numpy.typing import ArrayLike

    from mnist_cli.pictures.components import Box
    from mnist_cli.pictures.opening import Picture, Source
    from mnist_cli.prediction import Digit, Prediction

    Axis: TypeAlias = XAxis | YAxis

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

KEY_COLUMNS = 5
GRID_SAMPLES = 40
GRID_COLUMNS = 8
MODEL_SAMPLES = 12
PICTURE_COLUMNS = 3  # a picture is as wide as that many of its digits
DIGIT_COLUMNS = 6
MOST_DIGITS = 24
WHISKERS = "whiskers: lowest and highest run"


@dataclass(frozen=True)
class Look:
    """How a framework is drawn, in every chart."""

    color: str
    marker: str
    line_width: float = 2.0


# Told apart by the colour-blind (blues against vermilion) and in grey: the lightness L* is
# 17, 62 and 41. The spares keep 6 or more from these and from each other. Thin lines lie on thick
# ones, so that lines that coincide all show.
LOOKS: Mapping[str, Look] = {
    "numpy": Look("#17245C", "^", 3.6),
    "tensorflow": Look("#349EDA", "s", 2.6),
    "torch": Look("#AD360A", "o", 1.6),
}
SPARE_LOOKS = (
    Look("#571F72", "D"),
    Look("#1F8A4C", "v"),
    Look("#D4A017", "P"),
    Look("#5E4A3A", "X"),
)
LINE_STYLES: Mapping[str, LineStyle] = {"cnn": "-", "mlp": "--", "mlp sigmoid": ":"}
HOLLOW: dict[str, Any] = {
    "markerfacecolor": "white",
    "markeredgecolor": "auto",
    "markeredgewidth": 1.2,
}


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

    @property
    def hollow(self) -> bool:
        """Whether the architecture's markers and bars are not filled."""
        return self.line_style != "-"

    def values(self, field: str) -> list[float]:
        """Return one number of each run; accuracies in percent."""
        return [_percent(field) * getattr(run, field) for run in self.runs]

    def curve(self, field: str) -> list[float]:
        """Return an `EpochRecord` field's mean over runs, for the epochs that all reached."""
        rows = zip(*(run.history for run in self.runs), strict=False)
        return [_percent(field) * fmean(getattr(epoch, field) for epoch in row) for row in rows]


def training_chart(record: RunRecord, path: Path) -> None:
    """Draw one run's losses and accuracies by epoch."""
    (cell,) = _cells([record])
    result = f"{record.test_accuracy:.2%} of test images right"
    epochs = _plural(len(record.history), "epoch")
    images_an_epoch = record.train_images // record.batch_size * record.batch_size
    passes = record.images_per_second * record.train_seconds / images_an_epoch
    if passes < len(record.history) - 0.05:  # a target was reached within an epoch
        epochs = f"{passes:.1f} of {_plural(record.epochs, 'epoch')}"
    figure = _figure(5.2, f"{cell.name} on {record.dataset}: {result} after {epochs}")
    loss, accuracy = figure.subplots(1, 2)
    _panel(loss, "Loss by epoch", "epoch", "loss (cross-entropy per image)")
    _curve(loss, cell, "train_loss", label="training", linewidth=1.3, **HOLLOW)
    _curve(loss, cell, "validation_loss", label="validation", linewidth=2.6)
    _scale(loss.yaxis)
    _panel(accuracy, "Accuracy by epoch", "epoch", "accuracy, %")
    _curve(accuracy, cell, "validation_accuracy", label="validation", linewidth=2.6)
    _curve(accuracy, cell, "test_accuracy", label="test", linewidth=1.3, color=FAINT, **HOLLOW)
    _scale_accuracy(accuracy.yaxis)
    speed = f"trained in {_three_digits(record.train_seconds)} s"
    images = f"{record.images_per_second:,.0f} images/s"
    _save(figure, path, [*_facts([record]), speed, images])


def comparison_chart(
    records: Sequence[RunRecord], path: Path, *, failures: Iterable[Mapping[str, Any]] = ()
) -> None:
    """Draw frameworks and architectures side by side, in six panels.

    ``failures`` have ``framework`` and ``arch``, and are named in the caption.
    """
    cells = _cells(records)
    several = any(len(cell.runs) > 1 for cell in cells)
    title = f"{_models(cells)}, trained on {_datasets(records)}"
    figure, rows = _rows_under_key(title, cells, [max(3.7, 1.3 + 0.34 * len(cells))] * 3)
    loss, accuracy, convergence, final, seconds, memory = (
        panel for row in rows for panel in row.subplots(1, 2)
    )
    _panel(loss, "Loss: validation (bold), training (faint)", "epoch", "loss per image")
    _panel(accuracy, "Test accuracy by epoch", "epoch", "test accuracy, %")
    _panel(
        convergence,
        "Validation accuracy by training time",
        "training seconds",
        "validation accuracy, %",
    )
    for cell in cells:
        _curve(loss, cell, "train_loss", linewidth=1.2, alpha=0.4, markersize=3, zorder=2)
        _curve(loss, cell, "validation_loss", label=cell.name)
        _curve(accuracy, cell, "test_accuracy", label=cell.name)
        time, correct = cell.curve("train_seconds"), cell.curve("validation_accuracy")
        _line(convergence, cell, time, correct, linewidth=2)
    _scale(loss.yaxis)
    _scale_accuracy(accuracy.yaxis)
    _scale_accuracy(convergence.yaxis)
    _scale(convergence.xaxis)
    _panel(final, f"Final test accuracy{', 95% interval' * several}", "test accuracy, %")
    _final_accuracies(final, cells)
    _panel(seconds, "Total training time", "training seconds, without evaluation")
    _bars(seconds, cells, "train_seconds", "s")
    _panel(memory, "Peak memory of the process", "peak memory, MiB")
    _bars(memory, cells, "peak_rss_mib", "MiB")
    notes = ["lines and bars: mean of runs; white dots: single runs"] * several
    _save(figure, path, [*_facts(records, notes), *_failed(failures)])


def batch_size_chart(
    records: Sequence[RunRecord], path: Path, *, failures: Iterable[Mapping[str, Any]] = ()
) -> None:
    """Draw accuracy and speed by batch size, in four panels.

    ``failures`` have ``framework`` and ``arch``, and are named in the caption.
    """
    cells = _cells(records)
    title = f"{_models(cells)} by batch size, on {_datasets(records)}"
    figure, rows = _rows_under_key(title, cells, [3.9, 3.9])
    # A subfigure to a panel too: what stands above one then takes no height from its neighbour.
    accuracy, epoch, throughput, target = (
        half.subplots() for row in rows for half in row.subfigures(1, 2, squeeze=False).ravel()
    )
    _panel(accuracy, "Final test accuracy", "batch size", "test accuracy, %")
    _by_number(accuracy, cells, "batch_size", lambda run: 100 * run.test_accuracy)
    _scale_accuracy(accuracy.yaxis)
    _panel(epoch, "Training time of an epoch", "batch size", "training seconds")
    _by_number(epoch, cells, "batch_size", lambda run: run.train_seconds / len(run.history))
    _scale(epoch.yaxis)
    _panel(throughput, "Throughput", "batch size", "images per second")
    _by_number(throughput, cells, "batch_size", lambda run: run.images_per_second)
    _scale(throughput.yaxis)
    _panel(target, "Time to 98% validation accuracy", "batch size", "training seconds")
    _by_number(target, cells, "batch_size", lambda run: run.time_to_accuracy["0.98"])
    _scale(target.yaxis)
    points = {(run.framework, _arch_name(run), run.batch_size) for run in records}
    notes = [
        "lines: mean of runs (time to 98%: of those that reached it)",
        WHISKERS,
    ] * (len(records) > len(points))
    _save(figure, path, [*_facts(records, notes), *_failed(failures)])


def scaling_chart(groups: Mapping[str, Sequence[RunRecord]], path: Path) -> None:
    """Draw images per second against one number at a time, in a panel each.

    ``groups`` maps ``train_images``, ``batch_size`` and ``threads`` to runs that differ in it.
    """
    records = [record for group in groups.values() for record in group]
    cells = _cells(records)
    title = f"{_models(cells)}: how speed grows, on {_datasets(records)}"
    figure, rows = _rows_under_key(title, cells, [3.9, 3.9])
    panels = [half.subplots() for row in rows for half in row.subfigures(1, 2, squeeze=False)[0]]
    for field, panel in zip(groups, panels, strict=False):
        name = field.replace("train_images", "training images").replace("_", " ")
        _panel(panel, f"Throughput by {name}", name, "images per second")
        _by_number(panel, _cells(groups[field]), field, lambda run: run.images_per_second)
        _scale(panel.yaxis)
    for panel in panels[len(groups) :]:
        panel.set_visible(False)
    usual = records[-1]
    points = Counter(
        (field, run.framework, _arch_name(run), _number(run, field))
        for field, group in groups.items()
        for run in group
    )
    # The number of threads varies, and that of epochs follows the number of images.
    bare = replace(usual, environment={**usual.environment, "threads": None})
    _, data, _, rate, *others = _facts([bare])
    facts = [
        f"n = {_run_count(points)} a point, seed {usual.seed}",
        *["lines: mean of runs", WHISKERS] * (max(points.values()) > 1),
        f"where it does not vary: {data}, {rate}, {_plural(_number(usual, 'threads'), 'thread')}",
        *others,
    ]
    _save(figure, path, facts)


def confusion_chart(matrix: ArrayLike, path: Path, *, title: str) -> None:
    """Draw a confusion matrix (10, 10) of counts, true digits down and predicted ones across."""
    counts = np.asarray(matrix)
    total = int(counts.sum())
    figure = _figure(9.6, f"{title}: {_wrong_of(total - int(np.trace(counts)), total)}")
    panel = figure.subplots()
    errors = np.ma.masked_array(counts, mask=np.eye(CLASSES, dtype=bool))
    highest = max(int(errors.max()), 1)
    panel.set_facecolor("#E9ECEF")  # shows through on the diagonal
    panel.imshow(errors, cmap="Oranges", vmin=0, vmax=highest * 1.25)
    for (true, predicted), count in np.ndenumerate(counts):
        mistake = bool(count) and true != predicted
        dark = mistake and count > 0.75 * highest
        panel.text(
            predicted,
            true,
            f"{count:.0f}",
            ha="center",
            va="center",
            fontsize=13,
            fontweight="bold" if mistake else "normal",
            color="white" if dark else INK if count else "#BBBBBB",
        )
    panel.set_xticks(range(CLASSES))
    panel.set_yticks(range(CLASSES))
    panel.set_xticks(np.arange(CLASSES + 1) - 0.5, minor=True)
    panel.set_yticks(np.arange(CLASSES + 1) - 0.5, minor=True)
    panel.grid(which="minor", color="white", linewidth=2)
    panel.tick_params(which="both", length=0, labelsize=TITLE_POINTS, labelcolor=INK)
    panel.spines[:].set_visible(False)
    panel.set_xlabel("predicted digit", fontsize=TITLE_POINTS, color=INK)
    panel.set_ylabel("true digit", fontsize=TITLE_POINTS, color=INK, labelpad=10)
    key = ["Counts of images", "grey: read right", "orange: mistakes, darker for more"]
    _save(figure, path, key)


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
    """
    true, read, sure = np.asarray(labels), np.asarray(predictions), np.asarray(confidences)
    chosen = choose_samples(true, read, sure, GRID_SAMPLES)
    rows = max(math.ceil(len(chosen) / GRID_COLUMNS), 1)
    wrong = int(np.count_nonzero(true != read))
    figure = _figure(1.2 + 1.5 * rows, f"{title}: {_wrong_of(wrong, len(true))}")
    panels = figure.subplots(rows, GRID_COLUMNS, squeeze=False).ravel()
    for panel in panels[len(chosen) :]:
        panel.set_axis_off()
    for panel, index in zip(panels, chosen, strict=False):
        right = true[index] == read[index]
        color = RIGHT if right else WRONG
        panel.imshow(images[index], cmap="gray_r", vmin=0, vmax=255)
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set_color(color)
        panel.spines[:].set_linewidth(1.5 if right else 3)
        text = f"✓ {true[index]}" if right else f"✗ {true[index]} → {read[index]}"
        panel.set_title(f"{text}, {_share(sure[index])}", fontsize=FONT_POINTS, color=color, pad=5)
    example = "✗ 5 → 3, 97%: a 5 read as 3 with 97% confidence"
    _save(figure, path, [example, "most confident mistakes first", "✓ read right"])


def model_samples_chart(
    images: Array, labels: ArrayLike, records: Sequence[RunRecord], path: Path
) -> None:
    """Draw the same 12 test images for every model, the most disputed first, and the answers.

    images: (N, 28, 28), uint8. labels: (N,), digits. Each model's run with the lowest seed answers.
    """
    cells = _cells(records)
    runs = [min(cell.runs, key=lambda run: run.seed) for cell in cells]
    true = np.asarray(labels)
    answers = np.tile(true, (len(runs), 1))
    for row, run in zip(answers, runs, strict=True):
        for index, digit in run.test_errors:
            row[index] = digit
    alike = int((answers == answers[0]).all(axis=0).sum())
    missed = int((answers != true).all(axis=0).sum())
    rows = _rows(cells)
    last = rows[-1] + 0.9
    name_inches = 0.085 * max(len(cell.name) for cell in cells)
    row_inches, column_inches = 0.36, (WIDTH_INCHES - 1.3 - name_inches) / MODEL_SAMPLES
    image_rows = column_inches / row_inches
    figure = _figure(
        1.25 + row_inches * (last + 2 + image_rows),
        f"{_datasets(runs)}: {alike:,} of {len(true):,} test digits read alike by all models, "
        f"{missed:,} wrongly by every model",
    )
    panel = figure.subplots()
    chosen = most_disputed(answers, true, MODEL_SAMPLES)
    for column, index in enumerate(chosen):
        box = (column - 0.46, column + 0.46, -1.5, -1.5 - 0.92 * image_rows)
        panel.imshow(images[index], cmap="gray_r", vmin=0, vmax=255, extent=box)
        _answer(panel, column, -1, f"{true[index]}", color=INK, fontweight="bold")
        for row, digit in zip(rows, answers[:, index], strict=True):
            right = digit == true[index]
            fill = RIGHT_FILL if right else WRONG
            panel.barh(row, 0.92, left=column - 0.46, height=0.84, color=fill)
            text = f"✓ {digit}" if right else f"✗ {digit}"
            _answer(panel, column, row, text, color=RIGHT if right else "white")
        _answer(panel, column, last, f"{index}", color=INK, fontsize=FONT_POINTS)
    _cell_axis(panel, cells, [f"{len(run.test_errors):,} wrong" for run in runs])
    names = ["true digit", *(cell.name for cell in cells), "test image"]
    panel.set_yticks([-1, *rows, last], names)
    panel.set(xticks=[], xlim=(-0.5, MODEL_SAMPLES - 0.5))
    panel.set(ylim=(last + 0.5, -1.5 - image_rows), aspect=row_inches / column_inches)
    panel.tick_params(length=0, labelsize=FONT_POINTS, labelcolor=INK)
    panel.spines[:].set_visible(False)
    _save(figure, path, ["most disputed digits first", *_facts(runs)])


def reading_chart(
    readings: Sequence[tuple[str, Source, Prediction]], path: Path, *, pictures: int
) -> None:
    """Draw pictures with a box about each digit, what the network saw, and its probabilities.

    readings: each picture's name, the picture itself, its answer. ``pictures`` were read in all.
    """
    from mnist_cli.pictures.opening import open_picture

    rows = [
        math.ceil(min(len(answer.digits), MOST_DIGITS) / DIGIT_COLUMNS) for *_, answer in readings
    ]
    heights = [0.5 + 2.3 * count for count in rows]
    texts = _listed([answer.text.replace("\n", " / ") for *_, answer in readings])
    figure = _figure(0.9 + sum(heights), textwrap.shorten(texts, 2 * TITLE_CHARACTERS))
    parts = figure.subfigures(len(readings), 1, squeeze=False, height_ratios=heights)
    for part, count, (name, source, answer) in zip(parts[:, 0], rows, readings, strict=True):
        grid = part.add_gridspec(
            2 * count, PICTURE_COLUMNS + DIGIT_COLUMNS, height_ratios=[1.1, 0.8] * count
        )
        _boxed(part.add_subplot(grid[:, :PICTURE_COLUMNS]), name, open_picture(source), answer)
        for number, digit in enumerate(answer.digits[:MOST_DIGITS]):
            row, column = divmod(number, DIGIT_COLUMNS)
            panel = part.add_subplot(grid[2 * row, PICTURE_COLUMNS + column])
            panel.imshow(digit.image, cmap="gray", vmin=0, vmax=255)
            panel.set(xticks=[], yticks=[])
            color = RIGHT if digit.sure else WRONG
            text = f"{digit.digit}{'' if digit.sure else '?'}, {_share(digit.confidence)}"
            panel.set_title(text, fontsize=FONT_POINTS, color=color, pad=5)
            _probabilities(part.add_subplot(grid[2 * row + 1, PICTURE_COLUMNS + column]), digit)
    notes = ["digits as the network saw them, with the probabilities of 0 to 9", "? not sure"]
    if pictures > len(readings):
        notes.append(f"the first {len(readings)} of {pictures:,} pictures")
    if any(len(answer.digits) > MOST_DIGITS for *_, answer in readings):
        notes.append(f"at most {MOST_DIGITS} digits of each")
    _save(figure, path, notes)


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
        while len(pools) > 1 and fmean(pools[-2]) > fmean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    top = high - gap * (count - 1)
    levels = [min(max(fmean(pool), low), top) for pool in pools for _ in pool]
    placed = [0.0] * count
    for rank, index in enumerate(order):
        placed[index] = levels[rank] + rank * gap
    return placed


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


def most_disputed(answers: Array, labels: Array, count: int) -> Array:
    """Return the indices of up to ``count`` images: the most evenly split first.

    Those that all models read alike come last, misread ones before ones read right.
    answers: (models, N), digits. labels: (N,), digits.
    """
    votes = (answers[:, :, None] == np.arange(CLASSES)).sum(axis=0)  # (N, 10)
    all_right = (answers == labels).all(axis=0)
    return np.lexsort((all_right, votes.max(axis=1)))[:count]  # stable, the last key first


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


def _rows_under_key(
    title: str, cells: Sequence[Cell], inches: Sequence[float]
) -> tuple[Figure, list[SubFigure]]:
    """Return a figure and its rows, ``inches`` high, under a key to frameworks and architectures.

    Each row is a subfigure: long names in one then take no width from the others.
    """
    from matplotlib.lines import Line2D

    looks = {_short(cell.framework): cell.look for cell in cells}
    archs = {cell.arch: cell for cell in cells}
    key = [
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
            label=arch,
        )
        for arch, cell in archs.items()
    ]
    key_inches = 0.3 * math.ceil(len(key) / KEY_COLUMNS)
    heights = [key_inches, *inches]
    figure = _figure(1.3 + sum(heights), title)
    top, *rows = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights).ravel()
    top.legend(
        handles=key,
        loc="center",
        ncols=min(len(key), KEY_COLUMNS),
        fontsize=FONT_POINTS,
        labelcolor=INK,
        frameon=False,
        handlelength=2.6,
        columnspacing=1.8,
    )
    return figure, rows


def _save(figure: Figure, path: Path, caption: Sequence[str]) -> None:
    """Write the caption, move line labels apart, and write the file."""
    from matplotlib.text import Annotation

    # No-break spaces (\xa0): lines break between the parts, not within one.
    text = "\xa0· ".join(part.replace(" ", "\xa0") for part in caption)
    lines = textwrap.fill(text, CAPTION_CHARACTERS).replace("\xa0·\n", "\n")
    figure.supxlabel(lines, x=0.015, ha="left", fontsize=FONT_POINTS, color=FAINT, parse_math=False)
    engine = figure.get_layout_engine()
    if engine:
        engine.execute(figure)
    figure.set_layout_engine("none")  # a panel's height fixes the gap between its labels
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


def _panel(panel: Axes, title: str, x_label: str, y_label: str = "") -> None:
    panel.set_title(title, loc="left", fontsize=PANEL_TITLE_POINTS, color=INK, pad=10)
    panel.set_xlabel(x_label, fontsize=FONT_POINTS, color=INK)
    panel.set_ylabel(y_label, fontsize=FONT_POINTS, color=INK)
    panel.tick_params(labelsize=FONT_POINTS, color=FAINT, labelcolor=INK)
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(FAINT)
    panel.grid(color=GRID, linewidth=0.8)
    panel.set_axisbelow(True)


def _line(
    panel: Axes,
    cell: Cell,
    xs: Sequence[float],
    ys: Sequence[float],
    *,
    label: str = "",
    linewidth: float = 0,
    **style: Any,
) -> None:
    """Draw a cell's line, with a label at its end; ``style`` is Matplotlib's."""
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


def _curve(panel: Axes, cell: Cell, field: str, **style: Any) -> None:
    """Draw a field of `EpochRecord` by epoch; ``style`` is `_line`'s."""
    from matplotlib.ticker import MaxNLocator

    ys = cell.curve(field)
    _line(panel, cell, range(1, len(ys) + 1), ys, **style)
    epochs = int(_drawn(panel.xaxis).max())
    pad = 0.5 if epochs == 1 else min(0.03 * (epochs - 1), 0.45)
    panel.set_xlim(1 - pad, epochs + pad)
    panel.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))


def _by_number(
    panel: Axes, cells: Sequence[Cell], field: str, value: Callable[[RunRecord], float | None]
) -> None:
    """Draw each cell's mean by a number of its runs, with whiskers to the lowest and the highest.

    Where no run has a value, a cross in the framework's colour stands above the panel.
    """
    missing: list[tuple[Cell, int]] = []
    for cell in cells:
        found: dict[int, list[float]] = {number: [] for number in _numbers(cell.runs, field)}
        for run in cell.runs:
            if (result := value(run)) is not None:
                found[_number(run, field)].append(result)
        means = [fmean(results) if results else math.nan for results in found.values()]
        _line(panel, cell, list(found), means, markevery=1)
        for number, results in found.items():
            if not results:
                missing.append((cell, number))
            if len(results) > 1:
                ends = [min(results), max(results)]
                panel.plot([number, number], ends, "_-", color=cell.look.color, markersize=7)
    _doubling_axis(panel, _numbers([run for cell in cells for run in cell.runs], field))
    _mark_missing(panel, cells, missing)


def _number(record: RunRecord, field: str) -> int:
    return int(record.environment["threads"] if field == "threads" else getattr(record, field))


def _numbers(records: Iterable[RunRecord], field: str) -> list[int]:
    return sorted({_number(record, field) for record in records})


def _doubling_axis(panel: Axes, sizes: Sequence[int]) -> None:
    """Tick the real sizes on a log scale, named from the largest down where there is room."""
    from matplotlib.ticker import NullLocator

    pad = 2**0.5 * (sizes[-1] / sizes[0]) ** 0.01
    panel.set_xscale("log", base=2)
    panel.set_xlim(sizes[0] / pad, sizes[-1] * pad)
    inches = 3.6 / math.log2(sizes[-1] / sizes[0] * pad * pad)  # of a doubling
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
    """Mark what was not reached above the panel: a row to each architecture, frameworks abreast."""
    from matplotlib.transforms import ScaledTranslation

    archs = list(dict.fromkeys(cell.arch for cell, _ in missing))[::-1]
    heights = {arch: 11 + 15 * row for row, arch in enumerate(archs)}
    panel.set_title(panel.get_title("left"), loc="left", pad=10 + 16 * len(archs))
    for arch, height in heights.items():
        panel.annotate(
            f"{arch} not reached",
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
        abreast = [each for each in cells if each.arch == cell.arch]
        gap = min(11, 220 / len(panel.get_xticks()) / len(abreast))
        aside = gap * (abreast.index(cell) - (len(abreast) - 1) / 2)
        move = ScaledTranslation(aside / 72, heights[cell.arch] / 72, panel.figure.dpi_scale_trans)
        place = panel.get_xaxis_transform() + move
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


def _final_accuracies(panel: Axes, cells: Sequence[Cell]) -> None:
    texts = []
    for row, cell in zip(_rows(cells), cells, strict=True):
        figures = statistic(cell.values("test_accuracy"))
        panel.errorbar(
            figures["mean"],
            row,
            xerr=figures["ci95"],
            color=cell.look.color,
            marker=cell.look.marker,
            markersize=9,
            markerfacecolor="white" if cell.hollow else cell.look.color,
            markeredgewidth=1.8,
            capsize=5,
            elinewidth=2,
            clip_on=False,
        )
        interval = f" ± {figures['ci95']:.2f}" if figures["ci95"] else ""
        texts.append(f"{figures['mean']:.2f}{interval}")
    _scale_accuracy(panel.xaxis)
    _cell_axis(panel, cells, texts)


def _bars(panel: Axes, cells: Sequence[Cell], field: str, unit: str) -> None:
    """Draw a bar for each cell's mean, with a dot for each of several runs."""
    texts = []
    for row, cell in zip(_rows(cells), cells, strict=True):
        values = cell.values(field)
        mean = fmean(values)
        texts.append(f"{_three_digits(mean)} {unit}" if mean else "not known")
        panel.barh(
            row,
            mean,
            height=0.62,
            facecolor=(cell.look.color, 0.22 if cell.hollow else 1.0),
            edgecolor=cell.look.color,
            linestyle=cell.line_style,
            linewidth=1.5 if mean else 0,
        )
        if mean and len(values) > 1:
            panel.plot(
                values,
                [row] * len(values),
                "o",
                markersize=4.5,
                markerfacecolor="white",
                markeredgecolor=INK,
                clip_on=False,
            )
    highest = max(value for cell in cells for value in cell.values(field))
    panel.set_xlim(0, 1.04 * highest or 1)
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
            (1, row),
            (16, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            fontsize=FONT_POINTS,
            color=INK,
        )


def _boxed(panel: Axes, name: str, picture: Picture, answer: Prediction) -> None:
    """Draw a picture with its digits' boxes, numbered by what they were read as."""
    from matplotlib.patches import Rectangle

    height, width = (picture.original_scale * side for side in picture.pixels.shape[:2])
    panel.imshow(picture.pixels, cmap="gray", vmin=0, vmax=255, extent=(0, width, height, 0))
    for digit in answer.digits:
        left, top, right, bottom = digit.box
        color = RIGHT if digit.sure else WRONG
        panel.add_patch(
            Rectangle((left, top), right - left, bottom - top, fill=False, color=color, linewidth=2)
        )
        others = [other.box for other in answer.digits if other is not digit]
        x, y, ha, va = _beside(digit.box, others, width=width, height=height)
        backing = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8}
        style: dict[str, Any] = {"fontsize": FONT_POINTS, "color": color, "bbox": backing}
        panel.text(x, y, f"{digit.digit}", ha=ha, va=va, **style)
    panel.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))
    title = textwrap.shorten(Path(name).name, 40, placeholder="...")
    panel.set_title(title, loc="left", fontsize=FONT_POINTS, color=INK, parse_math=False)


def _beside(
    box: Box, others: Sequence[Box], *, width: float, height: float
) -> tuple[float, float, str, str]:
    """Return x, y and alignments of a label for a box, where it hides least.

    It stands above the box, right or left of it or below, the first of those that cover no other
    box and stay in the picture (``width`` x ``height`` pixels), or else that do so most.
    """
    left, top, right, bottom = box
    size = 0.08 * max(width, height)  # of a label, in the smallest panel there is
    places = [
        (left, top - size, (left, top, "left", "bottom")),
        (right, top, (right, top, "left", "top")),
        (left - size, top, (left, top, "right", "top")),
        (left, bottom, (left, bottom, "left", "top")),
    ]

    def shared(x: float, y: float, other: Sequence[float]) -> float:
        across = min(x + size, other[2]) - max(x, other[0])
        down = min(y + size, other[3]) - max(y, other[1])
        return max(0, across) * max(0, down)

    def hidden(x: float, y: float) -> int:
        outside = size**2 - shared(x, y, (0, 0, width, height))
        return round(outside + sum(shared(x, y, other) for other in others))

    *_, place = min(places, key=lambda place: hidden(*place[:2]))
    return place


def _probabilities(panel: Axes, digit: Digit) -> None:
    """Draw the probabilities of the ten digits as bars; likely ones are named."""
    colors = [FAINT] * CLASSES
    colors[digit.digit] = RIGHT if digit.sure else WRONG
    panel.bar(range(CLASSES), digit.probabilities, color=colors)
    panel.set(xlim=(-0.6, CLASSES - 0.4), ylim=(0, 1), yticks=[])
    named = [other for other, share in digit.top() if share >= 0.05]
    panel.set_xticks(named, [str(other) for other in named])
    panel.tick_params(labelsize=FONT_POINTS, labelcolor=INK, length=0)
    panel.spines[["top", "left", "right"]].set_visible(False)


def _share(share: float) -> str:
    return ">99%" if 0.995 <= share < 1 else f"{share:.0%}"


def _answer(panel: Axes, column: int, row: float, text: str, **style: Any) -> None:
    panel.text(column, row, text, ha="center", va="center", **{"fontsize": 13, **style})


def _drawn(axis: Axis) -> Array:
    """Return the finite values along an axis of all lines drawn in its panel."""
    lines = [getattr(line, f"get_{axis.axis_name}data")() for line in axis.axes.lines]
    values: Array = np.concatenate([np.asarray(line, dtype=float) for line in lines])
    return values[np.isfinite(values)]


def _scale(axis: Axis) -> None:
    """Fit an axis to its lines: a log scale from a factor of 10 on, else linear from 0."""
    from matplotlib.ticker import LogLocator, NullLocator

    values = _drawn(axis)
    _few_ticks(axis)
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


def _scale_accuracy(axis: Axis) -> None:
    axis.axes.set(**{f"{axis.axis_name}lim": _accuracy_limits(_drawn(axis))})
    _few_ticks(axis)


def _accuracy_limits(percents: Sequence[float] | Array) -> tuple[float, float]:
    """Return axis limits that show differences: around the values, never from 0, within 0-100."""
    low, high = min(percents), max(percents)
    pad = max(0.08 * (high - low), 0.1)
    return max(low - pad, 0.0), min(high + pad, 100.0)


def _few_ticks(axis: Axis) -> None:
    from matplotlib.ticker import MaxNLocator

    most = 4 if axis.axis_name == "x" else 6
    axis.set_major_locator(MaxNLocator(nbins=most, steps=[1, 2, 5, 10]))
    axis.set_major_formatter("{x:,g}")


def _cells(records: Sequence[RunRecord]) -> list[Cell]:
    """Group runs by architecture (CNN first), then framework."""
    if not records:
        raise UsageError("There is no finished run to draw. Train at least one network.")
    looks = framework_looks(record.framework for record in records)
    groups: dict[tuple[str, str], list[RunRecord]] = {}
    for record in records:
        groups.setdefault((_arch_name(record), record.framework), []).append(record)
    known = {arch: place for place, arch in enumerate(ARCHITECTURES)}
    order = sorted(groups, key=lambda key: (known.get(key[0], len(known)), *key))
    return [Cell(name, arch, looks[name], tuple(groups[arch, name])) for arch, name in order]


def _arch_name(record: RunRecord) -> str:
    return record.arch if record.activation == "relu" else f"{record.arch} {record.activation}"


def _short(name: str) -> str:
    return name if len(name) <= NAME_CHARACTERS else name[: NAME_CHARACTERS - 1] + "…"


def _percent(field: str) -> int:
    return 100 if field.endswith("accuracy") else 1


def _three_digits(value: float) -> str:
    """Return a number with about three digits: 1,234, 123, 12.3, 1.23."""
    decimals = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:,.{decimals}f}"


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _listed(items: Iterable[str]) -> str:
    *most, last = dict.fromkeys(items)
    return f"{', '.join(most)} and {last}" if most else last


def _wrong_of(wrong: int, total: int) -> str:
    share = f" ({wrong / total:.2%})" if total else ""
    return f"{wrong:,} wrong of {total:,}{share}"


def _models(cells: Sequence[Cell]) -> str:
    frameworks = _listed(sorted(_short(cell.framework) for cell in cells))
    return f"{_listed(cell.arch for cell in cells)} in {frameworks}"


def _datasets(records: Sequence[RunRecord]) -> str:
    return _listed(sorted(record.dataset for record in records))


def _facts(records: Sequence[RunRecord], notes: Sequence[str] = ()) -> list[str]:
    """Return runs, data, recipe, hardware and date: each once if it is the same for all runs."""
    points = Counter((run.framework, _arch_name(run), run.batch_size) for run in records)
    seeds = sorted({run.seed for run in records})
    facts = [
        f"n = {_run_count(points)}{' each' * (len(points) > 1)}, "
        f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}",
        *notes,
        *(f"{run.dataset}, {run.train_images:,} training images" for run in records),
        *(_plural(run.epochs, "epoch") for run in records),
        _learning_rates(records),
        *(f"labels smoothed by {run.label_smoothing:g}" for run in records if run.label_smoothing),
        *(run.precision for run in records if run.precision != "float32"),
        *("pictures bent anew each epoch" for run in records if run.augment),
        *(_hardware(run.environment) for run in records),
        *(str(run.environment.get("date", "")) for run in records),
    ]
    return [fact for fact in dict.fromkeys(facts) if fact]


def _run_count(points: Counter[Any]) -> str:
    fewest, most = min(points.values()), max(points.values())
    return _plural(most, "run") if fewest == most else f"{fewest} to {_plural(most, 'run')}"


def _learning_rates(records: Sequence[RunRecord]) -> str:
    """Return the batch size and peak learning rate, or by which rule the one follows the other."""
    rates = sorted({(run.batch_size, run.learning_rate) for run in records})
    (small, low), (large, high) = rates[0], rates[-1]
    if len(rates) == 1:
        return f"batch {small}, peak learning rate {low:.3g}"
    span = f"{low:.3g} at {small} to {high:.3g} at {large}, in proportion to"
    rules = {
        0: f"{low:.3g}",
        0.5: f"{span} the square root of batch size",
        1: f"{span} batch size",
    }
    for power, rule in rules.items():
        scaled = [low * (size / small) ** power for size, _ in rates]
        if np.allclose(scaled, [rate for _, rate in rates], rtol=1e-3):
            return f"peak learning rate {rule}"
    return "peak learning rate " + ", ".join(f"{rate:.3g} at {size}" for size, rate in rates)


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
    """Name each failed model once, with its batch size where the failure tells it."""
    names = Counter(
        f"{failure['framework']} {failure['arch']}"
        + (f" at batch {failure['batch_size']}" if "batch_size" in failure else "")
        for failure in failures
    )
    return [
        f"{name} failed" + (f" {count} times" if count > 1 else "") for name, count in names.items()
    ]

"""The chart of a comparison: frameworks and networks side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from mnist_cli.experiments.statistics import statistic
from mnist_cli.records import RunRecord
from mnist_cli.reporting.charts import networks
from mnist_cli.reporting.charts.captions import (
    dataset_names,
    experiment_caption,
    model_names,
    three_digits,
)
from mnist_cli.reporting.charts.panels import (
    accuracy_interval,
    draw_curve,
    draw_line,
    fit_accuracy_scale,
    fit_scale,
    label_panel,
    label_rows,
    row_positions,
    use_few_ticks,
)
from mnist_cli.reporting.charts.style import (
    INK,
    LINE_STYLES,
    Cell,
    figure_with_legend,
    group_by_cell,
    save,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


FILE_NAME = "comparison_results.png"
DESCRIPTION = (
    "Six views of one comparison. Loss and accuracy by epoch show whether the frameworks learn "
    "alike: given the same weights and batches, their lines should coincide. Accuracy against "
    "training seconds shows which gets there first. The bars below show the cost in time and "
    "memory."
)


def draw(
    records: Sequence[RunRecord], path: Path, *, failures: Iterable[Mapping[str, Any]] = ()
) -> None:
    """Draw frameworks and networks side by side, in six panels.

    Others than one CNN and one MLP are drawn by `networks`, which is for any number of them.
    ``failures`` have ``framework`` and ``arch``; the caption names them.
    """
    cells = group_by_cell(records)
    if not {cell.network for cell in cells} <= LINE_STYLES.keys():
        networks.draw(records, path, failures=failures)
        return
    several = any(len(cell.runs) > 1 for cell in cells)
    title = f"{model_names(cells)}, trained on {dataset_names(records)}"
    figure, rows = figure_with_legend(title, cells, [max(3.7, 1.3 + 0.34 * len(cells))] * 3)
    loss, accuracy, convergence, final, seconds, memory = (
        panel for row in rows for panel in row.subplots(1, 2)
    )
    label_panel(loss, "Loss: validation (bold), training (faint)", "epoch", "loss per image")
    label_panel(accuracy, "Test accuracy by epoch", "epoch", "test accuracy, %")
    label_panel(
        convergence,
        "Validation accuracy by training time",
        "training seconds",
        "validation accuracy, %",
    )
    for cell in cells:
        draw_curve(loss, cell, "train_loss", linewidth=1.2, alpha=0.4, markersize=3, zorder=2)
        draw_curve(loss, cell, "validation_loss", label=cell.name)
        draw_curve(accuracy, cell, "test_accuracy", label=cell.name)
        time, correct = cell.curve("train_seconds"), cell.curve("validation_accuracy")
        draw_line(convergence, cell, time, correct, linewidth=2)
    fit_scale(loss.yaxis)
    fit_accuracy_scale(accuracy.yaxis)
    fit_accuracy_scale(convergence.yaxis)
    fit_scale(convergence.xaxis)
    label_panel(final, f"Final test accuracy{', 95% interval' * several}", "test accuracy, %")
    _final_accuracies(final, cells)
    label_panel(seconds, "Total training time", "training seconds, without evaluation")
    _bars(seconds, cells, "train_seconds", "s")
    label_panel(memory, "Peak memory of the process", "peak memory, MiB")
    _bars(memory, cells, "peak_rss_mib", "MiB")
    notes = ["lines and bars: mean of runs; white dots: single runs"] * several
    save(figure, path, experiment_caption(records, notes, failures))


def _final_accuracies(panel: Axes, cells: Sequence[Cell]) -> None:
    """Draw the mean final test accuracy of each cell with its 95% interval."""
    texts = []
    for row, cell in zip(row_positions(cells), cells, strict=True):
        figures = statistic(cell.values("test_accuracy"))
        panel.errorbar(
            figures["mean"],
            row,
            xerr=accuracy_interval(figures),
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
    fit_accuracy_scale(panel.xaxis)
    label_rows(panel, cells, texts)


def _bars(panel: Axes, cells: Sequence[Cell], field: str, unit: str) -> None:
    """Draw the mean of a `RunRecord` field as a bar per cell, with a dot for each run."""
    texts = []
    for row, cell in zip(row_positions(cells), cells, strict=True):
        values = cell.values(field)
        mean = fmean(values)
        texts.append(f"{three_digits(mean)} {unit}" if mean else "not known")
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
    use_few_ticks(panel.xaxis)
    label_rows(panel, cells, texts)

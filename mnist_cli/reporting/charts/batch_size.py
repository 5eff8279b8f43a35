"""The chart of a batch-size sweep: accuracy and speed by batch size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mnist_cli.records import RunRecord
from mnist_cli.reporting.charts.captions import (
    dataset_names,
    experiment_caption,
    listed,
    model_names,
)
from mnist_cli.reporting.charts.panels import (
    WHISKERS,
    draw_by_number,
    fit_accuracy_scale,
    fit_scale,
    label_panel,
)
from mnist_cli.reporting.charts.style import (
    Cell,
    figure_with_legend,
    group_by_cell,
    network_of,
    save,
)

_MAX_IN_PANEL = 3  # networks, each in every framework
FILE_NAME = "batch_size_comparison.png"
DESCRIPTION = (
    "Larger batches use the processor better but take fewer steps: the effect on accuracy, on the "
    "time per epoch, on throughput and on the time to 98% validation accuracy."
)


def draw(
    records: Sequence[RunRecord], path: Path, *, failures: Iterable[Mapping[str, Any]] = ()
) -> None:
    """Draw accuracy and speed by batch size, in four panels.

    Of more than three networks each has two panels of its own. ``failures`` have ``framework`` and
    ``arch``; the caption names them.
    """
    cells = group_by_cell(records)
    if len({cell.network for cell in cells}) > _MAX_IN_PANEL:
        _draw_networks(records, cells, path, failures)
        return
    title = f"{model_names(cells)} by batch size, on {dataset_names(records)}"
    figure, rows = figure_with_legend(title, cells, [3.9, 3.9])
    # A subfigure per panel, so that marks above one panel do not shrink its neighbour.
    accuracy, epoch, throughput, target = (
        half.subplots() for row in rows for half in row.subfigures(1, 2, squeeze=False).ravel()
    )
    label_panel(accuracy, "Final test accuracy", "batch size", "test accuracy, %")
    draw_by_number(accuracy, cells, "batch_size", lambda run: 100 * run.test_accuracy)
    fit_accuracy_scale(accuracy.yaxis)
    label_panel(epoch, "Training time per epoch", "batch size", "training seconds")
    draw_by_number(epoch, cells, "batch_size", lambda run: run.train_seconds / len(run.history))
    fit_scale(epoch.yaxis)
    label_panel(throughput, "Throughput", "batch size", "images per second")
    draw_by_number(throughput, cells, "batch_size", lambda run: run.images_per_second)
    fit_scale(throughput.yaxis)
    label_panel(target, "Time to 98% validation accuracy", "batch size", "training seconds")
    draw_by_number(target, cells, "batch_size", lambda run: run.time_to_accuracy["0.98"])
    fit_scale(target.yaxis)
    points = {(run.framework, network_of(run), run.batch_size) for run in records}
    notes = [
        "lines: mean of runs (time to 98%: of runs that reached it)",
        WHISKERS,
    ] * (len(records) > len(points))
    save(figure, path, experiment_caption(records, notes, failures))


def _draw_networks(
    records: Sequence[RunRecord],
    cells: Sequence[Cell],
    path: Path,
    failures: Iterable[Mapping[str, Any]],
) -> None:
    """Draw a row for each network: accuracy and throughput by batch size."""
    networks = list(dict.fromkeys(cell.network for cell in cells))
    title = (
        f"{len(networks)} networks in {listed(sorted(cell.framework for cell in cells))} "
        f"by batch size, on {dataset_names(records)}"
    )
    figure, rows = figure_with_legend(title, cells, [2.7] * len(networks), is_by_network=False)
    for network, row in zip(networks, rows, strict=True):
        own = [replace(cell, line_style="-") for cell in cells if cell.network == network]
        accuracy, throughput = row.subplots(1, 2)
        label_panel(accuracy, network, "batch size", "test accuracy, %")
        draw_by_number(accuracy, own, "batch_size", lambda run: 100 * run.test_accuracy)
        fit_accuracy_scale(accuracy.yaxis)
        label_panel(throughput, "", "batch size", "images per second")
        draw_by_number(throughput, own, "batch_size", lambda run: run.images_per_second)
        fit_scale(throughput.yaxis)
    points = {(run.framework, network_of(run), run.batch_size) for run in records}
    notes = ["lines: mean of runs", WHISKERS] * (len(records) > len(points))
    save(figure, path, experiment_caption(records, notes, failures))

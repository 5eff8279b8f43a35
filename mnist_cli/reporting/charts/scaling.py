"""The chart of `tests/benchmarks/scaling.py`: throughput by images, batch size and threads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mnist_cli.names import plural
from mnist_cli.records import RunRecord
from mnist_cli.reporting.charts.captions import (
    dataset_names,
    facts,
    model_names,
    run_count,
    spoilt_by,
)
from mnist_cli.reporting.charts.panels import (
    WHISKERS,
    draw_by_number,
    fit_scale,
    label_panel,
    number_of,
)
from mnist_cli.reporting.charts.style import (
    figure_with_legend,
    group_by_cell,
    network_of,
    save,
)


def draw(groups: Mapping[str, Sequence[RunRecord]], path: Path) -> None:
    """Draw images per second against one variable per panel.

    ``groups`` maps ``train_images``, ``batch_size`` and ``threads`` to the runs that vary it.
    """
    records = [record for group in groups.values() for record in group]
    cells = group_by_cell(records)
    title = f"{model_names(cells)}: throughput scaling on {dataset_names(records)}"
    figure, rows = figure_with_legend(title, cells, [3.9, 3.9])
    panels = [half.subplots() for row in rows for half in row.subfigures(1, 2, squeeze=False)[0]]
    for field, panel in zip(groups, panels, strict=False):
        name = field.replace("train_images", "training images").replace("_", " ")
        label_panel(panel, f"Throughput by {name}", name, "images per second")
        draw_by_number(
            panel, group_by_cell(groups[field]), field, lambda run: run.images_per_second
        )
        fit_scale(panel.yaxis)
    for panel in panels[len(groups) :]:
        panel.set_visible(False)
    usual = records[-1]
    points = Counter(
        (field, run.framework, network_of(run), number_of(run, field))
        for field, group in groups.items()
        for run in group
    )
    # Threads vary between runs, and the number of epochs follows from that of images: leave out.
    bare = replace(usual, environment={**usual.environment, "threads": None})
    _, data, _, rate, *others = facts([bare])
    caption = [
        f"n = {run_count(points)} per point, seed {usual.seed}",
        *["lines: mean of runs", WHISKERS] * (max(points.values()) > 1),
        f"where not varied: {data}, {rate}, {plural(number_of(usual, 'threads'), 'thread')}",
        *others,
        *spoilt_by(records),
    ]
    save(figure, path, caption)

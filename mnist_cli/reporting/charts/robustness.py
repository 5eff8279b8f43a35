"""The chart of robustness: how accurate and how often sure models stay, by disturbance."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_cli.experiments.robustness import Curve, Robustness
from mnist_cli.names import dataset_name
from mnist_cli.reporting.charts.panels import label_panel
from mnist_cli.reporting.charts.style import (
    FONT_POINTS,
    INK,
    LOOKS,
    SPARE_LOOKS,
    new_figure,
    save,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# A colour and a marker for each model; after these they begin again with dashed lines.
_LOOKS = (*LOOKS.values(), *SPARE_LOOKS)
_LEGEND_COLUMNS = 4
_ROW_INCHES = 2.2
_NAME_CHARACTERS = 28  # of a model in the legend


def draw(robustness: Robustness, path: Path) -> None:
    """Draw a row for each disturbance: accuracy, and how often models are sure, by degree."""
    models = list(dict.fromkeys(curve.model for curve in robustness.curves))
    disturbances = list(dict.fromkeys(curve.disturbance for curve in robustness.curves))
    legend_rows = math.ceil(len(models) / _LEGEND_COLUMNS)
    heights = [0.35 * legend_rows, *[_ROW_INCHES] * len(disturbances)]
    title = f"How robust models are, by {len(disturbances)} disturbances of "
    figure = new_figure(
        1.4 + sum(heights), f"{title}{dataset_name(robustness.dataset)}'s test images"
    )
    top, *rows = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights).ravel()
    for row, disturbance in zip(rows, disturbances, strict=True):
        accuracy, sure = row.subplots(1, 2)
        curves = [curve for curve in robustness.curves if curve.disturbance == disturbance]
        axis = f"{disturbance}, {curves[0].unit}"
        label_panel(accuracy, f"Under {disturbance}", axis, "accuracy, %")
        label_panel(sure, "Sure, and sure but wrong (hollow)", axis, "images, %")
        for curve in curves:
            number = models.index(curve.model)
            _draw_curve(accuracy, curve, "accuracy", number)
            _draw_curve(sure, curve, "sure", number)
            _draw_curve(sure, curve, "sure_and_wrong", number, is_hollow=True)
        for panel in (accuracy, sure):
            panel.set_ylim(0, 104)
            panel.set_yticks((0, 25, 50, 75, 100))
            panel.set_xticks(sorted({point.degree for curve in curves for point in curve.points}))
            panel.xaxis.set_major_formatter("{x:g}")
    lines = rows[0].axes[0].lines
    top.legend(
        handles=lines,
        labels=[_shortened(model) for model in models],
        loc="center",
        ncols=min(len(models), _LEGEND_COLUMNS),
        fontsize=FONT_POINTS,
        labelcolor=INK,
        frameon=False,
    )
    caption = [
        f"{robustness.images:,} images, the same for each model, seed {robustness.seed}",
        "accuracy: share whose most probable digit is right",
        "sure: called sure as in mnist predict",
    ]
    save(figure, path, caption)


def _shortened(name: str) -> str:
    """Return the end of a model's name, so that four fit side by side."""
    return name if len(name) <= _NAME_CHARACTERS else f"…{name[1 - _NAME_CHARACTERS :]}"


def _draw_curve(
    panel: Axes, curve: Curve, field: str, number: int, *, is_hollow: bool = False
) -> None:
    """Draw a figure of a curve's points, in percent, by degree; ``number`` is the model's."""
    look = _LOOKS[number % len(_LOOKS)]
    panel.plot(
        [point.degree for point in curve.points],
        [100 * getattr(point, field) for point in curve.points],
        color=look.color,
        linestyle=":" if is_hollow else "--" if number >= len(_LOOKS) else "-",
        linewidth=2,
        marker=look.marker,
        markersize=6,
        markerfacecolor="white" if is_hollow else look.color,
        clip_on=False,
    )

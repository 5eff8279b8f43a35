"""The confusion matrix of a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mnist_cli.names import DIGITS
from mnist_cli.reporting.charts.captions import wrong_of
from mnist_cli.reporting.charts.style import FONT_POINTS, INK, TITLE_POINTS, new_figure, save

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

_POINTS, _LEAST_POINTS = 13.0, 6.5  # of counts, of few classes and of many
_FEW = 12  # classes, of which the counts of 0 are written too
_MOST_WRITTEN = 40  # classes; of more only the colours show counts


def draw(matrix: ArrayLike, path: Path, *, title: str, class_names: Sequence[str] = DIGITS) -> None:
    """Draw a confusion matrix of counts: rows are true classes, columns predicted ones."""
    counts = np.asarray(matrix)
    total, classes = int(counts.sum()), len(counts)
    figure = new_figure(9.6, f"{title}: {wrong_of(total - int(np.trace(counts)), total)}")
    panel = figure.subplots()
    errors = np.ma.masked_array(counts, mask=np.eye(classes, dtype=bool))
    highest = max(int(errors.max()), 1)
    panel.set_facecolor("#E9ECEF")  # shows through on the diagonal
    panel.imshow(errors, cmap="Oranges", vmin=0, vmax=highest * 1.25)
    points = max(_LEAST_POINTS, min(_POINTS, _POINTS * 17 / classes))
    written = counts if classes <= _MOST_WRITTEN else counts[:0]
    for (true, predicted), count in np.ndenumerate(written):
        if not count and classes > _FEW:
            continue
        is_error = bool(count) and true != predicted
        is_dark = is_error and count > 0.75 * highest
        panel.text(
            predicted,
            true,
            f"{count:.0f}",
            ha="center",
            va="center",
            fontsize=points,
            fontweight="bold" if is_error else "normal",
            color="white" if is_dark else INK if count else "#BBBBBB",
        )
    longest = max(map(len, class_names))
    step = -(-classes // _MOST_WRITTEN)  # names on an axis have room for some
    ticks = range(0, classes, step)
    names = [class_names[tick].replace("$", r"\$") for tick in ticks]  # no mathematics
    panel.set_xticks(ticks, names, rotation=90 if longest > 2 and classes > 5 else 0)
    panel.set_yticks(ticks, names)
    panel.set_xticks(np.arange(classes + 1) - 0.5, minor=True)
    panel.set_yticks(np.arange(classes + 1) - 0.5, minor=True)
    panel.grid(which="minor", color="white", linewidth=2 if classes <= _MOST_WRITTEN else 0.3)
    label_points = TITLE_POINTS if classes <= _FEW and longest <= 2 else FONT_POINTS
    panel.tick_params(which="both", length=0, labelsize=label_points, labelcolor=INK)
    panel.spines[:].set_visible(False)
    kind = "digit" if tuple(class_names) == DIGITS else "class"
    panel.set_xlabel(f"predicted {kind}", fontsize=TITLE_POINTS, color=INK)
    panel.set_ylabel(f"true {kind}", fontsize=TITLE_POINTS, color=INK, labelpad=10)
    caption = ["Counts of images", "grey: correct", "orange: errors, darker for more"]
    save(figure, path, caption)

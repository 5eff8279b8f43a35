"""The confusion matrix of a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mnist_cli.arrays import CLASSES
from mnist_cli.reporting.charts.captions import wrong_of
from mnist_cli.reporting.charts.style import INK, TITLE_POINTS, new_figure, save

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def draw(matrix: ArrayLike, path: Path, *, title: str) -> None:
    """Draw a confusion matrix (10, 10) of counts: rows are true digits, columns predicted ones."""
    counts = np.asarray(matrix)
    total = int(counts.sum())
    figure = new_figure(9.6, f"{title}: {wrong_of(total - int(np.trace(counts)), total)}")
    panel = figure.subplots()
    errors = np.ma.masked_array(counts, mask=np.eye(CLASSES, dtype=bool))
    highest = max(int(errors.max()), 1)
    panel.set_facecolor("#E9ECEF")  # shows through on the diagonal
    panel.imshow(errors, cmap="Oranges", vmin=0, vmax=highest * 1.25)
    for (true, predicted), count in np.ndenumerate(counts):
        is_error = bool(count) and true != predicted
        is_dark = is_error and count > 0.75 * highest
        panel.text(
            predicted,
            true,
            f"{count:.0f}",
            ha="center",
            va="center",
            fontsize=13,
            fontweight="bold" if is_error else "normal",
            color="white" if is_dark else INK if count else "#BBBBBB",
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
    caption = ["Counts of images", "grey: correct", "orange: errors, darker for more"]
    save(figure, path, caption)

"""The same test images as each model of a comparison classifies them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnist_cli.arrays import Array
from mnist_cli.names import DIGITS
from mnist_cli.records import RunRecord
from mnist_cli.reporting.charts.captions import dataset_names, facts, shortened
from mnist_cli.reporting.charts.panels import label_rows, row_positions
from mnist_cli.reporting.charts.style import (
    FONT_POINTS,
    INK,
    RIGHT,
    RIGHT_FILL,
    WIDTH_INCHES,
    WRONG,
    group_by_cell,
    new_figure,
    save,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

MODEL_SAMPLES = 12
_SMALL_POINTS = 7.5  # of names of several letters
FILE_NAME = "sample_predictions.png"
DESCRIPTION = (
    "The same test digits as each model classifies them: green with a check mark is correct, red "
    "with a cross is wrong. Digits on which the models disagree come first."
)


def draw(
    images: Array,
    labels: ArrayLike,
    records: Sequence[RunRecord],
    path: Path,
    *,
    class_names: Sequence[str] = DIGITS,
) -> None:
    """Draw 12 test images with the predictions of every model, most disagreement first.

    images: (N, 28, 28), uint8. labels: (N,), classes. The run with the lowest
    seed is shown for each model.
    """
    names = [shortened(name) for name in class_names]
    size = {} if max(map(len, names)) <= 2 else {"fontsize": _SMALL_POINTS}
    kind = "digit" if tuple(class_names) == DIGITS else "image"
    cells = group_by_cell(records)
    runs = [min(cell.runs, key=lambda run: run.seed) for cell in cells]
    true = np.asarray(labels)
    answers = _answers(runs, true)
    alike = int((answers == answers[0]).all(axis=0).sum())
    missed = int((answers != true).all(axis=0).sum())
    rows = row_positions(cells)
    last = rows[-1] + 0.9
    name_inches = 0.085 * max(len(cell.name) for cell in cells)
    row_inches, column_inches = 0.36, (WIDTH_INCHES - 1.3 - name_inches) / MODEL_SAMPLES
    image_rows = column_inches / row_inches
    figure = new_figure(
        1.25 + row_inches * (last + 2 + image_rows),
        f"{dataset_names(runs)}: all models agree on {alike:,} of {len(true):,} test {kind}s, "
        f"and all are wrong on {missed:,}",
    )
    panel = figure.subplots()
    chosen = most_disputed(answers, true, MODEL_SAMPLES)
    for column, index in enumerate(chosen):
        box = (column - 0.46, column + 0.46, -1.5, -1.5 - 0.92 * image_rows)
        panel.imshow(images[index], cmap="gray_r", vmin=0, vmax=255, extent=box)
        own = names[true[index]]
        _draw_prediction(panel, column, -1, own, color=INK, fontweight="bold", **size)
        for row, digit in zip(rows, answers[:, index], strict=True):
            right = digit == true[index]
            fill = RIGHT_FILL if right else WRONG
            panel.barh(row, 0.92, left=column - 0.46, height=0.84, color=fill)
            between = "\n" if size else " "
            text = f"{'✓' if right else '✗'}{between}{names[digit]}"
            _draw_prediction(panel, column, row, text, color=RIGHT if right else "white", **size)
        _draw_prediction(panel, column, last, f"{index}", color=INK, fontsize=FONT_POINTS)
    label_rows(panel, cells, [f"{len(run.test_errors):,} wrong" for run in runs])
    labels_of_rows = [
        f"true {'digit' if kind == 'digit' else 'class'}",
        *(cell.name for cell in cells),
        "test image",
    ]
    panel.set_yticks([-1, *rows, last], labels_of_rows)
    panel.set(xticks=[], xlim=(-0.5, MODEL_SAMPLES - 0.5))
    panel.set(ylim=(last + 0.5, -1.5 - image_rows), aspect=row_inches / column_inches)
    panel.tick_params(length=0, labelsize=FONT_POINTS, labelcolor=INK)
    panel.spines[:].set_visible(False)
    save(figure, path, [f"{kind}s with most disagreement first", *facts(runs)])


def _answers(runs: Sequence[RunRecord], labels: Array) -> Array:
    """Return what each run predicts of the test images: (runs, N)."""
    answers = np.tile(labels, (len(runs), 1))
    for row, run in zip(answers, runs, strict=True):
        for index, predicted in run.test_errors:
            row[index] = predicted
    return answers


def most_disputed(answers: Array, labels: Array, count: int) -> Array:
    """Return the indices of up to ``count`` images, those with most disagreement first.

    Images on which all models agree come last, wrong ones before correct ones.
    answers: (models, N), classes. labels: (N,), classes.
    """
    votes = (answers[:, None] == answers).sum(axis=0)  # of each model's answer: (models, N)
    all_right = (answers == labels).all(axis=0)
    return np.lexsort((all_right, votes.max(axis=0)))[:count]  # stable; the last key is primary


def _draw_prediction(panel: Axes, column: int, row: float, text: str, **style: Any) -> None:
    panel.text(
        column, row, text, ha="center", va="center", parse_math=False, **{"fontsize": 13, **style}
    )

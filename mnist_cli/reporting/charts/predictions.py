"""Sample predictions of one model: the most confident errors and correct ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mnist_cli.arrays import Array
from mnist_cli.names import DIGITS
from mnist_cli.reporting.charts.captions import percentage, shortened, wrong_of
from mnist_cli.reporting.charts.style import FONT_POINTS, RIGHT, WRONG, new_figure, save

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

GRID_SAMPLES = 40
GRID_COLUMNS = 8
_WIDE_POINTS = 9.0  # of names of several letters


def draw(
    images: Array,
    labels: ArrayLike,
    predictions: ArrayLike,
    confidences: ArrayLike,
    path: Path,
    *,
    title: str,
    class_names: Sequence[str] = DIGITS,
) -> None:
    """Draw up to 40 images with label and prediction, the most confident errors first.

    images: (N, 28, 28), uint8. labels, predictions: (N,), classes. confidences: (N,), 0-1.
    """
    names = [shortened(name) for name in class_names]
    true, predicted = np.asarray(labels), np.asarray(predictions)
    confidence = np.asarray(confidences)
    chosen = choose_samples(true, predicted, confidence, GRID_SAMPLES)
    rows = max(math.ceil(len(chosen) / GRID_COLUMNS), 1)
    wrong = int(np.count_nonzero(true != predicted))
    is_wide = max(map(len, names)) > 2
    figure = new_figure(
        1.2 + (1.65 if is_wide else 1.5) * rows, f"{title}: {wrong_of(wrong, len(true))}"
    )
    panels = figure.subplots(rows, GRID_COLUMNS, squeeze=False).ravel()
    for panel in panels[len(chosen) :]:
        panel.set_axis_off()
    for panel, index in zip(panels, chosen, strict=False):
        right = true[index] == predicted[index]
        color = RIGHT if right else WRONG
        panel.imshow(images[index], cmap="gray_r", vmin=0, vmax=255)
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set_color(color)
        panel.spines[:].set_linewidth(1.5 if right else 3)
        own, other = names[true[index]], names[predicted[index]]
        share, between = percentage(confidence[index]), "\n" if is_wide else " "
        text = f"✓ {own},{between}{share}" if right else f"✗ {own}{between}→ {other}, {share}"
        panel.set_title(
            text,
            fontsize=_WIDE_POINTS if is_wide else FONT_POINTS,
            color=color,
            pad=5,
            parse_math=False,
        )
    own, other = (names[5], names[3]) if len(names) > 5 else names[:2]
    example = f"✗ {own} → {other}, 97%: {own} classified as {other} with 97% confidence"
    if tuple(class_names) == DIGITS:
        example = "✗ 5 → 3, 97%: a 5 classified as 3 with 97% confidence"
    save(figure, path, [example, "most confident errors first", "✓ correct"])


def choose_samples(labels: Array, predictions: Array, confidences: Array, count: int) -> Array:
    """Return the indices of up to ``count`` images: errors, then correct predictions.

    Half are the most confident errors, half are correct ones, evenly spaced over the set. If there
    are too few of one kind, the other fills the rest.
    """
    wrong = np.flatnonzero(labels != predictions)
    right = np.flatnonzero(labels == predictions)
    wrong_count = min(len(wrong), max(count // 2, count - len(right)))
    right_count = min(len(right), count - wrong_count)
    most_confident = wrong[np.argsort(-confidences[wrong], kind="stable")][:wrong_count]
    evenly_spaced = np.linspace(0, len(right) - 1, right_count).astype(int)
    return np.concatenate([most_confident, right[evenly_spaced]])

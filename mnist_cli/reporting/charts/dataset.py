"""Samples of each class of a data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mnist_cli.arrays import IMAGE_SIZE, Array
from mnist_cli.data.dataset import Dataset
from mnist_cli.names import dataset_name
from mnist_cli.reporting.charts.captions import shortened
from mnist_cli.reporting.charts.style import FONT_POINTS, INK, WIDTH_INCHES, new_figure, save

# Columns of classes, and samples of each: for up to so many classes.
_LAYOUTS = ((13, 1, 20), (52, 2, 9), (256, 4, 4))
_GAP = 3  # pixels between samples


def draw(dataset: Dataset, path: Path) -> None:
    """Draw training images of each class, spread evenly over the file, with the class's count."""
    names, labels = dataset.class_names, dataset.train_labels
    columns, samples = next(layout[1:] for layout in _LAYOUTS if len(names) <= layout[0])
    rows = -(-len(names) // columns)
    label_inches = 0.3 + 0.09 * max(len(_row_name(shortened(name), 10**4)) for name in names)
    inches = (WIDTH_INCHES / columns - label_inches) / samples  # of a sample
    title = f"{dataset_name(dataset.name)}: {len(labels):,} training images of {len(names)} classes"
    figure = new_figure(1.1 + rows * inches, title)
    panels = figure.subplots(1, columns, squeeze=False)[0]
    for column, panel in enumerate(panels):
        shown = range(column * rows, min((column + 1) * rows, len(names)))
        strips = [_strip(dataset, label, samples) for label in shown]
        missing = [np.zeros_like(strips[0])] * (rows - len(strips))
        panel.imshow(np.concatenate([*strips, *missing]), cmap="gray_r", vmin=0, vmax=255)
        cell = IMAGE_SIZE + _GAP
        counts = [int(np.count_nonzero(labels == label)) for label in shown]
        texts = [
            _row_name(shortened(names[label]), count)
            for label, count in zip(shown, counts, strict=True)
        ]
        panel.set_yticks([cell * row + cell / 2 for row in range(len(strips))], texts)
        for text in panel.get_yticklabels():
            text.set_parse_math(False)
        panel.set_xticks([])
        panel.tick_params(length=0, labelsize=FONT_POINTS, labelcolor=INK)
        panel.spines[:].set_visible(False)
    save(figure, path, ["class and number of its training images", "spread over the whole set"])


def _row_name(name: str, count: int) -> str:
    return f"{name}  {count:,}"


def _strip(dataset: Dataset, label: int, samples: int) -> Array:
    """Return up to ``samples`` images of a class side by side, with gaps: (31, n * 31), uint8."""
    strip = np.zeros((IMAGE_SIZE + _GAP, samples * (IMAGE_SIZE + _GAP)), np.uint8)
    rows = np.flatnonzero(dataset.train_labels == label)
    chosen = np.linspace(0, len(rows) - 1, min(samples, len(rows))).astype(int)
    for place, row in enumerate(rows[chosen]):
        left = place * (IMAGE_SIZE + _GAP)
        strip[:IMAGE_SIZE, left : left + IMAGE_SIZE] = dataset.train_images[row]
    return strip

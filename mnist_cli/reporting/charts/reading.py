"""Pictures as `mnist predict` reads them: lines, boxes, prepared digits and probabilities."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_cli.names import DIGITS
from mnist_cli.reporting.charts.captions import listed, percentage, shortened
from mnist_cli.reporting.charts.style import (
    FAINT,
    FONT_POINTS,
    INK,
    RIGHT,
    TITLE_CHARACTERS,
    WRONG,
    new_figure,
    save,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mnist_cli.pictures.components import Box
    from mnist_cli.pictures.opening import Picture, Source
    from mnist_cli.prediction import Digit, Prediction

PICTURE_COLUMNS = 3  # the width of a picture in columns of digits
DIGIT_COLUMNS = 6
MAX_DIGITS = 24


def draw(readings: Sequence[tuple[str, Source, Prediction]], path: Path, *, pictures: int) -> None:
    """Draw pictures with lines and boxes, the network's input, and its probabilities.

    readings: name, source and answer of each picture. ``pictures`` is how many were read in all.
    """
    from mnist_cli.pictures.opening import open_picture

    rows = [
        math.ceil(min(len(answer.digits), MAX_DIGITS) / DIGIT_COLUMNS) for *_, answer in readings
    ]
    heights = [0.5 + 2.3 * count for count in rows]
    texts = listed([answer.text.replace("\n", " / ") for *_, answer in readings])
    figure = new_figure(0.9 + sum(heights), textwrap.shorten(texts, 2 * TITLE_CHARACTERS))
    parts = figure.subfigures(len(readings), 1, squeeze=False, height_ratios=heights)
    for part, count, (name, source, answer) in zip(parts[:, 0], rows, readings, strict=True):
        grid = part.add_gridspec(
            2 * count, PICTURE_COLUMNS + DIGIT_COLUMNS, height_ratios=[1.1, 0.8] * count
        )
        _draw_boxes(part.add_subplot(grid[:, :PICTURE_COLUMNS]), name, open_picture(source), answer)
        for number, digit in enumerate(answer.digits[:MAX_DIGITS]):
            row, column = divmod(number, DIGIT_COLUMNS)
            panel = part.add_subplot(grid[2 * row, PICTURE_COLUMNS + column])
            panel.imshow(digit.image, cmap="gray", vmin=0, vmax=255)
            panel.set(xticks=[], yticks=[])
            color = RIGHT if digit.sure else WRONG
            label = shortened(digit.label)
            text = f"{label}{'' if digit.sure else '?'}, {percentage(digit.confidence)}"
            panel.set_title(text, fontsize=FONT_POINTS, color=color, pad=5)
            _probabilities(part.add_subplot(grid[2 * row + 1, PICTURE_COLUMNS + column]), digit)
    is_digits = all(answer.digits[0].class_names == DIGITS for *_, answer in readings)
    shown = "the probabilities of 0 to 9" if is_digits else "the probabilities of all classes"
    notes = [f"digits as the network sees them, with {shown}", "? not sure"]
    if any(len(answer.digits) > 1 for *_, answer in readings):
        notes.append("lines: the order of reading, from the dot on")
    if any(answer.rejected for *_, answer in readings):
        notes.append("dashed: taken for no digit")
    if pictures > len(readings):
        notes.append(f"the first {len(readings)} of {pictures:,} pictures")
    if any(len(answer.digits) > MAX_DIGITS for *_, answer in readings):
        notes.append(f"at most {MAX_DIGITS} digits per picture")
    save(figure, path, notes)


def _draw_boxes(panel: Axes, name: str, picture: Picture, answer: Prediction) -> None:
    """Draw a picture with lines of text, a labelled box around each digit, and what is none."""
    from matplotlib.patches import Rectangle

    height, width = (picture.original_scale * side for side in picture.pixels.shape[:2])
    panel.imshow(picture.pixels, cmap="gray", vmin=0, vmax=255, extent=(0, width, height, 0))
    for left, top, right, bottom in answer.rejected:
        size = right - left, bottom - top
        style: dict[str, Any] = {
            "fill": False,
            "edgecolor": FAINT,
            "linewidth": 1,
            "linestyle": "--",
        }
        panel.add_patch(Rectangle((left, top), *size, **style))
    for line in answer.lines():
        xs = [(digit.box[0] + digit.box[2]) / 2 for digit in line]
        ys = [(digit.box[1] + digit.box[3]) / 2 for digit in line]
        if len(line) > 1:
            panel.plot(xs, ys, color=INK, linewidth=1, alpha=0.5)
            panel.plot(xs[0], ys[0], "o", color=INK, markersize=4, alpha=0.5)
    for digit in answer.digits:
        left, top, right, bottom = digit.box
        color = RIGHT if digit.sure else WRONG
        panel.add_patch(
            Rectangle((left, top), right - left, bottom - top, fill=False, color=color, linewidth=2)
        )
        others = [other.box for other in answer.digits if other is not digit]
        x, y, ha, va = _label_place(digit.box, others, width=width, height=height)
        backing = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8}
        text: dict[str, Any] = {"fontsize": FONT_POINTS, "color": color, "bbox": backing}
        panel.text(x, y, shortened(digit.label), ha=ha, va=va, **text)
    panel.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))
    title = textwrap.shorten(Path(name).name, 40, placeholder="...")
    if answer.rotation:
        title += f"\nturned by {answer.rotation} degrees to be read"
    panel.set_title(title, loc="left", fontsize=FONT_POINTS, color=INK, parse_math=False)


def _label_place(
    box: Box, others: Sequence[Box], *, width: float, height: float
) -> tuple[float, float, str, str]:
    """Return x, y and alignments for the label of a box, where it covers least.

    Candidates are above, right, left and below. The first that covers no other box and lies in the
    picture (``width`` x ``height`` pixels) is taken, else the one that covers least.
    """
    left, top, right, bottom = box
    size = 0.08 * max(width, height)  # of a label in the smallest panel
    places = [
        (left, top - size, (left, top, "left", "bottom")),
        (right, top, (right, top, "left", "top")),
        (left - size, top, (left, top, "right", "top")),
        (left, bottom, (left, bottom, "left", "top")),
    ]

    def overlap(x: float, y: float, other: Sequence[float]) -> float:
        across = min(x + size, other[2]) - max(x, other[0])
        down = min(y + size, other[3]) - max(y, other[1])
        return max(0, across) * max(0, down)

    def covered(x: float, y: float) -> int:
        outside = size**2 - overlap(x, y, (0, 0, width, height))
        return round(outside + sum(overlap(x, y, other) for other in others))

    *_, place = min(places, key=lambda place: covered(*place[:2]))
    return place


def _probabilities(panel: Axes, digit: Digit) -> None:
    """Draw the probabilities of the classes as bars, with ticks at the likely ones."""
    classes = len(digit.probabilities)
    colors = [FAINT] * classes
    colors[digit.digit] = RIGHT if digit.sure else WRONG
    panel.bar(range(classes), digit.probabilities, color=colors)
    panel.set(xlim=(-0.6, classes - 0.4), ylim=(0, 1), yticks=[])
    named = _apart([other for other, share in digit.top() if share >= 0.05], digit)
    panel.set_xticks(named, [shortened(digit.class_names[other]) for other in named])
    panel.tick_params(labelsize=FONT_POINTS, labelcolor=INK, length=0)
    panel.spines[["top", "left", "right"]].set_visible(False)


def _apart(classes: Sequence[int], digit: Digit) -> list[int]:
    """Return those of some classes, likeliest first, whose names do not meet below the bars."""
    count = len(digit.class_names)
    widest = max(map(len, digit.class_names))
    gap = 1 if count <= 10 and widest == 1 else count if widest > 2 else count // 8
    kept: list[int] = []
    for each in classes:
        if all(abs(each - other) >= gap for other in kept):
            kept.append(each)
    return kept

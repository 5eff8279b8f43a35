"""Order digits into lines of text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mnist_cli.pictures.components import Component

# Fraction of the lower digit's height by which neighbours in one line overlap vertically.
_MIN_OVERLAP = 0.4


def text_lines(digits: Sequence[Component]) -> list[list[Component]]:
    """Return digits in reading order: lines from the top, each line from the left.

    From left to right, a digit joins the line whose last digit it overlaps most vertically, so a
    line may rise or fall.
    """
    lines: list[list[Component]] = []
    for digit in sorted(digits, key=lambda digit: digit.box[0] + digit.box[2]):
        overlaps = [_vertical_overlap(line[-1], digit) for line in lines]
        if overlaps and max(overlaps) >= _MIN_OVERLAP:
            lines[int(np.argmax(overlaps))].append(digit)
        else:
            lines.append([digit])

    def center(line: list[Component]) -> float:
        return float(np.mean([digit.box[1] + digit.box[3] for digit in line]))

    return sorted(lines, key=center)


def _vertical_overlap(first: Component, second: Component) -> float:
    """Return the vertical overlap as a fraction of the lower height, at most 1.

    It is negative where there is a gap.
    """
    overlap = min(first.box[3], second.box[3]) - max(first.box[1], second.box[1])
    return overlap / min(first.height, second.height)

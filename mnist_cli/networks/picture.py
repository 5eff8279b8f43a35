"""A network explained as text: its layers in a table, and its shapes as boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mnist_cli.config import ModelSpec
from mnist_cli.networks.language import shape_text
from mnist_cli.networks.spec import (
    INPUT,
    Flatten,
    Shape,
    operation_count,
    parameter_count,
    with_shapes,
    written_layers,
)

_ROWS = 7  # of the box of a whole image: a row for four pixels
_MAX_WIDTH = 78  # columns


@dataclass(frozen=True)
class LayerRow:
    """One layer: its text in a line, the shape of its outputs, and what it takes."""

    layer: str
    output: Shape
    parameters: int
    operations: int


def layer_rows(spec: ModelSpec) -> list[LayerRow]:
    """Return a row for each layer that a line names, and for the last dense one."""
    return [
        LayerRow(
            str(layer),
            after,
            sum(map(math.prod, layer.parameter_shapes().values())),
            layer.operations(before),
        )
        for layer, before, after in with_shapes(written_layers(spec), INPUT)
        if not isinstance(layer, Flatten)
    ]


def to_json(spec: ModelSpec) -> dict[str, object]:
    """Return name, line, parameters and operations of a network and its layers as JSON values."""
    return {
        "name": spec.arch,
        "line": spec.line,
        "parameters": parameter_count(spec),
        "operations": operation_count(spec),
        "layers": [
            {
                "layer": row.layer,
                "output": list(row.output),
                "parameters": row.parameters,
                "operations": row.operations,
            }
            for row in layer_rows(spec)
        ],
    }


def draw_shapes(spec: ModelSpec) -> str:
    """Return the shapes as boxes from left to right, one wherever the shape changes.

    The height is that of the images, the width grows with the channels; vectors are thin.
    """
    shapes: list[Shape] = [INPUT]
    for row in layer_rows(spec):
        if row.output != shapes[-1]:
            shapes.append(row.output)
    boxes = [_box(shape) for shape in shapes]
    strips: list[list[Sequence[str]]] = [[]]
    for box in boxes:
        if sum(len(each[0]) + 2 for each in [*strips[-1], box]) > _MAX_WIDTH:
            strips.append([])
        strips[-1].append(box)
    return "\n\n".join(
        "\n".join("  ".join(parts).rstrip() for parts in zip(*strip, strict=True))
        for strip in strips
    )


def _box(shape: Shape) -> list[str]:
    """Return lines of one width: the box, standing on the bottom, and its shape below."""
    if len(shape) == 1:
        rows, width = 1 + round(math.log2(shape[0] + 1) / 2), 1
    else:
        rows, width = max(1, math.ceil(shape[1] / 4)), 2 + round(2 * math.log2(shape[0]))
    label = shape_text(shape)
    columns = max(width, len(label))
    rows = min(rows, _ROWS)
    filled = ("█" * width if len(shape) > 1 else "▐").center(columns)
    return [" " * columns] * (_ROWS - rows) + [filled] * rows + [label.center(columns)]

"""What `mnist data` says of a data set, in a table and in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from mnist_cli.names import dataset_name
from mnist_cli.reporting.console import plain_table


def table(summary: Mapping[str, Any]) -> Table:
    """Return the table of `mnist data`, one row per class."""
    shown = plain_table("", ("class", "training", "test"))
    for each in summary["classes"]:
        shown.add_row(Text(each["name"]), f"{each['training']:,}", f"{each['test']:,}")
    return shown


def lines(summary: Mapping[str, Any]) -> list[str]:
    """Return in sentences what is in a data set."""
    same, lies = summary["duplicates"], summary["orientation"]
    other = f"; {same['with_other_label']:,} with another label" * bool(same["with_other_label"])
    turn = "" if lies == "upright" else " Give --fix-orientation to turn them."
    return [
        f"{dataset_name(summary['dataset'])}: {summary['training_images']:,} training and "
        f"{summary['test_images']:,} test images of {len(summary['classes'])} classes.",
        f"Pixels, 0-1: mean {summary['pixel_mean']:.4f}, deviation {summary['pixel_std']:.4f}.",
        f"Equal images: {same['training']:,} within training, {same['between']:,} of the test are "
        f"in training too{other}.",
        "Digits lie: not compared, these are none or too few."
        if lies is None
        else f"Digits look {lies}, compared with MNIST's.{turn}",
    ]

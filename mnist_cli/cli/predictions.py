"""How `mnist predict` prints its answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from mnist_cli.cli.output import say
from mnist_cli.cli.sources import say_unread
from mnist_cli.errors import MnistError

if TYPE_CHECKING:
    from mnist_cli.cli.sources import Named
    from mnist_cli.errors import PictureError
    from mnist_cli.prediction import Prediction

_FEW_PICTURES = 8  # read in a moment: no progress bar
_MAX_PLOTTED = 6  # pictures in one plot


class PredictionPrinter:
    """Prints answers one by one, as text, CSV or one JSON list.

    Whole lines are printed by `print`, so that a progress bar can redraw itself below them.
    """

    def __init__(self, *, as_csv: bool, as_json: bool, show: bool) -> None:
        self._as_csv, self._as_json, self._show = as_csv, as_json, show
        self._printed = 0

    def print(self, name: str, answer: Prediction) -> None:
        """Print the answer for one picture."""
        if self._as_json:
            item = json.dumps({**answer.to_json(), "file": name}, indent=1)
            print("," if self._printed else "[", item, sep="\n", flush=True)
        elif self._as_csv:
            import csv

            writer = csv.writer(sys.stdout, lineterminator="\n")
            if not self._printed:
                writer.writerow(("file", "text", "confidence", "sure"))
            sure = "yes" if answer.sure else "no"
            text = answer.text.replace("\n", " / ")
            row = (name, text, f"{answer.confidence:.4f}", sure)
            writer.writerow(row)
        else:
            print("\n".join(_prediction_lines(name, answer)), flush=True)
        if self._show:
            from mnist_cli.reporting import console

            images = [digit.image for digit in answer.digits]
            machine_readable = self._as_json or self._as_csv
            pictures = console.half_blocks(images, err=machine_readable)
            print(pictures, file=sys.stderr if machine_readable else sys.stdout)
        self._printed += 1

    def close(self) -> None:
        """End the JSON list."""
        if self._as_json:
            print("]" if self._printed else "[]")


def _prediction_lines(name: str, answer: Prediction) -> list[str]:
    """Return the answer as text: one line with three readings, or a line for each digit."""
    tops = [
        ", ".join(f"{name} {share:.1%}" for name, share in digit.top_names())
        for digit in answer.digits
    ]
    note = "" if answer.sure else "  not sure"
    if answer.rotation:
        note += f"  turned by {answer.rotation} degrees"
    if len(tops) == 1:
        return [f"{name}: {answer.text}  ({tops[0]}){note}"]
    # A question mark after each digit that is not sure.
    gap = " " * any(len(name) > 1 for name in answer.digits[0].class_names)
    marked = ([each.label + "?" * (not each.sure) for each in line] for line in answer.lines())
    text = " / ".join(map(gap.join, marked))
    return [f"{name}: {text}  ({answer.confidence:.1%}){note}", *(f"    {top}" for top in tops)]


def print_answers(
    answers: Iterator[Prediction | PictureError], sources: list[Named], printer: PredictionPrinter
) -> tuple[list[tuple[str, str | bytes, Prediction]], int]:
    """Read and print every picture; return the first few, to plot, and how many failed."""
    import time

    plotted: list[tuple[str, str | bytes, Prediction]] = []
    unread = 0
    began = time.perf_counter()
    with _progress(len(sources)) as advance:
        for (name, source), answer in zip(sources, answers, strict=True):
            advance()
            if isinstance(answer, MnistError):
                unread += 1
                say_unread(name, answer)
                continue
            printer.print(name, answer)
            if len(plotted) < _MAX_PLOTTED:
                plotted.append((name, source, answer))
    printer.close()
    if len(sources) > 1:
        seconds = time.perf_counter() - began
        note = f"; {unread:,} could not be read" if unread else ""
        speed = f", {len(sources) / seconds:,.0f} per second" if unread < len(sources) else ""
        say(f"{len(sources):,} pictures in {seconds:.1f} s{speed}{note}")
    return plotted, unread


def _progress(count: int) -> AbstractContextManager[Callable[[], None]]:
    """Return a progress bar on standard error, for a terminal and more than a few pictures."""
    if count <= _FEW_PICTURES or not sys.stderr.isatty():
        return nullcontext(lambda: None)
    from mnist_cli.reporting import console

    return console.reading_progress(count)

"""How `mnist predict` prints its answers."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mnist_cli.prediction import Prediction


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
        ", ".join(f"{digit} {share:.1%}" for digit, share in digit.top()) for digit in answer.digits
    ]
    note = "" if answer.sure else "  not sure"
    if answer.rotation:
        note += f"  turned by {answer.rotation} degrees"
    if len(tops) == 1:
        return [f"{name}: {answer.text}  ({tops[0]}){note}"]
    # A question mark after each digit that is not sure.
    marks = iter("" if digit.sure else "?" for digit in answer.digits)
    text = "".join(" / " if sign == "\n" else sign + next(marks) for sign in answer.text)
    return [f"{name}: {text}  ({answer.confidence:.1%}){note}", *(f"    {top}" for top in tops)]

"""Logs as CSV: ``metrics.csv``, a row per point, and ``run.csv``, a row per setting and figure."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from typing import Any

from mnist_cli.logs.formats import CURVE, EPOCH, Ending, Point, Run, copy_into
from mnist_cli.records import replacing

_COLUMNS = ("step", "epoch", "time", *CURVE, *EPOCH)


class Log:
    """Appends points to ``metrics.csv`` as they come; writes ``run.csv`` at begin and end."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.place = str(run.folder)
        self._settings = [("setting", *pair) for pair in run.settings.items()]
        self._write_run([("status", "status", "running")])

    def add(self, points: Sequence[Point]) -> None:
        """Append a row per point; figures that it does not have are left empty."""
        path = self._run.folder / "metrics.csv"
        is_new = not path.exists()
        with path.open("a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, _COLUMNS)
            if is_new:
                writer.writeheader()
            for point in points:
                row = {"step": point.step, "epoch": point.epoch, "time": point.time}
                writer.writerow({**row, **point.figures})

    def end(self, ending: Ending) -> None:
        """Write the figures, and copy the files beside them."""
        self._write_run(
            [
                ("status", "status", ending.status),
                ("status", "reason", ending.reason),
                *(("figure", *pair) for pair in ending.figures.items()),
                *(("environment", *pair) for pair in ending.environment.items()),
            ]
        )
        copy_into(self._run.folder, ending.files)

    def _write_run(self, rows: Sequence[tuple[str, str, Any]]) -> None:
        with (
            replacing(self._run.folder / "run.csv") as temporary,
            temporary.open("w", encoding="utf-8", newline="") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(("kind", "name", "value"))
            writer.writerows([*self._settings, *rows])

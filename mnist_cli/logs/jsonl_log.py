"""Logs as JSON lines, ``run.jsonl``: the start of a run, a line per point, and its end."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mnist_cli.logs.formats import Ending, Point, Run, copy_into


class Log:
    """Appends lines to ``run.jsonl``; each says in ``event`` what it is of."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.place = str(run.folder)
        self._append([{"event": "start", "name": run.name, "settings": dict(run.settings)}])

    def add(self, points: Sequence[Point]) -> None:
        """Append a line per point."""
        self._append(
            {
                "event": "point",
                "step": point.step,
                "epoch": point.epoch,
                "time": point.time,
                **point.figures,
            }
            for point in points
        )

    def end(self, ending: Ending) -> None:
        """Append how the run ended, and copy the files beside it."""
        self._append(
            [
                {
                    "event": "end",
                    "status": ending.status,
                    "reason": ending.reason,
                    "figures": dict(ending.figures),
                    "environment": dict(ending.environment),
                    "files": [path.name for path in ending.files],
                }
            ]
        )
        copy_into(self._run.folder, ending.files)

    def _append(self, lines: Iterable[Mapping[str, Any]]) -> None:
        with (self._run.folder / "run.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)

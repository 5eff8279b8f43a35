"""What the tests of logs share: events of a run, and an observer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.logs.formats import CURVE, EPOCH
from mnist_cli.records import RunRecord
from mnist_cli.runners.base import TrainJob


class Silent:
    """An observer that keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def start_run(self, label: str, *, run: int | None = None) -> None:
        pass

    def on_event(self, event: Mapping[str, Any], *, run: int | None = None) -> None:
        pass

    def finish_run(
        self, record: RunRecord | None = None, *, failure: str = "", run: int | None = None
    ) -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)


def epoch_event(epoch: int) -> dict[str, Any]:
    figures = dict.fromkeys((name.removeprefix("epoch_") for name in EPOCH), 0.5)
    curve = {"step": [10 * epoch], **{name: [0.25] for name in CURVE}}
    return {"event": "epoch", "epoch": epoch, "train_seconds": 1.0, **figures, "curve": curve}


JOB = TrainJob("fake", ModelSpec("mlp"), TrainConfig(), 1)

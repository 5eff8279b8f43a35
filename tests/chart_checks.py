"""Charts under test: made-up records for them, and what a drawing put on the figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_records import make_record, make_records
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image

from mnist_cli.records import RunRecord


def alike(record: RunRecord, **same: float) -> RunRecord:
    """The run with its accuracies all one value."""
    history = tuple(
        replace(row, test_accuracy=same["accuracy"], validation_accuracy=same["accuracy"])
        for row in record.history
    )
    return replace(record, history=history, test_accuracy=same["accuracy"])


NETWORKS = (
    *("cnn", "mlp", "lenet5", "linear", "deep", "resnet"),
    *("conv16-dense64-d984", "conv16-conv32-dense-ab12"),
)


def make_networks(archs: Sequence[str], *, seeds: int, epochs: int = 5) -> list[RunRecord]:
    """Runs of several networks in three frameworks, from 8,000 to 30 million parameters."""
    return [
        replace(
            make_record(framework, "cnn" if place % 2 else "mlp", seed=seed, epochs=epochs),
            arch=arch,
            parameters=8_000 * 8 ** (place % 5),
            operations=16_000 * 9 ** (place % 5),
        )
        for place, arch in enumerate(archs)
        for framework in ("numpy", "tensorflow", "torch")
        for seed in range(seeds)
    ]


COMPARISONS: dict[str, Callable[[], list[RunRecord]]] = {
    "all": make_records,
    "one framework": lambda: make_records(["tensorflow"]),
    "one architecture": lambda: make_records(archs=["mlp"], seeds=1, epochs=2),
    "one run of one epoch": lambda: make_records(["torch"], ["cnn"], seeds=1, epochs=1),
    "runs of different lengths": lambda: [make_record(epochs=2), make_record(seed=1, epochs=4)],
    "third-party frameworks": lambda: make_records(
        ["numpy", "tensorflow", "torch", "candle-rust", "a-framework-with-a-long-name"], seeds=2
    ),
    "chance beside a good one": lambda: [
        make_record(best=0.1, loss_scale=1e6),
        make_record("numpy"),
        make_record("numpy", "mlp", activation="sigmoid"),
    ],
    "all equal": lambda: [alike(run, accuracy=0.99) for run in make_records(["torch", "numpy"])],
    "perfect, memory unknown": lambda: [
        replace(alike(make_record(), accuracy=1.0), peak_rss_mib=0.0)
    ],
    "eight networks": lambda: make_networks(NETWORKS, seeds=3),
    "one long name and one epoch": lambda: make_networks(NETWORKS[-1:], seeds=1, epochs=1),
    "sizes unknown": lambda: [
        replace(run, operations=None) for run in make_networks(NETWORKS[:3], seeds=1)
    ],
    "intervals wider than all percents": lambda: [
        alike(run, accuracy=0.1 + 0.8 * run.seed) for run in make_networks(NETWORKS[:2], seeds=2)
    ],
    "likewise of four networks": lambda: [
        alike(run, accuracy=0.1 + 0.8 * run.seed) for run in make_networks(NETWORKS[:4], seeds=2)
    ],
    "all wrong": lambda: [alike(make_record(), accuracy=0.0)],
}


def make_sweep(
    sizes: Sequence[int],
    frameworks: Sequence[str] = ("numpy", "tensorflow", "torch"),
    *,
    seeds: int = 1,
    power: float = 1.0,
    slow_above: float = math.inf,
) -> list[RunRecord]:
    """Runs by batch size: larger ones are faster, and above ``slow_above`` miss 98%."""
    return [
        replace(
            record,
            batch_size=size,
            learning_rate=0.05 * (size / 64) ** power,
            train_seconds=record.train_seconds * (0.35 + 20 / size),
            images_per_second=record.images_per_second / (0.35 + 20 / size),
            time_to_accuracy={"0.98": None, "0.99": None}
            if size > slow_above
            else record.time_to_accuracy,
        )
        for size in sizes
        for record in make_records(frameworks, seeds=seeds, epochs=2)
    ]


POWERS_OF_2 = (16, 32, 64, 128, 256, 512)
SWEEPS: dict[str, Callable[[], list[RunRecord]]] = {
    "one run": lambda: make_sweep(POWERS_OF_2),
    "three runs, 98% missed at the largest": lambda: make_sweep(
        POWERS_OF_2, seeds=3, slow_above=256
    ),
    "one framework": lambda: make_sweep([10, 100, 1000], ["torch"]),
    "one size": lambda: make_sweep([64]),
    "eight networks": lambda: [
        replace(run, batch_size=size, images_per_second=run.images_per_second * size**0.5)
        for size in POWERS_OF_2
        for run in make_networks(NETWORKS, seeds=2, epochs=2)
    ],
    "own networks": lambda: [
        replace(run, arch={"cnn": "resnet", "mlp": "conv16-conv32-dense-ab12"}[run.arch])
        for run in make_sweep(POWERS_OF_2, slow_above=128)
    ],
    "98% never reached": lambda: make_sweep([1], ["numpy"], slow_above=0),
    "many sizes, third-party frameworks": lambda: make_sweep(
        [*POWERS_OF_2, 96, 100, 1000, 1024, 65_536],
        ["numpy", "torch", "candle-rust", "a-framework-with-a-long-name"],
        slow_above=100,
    ),
}
FAILURES = [
    {"framework": "tensorflow", "arch": "mlp", "seed": 0, "error": "out of memory"},
    {"framework": "tensorflow", "arch": "mlp", "seed": 1, "error": "out of memory"},
    {"framework": "numpy", "arch": "cnn", "seed": 0, "error": "stopped"},
]


class Drawn:
    """What the last drawing of a figure put on it: each text with its box, in pixels."""

    def __init__(self) -> None:
        self.figure: Figure
        self.boxes: list[tuple[Text, Bbox]] = []

    def cut(self) -> list[str]:
        """The texts that do not lie on the figure in full."""
        width, height = self.figure.bbox.size
        return [
            text.get_text()
            for text, box in self.boxes
            if box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height
        ]

    def overlapping(self) -> list[tuple[str, str]]:
        """The pairs of texts that share more than a pixel, which is antialiasing."""
        extents = [(text.get_text(), *box.extents.tolist()) for text, box in self.boxes]
        return [
            (one, other)
            for (one, x0, y0, x1, y1), (other, u0, v0, u1, v1) in combinations(extents, 2)
            if min(x1, u1) - max(x0, u0) > 1 and min(y1, v1) - max(y0, v0) > 1
        ]

    def smallest_font(self) -> float:
        return min(float(text.get_fontsize()) for text, _ in self.boxes)


def watch_drawing(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """Record what is really drawn: a figure also holds tick labels that it never shows."""
    seen = Drawn()
    draw_figure, draw_text = Figure.draw, Text.draw

    def watch_figure(self: Figure, renderer: Any) -> None:
        seen.figure, seen.boxes = self, []
        draw_figure(self, renderer)

    def watch_text(self: Text, renderer: Any) -> None:
        draw_text(self, renderer)
        if self.get_visible() and self.get_text().strip():
            # Text's own box: an annotation's would take in its line to the point.
            seen.boxes.append((self, Text.get_window_extent(self, renderer)))

    monkeypatch.setattr(Figure, "draw", watch_figure)
    monkeypatch.setattr(Text, "draw", watch_text)
    return seen


def require_readable(path: Path, drawn: Drawn) -> None:
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        assert image.width >= 1600
    assert drawn.boxes
    assert drawn.cut() == []
    assert drawn.overlapping() == []
    # 11 points at 160 dots per inch are 12 pixels high once 1600 pixels are shown in 800.
    assert drawn.smallest_font() >= 11


def samples(count: int, wrong: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images, labels, predictions and confidences, the ``wrong`` mistakes spread over the set."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
    labels = rng.integers(0, 10, count)
    predictions = labels.copy()
    predictions[rng.permutation(count)[:wrong]] += 1
    return images, labels, predictions % 10, rng.uniform(0.995, 0.9999, count)


def texts(drawn: Drawn) -> list[str]:
    return [text.get_text().replace("\xa0", " ") for text, _ in drawn.boxes]

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_records import make_record, make_records
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image

from mnist_cli.errors import OutputError, UsageError
from mnist_cli.pictures.components import Box
from mnist_cli.records import RunRecord
from mnist_cli.reporting import charts


def alike(record: RunRecord, **same: float) -> RunRecord:
    """The run with its accuracies all one value."""
    history = tuple(
        replace(row, test_accuracy=same["accuracy"], validation_accuracy=same["accuracy"])
        for row in record.history
    )
    return replace(record, history=history, test_accuracy=same["accuracy"])


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


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[Drawn]:
    """Watch what is really drawn: a figure also holds tick labels that it never shows."""
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


@pytest.mark.parametrize("name", COMPARISONS)
def test_comparison_is_written_with_no_text_cut_or_overlapping(
    name: str, tmp_path: Path, drawn: Drawn
) -> None:
    path = tmp_path / "new folder" / "comparison_results.png"
    charts.comparison_chart(COMPARISONS[name](), path, failures=FAILURES)
    require_readable(path, drawn)


@pytest.mark.parametrize(
    "record",
    [
        make_record(),
        make_record("tensorflow", "mlp", epochs=1),
        make_record("a-framework-with-a-long-name", "mlp", epochs=60, activation="sigmoid"),
        make_record(best=0.1, loss_scale=1e6),
        alike(make_record(), accuracy=1.0),
    ],
    ids=["five epochs", "one epoch", "long", "chance", "perfect"],
)
def test_training_is_written_with_no_text_cut_or_overlapping(
    record: RunRecord, tmp_path: Path, drawn: Drawn
) -> None:
    charts.training_chart(record, tmp_path / "training.png")
    require_readable(tmp_path / "training.png", drawn)


def test_a_training_on_bent_pictures_says_so(tmp_path: Path, drawn: Drawn) -> None:
    charts.training_chart(replace(make_record(), augment=True), tmp_path / "training.png")
    assert "pictures bent anew each epoch" in " ".join(texts(drawn))


def test_a_training_that_reached_its_target_tells_how_far_it_went(
    tmp_path: Path, drawn: Drawn
) -> None:
    whole = make_record()
    speed = 1.44 * (55_000 // 64 * 64) / whole.train_seconds
    record = replace(whole, history=whole.history[:2], images_per_second=speed)
    charts.training_chart(record, tmp_path / "training.png")
    assert f"after 1.4 of {whole.epochs} epochs" in " ".join(texts(drawn))


@pytest.mark.parametrize(
    "matrix",
    [np.eye(10, dtype=int) * 10_000, np.full((10, 10), 10_000), np.zeros((10, 10), dtype=int)],
    ids=["perfect", "even", "empty"],
)
def test_confusion_matrix_is_written_with_no_text_cut_or_overlapping(
    matrix: np.ndarray, tmp_path: Path, drawn: Drawn
) -> None:
    charts.confusion_chart(matrix, tmp_path / "confusion.png", title="torch-cnn on mnist")
    require_readable(tmp_path / "confusion.png", drawn)


@pytest.mark.parametrize(("count", "wrong"), [(1, 0), (10, 10), (100, 50)])
def test_predictions_are_written_with_no_text_cut_or_overlapping(
    count: int, wrong: int, tmp_path: Path, drawn: Drawn
) -> None:
    charts.predictions_chart(*samples(count, wrong), tmp_path / "some.png", title="torch-cnn")
    require_readable(tmp_path / "some.png", drawn)
    assert f"{wrong} wrong of {count}" in " ".join(texts(drawn))


@pytest.mark.parametrize("name", SWEEPS)
def test_batch_sizes_are_written_with_no_text_cut_or_overlapping(
    name: str, tmp_path: Path, drawn: Drawn
) -> None:
    charts.batch_size_chart(SWEEPS[name](), tmp_path / "sizes.png", failures=FAILURES)
    require_readable(tmp_path / "sizes.png", drawn)


@pytest.mark.parametrize(
    ("frameworks", "archs", "images"),
    [
        (["numpy", "tensorflow", "torch"], ["cnn", "mlp"], 10_000),
        (["torch"], ["cnn"], 5),
        (["torch", "a-framework-with-a-long-name"], ["mlp"], 60_000),
    ],
    ids=["all", "one model, few images", "long names and numbers"],
)
def test_model_samples_are_written_with_no_text_cut_or_overlapping(
    frameworks: list[str], archs: list[str], images: int, tmp_path: Path, drawn: Drawn
) -> None:
    records = [
        replace(
            record,
            test_errors=tuple((images - 1 - i, d) for i, d in record.test_errors if i < images),
        )
        for record in make_records(frameworks, archs, seeds=2, epochs=1)
    ]
    pictures = np.zeros((images, 28, 28), dtype=np.uint8)
    charts.model_samples_chart(
        pictures, np.zeros(images, dtype=int), records, tmp_path / "models.png"
    )
    require_readable(tmp_path / "models.png", drawn)


def texts(drawn: Drawn) -> list[str]:
    return [text.get_text().replace("\xa0", " ") for text, _ in drawn.boxes]


def test_charts_take_the_json_of_an_evaluation(tmp_path: Path) -> None:
    images, labels, predictions, confidences = samples(3, 1)
    charts.confusion_chart(np.eye(10, dtype=int).tolist(), tmp_path / "matrix.png", title="one")
    charts.predictions_chart(
        images, labels, predictions.tolist(), confidences.tolist(), tmp_path / "grid.png", title="t"
    )
    assert (tmp_path / "matrix.png").exists()
    assert (tmp_path / "grid.png").exists()


def test_caption_tells_runs_data_recipe_hardware_date_and_failures(
    tmp_path: Path, drawn: Drawn
) -> None:
    records = make_records(["torch"], seeds=2, epochs=1)
    charts.comparison_chart(records, tmp_path / "chart.png", failures=FAILURES)
    caption = texts(drawn)[-1].replace("\n", " ")
    for part in (
        "n = 2 runs each, seeds 0, 1",
        "mnist, 55,000 training images",
        "1 epoch",
        "batch 64, peak learning rate 0.1",
        "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz, 2 threads, device cpu",
        "2025-01-31",
        "tensorflow mlp failed 2 times",
        "numpy cnn failed",
    ):
        assert part in caption


def test_all_cnn_rows_stand_above_all_mlp_rows() -> None:
    names = [cell.name for cell in charts._cells(make_records(seeds=1, epochs=1)[::-1])]
    assert names == [
        "numpy cnn",
        "tensorflow cnn",
        "torch cnn",
        "numpy mlp",
        "tensorflow mlp",
        "torch mlp",
    ]


@pytest.mark.parametrize(
    ("records", "rule"),
    [
        (make_sweep([64]), "batch 64, peak learning rate 0.05"),
        (make_sweep([16, 512], power=0), "peak learning rate 0.05"),
        (
            make_sweep([512, 64, 16]),
            "peak learning rate 0.0125 at 16 to 0.4 at 512, in proportion to batch size",
        ),
        (
            make_sweep([16, 64], power=0.5),
            "peak learning rate 0.025 at 16 to 0.05 at 64, "
            "in proportion to the square root of batch size",
        ),
        (
            make_sweep([16, 64]) + make_sweep([512], power=0),
            "peak learning rate 0.0125 at 16, 0.05 at 64, 0.05 at 512",
        ),
    ],
    ids=["one size", "constant", "linear", "square root", "other"],
)
def test_learning_rate_rule_is_read_from_the_records(records: list[RunRecord], rule: str) -> None:
    assert charts._learning_rates(records) == rule


def test_scaling_has_a_panel_for_each_number_and_no_text_cut_or_overlapping(
    tmp_path: Path, drawn: Drawn
) -> None:
    usual = make_sweep([64])
    groups = {
        "train_images": [
            replace(run, train_images=count) for count in (1000, 4000, 55_000) for run in usual
        ],
        "batch_size": make_sweep([16, 64, 1024]),
        "threads": [
            replace(run, environment={**run.environment, "threads": count})
            for count in (1, 2)
            for run in usual
        ],
    }
    charts.scaling_chart(groups, tmp_path / "scaling.png")
    require_readable(tmp_path / "scaling.png", drawn)
    panels = [panel for panel in drawn.figure.axes if panel.get_visible()]
    assert [panel.get_xlabel() for panel in panels] == ["training images", "batch size", "threads"]
    assert [len(panel.lines) for panel in panels] == [len(usual)] * 3
    assert panels[0].lines[0].get_xdata().tolist() == [1000, 4000, 55_000]
    caption = " ".join(texts(drawn)).replace("\xa0", " ").replace("\n", " ")
    assert "where it does not vary: mnist, 55,000 training images, batch 64, peak" in caption
    assert "rate 0.05, 2 threads" in caption
    assert "GHz, device cpu" in caption  # the number of threads is not a fact of all points
    assert "epoch" not in caption  # there may be more for fewer images
    assert "whiskers" not in caption


def test_scaling_of_several_runs_a_point_says_what_its_lines_and_whiskers_are(
    tmp_path: Path, drawn: Drawn
) -> None:
    slow, fast = (
        replace(run, images_per_second=speed)
        for run in make_sweep([64])[:1]
        for speed in (1e3, 3e3)
    )
    charts.scaling_chart({"batch_size": [slow, fast]}, tmp_path / "scaling.png")
    require_readable(tmp_path / "scaling.png", drawn)
    line, whisker = drawn.figure.axes[0].lines
    assert line.get_ydata().tolist() == [2e3]
    assert list(whisker.get_ydata()) == [1e3, 3e3]
    caption = " ".join(texts(drawn)).replace("\xa0", " ").replace("\n", " ")
    assert "n = 2 runs a point" in caption
    assert "lines: mean of runs · whiskers: lowest and highest run" in caption


def test_a_batch_size_that_missed_98_percent_has_a_cross_and_no_point(
    tmp_path: Path, drawn: Drawn
) -> None:
    records = [
        replace(run, time_to_accuracy={"0.98": 9.0 if run.batch_size < 128 else None})
        for run in make_sweep([32, 64, 128], ["torch"])
    ]
    charts.batch_size_chart(records, tmp_path / "sizes.png")
    assert "cnn not reached" in texts(drawn)
    *others, target = drawn.figure.axes
    cnn, mlp = (np.isfinite(line.get_ydata()).tolist() for line in target.lines)
    assert cnn == mlp == [True, True, False]
    assert [len(panel.collections) for panel in others] == [0, 0, 0]
    assert len(target.collections) == 2


def test_a_chart_of_times_that_were_all_reached_says_nothing_of_missing_ones(
    tmp_path: Path, drawn: Drawn
) -> None:
    records = [replace(run, time_to_accuracy={"0.98": 9.0}) for run in make_sweep([16, 64])]
    charts.batch_size_chart(records, tmp_path / "sizes.png")
    assert "reached" not in " ".join(texts(drawn))


def test_sizes_too_close_to_name_keep_their_tick(tmp_path: Path, drawn: Drawn) -> None:
    charts.batch_size_chart(make_sweep([64, 65, 1024], ["torch"]), tmp_path / "sizes.png")
    assert drawn.figure.axes[0].get_xticks().tolist() == [64, 65, 1024]
    assert {"65", "1024"} < set(texts(drawn))
    assert "64" not in texts(drawn)


def test_disputed_images_come_first_then_misread_ones_then_right_ones() -> None:
    labels = np.zeros(5, dtype=int)
    answers = np.array(
        [
            # right, 3 to 1, misread alike, 2 to 2, right
            [0, 0, 7, 0, 0],
            [0, 0, 7, 0, 0],
            [0, 0, 7, 5, 0],
            [0, 8, 7, 5, 0],
        ]
    )
    assert charts.most_disputed(answers, labels, 12).tolist() == [3, 1, 2, 0, 4]
    assert charts.most_disputed(answers, labels, 2).tolist() == [3, 1]


def test_model_samples_show_the_answers_of_each_models_first_run(
    tmp_path: Path, drawn: Drawn
) -> None:
    errors: dict[tuple[str, int], tuple[tuple[int, int], ...]] = {
        ("torch", 0): ((1, 7), (2, 4)),
        ("torch", 1): ((0, 9),),
        ("numpy", 0): ((1, 7),),
        ("numpy", 1): ((0, 9),),
    }
    records = [
        replace(make_record(framework, seed=seed, epochs=1), test_errors=wrong)
        for (framework, seed), wrong in reversed(errors.items())
    ]
    charts.model_samples_chart(
        np.zeros((4, 28, 28), dtype=np.uint8), [5, 1, 2, 3], records, tmp_path / "models.png"
    )
    answers = [text for text in texts(drawn) if text[0] in "✓✗"]
    # Down the columns: image 2 is disputed, 1 misread by both, 0 and 3 right.
    assert answers == ["✓ 2", "✗ 4", "✗ 7", "✗ 7", "✓ 5", "✓ 5", "✓ 3", "✓ 3"]
    title = texts(drawn)[-2].replace("\n", " ")
    assert title == "mnist: 3 of 4 test digits read alike by all models, 1 wrongly by every model"


def test_an_accuracy_axis_shows_all_values_and_never_starts_at_0_for_good_ones() -> None:
    assert charts._accuracy_limits([99.0, 99.5])[0] > 98.8
    assert charts._accuracy_limits([100.0, 100.0]) == (99.9, 100.0)
    assert charts._accuracy_limits([0.0])[0] == 0.0
    low, high = charts._accuracy_limits([10.0, 99.0])
    assert low < 10 < 99 < high


def test_no_record_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no finished run"):
        charts.comparison_chart([], tmp_path / "chart.png")
    with pytest.raises(UsageError, match="no finished run"):
        charts.batch_size_chart([], tmp_path / "chart.png")


def test_an_unwritable_folder_is_an_output_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match="Cannot write"):
        charts.training_chart(make_record(epochs=1), tmp_path / "file" / "chart.png")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_drawing_that_fails_keeps_the_chart_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_full(self: Figure, path: Path, **_: object) -> None:
        path.write_bytes(b"half a")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", disk_full)
    chart = tmp_path / "chart.png"
    chart.write_bytes(b"old")
    with pytest.raises(OutputError, match="No space left"):
        charts.training_chart(make_record(epochs=1), chart)
    assert chart.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [chart]


def test_importing_charts_imports_neither_matplotlib_nor_scipy() -> None:
    code = (
        "import sys, mnist_cli.reporting.charts; print({'matplotlib', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_drawing_leaves_pyplot_and_its_global_figures_alone(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, numpy; from mnist_cli.reporting import charts; "
        f"charts.confusion_chart(numpy.eye(10), pathlib.Path({str(tmp_path / 'm.png')!r}), "
        "title='m'); print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def lightness(color: str) -> float:
    """CIE L* of an sRGB colour, 0 (black) to 100 (white): what is left of it in grey."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    luminance = float(np.dot(linear, [0.2126, 0.7152, 0.0722]))
    return 116 * luminance ** (1 / 3) - 16 if luminance > 0.008856 else 903.3 * luminance


def test_frameworks_differ_in_grey_and_in_marker() -> None:
    looks = [*charts.LOOKS.values(), *charts.SPARE_LOOKS]
    assert len({look.marker for look in looks}) == len(looks)
    ours = sorted(lightness(look.color) for look in charts.LOOKS.values())
    assert min(np.diff(ours)) > 20
    # 5 steps of L* are still seen apart side by side; no mark may fade into the white page.
    everyone = sorted(lightness(look.color) for look in looks)
    assert min(np.diff(everyone)) > 5
    assert everyone[-1] < 75


def test_a_framework_keeps_its_look_and_strangers_get_one_by_name() -> None:
    looks = charts.framework_looks(["zig", "torch", "jax"])
    assert looks["torch"] == charts.LOOKS["torch"]
    assert (looks["jax"], looks["zig"]) == charts.SPARE_LOOKS[:2]
    assert looks == charts.framework_looks(["jax", "zig", "torch", "zig"])


def test_labels_are_moved_apart_no_further_than_needed() -> None:
    assert charts.spread([0.2, 0.8], 0.1, low=0, high=1) == pytest.approx([0.2, 0.8])
    assert charts.spread([0.5, 0.5], 0.1, low=0, high=1) == pytest.approx([0.45, 0.55])
    assert charts.spread([1.0, 0.99], 0.1, low=0, high=1) == pytest.approx([1.0, 0.9])
    assert charts.spread([0.0, 0.0, 0.0], 0.7, low=0, high=1) == pytest.approx([0, 0.5, 1])
    assert charts.spread([], 0.1, low=0, high=1) == []


def test_samples_are_half_the_most_confident_mistakes_then_right_ones() -> None:
    labels = np.zeros(100, dtype=int)
    predictions = np.repeat([1, 0], 50)
    confidences = np.linspace(0, 1, 100)
    chosen = charts.choose_samples(labels, predictions, confidences, 40)
    assert chosen[:20].tolist() == list(range(49, 29, -1))
    assert (predictions[chosen[20:]] == 0).all()
    assert len(set(chosen.tolist())) == 40


@pytest.mark.parametrize(("wrong", "right"), [(3, 97), (97, 3), (0, 5), (5, 0), (0, 0)])
def test_samples_fill_up_where_one_kind_runs_short(wrong: int, right: int) -> None:
    predictions = np.repeat([1, 0], [wrong, right])
    labels = np.zeros_like(predictions)
    chosen = charts.choose_samples(labels, predictions, np.ones(wrong + right), 40)
    assert len(set(chosen.tolist())) == len(chosen) == min(40, wrong + right)


@pytest.mark.parametrize(
    ("box", "others", "horizontal", "vertical"),
    [
        pytest.param((40, 40, 60, 60), [], "left", "bottom", id="above"),
        pytest.param((40, 2, 60, 90), [], "left", "top", id="right at the top edge"),
        pytest.param((40, 40, 60, 60), [(40, 10, 60, 38)], "left", "top", id="right below another"),
        pytest.param(
            (40, 40, 60, 60), [(40, 10, 60, 38), (62, 30, 80, 60)], "right", "top", id="left"
        ),
    ],
)
def test_a_digits_label_covers_no_other_box_and_stays_in_the_picture(
    box: Box, others: list[Box], horizontal: str, vertical: str
) -> None:
    x, y, *alignment = charts._beside(box, others, width=100, height=100)
    assert alignment == [horizontal, vertical]
    left, top, right, _ = box
    assert (x, y) == (right if (horizontal, vertical) == ("left", "top") else left, top)

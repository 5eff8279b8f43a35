from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from chart_checks import (
    FAILURES,
    Drawn,
    make_sweep,
    require_readable,
    samples,
    texts,
)
from made_records import make_record, make_records
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from mnist_cli.errors import OutputError, UsageError
from mnist_cli.pictures.components import Box
from mnist_cli.records import RunRecord
from mnist_cli.reporting.charts import (
    batch_size,
    captions,
    comparison,
    confusion,
    model_samples,
    panels,
    reading,
    scaling,
    style,
    training,
)
from mnist_cli.reporting.charts import (
    predictions as predictions_chart,
)


def test_charts_take_the_json_of_an_evaluation(tmp_path: Path) -> None:
    images, labels, predictions, confidences = samples(3, 1)
    confusion.draw(np.eye(10, dtype=int).tolist(), tmp_path / "matrix.png", title="one")
    predictions_chart.draw(
        images, labels, predictions.tolist(), confidences.tolist(), tmp_path / "grid.png", title="t"
    )
    assert (tmp_path / "matrix.png").exists()
    assert (tmp_path / "grid.png").exists()


def test_caption_tells_runs_data_recipe_hardware_date_and_failures(
    tmp_path: Path, drawn: Drawn
) -> None:
    records = make_records(["torch"], seeds=2, epochs=1)
    comparison.draw(records, tmp_path / "chart.png", failures=FAILURES)
    caption = texts(drawn)[-1].replace("\n", " ")
    for part in (
        "n = 2 runs each, seeds 0, 1",
        "MNIST, 55,000 training images",
        "1 epoch",
        "batch 64, peak learning rate 0.1",
        "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz, 2 threads, device cpu",
        "2025-01-31",
        "TensorFlow MLP failed 2 times",
        "NumPy CNN failed",
    ):
        assert part in caption


def test_all_cnn_rows_stand_above_all_mlp_rows() -> None:
    names = [cell.name for cell in style.group_by_cell(make_records(seeds=1, epochs=1)[::-1])]
    assert names == [
        "NumPy CNN",
        "TensorFlow CNN",
        "PyTorch CNN",
        "NumPy MLP",
        "TensorFlow MLP",
        "PyTorch MLP",
    ]


@pytest.mark.parametrize(
    ("records", "rule"),
    [
        (make_sweep([64]), "batch 64, peak learning rate 0.05"),
        (make_sweep([16, 512], power=0), "peak learning rate 0.05"),
        (
            make_sweep([512, 64, 16]),
            "peak learning rate 0.0125 at 16 to 0.4 at 512, proportional to batch size",
        ),
        (
            make_sweep([16, 64], power=0.5),
            "peak learning rate 0.025 at 16 to 0.05 at 64, "
            "proportional to the square root of batch size",
        ),
        (
            make_sweep([16, 64]) + make_sweep([512], power=0),
            "peak learning rate 0.0125 at 16, 0.05 at 64, 0.05 at 512",
        ),
    ],
    ids=["one size", "constant", "linear", "square root", "other"],
)
def test_learning_rate_rule_is_read_from_the_records(records: list[RunRecord], rule: str) -> None:
    assert captions.learning_rates(records) == rule


def test_scaling_of_several_runs_a_point_says_what_its_lines_and_whiskers_are(
    tmp_path: Path, drawn: Drawn
) -> None:
    slow, fast = (
        replace(run, images_per_second=speed)
        for run in make_sweep([64])[:1]
        for speed in (1e3, 3e3)
    )
    scaling.draw({"batch_size": [slow, fast]}, tmp_path / "scaling.png")
    require_readable(tmp_path / "scaling.png", drawn)
    line, whisker = drawn.figure.axes[0].lines
    assert line.get_ydata().tolist() == [2e3]
    assert list(whisker.get_ydata()) == [1e3, 3e3]
    caption = " ".join(texts(drawn)).replace("\xa0", " ").replace("\n", " ")
    assert "n = 2 runs per point" in caption
    assert "lines: mean of runs · whiskers: minimum and maximum of runs" in caption


def test_a_batch_size_that_missed_98_percent_has_a_cross_and_no_point(
    tmp_path: Path, drawn: Drawn
) -> None:
    records = [
        replace(run, time_to_accuracy={"0.98": 9.0 if run.batch_size < 128 else None})
        for run in make_sweep([32, 64, 128], ["torch"])
    ]
    batch_size.draw(records, tmp_path / "sizes.png")
    assert "CNN not reached" in texts(drawn)
    *others, target = drawn.figure.axes
    cnn, mlp = (np.isfinite(line.get_ydata()).tolist() for line in target.lines)
    assert cnn == mlp == [True, True, False]
    assert [len(panel.collections) for panel in others] == [0, 0, 0]
    assert len(target.collections) == 2


def test_a_chart_of_times_that_were_all_reached_says_nothing_of_missing_ones(
    tmp_path: Path, drawn: Drawn
) -> None:
    records = [replace(run, time_to_accuracy={"0.98": 9.0}) for run in make_sweep([16, 64])]
    batch_size.draw(records, tmp_path / "sizes.png")
    assert "reached" not in " ".join(texts(drawn))


def test_sizes_too_close_to_name_keep_their_tick(tmp_path: Path, drawn: Drawn) -> None:
    batch_size.draw(make_sweep([64, 65, 1024], ["torch"]), tmp_path / "sizes.png")
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
    assert model_samples.most_disputed(answers, labels, 12).tolist() == [3, 1, 2, 0, 4]
    assert model_samples.most_disputed(answers, labels, 2).tolist() == [3, 1]


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
    model_samples.draw(
        np.zeros((4, 28, 28), dtype=np.uint8), [5, 1, 2, 3], records, tmp_path / "models.png"
    )
    answers = [text for text in texts(drawn) if text[0] in "✓✗"]
    # Down the columns: image 2 is disputed, 1 misread by both, 0 and 3 right.
    assert answers == ["✓ 2", "✗ 4", "✗ 7", "✗ 7", "✓ 5", "✓ 5", "✓ 3", "✓ 3"]
    title = texts(drawn)[-2].replace("\n", " ")
    assert title == "MNIST: all models agree on 3 of 4 test digits, and all are wrong on 1"


def test_an_accuracy_axis_shows_all_values_and_never_starts_at_0_for_good_ones() -> None:
    assert panels.accuracy_limits([99.0, 99.5])[0] > 98.8
    assert panels.accuracy_limits([100.0, 100.0]) == (99.9, 100.0)
    assert panels.accuracy_limits([0.0])[0] == 0.0
    low, high = panels.accuracy_limits([10.0, 99.0])
    assert low < 10 < 99 < high


def test_no_record_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no finished run"):
        comparison.draw([], tmp_path / "chart.png")
    with pytest.raises(UsageError, match="no finished run"):
        batch_size.draw([], tmp_path / "chart.png")


def test_an_unwritable_folder_is_an_output_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match="Cannot write"):
        training.draw(make_record(epochs=1), tmp_path / "file" / "chart.png")
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
        training.draw(make_record(epochs=1), chart)
    assert chart.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [chart]


def test_importing_charts_imports_neither_matplotlib_nor_scipy() -> None:
    code = (
        "import sys, mnist_cli.reporting.results; print({'matplotlib', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_drawing_leaves_pyplot_and_its_global_figures_alone(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, numpy; from mnist_cli.reporting.charts import confusion; "
        f"confusion.draw(numpy.eye(10), pathlib.Path({str(tmp_path / 'm.png')!r}), "
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
    looks = [*style.LOOKS.values(), *style.SPARE_LOOKS]
    assert len({look.marker for look in looks}) == len(looks)
    ours = sorted(lightness(look.color) for look in style.LOOKS.values())
    assert min(np.diff(ours)) > 10
    # 5 steps of L* are still seen apart side by side; no mark may fade into the white page.
    everyone = sorted(lightness(look.color) for look in looks)
    assert min(np.diff(everyone)) > 5
    assert everyone[-1] < 75


def test_a_framework_keeps_its_look_and_strangers_get_one_by_name() -> None:
    looks = style.framework_looks(["zig", "torch", "candle"])
    assert looks["torch"] == style.LOOKS["torch"]
    assert (looks["candle"], looks["zig"]) == style.SPARE_LOOKS[:2]
    assert looks == style.framework_looks(["candle", "zig", "torch", "zig"])


def test_labels_are_moved_apart_no_further_than_needed() -> None:
    assert style.spread([0.2, 0.8], 0.1, low=0, high=1) == pytest.approx([0.2, 0.8])
    assert style.spread([0.5, 0.5], 0.1, low=0, high=1) == pytest.approx([0.45, 0.55])
    assert style.spread([1.0, 0.99], 0.1, low=0, high=1) == pytest.approx([1.0, 0.9])
    assert style.spread([0.0, 0.0, 0.0], 0.7, low=0, high=1) == pytest.approx([0, 0.5, 1])
    assert style.spread([], 0.1, low=0, high=1) == []


def test_samples_are_half_the_most_confident_mistakes_then_right_ones() -> None:
    labels = np.zeros(100, dtype=int)
    predictions = np.repeat([1, 0], 50)
    confidences = np.linspace(0, 1, 100)
    chosen = predictions_chart.choose_samples(labels, predictions, confidences, 40)
    assert chosen[:20].tolist() == list(range(49, 29, -1))
    assert (predictions[chosen[20:]] == 0).all()
    assert len(set(chosen.tolist())) == 40


@pytest.mark.parametrize(("wrong", "right"), [(3, 97), (97, 3), (0, 5), (5, 0), (0, 0)])
def test_samples_fill_up_where_one_kind_runs_short(wrong: int, right: int) -> None:
    predictions = np.repeat([1, 0], [wrong, right])
    labels = np.zeros_like(predictions)
    chosen = predictions_chart.choose_samples(labels, predictions, np.ones(wrong + right), 40)
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
    x, y, *alignment = reading._label_place(box, others, width=100, height=100)
    assert alignment == [horizontal, vertical]
    left, top, right, _ = box
    assert (x, y) == (right if (horizontal, vertical) == ("left", "top") else left, top)

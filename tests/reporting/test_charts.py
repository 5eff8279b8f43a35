from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from chart_checks import (
    COMPARISONS,
    FAILURES,
    SWEEPS,
    Drawn,
    alike,
    make_sweep,
    require_readable,
    samples,
    texts,
)
from made_records import make_record, make_records

from mnist_cli.records import RunRecord
from mnist_cli.reporting.charts import (
    batch_size,
    comparison,
    confusion,
    model_samples,
    scaling,
    training,
)
from mnist_cli.reporting.charts import (
    predictions as predictions_chart,
)


@pytest.mark.parametrize("name", COMPARISONS)
def test_comparison_is_written_with_no_text_cut_or_overlapping(
    name: str, tmp_path: Path, drawn: Drawn
) -> None:
    path = tmp_path / "new folder" / "comparison_results.png"
    comparison.draw(COMPARISONS[name](), path, failures=FAILURES)
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
    training.draw(record, tmp_path / "training.png")
    require_readable(tmp_path / "training.png", drawn)


def test_a_training_on_augmented_images_says_so(tmp_path: Path, drawn: Drawn) -> None:
    training.draw(replace(make_record(), augment=True), tmp_path / "training.png")
    assert "augmented images" in " ".join(texts(drawn))


def test_a_training_that_reached_its_target_tells_how_far_it_went(
    tmp_path: Path, drawn: Drawn
) -> None:
    whole = make_record()
    speed = 1.44 * (55_000 // 64 * 64) / whole.train_seconds
    record = replace(whole, history=whole.history[:2], images_per_second=speed)
    training.draw(record, tmp_path / "training.png")
    assert f"after 1.4 of {whole.epochs} epochs" in " ".join(texts(drawn))


@pytest.mark.parametrize(
    "matrix",
    [np.eye(10, dtype=int) * 10_000, np.full((10, 10), 10_000), np.zeros((10, 10), dtype=int)],
    ids=["perfect", "even", "empty"],
)
def test_confusion_matrix_is_written_with_no_text_cut_or_overlapping(
    matrix: np.ndarray, tmp_path: Path, drawn: Drawn
) -> None:
    confusion.draw(matrix, tmp_path / "confusion.png", title="torch-cnn on mnist")
    require_readable(tmp_path / "confusion.png", drawn)


@pytest.mark.parametrize(("count", "wrong"), [(1, 0), (10, 10), (100, 50)])
def test_predictions_are_written_with_no_text_cut_or_overlapping(
    count: int, wrong: int, tmp_path: Path, drawn: Drawn
) -> None:
    predictions_chart.draw(*samples(count, wrong), tmp_path / "some.png", title="torch-cnn")
    require_readable(tmp_path / "some.png", drawn)
    assert f"{wrong} wrong of {count}" in " ".join(texts(drawn))


@pytest.mark.parametrize("name", SWEEPS)
def test_batch_sizes_are_written_with_no_text_cut_or_overlapping(
    name: str, tmp_path: Path, drawn: Drawn
) -> None:
    batch_size.draw(SWEEPS[name](), tmp_path / "sizes.png", failures=FAILURES)
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
    model_samples.draw(pictures, np.zeros(images, dtype=int), records, tmp_path / "models.png")
    require_readable(tmp_path / "models.png", drawn)


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
    scaling.draw(groups, tmp_path / "scaling.png")
    require_readable(tmp_path / "scaling.png", drawn)
    panels = [panel for panel in drawn.figure.axes if panel.get_visible()]
    assert [panel.get_xlabel() for panel in panels] == ["training images", "batch size", "threads"]
    assert [len(panel.lines) for panel in panels] == [len(usual)] * 3
    assert panels[0].lines[0].get_xdata().tolist() == [1000, 4000, 55_000]
    caption = " ".join(texts(drawn)).replace("\xa0", " ").replace("\n", " ")
    assert "where not varied: MNIST, 55,000 training images, batch 64, peak" in caption
    assert "rate 0.05, 2 threads" in caption
    assert "GHz, device cpu" in caption  # the number of threads is not a fact of all points
    assert "epoch" not in caption  # there may be more for fewer images
    assert "whiskers" not in caption

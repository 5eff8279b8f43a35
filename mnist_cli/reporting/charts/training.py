"""The chart of one training run: loss and accuracy by epoch."""

from __future__ import annotations

from pathlib import Path

from mnist_cli.names import dataset_name, plural
from mnist_cli.records import RunRecord
from mnist_cli.reporting.charts.captions import facts, spoilt_by, three_digits
from mnist_cli.reporting.charts.panels import draw_curve, fit_accuracy_scale, fit_scale, label_panel
from mnist_cli.reporting.charts.style import FAINT, HOLLOW, group_by_cell, new_figure, save

DESCRIPTION = "Training and validation loss, and accuracy, after each epoch of one training run."


def draw(record: RunRecord, path: Path) -> None:
    """Draw losses and accuracies of one run by epoch."""
    (cell,) = group_by_cell([record])
    result = f"{record.test_accuracy:.2%} test accuracy"
    epochs = plural(len(record.history), "epoch")
    images_per_epoch = record.train_images // record.batch_size * record.batch_size
    trained_epochs = record.images_per_second * record.train_seconds / images_per_epoch
    if trained_epochs < len(record.history) - 0.05:  # a target was reached within an epoch
        epochs = f"{trained_epochs:.1f} of {plural(record.epochs, 'epoch')}"
    title = f"{cell.name} on {dataset_name(record.dataset)}: {result} after {epochs}"
    figure = new_figure(5.2, title)
    loss, accuracy = figure.subplots(1, 2)
    label_panel(loss, "Loss by epoch", "epoch", "loss (cross-entropy per image)")
    draw_curve(loss, cell, "train_loss", label="training", linewidth=1.3, **HOLLOW)
    draw_curve(loss, cell, "validation_loss", label="validation", linewidth=2.6)
    fit_scale(loss.yaxis)
    label_panel(accuracy, "Accuracy by epoch", "epoch", "accuracy, %")
    draw_curve(accuracy, cell, "validation_accuracy", label="validation", linewidth=2.6)
    draw_curve(accuracy, cell, "test_accuracy", label="test", linewidth=1.3, color=FAINT, **HOLLOW)
    fit_accuracy_scale(accuracy.yaxis)
    speed = f"trained in {three_digits(record.train_seconds)} s"
    images = f"{record.images_per_second:,.0f} images/s"
    save(figure, path, [*facts([record]), speed, images, *spoilt_by([record])])

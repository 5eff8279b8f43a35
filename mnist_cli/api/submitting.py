"""`submit`: predictions for a file of test images, as Kaggle takes them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from mnist_cli.api.arguments import PathLike, checked_threads, checks_arguments


@dataclass(frozen=True)
class Submission:
    """A file of predictions; ``sure`` is how many of them `predict` would call sure."""

    model: str
    path: str
    images: int
    sure: int


@checks_arguments
def submit(
    model: PathLike,
    images: PathLike,
    *,
    output: PathLike = "submission.csv",
    threads: int | None = None,
    results_dir: PathLike = "results",
    progress: bool = True,
) -> Submission:
    """Predict each image of a CSV file of pixels, and write ``ImageId,Label``, from 1 on.

    ``model`` is a file, a name such as ``torch-cnn`` in the models of ``results_dir``, or
    ``pretrained``; NumPy computes it. ``images`` has rows of 784 pixels without labels, as
    ``test.csv`` of Kaggle's digit recogniser. Raises `CheckpointError` for a bad model, `DataError`
    for a file of other columns or a wrong row, `OutputError`.
    """
    import csv

    from mnist_cli.data.messages import printable, reason
    from mnist_cli.data.pixel_csv import read_rows
    from mnist_cli.errors import DataError
    from mnist_cli.prediction import Model
    from mnist_cli.records import replacing
    from mnist_cli.reporting.console import reading_progress, stderr
    from mnist_cli.training.calibration import judge
    from mnist_cli.training.checkpoint import model_path

    path, written = Path(images), Path(output)
    loaded = Model(model_path(model, Path(results_dir)), threads=checked_threads(threads))
    done = sure = 0
    try:
        with path.open("rb") as counted:
            lines = sum(1 for _ in counted)
    except OSError as error:
        raise DataError(f"Cannot read {printable(path)}: {reason(error)}.") from error
    is_shown = progress and stderr().is_terminal
    bar: AbstractContextManager[Callable[..., None]] = nullcontext(lambda _: None)
    if is_shown:
        bar = reading_progress(lines)
    with (
        bar as advance,
        replacing(written) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("ImageId", "Label"))
        for pixels, _ in read_rows(path, labelled=False):
            probabilities, is_sure = judge(loaded.logits(pixels), loaded.calibration)
            for label in probabilities.argmax(axis=1).tolist():
                done += 1
                writer.writerow((done, loaded.class_names[label]))
            sure += int(is_sure.sum())
            advance(len(pixels))
    return Submission(str(loaded.path), str(written), done, sure)

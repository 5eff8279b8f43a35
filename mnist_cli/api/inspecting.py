"""`inspect_data`: what is in a data set."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from mnist_cli.api.arguments import PathLike, checks_arguments, results_folder
from mnist_cli.records import require_writable

if TYPE_CHECKING:
    from mnist_cli.arrays import Array
    from mnist_cli.data.dataset import Dataset
    from mnist_cli.reporting.notebook import Chart

_LISTED = 20  # pairs of equal images


@dataclass(frozen=True)
class ClassCount:
    """A class: its label and name, and how many images show it."""

    label: int
    name: str
    training: int
    test: int


@dataclass(frozen=True)
class Duplicates:
    """Images that are equal, pixel by pixel.

    ``training`` are training images like an earlier one, ``between`` test images like a training
    image; ``with_other_label`` of all these have another label than the first of their kind.
    ``pairs`` are the first of them between, as (training image, test image).
    """

    training: int
    between: int
    with_other_label: int
    pairs: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class DataSummary:
    """What is in a data set: mean and standard deviation are the training pixels', on 0-1.

    ``orientation`` is how digits lie, compared with MNIST's: ``upright``, or what they look like;
    None where that cannot be told. ``data`` are the images themselves.
    """

    dataset: str
    sha256: str
    classes: tuple[ClassCount, ...]
    training_images: int
    test_images: int
    pixel_mean: float
    pixel_std: float
    duplicates: Duplicates
    orientation: str | None
    data: Dataset = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return the summary as JSON values, without the images."""
        values = {**vars(self), "classes": [asdict(each) for each in self.classes]}
        del values["data"]
        pairs = [list(pair) for pair in self.duplicates.pairs]
        return values | {"duplicates": {**asdict(self.duplicates), "pairs": pairs}}

    def plot(self) -> Chart:
        """Draw samples of each class."""
        from mnist_cli.reporting.charts import dataset as chart
        from mnist_cli.reporting.notebook import chart as drawn

        return drawn(lambda path: chart.draw(self.data, path))


@checks_arguments
def inspect_data(
    dataset: PathLike = "mnist",
    *,
    fix_orientation: bool = False,
    results_dir: PathLike | None = None,
    progress: bool = True,
) -> DataSummary:
    """Return what is in a data set: classes, pixels, duplicates, and how digits lie.

    ``dataset`` is a name or a path, as in `train`; ``fix_orientation`` turns digits upright first.
    With ``results_dir`` samples of each class are drawn there, see `data_chart`. Raises
    `UsageError` for what is neither, `DataError` for what cannot be read, `OutputError`.
    """
    from mnist_cli.data.orientation import checked, orientation
    from mnist_cli.data.registry import fetch, load_dataset
    from mnist_cli.reporting import console
    from mnist_cli.reporting.charts import dataset as chart

    name = os.fspath(dataset)
    folder = results_folder(results_dir)
    if folder is not None:
        require_writable(folder)
    with (
        console.stderr().status(escape(f"reading {name}")) if progress else nullcontext() as status
    ):

        def say(text: str) -> None:
            if status is not None:
                status.update(escape(text))

        def show_reading(done: int, count: int) -> None:
            say(f"reading {name}: {done:,} of {count:,} images")

        fetch(name, say)
        data = load_dataset(name, on_progress=show_reading)
        if fix_orientation:
            data = checked(data, fix=True, say=lambda _: None)
        say(f"comparing the images of {name}")
        found = orientation(data)
        summary = _summary(data, None if found is None else str(found))
        if folder is not None:
            chart.draw(data, data_chart(folder, name))
    return summary


def data_chart(folder: Path, dataset: str) -> Path:
    """Return where the samples of a data set are drawn: ``data_NAME.png``."""
    stem = re.sub(r"[^\w.-]", "-", Path(dataset).stem) or "set"
    return folder / f"data_{stem}.png"


def _summary(data: Dataset, orientation: str | None) -> DataSummary:
    import numpy as np

    count = len(data.class_names)
    counts = [
        np.bincount(labels, minlength=count).tolist()
        for labels in (data.train_labels, data.test_labels)
    ]
    pixels = np.bincount(data.train_images.ravel(), minlength=256) / data.train_images.size
    values = np.arange(256) / 255
    mean = float(pixels @ values)
    return DataSummary(
        dataset=data.name,
        sha256=data.sha256,
        classes=tuple(
            ClassCount(label, name, training, test)
            for label, (name, training, test) in enumerate(
                zip(data.class_names, *counts, strict=True)
            )
        ),
        training_images=len(data.train_labels),
        test_images=len(data.test_labels),
        pixel_mean=mean,
        pixel_std=float(np.sqrt(pixels @ np.square(values - mean))),
        duplicates=_duplicates(data),
        orientation=orientation,
        data=data,
    )


def _duplicates(data: Dataset) -> Duplicates:
    first: dict[bytes, int] = {}
    digest = _digest()
    train_labels, test_labels = data.train_labels.tolist(), data.test_labels.tolist()
    training = with_other_label = 0
    for index, image in enumerate(data.train_images):
        earlier = first.setdefault(digest(image), index)
        training += earlier != index
        with_other_label += train_labels[earlier] != train_labels[index]
    pairs = []
    for index, image in enumerate(data.test_images):
        same = first.get(digest(image))
        if same is not None:
            pairs.append((same, index))
            with_other_label += train_labels[same] != test_labels[index]
    return Duplicates(training, len(pairs), with_other_label, tuple(pairs[:_LISTED]))


def _digest() -> Callable[[Array], bytes]:
    import hashlib

    return lambda image: hashlib.blake2b(image.tobytes(), digest_size=16).digest()

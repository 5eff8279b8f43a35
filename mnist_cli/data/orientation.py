"""Which way digits lie, and whether ink is light or dark: compared with MNIST's.

EMNIST's files hold pictures transposed, others are dark on white; a network learns from either, and
then reads nothing else. The mean image of each class is compared with MNIST's under the 8
symmetries of a square by Pearson's correlation, which inverting an image negates. MNIST itself has
0.97 as it is and at most 0.75 under any other; turned by up to 40 degrees at random, 0.95 and 0.80.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from mnist_cli.arrays import CLASSES, Array
from mnist_cli.data.dataset import Dataset, from_arrays
from mnist_cli.data.messages import printable

# What images look like, and what makes them upright.
_TURNS: Mapping[str, Callable[[Array], Array]] = {
    "upright": lambda images: images,
    "turned by 90 degrees": lambda images: np.rot90(images, 1, (-2, -1)),
    "upside down": lambda images: np.rot90(images, 2, (-2, -1)),
    "turned by 270 degrees": lambda images: np.rot90(images, 3, (-2, -1)),
    "mirrored": lambda images: images[..., ::-1],
    "mirrored and upside down": lambda images: images[..., ::-1, :],
    "transposed": lambda images: images.swapaxes(-2, -1),
    "transposed and upside down": lambda images: images[..., ::-1, ::-1].swapaxes(-2, -1),
}
_UPRIGHT = next(iter(_TURNS))
# Images per class that are looked at, and the fewest to say anything: means of 5 still have 0.85.
_MOST, _LEAST = 100, 5
_LEAST_LIKENESS = 0.85  # of another orientation, and by how much it exceeds the present one's
_LEAST_GAIN = 0.12


@dataclass(frozen=True)
class Orientation:
    """How a data set's digits lie: a key of `_TURNS`, and whether ink is dark on light.

    ``likeness`` is the mean correlation of the classes' mean images with MNIST's, once turned.
    """

    turn: str
    is_inverted: bool
    likeness: float

    @property
    def is_usual(self) -> bool:
        """Whether it is MNIST's."""
        return self.turn == _UPRIGHT and not self.is_inverted

    def __str__(self) -> str:
        turned = self.turn if not (self.is_inverted and self.turn == _UPRIGHT) else ""
        return " and ".join(filter(None, (turned, "dark on light" * self.is_inverted)))

    def upright(self, images: Array) -> Array:
        """Return images (N, 28, 28), uint8, as MNIST has them."""
        turned = np.ascontiguousarray(_TURNS[self.turn](images))
        return 255 - turned if self.is_inverted else turned


def orientation(dataset: Dataset) -> Orientation | None:
    """Return how a data set's training images lie; None if they are no digits, or too few.

    It is upright unless another way is much likelier.
    """
    means = _means(dataset.train_images, dataset.train_labels) if dataset.shows_digits else None
    if means is None:
        return None
    mnist = _normalised(_mnist_means())
    likeness = {
        turn: float((_normalised(apply(means)) * mnist).sum(axis=(1, 2)).mean())
        for turn, apply in _TURNS.items()
    }
    best = max(likeness, key=lambda turn: abs(likeness[turn]))
    found = abs(likeness[best])
    if found < _LEAST_LIKENESS or found < likeness[_UPRIGHT] + _LEAST_GAIN:
        return Orientation(_UPRIGHT, False, likeness[_UPRIGHT])
    return Orientation(best, likeness[best] < 0, found)


def checked(dataset: Dataset, *, fix: bool, say: Callable[[str], None]) -> Dataset:
    """Return a data set, turned upright if it should be; else ``say`` that it looks otherwise.

    Without ``fix`` named data sets are not looked at: they are upright.
    """
    from mnist_cli.data.registry import DATASETS

    if dataset.name in DATASETS and not fix:
        return dataset
    found = orientation(dataset)
    if found is None or found.is_usual:
        return dataset
    if not fix:
        say(
            f"The digits of {printable(dataset.name)} look {found}, compared with MNIST's. "
            "If so, give --fix-orientation: else a model of them reads no other digits."
        )
        return dataset
    say(f"The digits of {printable(dataset.name)} looked {found}: they were turned upright.")
    return from_arrays(
        dataset.name,
        [
            found.upright(dataset.train_images),
            dataset.train_labels.astype(np.uint8),
            found.upright(dataset.test_images),
            dataset.test_labels.astype(np.uint8),
        ],
        source=dataset.name,
        class_names=dataset.class_names,
    )


def _means(images: Array, labels: Array) -> Array | None:
    """Return the mean image of each digit (10, 28, 28), or None if one has too few."""
    rows = [np.flatnonzero(labels == digit)[:_MOST] for digit in range(CLASSES)]
    if min(map(len, rows)) < _LEAST:
        return None
    return np.array([images[each].mean(axis=0, dtype=np.float64) for each in rows])


@cache
def _mnist_means() -> Array:
    from mnist_cli.data.registry import load_dataset

    mnist = load_dataset()
    means = _means(mnist.test_images, mnist.test_labels)
    assert means is not None
    return means


def _normalised(means: Array) -> Array:
    """Return images (N, 28, 28) of mean 0 and length 1; one of a single grey stays 0."""
    centred = means - means.mean(axis=(1, 2), keepdims=True)
    lengths = np.sqrt(np.square(centred).sum(axis=(1, 2), keepdims=True))
    return np.asarray(centred / np.maximum(lengths, 1e-9))

"""The split of a dataset's training images into training and validation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mnist_cli.arrays import Array
from mnist_cli.data.dataset import Dataset
from mnist_cli.data.messages import printable
from mnist_cli.errors import DataError, UsageError
from mnist_cli.randomness import stream

OWN_ONE_IN = 5  # see `mix`
VALIDATION_ONE_IN = 12  # one image in 12 validates: 5,000 of MNIST's 60,000


@dataclass(frozen=True, eq=False)
class Split:
    """A dataset's training images, split into training and validation.

    Shapes and types are those of `Dataset`.
    """

    train_images: Array
    train_labels: Array
    validation_images: Array
    validation_labels: Array


def split(dataset: Dataset, *, seed: int, limit: int | None = None) -> Split:
    """Return a random split of the training images: 11/12 for training, 1/12 for validation.

    The split depends only on the seed and the number of images. ``limit``, for quick runs, keeps
    that many training images and at most as many validation images: the first of the full split,
    so that a larger limit only adds images. The test set is never reduced.

    Raises what `training_count` does.
    """
    training_count(dataset, limit=limit)
    count = len(dataset.train_labels)
    validation_count = count // VALIDATION_ONE_IN
    order = stream(seed, "split").permutation(count)
    validation, train = order[:validation_count][:limit], order[validation_count:][:limit]
    return Split(
        train_images=dataset.train_images[train],
        train_labels=dataset.train_labels[train],
        validation_images=dataset.train_images[validation],
        validation_labels=dataset.train_labels[validation],
    )


def mix(own: Split, mnist: Split) -> Split:
    """Return MNIST with a user's own digits among it, to go on from a model trained on MNIST.

    The own training images are repeated until they are about one in `OWN_ONE_IN`, so that a few
    are not lost among so many; MNIST keeps the model from forgetting other people's digits.
    """
    times = max(1, round(len(mnist.train_labels) / (OWN_ONE_IN - 1) / len(own.train_labels)))
    return Split(
        train_images=np.concatenate([mnist.train_images, *[own.train_images] * times]),
        train_labels=np.concatenate([mnist.train_labels, *[own.train_labels] * times]),
        validation_images=np.concatenate([mnist.validation_images, own.validation_images]),
        validation_labels=np.concatenate([mnist.validation_labels, own.validation_labels]),
    )


def training_count(dataset: Dataset, *, limit: int | None) -> int:
    """Return how many images `split` leaves for training.

    Raises `UsageError` for a limit below 1 or above the number of those images, `DataError` if the
    dataset is too small for a validation set.
    """
    count = len(dataset.train_labels)
    validation_count = count // VALIDATION_ONE_IN
    if validation_count == 0:
        raise DataError(
            f"{printable(dataset.name)} has {count} training images, but at least "
            f"{VALIDATION_ONE_IN} are needed to set one in {VALIDATION_ONE_IN} aside for "
            "validation. Use a larger dataset."
        )
    available = count - validation_count
    if limit is not None and not 1 <= limit <= available:
        raise UsageError(
            f"limit must be from 1 to {available} (the training images of "
            f"{printable(dataset.name)} after validation is set aside), not {limit}."
        )
    return limit or available

"""Bent training pictures: the same for all, still digits, and worth having."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from conftest import Outcome
from idx_files import mnist as digits

from mnist_cli.training.augmentation import augment


def test_the_same_seed_bends_pictures_alike_and_each_in_its_own_way() -> None:
    images = np.repeat(digits().train_images[:1], 50, axis=0)
    once, again, other = (augment(images, np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, other)
    assert len(np.unique(once.reshape(50, -1), axis=0)) == 50


def test_bent_pictures_keep_shape_type_ink_and_place() -> None:
    images = digits().train_images[:2500]  # more than two chunks
    bent = augment(images, np.random.default_rng(0))
    assert bent.shape == images.shape
    assert bent.dtype == np.uint8
    ink, bent_ink = (pixels.sum(axis=(1, 2), dtype=np.int64) for pixels in (images, bent))
    # Scaling alone changes an area by up to 1.15 ** 2, or 1 / 0.85 ** 2 = 1.38; the elastic field
    # stretches a place by some 20% more each way. A factor of 2 would be another digit.
    ratio = bent_ink / ink
    assert ratio.min() > 0.5
    assert ratio.max() < 2
    assert 0.95 < ratio.mean() < 1.1
    # At most the shift of 2 pixels, and what the bending adds to it.
    columns = np.arange(28)
    centers = [
        (pixels.sum(axis=1) @ columns) / pixels.sum(axis=(1, 2)) for pixels in (images, bent)
    ]
    assert np.abs(centers[0] - centers[1]).max() < 6


def test_no_ink_comes_in_from_a_neighbour() -> None:
    images = np.zeros((3, 28, 28), np.uint8)
    images[::2] = 255  # two full pictures around an empty one
    for seed in range(20):
        assert not augment(images, np.random.default_rng(seed))[1].any()


def test_augmented_training_repeats_to_the_bit_and_differs_from_plain(
    mnist: Callable[..., Outcome], small_data: Path, tmp_path: Path
) -> None:
    def history(folder: str, *options: str) -> list[float]:
        command = ["train", "--framework", "numpy", "--arch", "mlp", "--epochs", 2, *options]
        command += ["--dataset", small_data, "--results-dir", tmp_path / folder, "--json"]
        record = mnist(*command).document
        assert record["augment"] == ("--augment" in options)
        return [row["train_loss"] for row in record["history"]]

    bent = history("a", "--augment")
    assert bent == history("b", "--augment")
    assert bent != history("c")

"""Augmented training images: reproducible, still readable as digits, and used by training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from conftest import Outcome
from idx_files import mnist as digits

from mnist_cli.training.augmentation import augment


def test_the_same_seed_repeats_the_distortions_and_each_image_has_its_own() -> None:
    images = np.repeat(digits().train_images[:1], 50, axis=0)
    once, again, other = (augment(images, np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, other)
    assert len(np.unique(once.reshape(50, -1), axis=0)) == 50


def test_augmented_images_keep_shape_type_ink_and_position() -> None:
    images = digits().train_images[:2500]  # more than two chunks
    augmented = augment(images, np.random.default_rng(0))
    assert augmented.shape == images.shape
    assert augmented.dtype == np.uint8
    ink, augmented_ink = (pixels.sum(axis=(1, 2), dtype=np.int64) for pixels in (images, augmented))
    # Scaling alone changes an area by up to 1.15 ** 2, or 1 / 0.85 ** 2 = 1.38; the elastic field
    # changes lengths by some 20% more. A factor of 2 would be another digit.
    ratio = augmented_ink / ink
    assert ratio.min() > 0.5
    assert ratio.max() < 2
    assert 0.95 < ratio.mean() < 1.1
    # The shift is at most 2 pixels; shear, scale and the elastic field add to it.
    columns = np.arange(28)
    centers = [
        (pixels.sum(axis=1) @ columns) / pixels.sum(axis=(1, 2)) for pixels in (images, augmented)
    ]
    assert np.abs(centers[0] - centers[1]).max() < 6


def test_no_ink_comes_from_a_neighbouring_image() -> None:
    images = np.zeros((3, 28, 28), np.uint8)
    images[::2] = 255  # two full images around an empty one
    for seed in range(20):
        assert not augment(images, np.random.default_rng(seed))[1].any()


def test_augmented_training_is_reproducible_to_the_bit_and_differs_from_plain(
    mnist: Callable[..., Outcome], small_data: Path, tmp_path: Path
) -> None:
    def history(folder: str, *options: str) -> list[float]:
        command = ["train", "--framework", "numpy", "--arch", "mlp", "--epochs", 2, *options]
        command += ["--dataset", small_data, "--results-dir", tmp_path / folder, "--json"]
        record = mnist(*command).document
        assert record["augment"] == ("--augment" in options)
        return [row["train_loss"] for row in record["history"]]

    augmented = history("a", "--augment")
    assert augmented == history("b", "--augment")
    assert augmented != history("c")

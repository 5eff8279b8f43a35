"""Augmented training images: reproducible, still readable as digits, and used by training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from idx_files import mnist as digits
from outcomes import Outcome

from mnist_cli.config import TrainConfig
from mnist_cli.data.split import split
from mnist_cli.names import DIGITS, numbered
from mnist_cli.training import augmentation, loop
from mnist_cli.training.augmentation import augment


def test_the_same_seed_repeats_the_distortions_and_each_image_has_its_own() -> None:
    images = np.repeat(digits().train_images[:1], 50, axis=0)
    once, again, other = (augment(images, np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, other)
    changed = once[(once != images).any(axis=(1, 2))]
    assert 28 <= len(changed) <= 42  # 70% of 50, whose standard deviation is 3.2
    assert len(np.unique(changed.reshape(len(changed), -1), axis=0)) == len(changed)


def test_augmented_images_keep_shape_type_ink_and_position() -> None:
    images = digits().train_images[:2500]  # more than two chunks
    augmented = augment(images, np.random.default_rng(0))
    assert augmented.shape == images.shape
    assert augmented.dtype == np.uint8
    ink, augmented_ink = (pixels.sum(axis=(1, 2), dtype=np.int64) for pixels in (images, augmented))
    # Scaling alone changes an area by up to 1.15 ** 2, or 1 / 0.85 ** 2 = 1.38; the elastic field
    # changes lengths by some 20% more, and a stroke of 3 pixels may become 2.2 or 3.8.
    ratio = augmented_ink / ink
    assert ratio.min() > 0.3
    assert ratio.max() < 2.5
    assert 0.95 < ratio.mean() < 1.1
    # The shift is at most 2 pixels; shear, scale and the elastic field add to it.
    columns = np.arange(28)
    centers = [
        (pixels.sum(axis=1) @ columns) / pixels.sum(axis=(1, 2)) for pixels in (images, augmented)
    ]
    assert np.abs(centers[0] - centers[1]).max() < 6


def test_strokes_become_wider_and_narrower_by_up_to_a_pixel() -> None:
    line = np.zeros((1, 28, 28), np.uint8)
    line[:, 4:24, 12:15] = 255  # 20 pixels long and 3 wide
    augmented = augment(np.repeat(line, 400, axis=0), np.random.default_rng(0))
    widths = augmented[:, 10:18].sum(axis=(1, 2), dtype=np.int64) / 255 / 8
    # Scale and slant alone change 3 pixels to between 2.5 and 3.7.
    assert np.quantile(widths, 0.02) < 2.4
    assert 3.8 < np.quantile(widths, 0.98) < 5


def _drawn(digit: int, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, np.ndarray]:
    """Return images of a digit before and after habits were drawn on all of them."""
    monkeypatch.setattr(augmentation, "HABIT_SHARE", 1.0)
    data = digits()
    before = data.train_images[data.train_labels == digit][:200]
    after = before.copy()
    augmentation._draw_habits(after, np.full(len(after), digit), np.random.default_rng(0))
    return before, after


@pytest.mark.parametrize("digit", [1, 7])
def test_habits_add_ink_to_ones_and_sevens(digit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = _drawn(digit, monkeypatch)
    assert (after >= before).all()
    added = (after > 127).sum(axis=(1, 2)) - (before > 127).sum(axis=(1, 2))
    assert np.mean(added > 3) > 0.9
    assert added.max() < 100  # lines of 8 and 11 pixels, 3.2 wide and antialiased


def test_flags_start_at_the_top_feet_stand_below_and_bars_cross_the_middle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def mean_row(digit: int) -> np.ndarray:
        before, after = _drawn(digit, monkeypatch)
        added = (after.astype(int) - before).sum(axis=(0, 2))
        return added / added.sum()

    ones, sevens = mean_row(1), mean_row(7)  # digits cover rows 4 to 23
    assert ones[4:12].sum() > 0.3
    assert ones[21:26].sum() > 0.3
    assert sevens[8:21].sum() > 0.9


def test_habits_are_drawn_on_one_in_five_ones_and_sevens_and_on_nothing_else() -> None:
    data = digits()
    images, labels = data.train_images[:10_000].copy(), data.train_labels[:10_000]
    augmentation._draw_habits(images, labels, np.random.default_rng(0))
    changed = (images != data.train_images[:10_000]).any(axis=(1, 2))
    assert set(labels[changed]) == {1, 7}
    share = changed.sum() / np.isin(labels, (1, 7)).sum()
    assert 0.17 < share < 0.23  # 0.2 of 2,200, whose standard deviation is 0.009


def test_without_digits_no_habits_are_drawn() -> None:
    data = digits()
    ones = data.train_images[data.train_labels == 1][:300]
    plain = augment(ones, np.random.default_rng(0))
    with_habits = augment(ones, np.random.default_rng(0), digits=np.ones(300, np.int64))
    assert with_habits.sum(dtype=np.int64) > 1.02 * plain.sum(dtype=np.int64)


def test_clothes_get_no_habits(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def fake(images: np.ndarray, _rng: object, *, digits: object) -> np.ndarray:
        seen.append(digits)
        return images

    monkeypatch.setattr(augmentation, "augment", fake)
    config = TrainConfig(augment=True)
    for shows_digits in (True, False):
        dataset = replace(digits(), class_names=DIGITS if shows_digits else numbered(11))
        data = loop.prepare(dataset, split(dataset, seed=0, limit=20), config)
        loop._epoch_images(data, config, 1)
    assert seen[0] is not None
    assert seen[1] is None


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

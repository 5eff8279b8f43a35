"""Digits that lie otherwise than MNIST's are noticed, and nothing else is."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from idx_files import mnist
from letter_samples import LETTERS

from mnist_cli.data.dataset import Dataset
from mnist_cli.data.orientation import checked, orientation
from mnist_cli.names import numbered

LIES = {
    "upright": lambda images: images,
    "turned by 90 degrees": lambda images: np.rot90(images, 3, (1, 2)),
    "upside down": lambda images: np.rot90(images, 2, (1, 2)),
    "turned by 270 degrees": lambda images: np.rot90(images, 1, (1, 2)),
    "mirrored": lambda images: images[:, :, ::-1],
    "mirrored and upside down": lambda images: images[:, ::-1],
    "transposed": lambda images: images.swapaxes(1, 2),
    "transposed and upside down": lambda images: images.swapaxes(1, 2)[:, ::-1, ::-1],
}


def some(count: int = 400, seed: int = 0) -> Dataset:
    data = mnist()
    rows = np.random.default_rng(seed).permutation(60_000)[:count]
    return replace(
        data,
        name="./own",
        train_images=data.train_images[rows],
        train_labels=data.train_labels[rows],
        test_images=data.test_images[:50],
        test_labels=data.test_labels[:50],
    )


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("lies", LIES)
def test_each_way_to_lie_is_told_and_undone(lies: str, inverted: bool) -> None:
    data = some()

    def laid(images: np.ndarray) -> np.ndarray:
        turned = np.ascontiguousarray(LIES[lies](images))
        return 255 - turned if inverted else turned

    wrong = replace(data, train_images=laid(data.train_images), test_images=laid(data.test_images))
    said: list[str] = []
    assert checked(wrong, fix=False, say=said.append) is wrong
    fixed = checked(wrong, fix=True, say=lambda _: None)
    np.testing.assert_array_equal(fixed.train_images, data.train_images)
    np.testing.assert_array_equal(fixed.test_images, data.test_images)
    np.testing.assert_array_equal(fixed.test_labels, data.test_labels)
    if (lies, inverted) == ("upright", False):
        assert said == []
        return
    (line,) = said
    expected = "dark on light" if lies == "upright" else lies
    assert f"./own look {expected}" in line
    assert inverted == ("dark on light" in line)
    assert "--fix-orientation" in line
    assert fixed.sha256 != wrong.sha256


def test_no_part_of_mnist_raises_an_alarm() -> None:
    rng = np.random.default_rng(1)
    for seed in range(60):
        found = orientation(some(int(rng.integers(60, 500)), seed))
        assert found is None or found.is_usual


@pytest.mark.parametrize("degrees", [10, 20, 30, 40])
def test_digits_turned_a_little_either_way_raise_no_alarm(degrees: int) -> None:
    rng = np.random.default_rng(degrees)
    for seed in range(5):
        data = some(300, seed)
        turned = [
            cv2.warpAffine(
                image,
                cv2.getRotationMatrix2D((13.5, 13.5), rng.uniform(-degrees, degrees), 1),
                (28, 28),
            )
            for image in data.train_images
        ]
        found = orientation(replace(data, train_images=np.array(turned)))
        assert found is not None
        assert found.is_usual


def test_images_of_something_else_under_the_numbers_0_to_9_raise_no_alarm() -> None:
    rng = np.random.default_rng(2)
    shape = (10, 28, 28)
    for seed in range(10):
        data = some(300, seed)
        for pictures in (
            data.train_images[rng.permutation(300)],  # of other digits than their labels say
            LIES["transposed"](data.train_images)[rng.permutation(300)],
            rng.integers(0, 256, data.train_images.shape).astype(np.uint8),
            _clothes(rng.uniform(0, 1, shape))[data.train_labels],
            np.zeros_like(data.train_images),
        ):
            found = orientation(replace(data, train_images=np.ascontiguousarray(pictures)))
            assert found is not None
            assert found.is_usual


def _clothes(noise: np.ndarray) -> np.ndarray:
    """Return smooth blobs that fill the image, one for each class."""
    blobs = [cv2.GaussianBlur(image, (0, 0), 4) for image in noise]
    return np.array([cv2.normalize(b, None, 0, 255, cv2.NORM_MINMAX) for b in blobs], np.uint8)


@pytest.mark.parametrize("names", [LETTERS, numbered(9), ("T-shirt", *"123456789")])
def test_what_is_not_digits_is_not_compared(names: tuple[str, ...]) -> None:
    data = replace(some(), class_names=names)
    assert orientation(data) is None
    assert checked(data, fix=True, say=lambda _: None) is data


def test_too_few_images_are_not_compared() -> None:
    assert orientation(some(40)) is None


def test_named_data_sets_are_upright_and_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mnist_cli.data.orientation.orientation", None)  # it would fail
    assert checked(mnist(), fix=False, say=lambda _: None) is mnist()

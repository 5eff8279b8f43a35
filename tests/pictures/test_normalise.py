"""A digit becomes 28x28 as in MNIST, whatever its size, position, tones and stroke width."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from picture_samples import digit, only_digit, page, similarity

from mnist_cli.data.dataset import Dataset
from mnist_cli.data.registry import load_dataset
from mnist_cli.pictures.normalise import prepare


@pytest.fixture(scope="module")
def mnist_data() -> Dataset:
    return load_dataset()


def test_images_of_mnist_pass_unchanged(mnist_data: Dataset) -> None:
    images = mnist_data.test_images[:2000]
    changed = [
        index
        for index, image in enumerate(images)
        # The maximum is scaled from 254, or a little less, to 255.
        if np.abs(prepare(image, single=True)[0].image - image.astype(int)).max() > 3
    ]
    # A few change: they have specks beside the digit, or strokes of extreme width.
    assert len(changed) <= 0.05 * len(images)


@pytest.mark.parametrize("side", [28, 60, 150, 700])
@pytest.mark.parametrize(("paper", "ink"), [(255, 0), (0, 255), (200, 120), (60, 110)])
def test_size_position_tone_and_polarity_do_not_change_the_digit(
    mnist_data: Dataset, side: int, paper: int, ink: int
) -> None:
    image = mnist_data.test_images[7]
    canvas = np.zeros((side, side), dtype=np.uint8)
    canvas[side - 28 :, (side - 28) // 3 :][:28, :28] = image
    grey = np.rint(paper + (ink - paper) * (canvas / 255)).astype(np.uint8)
    # With 50 grey levels in place of 256 the faintest edges are lost.
    assert similarity(only_digit(grey), image) > 0.98


def test_a_digit_is_20_pixels_long_with_its_centre_of_mass_in_the_middle(
    mnist_data: Dataset,
) -> None:
    for label in range(10):
        image = only_digit(page((digit(mnist_data, label, 3, height=130), 90, 30)))
        rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
        longer = max(np.ptp(rows), np.ptp(columns)) + 1
        assert 19 <= longer <= 20
        mass = image / image.sum()
        center = [(mass.sum(axis=axis) * np.arange(28)).sum() for axis in (1, 0)]
        assert np.abs(np.subtract(center, 14)).max() <= 0.5  # the digit is shifted by whole pixels
        assert image.max() == 255


@pytest.mark.parametrize("thickness", [1, 3, 60])
def test_very_thin_and_very_thick_strokes_get_the_widths_of_mnist(thickness: int) -> None:
    pixels = np.full((400, 400), 255, dtype=np.uint8)
    cv2.ellipse(pixels, (200, 200), (90, 130), 0, 0, 360, 0, thickness)
    image = only_digit(pixels)
    enlarged = cv2.resize(image, (112, 112), interpolation=cv2.INTER_LINEAR)
    inside = cv2.distanceTransform((enlarged > 127).astype(np.uint8), cv2.DIST_L2, 5)
    # 4 x the mean distance to the edge, at four times the size: MNIST's are 1.6 to 6.7.
    assert 1.4 <= inside[inside > 0].mean() <= 7

"""What a reader returns, and how pixels enter a foreign network."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mnist_cli.arrays import Array
from mnist_cli.errors import UsageError
from mnist_cli.importing.flow import Network, cannot
from mnist_cli.training.recipe import PIXEL_MEAN, PIXEL_STD

MAX_BYTES = 2**30  # of a file, unpacked: more than twice what the largest network takes
# Mean and standard deviation of pixels on a scale of 0-1.
PIXELS = {
    "mnist": (PIXEL_MEAN, PIXEL_STD),
    "0-1": (0.0, 1.0),
    "0-255": (0.0, 1 / 255),
    "-1-1": (0.5, 0.5),
}


@dataclass(frozen=True)
class Source:
    """A foreign network, and ``run``, which computes it in the file's own runtime.

    ``run`` takes images (N, 28, 28) as the file expects them, and returns its answers (N, classes).
    ``pixels`` is how they usually enter such a file.
    """

    network: Network
    run: Callable[[Array], Array]
    pixels: str
    takes_integers: bool = False


def parse_pixels(text: str) -> tuple[float, float]:
    """Return mean and std (0-1) of a name in `PIXELS`, or of ``0.13,0.31``."""
    if text in PIXELS:
        return PIXELS[text]
    try:
        mean, std = map(float, text.split(","))
    except ValueError:
        mean, std = math.nan, math.nan
    if not (math.isfinite(mean) and 0 < std < math.inf):
        raise UsageError(
            f"pixels must be {', '.join(PIXELS)}, or a mean and a standard deviation such as "
            f"0.13,0.31 on a scale of 0-1, not '{text}'."
        )
    return mean, std


def as_input(images: Array, mean: float, std: float) -> Array:
    """Return images (N, 28, 28), uint8, as float32 (pixel / 255 - mean) / std."""
    return np.asarray((images / 255 - mean) / std, dtype=np.float32)


def pixel_statistics(network: Network, mean: float, std: float) -> tuple[float, float]:
    """Return mean and std for the first layer, of those for the file's input.

    The file's own normalisation, scale * input + offset, comes in between.
    """
    if network.scale <= 0:
        cannot("it inverts the pixels")
    return (
        _rounded(mean - network.offset * std / network.scale),
        _rounded(std / network.scale),
    )


def _rounded(value: float) -> float:
    """Return the shortest decimal that is the same number to the precision of a float32."""
    short = float(f"{value:.6g}")
    return short if abs(short - value) <= 2e-7 * max(abs(value), 1e-3) else value

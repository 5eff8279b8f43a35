"""How accurate and how often sure models stay when test images are disturbed by degrees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mnist_cli.arrays import Array
from mnist_cli.experiments.disturbances import DISTURBANCES
from mnist_cli.randomness import stream
from mnist_cli.training.calibration import judge

if TYPE_CHECKING:
    from mnist_cli.prediction import Model

SETS = sum(len(each.degrees) for each in DISTURBANCES)  # of disturbed images


@dataclass(frozen=True)
class Point:
    """A model's answers to images disturbed by one degree; shares, 0-1, of all images.

    ``sure_and_wrong`` is the share of images whose digit is wrong and yet called sure.
    """

    degree: float
    accuracy: float
    sure: float
    sure_and_wrong: float


@dataclass(frozen=True)
class Curve:
    """A model under one disturbance."""

    model: str
    disturbance: str
    unit: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Robustness:
    """All curves of some models, measured on the same images."""

    dataset: str
    images: int
    seed: int
    curves: tuple[Curve, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the curves as JSON values."""
        return asdict(self)


def measure(
    models: Mapping[str, Model],
    images: Array,
    labels: Array,
    *,
    dataset: str,
    seed: int,
    advance: Callable[[], None] = lambda: None,
) -> Robustness:
    """Return how models answer to images (N, 28, 28), uint8, with labels (N,), disturbed.

    The same seed makes the same images, whichever the models. ``advance`` is called after each of
    the `SETS` of images for each model.
    """
    points: dict[tuple[str, str], list[Point]] = {}
    for number, disturbance in enumerate(DISTURBANCES):
        for degree in disturbance.degrees:
            # The same draws for every degree, so that only the degree differs.
            rng = stream(seed, "disturbances", number)
            disturbed = disturbance.apply(images, degree, rng)
            for name, model in models.items():
                found = points.setdefault((disturbance.name, name), [])
                found.append(_point(model, disturbed, labels, degree))
                advance()
    units = {each.name: each.unit for each in DISTURBANCES}
    curves = tuple(
        Curve(model, disturbance, units[disturbance], tuple(found))
        for (disturbance, model), found in points.items()
    )
    return Robustness(dataset, len(labels), seed, curves)


def _point(model: Model, images: Array, labels: Array, degree: float) -> Point:
    probabilities, is_sure = judge(model.logits(images), model.calibration)
    is_right = probabilities.argmax(axis=1) == labels
    return Point(
        degree=float(degree),
        accuracy=float(is_right.mean()),
        sure=float(is_sure.mean()),
        sure_and_wrong=float((is_sure & ~is_right).mean()),
    )

"""Disturbances of test images, and what models answer to them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from chart_checks import Drawn, require_readable, texts

from mnist_cli.arrays import Array
from mnist_cli.data.registry import load_dataset
from mnist_cli.experiments import robustness
from mnist_cli.experiments.disturbances import DISTURBANCES, Disturbance
from mnist_cli.prediction import Model
from mnist_cli.reporting.charts import robustness as chart

BY_NAME = {each.name: each for each in DISTURBANCES}


@pytest.fixture(scope="module")
def images() -> Array:
    return load_dataset().test_images[:50]


def _disturbed(disturbance: Disturbance, images: Array, degree: float, seed: int = 0) -> Array:
    return disturbance.apply(images, degree, np.random.default_rng(seed))


@pytest.mark.parametrize("disturbance", DISTURBANCES, ids=lambda each: each.name)
def test_degree_zero_changes_nothing_and_more_changes_more(
    disturbance: Disturbance, images: Array
) -> None:
    assert sorted(disturbance.degrees) == list(disturbance.degrees)
    np.testing.assert_array_equal(_disturbed(disturbance, images, 0), images)
    changes = []
    for degree in disturbance.degrees:
        disturbed = _disturbed(disturbance, images, degree)
        assert (disturbed.shape, disturbed.dtype) == (images.shape, np.uint8)
        changes.append(float(np.abs(disturbed.astype(float) - images).mean()))
    zero = disturbance.degrees.index(0)
    assert changes[zero:] == sorted(changes[zero:])
    assert changes[zero::-1] == sorted(changes[: zero + 1])
    assert len(set(changes)) == len(changes)


@pytest.mark.parametrize("disturbance", DISTURBANCES, ids=lambda each: each.name)
def test_a_seed_decides_what_is_random(disturbance: Disturbance, images: Array) -> None:
    degree = disturbance.degrees[-1]
    first, again, other = (_disturbed(disturbance, images, degree, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    is_random = disturbance.name not in ("blur", "contrast", "stroke width")
    assert np.array_equal(first, other) != is_random


def test_disturbances_do_what_they_say(images: Array) -> None:
    def ink(name: str, degree: float) -> float:
        return float(_disturbed(BY_NAME[name], images, degree).astype(float).sum())

    whole = float(images.astype(float).sum())
    # Digits lie within 20 of 28 pixels: neither a shift by 3 nor a rotation loses ink, but
    # sampling and rounding may change a hundredth.
    assert ink("shift", 3) == pytest.approx(whole, rel=0.01)
    assert ink("rotation", 30) == pytest.approx(whole, rel=0.01)
    assert ink("contrast", 40) == pytest.approx(0.6 * whole, rel=0.01)
    assert ink("stroke width", 1) > 1.2 * whole
    assert ink("stroke width", -1) < 0.8 * whole
    assert ink("occlusion", 8) < whole
    rows = np.arange(28)

    def middle(image: Array) -> float:
        return float(image.astype(float).sum(axis=1) @ rows / image.astype(float).sum())

    shifted = _disturbed(BY_NAME["shift"], images, 3)
    moves = [middle(after) - middle(before) for before, after in zip(images, shifted, strict=True)]
    assert max(np.abs(moves)) == pytest.approx(3, abs=0.3)  # of 50 directions some are vertical


def test_models_answer_to_the_same_images_and_are_judged_by_their_own_limits() -> None:
    data = load_dataset()
    images, labels = data.test_images[:40], data.test_labels[:40]
    model, careful = Model(), Model()
    careful.calibration = replace(model.calibration, sure_probability=2.0)  # which none reaches
    seen: list[int] = []
    found = robustness.measure(
        {"a": model, "b": careful},
        images,
        labels,
        dataset="mnist",
        seed=3,
        advance=lambda: seen.append(1),
    )
    assert len(seen) == 2 * robustness.SETS
    assert [curve.disturbance for curve in found.curves] == [
        each.name for each in DISTURBANCES for _ in "ab"
    ]
    for first, second in zip(found.curves[::2], found.curves[1::2], strict=True):
        assert (first.model, second.model) == ("a", "b")
        pairs = list(zip(first.points, second.points, strict=True))
        assert all(one.accuracy == other.accuracy for one, other in pairs)
        assert not any(other.sure for _, other in pairs)
        (clean,) = (point for point in first.points if point.degree == 0)
        right = np.mean(model.logits(images).argmax(axis=1) == labels)
        assert clean.accuracy == right
        for point in first.points:
            assert point.sure_and_wrong <= min(point.sure, 1 - point.accuracy) + 1e-9
    noise = next(curve for curve in found.curves if curve.disturbance == "noise")
    assert noise.points[-1].accuracy < noise.points[0].accuracy


def test_the_chart_names_each_model_and_disturbance(drawn: Drawn, tmp_path: Path) -> None:
    names = [*"abcdefgh", "a-model-whose-name-is-too-long-for-a-legend-of-four-columns"]
    points = tuple(robustness.Point(float(each), 0.9, 0.8, 0.05) for each in range(3))
    curves = tuple(
        robustness.Curve(name, each.name, each.unit, points)
        for each in DISTURBANCES
        for name in names
    )
    chart.draw(robustness.Robustness("mnist", 10_000, 0, curves), tmp_path / "chart.png")
    require_readable(tmp_path / "chart.png", drawn)
    shown = texts(drawn)
    assert {f"{each.name}, {each.unit}" for each in DISTURBANCES} <= set(shown)
    assert set(names[:-1]) <= set(shown)
    assert "…or-a-legend-of-four-columns" in shown

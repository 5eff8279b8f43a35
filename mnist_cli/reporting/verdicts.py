"""Sentences on which framework or network is faster and more accurate, and whether that is sure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mnist_cli.experiments.statistics import same_device
from mnist_cli.names import framework_name, network_name


def verdicts(document: Mapping[str, Any]) -> list[str]:
    """Return a sentence or two for each pair of frameworks, and for each CNN against its MLP.

    Differences between frameworks come with a verdict: significant, not significant, or
    inconclusive with a single run.
    """
    frameworks = [_frameworks_verdict(row) for row in document["frameworks"]]
    return frameworks + [_networks_verdict(row) for row in document["architectures"]]


def _frameworks_verdict(row: Mapping[str, Any]) -> str:
    if row["speed_ratio"]["ratio"] < 1:
        row = _reversed(row)
    first, second = framework_name(row["first"]), framework_name(row["second"])
    p_values = [test["p_value"] for test in row["mcnemar"]]
    p = " to ".join(dict.fromkeys(f"{value:.2g}" for value in (min(p_values), max(p_values))))
    details = [*_points_interval(row["accuracy_points"]), f"McNemar's p {p}"]
    return (
        f"{network_name(row['arch'])}: {first} is {_ratio(row['speed_ratio'])} as fast as {second}"
        f"{_speed_verdict(row)}. "
        f"Test accuracy differs by {_points(row)} pp ({'; '.join(details)})"
        f"{_verdict(row, 'more_accurate')}."
    )


def _reversed(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the comparison of the second framework with the first: the faster one comes first."""
    speed, points = row["speed_ratio"], row["accuracy_points"]
    inverted = {
        "ratio": 1 / speed["ratio"],
        "low": speed["high"] and 1 / speed["high"],
        "high": speed["low"] and 1 / speed["low"],
    }
    return {
        **row,
        "first": row["second"],
        "second": row["first"],
        "devices": row.get("devices", [])[::-1],
        "speed_ratio": {**speed, **inverted},
        "accuracy_points": {**points, "mean": -points["mean"]},
    }


def _networks_verdict(row: Mapping[str, Any]) -> str:
    points, more = row["accuracy_points"], "more"
    if points["mean"] < 0:
        points, more = {**points, "mean": -points["mean"]}, "less"
    interval = "".join(f" ({text})" for text in _points_interval(points))
    return (
        f"{framework_name(row['framework'])}: the CNN is {points['mean']:.2f} percentage points "
        f"{more} accurate than the MLP{interval}, at {_ratio(row['seconds_ratio'])} the training "
        f"time and {row['parameters_ratio']:.1f}x the parameters."
    )


def _speed_verdict(row: Mapping[str, Any]) -> str:
    devices = row.get("devices", [])  # not in older documents
    if not same_device(devices):
        return f": no verdict, because they ran on different devices ({' and '.join(devices)})"
    return _verdict(row, "faster")


def _verdict(row: Mapping[str, Any], what: str) -> str:
    if row[what]:
        return f": {framework_name(row[what])} is significantly {what.replace('_', ' ')}"
    if row["n"] == 1:
        return ": inconclusive with 1 run; use --runs 3"
    return ": no significant difference"


def _ratio(ratio: Mapping[str, Any]) -> str:
    """Return ``1.37x (95% CI 1.31 to 1.43)``, or the ratio alone for a single run."""
    if ratio["low"] is None:
        return f"{ratio['ratio']:.2f}x"
    return f"{ratio['ratio']:.2f}x (95% CI {ratio['low']:.2f} to {ratio['high']:.2f})"


def _points(row: Mapping[str, Any]) -> str:
    return f"{_rounded(row['accuracy_points']['mean']):+.2f}"


def _points_interval(points: Mapping[str, Any]) -> list[str]:
    """Return the 95% interval of a difference in percentage points; none for a single run."""
    if points["ci95"] is None:
        return []
    low, high = points["mean"] - points["ci95"], points["mean"] + points["ci95"]
    return [f"95% CI {_rounded(low):.2f} to {_rounded(high):.2f}"]


def _rounded(value: float) -> float:
    """Return a value to two decimals, -0.0 as 0.0."""
    return round(value, 2) + 0.0

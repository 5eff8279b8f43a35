"""Sentences on which framework or network is faster and more accurate, and whether that is sure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mnist_cli.config import ARCHITECTURES
from mnist_cli.experiments.statistics import same_device
from mnist_cli.names import framework_name, network_name

_MAX_IN_PAIRS = 3  # networks: of eight there are 28 pairs in each framework


def verdicts(document: Mapping[str, Any]) -> list[str]:
    """Return a sentence or two for each pair of frameworks, then on the networks.

    Of up to three networks each pair has a sentence, of more each framework has one. Differences
    come with a verdict: significant, not significant, or inconclusive with a single run.
    """
    frameworks = [_frameworks_verdict(row) for row in document["frameworks"]]
    pairs = document["architectures"]
    names = {row.get(place) for row in pairs for place in ("first", "second")}
    if len(names) <= _MAX_IN_PAIRS:
        return frameworks + [_networks_verdict(row) for row in pairs]
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in pairs:
        groups.setdefault(row["framework"], []).append(row)
    return frameworks + [_ranking(framework, rows) for framework, rows in groups.items()]


def network_lines(document: Mapping[str, Any]) -> list[str]:
    """Return ``name: line`` of each network of a document that is neither the CNN nor the MLP."""
    lines = {row["arch"]: row.get("line") for row in document["summary"]}
    return [
        f"{network_name(arch)}: {line}"
        for arch, line in lines.items()
        if line and arch not in ARCHITECTURES
    ]


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
    points = row["accuracy_points"]
    machines = [
        {**each, "speed_ratio": _inverted(each["speed_ratio"])} for each in row.get("machines", [])
    ]
    return {
        **row,
        "first": row["second"],
        "second": row["first"],
        "devices": row.get("devices", [])[::-1],
        "speed_ratio": _inverted(row["speed_ratio"]),
        **({"machines": machines} if "machines" in row else {}),
        "accuracy_points": {**points, "mean": -points["mean"]},
    }


def _inverted(ratio: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **ratio,
        "ratio": 1 / ratio["ratio"],
        "low": ratio["high"] and 1 / ratio["high"],
        "high": ratio["low"] and 1 / ratio["low"],
    }


def _networks_verdict(row: Mapping[str, Any]) -> str:
    # Older rows have neither names nor tests: they are of the CNN and the MLP.
    first, second = row.get("first", "cnn"), row.get("second", "mlp")
    points, more = row["accuracy_points"], "more"
    if points["mean"] < 0:
        points, more = {**points, "mean": -points["mean"]}, "less"
    details = _points_interval(points)
    if row["n"] > 1 and "adjusted_p" in row:
        is_sure = "significant" if row["more_accurate"] else "no significant difference"
        details.append(f"p {row['adjusted_p']:.2g}: {is_sure}")
    operations = row.get("operations_ratio")
    is_shared = row.get("timing") == "shared"
    costs = [] if is_shared else [f"{_ratio(row['seconds_ratio'])} the training time"]
    costs += [f"{operations:.1f}x the operations"] if operations else []
    interval = f" ({'; '.join(details)})" if details else ""
    return (
        f"{framework_name(row['framework'])}: {_article(first)} is {points['mean']:.2f} percentage "
        f"points {more} accurate than {_article(second)}"
        f"{interval}, at {', '.join(costs)}{' and ' if costs else ''}"
        f"{row['parameters_ratio']:.1f}x the parameters."
    )


def _article(arch: str) -> str:
    """Return ``the CNN``, but ``ResNet``."""
    name = network_name(arch)
    return f"the {name}" if name.isupper() else name


def _ranking(framework: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return one sentence on all networks of a framework: the best, and how far behind others are.

    ``rows`` has each pair of them.
    """
    names = dict.fromkeys(row[place] for row in rows for place in ("first", "second"))

    def behind(best: str, other: str) -> tuple[float, bool]:
        """Return by how many percentage points a network is behind, and whether surely."""
        row = next((row for row in rows if {row["first"], row["second"]} == {best, other}), None)
        if row is None:  # no seed that both finished
            return 0.0, False
        sign = 1 if row["first"] == best else -1
        return sign * row["accuracy_points"]["mean"], row["more_accurate"] == best

    def is_best(name: str) -> bool:
        return all(behind(name, other)[0] >= 0 for other in names if other != name)

    best = next((name for name in names if is_best(name)), next(iter(names)))
    others = sorted((*behind(best, name), name) for name in names if name != best)
    told = [
        f"{network_name(name)} by {_rounded(points):.2f}{'' if is_sure else ' (not significantly)'}"
        for points, is_sure, name in others
    ]
    runs = min(row["n"] for row in rows)
    sure = "inconclusive with 1 run; use --runs 3" if runs == 1 else "McNemar, Holm's correction"
    if runs == 1:
        told = [text.removesuffix(" (not significantly)") for text in told]
    return (
        f"{framework_name(framework)}: {network_name(best)} is the most accurate; behind it, in "
        f"percentage points, are {', '.join(told)} ({sure})."
    )


def _speed_verdict(row: Mapping[str, Any]) -> str:
    devices = row.get("devices", [])  # not in older documents
    if not same_device(devices):
        return f": no verdict, because they ran on different devices ({' and '.join(devices)})"
    if row.get("timing") == "shared":
        return ": no verdict, because several runs were on a machine at the same time"
    machines = row.get("machines")
    if machines is None:
        return _verdict(row, "faster")
    if not machines:
        return ": no verdict, because they ran on different kinds of machine"
    first, *others = (f" on {each['machine']}{_verdict(each, 'faster')}" for each in machines)
    ratios = (_ratio(each["speed_ratio"]) for each in machines[1:])
    told = (f"; {ratio}{text}" for ratio, text in zip(ratios, others, strict=True))
    return first + "".join(told)


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

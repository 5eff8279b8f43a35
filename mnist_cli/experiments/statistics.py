"""Statistics over records: means, intervals and tests, paired by seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations
from typing import Any, TypeAlias

from mnist_cli.machine import machine_kind
from mnist_cli.records import ACCURACY_MARKS, RunRecord

Pair: TypeAlias = tuple[RunRecord, RunRecord]  # of one seed
SIGNIFICANCE = 0.05
_STATISTICS = (
    "test_accuracy",
    "train_seconds",
    "images_per_second",
    "warmup_seconds",
    "import_seconds",
    "evaluate_seconds",
    "wall_seconds",
    "peak_rss_mib",
)


def summarize(runs: Iterable[RunRecord]) -> list[dict[str, Any]]:
    """Return a row of `statistic`s for each framework, network and batch size, in input order.

    Times to an accuracy are over the runs that reached it.
    """
    cells: dict[tuple[str, str, int], list[RunRecord]] = {}
    for run in runs:
        cells.setdefault((run.framework, run.arch, run.batch_size), []).append(run)
    return [
        {
            "framework": framework,
            "arch": arch,
            "activation": group[0].activation,
            "batch_size": batch_size,
            "learning_rate": group[0].learning_rate,
            "n": len(group),
            "parameters": group[0].parameters,
            "line": group[0].line,
            "operations": group[0].operations,
            **{name: statistic([getattr(run, name) for run in group]) for name in _STATISTICS},
            "time_to_accuracy": {
                str(mark): statistic(
                    [s for run in group if (s := run.time_to_accuracy[str(mark)]) is not None]
                )
                for mark in ACCURACY_MARKS
            },
        }
        for (framework, arch, batch_size), group in cells.items()
    ]


def statistic(values: Sequence[float]) -> dict[str, Any]:
    """Return {n, mean, sd, ci95} of ``values``; None where there are too few values.

    ``sd`` is the sample standard deviation, ``ci95`` the half-width of the 95% confidence interval
    of the mean by Student's t with n - 1 degrees of freedom.
    """
    count = len(values)
    mean = math.fsum(values) / count if count else None
    if mean is None or count == 1:
        return {"n": count, "mean": mean, "sd": None, "ci95": None}
    from scipy.special import stdtrit  # scipy.stats would take a second to import

    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    ci95 = float(stdtrit(count - 1, 0.975)) * sd / math.sqrt(count)
    return {"n": count, "mean": mean, "sd": sd, "ci95": ci95}


def welch(first: Sequence[float], second: Sequence[float]) -> dict[str, Any]:
    """Return {difference, low, high, p_value} of the means of two unpaired samples.

    ``difference`` is first minus second, with its 95% interval and the two-sided p-value of Welch's
    t-test (Welch, 1947, doi:10.1093/biomet/34.1-2.28); both are None if a sample has one value.
    """
    one, other = statistic(first), statistic(second)
    difference = one["mean"] - other["mean"]
    if one["sd"] is None or other["sd"] is None:
        return {"difference": difference, "low": None, "high": None, "p_value": None}
    parts = [each["sd"] ** 2 / each["n"] for each in (one, other)]
    error = math.sqrt(sum(parts))
    if error == 0:  # all values of a sample are equal
        p_value = 1.0 if difference == 0 else 0.0
        return {"difference": difference, "low": difference, "high": difference, "p_value": p_value}
    from scipy.special import stdtr, stdtrit

    freedom = sum(parts) ** 2 / sum(
        part**2 / (each["n"] - 1) for part, each in zip(parts, (one, other), strict=True)
    )
    half = float(stdtrit(freedom, 0.975)) * error
    return {
        "difference": difference,
        "low": difference - half,
        "high": difference + half,
        "p_value": 2 * float(stdtr(freedom, -abs(difference) / error)),
    }


def compare_frameworks(runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Return a row for each network and each pair of frameworks that trained it.

    Runs are paired by seed: both had the same weights, split and batches. ``speed_ratio`` is
    images per second of ``first`` over those of ``second``: the geometric mean with its 95%
    interval. ``accuracy_points`` is first minus second in percentage points of test accuracy.
    ``mcnemar`` has, for each seed, the number of images that only one of the two got wrong and the
    p-value. ``faster`` and ``more_accurate`` name the significantly better one, or are None; see
    `_add_verdicts`. ``devices`` are those of the two; neither is faster if only one is a CPU.

    Speed is compared within a kind of machine: ``speed_ratio`` is of the kind with the most pairs,
    and if there are several, ``machines`` has each. Neither is faster if no pair was on one kind,
    when ``machines`` is empty, or if runs shared a machine, when there is ``timing``.
    """
    rows = []
    for arch, first, second in _pairs(runs, lambda run: run.arch, lambda run: run.framework):
        pairs = _by_seed(first, second)
        if not pairs:
            continue
        names = (first[0].framework, second[0].framework)
        devices = [str(runs[0].environment.get("device", "cpu")) for runs in (first, second)]
        machines = _machines(pairs)
        shared = _shared(pairs)
        can_tell = same_device(devices) and bool(machines) and not shared
        for machine in machines:
            is_faster = can_tell and _excludes(machine["speed_ratio"], 1)
            difference = machine["speed_ratio"]["ratio"] - 1
            machine["faster"] = _winner(names, difference, significant=is_faster)
        main = machines[0] if machines else {"speed_ratio": _speed_ratio(pairs), "faster": None}
        rows.append(
            {
                "arch": arch,
                "first": names[0],
                "second": names[1],
                "n": len(pairs),
                "speed_ratio": main["speed_ratio"],
                "devices": devices,
                "faster": main["faster"],
                **({} if len(machines) == 1 else {"machines": machines}),
                **shared,
                **_accuracies(pairs),
            }
        )
    return _add_verdicts(rows)


def compare_architectures(runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Return for each framework a row for each pair of networks that it trained, paired by seed.

    The CNN comes before the MLP, others in the order of the runs. ``accuracy_points``, ``mcnemar``
    and ``more_accurate`` are as in `compare_frameworks`; ``seconds_ratio``, ``parameters_ratio``
    and ``operations_ratio`` (None if not known) are those of ``first`` over those of ``second``.
    ``seconds_ratio`` is of runs on one kind of machine, where there are such; ``timing`` is there
    if runs shared a machine.
    """
    rows = []
    for framework, *both in _pairs(runs, lambda run: run.framework, lambda run: run.arch):
        first, second = sorted(both, key=lambda group: group[0].arch == "mlp")
        pairs = _by_seed(first, second)
        if not pairs:
            continue
        one, other = first[0], second[0]
        operations = one.operations, other.operations
        rows.append(
            {
                "framework": framework,
                "first": one.arch,
                "second": other.arch,
                "n": len(pairs),
                "seconds_ratio": _ratio(
                    [a.train_seconds / b.train_seconds for a, b in _most_alike(pairs)]
                ),
                "parameters_ratio": one.parameters / other.parameters,
                "operations_ratio": operations[0] / operations[1]
                if operations[0] and operations[1]
                else None,
                **_shared(pairs),
                **_accuracies(pairs),
            }
        )
    return _add_verdicts(rows)


def _machines(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Return ``n`` and ``speed_ratio`` on each kind of ``machine``, most pairs first.

    Pairs whose runs were on different kinds do not count.
    """
    return [
        {"machine": kind, "n": len(alike), "speed_ratio": _speed_ratio(alike)}
        for kind, alike in _alike(pairs)
    ]


def _alike(pairs: Sequence[Pair]) -> list[tuple[str, list[Pair]]]:
    """Return the pairs whose runs were on one kind of machine, by kind, most pairs first."""
    kinds: dict[str, list[Pair]] = {}
    for pair in pairs:
        kind, other = (machine_kind(run.environment) for run in pair)
        if kind == other:
            kinds.setdefault(kind, []).append(pair)
    return sorted(kinds.items(), key=lambda item: -len(item[1]))


def _most_alike(pairs: Sequence[Pair]) -> Sequence[Pair]:
    """Return the pairs of the kind of machine that has most of them, or all if none has any."""
    alike = _alike(pairs)
    return alike[0][1] if alike else pairs


def _shared(pairs: Sequence[Pair]) -> dict[str, str]:
    """Return ``timing`` if any run had other runs beside it, or nothing."""
    is_shared = any(run.timing == "shared" for pair in pairs for run in pair)
    return {"timing": "shared"} if is_shared else {}


def _speed_ratio(pairs: Sequence[Pair]) -> dict[str, Any]:
    return _ratio([one.images_per_second / other.images_per_second for one, other in pairs])


def _accuracies(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return the difference in accuracy of runs that are paired by seed, and its tests."""
    gains = [100 * (one.test_accuracy - other.test_accuracy) for one, other in pairs]
    tests = [_mcnemar(one, other) for one, other in pairs]
    return {"accuracy_points": statistic(gains), "mcnemar": tests}


def _add_verdicts(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with ``adjusted_p`` and ``more_accurate``, the better one's name or None.

    A difference is significant if McNemar's test rejects at 5% for every seed, after Holm's
    correction for the number of rows, and if the 95% interval of the difference excludes 0. One run
    has no interval.
    """
    largest = [max(test["p_value"] for test in row["mcnemar"]) for row in rows]
    for row, adjusted in zip(rows, holm(largest), strict=True):
        points, names = row["accuracy_points"], (row["first"], row["second"])
        apart = points["ci95"] is not None and abs(points["mean"]) > points["ci95"]
        row["adjusted_p"] = adjusted
        row["more_accurate"] = _winner(
            names, points["mean"], significant=apart and adjusted < SIGNIFICANCE
        )
    return rows


def same_device(devices: Iterable[str]) -> bool:
    """Return whether devices are all CPUs or all GPUs; frameworks name one GPU differently."""
    return len({device == "cpu" for device in devices}) < 2


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number, in the order given.

    The smallest of m is multiplied by m, the next by m - 1 and so on, and none is smaller than the
    one before (Holm, 1979, jstor:4615733): if no pair differs, the chance of any value below 5% is
    at most 5%.
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def _pairs(
    runs: Sequence[RunRecord], within: Callable[[RunRecord], str], of: Callable[[RunRecord], str]
) -> Iterator[tuple[str, list[RunRecord], list[RunRecord]]]:
    """Yield (group, runs of one, runs of other) for any two kinds ``of`` run in each group."""
    for group in dict.fromkeys(map(within, runs)):
        kinds: dict[str, list[RunRecord]] = {}
        for run in runs:
            if within(run) == group:
                kinds.setdefault(of(run), []).append(run)
        for first, second in combinations(kinds.values(), 2):
            yield group, first, second


def _by_seed(first: Iterable[RunRecord], second: Iterable[RunRecord]) -> list[Pair]:
    others = {run.seed: run for run in second}
    return [(run, others[run.seed]) for run in first if run.seed in others]


def _ratio(ratios: Sequence[float]) -> dict[str, Any]:
    """Return {ratio, low, high}: the geometric mean and its 95% interval (None for one run)."""
    logs = statistic([math.log(ratio) for ratio in ratios])
    if logs["ci95"] is None:
        return {"ratio": math.exp(logs["mean"]), "low": None, "high": None}
    return {
        "ratio": math.exp(logs["mean"]),
        "low": math.exp(logs["mean"] - logs["ci95"]),
        "high": math.exp(logs["mean"] + logs["ci95"]),
    }


def _mcnemar(first: RunRecord, second: RunRecord) -> dict[str, Any]:
    """Return McNemar's exact test on the test images that exactly one of two runs got wrong.

    If both were equally good, either would be wrong with probability 1/2 (McNemar, 1947,
    doi:10.1007/BF02295996): a two-sided binomial test.
    """
    from scipy.special import bdtr

    wrong, other_wrong = ({index for index, _ in run.test_errors} for run in (first, second))
    only_first, only_second = len(wrong - other_wrong), len(other_wrong - wrong)
    tail = float(bdtr(min(only_first, only_second), only_first + only_second, 0.5))
    return {
        "seed": first.seed,
        "only_first_wrong": only_first,
        "only_second_wrong": only_second,
        "p_value": min(1.0, 2 * tail),
    }


def _excludes(ratio: dict[str, Any], value: float) -> bool:
    """Return whether a ratio's 95% interval excludes ``value``; one run has no interval."""
    return ratio["low"] is not None and not ratio["low"] <= value <= ratio["high"]


def _winner(names: tuple[str, str], difference: float, *, significant: bool) -> str | None:
    return (names[0] if difference > 0 else names[1]) if significant else None

"""Two comparisons, of two machines as a rule, side by side: what differs, and what cannot be said.

Runs are not paired: they were on different machines, and may have had different seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from mnist_cli.conditions import DISTURBING_SHARE
from mnist_cli.config import NETWORKS, ModelSpec
from mnist_cli.experiments.document import records_of
from mnist_cli.experiments.machine_warnings import library_limits
from mnist_cli.experiments.statistics import SIGNIFICANCE, holm, same_device, statistic, welch
from mnist_cli.machine import machine_kind
from mnist_cli.names import plural
from mnist_cli.records import RunRecord

Cell: TypeAlias = tuple[str, str, int]  # framework, network, batch size
SIDES = ("first", "second")
# What must be equal for runs to have done the same work.
_WORK: Mapping[str, Callable[[RunRecord], Any]] = {
    "layers": lambda run: run.line or _known_line(run),
    "activation": lambda run: run.activation,
    "data set": lambda run: run.environment.get("data_sha256") or run.dataset,
    "training images": lambda run: run.train_images,
    "epochs": lambda run: run.epochs,
    "peak learning rate": lambda run: run.learning_rate,
    "label smoothing": lambda run: run.label_smoothing,
    "warm-up fraction": lambda run: run.warmup_fraction,
    "decay power": lambda run: run.decay_power,
    "precision": lambda run: run.precision,
    "augmented": lambda run: run.augment,
    "with non-digits": lambda run: run.reject,
    "patience": lambda run: run.patience,
    "started from": lambda run: run.started_from,
}
# Those that records do not have.
_WORK_OF_ALL = ("momentum", "weight_decay", "target_accuracy")
_COMMIT_LETTERS = 12
# What an environment says of one run, and not of the machine.
_OF_A_RUN = ("date", "data_sha256", "node", "probe_seconds")


def compare_machines(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return the comparison of two documents of experiments as JSON values.

    ``cells`` has a row for each framework, network and batch size for which both did the same work.
    ``test_accuracy``, ``train_seconds`` and ``images_per_second`` are the `statistic`s of the two
    sides; ``accuracy_points`` is first minus second in percentage points and ``seconds_ratio``
    first over second, with 95% intervals by Welch's t-test. ``more_accurate`` and ``faster`` are
    ``first``, ``second``, or None where that is not significant. Times leave out disturbed runs,
    and are None where they cannot be compared. ``not_compared`` says what is not and why, by the
    cells: ``what`` is ``all``, ``time``, or ``runs`` that are left out of times.
    ``environment`` has what differs between the machines of the cells, ``limits`` the variables
    that limit a framework.
    """
    groups = [_by_cell(records_of(document)) for document in (first, second)]
    gaps = _Gaps()
    for side, group, other in zip(SIDES, groups, reversed(groups), strict=True):
        for cell in group:
            if cell not in other:
                gaps.add(cell, "all", f"only the {side} has it")
    rows = []
    compared: list[list[RunRecord]] = [[], []]
    for cell in groups[0]:
        if cell not in groups[1]:
            continue
        runs = [group[cell] for group in groups]
        if unequal := _unequal_work(runs, (first, second)):
            gaps.add(cell, "all", unequal)
            continue
        rows.append(_row(cell, runs, gaps))
        for each, those in zip(compared, runs, strict=True):
            each += those
    shown = compared if rows else [records_of(document) for document in (first, second)]
    return {
        "cells": _add_verdicts(rows),
        "not_compared": gaps.entries(),
        "environment": _differences(*map(_environment, shown)),
        "limits": [library_limits(runs) for runs in shown],
    }


def _known_line(run: RunRecord) -> str | None:
    """Return the line of an older record's network, which was one of the known ones."""
    return ModelSpec(run.arch, run.activation).line if run.arch in NETWORKS else None


class _Gaps:
    """What is not compared: the cells that have a reason in common."""

    def __init__(self) -> None:
        self._cells: dict[tuple[str, str], list[Cell]] = {}

    def add(self, cell: Cell, what: str, reason: str) -> None:
        self._cells.setdefault((what, reason), []).append(cell)

    def entries(self) -> list[dict[str, Any]]:
        return [
            {"what": what, "reason": reason, "cells": [_names(cell) for cell in cells]}
            for (what, reason), cells in self._cells.items()
        ]


def _names(cell: Cell) -> dict[str, Any]:
    return dict(zip(("framework", "arch", "batch_size"), cell, strict=True))


def _by_cell(records: Iterable[RunRecord]) -> dict[Cell, list[RunRecord]]:
    cells: dict[Cell, list[RunRecord]] = {}
    for run in records:
        cells.setdefault((run.framework, run.arch, run.batch_size), []).append(run)
    return cells


def _unequal_work(
    runs: Sequence[Sequence[RunRecord]], documents: Sequence[Mapping[str, Any]]
) -> str:
    """Return in what the work of two sides differs, or an empty text."""
    both = [
        {name: get(group[0]) for name, get in _WORK.items()}
        | {name.replace("_", " "): document["settings"].get(name) for name in _WORK_OF_ALL}
        for group, document in zip(runs, documents, strict=True)
    ]
    return ", ".join(
        "another data set" if name == "data set" else f"{name} {_told(value)} and {_told(other)}"
        for name, value in both[0].items()
        if (other := both[1][name]) != value
    )


def _told(value: object) -> str:
    return "none" if value is None else str(value)


def _row(cell: Cell, runs: Sequence[Sequence[RunRecord]], gaps: _Gaps) -> dict[str, Any]:
    """Return the figures of a cell; why times are not compared goes to ``gaps``."""
    timed = [[run for run in group if not _is_disturbed(run)] for group in runs]
    for side, group, kept in zip(SIDES, runs, timed, strict=True):
        if len(kept) < len(group):
            count = f"{len(group) - len(kept)} of {plural(len(group), 'run')}"
            if kept:
                gaps.add(cell, "runs", f"{count} of the {side}, which others disturbed")
            else:
                gaps.add(cell, "time", f"others disturbed {count} of the {side}")
        if len({machine_kind(run.environment) for run in group}) > 1:
            gaps.add(cell, "time", f"the {side} is of several kinds of machine")
            timed = [[], []]
    devices = [str(group[0].environment.get("device", "cpu")) for group in runs]
    if not same_device(devices):
        gaps.add(cell, "time", f"devices {devices[0]} and {devices[1]}")
        timed = [[], []]
    accuracies = [[run.test_accuracy for run in group] for group in runs]
    points = welch(*([100 * value for value in values] for values in accuracies))
    return {
        **_names(cell),
        "activation": runs[0][0].activation,
        "test_accuracy": [statistic(values) for values in accuracies],
        "accuracy_points": points,
        **{
            name: [statistic([getattr(run, name) for run in group]) for group in timed]
            for name in ("train_seconds", "images_per_second")
        },
        "seconds_ratio": _seconds_ratio(timed),
    }


def _is_disturbed(run: RunRecord) -> bool:
    """Return whether others, a quota or other runs make the time of a run worth nothing."""
    if run.timing == "shared":
        return True
    conditions = run.conditions
    if conditions is None:
        return False
    throttled = (conditions.throttled_periods or 0) / (conditions.quota_periods or 1)
    return conditions.is_disturbed or bool(conditions.gpu_others) or throttled > DISTURBING_SHARE


def _seconds_ratio(timed: Sequence[Sequence[RunRecord]]) -> dict[str, Any] | None:
    """Return {ratio, low, high} of geometric mean times, by Welch's test of their logarithms."""
    if not all(timed):
        return None
    logs = welch(*([math.log(run.train_seconds) for run in group] for group in timed))
    low, high = (logs[name] for name in ("low", "high"))
    return {
        "ratio": math.exp(logs["difference"]),
        "low": None if low is None else math.exp(low),
        "high": None if high is None else math.exp(high),
    }


def _add_verdicts(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with ``more_accurate`` and ``faster``.

    Accuracy differs significantly if Welch's test says so at 5% after Holm's correction for the
    number of rows; time if the 95% interval of the ratio excludes 1.
    """
    p_values = [row["accuracy_points"]["p_value"] for row in rows]
    adjusted = holm([1.0 if value is None else value for value in p_values])
    for row, value, p_value in zip(rows, adjusted, p_values, strict=True):
        points, ratio = row["accuracy_points"]["difference"], row["seconds_ratio"]
        row["adjusted_p"] = None if p_value is None else value
        row["more_accurate"] = _side(points > 0) if value < SIGNIFICANCE else None
        is_sure = ratio and ratio["low"] is not None and not ratio["low"] <= 1 <= ratio["high"]
        row["faster"] = _side(ratio["ratio"] < 1) if is_sure else None
    return rows


def _side(is_first: bool) -> str:
    return SIDES[0 if is_first else 1]


def _environment(runs: Sequence[RunRecord]) -> dict[str, str]:
    """Return what the runs say of their machine, as text; several values with ``or``."""
    values: dict[str, dict[str, None]] = {}
    for run in runs:
        for name, value in run.environment.items():
            if name in _OF_A_RUN:
                continue
            nested = value if isinstance(value, Mapping) else {"": value}
            for inner, each in nested.items():
                text = ", ".join(map(str, each)) if isinstance(each, list) else _told(each)
                text = text[:_COMMIT_LETTERS] if name == "git_commit" else text
                values.setdefault(f"{name} {inner}".strip(), {})[text or "none"] = None
    return {name: " or ".join(texts) for name, texts in values.items()}


def _differences(first: Mapping[str, str], second: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return name and both values of what differs; None for what one does not have."""
    return [
        {"name": name, "first": first.get(name), "second": second.get(name)}
        for name in dict.fromkeys([*first, *second])
        if first.get(name) != second.get(name)
    ]

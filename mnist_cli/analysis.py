"""Statistics over records: what n runs of each say, and what they do not say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from mnist_cli.records import ACCURACY_MARKS

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


def summarize(runs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row of statistics for each framework and network, in order of appearance.

    Each figure is {n, mean, sd, ci95}: ``ci95`` is the half-width of the 95% interval of the mean
    by Student's t, None for a single run. Times to an accuracy count only the runs that reached it.
    """
    cells: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in runs:
        cells.setdefault((run["framework"], run["arch"]), []).append(run)
    return [
        {
            "framework": framework,
            "arch": arch,
            "n": len(members),
            "parameters": members[0]["parameters"],
            **{name: statistic([run[name] for run in members]) for name in _STATISTICS},
            "time_to_accuracy": {
                str(mark): statistic(
                    [
                        run["time_to_accuracy"][str(mark)]
                        for run in members
                        if run["time_to_accuracy"][str(mark)] is not None
                    ]
                )
                for mark in ACCURACY_MARKS
            },
        }
        for (framework, arch), members in cells.items()
    ]


def statistic(values: Sequence[float]) -> dict[str, Any]:
    """Return {n, mean, sd, ci95} of ``values``; None where there are too few of them."""
    if not values:
        return {"n": 0, "mean": None, "sd": None, "ci95": None}
    import numpy as np

    mean = float(np.mean(values))
    if len(values) == 1:
        return {"n": 1, "mean": mean, "sd": None, "ci95": None}
    from scipy import stats

    sd = float(np.std(values, ddof=1))
    ci95 = float(stats.t.ppf(0.975, len(values) - 1)) * sd / len(values) ** 0.5
    return {"n": len(values), "mean": mean, "sd": sd, "ci95": ci95}

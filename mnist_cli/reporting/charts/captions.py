"""Text of titles and captions: runs, data, recipe, hardware."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mnist_cli.experiments.machine_warnings import machine_warnings
from mnist_cli.names import dataset_name, model_name, plural
from mnist_cli.records import RunRecord
from mnist_cli.reporting.charts.style import Cell, network_of


def percentage(share: float) -> str:
    """Return a share, 0-1, as whole percent; ``>99%`` for nearly 1."""
    return ">99%" if 0.995 <= share < 1 else f"{share:.0%}"


_NAME_CHARACTERS = 9


def shortened(name: str) -> str:
    """Return a class's name, cut to the 9 characters that fit beside others."""
    return name if len(name) <= _NAME_CHARACTERS else f"{name[: _NAME_CHARACTERS - 1]}…"


def three_digits(value: float) -> str:
    """Return a number with about three digits: 1,234, 123, 12.3, 1.23."""
    decimals = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:,.{decimals}f}"


def listed(items: Iterable[str]) -> str:
    """Return distinct items as ``a, b and c``."""
    *most, last = dict.fromkeys(items)
    return f"{', '.join(most)} and {last}" if most else last


def wrong_of(wrong: int, total: int) -> str:
    """Return ``61 wrong of 10,000 (0.61%)``."""
    share = f" ({wrong / total:.2%})" if total else ""
    return f"{wrong:,} wrong of {total:,}{share}"


def model_names(cells: Sequence[Cell]) -> str:
    """Return ``CNN and MLP in NumPy and PyTorch``."""
    frameworks = listed(sorted(cell.framework for cell in cells))
    return f"{listed(cell.network for cell in cells)} in {frameworks}"


def dataset_names(records: Sequence[RunRecord]) -> str:
    """Return the data sets of all runs."""
    return listed(sorted(dataset_name(record.dataset) for record in records))


def facts(records: Sequence[RunRecord], notes: Sequence[str] = ()) -> list[str]:
    """Return runs, data, recipe, hardware and date, each distinct value once."""
    points = Counter((run.framework, network_of(run), run.batch_size) for run in records)
    seeds = sorted({run.seed for run in records})
    facts = [
        f"n = {run_count(points)}{' each' * (len(points) > 1)}, "
        f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}",
        *notes,
        *(f"{dataset_name(run.dataset)}, {run.train_images:,} training images" for run in records),
        *(plural(run.epochs, "epoch") for run in records),
        learning_rates(records),
        *(f"label smoothing {run.label_smoothing:g}" for run in records if run.label_smoothing),
        *(run.precision for run in records if run.precision != "float32"),
        *("augmented images" for run in records if run.augment),
        *("one image in six is no digit" for run in records if run.reject),
        *(hardware(run.environment) for run in records),
        *(str(run.environment.get("date", "")) for run in records),
    ]
    return [fact for fact in dict.fromkeys(facts) if fact]


def experiment_caption(
    records: Sequence[RunRecord], notes: Sequence[str], failures: Iterable[Mapping[str, Any]]
) -> list[str]:
    """Return the caption of a chart of many runs: facts, failures and what spoilt them."""
    return [*facts(records, notes), *failed_models(failures), *spoilt_by(records)]


def spoilt_by(records: Sequence[RunRecord]) -> list[str]:
    """Return a warning for each way in which the machine spoilt the runs."""
    return [f"warning: {text}" for text in machine_warnings(records)]


def run_count(points: Counter[Any]) -> str:
    """Return ``3 runs``, or ``2 to 3 runs`` if the points have different numbers of runs."""
    fewest, most = min(points.values()), max(points.values())
    return plural(most, "run") if fewest == most else f"{fewest} to {plural(most, 'run')}"


def learning_rates(records: Sequence[RunRecord]) -> str:
    """Return batch size and peak learning rate, or the rule by which the rate was scaled."""
    rates = sorted({(run.batch_size, run.learning_rate) for run in records})
    (small, low), (large, high) = rates[0], rates[-1]
    if len(rates) == 1:
        return f"batch {small}, peak learning rate {low:.3g}"
    span = f"{low:.3g} at {small} to {high:.3g} at {large}, proportional to"
    rules = {
        0: f"{low:.3g}",
        0.5: f"{span} the square root of batch size",
        1: f"{span} batch size",
    }
    for power, rule in rules.items():
        scaled = [low * (size / small) ** power for size, _ in rates]
        if np.allclose(scaled, [rate for _, rate in rates], rtol=1e-3):
            return f"peak learning rate {rule}"
    return "peak learning rate " + ", ".join(f"{rate:.3g} at {size}" for size, rate in rates)


def hardware(environment: Mapping[str, Any]) -> str:
    """Return processor, threads and device."""
    threads = environment.get("threads")
    device = str(environment.get("device") or "")
    parts = [
        str(environment.get("cpu") or ""),
        plural(threads, "thread") if isinstance(threads, int) else "",
        f"device {device}" if device else "",
    ]
    return ", ".join(part for part in parts if part)


def failed_models(failures: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return ``PyTorch CNN at batch 64 failed`` for each failed model, with how often."""
    names = Counter(
        model_name(failure["framework"], failure["arch"])
        + (f" at batch {failure['batch_size']}" if "batch_size" in failure else "")
        for failure in failures
    )
    return [
        f"{name} failed" + (f" {count} times" if count > 1 else "") for name, count in names.items()
    ]

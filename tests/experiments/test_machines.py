"""Two comparisons side by side: what is compared, and what is said not to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from made_records import ENVIRONMENT, make_record, make_records
from scipy import stats

from mnist_cli.conditions import Conditions
from mnist_cli.experiments.machines import compare_machines
from mnist_cli.experiments.statistics import welch
from mnist_cli.records import RunRecord
from mnist_cli.reporting.stored import machines_lines


def document(records: Sequence[RunRecord], **settings: Any) -> dict[str, Any]:
    return {"runs": [record.to_json() for record in records], "settings": settings}


def scaled(records: Sequence[RunRecord], factor: float, **changes: Any) -> list[RunRecord]:
    """The records of a machine that takes ``factor`` times as long."""
    return [
        replace(record, train_seconds=factor * record.train_seconds, **changes)
        for record in records
    ]


RECORDS = make_records(("numpy", "torch"), ("cnn",))
NUMPY, TORCH = RECORDS[::2], RECORDS[1::2]


def gaps(comparison: dict[str, Any]) -> dict[str, list[str]]:
    """The frameworks of what is not compared, by its kind and reason."""
    return {
        f"{entry['what']}: {entry['reason']}": [cell["framework"] for cell in entry["cells"]]
        for entry in comparison["not_compared"]
    }


@pytest.mark.parametrize("values", [([1.0, 2.0, 4.0], [3.0, 9.0, 7.0, 8.0]), ([5, 6], [5.5, 7])])
def test_welchs_test_is_that_of_scipy(values: tuple[list[float], list[float]]) -> None:
    found, test = welch(*values), stats.ttest_ind(*values, equal_var=False)
    interval = test.confidence_interval()
    # Both sum few numbers in float64; the order may differ.
    assert found["p_value"] == pytest.approx(test.pvalue, rel=1e-9)
    assert (found["low"], found["high"]) == pytest.approx(tuple(interval), rel=1e-9)


def test_welchs_test_of_constant_samples_and_of_single_values() -> None:
    assert welch([1, 1], [1, 1]) == {"difference": 0, "low": 0, "high": 0, "p_value": 1.0}
    assert welch([2, 2], [1, 1])["p_value"] == 0.0
    assert welch([2], [1, 1]) == {"difference": 1, "low": None, "high": None, "p_value": None}


def test_equal_work_is_compared_with_ratio_and_interval() -> None:
    comparison = compare_machines(document(RECORDS), document(scaled(RECORDS, 2.0)))
    assert gaps(comparison) == {}
    assert [cell["framework"] for cell in comparison["cells"]] == ["numpy", "torch"]
    for cell in comparison["cells"]:
        ratio = cell["seconds_ratio"]
        assert ratio["ratio"] == pytest.approx(0.5)
        assert ratio["low"] < 0.5 < ratio["high"] < 1
        assert (cell["faster"], cell["more_accurate"]) == ("first", None)
        assert cell["accuracy_points"]["difference"] == 0
        seconds = [each["mean"] for each in cell["train_seconds"]]
        assert seconds[1] == pytest.approx(2 * seconds[0])


def test_a_better_side_is_named_only_if_that_is_significant() -> None:
    better = [replace(record, test_accuracy=record.test_accuracy + 0.003) for record in RECORDS]
    for sides, winner in (((better, RECORDS), "first"), ((RECORDS, better), "second")):
        cells = compare_machines(*map(document, sides))["cells"]
        assert [cell["more_accurate"] for cell in cells] == [winner, winner]
        assert [cell["faster"] for cell in cells] == [None, None]
    one = compare_machines(document(better[:2]), document(scaled(RECORDS[:2], 3.0)))["cells"]
    assert {cell["faster"] for cell in one} == {cell["more_accurate"] for cell in one} == {None}
    assert (
        "inconclusive with 1 run"
        in machines_lines({"cells": one, "not_compared": [], "limits": [[], []]})[0]
    )


def test_a_model_that_one_side_lacks_is_named() -> None:
    comparison = compare_machines(document(NUMPY), document(RECORDS))
    assert [cell["framework"] for cell in comparison["cells"]] == ["numpy"]
    assert gaps(comparison) == {"all: only the second has it": ["torch"]}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"epochs": 2}, "epochs 5 and 2"),
        ({"learning_rate": 0.2}, "peak learning rate 0.1 and 0.2"),
        ({"label_smoothing": 0.1}, "label smoothing none and 0.1"),
        ({"precision": "bfloat16"}, "precision float32 and bfloat16"),
        ({"augment": True}, "augmented False and True"),
        ({"train_images": 480}, "training images 55000 and 480"),
        ({"dataset": "kmnist"}, "another data set"),
        ({"line": "dense 8"}, "layers conv 32, relu, pool, conv 64, relu, pool, dense 128, relu "),
        ({"started_from": "x", "patience": 2}, "patience none and 2, started from none and x"),
    ],
)
def test_runs_of_other_work_are_not_compared(change: dict[str, Any], reason: str) -> None:
    comparison = compare_machines(document(RECORDS), document(scaled(RECORDS, 1.0, **change)))
    assert comparison["cells"] == []
    ((said, frameworks),) = gaps(comparison).items()
    assert said.startswith(f"all: {reason}")
    assert frameworks == ["numpy", "torch"]


def test_another_batch_size_or_target_is_other_work() -> None:
    larger = scaled(RECORDS, 1.0, batch_size=128)
    comparison = compare_machines(document(RECORDS), document(larger))
    assert comparison["cells"] == []
    assert list(gaps(comparison)) == ["all: only the first has it", "all: only the second has it"]
    assert (
        "NumPy CNN at batch 64, PyTorch CNN at batch 64: not compared"
        in (machines_lines(comparison)[0])
    )
    target = document(RECORDS, target_accuracy=0.99)
    assert list(gaps(compare_machines(document(RECORDS), target))) == [
        "all: target accuracy none and 0.99"
    ]


def test_the_line_of_an_older_record_is_that_of_its_known_network() -> None:
    line = "conv 32, relu, pool, conv 64, relu, pool, dense 128, relu"
    newer = scaled(RECORDS, 1.0, line=line)
    assert gaps(compare_machines(document(RECORDS), document(newer))) == {}


DISTURBED = Conditions(seconds=9.0, others_share=0.4)


@pytest.mark.parametrize(
    "change",
    [
        {"conditions": DISTURBED},
        {"conditions": Conditions(9.0, quota_periods=100, throttled_periods=30)},
        {"conditions": Conditions(9.0, gpu_others=1)},
        {"timing": "shared"},
    ],
)
def test_times_of_disturbed_runs_are_not_compared_but_their_accuracy_is(
    change: dict[str, Any],
) -> None:
    comparison = compare_machines(document(scaled(RECORDS, 1.0, **change)), document(RECORDS))
    for cell in comparison["cells"]:
        assert (cell["seconds_ratio"], cell["faster"]) == (None, None)
        assert cell["train_seconds"][0]["mean"] is None
        assert cell["accuracy_points"]["low"] is not None
    assert gaps(comparison) == {
        "time: others disturbed 3 of 3 runs of the first": ["numpy", "torch"]
    }


def test_the_quiet_ones_of_several_runs_count() -> None:
    some = [replace(NUMPY[0], train_seconds=1e4, conditions=DISTURBED), *NUMPY[1:], *TORCH]
    comparison = compare_machines(document(RECORDS), document(some))
    numpy, torch = comparison["cells"]
    assert [each["n"] for each in numpy["train_seconds"]] == [3, 2]
    assert numpy["seconds_ratio"]["ratio"] == pytest.approx(1, rel=0.1)  # made within 3%
    assert [each["n"] for each in torch["train_seconds"]] == [3, 3]
    assert "NumPy CNN: times without 1 of 3 runs of the second, which others disturbed." in (
        machines_lines(comparison)
    )


def test_times_on_a_processor_and_a_gpu_are_not_compared() -> None:
    on_gpu = scaled(RECORDS, 0.1, environment={**ENVIRONMENT, "device": "cuda"})
    comparison = compare_machines(document(RECORDS), document(on_gpu))
    assert [cell["seconds_ratio"] for cell in comparison["cells"]] == [None, None]
    assert list(gaps(comparison)) == ["time: devices cpu and cuda"]


def test_times_over_several_kinds_of_machine_are_not_compared() -> None:
    nodes = [
        replace(record, environment={**ENVIRONMENT, "node": "n", "cores": 2 + record.seed})
        for record in RECORDS
    ]
    comparison = compare_machines(document(nodes), document(RECORDS))
    assert list(gaps(comparison)) == ["time: the first is of several kinds of machine"]


def test_the_environments_differ_in_what_the_runs_say() -> None:
    first = {**ENVIRONMENT, "gpus": [], "variables": {}, "torch": "2.6", "git_commit": "a" * 40}
    second = {
        **{**ENVIRONMENT, "cpu": "Other", "date": "2026-01-01", "gpus": ["H100", "H100"]},
        "variables": {"OPENBLAS_CORETYPE": "Haswell"},
    }
    comparison = compare_machines(
        document([replace(record, environment=first) for record in RECORDS]),
        document([replace(record, environment=second) for record in RECORDS]),
    )
    found = {row["name"]: (row["first"], row["second"]) for row in comparison["environment"]}
    assert found == {
        "cpu": (ENVIRONMENT["cpu"], "Other"),
        "gpus": ("none", "H100, H100"),
        "torch": ("2.6", None),
        "git_commit": ("a" * 12, None),
        "variables OPENBLAS_CORETYPE": (None, "Haswell"),
    }


def test_a_variable_that_limits_a_framework_is_a_warning() -> None:
    limited = {
        **ENVIRONMENT,
        "cpu_isa": "AVX512_CORE",
        "variables": {"OPENBLAS_CORETYPE": "Haswell"},
        "blas_kernels": {"openblas": "Haswell"},
    }
    comparison = compare_machines(
        document(RECORDS), document([make_record("numpy"), replace(NUMPY[0], environment=limited)])
    )
    assert machines_lines(comparison)[-1] == (
        "Warning: second: NumPy is limited to Haswell kernels by OPENBLAS_CORETYPE."
    )

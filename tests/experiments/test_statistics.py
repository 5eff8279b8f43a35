"""Statistics: checked against SciPy's own and against cases worked by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_records import make_record
from scipy import stats

from mnist_cli.experiments import statistics
from mnist_cli.records import RunRecord
from mnist_cli.reporting import verdicts


def _runs(framework: str, arch: str = "cnn", **values: list[float]) -> list[RunRecord]:
    """Runs with seeds 0, 1, ... and the given values of some fields, one list a field."""
    count = len(next(iter(values.values())))
    return [
        replace(
            make_record(framework, arch, seed=seed),
            **{name: series[seed] for name, series in values.items()},
        )
        for seed in range(count)
    ]


def _wrong(*indices: int) -> tuple[tuple[int, int], ...]:
    return tuple((index, 3) for index in indices)


def test_a_statistic_is_mean_spread_and_students_interval() -> None:
    values = [1.0, 2.0, 4.0, 9.0]
    result = statistics.statistic(values)
    interval = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert result["n"] == 4
    assert result["mean"] == 4.0
    assert result["sd"] == pytest.approx(np.std(values, ddof=1))
    assert result["mean"] + result["ci95"] == pytest.approx(interval[1])


def test_one_run_has_no_spread_and_none_has_no_mean() -> None:
    assert statistics.statistic([5.0]) == {"n": 1, "mean": 5.0, "sd": None, "ci95": None}
    assert statistics.statistic([]) == {"n": 0, "mean": None, "sd": None, "ci95": None}


def test_a_summary_has_a_row_for_each_cell_and_counts_only_runs_that_reached_a_mark() -> None:
    reached = [{"0.98": 10.0, "0.99": None}, {"0.98": 20.0, "0.99": 30.0}]
    runs = [
        *_runs("torch", time_to_accuracy=reached, test_accuracy=[0.98, 0.99]),
        *_runs("numpy", "mlp", test_accuracy=[0.9]),
    ]
    torch, numpy = statistics.summarize(runs)
    assert (torch["framework"], torch["arch"], torch["n"]) == ("torch", "cnn", 2)
    assert (numpy["framework"], numpy["arch"], numpy["n"]) == ("numpy", "mlp", 1)
    assert torch["test_accuracy"]["mean"] == pytest.approx(0.985)
    assert torch["time_to_accuracy"]["0.98"]["n"] == 2
    assert torch["time_to_accuracy"]["0.99"] == {"n": 1, "mean": 30.0, "sd": None, "ci95": None}


def test_a_speed_ratio_is_the_geometric_mean_of_paired_runs() -> None:
    runs = [
        *_runs("torch", images_per_second=[200.0, 800.0]),
        *_runs("numpy", images_per_second=[100.0, 200.0]),
    ]
    (row,) = statistics.compare_frameworks(runs)
    assert (row["first"], row["second"], row["n"]) == ("torch", "numpy", 2)
    assert row["speed_ratio"]["ratio"] == pytest.approx(8**0.5)


def test_a_steady_difference_in_speed_has_a_winner_and_a_shaky_one_has_none() -> None:
    slow = _runs("numpy", images_per_second=[100.0, 101.0, 99.0])
    (steady,) = statistics.compare_frameworks(
        [*_runs("torch", images_per_second=[120.0, 121.0, 119.0]), *slow]
    )
    assert steady["faster"] == "torch"
    (slower,) = statistics.compare_frameworks(
        [*_runs("torch", images_per_second=[80.0, 81.0, 79.0]), *slow]
    )
    assert slower["faster"] == "numpy"
    (shaky,) = statistics.compare_frameworks(
        [*_runs("torch", images_per_second=[90.0, 150.0, 110.0]), *slow]
    )
    assert shaky["faster"] is None
    (once,) = statistics.compare_frameworks([*_runs("torch", images_per_second=[200.0]), *slow[:1]])
    assert once["faster"] is None  # one run says nothing of chance


def test_runs_of_equal_speed_have_no_winner() -> None:
    speeds = {"images_per_second": [100.0, 90.0]}
    (row,) = statistics.compare_frameworks([*_runs("torch", **speeds), *_runs("numpy", **speeds)])
    assert row["speed_ratio"] == {"ratio": 1.0, "low": 1.0, "high": 1.0}
    assert row["faster"] is None


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (1, 0), (3, 3), (2, 12), (30, 9)])
def test_mcnemar_is_the_exact_binomial_test_on_what_only_one_read_wrong(
    only_first: int, only_second: int
) -> None:
    both = range(100, 140)
    first = _wrong(*both, *range(only_first))
    second = _wrong(*both, *range(50, 50 + only_second))
    runs = [*_runs("torch", test_errors=[first]), *_runs("numpy", test_errors=[second])]
    (test,) = statistics.compare_frameworks(runs)[0]["mcnemar"]
    assert (test["only_first_wrong"], test["only_second_wrong"]) == (only_first, only_second)
    discordant = only_first + only_second
    expected = stats.binomtest(only_first, discordant).pvalue if discordant else 1.0
    assert test["p_value"] == pytest.approx(expected)


def test_accuracy_has_a_winner_only_when_test_and_interval_agree() -> None:
    many = [_wrong(*range(40))] * 3
    few = [_wrong(*range(5))] * 3
    accuracy = {"test_accuracy": [0.99, 0.991, 0.992]}
    worse = _runs("numpy", test_errors=many, test_accuracy=[0.97, 0.971, 0.972])
    (clear,) = statistics.compare_frameworks([*_runs("torch", test_errors=few, **accuracy), *worse])
    assert clear["more_accurate"] == "torch"
    (other_way,) = statistics.compare_frameworks(
        [*worse, *_runs("torch", test_errors=few, **accuracy)]
    )
    assert (other_way["first"], other_way["more_accurate"]) == ("numpy", "torch")
    alike = _runs("torch", test_errors=many, **accuracy)
    (same_errors,) = statistics.compare_frameworks([*alike, *worse])
    assert same_errors["more_accurate"] is None
    swinging = {"test_accuracy": [0.99, 0.96, 0.97]}
    (overlap,) = statistics.compare_frameworks(
        [*_runs("torch", test_errors=few, **swinging), *worse]
    )
    assert overlap["more_accurate"] is None


def test_an_accuracy_is_compared_in_percentage_points_first_less_second() -> None:
    runs = [*_runs("torch", test_accuracy=[0.98, 0.985]), *_runs("numpy", test_accuracy=[0.99] * 2)]
    points = statistics.compare_frameworks(runs)[0]["accuracy_points"]
    assert points["mean"] == pytest.approx(-0.75)
    # Differences of -1 and -0.5: standard error 0.25; t with one degree of freedom is 12.706.
    assert points["ci95"] == pytest.approx(12.706 * 0.25, abs=1e-3)


def test_the_test_must_reject_for_every_seed() -> None:
    first = _runs("torch", test_errors=[_wrong()] * 3, test_accuracy=[0.99, 0.991, 0.992])
    many, few = _wrong(*range(40)), _wrong(0, 1)
    for errors, winner in (([many] * 3, "torch"), ([many, few, many], None)):
        second = _runs("numpy", test_errors=errors, test_accuracy=[0.97, 0.971, 0.972])
        (row,) = statistics.compare_frameworks([*first, *second])
        assert [test["p_value"] < 0.05 for test in row["mcnemar"]] == [e == many for e in errors]
        assert row["more_accurate"] == winner
    # A single run has no interval: its test may reject by the chance of its seed.
    (once,) = statistics.compare_frameworks([first[0], replace(second[0], test_errors=many)])
    assert once["mcnemar"][0]["p_value"] < 0.05
    assert once["more_accurate"] is None


def test_an_interval_of_nothing_but_0_does_not_exclude_it() -> None:
    same = {"test_accuracy": [0.97, 0.98, 0.99]}
    one = _runs("torch", test_errors=[_wrong()] * 3, **same)
    other = _runs("numpy", test_errors=[_wrong(*range(40))] * 3, **same)
    (row,) = statistics.compare_frameworks([*one, *other])
    assert row["accuracy_points"]["ci95"] == 0
    assert row["more_accurate"] is None


def test_architectures_are_compared_within_a_framework_only() -> None:
    runs = [
        *_runs("torch", "cnn", test_accuracy=[0.99], train_seconds=[60.0]),
        *_runs("torch", "mlp", test_accuracy=[0.98], train_seconds=[3.0]),
        *_runs("numpy", "cnn", test_accuracy=[0.99]),
    ]
    (row,) = statistics.compare_architectures(runs)
    assert row["framework"] == "torch"
    assert row["accuracy_points"]["mean"] == pytest.approx(1.0)
    assert row["seconds_ratio"]["ratio"] == pytest.approx(20.0)
    assert row["parameters_ratio"] == pytest.approx(421_642 / 101_770)


def test_each_pair_of_networks_has_a_row_in_the_order_of_the_runs() -> None:
    names = ["deep", "mlp", "cnn"]
    runs = [run for name in names for run in _runs("torch", name, test_accuracy=[0.9, 0.91])]
    rows = statistics.compare_architectures(runs)
    pairs = [(row["first"], row["second"]) for row in rows]
    assert pairs == [("deep", "mlp"), ("deep", "cnn"), ("cnn", "mlp")]
    assert {row["operations_ratio"] for row in rows} == {None}  # made-up records know none


def test_operations_are_compared_where_they_are_known() -> None:
    first, second = (
        _runs("torch", "a", test_accuracy=[0.9]),
        _runs("torch", "b", test_accuracy=[0.9]),
    )
    runs = [replace(first[0], operations=300), replace(second[0], operations=100)]
    (row,) = statistics.compare_architectures(runs)
    assert row["operations_ratio"] == 3


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [
        ([], []),
        ([0.03], [0.03]),
        # By hand: 3 x 0.01, 2 x 0.02, then 1 x 0.03, which is no smaller than the one before.
        ([0.03, 0.01, 0.02], [0.04, 0.03, 0.04]),
        ([0.6, 0.5], [1.0, 1.0]),
    ],
)
def test_holms_correction(p_values: list[float], expected: list[float]) -> None:
    assert statistics.holm(p_values) == pytest.approx(expected)


def test_many_networks_make_a_difference_harder_to_tell() -> None:
    def networks(count: int) -> list[RunRecord]:
        # The first is right on 8 images that the others get wrong: McNemar's p is 2 / 2^8.
        good = _runs("torch", "a", test_errors=[_wrong()] * 3, test_accuracy=[0.99, 0.991, 0.992])
        bad = {"test_errors": [_wrong(*range(8))] * 3, "test_accuracy": [0.97, 0.971, 0.972]}
        return [*good, *(run for i in range(count) for run in _runs("torch", f"b{i}", **bad))]

    (alone,) = statistics.compare_architectures(networks(1))
    assert alone["adjusted_p"] == pytest.approx(2 / 2**8)
    assert alone["more_accurate"] == "a"
    rows = statistics.compare_architectures(networks(7))  # 28 pairs: 28 x 2 / 2^8 is 22%
    assert rows[0]["adjusted_p"] == pytest.approx(28 * 2 / 2**8)
    assert {row["more_accurate"] for row in rows} == {None}


def test_runs_without_a_partner_of_the_same_seed_are_left_out() -> None:
    alone = [replace(make_record("numpy", "cnn", seed=7))]
    assert statistics.compare_frameworks([make_record("torch", "cnn", seed=0), *alone]) == []


def test_a_difference_that_rounds_to_nothing_has_no_minus() -> None:
    points = {"mean": -0.001, "ci95": None}
    assert verdicts._points({"accuracy_points": points}) == "+0.00"

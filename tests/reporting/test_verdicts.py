"""Verdicts: what is said of a difference, from made-up runs whose difference is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_records import make_record

from mnist_cli.experiments import statistics
from mnist_cli.records import RunRecord
from mnist_cli.reporting.verdicts import network_lines, verdicts


def _runs(framework: str, arch: str = "cnn", **values: list[float]) -> list[RunRecord]:
    """Runs with seeds 0, 1, ... and the given values of some fields, one list per field."""
    return [
        replace(
            make_record(framework, arch, seed=seed),
            test_errors=(),
            **{name: series[seed] for name, series in values.items()},
        )
        for seed in range(len(next(iter(values.values()))))
    ]


def _said(*runs: RunRecord) -> list[str]:
    return verdicts(
        {
            "frameworks": statistics.compare_frameworks(runs),
            "architectures": statistics.compare_architectures(runs),
        }
    )


@pytest.mark.parametrize(
    ("speeds", "said"),
    [
        ([200.0], "PyTorch is 2.00x as fast as NumPy: inconclusive with 1 run; use --runs 3."),
        # 1.9, 2 and 2.1 times as fast: well away from 1.
        ([190.0, 200.0, 210.0], ": PyTorch is significantly faster."),
        ([190.0 / 4, 200.0 / 4, 210.0 / 4], ": NumPy is significantly faster."),
        ([90.0, 130.0, 100.0], ": no significant difference."),
    ],
)
def test_one_framework_is_faster_only_where_the_interval_excludes_equality(
    speeds: list[float], said: str
) -> None:
    slow = _runs("numpy", images_per_second=[100.0] * len(speeds))
    (sentence,) = _said(*_runs("torch", images_per_second=speeds), *slow)
    faster, slower = ("PyTorch", "NumPy") if np.mean(speeds) > 100 else ("NumPy", "PyTorch")
    assert sentence.startswith(f"CNN: {faster} is ")  # the ratio is above 1
    speed = sentence.partition(" Test accuracy")[0]
    assert f" as fast as {slower}" in speed
    assert said in speed


def test_a_reversed_ratio_has_reversed_bounds_and_the_difference_the_other_sign() -> None:
    slow = _runs("numpy", images_per_second=[100.0] * 3, test_accuracy=[0.98, 0.981, 0.982])
    fast = _runs("torch", images_per_second=[200.0, 210.0, 190.0], test_accuracy=[0.98] * 3)
    (one,) = _said(*fast, *slow)
    (other,) = _said(*slow, *fast)
    assert one == other
    assert one.startswith("CNN: PyTorch is 2.00x (95% CI 1.76 to 2.26) as fast as NumPy")
    assert "differs by -0.10 pp" in one


@pytest.mark.parametrize(
    ("accuracies", "only_second", "said"),
    [
        # 2 points apart for every seed, and 200 images that the second alone gets wrong.
        ([0.99, 0.991, 0.992], 200, ": PyTorch is significantly more accurate."),
        ([0.99, 0.991, 0.992], 3, ": no significant difference."),  # too few images to tell
        ([0.99, 0.95, 0.972], 200, ": no significant difference."),  # the seeds disagree
        ([0.99], 200, ": inconclusive with 1 run; use --runs 3."),
    ],
)
def test_one_framework_is_more_accurate_only_where_interval_and_test_agree(
    accuracies: list[float], only_second: int, said: str
) -> None:
    errors = tuple((index, 3) for index in range(only_second))
    worse = [
        replace(run, test_errors=errors)
        for run in _runs("numpy", test_accuracy=[0.97, 0.971, 0.972][: len(accuracies)])
    ]
    (sentence,) = _said(*_runs("torch", test_accuracy=accuracies), *worse)
    assert sentence.partition("Test accuracy")[2].endswith(said)


def test_a_difference_is_told_with_its_sign_interval_and_p_values() -> None:
    first = _runs("torch", test_accuracy=[0.98, 0.985], images_per_second=[100.0, 100.0])
    second = _runs("numpy", test_accuracy=[0.99, 0.99], images_per_second=[100.0, 100.0])
    second[1] = replace(second[1], test_errors=((1, 2), (3, 4)))
    (sentence,) = _said(*first, *second)
    # Differences of -1 and -0.5 points: mean -0.75, standard error 0.25; t with one degree of
    # freedom is 12.706 at 97.5%. Two images that one alone gets wrong: p = 2 * (1/2)^2.
    assert "1.00x (95% CI 1.00 to 1.00)" in sentence
    assert "differs by -0.75 pp (95% CI -3.93 to 2.43; McNemar's p 0.5 to 1)" in sentence


def test_networks_are_compared_within_a_framework_and_without_a_verdict() -> None:
    cnn = _runs("torch", "cnn", test_accuracy=[0.98], train_seconds=[60.0])
    mlp = _runs("torch", "mlp", test_accuracy=[0.99], train_seconds=[3.0])
    assert _said(*cnn, *mlp) == [
        "PyTorch: the CNN is 1.00 percentage points less accurate than the MLP, "
        "at 20.00x the training time and 4.1x the parameters."
    ]


def test_a_pair_of_networks_is_told_with_its_verdict_after_several_runs() -> None:
    errors = tuple((index, 3) for index in range(200))
    resnet = _runs("torch", "resnet", test_accuracy=[0.99, 0.991, 0.992])
    mlp = _runs("torch", "mlp", test_accuracy=[0.97, 0.971, 0.972])
    resnet = [replace(run, operations=400) for run in resnet]
    (alike,) = _said(*resnet, *(replace(run, operations=200) for run in mlp))
    assert "ResNet is 2.00 percentage points more accurate than the MLP (95% CI 2.00" in alike
    assert "; p 1: no significant difference)" in alike
    assert "the training time, 2.0x the operations and " in alike
    (apart,) = _said(*resnet, *(replace(run, test_errors=errors) for run in mlp))
    assert "e-60: significant)" in apart


def _four_networks(count: int) -> list[RunRecord]:
    accuracies = {"cnn": 0.97, "resnet": 0.992, "tiny": 0.991, "linear": 0.92}
    wrong = {"cnn": range(300), "resnet": range(0), "tiny": range(2), "linear": range(800)}
    return [
        replace(run, test_errors=tuple((index, 1) for index in wrong[arch]))
        for arch, accuracy in accuracies.items()
        for run in _runs("torch", arch, test_accuracy=[accuracy] * count)
    ]


def test_of_many_networks_each_framework_has_one_sentence() -> None:
    (sentence,) = _said(*_four_networks(3))
    assert sentence == (
        "PyTorch: ResNet is the most accurate; behind it, in percentage points, are "
        "tiny by 0.10 (not significantly), CNN by 2.20, linear by 7.20 "
        "(McNemar, Holm's correction)."
    )
    (once,) = _said(*_four_networks(1))
    assert once.endswith(
        "tiny by 0.10, CNN by 2.20, linear by 7.20 (inconclusive with 1 run; use --runs 3)."
    )


def test_networks_of_which_not_all_have_a_common_seed_are_still_ranked() -> None:
    runs = [run for run in _four_networks(2) if (run.arch, run.seed) not in {("tiny", 0)}]
    runs = [run for run in runs if (run.arch, run.seed) not in {("cnn", 1)}]
    (sentence,) = _said(*runs)
    assert "ResNet is the most accurate" in sentence


def test_own_networks_are_told_with_their_lines() -> None:
    summary = [
        {"arch": "cnn", "line": "conv 32"},
        {"arch": "tiny", "line": "dense 5"},
        {"arch": "tiny", "line": "dense 5"},
        {"arch": "old"},
    ]
    assert network_lines({"summary": summary}) == ["tiny: dense 5"]

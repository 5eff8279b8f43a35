"""Runs from several machines: what is compared with what, and what is told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from made_records import make_record

from mnist_cli.experiments.machine_warnings import machine_warnings
from mnist_cli.experiments.statistics import compare_architectures, compare_frameworks, summarize
from mnist_cli.machine import machine_kind, slow_nodes
from mnist_cli.records import RunRecord
from mnist_cli.reporting.tables import caption
from mnist_cli.reporting.verdicts import verdicts

XEON, EPYC = "Xeon", "EPYC"


def on(node: str, cpu: str, framework: str, seed: int, **changes: Any) -> RunRecord:
    """A run on a node; speeds are the same but for a little noise by seed."""
    record = make_record(framework, seed=seed)
    speed = {"numpy": 1000.0, "torch": 3000.0 if cpu == XEON else 500.0}[framework]
    where = {"node": node, "cpu": cpu, "cores": 4, "probe_seconds": changes.pop("probe", 1.0)}
    return replace(
        record,
        images_per_second=speed + seed,
        environment=record.environment | where,
        **changes,
    )


def pairs(cpu: str, seeds: range, **changes: Any) -> list[RunRecord]:
    """Runs of two frameworks on one node of a kind."""
    names = ("numpy", "torch")
    return [on(f"{cpu}-1", cpu, name, seed, **changes) for seed in seeds for name in names]


def document(runs: list[RunRecord]) -> dict[str, Any]:
    """What tables and verdicts read of an experiment."""
    settings = {"epochs": 5, "batch_size": 64, "learning_rate": 0.1, "dataset": "mnist"}
    settings |= {"threads": 4, "runner": "ray", "timing": runs[0].timing}
    return {
        "settings": settings,
        "runs": [run.to_json() for run in runs],
        "failures": [],
        "summary": summarize(runs),
        "frameworks": compare_frameworks(runs),
        "architectures": compare_architectures(runs),
        "environment": {"cpu": "the driver's"},
        "created": "2025-01-31",
    }


def test_each_kind_of_machine_has_a_speed_of_its_own() -> None:
    """PyTorch is faster on one kind and slower on the other: a mean would say neither."""
    runs = pairs(XEON, range(4)) + pairs(EPYC, range(4, 7))
    (row,) = compare_frameworks(runs)
    assert row["n"] == 7  # for accuracy, all count
    assert [(each["machine"], each["n"]) for each in row["machines"]] == [
        ("Xeon, 4 cores", 4),
        ("EPYC, 4 cores", 3),
    ]
    assert [each["faster"] for each in row["machines"]] == ["torch", "numpy"]
    assert row["faster"] == "torch"  # of the kind with the most pairs
    (sentence, *_) = verdicts(document(runs))
    assert "PyTorch is 3.00x" in sentence
    assert "on Xeon, 4 cores: PyTorch is significantly faster; 0.50x" in sentence
    assert "on EPYC, 4 cores: NumPy is significantly faster" in sentence


def test_runs_of_one_seed_on_different_kinds_are_not_compared_for_speed() -> None:
    runs = [on("a", XEON, "numpy", seed) for seed in range(3)]
    runs += [on("b", EPYC, "torch", seed) for seed in range(3)]
    (row,) = compare_frameworks(runs)
    assert row["machines"] == []
    assert row["faster"] is None
    assert "no verdict, because they ran on different kinds" in verdicts(document(runs))[0]


def test_runs_that_shared_a_node_have_no_verdict_on_speed() -> None:
    runs = pairs(XEON, range(3), timing="shared")
    (row,) = compare_frameworks(runs)
    assert (row["timing"], row["faster"]) == ("shared", None)
    assert "no verdict, because several runs" in verdicts(document(runs))[0]
    assert machine_warnings(runs) == [
        "other runs were on the machine during 6 of 6 runs: compare no speed"
    ]
    assert "several at a time on a machine" in caption(document(runs))


def test_one_kind_of_machine_is_compared_as_this_machine_is() -> None:
    (row,) = compare_frameworks(pairs(XEON, range(3)))
    assert "machines" not in row
    assert row["faster"] == "torch"


def test_the_caption_says_how_many_nodes_of_how_many_kinds_there_were() -> None:
    text = caption(document(pairs(XEON, range(2)) + pairs(EPYC, range(2, 4))))
    assert "2 nodes of 2 kinds of machine (Xeon, 4 cores; EPYC, 4 cores)" in text
    assert "the driver's" not in text


def test_means_over_kinds_of_machine_are_called_that() -> None:
    told = machine_warnings(pairs(XEON, range(1)) + pairs(EPYC, range(1)))
    assert told == ["times and speeds are means over 2 kinds of machine"]


def test_a_node_slower_than_its_kind_is_named() -> None:
    runs = pairs(XEON, range(3))
    runs.append(on("Xeon-2", XEON, "numpy", 3, probe=1.3))
    runs.append(on("EPYC-1", EPYC, "numpy", 4, probe=9.0))  # another kind
    told = [each for each in machine_warnings(runs) if "node" in each]
    assert told == ["the node Xeon-2 is 23% slower than its kind in a short probe"]


@pytest.mark.parametrize(
    ("probes", "slow"),
    [
        ({}, {}),
        ({"a": 1.0}, {}),
        ({"a": 1.0, "b": 1.25}, {}),  # 20% slower, and no more
        ({"a": 1.0, "b": 2.0}, {"b": 0.5}),
        ({"a": 0.5, "b": 1.0, "c": 1.0, "d": 1.0}, {}),  # one that is fast makes none slow
    ],
)
def test_a_slow_node_is_one_that_needs_much_longer_than_most(
    probes: dict[str, float], slow: dict[str, float]
) -> None:
    assert slow_nodes(probes) == slow


def test_records_without_a_node_are_of_one_machine() -> None:
    assert machine_kind({"cpu": XEON}) == machine_kind({"cpu": XEON, "cpu_isa": "AVX2"}) == ""
    gpu = machine_kind({"node": "a", "cpu": XEON, "cores": 2, "gpus": ["H100"]})
    assert gpu == "Xeon, 2 cores, H100"

"""The simulated queue of a large comparison does every run once."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def simulation() -> Any:
    path = Path(__file__).parent / "benchmarks" / "cluster_simulation.py"
    spec = importlib.util.spec_from_file_location("cluster_simulation", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass looks its module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("nodes", [1, 10, 100, 1000])
@pytest.mark.parametrize("failures_per_hour", [0.0, 20.0])
def test_every_run_is_done_once(simulation: Any, nodes: int, failures_per_hour: float) -> None:
    groups = simulation.run_lengths(random.Random(0))[:300]
    done = simulation.simulate(
        nodes, groups, rng=random.Random(1), failures_per_hour=failures_per_hour
    )
    assert sorted(done.finished) == list(range(900))
    assert (done.lost_runs > 0) == (failures_per_hour > 0)
    assert done.busy_seconds <= nodes * done.wall_seconds
    assert done.busy_seconds == pytest.approx(sum(map(sum, groups)) + 900 * simulation.RUN_SECONDS)


def test_one_node_takes_the_sum_of_all_runs_and_what_is_measured_around_them(
    simulation: Any,
) -> None:
    groups = [[10.0, 20.0], [30.0]]
    done = simulation.simulate(1, groups, rng=random.Random(0), failures_per_hour=0)
    least = simulation.START_SECONDS + simulation.DATA_MB / simulation.LINK_MB_PER_SECOND
    least += 60 + 3 * (simulation.RUN_SECONDS + simulation.DISPATCH_SECONDS)
    most = least + 3 * simulation.NEWS_SECONDS + 6 * simulation.DOCUMENT_SECONDS
    assert least <= done.wall_seconds <= most


def test_thirty_seeds_of_every_cell_are_4320_runs(simulation: Any) -> None:
    groups = simulation.run_lengths(random.Random(0))
    assert sum(map(len, groups)) == 4_320
    assert {len(group) for group in groups} == {3}

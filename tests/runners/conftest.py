"""A real cluster of two nodes, one CPU each, on this machine, for a file of tests at a time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

# Dead nodes are noticed within a second or two instead of half a minute.
QUICK_TO_NOTICE = {
    "health_check_initial_delay_ms": 500,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as variables:
        variables.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # Before Ray is imported: this cluster, too, is for nobody else.
        variables.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        variables.setenv("FAKE_FRAMEWORK", "sleep 1")
        variables.setenv("FAKE_FRAMEWORK_ONLY", "mlp 77")
        nodes = tmp_path_factory.mktemp("nodes")
        variables.setenv("FAKE_FRAMEWORK_HOLD", str(nodes / "hold"))
        variables.setenv("XDG_CACHE_HOME", str(nodes))
        Cluster = pytest.importorskip("ray.cluster_utils").Cluster  # noqa: N806

        head = {"num_cpus": 1, "include_dashboard": False, "_system_config": QUICK_TO_NOTICE}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        cluster.add_node(num_cpus=1)
        yield cluster
        cluster.shutdown()


@pytest.fixture
def start(on_cluster: list[str]) -> Iterator[Callable[..., Any]]:
    """Start ``mnist`` on the cluster as a process of its own."""
    started = []

    def start(*arguments: object) -> Any:
        command = [sys.executable, "-m", "mnist_cli", *map(str, arguments), *on_cluster]
        started.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.communicate()

"""What a Ray cluster costs and gains, on two nodes of one core each on this machine.

    python tests/benchmarks/cluster.py

Prints the time to start a cluster for one call, what a run takes longer than on this machine
without one and outside its record, how much faster two nodes do 8 runs than one, how many runs of
10 ms a driver with 1,000 in its queue finishes per second and how much memory it has, and what a
run that is going on takes of the driver. Run nothing else meanwhile: it takes some three minutes.
"""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

# Before Ray is imported: the nodes, too, are for nobody else.
os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}

from ray.cluster_utils import Cluster

from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.machine import peak_rss_mib
from mnist_cli.runners.base import Job, OnEvent, Runner, TrainJob
from mnist_cli.runners.process import ProcessRunner
from mnist_cli.runners.ray_cluster import connected
from mnist_cli.runners.ray_runner import ray_runner

FAKE_SECONDS = 0.01
QUEUED = 1_000
CPU_BOUND = 8
TINY = 12
AT_WORK = 16


def main() -> None:
    """Measure and print one figure after the other."""
    starts = [start_seconds() for _ in range(3)]
    print(f"start of a cluster for one call: {statistics.median(starts):.1f} s (median of 3)")
    tiny = [job(seed, limit=440) for seed in range(TINY)]
    records: list[dict[str, Any]] = []
    at_home = statistics.median(seconds_each(ProcessRunner(), tiny, records)[1:])
    outside = at_home - statistics.median(record["wall_seconds"] for record in records[1:])
    with ray_runner("local", frameworks=["numpy"], threads=1, device="cpu") as runner:
        on_ray = statistics.median(seconds_each(runner, tiny)[1:])
    print(
        f"a run on this machine: {at_home:.2f} s, on a local cluster: {on_ray:.2f} s "
        f"(medians of {TINY - 1}): {on_ray - at_home:+.2f} s; outside its record {outside:.2f} s"
    )
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    hard = [job(seed, limit=10_000, arch="cnn") for seed in range(CPU_BOUND)]
    one_node = all_seconds(cluster.address, hard)
    cluster.add_node(num_cpus=1)
    two_nodes = all_seconds(cluster.address, hard)
    print(
        f"{CPU_BOUND} runs on one node: {one_node:.1f} s, on two: {two_nodes:.1f} s: "
        f"{one_node / two_nodes:.2f} times as fast"
    )
    seconds = all_seconds(cluster.address, [job(seed) for seed in range(QUEUED)], execute=pause)
    print(
        f"{QUEUED:,} runs of {1000 * FAKE_SECONDS:.0f} ms on two nodes: {QUEUED / seconds:.0f} "
        f"finished per second; peak memory of the driver {peak_rss_mib():.0f} MiB"
    )
    cluster.add_node(num_cpus=AT_WORK - 2)
    share = driver_share(cluster.address)
    print(
        f"a run that is going on takes {1000 * share:.1f} ms of the driver's processor per second "
        f"({AT_WORK} runs); peak memory of the driver {peak_rss_mib():.0f} MiB"
    )
    cluster.shutdown()


def job(seed: int, *, limit: int | None = None, arch: str = "mlp") -> TrainJob:
    """Return a run of NumPy's network on one thread."""
    config = TrainConfig(epochs=1, seed=seed)
    return TrainJob("numpy", ModelSpec(arch), config, threads=1, limit=limit)


def pause(_job: Job, _on_event: OnEvent) -> dict[str, Any]:
    """Take the time of a very short run."""
    time.sleep(FAKE_SECONDS)
    return {}


def tell(_job: Job, on_event: OnEvent) -> dict[str, Any]:
    """Report steps as a run does, for some seconds."""
    for step in range(60):
        on_event({"event": "step", "epoch": 1, "step": step, "total_steps": 60, "loss": 1.0})
        time.sleep(0.1)
    return {}


def start_seconds() -> float:
    """Return how long it takes to start a cluster for one call, until it can be used."""
    began = time.perf_counter()
    with ExitStack() as stack:
        stack.enter_context(connected("local", ["numpy"]))
        return time.perf_counter() - began


def seconds_each(
    runner: Runner, jobs: Sequence[TrainJob], results: list[dict[str, Any]] | None = None
) -> list[float]:
    """Return the seconds from one result to the next; ``results`` gets these."""
    for each in jobs:
        runner.submit(each)
    ends = [time.perf_counter()]
    for _ in jobs:
        result = runner.wait(lambda *_: None).value()
        if results is not None:
            results.append(result)
        ends.append(time.perf_counter())
    return [end - start for start, end in itertools.pairwise(ends)]


def all_seconds(address: str, jobs: Sequence[TrainJob], **options: Any) -> float:
    """Return how long all the jobs take, from the first result of a warmed-up node on."""
    with ray_runner(
        address, frameworks=["numpy"], threads=1, device="cpu", share_nodes=True, **options
    ) as runner:
        seconds_each(runner, [job(1_000_000 + seed, limit=440) for seed in range(4)])
        return sum(seconds_each(runner, jobs))


def driver_share(address: str) -> float:
    """Return the driver's processor seconds for each second of each of many runs."""
    with ray_runner(
        address, frameworks=["numpy"], threads=1, device="cpu", share_nodes=True, execute=tell
    ) as runner:
        for seed in range(3 * AT_WORK):
            runner.submit(job(seed))
        for _ in range(AT_WORK):  # until all nodes are there
            runner.wait(lambda *_: None).value()
        began, used = time.perf_counter(), time.process_time()
        for _ in range(AT_WORK):
            runner.wait(lambda *_: None).value()
        used, seconds = time.process_time() - used, time.perf_counter() - began
        return used / seconds / AT_WORK


if __name__ == "__main__":
    main()

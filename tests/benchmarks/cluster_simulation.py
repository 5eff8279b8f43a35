"""What 1 to 1,000 nodes do to a large comparison, on paper: a simulation of the driver's queue.

    python tests/benchmarks/cluster_simulation.py --price 0.10

4,320 runs: 30 seeds of 8 networks at 6 batch sizes in 3 frameworks. Their lengths are drawn from
the runs in ``results/``, half of the networks as long as the CNN, half as the MLP; the frameworks
of a cell are one group, which goes to one node (see `ray_runner`). What the driver and Ray take was
measured by ``cluster.py``; what is assumed is named so below. Prints a table for docs/scale.md.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

RESULTS = Path(__file__).parents[2] / "results"
SEEDS, NETWORKS, BATCH_SIZES = 30, 8, 6
FRAMEWORKS = ("numpy", "tensorflow", "torch")

# Measured by cluster.py on two cores of an AMD EPYC: docs/scale.md.
START_SECONDS = 2.6  # until a node has its actor
RUN_SECONDS = (
    0.15  # of a run outside its record: its process starts and ends, the result comes home
)
DISPATCH_SECONDS = 1 / 157  # the driver takes a result and gives the next run
NEWS_SECONDS = 0.00075  # the driver hears of a run that is going on: half of 1.5 ms a second
DOCUMENT_SECONDS = 0.002  # for each run in it the document takes that long to build and write
DOCUMENT_SHARE = 4  # it waits so many times as long as it took: `run._SAVING_FACTOR`
DRIVER_MIB = 167.0  # with 1,000 runs in its queue
ACTOR_MIB = 0.15  # of each node in the driver
# Assumed.
DATA_MB = 55.0  # a data set as large as MNIST, which is in the package; sent once to each node
LINK_MB_PER_SECOND = 125.0  # of the driver, which alone sends it
FAILURES_PER_NODE_HOUR = 0.01
REPLACED_SECONDS = 180.0  # from a node's failure until another is there in its place
BOOT_SECONDS = 60.0  # paid, but of no use


@dataclass
class Outcome:
    """What a simulated comparison took: ``finished`` has the runs in the order of their ends."""

    nodes: int
    wall_seconds: float = 0.0
    busy_seconds: float = 0.0  # of the nodes, with runs that count
    driver_seconds: float = 0.0
    lost_runs: int = 0
    finished: list[int] = field(default_factory=list)


def run_lengths(rng: random.Random) -> list[list[float]]:
    """Return the seconds of each run of each group, in the order of the plan."""
    found: dict[tuple[str, str], list[float]] = {}
    for name in ("comparison_results", "batch_size_comparison"):
        for run in json.loads((RESULTS / f"{name}.json").read_text())["runs"]:
            found.setdefault((run["framework"], run["arch"]), []).append(run["wall_seconds"])
    return [
        [rng.choice(found[framework, ("cnn", "mlp")[network % 2]]) for framework in FRAMEWORKS]
        for _ in range(SEEDS)
        for _ in range(BATCH_SIZES)
        for network in range(NETWORKS)
    ]


class Driver:
    """Does one thing after another: takes results, gives runs, looks at runs, writes documents."""

    def __init__(self, nodes: int, rng: random.Random) -> None:
        self._round_seconds = nodes * NEWS_SECONDS
        self._rng = rng
        self._free_at = self._written_at = self._writing_seconds = 0.0
        self.busy_seconds = 0.0

    def serve(self, at: float, finished: int) -> float:
        """Return when a node that asks at a time has its next run."""
        noticed = at + self._rng.uniform(0, self._round_seconds)
        begun = max(noticed, self._free_at) + DISPATCH_SECONDS
        self._free_at = begun
        self.busy_seconds += DISPATCH_SECONDS
        if begun - self._written_at > DOCUMENT_SHARE * self._writing_seconds:
            self._writing_seconds = finished * DOCUMENT_SECONDS
            self.busy_seconds += self._writing_seconds
            self._free_at = self._written_at = begun + self._writing_seconds
        return begun


def simulate(
    nodes: int,
    groups: Sequence[Sequence[float]],
    *,
    rng: random.Random,
    data_mb: float = DATA_MB,
    failures_per_hour: float = FAILURES_PER_NODE_HOUR,
) -> Outcome:
    """Do every run of every group once, and return what that took."""
    outcome, driver = Outcome(nodes), Driver(nodes, rng)
    numbers = iter(range(sum(map(len, groups))))
    queue = deque(deque((next(numbers), seconds) for seconds in group) for group in groups)
    # (time, node, the group it is at): the node asks for its next run.
    asking: list[tuple[float, int, deque[tuple[int, float]]]] = [
        (START_SECONDS + (node + 1) * data_mb / LINK_MB_PER_SECOND, node, deque())
        for node in range(nodes)
    ]
    while asking:
        now, node, group = heapq.heappop(asking)
        if not group:
            if not queue:
                continue
            group = queue.popleft()
        begun = driver.serve(now, len(outcome.finished))
        number, seconds = group[0]
        length = seconds + RUN_SECONDS
        fails_after = float("inf")
        if failures_per_hour:
            fails_after = rng.expovariate(failures_per_hour / 3600)
        if fails_after < length:
            outcome.lost_runs += 1
            queue.appendleft(group)
            heapq.heappush(asking, (begun + fails_after + REPLACED_SECONDS, node, deque()))
            continue
        group.popleft()
        outcome.finished.append(number)
        outcome.busy_seconds += length
        outcome.wall_seconds = max(outcome.wall_seconds, begun + length)
        heapq.heappush(asking, (begun + length, node, group))
    polls = outcome.busy_seconds / max(0.5, nodes * NEWS_SECONDS)  # a run is heard of in each round
    outcome.driver_seconds = driver.busy_seconds + polls * NEWS_SECONDS
    return outcome


def record_mib() -> float:
    """Return the memory of a finished run in the driver: its record, and its part of documents."""
    import tracemalloc

    from mnist_cli.records import RunRecord

    text = (RESULTS / "comparison_results.json").read_text()
    tracemalloc.start()
    records = [RunRecord.from_json(run) for run in json.loads(text)["runs"]]
    documents = [record.to_json() for record in records]
    written = json.dumps(documents, indent=1)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (used + len(written)) / len(records) / 2**20


def main() -> None:
    """Print a row of the table for each number of nodes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--price", type=float, default=0.10, help="USD per node and hour: assumed")
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 10, 100, 1000])
    parser.add_argument("--data-mb", type=float, default=DATA_MB, help="0 for MNIST itself")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    groups = run_lengths(random.Random(arguments.seed))
    runs = sum(map(len, groups))
    memory = DRIVER_MIB + runs * record_mib()
    print(f"{runs:,} runs of {sum(map(sum, groups)) / runs:.1f} s on average.\n")
    columns = "nodes | wall time | node-hours | USD | nodes busy | driver busy | driver MiB"
    print(f"| {columns} | sent, GB | lost runs |\n|{' ---: |' * 9}")
    for nodes in arguments.nodes:
        rng = random.Random(arguments.seed)
        done = simulate(nodes, groups, rng=rng, data_mb=arguments.data_mb)
        hours = nodes * (done.wall_seconds + BOOT_SECONDS) / 3600
        minutes, seconds = divmod(round(done.wall_seconds), 60)
        cells = [
            f"{nodes:,}",
            f"{minutes // 60} h {minutes % 60:02} min {seconds:02} s",
            f"{hours:.1f}",
            f"{hours * arguments.price:.2f}",
            f"{done.busy_seconds / (nodes * done.wall_seconds):.0%}",
            f"{done.driver_seconds / done.wall_seconds:.0%}",
            f"{memory + nodes * ACTOR_MIB:.0f}",
            f"{nodes * arguments.data_mb / 1000:.2f}",
            f"{done.lost_runs}",
        ]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

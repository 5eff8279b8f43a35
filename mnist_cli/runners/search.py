"""Execute the trials of a search on a Ray cluster, where Ray Tune stops the poor ones early.

Tune runs in an actor of the cluster, `SearchAgent`, also if that is on this machine: so it is the
same for every address, and what Tune prints, catches and imports stays there. The driver asks the
actor for news. Nothing here imports Ray: see `ray_cluster` and `ray_tune`.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

from mnist_cli.errors import FrameworkError
from mnist_cli.runners import process
from mnist_cli.runners.base import TrainJob
from mnist_cli.runners.node import NEWS_SECONDS
from mnist_cli.runners.ray_cluster import Ray, connected
from mnist_cli.runners.ray_runner import Files, cluster_line, require_shares

# Events with the number of their trial.
Events: TypeAlias = "deque[tuple[int, dict[str, Any]]]"
EPOCH_FIELDS = ("epoch", "train_loss", "validation_loss", "validation_accuracy", "train_seconds")
_TUNE_NEEDS = ("pandas", "pyarrow", "fsspec", "requests")
_CLOSE_SECONDS = 2.0


@dataclass(frozen=True)
class Plan:
    """What Tune is to do: ``jobs`` are JSON, by the number of their trial.

    ``finished`` are the validation accuracies, by epoch, of trials that were finished before.
    ``threads`` and ``gpus`` are what a trial has; ``files`` are as in `NodeAgent.run`.
    """

    jobs: dict[int, str]
    finished: list[list[float]]
    epochs: int
    reduction_factor: int
    threads: int
    gpus: int
    files: dict[str, str]


class SearchAgent:
    """Runs Tune, on a node of the cluster. Its methods are called from several threads."""

    def __init__(self) -> None:
        self._events: Events = deque()
        self._folder = tempfile.TemporaryDirectory(prefix="mnist-cli-", ignore_cleanup_errors=True)

    def run(self, plan: Plan, agent: Any, *contents: Any) -> str | None:
        """Execute the trials of a plan, and return what went wrong, if anything.

        ``agent`` is this actor's handle.
        """
        try:
            from mnist_cli.runners import ray_tune

            ray_tune.run(plan, contents, events=self._events, agent=agent, folder=self._folder.name)
        except Exception as error:  # Tune raises its own, Ray's and others'
            return f"{type(error).__name__}: {error}"
        return None

    def tell(self, number: int, event: dict[str, Any]) -> None:
        """Take an event of a trial."""
        self._events.append((number, event))

    def news(self) -> list[tuple[int, dict[str, Any]]]:
        """Return what has happened since the last call, in order."""
        return [self._events.popleft() for _ in range(len(self._events))]

    def close(self) -> None:
        """Remove the files of Tune."""
        self._folder.cleanup()


def run_trials(
    jobs: Mapping[int, TrainJob],
    finished: Sequence[Sequence[float]],
    on_event: Callable[[int, dict[str, Any]], None],
    *,
    address: str,
    reduction_factor: int,
    note: Callable[[str], None],
) -> None:
    """Execute the trials ``jobs``, by number, until each has ended; their settings alone differ.

    ``finished`` are as in `Plan`. ``on_event`` gets each event with the number of its trial, in
    order: ``started``, which names the ``node`` and may come again if that is lost; what jobs
    report (see `base`), of an epoch the `EPOCH_FIELDS`; ``again``, when a trial that was lost, for
    a ``reason``, is begun again; ``ended`` with ``state``, finished, stopped, diverged or failed,
    and ``error``. ``note`` gets messages for the user. Raises what `connected` does, and
    `FrameworkError` if there are no nodes for the trials, or Tune itself fails.
    """
    first = next(iter(jobs.values()))
    gpus = int(first.device == "cuda")
    with connected(address, [first.framework], modules=_TUNE_NEEDS) as ray:
        found = require_shares(ray, threads=first.threads, share_nodes=True, gpus_per_run=gpus)
        note(cluster_line(found, first.threads))
        files, contents = Files(ray).of(first)
        plan = Plan(
            jobs={number: process.job_json(job) for number, job in jobs.items()},
            finished=[list(accuracies) for accuracies in finished],
            epochs=first.config.epochs,
            reduction_factor=reduction_factor,
            threads=first.threads,
            gpus=gpus,
            files=files,
        )
        _attend(ray, plan, contents, on_event)


def _attend(
    ray: Ray,
    plan: Plan,
    contents: Sequence[Any],
    on_event: Callable[[int, dict[str, Any]], None],
) -> None:
    """Start Tune, pass its events on until it has ended, and leave no process of it."""
    agent = ray.actor(SearchAgent, ray.here())()
    try:
        end = agent.run.remote(plan, agent, *contents)
        has_ended = False
        while not has_ended:
            ray.wait([end], timeout=NEWS_SECONDS / 2)
            has_ended = ray.is_ready(end)
            for number, event in ray.get(agent.news.remote()):
                on_event(number, event)
        if problem := ray.get(end):
            raise FrameworkError(
                f"Ray Tune failed ({' '.join(problem.split())[:300]}). Go on with --resume."
            )
    except ray.lost as error:
        reason = " ".join(str(error).split()).partition(". ")[0]
        raise FrameworkError(f"The search was lost ({reason}). Go on with --resume.") from error
    finally:
        with suppress(*ray.lost):
            ray.wait([agent.close.remote()], timeout=_CLOSE_SECONDS)
            ray.kill(agent)  # and so the actors of the trials, whose processes end with them

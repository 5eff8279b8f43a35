"""Ray Tune: ASHA decides which trials go on; each is a training job, executed on a node.

Imported on the nodes of a cluster alone, because it loads pandas and pyarrow: over 100 MiB.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# Before Ray Tune is imported: no files of its own for each trial, nobody would read them.
os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler

from mnist_cli.runners import process
from mnist_cli.runners.base import Job, OnEvent
from mnist_cli.runners.node import NEWS_SECONDS, NodeAgent
from mnist_cli.runners.ray_runner import MAX_RETRIES
from mnist_cli.runners.search import EPOCH_FIELDS, Events, Plan

_METRIC = "validation_accuracy"


def run(plan: Plan, contents: Sequence[Any], *, events: Events, agent: Any, folder: str) -> None:
    """Execute the trials of a plan; ``events`` get what happens.

    ``contents`` are the bytes of ``plan.files``. The trials tell the actor ``agent`` what is
    between two epochs. Tune keeps its state in ``folder``, which nobody reads.
    """
    scheduler = ASHAScheduler(
        time_attr="epoch",
        metric=_METRIC,
        mode="max",
        max_t=plan.epochs,
        grace_period=1,
        reduction_factor=plan.reduction_factor,
    )
    _remember(scheduler, plan.finished)
    trainable = tune.with_parameters(
        TrainTrial, jobs=plan.jobs, files=plan.files, contents=list(contents), agent=agent
    )
    tune.Tuner(
        tune.with_resources(trainable, {"cpu": plan.threads, "gpu": plan.gpus}),
        param_space={"number": tune.grid_search(list(plan.jobs))},
        tune_config=tune.TuneConfig(scheduler=scheduler, reuse_actors=True),
        run_config=tune.RunConfig(
            name="search",
            storage_path=folder,
            failure_config=tune.FailureConfig(max_failures=MAX_RETRIES),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            callbacks=[_Reports(events, plan.epochs)],
            verbose=0,
        ),
    ).fit()


def _remember(scheduler: Any, finished: Sequence[Sequence[float]]) -> None:
    """Tell the scheduler the accuracies, by epoch, of trials that were finished before."""
    for place, accuracies in enumerate(finished):
        trial = SimpleNamespace(trial_id=f"finished-{place}")
        scheduler.on_trial_add(None, trial)
        for epoch, accuracy in enumerate(accuracies, start=1):
            scheduler.on_trial_result(None, trial, {"epoch": epoch, _METRIC: accuracy})


class TrainTrial(tune.Trainable):
    """A training job in a process of its own; one step of the trial is one epoch."""

    def setup(  # type: ignore[override]  # `with_parameters` adds the others
        self,
        config: dict[str, Any],
        *,
        jobs: dict[int, str],
        files: dict[str, str],
        contents: list[Any],
        agent: Any,
    ) -> None:
        """Prepare for the trial ``config["number"]``."""
        node = ray.get_runtime_context().get_node_id()
        self._node = f"{socket.gethostname()}-{node[:4]}"
        self._jobs, self._files, self._contents = jobs, files, contents
        self._search = agent
        self._pool = ThreadPoolExecutor(1)
        self._end: Future[dict[str, Any]] | None = None  # of the training, once it has begun
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Prepare for another trial in this actor; the one before may have been stopped."""
        self.cleanup()
        self._number = new_config["number"]
        self._epochs: deque[dict[str, Any]] = deque()  # that no step has returned yet
        self._end = None
        return True

    def _begin(self) -> Future[dict[str, Any]]:
        started = {"event": "started", "node": self._node}
        ray.get(self._search.tell.remote(self._number, started))  # before any epoch
        self._agent = NodeAgent(self._node, timing="shared", execute=_execute)
        job = self._jobs[self._number]
        return self._pool.submit(self._agent.run, job, None, self._files, *self._contents)

    def step(self) -> dict[str, Any]:
        """Return the next epoch, once it has ended, or why the training has failed.

        The first step begins the training: Tune also prepares actors for trials that get another
        one in the end. Raises `RuntimeError` if its process was killed: then Tune begins the trial
        again.
        """
        if self._end is None:
            self._end = self._begin()
        while not self._epochs:
            wait([self._end], timeout=NEWS_SECONDS / 2)
            end = self._end.result() if self._end.done() else None
            events = self._agent.news()["events"] if end is None else end.pop("events", [])
            for event in events:
                if event["event"] == "epoch":
                    self._epochs.append(event)
                else:
                    self._search.tell.remote(self._number, event)
            if end is not None and not self._epochs:
                if end["was_killed"]:
                    raise RuntimeError(end["message"])
                failure = {"error": end["error"], "message": end["message"]}
                return {"epoch": 0, _METRIC: 0.0, "done": True, **failure}
        row = self._epochs.popleft()
        return {"done": row["epoch"] == row["epochs"], **{name: row[name] for name in EPOCH_FIELDS}}

    def cleanup(self) -> None:
        """Stop the training if it is still going on; its process is gone then."""
        while self._end is not None and not self._end.done():
            self._agent.cancel()
            wait([self._end], timeout=NEWS_SECONDS / 2)


def _execute(job: Job, on_event: OnEvent) -> dict[str, Any]:
    process.run(job, on_event)
    return {}  # the events have said it all


class _Reports(tune.Callback):
    """Turns what Tune reports on a trial into events."""

    def __init__(self, events: Events, epochs: int) -> None:
        self._events = events
        self._epochs = epochs

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if "error" not in result:
            row = {name: result[name] for name in EPOCH_FIELDS}
            self._add(trial, {"event": "epoch", "epochs": self._epochs, **row})

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        last = trial.last_result
        if "error" in last:
            is_lost_cause = last["error"] == "DivergedError"
            state, error = "diverged" if is_lost_cause else "failed", last["message"]
        else:
            state, error = "finished" if last["epoch"] == self._epochs else "stopped", None
        self._add(trial, {"event": "ended", "state": state, "error": error})

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._add(trial, {"event": "again", "reason": _reason(trial)})

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        error = f"lost {MAX_RETRIES + 1} times, in the end because {_reason(trial)}"
        self._add(trial, {"event": "ended", "state": "failed", "error": error})

    def _add(self, trial: Any, event: dict[str, Any]) -> None:
        self._events.append((trial.config["number"], event))


def _reason(trial: Any) -> str:
    """Return why a trial was lost: the last line of what Tune wrote about it."""
    text = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else "unknown"
    return text.strip().rpartition("\n")[2].strip().rstrip(".")

"""Comparisons: the plan of runs, one process each, and the statistics over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

from mnist_cli import analysis, worker
from mnist_cli.config import ModelSpec
from mnist_cli.errors import DivergedError, FrameworkError
from mnist_cli.records import SCHEMA_VERSION, describe_machine, write_json


class Observer(Protocol):
    """What follows the runs; `console.TrainingProgress` is one."""

    def start_run(self, label: str) -> None:
        """A run begins."""

    def on_event(self, event: dict[str, Any]) -> None:
        """The current run reports."""

    def finish_run(self, failure: str | None = None) -> None:
        """The current run has ended, with an error message if it failed."""


def plan(
    template: worker.TrainJob,
    *,
    frameworks: Sequence[str],
    archs: Sequence[str],
    runs: int,
    models: Path,
) -> list[worker.TrainJob]:
    """Return the jobs of a comparison: every framework with every network, ``runs`` times.

    Run i has the seed of ``template`` plus i. Every other round is reversed (ABC CBA), so that a
    machine that slows down or speeds up favours nobody. The first round's models go to ``models``.
    """
    cells = [(framework, arch) for arch in archs for framework in frameworks]
    return [
        replace(
            template,
            framework=framework,
            spec=ModelSpec(arch),
            config=replace(template.config, seed=template.config.seed + run),
            checkpoint=str(models / f"{framework}-{arch}.safetensors") if run == 0 else None,
        )
        for run in range(runs)
        for framework, arch in (cells if run % 2 == 0 else reversed(cells))
    ]


def compare(jobs: Sequence[worker.TrainJob], *, path: Path, observer: Observer) -> dict[str, Any]:
    """Do the jobs one at a time and return the document, also written to ``path`` after each run.

    A run whose framework is missing, crashes or diverges becomes a failure and the others go on;
    any other error would meet every run, and is raised.
    """
    runs: list[dict[str, Any]] = []
    failures: list[dict[str, Any]] = []
    machine = describe_machine()
    for job in jobs:
        observer.start_run(f"{job.framework} {job.spec.arch} seed {job.config.seed}")
        failure = None
        try:
            runs.append(worker.run(job, observer.on_event))
        except (FrameworkError, DivergedError) as error:
            failure = str(error)
            cell = {"framework": job.framework, "arch": job.spec.arch, "seed": job.config.seed}
            failures.append({**cell, "error": failure})
        observer.finish_run(failure)
        document = {
            "schema_version": SCHEMA_VERSION,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "runs": runs,
            "failures": failures,
            "summary": analysis.summarize(runs),
            "environment": machine,
        }
        write_json(path, document)
    return document

"""Plans: which runs make up an experiment, in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

from mnist_cli.config import ModelSpec
from mnist_cli.names import model_name
from mnist_cli.runners.base import TrainJob

COMPARISON = "comparison_results"
SWEEP = "batch_size_comparison"

# Framework, architecture, batch size and seed: what distinguishes the runs of a plan.
Key: TypeAlias = tuple[str, str, int, int]


def plan_jobs(
    template: TrainJob,
    *,
    frameworks: Sequence[str],
    networks: Sequence[ModelSpec],
    runs: int,
    batch_sizes: Sequence[int] = (),
    lr_scaling: str = "none",
) -> list[TrainJob]:
    """Return the jobs of a comparison: every framework with every network, ``runs`` times.

    Run i has the seed of ``template`` plus i. Every other round is reversed (ABC CBA), so that a
    machine that slows down or speeds up favours no framework. If ``template`` names a folder as its
    checkpoint, the first round's models go there.

    With ``batch_sizes`` a round has all of them. The learning rate of ``template`` is that of its
    batch size; at k times that size it is scaled by k ("linear": Goyal et al., 2017,
    arXiv:1706.02677), by the root of k ("sqrt": Krizhevsky, 2014, arXiv:1404.5997), or not at all
    ("none").
    """
    config = template.config
    power = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}[lr_scaling]
    cells = [
        (batch_size, framework, spec)
        for batch_size in batch_sizes or [config.batch_size]
        for spec in networks
        for framework in frameworks
    ]
    return [
        replace(
            template,
            framework=framework,
            spec=spec,
            config=replace(
                config,
                seed=config.seed + run,
                batch_size=batch_size,
                learning_rate=config.learning_rate * (batch_size / config.batch_size) ** power,
            ),
            checkpoint=f"{template.checkpoint}/{framework}-{spec.arch}.safetensors"
            if template.checkpoint and run == 0
            else None,
        )
        for run in range(runs)
        for batch_size, framework, spec in (cells if run % 2 == 0 else reversed(cells))
    ]


def job_key(job: TrainJob) -> Key:
    """Return the `Key` of a job."""
    return (job.framework, job.spec.arch, job.config.batch_size, job.config.seed)


def job_label(job: TrainJob, jobs: Sequence[TrainJob]) -> str:
    """Return a run's name on the screen: what differs within the plan, and no more."""
    framework, arch, batch_size, seed = job_key(job)
    label = model_name(framework, arch, job.spec.activation)
    if len({other.config.batch_size for other in jobs}) > 1:
        label += f" batch {batch_size}"
    return label + (f" seed {seed}" if len({other.config.seed for other in jobs}) > 1 else "")

"""Plans: which runs, in which order, at which learning rate."""

from __future__ import annotations

import pytest

from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.experiments.plan import plan_jobs
from mnist_cli.runners.base import TrainJob


def test_rounds_are_reversed_in_turn_and_runs_differ_in_seed_only() -> None:
    template = TrainJob("numpy", ModelSpec("mlp"), TrainConfig(seed=5), 2, checkpoint="models")
    jobs = plan_jobs(template, frameworks=["numpy", "torch"], archs=["cnn", "mlp"], runs=3)
    cells = [(job.framework, job.spec.arch) for job in jobs]
    assert cells[:4] == [("numpy", "cnn"), ("torch", "cnn"), ("numpy", "mlp"), ("torch", "mlp")]
    assert cells[4:8] == cells[3::-1]
    assert cells[8:] == cells[:4]
    assert [job.config.seed for job in jobs] == [5] * 4 + [6] * 4 + [7] * 4
    assert jobs[1].checkpoint == "models/torch-cnn.safetensors"
    assert {job.checkpoint for job in jobs[4:]} == {None}


@pytest.mark.parametrize(
    ("scaling", "rates"),
    [("none", [0.1, 0.1, 0.1]), ("linear", [0.025, 0.1, 0.4]), ("sqrt", [0.05, 0.1, 0.2])],
)
def test_the_learning_rate_follows_the_batch_size(scaling: str, rates: list[float]) -> None:
    template = TrainJob("numpy", ModelSpec("mlp"), TrainConfig(learning_rate=0.1), 2)
    jobs = plan_jobs(
        template,
        frameworks=["numpy"],
        archs=["mlp"],
        runs=1,
        batch_sizes=[16, 64, 256],
        lr_scaling=scaling,
    )
    assert [job.config.batch_size for job in jobs] == [16, 64, 256]
    assert [job.config.learning_rate for job in jobs] == pytest.approx(rates)

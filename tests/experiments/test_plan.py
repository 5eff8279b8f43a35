"""Plans: which runs, in which order, at which learning rate."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.experiments.plan import job_key, job_label, plan_jobs
from mnist_cli.runners.base import TrainJob


def test_rounds_are_reversed_in_turn_and_runs_differ_in_seed_only() -> None:
    template = TrainJob("numpy", ModelSpec("mlp"), TrainConfig(seed=5), 2, checkpoint="models")
    jobs = plan_jobs(
        template,
        frameworks=["numpy", "torch"],
        networks=[ModelSpec("cnn"), ModelSpec("mlp")],
        runs=3,
    )
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
        networks=[template.spec],
        runs=1,
        batch_sizes=[16, 64, 256],
        lr_scaling=scaling,
    )
    assert [job.config.batch_size for job in jobs] == [16, 64, 256]
    assert [job.config.learning_rate for job in jobs] == pytest.approx(rates)


def test_a_round_of_a_sweep_has_every_batch_size_and_is_reversed_in_turn() -> None:
    template = TrainJob("numpy", ModelSpec("mlp"), TrainConfig(seed=5), 2)
    jobs = plan_jobs(
        template,
        frameworks=["numpy", "torch"],
        networks=[ModelSpec("cnn"), ModelSpec("mlp")],
        runs=2,
        batch_sizes=[32, 64],
    )
    cells = [(job.config.batch_size, job.spec.arch, job.framework) for job in jobs]
    assert cells[:8] == [
        (size, arch, framework)
        for size in (32, 64)
        for arch in ("cnn", "mlp")
        for framework in ("numpy", "torch")
    ]
    assert cells[8:] == cells[7::-1]
    assert {job.config.learning_rate for job in jobs} == {0.1}  # scaled only if asked for
    assert len({job_key(job) for job in jobs}) == len(jobs)


def test_runs_of_a_plan_differ_in_nothing_but_their_cell_and_seed() -> None:
    config = TrainConfig(epochs=7, augment=True, label_smoothing=0.3, target_accuracy=0.9)
    template = TrainJob("numpy", ModelSpec("mlp"), config, 2, "kmnist", 100, "cpu", "models")
    for job in plan_jobs(
        template, frameworks=["torch"], networks=[ModelSpec("cnn"), ModelSpec("mlp")], runs=2
    ):
        same = replace(job, framework="numpy", spec=template.spec, checkpoint="models")
        assert replace(same, config=replace(same.config, seed=0)) == template


def test_each_network_of_a_plan_keeps_its_line_and_activation() -> None:
    networks = [ModelSpec("cnn"), ModelSpec("mlp", "sigmoid"), ModelSpec("tiny", line="dense 5")]
    template = TrainJob("numpy", networks[0], TrainConfig(), 2, checkpoint="models")
    jobs = plan_jobs(template, frameworks=["numpy"], networks=networks, runs=1)
    assert [job.spec for job in jobs] == networks
    assert jobs[2].checkpoint == "models/numpy-tiny.safetensors"


def test_a_label_names_what_differs_within_the_plan_and_no_more() -> None:
    def labels(runs: int, *batch_sizes: int) -> list[str]:
        template = TrainJob("numpy", ModelSpec("mlp", "sigmoid"), TrainConfig(seed=5), 2)
        jobs = plan_jobs(
            template,
            frameworks=["torch"],
            networks=[template.spec],
            runs=runs,
            batch_sizes=batch_sizes,
        )
        return [job_label(job, jobs) for job in jobs]

    assert labels(1) == ["PyTorch MLP sigmoid"]
    assert labels(2) == ["PyTorch MLP sigmoid seed 5", "PyTorch MLP sigmoid seed 6"]
    assert labels(1, 32, 64) == ["PyTorch MLP sigmoid batch 32", "PyTorch MLP sigmoid batch 64"]
    assert labels(2, 32, 64)[2] == "PyTorch MLP sigmoid batch 64 seed 6"

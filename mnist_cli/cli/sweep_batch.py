"""`mnist sweep-batch`: the same training at several batch sizes."""

from __future__ import annotations

from typing import Annotated

import typer

from mnist_cli.cli import options
from mnist_cli.cli.options import DEFAULTS, RESULTS
from mnist_cli.cli.output import finish_experiment
from mnist_cli.config import LR_SCALINGS
from mnist_cli.errors import UsageError


def sweep_batch(
    batch_sizes: Annotated[str, typer.Option(help="Separated by commas.")] = "16,32,64,128,256,512",
    lr_scaling: Annotated[
        str,
        options.choice(
            help="How the learning rate follows the batch size: none, linear, sqrt.",
            values=LR_SCALINGS,
        ),
    ] = "sqrt",
    framework: options.Frameworks = None,
    arch: options.Archs = None,
    arch_file: options.ArchFile = None,
    activation: options.Activation = "relu",
    epochs: options.Epochs = 3,
    runs: options.Runs = 1,
    learning_rate: Annotated[
        float, typer.Option(help=f"Peak at batch size {DEFAULTS.batch_size}.")
    ] = DEFAULTS.learning_rate,
    label_smoothing: options.LabelSmoothing = DEFAULTS.label_smoothing,
    augment: options.Augment = False,
    precision: options.Precision = DEFAULTS.precision,
    seed: options.Seed = DEFAULTS.seed,
    threads: options.Threads = None,
    device: options.SameDevice = "cpu",
    dataset: options.DatasetName = "mnist",
    fix_orientation: options.FixOrientation = False,
    limit: options.Limit = None,
    results_dir: options.ResultsDir = RESULTS,
    timeout: options.Timeout = None,
    quiet_machine: options.QuietMachine = False,
    runner: options.Runner = "process",
    address: options.Address = None,
    share_nodes: options.ShareNodes = False,
    gpus_per_run: options.GpusPerRun = None,
    resume: options.ResumeRuns = False,
    log: options.Log = None,
    log_dir: options.LogDir = None,
    as_json: options.AsJson = False,
) -> None:
    """Train at several batch sizes: what is fast, and what it costs in accuracy."""
    from mnist_cli.api import comparing

    comparison = comparing.sweep_batch(
        _numbers(batch_sizes),
        lr_scaling=lr_scaling,
        framework=framework,
        arch=arch,
        arch_file=arch_file,
        activation=activation,
        epochs=epochs,
        runs=runs,
        learning_rate=learning_rate,
        label_smoothing=label_smoothing,
        augment=augment,
        precision=precision,
        seed=seed,
        threads=threads,
        device=device,
        dataset=dataset,
        fix_orientation=fix_orientation,
        limit=limit,
        results_dir=results_dir,
        timeout=timeout,
        quiet_machine=quiet_machine,
        runner=runner,
        address=address,
        share_nodes=share_nodes,
        gpus_per_run=gpus_per_run,
        resume=resume,
        log=log,
        log_dir=log_dir,
    )
    finish_experiment(comparison, results_dir, as_json=as_json)


def _numbers(text: str) -> list[int]:
    try:
        return [int(size) for size in text.split(",")]
    except ValueError:
        raise UsageError(
            f"batch sizes must be whole numbers separated by commas, such as 32,64, not '{text}'."
        ) from None

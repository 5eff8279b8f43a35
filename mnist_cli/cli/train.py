"""`mnist train`: one network, one framework."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mnist_cli.cli import options
from mnist_cli.cli.options import DEFAULTS, RESULTS
from mnist_cli.cli.output import print_json, say_written
from mnist_cli.torchrun import is_main


def train(
    framework: options.Framework = "torch",
    arch: options.OptionalArch = None,
    arch_file: options.ArchFile = None,
    activation: options.OptionalActivation = None,
    epochs: options.Epochs = DEFAULTS.epochs,
    batch_size: options.BatchSize = DEFAULTS.batch_size,
    learning_rate: options.OptionalLearningRate = None,
    label_smoothing: options.OptionalLabelSmoothing = None,
    seed: options.Seed = DEFAULTS.seed,
    threads: options.Threads = None,
    device: options.Device = "auto",
    warmup_fraction: Annotated[
        float, typer.Option(help="Share of the steps over which the learning rate rises.")
    ] = DEFAULTS.warmup_fraction,
    decay_power: Annotated[
        float, typer.Option(help="The rate falls by half a cosine to this power; more is sooner.")
    ] = DEFAULTS.decay_power,
    target_accuracy: options.TargetAccuracy = None,
    patience: Annotated[
        int | None,
        typer.Option(
            help="Stop after this many epochs without a lower validation loss; keep the best epoch."
        ),
    ] = None,
    augment: options.Augment = False,
    reject: Annotated[
        bool,
        typer.Option("--reject", help="Also learn what is no digit, from made letters and shapes."),
    ] = False,
    precision: options.Precision = DEFAULTS.precision,
    dataset: options.DatasetName = "mnist",
    fix_orientation: options.FixOrientation = False,
    from_model: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Go on from a model, or from 'pretrained', with MNIST in the mix.",
            show_default="random weights",
            autocompletion=options.complete_model,
        ),
    ] = None,
    limit: options.Limit = None,
    results_dir: options.ResultsDir = RESULTS,
    runner: options.Runner = "process",
    address: options.Address = None,
    gpus_per_run: options.GpusPerRun = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint.")] = False,
    log: options.Log = None,
    log_dir: options.LogDir = None,
    as_json: options.AsJson = False,
) -> None:
    """Train one network and save its model, record and chart."""
    from mnist_cli.api import training
    from mnist_cli.reporting import console

    record = training.train(
        framework,
        arch=arch,
        arch_file=arch_file,
        activation=activation,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        label_smoothing=label_smoothing,
        seed=seed,
        threads=threads,
        device=device,
        warmup_fraction=warmup_fraction,
        decay_power=decay_power,
        target_accuracy=target_accuracy,
        patience=patience,
        augment=augment,
        reject=reject,
        precision=precision,
        dataset=dataset,
        fix_orientation=fix_orientation,
        limit=limit,
        from_model=from_model,
        results_dir=results_dir,
        runner=runner,
        address=address,
        gpus_per_run=gpus_per_run,
        resume=resume,
        log=log,
        log_dir=log_dir,
    )
    if not is_main():
        return
    if as_json:
        print_json(record.to_json())
        return
    console.stdout().print(console.history_table(record))
    if target_accuracy is not None:
        is_reached = record.history[-1].validation_accuracy >= target_accuracy
        when = f"reached after {record.train_seconds:.1f} s of training"
        typer.echo(f"target {target_accuracy:.4g}: {when if is_reached else 'not reached'}")
    say_written(*training.training_files(results_dir, Path(str(record.checkpoint)).stem))

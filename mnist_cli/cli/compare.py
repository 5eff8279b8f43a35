"""`mnist compare`: frameworks and networks under equal conditions."""

from __future__ import annotations

from mnist_cli.cli import options
from mnist_cli.cli.options import DEFAULTS, RESULTS
from mnist_cli.cli.output import finish_experiment


def compare(
    framework: options.Frameworks = None,
    arch: options.Archs = None,
    arch_file: options.ArchFile = None,
    activation: options.Activation = "relu",
    epochs: options.Epochs = DEFAULTS.epochs,
    runs: options.Runs = 1,
    batch_size: options.BatchSize = DEFAULTS.batch_size,
    learning_rate: options.LearningRate = DEFAULTS.learning_rate,
    label_smoothing: options.LabelSmoothing = DEFAULTS.label_smoothing,
    augment: options.Augment = False,
    precision: options.Precision = DEFAULTS.precision,
    seed: options.Seed = DEFAULTS.seed,
    threads: options.Threads = None,
    device: options.SameDevice = "cpu",
    target_accuracy: options.TargetAccuracy = None,
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
    """Train networks in every framework under equal conditions, and compare."""
    from mnist_cli.api import comparing

    comparison = comparing.compare(
        framework,
        arch=arch,
        arch_file=arch_file,
        activation=activation,
        epochs=epochs,
        runs=runs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        label_smoothing=label_smoothing,
        augment=augment,
        precision=precision,
        seed=seed,
        threads=threads,
        device=device,
        target_accuracy=target_accuracy,
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

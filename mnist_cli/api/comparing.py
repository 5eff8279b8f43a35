"""`compare` and `sweep_batch`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_cli.api.arguments import (
    DEFAULTS,
    Names,
    PathLike,
    Paths,
    checked_batch_sizes,
    checked_device,
    checked_logs,
    checks_arguments,
    resolve_archs,
    resolve_frameworks,
    results_folder,
)
from mnist_cli.api.places import Place
from mnist_cli.config import (
    LR_SCALINGS,
    NETWORKS,
    ModelSpec,
    TrainConfig,
    require_choice,
    require_range,
)
from mnist_cli.errors import UsageError
from mnist_cli.experiments.plan import COMPARISON, SWEEP, plan_jobs
from mnist_cli.names import framework_name
from mnist_cli.networks.spec import operation_count
from mnist_cli.runners.base import TrainJob

if TYPE_CHECKING:
    from mnist_cli.logs.runs import Logs
    from mnist_cli.reporting.comparison import Comparison

_MAX_TIMEOUT_SECONDS = 1e6  # timers take no infinity


@checks_arguments
def compare(
    framework: Names = None,
    *,
    arch: Names = None,
    arch_file: Paths = None,
    activation: str = "relu",
    epochs: int = DEFAULTS.epochs,
    runs: int = 1,
    batch_size: int = DEFAULTS.batch_size,
    learning_rate: float = DEFAULTS.learning_rate,
    label_smoothing: float = DEFAULTS.label_smoothing,
    augment: bool = False,
    precision: str = DEFAULTS.precision,
    seed: int = DEFAULTS.seed,
    threads: int | None = None,
    device: str = "cpu",
    target_accuracy: float | None = None,
    dataset: PathLike = "mnist",
    fix_orientation: bool = False,
    limit: int | None = None,
    results_dir: PathLike | None = None,
    timeout: float | None = None,
    quiet_machine: bool = False,
    runner: str = "process",
    address: str | None = None,
    share_nodes: bool = False,
    gpus_per_run: int | None = None,
    resume: bool = False,
    log: Names = None,
    log_dir: PathLike | None = None,
    progress: bool = True,
) -> Comparison:
    """Train networks in several frameworks under equal conditions and return the comparison.

    ``framework`` are names, by default all. ``arch`` are names or lines of layers, by default those
    of the TOML files ``arch_file``, else CNN and MLP. ``runs`` repeats each with seeds ``seed``,
    ``seed`` + 1, ... With ``results_dir`` models, records and charts are written there; ``resume``
    does what is missing. Runs that fail or take longer than ``timeout`` seconds are ``failures``.
    With ``quiet_machine`` each run waits, up to 5 minutes, until others take no more than 5% of the
    cores; one during which they took more is repeated once.

    With ``runner`` ``ray`` the runs are on the nodes of the Ray cluster at ``address``: ``auto``
    (the default), ``local`` or ``ray://HOST:PORT``. A node has one run at a time, one for each
    ``gpus_per_run`` of its GPUs or, with ``share_nodes``, as many as it has cores for: then speed
    is not compared. ``threads`` are by default those that every node has.

    ``log`` names formats in which runs are logged, of `logs.formats.FORMATS`, in the folder
    ``log_dir``, by default ``logs`` in the results folder.
    """
    place = Place(runner, address, share_nodes, gpus_per_run, threads, device, quiet_machine)
    frameworks = resolve_frameworks(framework)
    networks = resolve_archs(arch, activation=activation, arch_file=arch_file)
    folder = results_folder(results_dir, resume=resume)
    template = TrainJob(
        framework=frameworks[0],
        spec=networks[0],
        config=TrainConfig(
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            label_smoothing=label_smoothing,
            seed=seed,
            target_accuracy=target_accuracy,
            augment=augment,
            precision=precision,
        ),
        threads=1,  # those of the place, once it is known
        dataset=os.fspath(dataset),
        fix_orientation=fix_orientation,
        limit=limit,
        device=checked_device(device),
        checkpoint=None if folder is None else str(folder / "models"),
    )
    return _run_experiment(
        COMPARISON,
        template,
        {"frameworks": frameworks, "networks": networks, "runs": runs},
        wants_all=framework is None,
        activation=activation,
        folder=folder,
        timeout=timeout,
        place=place,
        logs=checked_logs(log, log_dir, folder),
        resume=resume,
        progress=progress,
    )


@checks_arguments
def sweep_batch(
    batch_sizes: Sequence[int] = (16, 32, 64, 128, 256, 512),
    *,
    lr_scaling: str = "sqrt",
    framework: Names = None,
    arch: Names = None,
    arch_file: Paths = None,
    activation: str = "relu",
    epochs: int = 3,
    runs: int = 1,
    learning_rate: float = DEFAULTS.learning_rate,
    label_smoothing: float = DEFAULTS.label_smoothing,
    augment: bool = False,
    precision: str = DEFAULTS.precision,
    seed: int = DEFAULTS.seed,
    threads: int | None = None,
    device: str = "cpu",
    dataset: PathLike = "mnist",
    fix_orientation: bool = False,
    limit: int | None = None,
    results_dir: PathLike | None = None,
    timeout: float | None = None,
    quiet_machine: bool = False,
    runner: str = "process",
    address: str | None = None,
    share_nodes: bool = False,
    gpus_per_run: int | None = None,
    resume: bool = False,
    log: Names = None,
    log_dir: PathLike | None = None,
    progress: bool = True,
) -> Comparison:
    """Train at several batch sizes and return the comparison.

    ``learning_rate`` is the peak at a batch of 64; ``lr_scaling`` (``none``, ``linear`` or
    ``sqrt``) says how it follows the batch size. The rest is as in `compare`.
    """
    place = Place(runner, address, share_nodes, gpus_per_run, threads, device, quiet_machine)
    frameworks = resolve_frameworks(framework)
    networks = resolve_archs(arch, activation=activation, arch_file=arch_file)
    require_choice("learning-rate scaling", lr_scaling, LR_SCALINGS)
    folder = results_folder(results_dir, resume=resume)
    template = TrainJob(
        framework=frameworks[0],
        spec=networks[0],
        config=TrainConfig(
            epochs=epochs,
            learning_rate=learning_rate,
            label_smoothing=label_smoothing,
            seed=seed,
            augment=augment,
            precision=precision,
        ),
        threads=1,  # those of the place, once it is known
        dataset=os.fspath(dataset),
        fix_orientation=fix_orientation,
        limit=limit,
        device=checked_device(device),
    )
    return _run_experiment(
        SWEEP,
        template,
        {"frameworks": frameworks, "networks": networks, "runs": runs}
        | {"batch_sizes": checked_batch_sizes(batch_sizes), "lr_scaling": lr_scaling},
        wants_all=framework is None,
        activation=activation,
        folder=folder,
        timeout=timeout,
        place=place,
        logs=checked_logs(log, log_dir, folder),
        resume=resume,
        progress=progress,
    )


def _run_experiment(
    name: str,
    template: TrainJob,
    plan: dict[str, Any],
    *,
    wants_all: bool,
    activation: str,
    folder: Path | None,
    timeout: float | None,
    place: Place,
    logs: Logs,
    resume: bool,
    progress: bool,
) -> Comparison:
    """Run and draw a comparison or a sweep; ``plan`` holds the arguments of `plan_jobs`."""
    from mnist_cli import adapters
    from mnist_cli.experiments.run import run_jobs
    from mnist_cli.reporting.comparison import Comparison
    from mnist_cli.reporting.console import TrainingProgress

    require_range("runs", plan["runs"], 1, 1000)
    if timeout is not None and not 0 < timeout <= _MAX_TIMEOUT_SECONDS:
        raise UsageError(f"timeout must be from above 0 to 1000000 seconds, not {timeout:g}.")
    jobs = plan_jobs(template, **plan)
    costs = [operation_count(job.spec) for job in jobs]
    path = None if folder is None else folder / f"{name}.json"
    settings = _settings(template, activation, plan) | place.settings()
    experiment = "sweep-batch" if name == SWEEP else "compare"
    told = settings | {"threads": place.threads}  # None for as many as there are
    with (
        TrainingProgress(costs, is_shown=progress) as shown,
        logs.opened(shown, jobs, experiment=experiment, settings=told) as observer,
    ):
        with place.opened(plan["frameworks"], timeout=timeout, note=shown.note) as (
            runner,
            threads,
        ):
            if wants_all and (missing := adapters.missing()):
                observer.note(
                    f"Left out, because not installed: {', '.join(map(framework_name, missing))}. "
                    f"Install with: pip install 'mnist-cli[{','.join(missing)}]'"
                )
            document = run_jobs(
                plan_jobs(replace(template, threads=threads), **plan),
                path=path,
                settings=settings | {"threads": threads},
                observer=observer,
                resume=resume,
                timeout_seconds=timeout,
                quiet_machine=place.quiet_machine,
                runner=runner,
            )
        files: tuple[Path, ...] = ()
        if folder is not None and path is not None:
            from mnist_cli.reporting.results import draw_document

            files = (path, *(chart for chart, _ in draw_document(name, document, folder)))
        observer.end_experiment(document, files)
    return Comparison(document, files)


def _settings(template: TrainJob, activation: str, plan: dict[str, Any]) -> dict[str, Any]:
    """Return what must be equal for an experiment to be resumed."""
    job = asdict(template)
    config = job.pop("config")
    for of_one_run in ("framework", "spec", "checkpoint", "resume", "files"):
        del job[of_one_run]
    del job["validates_only"]  # a comparison has no such runs
    networks: list[ModelSpec] = plan["networks"]
    named = {
        "archs": [network.arch for network in networks],
        "lines": {each.arch: each.line for each in networks if each.arch not in NETWORKS},
    }
    others = {name: value for name, value in plan.items() if name != "networks"}
    return {**config, **job, "activation": activation, **named, **others}

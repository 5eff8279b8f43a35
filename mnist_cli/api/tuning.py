"""`tune`."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from mnist_cli.api.arguments import (
    DEFAULTS,
    Names,
    PathLike,
    checked_device,
    checked_logs,
    checks_arguments,
    resolve_archs,
    results_folder,
)
from mnist_cli.api.places import Place
from mnist_cli.config import SEARCH_SPACE, TrainConfig, require_range
from mnist_cli.runners.base import TrainJob

if TYPE_CHECKING:
    from mnist_cli.reporting.search import Search

_MAX_TRIALS = 10_000
# One value, several, or as text LOW:HIGH or values separated by commas.
Setting: TypeAlias = "str | float | Iterable[float]"


@checks_arguments
def tune(
    framework: str = "torch",
    *,
    arch: Names = None,
    learning_rate: Setting = SEARCH_SPACE["learning_rate"],
    batch_size: Setting = SEARCH_SPACE["batch_size"],
    label_smoothing: Setting = SEARCH_SPACE["label_smoothing"],
    warmup_fraction: Setting = SEARCH_SPACE["warmup_fraction"],
    decay_power: Setting = SEARCH_SPACE["decay_power"],
    trials: int = 20,
    epochs: int = 5,
    reduction_factor: int = 3,
    augment: bool = False,
    seed: int = DEFAULTS.seed,
    threads: int = 1,
    device: str = "cpu",
    dataset: PathLike = "mnist",
    fix_orientation: bool = False,
    limit: int | None = None,
    results_dir: PathLike | None = None,
    address: str = "local",
    resume: bool = False,
    log: Names = None,
    log_dir: PathLike | None = None,
    progress: bool = True,
) -> Search:
    """Search for the settings with the highest validation accuracy, and return what was tried.

    ``arch`` are names or lines of layers, by default the CNN. Each setting is one value, several,
    or a range as text: ``0.01:0.3``. Of ``trials`` trainings of ``epochs`` epochs ASHA (Li et al.,
    2020, arXiv:1810.05934) goes on with about one in ``reduction_factor`` after 1, then after that
    many epochs, and so on. All have the same ``seed``; the test images are left alone. They run on
    the Ray cluster at ``address``: ``local``, one for the call, ``auto``, ``ray://HOST:PORT`` or
    ``HOST:PORT``, each with ``threads`` threads or, with ``device`` cuda, a GPU. With
    ``results_dir`` record and chart are written there; ``resume`` does the trials that are missing.
    ``fix_orientation``, ``log`` and ``log_dir`` are as in `compare`.
    Raises `UsageError` for a wrong argument, `DataError`, `RecordError` or `FrameworkError`.
    """
    from mnist_cli import adapters
    from mnist_cli.experiments import search
    from mnist_cli.experiments.run import require_possible
    from mnist_cli.networks.spec import operation_count
    from mnist_cli.reporting.console import TrainingProgress
    from mnist_cli.reporting.search import Search
    from mnist_cli.runners.search import run_trials

    Place("ray", address, True, None, threads, device)  # raises for a number out of range
    require_range("trials", trials, 1, _MAX_TRIALS)
    require_range("reduction factor", reduction_factor, 2, 100)
    networks = resolve_archs(arch or "cnn", activation="relu", arch_file=None)
    given = [learning_rate, batch_size, label_smoothing, warmup_fraction, decay_power]
    space = {n: search.read_values(n, each) for n, each in zip(SEARCH_SPACE, given, strict=True)}
    folder = results_folder(results_dir, resume=resume)
    logs = checked_logs(log, log_dir, folder)
    template = TrainJob(
        framework=adapters.resolve(framework),
        spec=networks[0],
        config=TrainConfig(epochs=epochs, seed=seed, augment=augment),
        threads=threads,
        dataset=os.fspath(dataset),
        limit=limit,
        device=checked_device(device),
        fix_orientation=fix_orientation,
        validates_only=True,
    )
    jobs = search.plan_trials(template, networks, space, trials)
    shown = TrainingProgress([operation_count(job.spec) for job in jobs], is_shown=progress)
    data_sha256 = require_possible(jobs, shown)
    settings = {
        "framework": template.framework,
        "archs": [network.arch for network in networks],
        "lines": [network.line for network in networks],
        "space": {name: values.to_json() for name, values in space.items()},
        "trials": trials,
        "epochs": epochs,
        "reduction_factor": reduction_factor,
        "augment": augment,
        "seed": seed,
        "threads": threads,
        "device": device,
        "dataset": template.dataset,
        "fix_orientation": fix_orientation,
        "data_sha256": data_sha256,
        "limit": limit,
    }
    with (
        shown,
        logs.opened(shown, jobs, experiment="tune", settings=settings) as observer,
    ):
        document = search.run_search(
            jobs,
            functools.partial(
                run_trials, address=address, reduction_factor=reduction_factor, note=shown.note
            ),
            path=None if folder is None else folder / f"{search.SEARCH}.json",
            settings=settings,
            observer=observer,
            resume=resume,
        )
        files: tuple[Path, ...] = ()
        if folder is not None:
            from mnist_cli.reporting.results import draw_search

            files = (folder / f"{search.SEARCH}.json", *draw_search(document, folder))
        found = Search(document, files)
        observer.end_experiment(
            {**document, "runs": found.trials, "failures": found.failures}, files
        )
    return found

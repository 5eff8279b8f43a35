"""`mnist tune`: a search for good settings."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mnist_cli.cli import options
from mnist_cli.cli.options import DEFAULTS, RESULTS
from mnist_cli.cli.output import print_json, say_written
from mnist_cli.config import NETWORKS, SEARCH_SPACE


def _setting(help: str) -> Any:  # noqa: A002  # Typer's own name
    return typer.Option(help=f"{help} A value, LOW:HIGH, or values separated by commas.")


def tune(
    framework: options.Framework = "torch",
    arch: Annotated[
        list[str] | None,
        options.choice(
            "--arch",
            help="A network by name or as a line, 'conv 16, relu, dense 64, relu'; repeatable.",
            values=NETWORKS,
            show_default="cnn",
        ),
    ] = None,
    learning_rate: Annotated[str, _setting("Peak of the schedule.")] = SEARCH_SPACE[
        "learning_rate"
    ],
    batch_size: Annotated[str, _setting("Images per step.")] = SEARCH_SPACE["batch_size"],
    label_smoothing: Annotated[str, _setting("Share of each label that is spread.")] = SEARCH_SPACE[
        "label_smoothing"
    ],
    warmup_fraction: Annotated[
        str, _setting("Share of the steps over which the rate rises.")
    ] = SEARCH_SPACE["warmup_fraction"],
    decay_power: Annotated[str, _setting("How fast the rate falls.")] = SEARCH_SPACE["decay_power"],
    trials: Annotated[int, typer.Option(help="Combinations of settings to try.")] = 20,
    epochs: Annotated[int, typer.Option(help="Passes over the images, of the best trials.")] = 5,
    reduction_factor: Annotated[
        int, typer.Option(help="One trial in so many goes on, at each stage.")
    ] = 3,
    augment: options.Augment = False,
    seed: options.Seed = DEFAULTS.seed,
    threads: Annotated[int, typer.Option(help="Processor threads of each trial.")] = 1,
    device: options.SameDevice = "cpu",
    dataset: options.DatasetName = "mnist",
    fix_orientation: options.FixOrientation = False,
    limit: options.Limit = None,
    results_dir: options.ResultsDir = RESULTS,
    address: Annotated[
        str,
        options.choice(
            help="Of a Ray cluster: local (one for this call), auto, ray://HOST:PORT or HOST:PORT.",
            values=("local", "auto", "ray://"),
        ),
    ] = "local",
    resume: Annotated[
        bool, typer.Option("--resume", help="Do only the trials that are missing.")
    ] = False,
    log: options.Log = None,
    log_dir: options.LogDir = None,
    as_json: options.AsJson = False,
) -> None:
    """Search for good settings and networks; poor trials are stopped early."""
    from mnist_cli.api import tuning
    from mnist_cli.reporting import console
    from mnist_cli.reporting.search import lines, screen_table

    found = tuning.tune(
        framework,
        arch=arch,
        learning_rate=learning_rate,
        batch_size=batch_size,
        label_smoothing=label_smoothing,
        warmup_fraction=warmup_fraction,
        decay_power=decay_power,
        trials=trials,
        epochs=epochs,
        reduction_factor=reduction_factor,
        augment=augment,
        seed=seed,
        threads=threads,
        device=device,
        dataset=dataset,
        fix_orientation=fix_orientation,
        limit=limit,
        results_dir=results_dir,
        address=address,
        resume=resume,
        log=log,
        log_dir=log_dir,
    )
    if as_json:
        print_json(found.to_json())
    else:
        out = console.stdout()
        out.print(screen_table(found.document))
        for line in lines(found.document):  # whole, also on a terminal: one of them is to be copied
            out.print(line, markup=False, highlight=False, soft_wrap=True)
        say_written(*found.files)
    if found.best is None or found.failures:
        raise typer.Exit(1)

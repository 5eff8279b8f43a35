"""`mnist evaluate`: saved models on the test set, as it is or disturbed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mnist_cli.cli import options
from mnist_cli.cli.options import RESULTS
from mnist_cli.cli.output import print_json, say_written
from mnist_cli.errors import UsageError


def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="A .safetensors file, or a name such as torch-cnn; several with --ensemble or "
            "--robustness, or to set them side by side.",
            show_default=False,
            autocompletion=options.complete_model,
        ),
    ],
    framework: Annotated[
        str | None,
        typer.Option(
            help="Which framework computes a single model.",
            show_default="the one that trained it",
            autocompletion=options.complete_framework,
        ),
    ] = None,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Also test the mean of all models' probabilities.")
    ] = False,
    robustness: Annotated[
        bool,
        typer.Option(
            "--robustness",
            help="Test on images rotated, shifted, scaled, noisy, blurred, faded, covered, ...",
        ),
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(help="Use this many test images for --robustness.", show_default="all"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides what is random in --robustness.")] = 0,
    dataset: options.DatasetName = "mnist",
    fix_orientation: options.FixOrientation = False,
    threads: options.Threads = None,
    device: options.Device = "auto",
    results_dir: options.ResultsDir = RESULTS,
    as_json: options.AsJson = False,
) -> None:
    """Test saved models, in any framework, and draw their errors."""
    where = {"dataset": dataset, "fix_orientation": fix_orientation, "threads": threads}
    where["results_dir"] = results_dir
    if limit is not None and not robustness:
        raise UsageError("--limit goes with --robustness.")
    if len(models) == 1 and not (ensemble or robustness):
        _evaluate_one(models[0], where, as_json=as_json, framework=framework, device=device)
        return
    if framework is not None or device not in ("auto", "cpu"):
        raise UsageError(
            "Several models, --ensemble and --robustness are computed by NumPy, which reads the "
            "models of every framework. Leave --framework and --device out."
        )
    if robustness and ensemble:
        raise UsageError("--robustness and --ensemble are two questions. Ask one at a time.")
    if robustness:
        _measure_robustness(models, where, as_json=as_json, limit=limit, seed=seed)
    else:
        _evaluate_several(models, where, ensemble=ensemble, as_json=as_json)


def _evaluate_one(model: str, where: dict[str, Any], *, as_json: bool, **how: Any) -> None:
    from mnist_cli.api import training
    from mnist_cli.reporting import console

    evaluation = training.evaluate(model, **where, **how)
    if as_json:
        print_json(evaluation.to_json())
    else:
        console.stdout().print(console.evaluation_table(evaluation.to_json()))
        say_written(*training.evaluation_files(where["results_dir"], Path(evaluation.checkpoint)))


def _evaluate_several(
    models: list[str], where: dict[str, Any], *, ensemble: bool, as_json: bool
) -> None:
    from mnist_cli.api import evaluating
    from mnist_cli.reporting import console

    found = evaluating.evaluate_all(models, ensemble=ensemble, **where)
    reports = [each.to_json() for each in found]
    if not as_json:
        console.stdout().print(console.evaluations_table(reports))
        if ensemble:
            say_written(*(where["results_dir"] / name for name in evaluating.ENSEMBLE_FILES))
        return
    together = {"ensemble": reports.pop()} if ensemble else {}
    print_json({"models": reports, **together})


def _measure_robustness(
    models: list[str], where: dict[str, Any], *, as_json: bool, **how: Any
) -> None:
    from mnist_cli.api import evaluating
    from mnist_cli.reporting import console

    measured = evaluating.measure_robustness(models, **where, **how)
    if as_json:
        print_json(measured.to_json())
    else:
        console.stdout().print(console.robustness_table(measured))
        say_written(*(where["results_dir"] / name for name in evaluating.ROBUSTNESS_FILES))

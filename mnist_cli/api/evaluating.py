"""`evaluate_all` and `measure_robustness`: several models on the same test set.

NumPy computes all of them in this process, whichever framework trained them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from mnist_cli.api.arguments import PathLike, checked_threads, checks_arguments, results_folder
from mnist_cli.errors import UsageError
from mnist_cli.records import require_writable, write_json

if TYPE_CHECKING:
    from mnist_cli.data.dataset import Dataset
    from mnist_cli.experiments.robustness import Robustness
    from mnist_cli.prediction import Model
    from mnist_cli.training.checkpoint import Checkpoint
    from mnist_cli.training.evaluation import Evaluation

ENSEMBLE = "ensemble"
# Under the results folder.
ENSEMBLE_FILES = ("ensemble_confusion.png", "ensemble_predictions.png")
ROBUSTNESS_FILES = ("robustness.json", "robustness.png")


@checks_arguments
def evaluate_all(
    models: PathLike | Iterable[PathLike],
    *,
    ensemble: bool = False,
    dataset: PathLike = "mnist",
    fix_orientation: bool = False,
    threads: int | None = None,
    results_dir: PathLike | None = None,
    progress: bool = True,
) -> list[Evaluation]:
    """Test several models, and return an evaluation of each.

    ``models`` are files, or names such as ``torch-cnn`` in the models of ``results_dir``, by
    default ``results``. With ``ensemble`` the last evaluation is that of the mean of all models'
    probabilities; with ``results_dir`` too, its confusion matrix and sample predictions are drawn
    there. Raises `CheckpointError` for a bad model, `UsageError` and `DataError`.
    """
    import numpy as np

    from mnist_cli.api.training import draw_evaluation
    from mnist_cli.training import evaluation

    folder = results_folder(results_dir)
    loaded, test = _open(
        models, folder, dataset, threads, fix_orientation=fix_orientation, progress=progress
    )
    probabilities = []
    evaluations = []
    with _progress(len(loaded), is_shown=progress) as advance:
        for model in loaded.values():
            logits = model.logits(test.test_images)
            probabilities.append(evaluation.probabilities(logits))
            evaluations.append(_report(logits, test, model.checkpoint, str(model.path)))
            advance()
    if not ensemble:
        return evaluations
    mean = np.mean(probabilities, axis=0)
    # The logarithms are logits of these probabilities; a probability of 0 would have none.
    logits = np.log(np.maximum(mean, np.finfo(np.float64).tiny))
    any_model = next(iter(loaded.values())).checkpoint
    evaluations.append(_report(logits, test, any_model, f"{ENSEMBLE} of {', '.join(loaded)}"))
    if folder is not None:
        confusion, samples = (folder / name for name in ENSEMBLE_FILES)
        name = f"Ensemble of {len(loaded)} models"
        draw_evaluation(
            evaluations[-1], confusion, samples, name=name, fix_orientation=fix_orientation
        )
    return evaluations


@checks_arguments
def measure_robustness(
    models: PathLike | Iterable[PathLike],
    *,
    dataset: PathLike = "mnist",
    fix_orientation: bool = False,
    limit: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    results_dir: PathLike | None = None,
    progress: bool = True,
) -> Robustness:
    """Return how accurate and how often sure models stay on disturbed test images.

    ``models`` are as in `evaluate_all`. ``seed`` decides what is random, ``limit`` is how many of
    the test images are used, by default all. With ``results_dir`` the figures and a chart are
    written there. Raises `CheckpointError` for a bad model, `UsageError` and `DataError`.
    """
    from mnist_cli.config import require_range
    from mnist_cli.experiments import robustness
    from mnist_cli.reporting.charts import robustness as chart

    if limit is not None:
        require_range("limit", limit, 1, 10**9)
    require_range("seed", seed, 0, 2**32 - 1)
    folder = results_folder(results_dir)
    loaded, test = _open(
        models, folder, dataset, threads, fix_orientation=fix_orientation, progress=progress
    )
    with _progress(len(loaded) * robustness.SETS, is_shown=progress) as advance:
        measured = robustness.measure(
            loaded,
            test.test_images[:limit],
            test.test_labels[:limit],
            dataset=test.name,
            seed=seed,
            advance=advance,
        )
    if folder is not None:
        figures, drawing = (folder / name for name in ROBUSTNESS_FILES)
        write_json(figures, measured.to_json())
        chart.draw(measured, drawing)
    return measured


def _open(
    models: PathLike | Iterable[PathLike],
    folder: Path | None,
    dataset: PathLike,
    threads: int | None,
    *,
    fix_orientation: bool,
    progress: bool,
) -> tuple[dict[str, Model], Dataset]:
    """Return the models by name, and the data set; raise before anything takes long."""
    from mnist_cli.data.orientation import checked
    from mnist_cli.data.registry import fetch, load_dataset, require_same_classes
    from mnist_cli.prediction import Model
    from mnist_cli.reporting.console import stderr
    from mnist_cli.training.checkpoint import model_path

    if isinstance(models, (str, os.PathLike)):
        models = [models]
    paths = [model_path(model, folder or Path("results")) for model in models]
    if not paths:
        raise UsageError("There is no model to evaluate. Name at least one.")
    if len({path.resolve() for path in paths}) < len(paths):
        raise UsageError("A model is named twice. Name each once.")
    stems = [path.stem for path in paths]
    names = [path.stem if stems.count(path.stem) == 1 else str(path) for path in paths]
    loaded = {
        name: Model(path, threads=checked_threads(threads))
        for name, path in zip(names, paths, strict=True)
    }
    if folder is not None:
        require_writable(folder)

    def say(text: str) -> None:
        if progress:
            stderr().print(text, markup=False, highlight=False, soft_wrap=True)

    name_or_path = os.fspath(dataset)
    text = escape(f"reading {name_or_path}")
    with stderr().status(text) if progress else nullcontext() as status:
        fetch(name_or_path, lambda text: status.update(escape(text)) if status else None)
        test = checked(load_dataset(name_or_path), fix=fix_orientation, say=say)
    for name, model in loaded.items():
        made = model.checkpoint
        require_same_classes(name, made.class_names, made.dataset, test)
    widths = {len(model.checkpoint.class_names): name for name, model in loaded.items()}
    if len(widths) > 1:
        raise UsageError(
            f"{' and '.join(list(widths.values())[:2])} tell different numbers of classes apart. "
            "Evaluate them one at a time."
        )
    return loaded, test


def _report(logits: Any, test: Dataset, model: Checkpoint, name: str) -> Evaluation:
    from mnist_cli.training import evaluation

    return evaluation.report(
        logits,
        test.test_labels,
        class_names=model.class_names,
        framework="numpy",
        checkpoint=name,
        dataset=test.name,
    )


def _progress(count: int, *, is_shown: bool) -> AbstractContextManager[Any]:
    """Return a bar over ``count`` sets of answers that yields a function to advance it."""
    if not is_shown:
        return nullcontext(lambda: None)
    from mnist_cli.reporting.console import reading_progress

    return reading_progress(count)

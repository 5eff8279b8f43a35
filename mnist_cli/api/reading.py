"""`predict` and `load_model`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mnist_cli.api.arguments import PathLike, checked_device, checked_threads, checks_arguments

if TYPE_CHECKING:
    from mnist_cli.pictures.opening import Source
    from mnist_cli.prediction import Model, Prediction


@checks_arguments
def predict(
    source: Source,
    *,
    model: PathLike | None = None,
    framework: str = "numpy",
    single: bool = False,
    rotate: str | int = "auto",
    threads: int | None = None,
    device: str = "auto",
    results_dir: PathLike = "results",
) -> Prediction:
    """Read the digits in one picture: a path, a file's bytes, an array or a PIL image.

    ``model`` is a file, or a name such as ``torch-cnn`` in the models of ``results_dir``; by
    default the one in this package. ``single`` takes all ink as one digit. ``rotate`` is by how
    many degrees clockwise the picture is turned to be read, 0, 90, 180 or 270; ``auto`` chooses.
    For many pictures `load_model` loads a model once. Raises `PictureError` for what is no picture
    or shows no digit, `CheckpointError` for a bad model.
    """
    loaded = load_model(
        model, framework=framework, threads=threads, device=device, results_dir=results_dir
    )
    return loaded.predict(source, single=single, rotate=rotate)


@checks_arguments
def load_model(
    model: PathLike | None = None,
    *,
    framework: str = "numpy",
    threads: int | None = None,
    device: str = "auto",
    results_dir: PathLike = "results",
) -> Model:
    """Return a model that reads pictures: by default the one in this package.

    ``model`` is a file, or a name such as ``torch-cnn`` in the models of ``results_dir``.
    ``framework`` computes it, whichever trained it. Raises `CheckpointError` for a bad model.
    """
    from mnist_cli.prediction import NUMPY, Model
    from mnist_cli.training.checkpoint import model_path

    if framework != NUMPY:  # always installed; looking for others takes a while
        from mnist_cli import adapters

        framework = adapters.resolve(framework)
    return Model(
        None if model is None else model_path(model, Path(results_dir)),
        framework=framework,
        threads=checked_threads(threads),
        device=checked_device(device),
    )

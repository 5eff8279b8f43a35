"""`import_model`."""

from __future__ import annotations

import json
import os
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from mnist_cli.api.arguments import PathLike, checked_threads, checks_arguments
from mnist_cli.api.exporting import MAX_DIFFERENCE, VERIFIED_IMAGES, saved
from mnist_cli.errors import CheckpointError, UsageError
from mnist_cli.records import require_writable

if TYPE_CHECKING:
    from mnist_cli.adapters.base import Classifier
    from mnist_cli.arrays import Array
    from mnist_cli.data.dataset import Dataset
    from mnist_cli.importing.flow import Network
    from mnist_cli.records import EpochRecord
    from mnist_cli.training.checkpoint import Checkpoint

_SCORED = 500  # training digits that choose between networks of the same shapes
_TRAIN_SCORED = 5000  # training digits of the recorded training loss
_POOR_ACCURACY = 0.9
_SMALLEST_PROBABILITY = 1e-30  # below, a float32 has not all its digits
_WRITERS = {"safetensors": "torch"}


@dataclass(frozen=True)
class Import:
    """A model that came in.

    ``largest_difference`` is that of its logits (of its log-probabilities, if the file gives
    probabilities) from the file's own runtime, over `VERIFIED_IMAGES` digits; None for a file
    without a graph. Pixels are normalised as (pixel / 255 - ``pixel_mean``) / ``pixel_std``.
    ``notes`` say what was assumed or looks wrong.
    """

    file: str
    path: str
    arch: str
    line: str
    pixel_mean: float
    pixel_std: float
    largest_difference: float | None
    validation_accuracy: float
    test_accuracy: float
    notes: tuple[str, ...] = ()


@checks_arguments
def import_model(
    file: PathLike,
    *,
    output: PathLike | None = None,
    pixels: str | None = None,
    arch: str | None = None,
    dataset: PathLike = "mnist",
    threads: int | None = None,
    results_dir: PathLike = "results",
    progress: bool = True,
) -> Import:
    """Make a model file of an ONNX, Keras or PyTorch file, and return what it is.

    ``file`` is ``.onnx``, ``.keras``, ``.h5``, or a ``state_dict`` in ``.pt`` or ``.safetensors``.
    No code in it is run. ``pixels`` is how pixels enter it: a name in `importing.source.PIXELS` or
    ``MEAN,STD``; by default as the files of its framework usually expect them. ``arch`` is the
    network, by name or line, of a ``state_dict``. ``output`` is the file to write, by default one
    in the models of ``results_dir``. ``dataset`` is what the model is tested on. Raises
    `CheckpointError` for a file that cannot be read or that no line says, `UsageError`,
    `OutputError`, `FrameworkError`, and `DataError`.
    """
    from mnist_cli.data.registry import load_dataset
    from mnist_cli.importing import reading
    from mnist_cli.importing.source import parse_pixels
    from mnist_cli.reporting import console
    from mnist_cli.training import checkpoint

    source = Path(file)
    kind = reading.kind_of(source)
    has_graph = kind in (reading.ONNX, reading.TENSORFLOW)
    if pixels is not None:
        parse_pixels(pixels)
    if has_graph and arch is not None:
        raise UsageError(f"--arch is for a file without a graph; {source} says its layers itself.")
    models = Path(results_dir) / "models"
    path = models / f"{source.stem}.safetensors" if output is None else Path(output)
    if path.suffix != ".safetensors" or path.resolve() == source.resolve():
        raise UsageError(f"--output must be another .safetensors file than the source, not {path}.")
    require_writable(path.parent, option="--output")
    data = load_dataset(os.fspath(dataset))
    with console.stderr().status(escape(f"reading {source}")) if progress else nullcontext():
        count = checked_threads(threads)
        read = _read_graph if has_graph else _read_weights
        found = read(source, kind, data, pixels=pixels, arch=arch, threads=count)
        model, imported = _measured(found, source, kind, data, threads=count)
        checkpoint.save(path, model)
    return replace(imported, path=str(path))


@dataclass(frozen=True)
class _Found:
    """A network with what is known of it; ``outputs`` are its own runtime's, if it has one."""

    network: Network
    pixel_mean: float
    pixel_std: float
    outputs: Array | None = None
    notes: tuple[str, ...] = ()


def _run(source: Path, kind: str, data: Dataset, *, pixels: str | None, threads: int) -> Any:
    """Return the result of an `ImportJob` and the tensors that it wrote."""
    from safetensors.numpy import load_file

    from mnist_cli.runners import process
    from mnist_cli.runners.base import ImportJob

    with saved(data.test_images[:VERIFIED_IMAGES]) as images:
        job = ImportJob(
            framework=kind,
            file=str(source),
            threads=threads,
            weights=str(images.with_name("weights.safetensors")),
            images=str(images),
            pixels=pixels,
        )
        result = process.run(job, lambda _: None)
        return result, load_file(job.weights)


def _require_classes(source: Path, count: int, data: Dataset) -> None:
    if count != len(data.class_names):
        raise CheckpointError(
            f"{source} gives {count} values of an image, not {len(data.class_names)}, the "
            f"classes of {data.name}. Name the data set that it was made for with --dataset."
        )


def _read_graph(
    source: Path,
    kind: str,
    data: Dataset,
    *,
    pixels: str | None,
    arch: str | None,  # noqa: ARG001  # the graph says it
    threads: int,
) -> _Found:
    import numpy as np

    from mnist_cli import adapters
    from mnist_cli.export.formats import require_onnx
    from mnist_cli.importing import reading
    from mnist_cli.importing.flow import Network

    if kind == reading.ONNX:
        require_onnx()
    else:
        adapters.resolve(kind)
    result, weights = _run(source, kind, data, pixels=pixels, threads=threads)
    classes = result["classes"]
    _require_classes(source, classes, data)
    network = Network(result["line"], weights, ending=result["ending"], classes=classes)
    outputs = np.array(result["outputs"])
    notes = () if pixels else (f"Pixels enter as {result['pixels']}; else say --pixels.",)
    if result["pixels"] == "in the file":
        notes = ("The file normalises pixels itself.",)
    return _Found(network, result["pixel_mean"], result["pixel_std"], outputs, notes)


def _read_weights(
    source: Path,
    kind: str,
    data: Dataset,
    *,
    pixels: str | None,
    arch: str | None,
    threads: int,
) -> _Found:
    from mnist_cli import adapters
    from mnist_cli.importing import reading, state_dict
    from mnist_cli.importing.source import PIXELS, parse_pixels
    from mnist_cli.networks.language import find_network
    from mnist_cli.training import checkpoint, evaluation

    facts: dict[str, str] = {}
    if kind == reading.TORCH:
        adapters.resolve(kind)
        result, tensors = _run(source, kind, data, pixels=None, threads=threads)
        tensors = {name: tensors[name] for name in result["order"]}
    else:
        tensors, facts = state_dict.read_safetensors(source)
    if facts.get("format") == json.dumps(checkpoint.FORMAT):
        raise UsageError(f"{source} is a model of this program already. Use it as it is.")
    classes = len(data.class_names)
    if denses := [array for array in tensors.values() if array.ndim == 2]:
        _require_classes(source, len(denses[-1]), data)
    is_ours = {"line", "pixel_mean", "pixel_std"} <= set(facts)
    if pixels is None and is_ours:
        pixels = f"{json.loads(facts['pixel_mean'])},{json.loads(facts['pixel_std'])}"
    mean, std = chosen = parse_pixels(pixels or "mnist")
    notes = () if pixels else ("Pixels enter as mnist, as in PyTorch's examples; else --pixels.",)
    if arch is not None or is_ours:
        line = (
            find_network(arch, classes=classes).line
            if arch is not None
            else json.loads(facts["line"])
        )
        return _Found(state_dict.with_line(tensors, line, classes), mean, std, notes=notes)

    def score(network: Network) -> float:
        logits = _logits(_classifier(network, threads), data.train_images[:_SCORED], mean, std)
        return evaluation.accuracy(logits, data.train_labels[:_SCORED])

    network, tried = state_dict.infer(tensors, score, classes)
    best = score(network)
    for name in PIXELS if pixels is None and best < _POOR_ACCURACY else ():
        mean, std = PIXELS[name]
        other, more = state_dict.infer(tensors, score, classes)
        tried += more
        if score(other) > best:
            best, network, chosen = score(other), other, (mean, std)
            notes = (f"Pixels enter as {name}, with which it is right most often; else --pixels.",)
    return _Found(network, *chosen, notes=(state_dict.described(network, tried), *notes))


def _classifier(network: Network, threads: int) -> Classifier:
    from mnist_cli import adapters
    from mnist_cli.config import TrainConfig
    from mnist_cli.networks.language import find_network

    adapter = adapters.load("numpy")
    spec = find_network(network.line, classes=network.classes)
    classifier = adapter.build(spec, TrainConfig(), device="cpu", threads=threads)
    classifier.import_weights(network.weights)
    return classifier


def _logits(classifier: Classifier, images: Array, mean: float, std: float) -> Array:
    from mnist_cli.training.recipe import normalize

    return classifier.predict_logits(normalize(images, mean=mean, std=std))


def _measured(
    found: _Found, source: Path, kind: str, data: Dataset, *, threads: int
) -> tuple[Checkpoint, Import]:
    """Return the model of a network, compared and tested, and the facts on it."""
    from mnist_cli.networks.language import find_network
    from mnist_cli.training.checkpoint import Checkpoint

    classifier = _classifier(found.network, threads)
    mean, std = found.pixel_mean, found.pixel_std
    difference = None
    if found.outputs is not None:
        logits = _logits(classifier, data.test_images[:VERIFIED_IMAGES], mean, std)
        difference = _require_agreement(found, logits, source)
    row = _row(classifier, data, mean, std)
    notes = found.notes
    if row.validation_accuracy < _POOR_ACCURACY:
        notes = (*notes, _poor(classifier, data, row.validation_accuracy))
    spec = find_network(found.network.line, classes=found.network.classes)
    return Checkpoint(
        spec=spec,
        config=_config(),
        framework=_WRITERS.get(kind, kind),
        dataset=data.name,
        dataset_sha256=data.sha256,
        train_images=len(data.train_labels),
        history=(row,),
        weights=found.network.weights,
        versions={"imported_from": source.name},
        pixel_mean=mean,
        pixel_std=std,
        class_names=data.class_names,
    ), Import(
        file=str(source),
        path="",
        arch=spec.arch,
        line=spec.line,
        pixel_mean=mean,
        pixel_std=std,
        largest_difference=difference,
        validation_accuracy=row.validation_accuracy,
        test_accuracy=row.test_accuracy,
        notes=notes,
    )


def _config() -> Any:
    from mnist_cli.config import TrainConfig

    return TrainConfig(epochs=1)


def _require_agreement(found: _Found, logits: Array, source: Path) -> float:
    """Return the largest difference from the file's own answers, or raise `CheckpointError`.

    Answers that are probabilities are compared as their logarithms: those of logits are known up to
    a constant of each image.
    """
    import numpy as np

    from mnist_cli.training.evaluation import evidence

    outputs = found.outputs
    assert outputs is not None
    tolerance = MAX_DIFFERENCE * max(1.0, float(np.abs(logits).max()) / 30)  # as in exports
    differences = np.abs(logits - outputs)
    if found.network.ending:
        logs = logits - evidence(logits)[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            given = np.log(outputs) if found.network.ending == "softmax" else outputs
        limit = np.log(_SMALLEST_PROBABILITY)
        both_tiny = (logs < limit) & (given < limit + 1)
        differences = np.where(both_tiny, 0, np.abs(logs - given))
    difference = float(differences.max())
    if not difference <= tolerance:  # also NaN
        raise CheckpointError(
            f"The network that was read from {source} answers otherwise than its own runtime, by "
            f"up to {difference:.2g}; expected at most {tolerance:.2g}. Nothing is written: "
            f"report this. It was read as '{found.network.line}'."
        )
    return difference


def _row(classifier: Classifier, data: Dataset, mean: float, std: float) -> EpochRecord:
    """Return the measured figures; of training, which was elsewhere, no seconds are known."""
    from mnist_cli.data.split import split
    from mnist_cli.records import EpochRecord
    from mnist_cli.training import evaluation

    parts = split(data, seed=0)
    sets = (
        (parts.train_images[:_TRAIN_SCORED], parts.train_labels[:_TRAIN_SCORED]),
        (parts.validation_images, parts.validation_labels),
        (data.test_images, data.test_labels),
    )
    (train, _), (validation, accuracy), (test, test_accuracy) = (
        (evaluation.cross_entropy(logits, labels), evaluation.accuracy(logits, labels))
        for logits, labels in (
            (_logits(classifier, images, mean, std), labels) for images, labels in sets
        )
    )
    return EpochRecord(
        epoch=1,
        train_loss=train,
        validation_loss=validation,
        validation_accuracy=accuracy,
        test_loss=test,
        test_accuracy=test_accuracy,
        train_seconds=0.0,
        images_per_second=0.0,
    )


def _poor(classifier: Classifier, data: Dataset, accuracy: float) -> str:
    """Return a warning, with the way in which pixels would be read best."""
    from mnist_cli.importing.source import PIXELS
    from mnist_cli.training import evaluation

    images, labels = data.train_images[:_SCORED], data.train_labels[:_SCORED]
    scores = {
        name: evaluation.accuracy(_logits(classifier, images, *way), labels)
        for name, way in PIXELS.items()
    }
    best = max(scores, key=lambda name: scores[name])
    hint = f" With --pixels {best} it would be about {scores[best]:.0%}." * (
        scores[best] > accuracy + 0.02
    )
    return f"Warning: only {accuracy:.1%} of {data.name}'s validation images are right.{hint}"

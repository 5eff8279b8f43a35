"""Keras: a ``.keras`` file of Keras' own layers, which `keras.models.load_model` reads as it is."""

from __future__ import annotations

from pathlib import Path

from mnist_cli.arrays import Array
from mnist_cli.training.checkpoint import Checkpoint


def export(checkpoint: Checkpoint, path: Path, *, raw: bool) -> None:
    """Write a model; see `formats.Exporter`."""
    from mnist_cli.adapters import tensorflow_export

    tensorflow_export.build(checkpoint, raw=raw).save(path)


def verify(path: Path, images: Array) -> Array:
    """Return the logits of a file; see `formats.Exporter`."""
    from mnist_cli.adapters import tensorflow_export

    return tensorflow_export.logits(path, images)

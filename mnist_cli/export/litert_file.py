"""LiteRT (TensorFlow Lite): a ``.tflite`` file of built-in operations, for phones and boards."""

from __future__ import annotations

from pathlib import Path

from mnist_cli.arrays import Array
from mnist_cli.training.checkpoint import Checkpoint


def export(checkpoint: Checkpoint, path: Path, *, raw: bool) -> None:
    """Write a model; see `formats.Exporter`. Beside probabilities it gives logits."""
    from mnist_cli.adapters import tensorflow_export

    path.write_bytes(tensorflow_export.to_litert(checkpoint, raw=raw))


def verify(path: Path, images: Array) -> Array:
    """Return the logits of a file; see `formats.Exporter`."""
    from mnist_cli.adapters import tensorflow_export

    return tensorflow_export.litert_logits(path, images)

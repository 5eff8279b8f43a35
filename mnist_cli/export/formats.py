"""The formats: how each is called, what it writes, and the runtime that reads it again."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol, cast

from mnist_cli.arrays import Array
from mnist_cli.errors import not_installed
from mnist_cli.training.checkpoint import Checkpoint


class Exporter(Protocol):
    """What the module of a format does. It runs in a process of its own."""

    def export(self, checkpoint: Checkpoint, path: Path, *, raw: bool) -> None:
        """Write a model to ``path``, a file that is replaced or a folder that is there.

        The file takes images (N, 28, 28), uint8, and answers with probabilities (N, classes); with
        ``raw`` it takes normalised images, float32, and answers with logits.
        """
        ...

    def verify(self, path: Path, images: Array) -> Array:
        """Load the file in its own runtime and return its logits (N, classes).

        ``images`` (N, 28, 28) are as the file takes them: uint8, or with ``raw`` normalised.
        """
        ...


@dataclass(frozen=True)
class Format:
    """One format: its ``runtime`` is the framework of the process that writes and verifies it.

    ``suffix`` is that of a file; a format without one writes a folder of ``files``, and has no raw
    form.
    """

    module: str
    runtime: str
    suffix: str = ""
    files: tuple[str, ...] = ()

    @property
    def exporter(self) -> Exporter:
        """The module, imported now; its framework is imported when it works."""
        return cast(Exporter, import_module(f"mnist_cli.export.{self.module}"))

    def default_name(self, name: str, stem: str) -> str:
        """Return the name of what is written for the model ``stem``; ``name`` is the format's."""
        return f"{stem}{self.suffix}" if self.suffix else f"{stem}-{name}"


_TORCH = ("model.safetensors", "model.py")
FORMATS = {
    "onnx": Format("onnx_file", "onnx", ".onnx"),
    "keras": Format("keras_file", "tensorflow", ".keras"),
    "tflite": Format("litert_file", "tensorflow", ".tflite"),
    "torch": Format("torch_folder", "torch", files=_TORCH),
    "huggingface": Format("huggingface", "torch", files=(*_TORCH, "README.md", "config.json")),
}


def require_onnx() -> None:
    """Raise `FrameworkError` unless the extra ``onnx`` is installed."""
    for package in ("onnx", "onnxruntime"):
        if find_spec(package) is None:
            raise not_installed(package, "onnx")

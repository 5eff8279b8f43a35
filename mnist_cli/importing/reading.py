"""A foreign file to a network: what kind it is, its sizes, and what its own runtime says."""

from __future__ import annotations

import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mnist_cli.arrays import Weights
from mnist_cli.errors import CheckpointError, MnistError, OutputError
from mnist_cli.importing import source
from mnist_cli.importing.source import MAX_BYTES
from mnist_cli.runners.base import ImportJob

ONNX, TENSORFLOW, TORCH, STATE_DICT = "onnx", "tensorflow", "torch", "safetensors"
# The process that reads a file, by its suffix.
KINDS = {
    ".onnx": ONNX,
    ".keras": TENSORFLOW,
    ".h5": TENSORFLOW,
    ".hdf5": TENSORFLOW,
    ".pt": TORCH,
    ".pth": TORCH,
    ".bin": TORCH,
    ".safetensors": STATE_DICT,
}
_MAX_MEMBERS = 10_000


def kind_of(path: Path) -> str:
    """Return the kind of a file, one of those in `KINDS`, and check its size.

    Nothing of it is unpacked. Raises `CheckpointError` for another kind, a missing file, or one
    that would take more than `MAX_BYTES`.
    """
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}. Name one of {', '.join(KINDS)}.")
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise CheckpointError(
            f"{path} has none of the suffixes {', '.join(KINDS)}. Pickles of whole models are "
            "never read: save the weights, or export the model as ONNX."
        )
    size = path.stat().st_size
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
            size = sum(each.file_size for each in members)
            if len(members) > _MAX_MEMBERS:
                size = MAX_BYTES + 1
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is damaged: {error}. Copy it again.") from error
    if size > MAX_BYTES:
        raise CheckpointError(
            f"{path} would take {size:,} bytes unpacked; at most {MAX_BYTES:,} are read. "
            "Save the network alone, without its optimiser."
        )
    return kind


def read(job: ImportJob) -> dict[str, Any]:
    """Return what `ImportJob` says; this is the process that imports the file's framework."""
    path = Path(job.file)
    if job.framework == TORCH:
        from mnist_cli.adapters import torch_export

        tensors = torch_export.read_state_dict(path)
        _save(tensors, job.weights)
        return {"order": list(tensors)}
    found = _source(job.framework, path)
    pixels = job.pixels or found.pixels
    mean, std = (0.0, 1 / 255) if found.takes_integers else source.parse_pixels(pixels)
    network_mean, network_std = source.pixel_statistics(found.network, mean, std)
    images = np.load(job.images)
    try:
        outputs = found.run(images if found.takes_integers else source.as_input(images, mean, std))
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be computed by its own runtime ({type(error).__name__}: {error})."
        ) from error
    _save(found.network.weights, job.weights)
    return {
        **{name: value for name, value in asdict(found.network).items() if name != "weights"},
        "pixels": "in the file" if found.takes_integers else pixels,
        "pixel_mean": network_mean,
        "pixel_std": network_std,
        "outputs": np.asarray(outputs, dtype=np.float32).tolist(),
    }


def _save(tensors: Weights, path: str) -> None:
    from safetensors.numpy import save_file

    try:
        save_file({name: np.ascontiguousarray(each) for name, each in tensors.items()}, path)
    except Exception as error:  # safetensors has an error of its own for a full disk
        raise OutputError(
            f"Cannot write to the folder for temporary files, {Path(path).parent}: {error}. "
            "Free space, or name another with TMPDIR."
        ) from error


def _source(framework: str, path: Path) -> source.Source:
    try:
        if framework == ONNX:
            from mnist_cli.importing import onnx_graph

            return onnx_graph.read(path)
        from mnist_cli.adapters import tensorflow_import

        return tensorflow_import.read(path)
    except (MnistError, ImportError):
        raise
    except Exception as error:  # a graph that contradicts itself fails in any way
        raise CheckpointError(
            f"{path} is damaged, or says what this program does not know "
            f"({type(error).__name__}: {error})."
        ) from error

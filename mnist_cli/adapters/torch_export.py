"""PyTorch's side of exports and imports: run a ``model.py``, read and run a ``state_dict``."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch

from mnist_cli.arrays import Array, Weights
from mnist_cli.errors import CheckpointError


def run_code(path: Path, images: Array) -> Array:
    """Return the logits (N, classes) that a ``model.py`` has for images (N, 28, 28), uint8.

    It is one that `export.torch_folder` has just written.
    """
    spec = importlib.util.spec_from_file_location("exported_model", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with torch.inference_mode():
        logits = module.load()(module.normalise(images))
    return np.asarray(logits.numpy())


def read_state_dict(path: Path) -> Weights:
    """Return the tensors of a file that ``torch.save`` wrote, in its order, as NumPy arrays.

    No code of the file is run. Raises `CheckpointError` unless it holds tensors by name, at the
    top or one level down, as training scripts save them.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a pickle of code, a program, a file cut short
        raise CheckpointError(
            f"{path} is not a state_dict that can be read safely: it is cut short, a TorchScript "
            "program, or a pickle of a whole module, which would run code. Save the weights alone, "
            "torch.save(model.state_dict(), FILE), or export the model as ONNX."
        ) from error
    inner = [each for each in found.values() if _is_state(each)] if _is_mapping(found) else []
    state = found if _is_state(found) else inner[0] if len(inner) == 1 else None
    if state is None:
        raise CheckpointError(
            f"{path} holds no state_dict: expected tensors by name. "
            "Save one with torch.save(model.state_dict(), FILE)."
        )
    return {name: _array(path, name, tensor) for name, tensor in state.items()}


def _is_mapping(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(name, str) for name in value)


def _is_state(value: object) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and _is_mapping(value)
        and all(isinstance(each, torch.Tensor) for each in value.values())
    )


def _array(path: Path, name: str, tensor: torch.Tensor) -> Array:
    if tensor.is_sparse or tensor.is_quantized:
        raise CheckpointError(
            f"{path}: {name} is sparse or quantised; expected a dense tensor of floats. "
            "Save the network before it was quantised or pruned."
        )
    return np.array(tensor.detach().float().numpy())

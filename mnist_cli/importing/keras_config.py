"""The configuration in a Keras file, checked before Keras reads it: layers that are known, no code.

Keras' own ``safe_mode`` stays on as well. `adapters.tensorflow_import` does the reading.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mnist_cli.errors import CheckpointError
from mnist_cli.importing.flow import cannot
from mnist_cli.importing.source import MAX_BYTES

MODELS = {"Sequential", "Functional", "Model"}
# Nothing in prediction.
AUGMENTATION = {"RandomFlip", "RandomRotation", "RandomTranslation", "RandomZoom"}
LAYERS = {
    *MODELS,
    *AUGMENTATION,
    "Activation",
    "Add",
    "AveragePooling2D",
    "BatchNormalization",
    "Conv2D",
    "Dense",
    "Dropout",
    "Flatten",
    "Gelu",
    "GlobalAveragePooling2D",
    "InputLayer",
    "MaxPooling2D",
    "Normalization",
    "Permute",
    "ReLU",
    "Rescaling",
    "Reshape",
    "Softmax",
    "ZeroPadding2D",
}
_CODE = {"Lambda", "TFSMLayer", "TFOpLambda", "__lambda__", "function"}
# Whole packages of Keras' own classes that run nothing when they are made.
_HARMLESS = ("keras.initializers", "keras.regularizers", "keras.constraints", "keras.src")
_HARMLESS_CLASSES = {"DTypePolicy", "Policy", "__keras_tensor__", "__tensor__", "__tuple__"}
_MAX_CONFIG_BYTES = 10_000_000
# What layers name as sizes: larger ones would not fit into memory.
_SIZES = {"batch_input_shape", "batch_shape", "filters", "kernel_size", "padding", "pool_size"}
_SIZES |= {"strides", "target_shape", "units"}
_MAX_SIZE = 100_000


def require_safe(path: Path) -> None:
    """Raise `CheckpointError` unless a file holds a configuration of known layers alone."""
    is_zip = zipfile.is_zipfile(path)
    try:
        config = _zip_config(path) if is_zip else _h5_config(path)
        model = json.loads(config)
        layers = list(_layers(model))
    except CheckpointError:
        raise
    except Exception as error:  # damage, in zip, HDF5 or JSON
        raise CheckpointError(
            f"{path} is not a whole Keras file ({type(error).__name__}: {error}). "
            "It may be cut short or of another kind: copy or save it again."
        ) from error
    for layer in layers:
        name = str(layer.get("class_name"))
        if name in _CODE:
            raise CheckpointError(
                f"{path} has the layer {name}, which holds code: that is refused, and nothing of "
                "it was run. Write the network with layers of Keras' own."
            )
        custom = layer.get("registered_name") not in (None, name)
        if name not in LAYERS or custom:
            cannot(f"{'the custom layer' if custom else 'the layer'} {name}")
    _require_harmless(path, model["config"])


def _zip_config(path: Path) -> bytes:
    import h5py

    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("config.json")
        if info.file_size > _MAX_CONFIG_BYTES:
            raise CheckpointError(f"{path} has a configuration of {info.file_size:,} bytes.")
        with h5py.File(io.BytesIO(archive.read("model.weights.h5")), "r") as weights:
            _require_contained(path, weights)
        return archive.read(info)


def _h5_config(path: Path) -> str:
    import h5py

    with h5py.File(path, "r") as file:
        config = file.attrs.get("model_config")
        if config is None:
            raise CheckpointError(
                f"{path} has weights and no network. Save the whole model, model.save(FILE)."
            )
        _require_contained(path, file)
        return config.decode() if isinstance(config, bytes) else str(config)


def _require_contained(path: Path, group: Any, budget: int = MAX_BYTES) -> int:
    """Return how many bytes of ``budget`` the arrays of an HDF5 group leave, once unpacked.

    Raises `CheckpointError` if that is too few, or if arrays lie in other files.
    """
    import h5py

    for name in group:
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.SoftLink):
            continue
        is_outside = isinstance(link, h5py.ExternalLink)
        if not is_outside and isinstance(group[name], h5py.Group):
            budget = _require_contained(path, group[name], budget)
        elif is_outside or group[name].external or group[name].is_virtual:
            raise CheckpointError(f"{path} has {name} in another file: that is refused.")
        else:
            budget -= group[name].nbytes
    if budget < 0:
        raise CheckpointError(f"{path} has more than {MAX_BYTES:,} bytes of weights, unpacked.")
    return budget


def _layers(model: Any) -> Iterator[dict[str, Any]]:
    """Yield the configurations of all layers, also of models within."""
    yield model
    config = model["config"]
    inner = config.get("layers", []) if isinstance(config, dict) else config
    for layer in inner:
        if layer.get("class_name") in MODELS:
            yield from _layers(layer)
        else:
            yield layer


def _require_harmless(path: Path, value: Any, key: str = "") -> None:
    """Raise `CheckpointError` for other classes than Keras' own, and for enormous sizes."""
    if isinstance(value, dict):
        name, module = value.get("class_name"), value.get("module") or "keras.src"
        if name is not None and name not in LAYERS | _HARMLESS_CLASSES:
            is_custom = value.get("registered_name") not in (None, name)
            if name in _CODE or is_custom or not str(module).startswith(_HARMLESS):
                raise CheckpointError(
                    f"{path} names {name} of {module}, which is not Keras' own: that is refused, "
                    "and nothing of it was run."
                )
        for inner, each in value.items():
            _require_harmless(path, each, inner)
    elif isinstance(value, list):
        for each in value:
            _require_harmless(path, each, key)
    elif key in _SIZES and isinstance(value, int) and abs(value) > _MAX_SIZE:
        cannot(f"its {key} of {value:,}")

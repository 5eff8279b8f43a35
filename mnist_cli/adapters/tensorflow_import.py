"""Keras' side of imports: the layers of a `keras.Model` to an `importing.flow.Flow`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mnist_cli.adapters.tensorflow_export import answers
from mnist_cli.adapters.tensorflow_network import keras
from mnist_cli.arrays import Array
from mnist_cli.errors import CheckpointError
from mnist_cli.importing.flow import Flow, cannot, finish
from mnist_cli.importing.keras_config import AUGMENTATION, require_safe
from mnist_cli.importing.source import Source


def read(path: Path) -> Source:
    """Return the network of a ``.keras`` or ``.h5`` file; see `importing.reading`."""
    require_safe(path)
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises its own, and those of zip and HDF5
        raise CheckpointError(
            f"Keras cannot read {path} ({type(error).__name__}: {error}). "
            "It may be cut short, or of a newer Keras: copy or save it again."
        ) from error
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        cannot(f"it has {len(model.inputs)} inputs and {len(model.outputs)} outputs, not one each")
    dims = tuple(model.inputs[0].shape[1:])
    network = finish(_through_model(model, Flow.start(dims)))

    def compute(images: Array) -> Array:
        return answers(model, images.reshape(-1, *dims))

    return Source(network, compute, "0-1", takes_integers="int" in str(model.inputs[0].dtype))


def _through_model(model: Any, flow: Flow) -> Flow:
    if isinstance(model, keras.Sequential):
        for layer in model.layers:
            flow = _through(layer, [flow])
        return flow
    flows = {id(model.inputs[0]): flow}

    def flow_of(tensor: Any) -> Flow:
        """Return the flow that a tensor holds; each is traced once, so that residuals are seen."""
        if id(tensor) not in flows:
            operation, node, _ = tensor._keras_history
            inputs = operation._inbound_nodes[node].arguments.keras_tensors
            flows[id(tensor)] = _through(operation, [flow_of(each) for each in inputs])
        return flows[id(tensor)]

    return flow_of(model.outputs[0])


def _through(layer: Any, flows: Sequence[Flow]) -> Flow:
    """Return the flow after a layer, or after a whole model within the model."""
    kind, flow = type(layer).__name__, flows[0]
    if isinstance(layer, keras.Model):
        return _through_model(layer, flow)
    if getattr(layer, "data_format", None) == "channels_first":
        cannot(f"{kind} with channels first, which Keras does not compute on a processor")
    match kind:
        case "InputLayer":
            return flow
        case "Add" if len(flows) == 2:
            return flows[0].plus(flows[1])
        case "Conv2D":
            return _activated(layer, _conv(layer, flow))
        case "Dense":
            bias = np.array(layer.bias) if layer.use_bias else None
            return _activated(layer, flow.dense(np.array(layer.kernel).T, bias))
        case "Activation":
            return _activated(layer, flow)
        case "ReLU" if (layer.max_value, layer.negative_slope, layer.threshold) == (None, 0, 0):
            return flow.activation("relu")
        case "Gelu" if layer.approximate:
            return flow.activation("gelu")
        case "Softmax" if layer.axis in (-1, len(flow.order)):
            return flow.end("softmax")
        case "MaxPooling2D" | "AveragePooling2D":
            way = "max" if kind.startswith("Max") else "avg"
            sides = _sides(flow, layer.padding, layer.pool_size, layer.strides)
            return flow.pool(way, layer.pool_size, layer.strides, sides, order="HWC")
        case "GlobalAveragePooling2D":
            pooled = flow.global_average("HWC")
            return pooled if layer.keepdims else pooled.reshape((-1,))
        case "BatchNormalization":
            return _batch_norm(layer, flow)
        case "Dropout":
            return flow.dropout(float(layer.rate))
        case _:
            return _arranged(kind, layer, flow)


def _arranged(kind: str, layer: Any, flow: Flow) -> Flow:
    """Return the flow after a layer of axes or pixels."""
    match kind:
        case "Flatten":
            return flow.reshape((-1,))
        case "Reshape":
            return flow.reshape(tuple(layer.target_shape))
        case "Permute":
            return flow.transpose([axis - 1 for axis in layer.dims])
        case "ZeroPadding2D":
            (top, bottom), (left, right) = layer.padding
            return flow.pad((top, left, bottom, right))
        case "Rescaling" if np.size(layer.scale) == np.size(layer.offset) == 1:
            return flow.affine(float(np.ravel(layer.scale)[0]), float(np.ravel(layer.offset)[0]))
        case "Normalization" if not layer.invert and np.size(layer.mean) == 1:
            mean, variance = (np.ravel(np.array(each))[0] for each in (layer.mean, layer.variance))
            std = max(float(variance) ** 0.5, keras.config.epsilon())
            return flow.affine(1 / std, -float(mean) / std)
    if kind in AUGMENTATION:
        return flow
    return cannot(f"the layer {kind} as {layer.name} uses it")


def _activated(layer: Any, flow: Flow) -> Flow:
    name = getattr(layer.activation, "__name__", type(layer.activation).__name__)
    if name == "linear":
        return flow
    if name in ("softmax", "log_softmax"):
        return flow.end(name)
    # Keras names no form: as an activation its GELU is the one by the error function.
    return flow.activation("gelu by the error function" if name == "gelu" else name)


def _conv(layer: Any, flow: Flow) -> Flow:
    if layer.groups != 1 or set(layer.dilation_rate) != {1} or len(set(layer.strides)) != 1:
        cannot(f"the convolution {layer.name}, with groups, dilation or uneven strides")
    weight = np.array(layer.kernel).transpose(3, 2, 0, 1)
    bias = np.array(layer.bias) if layer.use_bias else None
    padding = _sides(flow, layer.padding, layer.kernel_size, layer.strides)
    return flow.conv(weight, bias, stride=layer.strides[0], padding=padding, order="HWC")


def _sides(
    flow: Flow, padding: str, size: Sequence[int], strides: Sequence[int]
) -> tuple[int, ...]:
    """Return the zeros of Keras' "same" or "valid": top, left, bottom, right."""
    if padding == "valid" or len(flow.order) != 3:
        return (0, 0, 0, 0)
    totals = [
        max((-(-side // stride) - 1) * stride + width - side, 0)
        for side, stride, width in zip(flow.dims()[:2], strides, size, strict=True)
    ]
    return (*(each // 2 for each in totals), *(each - each // 2 for each in totals))


def _batch_norm(layer: Any, flow: Flow) -> Flow:
    axis = layer.axis[0] if isinstance(layer.axis, (list, tuple)) else layer.axis
    if axis not in (-1, len(flow.order)) or (len(flow.shape) == 3 and flow.order != "HWC"):
        cannot(f"the batch norm {layer.name} over another axis than that of the channels")
    return flow.batch_norm(
        np.array(layer.gamma) if layer.scale else None,
        np.array(layer.beta) if layer.center else None,
        np.array(layer.moving_mean),
        np.array(layer.moving_variance),
        epsilon=float(layer.epsilon),
    )

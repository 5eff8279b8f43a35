"""Keras' side of exports: a model of Keras' own layers alone, and the logits of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mnist_cli.adapters.tensorflow_adapter import to_keras
from mnist_cli.adapters.tensorflow_network import keras, tf
from mnist_cli.arrays import IMAGE_SIZE, Array
from mnist_cli.networks.spec import (
    EPSILON,
    STATISTICS_MOMENTUM,
    Activation,
    AveragePool,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    Layer,
    MaxPool,
    Residual,
    flattened_channels,
    parameter_layers,
    written_layers,
)
from mnist_cli.training.checkpoint import Checkpoint

_LOGITS = "logits"
_CHUNK = 250  # images: a hundred MB between two layers of usual width


def build(checkpoint: Checkpoint, *, raw: bool) -> Any:
    """Return a `keras.Model` with the weights of a model; see `formats.Exporter` for ``raw``.

    With ``raw`` its input is (N, 28, 28, 1).
    """
    mean, std = checkpoint.pixel_mean, checkpoint.pixel_std
    if raw:
        inputs = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 1), name="images")
        hidden = inputs
    else:
        inputs = keras.Input((IMAGE_SIZE, IMAGE_SIZE), dtype="uint8", name="images")
        hidden = keras.layers.Rescaling(1 / (255 * std), -mean / std)(inputs)
        hidden = keras.layers.Reshape((IMAGE_SIZE, IMAGE_SIZE, 1))(hidden)
    for layer in written_layers(checkpoint.spec):
        hidden = _outputs(layer, hidden)
    outputs = keras.layers.Activation("linear", name=_LOGITS)(hidden)
    if not raw:
        outputs = keras.layers.Softmax(name="probabilities")(outputs)
    model = keras.Model(inputs, outputs, name=checkpoint.spec.arch.replace(".", "_"))
    channels = flattened_channels(checkpoint.spec)
    for layer in parameter_layers(checkpoint.spec):
        kinds = ["weight", "bias"]
        if isinstance(layer, BatchNorm):
            kinds += ["running_mean", "running_var"]
        names = [f"{layer.name}.{kind}" for kind in kinds]
        arrays = [to_keras(checkpoint.weights[name], channels.get(name, 1)) for name in names]
        model.get_layer(layer.name).set_weights(arrays)
    return model


def _outputs(layer: Layer, inputs: Any) -> Any:
    """Return the outputs of a layer, of layers that Keras itself has."""
    kinds = keras.layers
    match layer:
        case Conv():
            same = layer.padding == "same" and layer.stride == 1
            if layer.margin and not same:  # with a stride Keras pads "same" at one side only
                inputs = kinds.ZeroPadding2D(layer.margin)(inputs)
            return kinds.Conv2D(
                layer.out_channels,
                layer.kernel,
                strides=layer.stride,
                padding="same" if same else "valid",
                name=layer.name,
            )(inputs)
        case Dense():
            return kinds.Dense(layer.out_features, name=layer.name)(inputs)
        case Activation(function="gelu"):
            # An operation, because as a layer's activation Keras saves no other form than that by
            # the error function.
            return keras.ops.gelu(inputs, approximate=True)
        case Activation():
            return kinds.Activation(layer.function)(inputs)
        case MaxPool():
            return kinds.MaxPooling2D(layer.size)(inputs)
        case AveragePool():
            return kinds.AveragePooling2D(layer.size)(inputs)
        case BatchNorm():
            momentum = 1 - STATISTICS_MOMENTUM
            return kinds.BatchNormalization(-1, momentum, EPSILON, name=layer.name)(inputs)
        case Dropout():
            return kinds.Dropout(layer.probability)(inputs)
        case Flatten():
            return kinds.Flatten()(inputs)
        case Residual():
            hidden = inputs
            for each in layer.body:
                hidden = _outputs(each, hidden)
            return kinds.Add()([inputs, hidden])


def logits(path: Path, images: Array) -> Array:
    """Return the logits (N, classes) of images (N, 28, 28) by a file written from `build`."""
    model = keras.models.load_model(path, compile=False)
    until_logits = keras.Model(model.inputs, model.get_layer(_LOGITS).output)
    shaped = images if len(model.inputs[0].shape) == 3 else images[..., None]
    return answers(until_logits, shaped)


def answers(model: Any, images: Array) -> Array:
    """Return what a model answers, computed without compiling it, which takes longer once."""
    parts = [images[start : start + _CHUNK] for start in range(0, len(images), _CHUNK)]
    return np.concatenate([np.asarray(model(part, training=False)) for part in parts])


def to_litert(checkpoint: Checkpoint, *, raw: bool) -> bytes:
    """Return a model as a LiteRT file; its signature names ``images`` and its outputs."""
    model = build(checkpoint, raw=raw)
    outputs = {_LOGITS: model.get_layer(_LOGITS).output}
    if not raw:
        outputs["probabilities"] = model.outputs[0]
    named = keras.Model(model.inputs, outputs)
    content: bytes = tf.lite.TFLiteConverter.from_keras_model(named).convert()
    return content


def litert_logits(path: Path, images: Array) -> Array:
    """Return the logits (N, classes) that LiteRT's interpreter computes of images (N, 28, 28)."""
    run = tf.lite.Interpreter(model_path=str(path)).get_signature_runner()
    (details,) = run.get_input_details().values()
    shaped = images if len(details["shape"]) == 3 else images[..., None]
    # One image, then the others: the batch size is open.
    parts = [run(images=part)[_LOGITS] for part in (shaped[:1], shaped[1:])]
    return np.concatenate(parts)

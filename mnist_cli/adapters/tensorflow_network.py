"""The networks of `tensorflow_adapter` as a `keras.Model`."""

from __future__ import annotations

import sys
from typing import Any

from mnist_cli.arrays import IMAGE_SIZE
from mnist_cli.config import ModelSpec
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
    layers,
)

# TensorFlow Lite imports JAX where it is installed: a second and 120 MiB that TensorFlow needs not.
sys.modules.setdefault("jax", None)  # type: ignore[arg-type]
import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

if sys.modules["jax"] is None:
    del sys.modules["jax"]

# keras and tf, so that the adapter imports them after this.
__all__ = ["SeededDropout", "build_model", "keras", "tf"]


class _BatchNorm(keras.layers.Layer):  # type: ignore[misc]  # no types in Keras
    """`spec.BatchNorm`; that of Keras leaves out the factor n / (n - 1) of the running variance."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        starts = {"weight": "ones", "bias": "zeros", "running_mean": "zeros", "running_var": "ones"}
        self.arrays = [
            self.add_weight(shape[-1:], start, trainable=not name.startswith("running"), name=name)
            for name, start in starts.items()
        ]

    def call(self, inputs: Any, training: bool = False) -> Any:
        weight, bias, mean, variance = self.arrays
        if training:
            axes = list(range(len(inputs.shape) - 1))
            batch_mean, batch_variance = tf.nn.moments(inputs, axes)
            count = tf.cast(tf.size(inputs) // inputs.shape[-1], tf.float32)
            mean.assign_add(STATISTICS_MOMENTUM * (batch_mean - mean))
            unbiased = batch_variance * count / (count - 1)
            variance.assign_add(STATISTICS_MOMENTUM * (unbiased - variance))
            mean, variance = batch_mean, batch_variance
        return tf.nn.batch_normalization(inputs, mean, variance, bias, weight, EPSILON)


class SeededDropout(keras.layers.Layer):  # type: ignore[misc]
    """Keeps, while training, the values that ``kept`` names; it is set before each call."""

    kept: Any

    def __init__(self, probability: float, **options: Any) -> None:
        super().__init__(**options)
        self.scale = 1 / (1 - probability)

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Return the outputs."""
        return inputs * tf.cast(self.kept, inputs.dtype) * self.scale if training else inputs


def _outputs(layer: Layer, inputs: Any, policy: str) -> Any:
    """Return the outputs of a layer in a `keras.Model`."""
    kinds = keras.layers
    match layer:
        case Conv():
            options = {"strides": layer.stride, "name": layer.name, "dtype": policy}
            if layer.stride == 1:
                conv = kinds.Conv2D(
                    layer.out_channels, layer.kernel, padding=layer.padding, **options
                )
                return conv(inputs)
            # With a stride Keras pads "same" at one side only.
            padded = kinds.ZeroPadding2D(layer.margin, dtype=policy)(inputs)
            return kinds.Conv2D(layer.out_channels, layer.kernel, **options)(padded)
        case Dense():
            return kinds.Dense(layer.out_features, name=layer.name, dtype=policy)(inputs)
        case Activation(function="gelu"):
            return kinds.Activation(_gelu, dtype=policy)(inputs)
        case Activation():
            return kinds.Activation(layer.function, dtype=policy)(inputs)
        case MaxPool():
            return kinds.MaxPooling2D(layer.size, dtype=policy)(inputs)
        case AveragePool():
            return kinds.AveragePooling2D(layer.size, dtype=policy)(inputs)
        case BatchNorm():
            return _BatchNorm(name=layer.name, dtype="float32")(inputs)
        case Dropout():
            return SeededDropout(layer.probability, dtype=policy)(inputs)
        case Flatten():
            return kinds.Flatten(dtype=policy)(inputs)
        case Residual():
            hidden = inputs
            for each in layer.body:
                hidden = _outputs(each, hidden, policy)
            return kinds.Add(dtype=policy)([inputs, hidden])


def _gelu(inputs: Any) -> Any:
    return keras.activations.gelu(inputs, approximate=True)


def build_model(spec: ModelSpec, precision: str = "float32") -> Any:
    """Return the network as a `keras.Model`: (N, 28, 28, 1) -> logits (N, classes), float32."""
    policy = "mixed_bfloat16" if precision == "bfloat16" else "float32"
    inputs = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 1))
    hidden = inputs
    for layer in layers(spec):
        hidden = _outputs(layer, hidden, policy)
    logits = keras.layers.Activation("linear", dtype="float32")(hidden)
    return keras.Model(inputs, logits)

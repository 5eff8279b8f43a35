"""Keras files as others write them, made by its ``main`` in a process of Keras.

The networks are those of public tutorials, by their descriptions, and some that must be refused.
"""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
from keras import layers


@keras.saving.register_keras_serializable("elsewhere")
class Halve(layers.Layer):
    def call(self, inputs):
        return inputs / 2


def tutorials() -> dict[str, keras.Model]:
    image = keras.Input((28, 28, 1))
    hidden = layers.Conv2D(8, 3, padding="same", activation="relu")(image)
    inner = layers.Conv2D(8, 3, padding="same", use_bias=False)(hidden)
    inner = layers.BatchNormalization()(inner)
    hidden = layers.ReLU()(layers.Add()([inner, hidden]))
    hidden = layers.MaxPooling2D(4)(hidden)
    residual = keras.Model(image, layers.Dense(10)(layers.Flatten()(hidden)))
    return {
        # keras.io, "Simple MNIST convnet"
        "keras-convnet": keras.Sequential(
            [
                keras.Input((28, 28, 1)),
                layers.Conv2D(32, 3, activation="relu"),
                layers.MaxPooling2D(2),
                layers.Conv2D(64, 3, activation="relu"),
                layers.MaxPooling2D(2),
                layers.Flatten(),
                layers.Dropout(0.5),
                layers.Dense(10, activation="softmax"),
            ]
        ),
        # tensorflow.org, "Quickstart for beginners"
        "tensorflow-quickstart": keras.Sequential(
            [
                keras.Input((28, 28)),
                layers.Flatten(),
                layers.Dense(128, activation="relu"),
                layers.Dropout(0.2),
                layers.Dense(10),
            ]
        ),
        # the MLP of Keras' old mnist_mlp example
        "keras-mlp": keras.Sequential(
            [
                keras.Input((784,)),
                layers.Dense(512, activation="relu"),
                layers.Dropout(0.2),
                layers.Dense(512, activation="relu"),
                layers.Dense(10, activation="softmax"),
            ]
        ),
        # what a line says in other words: uneven padding, even kernels, epsilon, no bias, a mean
        "keras-strided": keras.Sequential(
            [
                keras.Input((28, 28)),
                layers.Reshape((28, 28, 1)),
                layers.Rescaling(1 / 127.5, offset=-1),
                layers.Conv2D(6, 3, strides=2, padding="same", use_bias=False),
                layers.BatchNormalization(epsilon=0.01, scale=False),
                layers.Activation("tanh"),
                layers.Conv2D(5, 4, padding="same", activation="sigmoid"),
                layers.ZeroPadding2D(1),
                layers.Conv2D(4, (3, 3), activation="relu"),
                layers.GlobalAveragePooling2D(),
                layers.Dense(10),
            ]
        ),
        # the CNN of Keras' old mnist_cnn example
        "keras-cnn": keras.Sequential(
            [
                keras.Input((28, 28, 1)),
                layers.Conv2D(32, 3, activation="relu"),
                layers.Conv2D(64, 3, activation="relu"),
                layers.MaxPooling2D(2),
                layers.Dropout(0.25),
                layers.Flatten(),
                layers.Dense(128, activation="relu"),
                layers.Dropout(0.5),
                layers.Dense(10, activation="softmax"),
            ]
        ),
        # tensorflow.org, "Quickstart for experts"
        "tensorflow-experts": keras.Sequential(
            [
                keras.Input((28, 28, 1)),
                layers.Conv2D(32, 3, activation="relu"),
                layers.Flatten(),
                layers.Dense(128, activation="relu"),
                layers.Dense(10),
            ]
        ),
        # TensorFlow 1's "Deep MNIST for experts"
        "tensorflow-deep": keras.Sequential(
            [
                keras.Input((784,)),
                layers.Reshape((28, 28, 1)),
                layers.Conv2D(32, 5, padding="same", activation="relu"),
                layers.MaxPooling2D(2, padding="same"),
                layers.Conv2D(64, 5, padding="same", activation="relu"),
                layers.MaxPooling2D(2, padding="same"),
                layers.Flatten(),
                layers.Dense(1024, activation="relu"),
                layers.Dropout(0.5),
                layers.Dense(10),
            ]
        ),
        # Nielsen's "Neural networks and deep learning": a sigmoid at the end too
        "keras-sigmoids": keras.Sequential(
            [
                keras.Input((784,)),
                layers.Dense(30, activation="sigmoid"),
                layers.Dense(10, activation="sigmoid"),
            ]
        ),
        # as Kaggle's notebooks have them: batch norm after the activation, strides for pools
        "keras-kaggle": keras.Sequential(
            [
                keras.Input((28, 28, 1)),
                layers.BatchNormalization(),
                layers.Conv2D(32, 3, activation="relu"),
                layers.BatchNormalization(),
                layers.Conv2D(32, 5, strides=2, padding="same", activation="relu"),
                layers.BatchNormalization(),
                layers.Dropout(0.4),
                layers.Conv2D(64, 4, activation="relu"),
                layers.GlobalAveragePooling2D(),
                layers.BatchNormalization(),
                layers.Dense(10, activation="softmax"),
            ]
        ),
        "keras-residual": residual,
        "keras-nested": keras.Sequential(
            [
                keras.Input((28, 28, 1)),
                keras.Sequential([layers.Conv2D(3, 5), layers.AveragePooling2D(4)]),
                layers.Flatten(),
                layers.Dense(12, activation="sigmoid"),
                layers.Dense(10, activation="softmax"),
            ]
        ),
    }


def refused() -> dict[str, keras.Model]:
    image = keras.Input((28, 28, 1))
    flat = layers.Flatten()(image)
    start = keras.Input((28, 28))
    parts = {
        "lambda": layers.Dense(10)(layers.Lambda(lambda x: x * 2)(flat)),
        "custom": layers.Dense(10)(Halve()(flat)),
        "erf-gelu": layers.Dense(10)(layers.Dense(4, activation="gelu")(flat)),
        "overlapping": layers.Dense(10)(layers.Flatten()(layers.MaxPooling2D(3, 2)(image))),
        "classes": layers.Dense(7)(flat),
        "elu": layers.Dense(10)(layers.Dense(4, activation="elu")(flat)),
    }
    models = {name: keras.Model(image, outputs) for name, outputs in parts.items()}
    models["recurrent"] = keras.Model(start, layers.Dense(10)(layers.LSTM(4)(start)))
    models["colour"] = keras.Sequential(
        [keras.Input((32, 32, 3)), layers.Flatten(), layers.Dense(10)]
    )
    return models


def randomise(model: keras.Model, seed: int) -> None:
    """Give every weight a value that matters; variances stay above 0."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        shape = variable.shape
        if len(shape) == 1:
            variable.assign(rng.random(shape) * 0.5 + 0.5)
        else:
            variable.assign(rng.standard_normal(shape) / np.sqrt(np.prod(shape[:-1])))


def main(folder: Path) -> None:
    for seed, (name, model) in enumerate({**tutorials(), **refused()}.items()):
        randomise(model, seed)
        model.save(folder / f"{name}.keras")
    tutorials()["keras-convnet"].save_weights(folder / "only.weights.h5")
    for name in ("keras-convnet", "keras-residual", "lambda"):
        keras.models.load_model(folder / f"{name}.keras", safe_mode=False).save(
            folder / f"{name}.h5"
        )
    for path in folder.glob("export-*.keras"):  # those that the old format can hold
        keras.models.load_model(path).save(path.with_suffix(".h5"))

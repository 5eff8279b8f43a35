"""A network of `scratch.plain` for any spec, with canonical weights: what the engine is held to."""

from __future__ import annotations

import numpy as np

from mnist_cli.adapters.base import dropout_masks
from mnist_cli.config import ModelSpec
from mnist_cli.networks import spec as networks
from mnist_cli.scratch import plain

_ACTIVATIONS = {
    "relu": plain.Relu,
    "sigmoid": plain.Sigmoid,
    "tanh": plain.Tanh,
    "gelu": plain.Gelu,
}
_STATISTICS = ("running_mean", "running_var")
RNG = np.random.default_rng(0)


class PlainNetwork:
    """The layers of a spec in plain form, trained with the masks of a seed."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.named: dict[str, plain.Layer] = {}
        self.dropouts: list[plain.Dropout] = []
        self.layers = [self._layer(layer) for layer in networks.layers(spec)]

    def _layer(self, layer: networks.Layer) -> plain.Layer:
        built: plain.Layer
        match layer:
            case networks.Conv():
                built = plain.Conv(
                    layer.weight_shape, RNG, stride=layer.stride, margin=layer.margin
                )
            case networks.Dense():
                built = plain.Dense(layer.in_features, layer.out_features, RNG)
            case networks.Activation():
                built = _ACTIVATIONS[layer.function]()
            case networks.MaxPool():
                built = plain.Pool(layer.size)
            case networks.AveragePool():
                built = plain.Pool(layer.size, mean=True)
            case networks.BatchNorm():
                built = plain.BatchNorm(layer.channels)
            case networks.Dropout():
                built = plain.Dropout(layer.probability, RNG)
                self.dropouts.append(built)
            case networks.Flatten():
                built = plain.Flatten()
            case networks.Residual():
                built = plain.Residual([self._layer(each) for each in layer.body])
        if hasattr(layer, "name"):
            self.named[layer.name] = built
        return built

    def load(self, weights: dict[str, np.ndarray]) -> None:
        for name, array in weights.items():
            layer, _, kind = name.partition(".")
            if kind in _STATISTICS:
                setattr(self.named[layer], kind, array.astype(np.float64))
            else:
                self.named[layer].weights[kind] = array.astype(np.float64)

    def logits(self, images: np.ndarray) -> np.ndarray:
        x = images[:, np.newaxis].astype(np.float64)
        return plain.forward(self.layers, x, is_training=False)

    def loss_and_gradients(
        self, images: np.ndarray, labels: np.ndarray, *, mask_seed: int = 0
    ) -> tuple[float, dict[str, np.ndarray]]:
        masks = dropout_masks(self.spec, mask_seed, len(images))
        for layer, mask in zip(self.dropouts, masks, strict=True):
            layer.rng = _Drawn(mask)
        scores = plain.forward(self.layers, images[:, np.newaxis].astype(np.float64))
        loss, gradient = plain.loss_and_gradient(scores, labels)
        plain.backward(self.layers, gradient)
        return loss, {
            f"{name}.{kind}": layer.gradients[kind]
            for name, layer in self.named.items()
            for kind in layer.weights
        }

    def statistics(self) -> dict[str, np.ndarray]:
        norms = [(n, each) for n, each in self.named.items() if isinstance(each, plain.BatchNorm)]
        return {
            f"{name}.{kind}": getattr(norm, kind) for name, norm in norms for kind in _STATISTICS
        }


class _Drawn:
    """Stands in for a generator: its numbers are above any probability where ``mask`` is true."""

    def __init__(self, mask: np.ndarray) -> None:
        self.mask = mask

    def random(self, shape: tuple[int, ...]) -> np.ndarray:
        assert shape == self.mask.shape
        return np.where(self.mask, 1.0, -1.0)


def random_weights(spec: ModelSpec, seed: int = 5) -> dict[str, np.ndarray]:
    """Initial weights, with biases that would show if they were lost: at 0 ReLU has its kink."""
    rng = np.random.default_rng(seed)
    weights = networks.initial_weights(spec, rng)
    for name, array in weights.items():
        if not name.endswith(".weight") or array.ndim == 1:
            array += np.float32(0.1) * rng.random(array.shape, dtype=np.float32)
    return weights


def digits(count: int, *, dtype: type = np.float64) -> tuple[np.ndarray, np.ndarray]:
    """Images like digits, some noise on a flat background (ties in every pool), and labels."""
    rng = np.random.default_rng(count)
    images = np.full((count, 28, 28), -0.4242, dtype=dtype)  # what a black pixel becomes
    images[:, 6:22, 9:19] = rng.standard_normal((count, 16, 10))
    return images, rng.integers(0, 10, count)


def assert_close(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    """Compare relative to the largest entry: a gradient near 0 has no digits of its own."""
    largest = max(np.abs(expected).max(initial=0), 1e-6)
    assert np.abs(found - expected).max(initial=0) <= tolerance * largest


def assert_gradients_close(
    found: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerance: float
) -> None:
    """Compare relative to the largest gradient of the network.

    That of a bias before a batch norm is 0, and all that is found of it is rounding.
    """
    largest = max(np.abs(array).max() for array in expected.values())
    for name, array in expected.items():
        assert np.abs(found[name] - array).max() <= tolerance * largest, name

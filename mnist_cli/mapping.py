"""Test digits as points of the plane: what a layer makes of them, by PCA or t-SNE.

PCA (principal component analysis) projects: a new digit is projected likewise. t-SNE (van der
Maaten and Hinton, 2008) places all digits at once, so that neighbours stay neighbours; a new digit
has no place of its own and is put at the mean of its nearest neighbours. scikit-learn computes
both, and `tracing` what layers make of digits.
"""

from __future__ import annotations

import base64
import contextlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from mnist_cli.arrays import CLASSES, Array
from mnist_cli.config import ModelSpec
from mnist_cli.data.dataset import Dataset
from mnist_cli.errors import MnistError
from mnist_cli.networks import spec as networks
from mnist_cli.tracing import Trace

METHODS = ("pca", "tsne")
MAX_POINTS = 1_000
# Components in which neighbours are sought, and from which t-SNE starts, as is usual.
COMPONENTS = 50
NEIGHBOURS = 5
# Numbers of a layer's outputs, float32: 256 MB. Of larger layers fewer digits are taken.
_MAX_OUTPUTS = 64_000_000
_BATCH_SIZE = 50  # feature maps of the CNN's first layer: 10 MB
_TSNE_STEPS = 1_000

# Told the name of a phase, and which share of the whole is done, 0-1.
OnProgress = Callable[[str, float], None]


@dataclass(frozen=True)
class DigitMap:
    """N test digits as points.

    ``points`` (N, 2) float32 are their places. ``predictions`` (N,) is what the model reads.
    ``explained`` is the share of variance of the first two components. A layer's outputs (D,) minus
    ``mean`` (D,), times ``components`` (K, D), K <= `COMPONENTS`, are a digit's principal
    components; ``reduced`` (N, K) are those of the points. All are float32.
    """

    points: Array
    predictions: Array
    explained: Array
    mean: Array
    components: Array
    reduced: Array

    def to_json(self) -> dict[str, Any]:
        """Return the arrays as JSON values: base64 of their float32, and shapes."""
        arrays = {each.name: getattr(self, each.name) for each in fields(self)}
        return {
            name: {
                "shape": list(array.shape),
                "float32": base64.b64encode(array.astype(np.float32).tobytes()).decode("ascii"),
            }
            for name, array in arrays.items()
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> DigitMap:
        """Return the map whose `to_json` is ``values``."""
        return cls(
            **{
                name: np.frombuffer(base64.b64decode(each["float32"]), np.float32).reshape(
                    each["shape"]
                )
                for name, each in values.items()
            }
        )

    def place(self, outputs: Array, method: str) -> tuple[Array, Array]:
        """Return where a digit with these outputs (D,) lands (2,), and its nearest points.

        The latter are the `NEIGHBOURS` nearest in all K components, nearest first.
        """
        reduced = self.components @ (outputs - self.mean)
        nearest = np.argsort(np.linalg.norm(self.reduced - reduced, axis=1))[:NEIGHBOURS]
        if method == "pca":
            return reduced[:2], nearest
        return self.points[nearest].mean(axis=0), nearest


def layers(spec: ModelSpec) -> list[dict[str, object]]:
    """Return number, name and shape of the input and of each layer that changes values."""
    listed: list[dict[str, object]] = [
        {"layer": 0, "name": "input pixels", "shape": list(networks.INPUT)}
    ]
    written = networks.with_shapes(networks.written_layers(spec), networks.INPUT)
    for number, (layer, _, shape) in enumerate(written, start=1):
        if not isinstance(layer, (networks.Flatten, networks.Dropout)):
            listed.append({"layer": number, "name": str(layer), "shape": list(shape)})
    return listed


def outputs(network: Trace, images: Array, layer: int) -> Array:
    """Return the outputs (N, D), float32, of a layer's number for normalised images (N, 28, 28)."""
    network.forward(images)
    return _values(network, images, layer)


def _values(network: Trace, images: Array, layer: int) -> Array:
    """Return a copy of what a layer made of images, (N, D) float32, after `Trace.forward`."""
    if layer == 0:
        return images.reshape(len(images), -1).astype(np.float32)
    found = [value for stage in network.stages if not stage.inside for value in stage.values]
    return np.array(np.moveaxis(found[layer - 1], -1, 0).reshape(len(images), -1), np.float32)


def chosen(dataset: Dataset) -> Array:
    """Return the indices of up to `MAX_POINTS` test digits, int64, evenly spaced.

    The first half of MNIST's is easier than the second.
    """
    total = len(dataset.test_labels)
    return np.linspace(0, total, min(MAX_POINTS, total), endpoint=False).astype(np.int64)


def point_count(spec: ModelSpec, layer: int) -> int:
    """Return for how many digits there is memory to map a layer."""
    (shape,) = [each["shape"] for each in layers(spec) if each["layer"] == layer]
    assert isinstance(shape, list)
    return max(100, min(MAX_POINTS, _MAX_OUTPUTS // math.prod(shape)))


def compute(network: Trace, images: Array, layer: int, method: str, told: OnProgress) -> DigitMap:
    """Return the map of a layer's number for normalised images (N, 28, 28) float32.

    Raises `MnistError` if the layer has the same outputs for all of them.
    """
    found, logits = [], []
    for start in range(0, len(images), _BATCH_SIZE):
        told(f"layer outputs, digit {start:,} of {len(images):,}", 0.3 * start / len(images))
        batch = images[start : start + _BATCH_SIZE]
        logits.append(network.forward(batch))
        found.append(_values(network, batch, layer))
    told("principal components", 0.3)
    from sklearn.decomposition import PCA

    values = np.concatenate(found)
    if not np.ptp(values, axis=0).any():
        raise MnistError("All digits have the same outputs in this layer. Choose another one.")
    pca = PCA(min(COMPONENTS, *values.shape), random_state=0)
    reduced = _two_columns(pca.fit_transform(values))
    points = reduced[:, :2]
    if method == "tsne":
        points = _tsne(reduced, lambda name, share: told(name, 0.4 + 0.6 * share))
    return DigitMap(
        points=points.astype(np.float32),
        predictions=np.concatenate(logits)[:, :CLASSES].argmax(axis=1),
        explained=_two_columns(pca.explained_variance_ratio_[np.newaxis])[0, :2],
        mean=pca.mean_,
        components=_two_columns(pca.components_.T).T,
        reduced=reduced,
    )


def _two_columns(values: Array) -> Array:
    """Return (N, K) with zeros for a missing second column: a layer may have a single unit."""
    return np.pad(values, ((0, 0), (0, max(0, 2 - values.shape[1]))))


def _tsne(reduced: Array, told: OnProgress) -> Array:
    """Return the places (N, 2) that t-SNE finds for principal components (N, K)."""
    from sklearn.manifold import TSNE

    tsne = TSNE(
        init="pca",
        perplexity=min(30, (len(reduced) - 1) / 3),
        max_iter=_TSNE_STEPS,
        random_state=0,
        verbose=2,
    )
    with contextlib.redirect_stdout(_Steps(told)):
        placed: Array = tsne.fit_transform(reduced)
    return placed


class _Steps:
    """Standard output for scikit-learn, which says there every 50 steps how far t-SNE is."""

    def __init__(self, told: OnProgress) -> None:
        self._told = told

    def write(self, text: str) -> int:
        if step := re.search(r"Iteration (\d+)", text):
            number = int(step[1])
            self._told(f"t-SNE, step {number:,} of {_TSNE_STEPS:,}", number / _TSNE_STEPS)
        return len(text)

    def flush(self) -> None:
        """Do nothing."""

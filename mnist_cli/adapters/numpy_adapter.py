"""The from-scratch network of `mnist_cli.scratch`, as a framework beside the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from mnist_cli.adapters.base import STEPS_PER_CHUNK
from mnist_cli.arrays import Array, Weights
from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.errors import FrameworkError
from mnist_cli.scratch.network import Network

# Images of a chunk of steps: 6 MB, which the last cache of the processor holds.
MAX_GATHERED = 2_048
# OpenBLAS's names for the processors where it is known to have quick ways with small matrices,
# those with AVX-512.
_SMALL_KERNELS = {"SkylakeX", "Cooperlake", "SapphireRapids"}


def has_small_kernels(libraries: list[dict[str, Any]]) -> bool:
    """Return whether a BLAS is best given small matrices. ``libraries``: threadpoolctl's `info`."""
    return any(each.get("architecture") in _SMALL_KERNELS for each in libraries)


class NumpyClassifier:
    """`base.Classifier` on the processor, with ``threads`` members of a crew."""

    def __init__(self, spec: ModelSpec, config: TrainConfig, threads: int) -> None:
        self.batch_size = config.batch_size
        # Each member of a crew has a core; BLAS starting more threads would only get in the way.
        self._blas = ThreadpoolController().select(user_api="blas")
        self.network = Network(
            spec,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            label_smoothing=config.label_smoothing,
            threads=threads,
            small_kernels=has_small_kernels(self._blas.info()),
        )

    def train_epoch(
        self, images: Array, labels: Array, *, order: Array, learning_rates: Array
    ) -> Iterator[Array]:
        """See `base.Classifier.train_epoch`."""
        chunks = self.network.train(
            images,
            labels,
            order.reshape(-1, self.batch_size),
            learning_rates=learning_rates.tolist(),
            steps_per_chunk=min(STEPS_PER_CHUNK, max(1, MAX_GATHERED // self.batch_size)),
        )
        with closing(chunks):
            while True:
                # Not across a yield: the caller's BLAS is its own. At the first of these calls
                # helpers start, with the limit.
                with self._blas.limit(limits=1):
                    losses = next(chunks, None)
                if losses is None:
                    return
                yield losses

    def predict_logits(self, images: Array) -> Array:
        """See `base.Classifier.predict_logits`."""
        with self._blas.limit(limits=1):
            return self.network.logits(images)

    def export_weights(self) -> Weights:
        """See `base.Classifier.export_weights`."""
        return self.network.weights.canonical()

    def import_weights(self, weights: Weights) -> None:
        """See `base.Classifier.import_weights`."""
        self.network.weights.load(weights)

    def export_optimizer(self) -> Weights:
        """See `base.Classifier.export_optimizer`."""
        return self.network.velocities.canonical()

    def import_optimizer(self, velocities: Weights) -> None:
        """See `base.Classifier.import_optimizer`."""
        self.network.velocities.load(velocities)

    def synchronize(self) -> None:
        """See `base.Classifier.synchronize`: every step has ended when its call returns."""


class NumpyAdapter:
    """`base.Adapter` for NumPy. It has no accelerator: ``device`` is auto or cpu."""

    name = "numpy"

    def build(
        self, spec: ModelSpec, config: TrainConfig, *, device: str, threads: int
    ) -> NumpyClassifier:
        """See `base.Adapter.build`."""
        if device == "cuda":
            raise FrameworkError(
                "NumPy computes on the processor only, not on cuda. "
                "Use --device cpu or auto, or choose torch or tensorflow."
            )
        if config.precision != "float32":
            raise FrameworkError(
                f"NumPy computes in float32 only, not in {config.precision}. "
                "Leave --precision out, or choose torch or tensorflow."
            )
        return NumpyClassifier(spec, config, threads)

    def environment(self) -> dict[str, Any]:
        """See `base.Adapter.environment`."""
        libraries = ThreadpoolController().select(user_api="blas").info()
        blas = ", ".join(f"{each['internal_api']} {each['version']}" for each in libraries)
        return {"numpy": np.__version__, "blas": blas or "unknown", "device": "cpu"}


adapter = NumpyAdapter()

"""The from-scratch network of `mnist_cli.scratch`, as a framework beside the others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from mnist_cli.adapters.base import STEPS_PER_CHUNK
from mnist_cli.architectures import Array, Weights
from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.errors import FrameworkError
from mnist_cli.scratch.network import Network


class NumpyClassifier:
    """`base.Classifier` on the processor, with ``threads`` threads."""

    def __init__(self, spec: ModelSpec, config: TrainConfig, threads: int) -> None:
        self.batch_size = config.batch_size
        self.network = Network(
            spec,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            label_smoothing=config.label_smoothing,
            threads=threads,
        )
        # The network has threads of its own; BLAS starting more in each would only get in the way.
        self._blas = ThreadpoolController().select(user_api="blas")

    def train_epoch(
        self, images: Array, labels: Array, *, order: Array, learning_rates: Array
    ) -> Iterator[Array]:
        """See `base.Classifier.train_epoch`."""
        batches = order.reshape(-1, self.batch_size)
        rates = learning_rates.tolist()
        for start in range(0, len(rates), STEPS_PER_CHUNK):
            steps = range(start, min(start + STEPS_PER_CHUNK, len(rates)))
            with self._blas.limit(limits=1):  # not across a yield: the caller's BLAS is its own
                losses = [
                    self.network.train_step(
                        images, labels, batches[step], learning_rate=rates[step]
                    )
                    for step in steps
                ]
            yield np.array(losses, dtype=np.float32)

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

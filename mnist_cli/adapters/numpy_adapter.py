"""The from-scratch network of `mnist_cli.scratch`, as a framework beside the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from mnist_cli.adapters.base import STEPS_PER_CHUNK
from mnist_cli.arrays import Array, Weights
from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.errors import FrameworkError
from mnist_cli.networks import spec as networks
from mnist_cli.scratch.blocks import DirectBlock, Pixels, SplitDense, WinogradBlock
from mnist_cli.scratch.layers import Conv, Dense, Flatten, MaxPool, Relu, Sigmoid
from mnist_cli.scratch.mlp import Mlp
from mnist_cli.scratch.network import Architecture, Network
from mnist_cli.scratch.parameters import Parameters
from mnist_cli.scratch.worker import Layer, Model, Sequential
from mnist_cli.scratch.worker_group import WorkerError

# Images that a worker takes at a time.
MAX_CHUNK = {"cnn": 32, "mlp": 256}
# Images per chunk of steps: 6 MB, which fits the processor's last-level cache.
MAX_GATHERED = 2_048
# OpenBLAS's names for the processors for which it has small-matrix kernels, those with AVX-512.
_SMALL_KERNELS = {"SkylakeX", "Cooperlake", "SapphireRapids"}


def has_small_kernels(libraries: list[dict[str, Any]]) -> bool:
    """Return whether BLAS has kernels for small matrices. ``libraries``: threadpoolctl's `info`."""
    return any(each.get("architecture") in _SMALL_KERNELS for each in libraries)


def architecture(
    spec: ModelSpec, *, small_kernels: bool = True, plain: bool = False
) -> Architecture:
    """Return what the network of ``spec`` computes.

    ``small_kernels`` is `has_small_kernels`. ``plain`` uses the readable layers of `scratch.layers`
    alone, the reference for the faster `scratch.blocks` and `scratch.mlp`.
    """
    is_mlp = spec.arch == "mlp" and not plain

    def build_model(weights: Parameters, gradients: Parameters, is_first_shard: bool) -> Model:
        if is_mlp:
            return _mlp(
                spec,
                weights,
                gradients,
                adds_output_bias=is_first_shard,
                small_kernels=small_kernels,
            )
        return Sequential(list(_layers(spec, weights, gradients, plain=plain)))

    return Architecture(
        shapes=networks.parameter_shapes(spec),
        flattened_channels=dict(_flattened_channels(spec)),
        build_model=build_model,
        max_chunk=MAX_CHUNK[spec.arch],
        is_sharded=is_mlp,  # the plain layers have no shard without a bias
    )


def _mlp(
    spec: ModelSpec,
    weights: Parameters,
    gradients: Parameters,
    *,
    adds_output_bias: bool,
    small_kernels: bool,
) -> Mlp:
    """Return the fused MLP on these parameters."""
    names = "fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"
    return Mlp(
        [weights[name] for name in names],
        [gradients[name] for name in names],
        Relu() if spec.activation == "relu" else Sigmoid(),
        adds_output_bias=adds_output_bias,
        small_kernels=small_kernels,
    )


def _layers(
    spec: ModelSpec, weights: Parameters, gradients: Parameters, *, plain: bool
) -> Iterator[Layer]:
    """Yield the layers of ``spec`` on these parameters, in forward order."""

    def arrays(layer: networks.Conv | networks.Dense) -> tuple[Array, ...]:
        names = f"{layer.name}.weight", f"{layer.name}.bias"
        return tuple(parameters[name] for parameters in (weights, gradients) for name in names)

    remaining = list(networks.layers(spec))
    pool, relu = networks.MaxPool(), networks.Activation("relu")
    blocks = 0
    while remaining:
        layer = remaining.pop(0)
        match layer:
            case networks.Conv():
                if [remaining.pop(0), remaining.pop(0)] != [pool, relu]:
                    raise NotImplementedError("a convolution without pool and ReLU after it")
                if plain:
                    yield Conv(*arrays(layer), needs_input_gradient=blocks > 0)
                    yield MaxPool()
                    yield Relu()
                else:
                    yield (WinogradBlock if blocks else DirectBlock)(*arrays(layer))
                blocks += 1
            case networks.Dense():
                is_large = layer.name == "fc1"
                dense = SplitDense if is_large and not plain else Dense
                yield dense(*arrays(layer), needs_input_gradient=blocks > 0 or not is_large)
            case networks.Flatten():
                yield Flatten() if plain else Pixels()
            case networks.Activation():
                yield Relu() if layer.function == "relu" else Sigmoid()


def _flattened_channels(spec: ModelSpec) -> Iterator[tuple[str, int]]:
    """Yield each dense weight's name with the number of channels its inputs were flattened from."""
    channels = 1
    for layer in networks.parameter_layers(spec):
        if isinstance(layer, networks.Conv):
            channels = layer.out_channels
        else:
            yield f"{layer.name}.weight", channels
            channels = 1


class NumpyClassifier:
    """`base.Classifier` on the processor, with ``threads`` workers."""

    def __init__(self, spec: ModelSpec, config: TrainConfig, threads: int) -> None:
        self.batch_size = config.batch_size
        # Each worker has a core of its own; more threads in BLAS would compete with them.
        self._blas = ThreadpoolController().select(user_api="blas")
        self.network = Network(
            architecture(spec, small_kernels=has_small_kernels(self._blas.info())),
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            label_smoothing=config.label_smoothing,
            reject=config.reject,
            threads=threads,
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
                # Restore the BLAS thread limit before yielding, because the caller may use BLAS
                # too. Workers that the first of these calls starts inherit the limit.
                with self._limits():
                    losses = next(chunks, None)
                if losses is None:
                    return
                yield losses

    def predict_logits(self, images: Array) -> Array:
        """See `base.Classifier.predict_logits`."""
        with self._limits():
            return self.network.logits(images)

    @contextmanager
    def _limits(self) -> Iterator[None]:
        """Limit BLAS to one thread, and raise a worker's failure as a `FrameworkError`."""
        try:
            with self._blas.limit(limits=1):
                yield
        except WorkerError as error:
            raise FrameworkError(str(error)) from error

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
        if device in ("cuda", "mps"):
            raise FrameworkError(
                f"NumPy computes on the processor only, not on {device}. "
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

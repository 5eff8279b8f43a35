"""The from-scratch network of `mnist_cli.scratch`, as a framework beside the others."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from mnist_cli.adapters.base import STEPS_PER_CHUNK, dropout_masks
from mnist_cli.arrays import Array, Weights
from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.errors import FrameworkError
from mnist_cli.networks import spec as networks
from mnist_cli.scratch.engine import general
from mnist_cli.scratch.engine.blocks import DirectBlock, Pixels, SplitDense, WinogradBlock
from mnist_cli.scratch.engine.layers import Dense, Relu, Sigmoid
from mnist_cli.scratch.engine.mlp import Mlp
from mnist_cli.scratch.engine.network import Architecture, Network
from mnist_cli.scratch.engine.parameters import Parameters
from mnist_cli.scratch.engine.worker import Layer, Model, Sequential
from mnist_cli.scratch.engine.worker_group import WorkerError

# Images that a worker takes at a time, of a network with convolutions and of one without.
CONV_CHUNK, DENSE_CHUNK = 32, 256
# Images per chunk of steps: 6 MB, which fits the processor's last-level cache.
MAX_GATHERED = 2_048
# OpenBLAS's names for the processors for which it has small-matrix kernels, those with AVX-512.
_SMALL_KERNELS = {"SkylakeX", "Cooperlake", "SapphireRapids"}


def has_small_kernels(libraries: list[dict[str, Any]]) -> bool:
    """Return whether BLAS has kernels for small matrices. ``libraries``: threadpoolctl's `info`."""
    return any(each.get("architecture") in _SMALL_KERNELS for each in libraries)


def architecture(spec: ModelSpec, *, small_kernels: bool = True) -> Architecture:
    """Return what the network of ``spec`` computes: fast where its shapes allow, else generally.

    ``small_kernels`` is `has_small_kernels`.
    """
    network = networks.layers(spec)
    kinds = [layer for layer, _ in networks.leaves(network)]
    is_mlp = _is_mlp(network)
    reversed_layers = network if is_mlp else network[: _fast_layers(network)]
    reversed_names = {n for layer in reversed_layers for n in layer.parameter_shapes()}
    channels = networks.flattened_channels(spec)

    def build_model(weights: Parameters, gradients: Parameters, is_first_shard: bool) -> Model:
        if is_mlp:
            return _mlp(
                network[2],
                weights,
                gradients,
                adds_output_bias=is_first_shard,
                small_kernels=small_kernels,
            )
        return Sequential(_layers(network, weights, gradients))

    has_dropout = any(isinstance(layer, networks.Dropout) for layer in kinds)
    return Architecture(
        shapes=networks.weight_shapes(spec),
        reversed_channels={name: channels.get(name, 1) for name in reversed_names},
        build_model=build_model,
        classes=spec.classes,
        max_chunk=CONV_CHUNK if _has(kinds, networks.Conv) else DENSE_CHUNK,
        is_sharded=is_mlp,  # the other layers have no shard without a bias
        most_normalised=max(
            (layer.channels for layer in kinds if isinstance(layer, networks.BatchNorm)), default=0
        ),
        draw_masks=functools.partial(dropout_masks, spec) if has_dropout else None,
    )


def _has(network: Sequence[networks.Layer], kind: type) -> bool:
    return any(isinstance(layer, kind) for layer in network)


def _is_mlp(network: Sequence[networks.Layer]) -> bool:
    """Return whether `mlp.Mlp` computes the network: one hidden layer, ReLU or sigmoid."""
    match network:
        case (
            networks.Flatten(),
            networks.Dense(),
            networks.Activation("relu" | "sigmoid"),
            networks.Dense(),
        ):
            return True
    return False


def _fast_layers(network: Sequence[networks.Layer]) -> int:
    """Return how many layers, from the first on, the blocks and what follows them compute.

    A block is a 3x3 convolution that keeps an even size, a 2x2 pool and ReLU. What is left after
    the blocks goes the fast way if it is all dense layers with ReLU and sigmoid.
    """
    shapes = [before for _, before, _ in networks.with_shapes(network, networks.INPUT)]
    end = 0
    while end + 3 <= len(network) and shapes[end][1] % 2 == 0:
        conv, *others = network[end : end + 3]
        if others != [networks.MaxPool(), networks.Activation("relu")]:
            break
        if not (isinstance(conv, networks.Conv) and conv.is_usual):
            break
        end += 3
    is_fast = end and all(map(_is_fast_dense, network[end:]))
    return len(network) if is_fast else end


def _is_fast_dense(layer: networks.Layer) -> bool:
    if isinstance(layer, networks.Activation):
        return layer.function in ("relu", "sigmoid")
    return isinstance(layer, (networks.Flatten, networks.Dense))


def _mlp(
    hidden: networks.Layer,
    weights: Parameters,
    gradients: Parameters,
    *,
    adds_output_bias: bool,
    small_kernels: bool,
) -> Mlp:
    """Return the fused MLP on these parameters; ``hidden`` is its activation."""
    names = "fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"
    return Mlp(
        [weights[name] for name in names],
        [gradients[name] for name in names],
        Relu() if hidden == networks.Activation("relu") else Sigmoid(),
        adds_output_bias=adds_output_bias,
        small_kernels=small_kernels,
    )


def _layers(
    network: Sequence[networks.Layer], weights: Parameters, gradients: Parameters
) -> list[Layer]:
    """Return the layers on these parameters, in forward order."""
    fast = _fast_layers(network)
    built: list[Layer] = []
    for index, layer in enumerate(network[:fast]):
        arrays = _arrays(layer, weights, gradients)
        match layer:
            case networks.Conv():  # with the pool and ReLU after it
                built.append((WinogradBlock if index else DirectBlock)(*arrays))
            case networks.Flatten():
                built.append(Pixels())
            case networks.Dense():
                is_first = isinstance(built[-1], Pixels)
                built.append((SplitDense if is_first else Dense)(*arrays))
            case networks.Activation() if isinstance(built[-1], (SplitDense, Dense)):
                built.append(Relu() if layer.function == "relu" else Sigmoid())
    if fast < len(network):
        masks = itertools.count()
        built.append(general.ImagesLast(of_blocks=fast > 0))
        has_parameters = fast > 0  # before the layer: else it needs no gradient of its inputs
        for layer in network[fast:]:
            built.append(
                general_layer(layer, weights, gradients, masks, needs_input_gradient=has_parameters)
            )
            has_parameters = has_parameters or bool(layer.parameter_shapes())
        built.append(general.ImagesFirst())
    return built


def _arrays(layer: networks.Layer, *parameters: Parameters | Weights) -> list[Array]:
    """Return weights and biases of a layer, then their gradients."""
    return [each[name] for each in parameters for name in layer.parameter_shapes()]


def general_layer(
    layer: networks.Layer,
    weights: Parameters | Weights,
    gradients: Parameters | Weights,
    masks: Iterator[int],
    *,
    needs_input_gradient: bool,
) -> Layer:
    """Return a layer of `general`; ``masks`` counts the dropouts. Weights are canonical."""
    arrays = _arrays(layer, weights, gradients)
    match layer:
        case networks.Conv():
            return general.Conv(
                *arrays,
                stride=layer.stride,
                margin=layer.margin,
                needs_input_gradient=needs_input_gradient,
            )
        case networks.Dense():
            return general.Dense(*arrays, needs_input_gradient=needs_input_gradient)
        case networks.Activation():
            return general.Activation(layer.function)
        case networks.MaxPool():
            return general.MaxPool(layer.size)
        case networks.AveragePool():
            return general.AveragePool(layer.size)
        case networks.BatchNorm():
            names = list(layer.statistic_shapes())
            statistics, new = ([each[name] for name in names] for each in (weights, gradients))
            return general.BatchNorm(*arrays, statistics=statistics, new_statistics=new)
        case networks.Dropout():
            return general.Dropout(layer.probability, next(masks))
        case networks.Flatten():
            return general.Flatten()
        case networks.Residual():
            body = [
                general_layer(each, weights, gradients, masks, needs_input_gradient=True)
                for each in layer.body
            ]
            return general.Residual(body)


class NumpyClassifier:
    """`base.Classifier` on the processor, with ``threads`` workers."""

    def __init__(self, spec: ModelSpec, config: TrainConfig, threads: int) -> None:
        self.batch_size = config.batch_size
        self._parameter_names = set(networks.parameter_shapes(spec))
        # Each worker has a core of its own; more threads in BLAS would compete with them.
        self._blas = ThreadpoolController().select(user_api="blas")
        built = architecture(spec, small_kernels=has_small_kernels(self._blas.info()))
        if built.most_normalised:  # each worker must have an image, to add to the batch's sums
            threads = min(threads, config.batch_size)
        self.network = Network(
            built,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            label_smoothing=config.label_smoothing,
            reject=config.reject,
            threads=threads,
        )

    def train_epoch(
        self,
        images: Array,
        labels: Array,
        *,
        order: Array,
        learning_rates: Array,
        mask_seeds: Array | None = None,
    ) -> Iterator[Array]:
        """See `base.Classifier.train_epoch`."""
        seeds = np.zeros(len(learning_rates), np.int64) if mask_seeds is None else mask_seeds
        chunks = self.network.train(
            images,
            labels,
            order.reshape(-1, self.batch_size),
            learning_rates=learning_rates.tolist(),
            mask_seeds=seeds,
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
        velocities = self.network.velocities.canonical()
        return {name: velocities[name] for name in velocities if name in self._parameter_names}

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

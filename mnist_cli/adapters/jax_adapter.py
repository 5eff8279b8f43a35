"""JAX: a chunk of steps compiled by XLA, as one `lax.scan`."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mnist_cli.adapters.base import (
    compiled_chunks,
    dropout_masks,
    refuse_mps,
    require_precision,
    smoothed_targets,
)
from mnist_cli.arrays import IMAGE_SIZE, Array, Weights
from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.errors import FrameworkError
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
    dropouts,
    flattened_channels,
    layers,
    parameter_shapes,
)

_PREDICT_BATCH = {"cpu": 250, "gpu": 2_000}  # by platform; smaller batches are filled up
_SPATIAL_LAST = ("NHWC", "OIHW", "NHWC")

Parameters: TypeAlias = dict[str, jax.Array]


@dataclass
class _Pass:
    """What a forward pass needs beside its inputs, and the running statistics that it moves.

    ``weights`` are canonical, but for those of dense layers on flattened feature maps: see
    `JaxClassifier`. ``masks`` are those of each dropout, channels last; None when predicting.
    """

    weights: Parameters
    precision: str
    masks: Iterator[jax.Array] | None = None
    statistics: Parameters = field(default_factory=dict)

    # Full float32 on a GPU too: by default XLA takes TF32 there.
    @property
    def dtype(self) -> Any:
        return jnp.bfloat16 if self.precision == "bfloat16" else jnp.float32

    @property
    def products(self) -> str:
        precisions = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "default"}
        return precisions[self.precision]

    def of(self, layer: Conv | Dense) -> Iterator[jax.Array]:
        """Yield the weight and the bias of a layer."""
        names = (f"{layer.name}.weight", f"{layer.name}.bias")
        return (self.weights[name].astype(self.dtype) for name in names)


def _logits(network: Sequence[Layer], images: jax.Array, run: _Pass) -> jax.Array:
    """Return logits (N, classes), float32, for images (N, 28, 28, 1)."""
    return _outputs(network, images.astype(run.dtype), run).astype(jnp.float32)


def _outputs(network: Sequence[Layer], hidden: jax.Array, run: _Pass) -> jax.Array:
    """Return the outputs of layers for inputs (N, h, w, channels) or (N, features)."""
    for layer in network:
        match layer:
            case Conv():
                kernel, bias = run.of(layer)
                hidden = _convolve(hidden, kernel, layer, run.products) + bias
            case Dense():
                weight, bias = run.of(layer)
                hidden = jnp.dot(hidden, weight.T, precision=run.products) + bias
            case Activation():
                hidden = getattr(jax.nn, layer.function)(hidden)
            case MaxPool():
                hidden = _max_pool(hidden, layer.size)
            case AveragePool():
                hidden = _windows(hidden, layer.size).mean(axis=(2, 4))
            case BatchNorm():
                hidden = _normalized(hidden, layer, run)
            case Dropout():
                if run.masks is not None:
                    scale = jnp.asarray(1 / (1 - layer.probability), hidden.dtype)
                    hidden = hidden * next(run.masks).astype(hidden.dtype) * scale
            case Flatten():
                hidden = hidden.reshape(len(hidden), -1)
            case Residual():
                hidden = hidden + _outputs(layer.body, hidden, run)
    return hidden


def _normalized(inputs: jax.Array, layer: BatchNorm, run: _Pass) -> jax.Array:
    """Return `spec.BatchNorm` of inputs whose last axis is that of the channels, in float32."""
    hidden = inputs.astype(jnp.float32)
    weight, bias, mean, variance = (
        run.weights[f"{layer.name}.{kind}"]
        for kind in ("weight", "bias", "running_mean", "running_var")
    )
    if run.masks is not None:
        axes = tuple(range(hidden.ndim - 1))
        count = hidden.size // hidden.shape[-1]
        batch_mean, batch_variance = hidden.mean(axis=axes), hidden.var(axis=axes)
        unbiased = batch_variance * (count / (count - 1))
        for kind, running, newest in (
            ("running_mean", mean, batch_mean),
            ("running_var", variance, unbiased),
        ):
            moved = running + STATISTICS_MOMENTUM * (newest - running)
            run.statistics[f"{layer.name}.{kind}"] = lax.stop_gradient(moved)
        mean, variance = batch_mean, batch_variance
    scaled = (hidden - mean) * (lax.rsqrt(variance + EPSILON) * weight) + bias
    return scaled.astype(inputs.dtype)


def _convolve(maps: jax.Array, kernel: jax.Array, layer: Conv, precision: str) -> jax.Array:
    """Return the convolution of (N, h, w, in) by (out, in, k, k): (N, h, w, out)."""
    is_usual = layer.stride == 1 and layer.padding == "same"
    if jax.default_backend() == "cpu" and is_usual:
        return _convolve_on_cpu(maps, kernel.transpose(2, 3, 1, 0))
    return lax.conv_general_dilated(
        maps,
        kernel,
        (layer.stride, layer.stride),
        [(layer.margin, layer.margin)] * 2,
        dimension_numbers=_SPATIAL_LAST,
        precision=precision,
    )


@jax.custom_vjp
def _convolve_on_cpu(maps: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return `_convolve` with stride 1 and padding "same" by a kernel (k, k, in, out).

    Within loops XLA has a fast convolution on a CPU for these layouts only, and does not bring the
    gradients' convolutions into them, as it does elsewhere: 20 times the time of a step.
    """
    return lax.conv_general_dilated(
        maps, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _convolve_forward(maps: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Any]:
    return _convolve_on_cpu(maps, kernel), (maps, kernel)


def _convolve_backward(saved: Any, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    maps, kernel = saved
    by_kernel = lax.conv_general_dilated(
        maps.transpose(3, 1, 2, 0),  # a channel as an image, an image as a channel
        gradient.transpose(1, 2, 0, 3),
        (1, 1),
        [(size // 2, size // 2) for size in kernel.shape[:2]],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    by_maps = _convolve_on_cpu(gradient, kernel[::-1, ::-1].swapaxes(2, 3))
    return by_maps, by_kernel.transpose(1, 2, 0, 3)


_convolve_on_cpu.defvjp(_convolve_forward, _convolve_backward)


def _windows(maps: jax.Array, size: int) -> jax.Array:
    """Return (N, h, w, channels) as (N, rows, size, columns, size, channels), without the rest."""
    count, height, width, channels = maps.shape
    rows, columns = height // size, width // size
    whole = maps[:, : size * rows, : size * columns]
    return whole.reshape(count, rows, size, columns, size, channels)


def _max_pool(maps: jax.Array, size: int = 2) -> jax.Array:
    """Return the maximum over windows; the gradient goes to the first of equals.

    By selections rather than `lax.reduce_window`, whose gradient is several times as slow.
    """
    windows = _windows(maps, size)

    def larger(one: jax.Array, other: jax.Array) -> jax.Array:
        return jnp.where(other > one, other, one)

    rows = [
        functools.reduce(larger, (windows[:, :, row, :, column] for column in range(size)))
        for row in range(size)
    ]
    return functools.reduce(larger, rows)


class JaxClassifier:
    """`base.Classifier` in JAX.

    Feature maps are flattened row, column, channel here, without a transposition, and the weights
    of the dense layers behind them are held in that order.
    """

    def __init__(self, spec: ModelSpec, config: TrainConfig, device: jax.Device) -> None:
        self.batch_size = config.batch_size
        self.spec, self.network = spec, layers(spec)
        self.channels = flattened_channels(spec)
        self.predict_batch = _PREDICT_BATCH.get(device.platform, _PREDICT_BATCH["gpu"])
        self.weights: Parameters = {}
        self.statistics: Parameters = {}  # of batch norms
        self.velocities: Parameters = {
            name: jnp.zeros(shape) for name, shape in parameter_shapes(spec).items()
        }
        self._resident: tuple[Array, jax.Array] | None = None
        self._train = self._compile_chunk(config)
        self._predict = jax.jit(
            lambda weights, images: _logits(self.network, images, _Pass(weights, "float32"))
        )

    def _compile_chunk(self, config: TrainConfig) -> Any:
        """Return (state, images, labels, (order, rates, masks)) -> (state, losses).

        The state is weights, velocities and statistics; images (N, 28, 28, 1), labels (N,), order
        (n, batch), rates (n,), a mask (n, batch, ...) for each dropout; losses (n,). The state's
        memory is used again for the new state.
        """
        smoothed = jnp.asarray(smoothed_targets(config, self.spec.classes))

        def mean_losses(
            weights: Parameters, statistics: Parameters, images: Any, labels: Any, masks: Any
        ) -> tuple[jax.Array, tuple[jax.Array, Parameters]]:
            """Return the loss with label smoothing; that without, and the new statistics."""
            run = _Pass(weights | statistics, config.precision, iter(masks))
            logits = _logits(self.network, images, run)
            if config.reject:
                logits = jnp.pad(logits, ((0, 0), (0, 1)))  # the logit of "no digit" is 0
            log_probabilities = jax.nn.log_softmax(logits)
            loss = -jnp.take_along_axis(log_probabilities, labels[:, np.newaxis], axis=1).mean()
            smooth_loss = -(smoothed[labels] * log_probabilities).sum(axis=1).mean()
            return smooth_loss, (loss, run.statistics)

        def chunk(state: Any, images: jax.Array, labels: jax.Array, steps: Any) -> Any:
            def take_step(state: Any, step: Any) -> tuple[Any, jax.Array]:
                weights, velocities, statistics = state
                indices, rate, masks = step
                gradients, (loss, statistics) = jax.grad(mean_losses, has_aux=True)(
                    weights, statistics, images[indices], labels[indices], masks
                )
                for name, weight in weights.items():
                    if name.endswith(".weight"):
                        gradients[name] += config.weight_decay * weight
                velocities = {
                    name: config.momentum * velocity + gradients[name]
                    for name, velocity in velocities.items()
                }
                weights = {
                    name: weight - rate * (gradients[name] + config.momentum * velocities[name])
                    for name, weight in weights.items()
                }
                return (weights, velocities, statistics), loss

            return lax.scan(take_step, state, steps)

        return jax.jit(chunk, donate_argnums=0)

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
        inputs, targets = self._on_device(images), jnp.asarray(labels)
        batches = order.reshape(-1, self.batch_size)
        for calls in compiled_chunks(len(learning_rates)):
            losses = []
            for steps in calls:
                state = (self.weights, self.velocities, self.statistics)
                state, some = self._train(
                    state,
                    inputs,
                    targets,
                    (batches[steps], learning_rates[steps], self._masks(seeds[steps])),
                )
                self.weights, self.velocities, self.statistics = state
                losses.append(some)
            yield np.concatenate(losses)

    def _masks(self, seeds: Array) -> tuple[Array, ...]:
        """Return the `dropout_masks` of steps, (n, batch, ...) for each dropout, channels last."""
        if not dropouts(self.spec):
            return ()
        steps = [dropout_masks(self.spec, int(seed), self.batch_size) for seed in seeds]
        return tuple(np.moveaxis(np.stack(masks), 2, -1) for masks in zip(*steps, strict=True))

    def _on_device(self, images: Array) -> jax.Array:
        """Return images as (N, 28, 28, 1) on the device, copied only when the array changes."""
        if self._resident is None or self._resident[0] is not images:
            self._resident = (images, jnp.asarray(images[..., np.newaxis]))
        return self._resident[1]

    def predict_logits(self, images: Array) -> Array:
        """See `base.Classifier.predict_logits`."""
        logits = np.empty((len(images), self.spec.classes), dtype=np.float32)
        for start in range(0, len(images), self.predict_batch):
            some = images[start : start + self.predict_batch]
            batch = np.zeros((self.predict_batch, IMAGE_SIZE, IMAGE_SIZE, 1), dtype=np.float32)
            batch[: len(some), ..., 0] = some
            logits[start : start + len(some)] = self._predict(
                self.weights | self.statistics, batch
            )[: len(some)]
        return logits

    def export_weights(self) -> Weights:
        """See `base.Classifier.export_weights`."""
        return self._export(self.weights | self.statistics)

    def import_weights(self, weights: Weights) -> None:
        """See `base.Classifier.import_weights`."""
        arrays = self._import(weights)
        names = parameter_shapes(self.spec)
        self.weights = {name: arrays[name] for name in names}
        self.statistics = {name: arrays[name] for name in arrays if name not in names}

    def export_optimizer(self) -> Weights:
        """See `base.Classifier.export_optimizer`."""
        return self._export(self.velocities)

    def import_optimizer(self, velocities: Weights) -> None:
        """See `base.Classifier.import_optimizer`."""
        self.velocities = self._import(velocities)

    def _export(self, parameters: Parameters) -> Weights:
        arrays = {name: np.asarray(array) for name, array in parameters.items()}
        return {
            name: _swapped(array, array.shape[-1] // self.channels.get(name, 1))
            for name, array in arrays.items()
        }

    def _import(self, weights: Weights) -> Parameters:
        # A copy: memory that JAX may use again must not be the caller's.
        return {
            name: jnp.array(_swapped(array, self.channels.get(name, 1)), copy=True)
            for name, array in weights.items()
        }

    def synchronize(self) -> None:
        """See `base.Classifier.synchronize`: reading a chunk's losses has already waited."""


def _swapped(weight: Array, groups: int) -> Array:
    """Return a copy of a dense weight whose inputs, ``groups`` times k, are k times ``groups``."""
    swapped = weight
    if weight.ndim == 2:
        swapped = weight.reshape(len(weight), groups, -1).swapaxes(1, 2).reshape(weight.shape)
    return np.array(swapped, order="C")


class JaxAdapter:
    """JAX as one of the frameworks."""

    name = "jax"
    _threads = 0

    def build(
        self, spec: ModelSpec, config: TrainConfig, *, device: str, threads: int
    ) -> JaxClassifier:
        """See `base.Adapter.build`. The first build in a process decides threads and platform."""
        refuse_mps(self.name, device)
        self._threads = self._threads or threads
        os.environ["NPROC"] = str(self._threads)  # XLA reads it when it starts
        # Else the last line of what a crash prints, which is shown, is about tracebacks.
        jax.config.update("jax_traceback_filtering", "off")  # type: ignore[no-untyped-call]
        if device == "cpu":
            # Else a GPU's memory is taken too.
            jax.config.update("jax_platforms", "cpu")  # type: ignore[no-untyped-call]
        try:
            self._device = jax.devices(None if device == "auto" else device)[0]
        except RuntimeError as error:
            raise FrameworkError(
                f"JAX sees no {device} device. Use --device cpu, or install jax[cuda13]."
            ) from error
        on_cpu = self._device.platform == "cpu"
        require_precision(self.name, config, "cpu" if on_cpu else "cuda")
        return JaxClassifier(spec, config, self._device)

    def environment(self) -> dict[str, Any]:
        """See `base.Adapter.environment`."""
        on_cpu = self._device.platform == "cpu"
        return {
            "jax": jax.__version__,
            "device": "cpu" if on_cpu else self._device.device_kind,
            "blas": "XLA, Eigen" if on_cpu else "XLA, cuDNN",
            "framework_threads": self._threads,
        }


adapter = JaxAdapter()

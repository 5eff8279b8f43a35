"""TensorFlow: a `keras.Model`, trained a chunk of steps at a time inside one `tf.function`.

On a GPU XLA compiles it.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np

from mnist_cli.adapters.base import (
    STEPS_PER_CHUNK,
    compiled_chunks,
    dropout_masks,
    refuse_mps,
    require_precision,
    smoothed_targets,
)
from mnist_cli.adapters.tensorflow_network import SeededDropout, build_model, keras, tf
from mnist_cli.arrays import IMAGE_SIZE, Array, Weights
from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.errors import FrameworkError
from mnist_cli.networks.spec import (
    BatchNorm,
    Conv,
    dropouts,
    flattened_channels,
    parameter_layers,
)

_PREDICT_BATCH = 250  # a larger one takes more memory and saves little time
# On a CPU a batch is split, one split per thread: threads then synchronise once per step instead of
# at every operation. Splits of fewer images than these, of a network with convolutions and of one
# without, cost more than they save.
_MIN_SPLIT_IMAGES = {True: 8, False: 128}


def to_keras(weight: Array, channels: int) -> Array:
    """Return a canonical weight in Keras' layout; `from_keras` is its inverse.

    Convolutions go from (out, in, h, w) to (h, w, in, out), dense layers from (out, in) to
    (in, out). ``channels`` is above 1 for a dense layer fed by flattened feature maps:
    Keras flattens row, column, channel where the canonical order is channel, row, column.
    """
    if weight.ndim == 4:
        weight = weight.transpose(2, 3, 1, 0)
    elif weight.ndim == 2 and channels > 1:
        side = int((weight.shape[1] // channels) ** 0.5)
        maps = weight.reshape(-1, channels, side, side)  # (out, c, h, w)
        weight = maps.transpose(2, 3, 1, 0).reshape(-1, weight.shape[0])  # (h * w * c, out)
    elif weight.ndim == 2:
        weight = weight.T
    return np.ascontiguousarray(weight)


def from_keras(weight: Array, channels: int) -> Array:
    """Return a Keras weight in the canonical layout, C-contiguous; see `to_keras`."""
    if weight.ndim == 4:
        weight = weight.transpose(3, 2, 0, 1)
    elif weight.ndim == 2 and channels > 1:
        side = int((weight.shape[0] // channels) ** 0.5)
        maps = weight.reshape(side, side, channels, -1)  # (h, w, c, out)
        weight = maps.transpose(3, 2, 0, 1).reshape(maps.shape[-1], -1)  # (out, c * h * w)
    elif weight.ndim == 2:
        weight = weight.T
    return np.array(weight, dtype=np.float32, order="C")


class TensorFlowClassifier:
    """`base.Classifier` in TensorFlow; Keras holds the weights, this class the velocities.

    Keras' own SGD folds the learning rate into the velocity, which under a schedule is a different
    optimiser from the contract's; TensorFlow's momentum kernel does not.

    Each batch is computed in ``splits`` of its images, in parallel; as many threads predict. With
    ``use_xla`` XLA compiles the steps, unless it cannot.
    """

    def __init__(
        self, spec: ModelSpec, config: TrainConfig, *, splits: int, use_xla: bool = False
    ) -> None:
        self.note = ""
        self.splits = splits
        self.use_xla = use_xla
        self.precision = config.precision
        self.label_smoothing = config.label_smoothing
        targets = smoothed_targets(config, spec.classes)
        self.reject_targets = tf.constant(targets) if config.reject else None
        self.batch_size = config.batch_size
        self.model = build_model(spec, config.precision)
        self.spec, self.channels = spec, flattened_channels(spec)
        self.dropouts = [each for each in self.model.layers if isinstance(each, SeededDropout)]
        if self.use_xla and self.dropouts:  # masks are drawn in Python, which XLA cannot compile
            self.use_xla = False
            self.note = "TensorFlow trains without XLA: dropout draws a mask for each step."
        # name -> variable, e.g. conv1.weight -> conv1/kernel
        self.variables = {
            f"{layer.name}.{kind}": variable
            for layer in parameter_layers(spec)
            for kind, variable in zip(
                ("weight", "bias"),
                self.model.get_layer(layer.name).trainable_variables,
                strict=True,
            )
        }
        self.statistics = {
            f"{layer.name}.{kind}": variable
            for layer in parameter_layers(spec)
            for kind, variable in zip(
                ("running_mean", "running_var"),
                self.model.get_layer(layer.name).non_trainable_variables,
                strict=False,  # most have none
            )
        }
        self.velocities = {
            name: tf.Variable(tf.zeros(variable.shape)) for name, variable in self.variables.items()
        }
        self._resident: tuple[Array, Any] | None = None
        self._is_compiled = False  # the prediction
        self._train_chunk = self._compile_chunk(config)
        self._train_chunk_in_xla = self._compile_chunk(config, jit_compile=True)
        # Predictions are computed in float32, whatever the training precision.
        is_mixed = config.precision == "bfloat16"
        self._predicting_model = build_model(spec) if is_mixed else self.model
        self._predict = tf.function(
            lambda images: self._predicting_model(images, training=False),
            input_signature=[tf.TensorSpec((None, IMAGE_SIZE, IMAGE_SIZE, 1), tf.float32)],
            autograph=False,
        )

    def _gradients(self, images: Any, labels: Any) -> tuple[list[Any], Any]:
        """Return gradients and losses of one split of a batch.

        images (n, 28, 28, 1), float32; labels (n,), int64. The gradients are float32, shaped as the
        weights, of the sum of the split's smoothed losses over ``batch_size``: those of all splits
        add up to the batch's. The losses (n,), float32, are without smoothing.
        """
        if self.reject_targets is None:
            classes = self.spec.classes
            wrong = self.label_smoothing / classes  # target of a class that is not the label
            smoothed = tf.one_hot(labels, classes, 1 - self.label_smoothing + wrong, wrong)
        else:
            smoothed = tf.gather(self.reject_targets, labels)
        with tf.GradientTape() as tape:
            logits = self.model(images, training=True)
            if self.reject_targets is not None:
                logits = tf.pad(logits, [[0, 0], [0, 1]])  # the logit of "no digit" is 0
            smoothed_losses = tf.nn.softmax_cross_entropy_with_logits(
                labels=smoothed, logits=logits
            )
            mean_loss = tf.reduce_sum(smoothed_losses) / self.batch_size
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
        return tape.gradient(mean_loss, list(self.variables.values())), losses

    def _update(self, gradients: list[Any], learning_rate: Any, config: TrainConfig) -> None:
        for (name, weight), gradient in zip(self.variables.items(), gradients, strict=True):
            if name.endswith(".weight"):
                gradient = gradient + config.weight_decay * weight
            # One pass over velocity and weight, in the form that the contract asks for.
            tf.raw_ops.ResourceApplyMomentum(
                var=weight.value.handle,
                accum=self.velocities[name].handle,
                lr=learning_rate,
                grad=gradient,
                momentum=config.momentum,
                use_nesterov=True,
            )

    def _compile_chunk(self, config: TrainConfig, *, jit_compile: bool | None = None) -> Any:
        """Return a compiled (images, labels, order (n, batch), learning_rates (n,)) -> losses."""
        # Sizes of the splits, as even as possible.
        sizes = [len(part) for part in np.array_split(range(self.batch_size), self.splits)]

        def step(images: Any, labels: Any, batch: Any, learning_rate: Any, seed: Any) -> Any:
            masks = [tf.split(mask, sizes) for mask in self._masks(seed)]
            results = []
            for number, split in enumerate(tf.split(batch, sizes)):
                for dropout, mask in zip(self.dropouts, masks, strict=True):
                    dropout.kept = mask[number]  # for the graph that is being traced
                results.append(self._gradients(tf.gather(images, split), tf.gather(labels, split)))
            gradients, losses = zip(*results, strict=True)
            total = [tf.add_n(terms) for terms in zip(*gradients, strict=True)]
            self._update(total, learning_rate, config)
            return tf.reduce_mean(tf.concat(losses, 0))

        # One graph for a whole chunk: a call from Python per step costs an MLP more than the step.
        # With fixed shapes and an explicit loop it is traced once, and AutoGraph is not needed.
        @tf.function(  # type: ignore[untyped-decorator]  # no types in TensorFlow
            input_signature=[
                tf.TensorSpec((None, IMAGE_SIZE, IMAGE_SIZE, 1), tf.float32),
                tf.TensorSpec((None,), tf.int64),
                tf.TensorSpec((None, self.batch_size), tf.int64),
                tf.TensorSpec((None,), tf.float32),
                tf.TensorSpec((None,), tf.int64),
            ],
            autograph=False,
            jit_compile=jit_compile,
        )
        def chunk(images: Any, labels: Any, order: Any, learning_rates: Any, seeds: Any) -> Any:
            steps = tf.shape(learning_rates)[0]

            def take_step(index: Any, losses: Any) -> Any:
                rate, seed = learning_rates[index], seeds[index]
                loss = step(images, labels, order[index], rate, seed)
                return index + 1, losses.write(index, loss)

            _, losses = tf.while_loop(
                lambda index, _: index < steps,
                take_step,
                (tf.constant(0), tf.TensorArray(tf.float32, steps)),
            )
            return losses.stack()

        return chunk

    def _masks(self, seed: Any) -> list[Any]:
        """Return the `dropout_masks` of a step, drawn when the graph runs, channels last."""
        if not self.dropouts:
            return []

        def draw(number: Any) -> list[Array]:
            masks = dropout_masks(self.spec, int(number), self.batch_size)
            return [np.moveaxis(mask, 1, -1) for mask in masks]

        masks = tf.numpy_function(draw, [seed], [tf.bool] * len(self.dropouts))
        for mask, (_, (first, *others)) in zip(masks, dropouts(self.spec), strict=True):
            mask.set_shape((self.batch_size, *others, first))
        return list(masks)

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
        inputs, targets = self._on_device(images), tf.constant(labels)
        batches = order.reshape(-1, self.batch_size)
        for calls in self._calls(len(learning_rates)):
            losses = [
                self._take_steps(
                    inputs,
                    targets,
                    tf.constant(batches[steps]),
                    tf.constant(learning_rates[steps]),
                    tf.constant(seeds[steps]),
                )
                for steps in calls
            ]
            yield np.concatenate(losses)

    def _calls(self, steps: int) -> Iterator[list[slice]]:
        """Yield the steps of each chunk, as `compiled_chunks` does if XLA compiles them."""
        if self.use_xla:
            yield from compiled_chunks(steps)
        else:
            for start in range(0, steps, STEPS_PER_CHUNK):
                yield [slice(start, start + STEPS_PER_CHUNK)]

    def _take_steps(self, *arguments: Any) -> Array:
        """Take steps on the arguments of `_compile_chunk` and return their losses (n,)."""
        with _tf32(self.precision == "tf32"):
            if self.use_xla:
                try:
                    return np.asarray(self._train_chunk_in_xla(*arguments))
                except tf.errors.OpError as error:  # before any variable is changed
                    self.use_xla = False
                    reason = str(error.message).partition("\n")[0]
                    self.note = f"TensorFlow trains without XLA, which failed ({reason})."
            return np.asarray(self._train_chunk(*arguments))

    def _on_device(self, images: Array) -> Any:
        """Return images as (N, 28, 28, 1) on the device, copied only when the array changes."""
        if self._resident is None or self._resident[0] is not images:
            self._resident = (images, tf.constant(images[..., np.newaxis]))
        return self._resident[1]

    def predict_logits(self, images: Array) -> Array:
        """See `base.Classifier.predict_logits`."""
        if self._predicting_model is not self.model:
            self._predicting_model.set_weights(self.model.get_weights())
        logits = np.empty((len(images), self.spec.classes), dtype=np.float32)

        def predict(start: int) -> None:
            batch = slice(start, start + _PREDICT_BATCH)
            logits[batch] = self._predict(tf.constant(images[batch, ..., np.newaxis])).numpy()

        # The first call compiles: two threads that begin it at once crash TensorFlow now and then.
        starts = range(0, len(images), _PREDICT_BATCH)
        if starts and not self._is_compiled:
            predict(0)
            self._is_compiled, starts = True, starts[1:]
        with ThreadPoolExecutor(self.splits) as pool:
            list(pool.map(predict, starts))
        return logits

    def export_weights(self) -> Weights:
        """See `base.Classifier.export_weights`."""
        return self._export(self.variables | self.statistics)

    def import_weights(self, weights: Weights) -> None:
        """See `base.Classifier.import_weights`."""
        self._import(self.variables | self.statistics, weights)

    def export_optimizer(self) -> Weights:
        """See `base.Classifier.export_optimizer`."""
        return self._export(self.velocities)

    def import_optimizer(self, velocities: Weights) -> None:
        """See `base.Classifier.import_optimizer`."""
        self._import(self.velocities, velocities)

    def _export(self, variables: dict[str, Any]) -> Weights:
        return {
            name: from_keras(variable.numpy(), self._channels_into(name))
            for name, variable in variables.items()
        }

    def _import(self, variables: dict[str, Any], weights: Weights) -> None:
        for name, variable in variables.items():
            variable.assign(to_keras(weights[name], self._channels_into(name)))

    def _channels_into(self, name: str) -> int:
        return self.channels.get(name, 1)

    def synchronize(self) -> None:
        """See `base.Classifier.synchronize`: reading a chunk's losses has already waited."""


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Allow TF32 on a GPU meanwhile, or full float32 alone."""
    tf.config.experimental.enable_tensor_float_32_execution(allowed)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(False)


class TensorFlowAdapter:
    """TensorFlow as one of the frameworks."""

    name = "tensorflow"

    def build(
        self, spec: ModelSpec, config: TrainConfig, *, device: str, threads: int
    ) -> TensorFlowClassifier:
        """See `base.Adapter.build`. The first build in a process decides threads and device."""
        refuse_mps(self.name, device)
        gpus = tf.config.list_physical_devices("GPU")
        if device == "cuda" and not gpus:
            raise FrameworkError(
                "TensorFlow sees no CUDA device. Use --device cpu, or install tensorflow[and-cuda]."
            )
        if device == "cpu":
            tf.config.set_visible_devices([], "GPU")
        self._device = "cpu" if device == "cpu" or not gpus else gpus[0].name
        # Full float32 on a GPU too: defaults for TF32 differ between frameworks.
        tf.config.experimental.enable_tensor_float_32_execution(False)
        on_cpu = self._device == "cpu"
        require_precision(self.name, config, "cpu" if on_cpu else "cuda")
        splits, threads_per_operation = 1, threads
        kinds = {type(layer) for layer in parameter_layers(spec)}
        if on_cpu and BatchNorm not in kinds:  # which needs the whole batch
            least = _MIN_SPLIT_IMAGES[Conv in kinds]
            splits = threads = max(1, min(threads, config.batch_size // least))
            threads_per_operation = 1
        if tf.config.threading.get_intra_op_parallelism_threads() == 0:  # not set yet
            tf.config.threading.set_intra_op_parallelism_threads(threads_per_operation)
            tf.config.threading.set_inter_op_parallelism_threads(threads)
        return TensorFlowClassifier(spec, config, splits=splits, use_xla=not on_cpu)

    def environment(self) -> dict[str, Any]:
        """See `base.Adapter.environment`."""
        return {
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "device": self._device,
            "blas": "oneDNN, Eigen" if self._device == "cpu" else "cuDNN",
            "framework_threads": tf.config.threading.get_inter_op_parallelism_threads(),
        }


adapter = TensorFlowAdapter()

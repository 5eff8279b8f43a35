"""The controlled recipe: everything random or scheduled, computed once for all frameworks."""

from __future__ import annotations

import numpy as np

from mnist_cli.arrays import Array, Weights
from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.errors import UsageError
from mnist_cli.networks.spec import initial_weights
from mnist_cli.randomness import stream

# Mean and standard deviation of MNIST's training pixels on a 0-1 scale. They are used for every
# data set, and checkpoints record them.
PIXEL_MEAN = 0.1307
PIXEL_STD = 0.3081


def normalize(images: Array, *, mean: float = PIXEL_MEAN, std: float = PIXEL_STD) -> Array:
    """Return images (N, 28, 28), uint8 0-255, as float32 (pixel / 255 - mean) / std."""
    scaled = images.astype(np.float32)
    scaled *= np.float32(1 / (255 * std))
    scaled -= np.float32(mean / std)
    return scaled


def starting_weights(spec: ModelSpec, seed: int) -> Weights:
    """Return the canonical weights that a run with this seed starts from, in any framework."""
    return initial_weights(spec, stream(seed, "weights"))


def epoch_order(config: TrainConfig, *, epoch: int, count: int) -> Array:
    """Return the training indices of one epoch, int64, a whole number of batches.

    A seeded permutation of ``range(count)`` without the last, incomplete batch (different images
    each epoch), so that every step has the same shape in every framework.
    """
    order = stream(config.seed, "order", epoch).permutation(count)
    # With NumPy 1 on Windows a permutation has 32-bit integers.
    return order[: steps_per_epoch(config, count) * config.batch_size].astype(np.int64, copy=False)


def mask_seeds(config: TrainConfig, *, epoch: int, steps: int) -> Array:
    """Return the seeds of the dropout masks of an epoch's steps: (steps,), int64."""
    return stream(config.seed, "dropout", epoch).integers(0, 2**63, steps, dtype=np.int64)


def steps_per_epoch(config: TrainConfig, count: int) -> int:
    """Return the number of whole batches in ``count`` images."""
    return count // config.batch_size


def require_batch(config: TrainConfig, count: int) -> None:
    """Raise `UsageError` unless ``count`` images make at least one batch."""
    if config.batch_size > count:
        raise UsageError(
            f"batch size must be at most the {count} training images, not {config.batch_size}. "
            "Choose a smaller one, or train on more images."
        )


def learning_rates(config: TrainConfig, total_steps: int) -> Array:
    """Return the learning rate of every step of the run, (total_steps,), float32.

    One cycle (Smith and Topin, 2017, arXiv:1708.07120): linear from near 0 to the peak over the
    first ``warmup_fraction`` of the steps, then half a cosine down to 0, to the power
    ``decay_power``.
    """
    warmup_steps = max(1, round(config.warmup_fraction * total_steps))
    step = np.arange(total_steps)
    rising = (step + 1) / warmup_steps
    share = (step - warmup_steps + 1) / (total_steps - warmup_steps + 1)  # of the way down
    falling = ((1 + np.cos(np.pi * share)) / 2) ** config.decay_power
    return (config.learning_rate * np.where(step < warmup_steps, rising, falling)).astype(
        np.float32
    )

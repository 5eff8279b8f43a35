"""Stochastic gradient descent with Nesterov momentum."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mnist_cli.arrays import Array


def nesterov_step(
    weights: Array,
    velocities: Array,
    gradients: Sequence[Array],
    *,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
) -> None:
    """Take one step: change ``weights`` and ``velocities`` (both (n,)) in place.

        g = sum of ``gradients`` + weight_decay * w
        v = momentum * v + g
        w = w - learning_rate * (g + momentum * v)

    Nesterov's momentum in PyTorch's form: the step looks ahead along the new velocity, and the
    velocity does not include the learning rate. ``gradients`` are those of each replica's images,
    added in the order given, so that rounding is the same in every run.

    This is the plain form; training multiplies by `step_matrices`.
    """
    step = weights * weight_decay
    for gradient in gradients:
        step += gradient
    velocities *= momentum
    velocities += step
    step += momentum * velocities
    step *= learning_rate
    weights -= step


def step_matrices(
    learning_rates: Array, *, replicas: int, momentum: float, weight_decays: Sequence[float]
) -> Array:
    """Return the step as a matrix (2, 2 + replicas): (steps, decays, 2, 2 + replicas).

    There is one for each of ``learning_rates`` (steps,) and of ``weight_decays``. Its rows give the
    new velocity and the new weight as linear combinations of velocity, weight and the gradient of
    each replica: `nesterov_step` is linear in them. ``after[:2] = matrix @ before`` passes over
    memory once, where `nesterov_step` does some ten times.
    """
    velocity = np.ones((len(weight_decays), 2 + replicas))
    velocity[:, 0] = momentum
    velocity[:, 1] = weight_decays
    # w - learning_rate * (g + momentum * v), with g = v - momentum * (old velocity)
    step = -(1 + momentum) * velocity
    step[:, 0] = -momentum * momentum
    matrices = np.empty((len(learning_rates), len(velocity), 2, 2 + replicas))
    matrices[:, :, 0] = velocity
    np.multiply.outer(learning_rates, step, out=matrices[:, :, 1])
    matrices[:, :, 1, 1] += 1
    return matrices


def statistics_matrices(steps: int, *, replicas: int, momentum: float) -> Array:
    """Return matrices like `step_matrices`, without decays, that move running statistics.

    The new statistic is (1 - momentum) times the old one plus momentum times that of the batch,
    which stands in the gradients' place. There is no velocity.
    """
    matrices = np.zeros((steps, 2, 2 + replicas))
    matrices[:, 1, 1] = 1 - momentum
    matrices[:, 1, 2:] = momentum
    return matrices

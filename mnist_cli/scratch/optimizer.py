"""Stochastic gradient descent with Nesterov momentum, in place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mnist_cli.architectures import Array
from mnist_cli.scratch.layers import Buffers, pieces

# Numbers that `nesterov_step_by_product` changes at a time: what it works out stays in the cache.
CHUNK = 65_536


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
    velocity does not contain the learning rate. ``gradients`` are the shares of the batch, added
    in the order given, so that the rounding is the same on every run.

    This is the plain statement; training takes `nesterov_step_by_product`.
    """
    step = weights * weight_decay
    for gradient in gradients:
        step += gradient
    velocities *= momentum
    velocities += step
    step += momentum * velocities
    step *= learning_rate
    weights -= step


def nesterov_step_by_product(
    state: Array,
    buffers: Buffers,
    *,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
) -> None:
    """Take the step of `nesterov_step` on ``state`` (2 + shares, n), in place.

    Its rows are the velocities, the weights, and each share's gradients. The step is linear in
    them: the new velocities and what to take off the weights are two rows of numbers times these
    rows. As a matrix product that is one pass over the memory in place of some ten.
    """
    shares, count = len(state) - 2, state.shape[1]
    velocity = [momentum, weight_decay, *[1.0] * shares]
    # learning_rate * (g + momentum * v), with g = v - momentum * (the velocities before)
    step = [learning_rate * (1 + momentum) * factor for factor in velocity]
    step[0] = learning_rate * momentum * momentum
    matrix = np.array([velocity, step], dtype=state.dtype)
    for piece in pieces(count, CHUNK):
        part = state[:, piece]
        changes = buffers("changes", (2, part.shape[1]), state.dtype)
        np.matmul(matrix, part, out=changes)
        part[0] = changes[0]
        part[1] -= changes[1]

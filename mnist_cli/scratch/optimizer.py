"""Stochastic gradient descent with Nesterov momentum."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mnist_cli.architectures import Array
from mnist_cli.scratch.layers import pieces

# Numbers that `nesterov_step_by_product` multiplies at a time: few enough for OpenBLAS's quick ways
# with small matrices, of up to a million multiplications.
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
    before: Array,
    after: Array,
    *,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
) -> None:
    """Take the step of `nesterov_step` from ``before`` to ``after``, both (2 + shares, n).

    Their rows are the velocities, the weights, and each share's gradients; ``after`` gets new
    velocities and weights. Both are linear in the rows before: as one matrix product it is one pass
    over the memory in place of some ten.
    """
    shares = len(before) - 2
    velocity = [momentum, weight_decay, *[1.0] * shares]
    # w - learning_rate * (g + momentum * v), with g = v - momentum * (the velocities before)
    weight = [-learning_rate * (1 + momentum) * factor for factor in velocity]
    weight[0] = -learning_rate * momentum * momentum
    weight[1] += 1
    matrix = np.array([velocity, weight], dtype=before.dtype)
    for piece in pieces(before.shape[1], CHUNK):
        np.matmul(matrix, before[:, piece], out=after[:2, piece])

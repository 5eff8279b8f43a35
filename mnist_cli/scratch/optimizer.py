"""Stochastic gradient descent with Nesterov momentum, in place."""

from __future__ import annotations

from collections.abc import Sequence

from mnist_cli.architectures import Array


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
    """
    step = weights * weight_decay
    for gradient in gradients:
        step += gradient
    velocities *= momentum
    velocities += step
    step += momentum * velocities
    step *= learning_rate
    weights -= step

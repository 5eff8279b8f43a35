"""Layers and loss: what they compute, and that they do not overflow."""

from __future__ import annotations

import numpy as np
import pytest

from mnist_cli.scratch.layers import PHASES, Conv, Sigmoid
from mnist_cli.scratch.loss import cross_entropy, cross_entropy_gradient


def test_convolution_is_the_sum_that_its_docstring_states():
    rng = np.random.default_rng(2)
    count, height, width, channels, filters = 2, 4, 6, 3, 5
    images = rng.standard_normal((count, height, width, channels))
    weight, bias = rng.standard_normal((3, 3, channels, filters)), rng.standard_normal(filters)
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = np.zeros((count, height, width, filters)) + bias
    for j, i in np.ndindex(3, 3):
        expected += padded[:, i : i + height, j : j + width] @ weight[j, i]
    layer = Conv(weight, bias, np.empty_like(weight), np.empty_like(bias))
    for (row, column), phase in zip(PHASES, layer.forward(images), strict=True):
        # float64, 27 terms in another order
        np.testing.assert_allclose(phase, expected[:, row::2, column::2], rtol=0, atol=1e-13)


def test_huge_logits_do_not_overflow():
    logits = np.array([[1000, 1000], [0, 1000], [-1000, 0]], dtype=np.float32)
    with np.errstate(all="raise", under="ignore"):
        losses = cross_entropy(logits, np.array([0, 0]))
        shares = np.array([[0.5, 0.5], [0, 0], [0, 0]])
        gradient = cross_entropy_gradient(logits, shares, batch_size=2)
    assert losses == pytest.approx([0, np.log(2)])  # no doubt, and the toss of a coin
    np.testing.assert_allclose(gradient, [[0, -0.25], [0, 0.25], [0, 0]])


def test_sigmoid_does_not_overflow():
    with np.errstate(all="raise", under="ignore"):
        outputs = Sigmoid().forward(np.array([-1000, 0, 1000], dtype=np.float32))
    np.testing.assert_array_equal(outputs, [0, 0.5, 1])

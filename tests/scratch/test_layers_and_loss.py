"""Layers and loss: what they compute, and that they do not overflow."""

from __future__ import annotations

import numpy as np
import pytest

from mnist_cli.scratch.engine.layers import Sigmoid
from mnist_cli.scratch.engine.loss import cross_entropy, cross_entropy_gradient


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

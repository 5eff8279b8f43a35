"""The optimiser: its plain form, its matrix form, and the update of the workers."""

from __future__ import annotations

import numpy as np
import pytest
from network_samples import CNN, MLP, bar_images, classifier, train

from mnist_cli.adapters.numpy_adapter import architecture
from mnist_cli.scratch.engine.network import Network
from mnist_cli.scratch.engine.optimizer import nesterov_step, step_matrices
from mnist_cli.scratch.engine.worker_group import WorkerGroup
from mnist_cli.training.recipe import starting_weights


@pytest.mark.parametrize("batch_size", [16, 20])  # from 17 images on the MLP splits its product
@pytest.mark.parametrize(("spec", "threads"), [(MLP, 1), (MLP, 2), (CNN, 2)], ids=str)
def test_training_takes_the_documented_steps_and_does_not_decay_biases(spec, threads, batch_size):
    start = {name: w.astype(np.float64) for name, w in starting_weights(spec, seed=3).items()}
    for name in start:
        if name.endswith(".bias"):  # they start at 0, where decay does not show
            start[name] += 0.5
    images, labels = bar_images(3 * batch_size)
    rates = [0.01, 0.002, 0.005]
    settings = {"dtype": np.float64, "label_smoothing": 0.2}
    trained = Network(
        architecture(spec), momentum=0.8, weight_decay=0.05, threads=threads, **settings
    )
    trained.weights.load(start)
    batches = np.arange(len(labels)).reshape(3, batch_size)
    seeds = np.zeros(3, np.int64)
    list(
        trained.train(
            images, labels, batches, learning_rates=rates, mask_seeds=seeds, steps_per_chunk=2
        )
    )

    reference = Network(architecture(spec), **settings)
    weights, velocities = start, {name: np.zeros_like(weight) for name, weight in start.items()}
    for batch, rate in zip(batches, rates, strict=True):
        reference.weights.load(weights)
        _, gradients = reference.loss_and_gradients(images[batch], labels[batch])
        for name, w in weights.items():
            g = gradients[name] + (0.05 * w if name.endswith(".weight") else 0)
            velocities[name] = 0.8 * velocities[name] + g
            weights[name] = w - rate * (g + 0.8 * velocities[name])
    for found, expected in (
        (trained.weights.canonical(), weights),
        (trained.velocities.canonical(), velocities),
    ):
        for name, array in expected.items():
            # float64 over three steps; a bias that decayed would be off by 1e-4 and more.
            largest = np.abs(array).max()
            np.testing.assert_allclose(
                found[name], array, rtol=0, atol=1e-11 * largest, err_msg=name
            )


def test_nesterov_step_adds_the_shares_of_the_gradient():
    w, v = np.array([1.0, -2.0]), np.array([0.5, 0.0])
    nesterov_step(
        w,
        v,
        [np.array([0.1, 0.2]), np.array([0.3, 0.4])],
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=0.01,
    )
    # By hand: g = (0.41, 0.58), v = 0.9 v + g = (0.86, 0.58), w -= 0.1 (g + 0.9 v). float64.
    np.testing.assert_allclose(v, [0.86, 0.58], rtol=1e-14)
    np.testing.assert_allclose(w, [1 - 0.1184, -2 - 0.1102], rtol=1e-14)


@pytest.mark.parametrize("momentum", [0.9, 0.0])
@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_step_matrices_take_the_plain_step(replicas, momentum):
    before = np.random.default_rng(4).standard_normal((2 + replicas, 100))
    rates, decays = np.array([0.1, 0.02]), (5e-4, 0.0)
    matrices = step_matrices(rates, replicas=replicas, momentum=momentum, weight_decays=decays)
    assert matrices.shape == (2, 2, 2, 2 + replicas)
    for step, kind in np.ndindex(2, 2):
        velocities, weights, *gradients = before.copy()
        nesterov_step(
            weights,
            velocities,
            gradients,
            learning_rate=rates[step],
            momentum=momentum,
            weight_decay=decays[kind],
        )
        # float64, sums of five in another order
        after = matrices[step, kind] @ before
        np.testing.assert_allclose(after, [velocities, weights], rtol=0, atol=1e-14)


def test_an_update_writes_only_weights_and_velocities_of_the_other_buffer():
    (worker,) = Network(
        architecture(MLP), dtype=np.float64, momentum=0.9, weight_decay=5e-4
    )._workers
    source, target = worker._buffers
    for buffer, seed in ((source, 4), (target, 5)):
        buffer.state[...] = np.random.default_rng(seed).standard_normal(buffer.state.shape)
    before, gradients_before = source.state.copy(), target.state[2:].copy()
    worker.update(WorkerGroup(1), worker.update_matrices(np.array([0.1]))[0], buffer=0)
    np.testing.assert_array_equal(source.state, before)
    np.testing.assert_array_equal(target.state[2:], gradients_before)
    biases_start, _ = source.starts
    for part, decay in ((slice(biases_start), 5e-4), (slice(biases_start, None), 0)):
        velocities, weights, gradients = before[:, part].copy()
        nesterov_step(
            weights, velocities, [gradients], learning_rate=0.1, momentum=0.9, weight_decay=decay
        )
        # float64, sums of three in another order
        np.testing.assert_allclose(
            target.state[:2, part], [velocities, weights], rtol=0, atol=1e-14
        )


@pytest.mark.usefixtures("worker_kinds")
@pytest.mark.parametrize("spec", [CNN, MLP], ids=str)
def test_an_update_in_chunks_equals_the_update_at_once(spec, monkeypatch):
    at_once = classifier(spec, threads=2)
    monkeypatch.setattr("mnist_cli.scratch.engine.worker.UPDATE_CHUNK", 20_009)
    in_chunks = classifier(spec, threads=2)
    counts = [len(model.network._workers[0]._products[0]) for model in (at_once, in_chunks)]
    assert counts[1] > counts[0]
    # float32: BLAS takes other paths for other sizes, and six steps let it grow.
    np.testing.assert_allclose(train(in_chunks), train(at_once), rtol=1e-4)
    for exported in ("export_weights", "export_optimizer"):
        found = getattr(in_chunks, exported)()
        for name, expected in getattr(at_once, exported)().items():
            np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-4, err_msg=name)

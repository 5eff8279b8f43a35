"""The NumPy network: weights in and out, training, and prediction."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from network_samples import (
    CNN,
    CONFIG,
    MLP,
    PAIRS,
    SPECS,
    assert_same,
    bar_images,
    classifier,
    train,
)

from mnist_cli.adapters.base import STEPS_PER_CHUNK
from mnist_cli.config import TrainConfig
from mnist_cli.networks.spec import parameter_count, weight_shapes
from mnist_cli.training.recipe import starting_weights


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.arch}-{spec.activation}")
def test_a_small_batch_after_a_large_one_gives_the_same_logits(spec):
    model = classifier(spec)
    images, _ = bar_images(300)
    alone = classifier(spec).predict_logits(images[:20])
    for count in (20, 300, 20, 33, 20):
        logits = model.predict_logits(images[:count])
        if count == 20:
            np.testing.assert_array_equal(logits, alone)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.arch}-{spec.activation}")
def test_exported_weights_have_canonical_names_and_shapes(spec):
    weights = classifier(spec).export_weights()
    assert {name: array.shape for name, array in weights.items()} == weight_shapes(spec)
    trained = classifier(spec).export_optimizer()
    assert sum(array.size for array in trained.values()) == parameter_count(spec)
    assert all(array.dtype == np.float32 for array in weights.values())
    assert all(array.flags.c_contiguous for array in weights.values())


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.arch}-{spec.activation}")
def test_import_then_export_changes_no_bit(spec):
    assert_same(classifier(spec).export_weights(), starting_weights(spec, seed=3))


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.arch}-{spec.activation}")
def test_exported_weights_are_a_copy(spec):
    model = classifier(spec)
    for array in model.export_weights().values():
        array += 1
    assert_same(model.export_weights(), starting_weights(spec, seed=3))


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.arch}-{spec.activation}")
def test_trained_weights_give_the_same_logits_in_another_network(spec):
    trained, other = classifier(spec), classifier(spec)
    train(trained)
    other.import_weights(trained.export_weights())
    images, _ = bar_images(40)
    np.testing.assert_array_equal(other.predict_logits(images), trained.predict_logits(images))


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.arch}-{spec.activation}")
@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_run_twice_gives_the_same_bits(spec, threads):
    config = replace(CONFIG, batch_size=37)
    first, second = (classifier(spec, threads=threads, config=config) for _ in range(2))
    np.testing.assert_array_equal(train(first), train(second))
    assert_same(first.export_weights(), second.export_weights())


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.arch}-{spec.activation}")
@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_nothing_but_rounding(spec, threads, worker_kinds):
    one, more = classifier(spec), classifier(spec, threads=threads)
    # float32 rounds at 1e-7, which six steps let grow; a lost share would show in the first digit.
    np.testing.assert_allclose(train(one), train(more), rtol=1e-4)
    for exported in ("export_weights", "export_optimizer"):
        found = getattr(more, exported)()
        for name, expected in getattr(one, exported)().items():
            np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-4, err_msg=name)


@pytest.mark.usefixtures("worker_kinds")
def test_a_batch_smaller_than_the_worker_group_takes_the_same_steps():
    one, more = (classifier(CNN, threads=threads, config=PAIRS) for threads in (1, 3))
    losses = [train(model, learning_rate=0.001) for model in (one, more)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)  # float32, over six steps
    for name, expected in one.export_weights().items():
        np.testing.assert_allclose(more.export_weights()[name], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.arch}-{spec.activation}")
def test_training_learns(spec):
    losses = train(classifier(spec, threads=2), steps=40, learning_rate=0.02)
    assert losses[:3].mean() > 1.5  # a guess costs log 10 = 2.3
    assert losses[-3:].mean() < 0.5


@pytest.mark.parametrize("spec", [CNN, MLP], ids=lambda spec: f"{spec.arch}-{spec.activation}")
def test_training_resumes_exactly_from_weights_and_velocities(spec):
    uninterrupted, first, second = (classifier(spec) for _ in range(3))
    train(uninterrupted, steps=6)
    train(first, steps=3)
    second.import_weights(first.export_weights())
    second.import_optimizer(first.export_optimizer())
    train(second, steps=3, start=3)
    assert_same(second.export_weights(), uninterrupted.export_weights())
    assert_same(second.export_optimizer(), uninterrupted.export_optimizer())


def test_losses_come_in_chunks_one_for_each_step():
    images, labels = bar_images()
    steps = 2 * STEPS_PER_CHUNK + 5
    chunks = list(
        classifier(MLP, config=TrainConfig(batch_size=2)).train_epoch(
            images,
            labels,
            order=np.arange(2 * steps) % len(labels),
            learning_rates=np.full(steps, 0.01, dtype=np.float32),
        )
    )
    assert [len(chunk) for chunk in chunks] == [STEPS_PER_CHUNK, STEPS_PER_CHUNK, 5]
    assert all(chunk.dtype == np.float32 for chunk in chunks)


def test_loss_is_that_of_the_batch_before_its_update():
    model = classifier(MLP)
    images, labels = bar_images(16)
    logits = model.predict_logits(images).astype(np.float64)
    expected = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(16), labels]
    (losses,) = model.train_epoch(
        images, labels, order=np.arange(16), learning_rates=np.ones(1, dtype=np.float32)
    )
    assert losses[0] == pytest.approx(expected.mean(), rel=1e-6)  # float32


@pytest.mark.usefixtures("worker_kinds")
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.arch}-{spec.activation}")
def test_an_odd_number_of_steps_leaves_the_weights_where_they_are_read(spec, threads):
    # One call of three steps, and three of one: an odd step ends in the other buffer.
    at_once, singly = (classifier(spec, threads=threads) for _ in range(2))
    losses = [train(singly, steps=1, start=step) for step in range(3)]
    np.testing.assert_array_equal(train(at_once, steps=3), np.concatenate(losses))
    assert_same(singly.export_weights(), at_once.export_weights())
    assert_same(singly.export_optimizer(), at_once.export_optimizer())


def test_a_run_that_diverges_yields_its_losses_without_warnings(recwarn):
    losses = train(classifier(CNN, threads=2), steps=6, learning_rate=1e6)
    assert not np.isfinite(losses[-1])
    assert not [str(warning.message) for warning in recwarn]


def test_losses_too_large_to_add_up_yield_infinity_without_warnings(recwarn):
    model = classifier(MLP)
    weights = starting_weights(MLP, seed=3)
    weights["fc2.bias"][0] = 1e38  # each other label costs as much: four are more than a float32
    model.import_weights(weights)
    losses = train(model, steps=1)
    assert losses[0] == np.inf
    assert not [str(warning.message) for warning in recwarn]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.arch}-{spec.activation}")
@pytest.mark.parametrize("threads", [1, 2])
def test_logits_of_an_image_do_not_depend_on_how_many_come_with_it(spec, threads, monkeypatch):
    monkeypatch.setattr("mnist_cli.scratch.engine.network.MIN_CHUNKS", 1)
    for chunk in ("CONV_CHUNK", "DENSE_CHUNK"):
        monkeypatch.setattr(f"mnist_cli.adapters.numpy_adapter.{chunk}", 16)
    model = classifier(spec, threads=threads)
    images, _ = bar_images(65)
    everything = model.predict_logits(images)
    assert everything.dtype == np.float32
    for count in (0, 1, 7, 33):
        logits = model.predict_logits(images[:count])
        assert logits.shape == (count, 10)
        # Other matrix sizes take other paths through BLAS: rounding of float32, on logits near 1.
        np.testing.assert_allclose(logits, everything[:count], rtol=0, atol=1e-5)


def test_prediction_leaves_its_images_as_they_are():
    images, _ = bar_images(5)
    before = images.copy()
    for spec in SPECS:
        classifier(spec).predict_logits(images)
    np.testing.assert_array_equal(images, before)

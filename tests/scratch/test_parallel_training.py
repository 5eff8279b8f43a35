"""Training and prediction by several workers: their life, their failures, their cores."""

from __future__ import annotations

import multiprocessing
import os

import numpy as np
import pytest
from network_samples import (
    CNN,
    MLP,
    PAIRS,
    assert_same,
    bar_images,
    classifier,
    epoch,
    started_workers,
    train,
)

from mnist_cli.adapters.base import STEPS_PER_CHUNK
from mnist_cli.errors import FrameworkError
from mnist_cli.scratch.engine.worker_group import WorkerGroup, can_fork
from mnist_cli.training.recipe import starting_weights

needs_fork = pytest.mark.skipif(not can_fork(), reason="workers are threads here")


@pytest.mark.usefixtures("worker_kinds")
def test_a_worker_that_fails_before_a_barrier_is_reported_at_the_end(monkeypatch):
    monkeypatch.setattr("mnist_cli.scratch.engine.network.MIN_CHUNKS", 1)
    model = classifier(CNN, threads=2)
    images, _ = bar_images(70)

    def fail(*_):
        raise MemoryError("too much")

    monkeypatch.setattr(model.network._workers[1], "logits", fail)
    with pytest.raises(FrameworkError, match="MemoryError: too much"):
        model.predict_logits(images)


def _logits_of_seventy(_=None):
    model = classifier(CNN, threads=2)
    return model.predict_logits(bar_images(70)[0])


@needs_fork
def test_in_a_process_of_a_pool_workers_are_threads(monkeypatch):
    monkeypatch.setattr("mnist_cli.scratch.engine.network.MIN_CHUNKS", 1)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        (found,) = pool.map(_logits_of_seventy, [None])
    np.testing.assert_array_equal(found, _logits_of_seventy())


@needs_fork
def test_the_caller_is_pinned_only_while_it_takes_steps():
    cores = os.sched_getaffinity(0)
    group = WorkerGroup(len(cores))
    with group.pinned_to_core(0):
        assert os.sched_getaffinity(0) == {min(cores)} or len(cores) == 1
    assert os.sched_getaffinity(0) == cores
    model = classifier(MLP, threads=len(cores))
    images, labels = bar_images()
    for _ in epoch(model, images, labels):  # between chunks, what it starts may go anywhere
        assert os.sched_getaffinity(0) == cores


@pytest.mark.usefixtures("worker_kinds")
def test_training_left_within_an_epoch_leaves_complete_weights_and_can_go_on():
    model, other = (classifier(CNN, threads=2, config=PAIRS) for _ in range(2))
    images, labels = bar_images()
    chunks = epoch(model, images, labels)
    next(chunks)
    chunks.close()
    list(epoch(other, images, labels, steps=STEPS_PER_CHUNK))
    assert_same(model.export_weights(), other.export_weights())
    for each in (model, other):
        list(epoch(each, images, labels))
    assert_same(model.export_weights(), other.export_weights())


@pytest.mark.usefixtures("worker_kinds")
def test_workers_are_kept_between_epochs_and_end_with_their_network():
    before = started_workers()
    model = classifier(CNN, threads=2, config=PAIRS)
    images, labels = bar_images()
    list(epoch(model, images, labels))
    (worker,) = started_workers() - before
    list(epoch(model, images, labels[::-1].copy()))
    assert started_workers() - before == {worker}
    del model
    assert started_workers() == before


@pytest.mark.usefixtures("worker_kinds")
@pytest.mark.parametrize("spec", [CNN, MLP], ids=lambda spec: f"{spec.arch}-{spec.activation}")
@pytest.mark.parametrize("changed", ["labels", "images", "weights", "less a batch", "more a batch"])
def test_workers_see_what_has_changed_since_the_previous_epoch(spec, changed):
    model, other = (classifier(spec, threads=2, config=PAIRS) for _ in range(2))
    images, labels = bar_images()
    list(epoch(model, images, labels))
    if changed == "weights":
        for imported in (model.import_weights, model.import_optimizer):
            imported(starting_weights(spec, seed=7))
    other.import_weights(model.export_weights())
    other.import_optimizer(model.export_optimizer())
    if changed == "labels":
        labels = labels[::-1].copy()
    if changed == "images":
        images = images[::-1].copy()
    for each in (model, other):
        each.batch_size = {"less a batch": 1, "more a batch": 3}.get(changed, 2)
        list(epoch(each, images, labels))
    assert_same(model.export_weights(), other.export_weights())


@needs_fork
def test_training_goes_on_after_workers_for_other_images_could_not_start(monkeypatch):
    model, other = (classifier(CNN, threads=2, config=PAIRS) for _ in range(2))
    images, labels = bar_images()
    for each in (model, other):
        list(epoch(each, images, labels))

    def refuse():
        raise BlockingIOError(11, "Resource temporarily unavailable")

    with monkeypatch.context() as full:
        full.setattr(os, "fork", refuse)
        with pytest.raises(FrameworkError, match="temporarily"):
            list(epoch(model, images.copy(), labels))
    for each in (model, other):
        list(epoch(each, images, labels))
    assert_same(model.export_weights(), other.export_weights())


@needs_fork
def test_a_fork_of_the_process_does_not_end_its_workers():
    model, other = (classifier(CNN, threads=2, config=PAIRS) for _ in range(2))
    images, labels = bar_images()
    for each in (model, other):
        list(epoch(each, images, labels))
    copy = multiprocessing.get_context("fork").Process(target=model.network._loop.close)
    copy.start()
    copy.join(30)
    assert copy.exitcode == 0
    for each in (model, other):
        list(epoch(each, images, labels))
    assert_same(model.export_weights(), other.export_weights())


@needs_fork
@pytest.mark.parametrize("refused", ["sched_getaffinity", "sched_setaffinity"])
def test_training_works_where_pinning_is_forbidden(refused, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    expected = classifier(MLP, threads=2)
    found = classifier(MLP, threads=2)
    train(expected)
    monkeypatch.setattr(os, refused, refuse)
    train(found)
    assert_same(found.export_weights(), expected.export_weights())


@needs_fork
def test_the_caller_is_pinned_for_each_chunk_if_workers_take_all_cores(monkeypatch):
    bound = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: bound.append(sorted(cores)))
    train(classifier(MLP, threads=2))
    # The worker pins itself in its own process; the caller is pinned and released for each chunk.
    assert bound == [[0], [0, 1]]


@needs_fork
def test_a_worker_killed_between_epochs_is_reported_and_replaced_by_the_next_call():
    before = started_workers()
    model, other = (classifier(CNN, threads=2, config=PAIRS) for _ in range(2))
    images, labels = bar_images()
    list(epoch(model, images, labels))
    for worker in started_workers() - before:
        worker.kill()
        worker.join()
    with pytest.raises(FrameworkError, match=r"exit code -9 \(killed"):
        list(epoch(model, images, labels))
    model.import_weights(other.export_weights())
    model.import_optimizer(other.export_optimizer())
    for each in (model, other):
        list(epoch(each, images, labels))
    assert_same(model.export_weights(), other.export_weights())

"""The from-scratch network and its adapter: what they compute, beside the gradients."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest

from mnist_cli.adapters import numpy_adapter
from mnist_cli.adapters.base import STEPS_PER_CHUNK
from mnist_cli.adapters.numpy_adapter import adapter, has_small_kernels
from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.errors import FrameworkError
from mnist_cli.networks.spec import parameter_count, parameter_shapes
from mnist_cli.scratch import mlp
from mnist_cli.scratch.crew import Crew, can_fork, shared_array
from mnist_cli.scratch.layers import PLACES, Conv, Sigmoid
from mnist_cli.scratch.loss import cross_entropy, cross_entropy_gradient
from mnist_cli.scratch.network import Network
from mnist_cli.scratch.optimizer import nesterov_step, step_matrices
from mnist_cli.training.recipe import starting_weights

CNN, MLP = ModelSpec("cnn"), ModelSpec("mlp")
SPECS = [CNN, MLP, ModelSpec("mlp", "sigmoid")]
CONFIG = TrainConfig(batch_size=16)
PAIRS = TrainConfig(batch_size=2)

needs_fork = pytest.mark.skipif(not can_fork(), reason="crews are threads here")


def pictures(count=64):
    """Noise with a bright bar whose row tells the label: quickly learnt."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, count)
    images = rng.standard_normal((count, 28, 28)).astype(np.float32)
    for image, label in zip(images, labels, strict=True):
        image[4 + 2 * label : 6 + 2 * label] += 3
    return images, labels


def classifier(spec, *, threads=1, config=CONFIG):
    built = adapter.build(spec, config, device="cpu", threads=threads)
    built.import_weights(starting_weights(spec, seed=3))
    return built


def train(model, *, steps=6, learning_rate=0.02, start=0):
    images, labels = pictures()
    order = np.random.default_rng(1).integers(0, len(labels), 100 * model.batch_size)
    order = order[start * model.batch_size :][: steps * model.batch_size]
    rates = np.full(steps, learning_rate, dtype=np.float32)
    chunks = model.train_epoch(images, labels, order=order, learning_rates=rates)
    return np.concatenate(list(chunks))


def helpers():
    """Return the processes and threads that this one has started."""
    return {*multiprocessing.active_children(), *threading.enumerate()}


def epoch(model, images, labels, *, steps=2 * STEPS_PER_CHUNK):
    order = np.arange(steps * model.batch_size) % len(labels)
    rates = np.full(steps, 0.01, dtype=np.float32)
    return model.train_epoch(images, labels, order=order, learning_rates=rates)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


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
    for (row, column), quarter in zip(PLACES, layer.forward(images), strict=True):
        # float64, 27 terms in another order
        np.testing.assert_allclose(quarter, expected[:, row::2, column::2], rtol=0, atol=1e-13)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_smaller_batch_is_not_disturbed_by_a_larger_one_before_it(spec):
    model = classifier(spec)
    images, _ = pictures(300)
    alone = classifier(spec).predict_logits(images[:20])
    for count in (20, 300, 20, 33, 20):
        logits = model.predict_logits(images[:count])
        if count == 20:
            np.testing.assert_array_equal(logits, alone)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_parameters_are_all_there_in_canonical_shape(spec):
    weights = classifier(spec).export_weights()
    assert {name: array.shape for name, array in weights.items()} == parameter_shapes(spec)
    assert sum(array.size for array in weights.values()) == parameter_count(spec)
    assert all(array.dtype == np.float32 for array in weights.values())
    assert all(array.flags.c_contiguous for array in weights.values())


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_import_then_export_changes_no_bit(spec):
    assert_same(classifier(spec).export_weights(), starting_weights(spec, seed=3))


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_exported_weights_are_a_copy(spec):
    model = classifier(spec)
    for array in model.export_weights().values():
        array += 1
    assert_same(model.export_weights(), starting_weights(spec, seed=3))


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_trained_weights_give_the_same_logits_in_another_network(spec):
    trained, other = classifier(spec), classifier(spec)
    train(trained)
    other.import_weights(trained.export_weights())
    images, _ = pictures(40)
    np.testing.assert_array_equal(other.predict_logits(images), trained.predict_logits(images))


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_run_twice_gives_the_same_bits(spec, threads):
    config = replace(CONFIG, batch_size=37)
    first, second = (classifier(spec, threads=threads, config=config) for _ in range(2))
    np.testing.assert_array_equal(train(first), train(second))
    assert_same(first.export_weights(), second.export_weights())


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_nothing_but_rounding(spec, threads, crews):
    one, more = classifier(spec), classifier(spec, threads=threads)
    # float32 rounds at 1e-7, which six steps let grow; a lost share would show in the first digit.
    np.testing.assert_allclose(train(one), train(more), rtol=1e-4)
    for exported in ("export_weights", "export_optimizer"):
        found = getattr(more, exported)()
        for name, expected in getattr(one, exported)().items():
            np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-4, err_msg=name)


@pytest.mark.usefixtures("crews")
def test_a_batch_smaller_than_the_crew_takes_the_same_steps():
    one, more = (classifier(CNN, threads=threads, config=PAIRS) for threads in (1, 3))
    losses = [train(model, learning_rate=0.001) for model in (one, more)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)  # float32, over six steps
    for name, expected in one.export_weights().items():
        np.testing.assert_allclose(more.export_weights()[name], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_training_learns(spec):
    losses = train(classifier(spec, threads=2), steps=40, learning_rate=0.02)
    assert losses[:3].mean() > 1.5  # a guess costs log 10 = 2.3
    assert losses[-3:].mean() < 0.5


@pytest.mark.parametrize("spec", [CNN, MLP], ids=str)
def test_training_resumes_exactly_from_weights_and_velocities(spec):
    whole, first, second = (classifier(spec) for _ in range(3))
    train(whole, steps=6)
    train(first, steps=3)
    second.import_weights(first.export_weights())
    second.import_optimizer(first.export_optimizer())
    train(second, steps=3, start=3)
    assert_same(second.export_weights(), whole.export_weights())
    assert_same(second.export_optimizer(), whole.export_optimizer())


def test_losses_come_in_chunks_one_for_each_step():
    images, labels = pictures()
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
    images, labels = pictures(16)
    logits = model.predict_logits(images).astype(np.float64)
    expected = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(16), labels]
    (losses,) = model.train_epoch(
        images, labels, order=np.arange(16), learning_rates=np.ones(1, dtype=np.float32)
    )
    assert losses[0] == pytest.approx(expected.mean(), rel=1e-6)  # float32


@pytest.mark.parametrize("batch_size", [16, 20])  # an MLP's images are cut into strips from 17 on
@pytest.mark.parametrize(("spec", "threads"), [(MLP, 1), (MLP, 2), (CNN, 2)], ids=str)
def test_optimizer_follows_the_contract_and_spares_the_biases(spec, threads, batch_size):
    start = {name: w.astype(np.float64) for name, w in starting_weights(spec, seed=3).items()}
    for name in start:
        if name.endswith(".bias"):  # they start at 0, where decay does not show
            start[name] += 0.5
    images, labels = pictures(3 * batch_size)
    rates = [0.01, 0.002, 0.005]
    settings = {"dtype": np.float64, "label_smoothing": 0.2}
    trained = Network(spec, momentum=0.8, weight_decay=0.05, threads=threads, **settings)
    trained.weights.load(start)
    batches = np.arange(len(labels)).reshape(3, batch_size)
    list(trained.train(images, labels, batches, learning_rates=rates, steps_per_chunk=2))

    reference = Network(spec, plain=True, **settings)
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
@pytest.mark.parametrize("shares", [1, 2, 3])
def test_step_matrices_take_the_plain_step(shares, momentum):
    before = np.random.default_rng(4).standard_normal((2 + shares, 100))
    rates, decays = np.array([0.1, 0.02]), (5e-4, 0.0)
    matrices = step_matrices(rates, shares=shares, momentum=momentum, weight_decays=decays)
    assert matrices.shape == (2, 2, 2, 2 + shares)
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


def test_an_update_writes_weights_and_velocities_of_the_other_copy_alone():
    (member,) = Network(MLP, dtype=np.float64, momentum=0.9, weight_decay=5e-4)._members
    own, other = member._copies
    for copy, seed in ((own, 4), (other, 5)):
        copy.state[...] = np.random.default_rng(seed).standard_normal(copy.state.shape)
    before, untouched = own.state.copy(), other.state[2:].copy()
    member.update(Crew(1), member.matrices(np.array([0.1]))[0], copy=0)
    np.testing.assert_array_equal(own.state, before)
    np.testing.assert_array_equal(other.state[2:], untouched)
    for part, decay in ((slice(own.biases_start), 5e-4), (slice(own.biases_start, None), 0)):
        velocities, weights, gradients = before[:, part].copy()
        nesterov_step(
            weights, velocities, [gradients], learning_rate=0.1, momentum=0.9, weight_decay=decay
        )
        # float64, sums of three in another order
        np.testing.assert_allclose(other.state[:2, part], [velocities, weights], rtol=0, atol=1e-14)


@pytest.mark.usefixtures("crews")
@pytest.mark.parametrize("spec", [CNN, MLP], ids=str)
def test_an_update_in_pieces_is_the_update(spec, monkeypatch):
    whole = classifier(spec, threads=2)
    monkeypatch.setattr("mnist_cli.scratch.network.UPDATE_PIECE", 20_009)
    cut = classifier(spec, threads=2)
    counts = [len(model.network._members[0]._products[0]) for model in (whole, cut)]
    assert counts[1] > counts[0]
    # float32: BLAS takes other paths for other sizes, and six steps let it grow.
    np.testing.assert_allclose(train(cut), train(whole), rtol=1e-4)
    for exported in ("export_weights", "export_optimizer"):
        found = getattr(cut, exported)()
        for name, expected in getattr(whole, exported)().items():
            np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    ("libraries", "expected"),
    [
        ([{"internal_api": "openblas", "architecture": "SkylakeX"}], True),
        ([{"internal_api": "openblas", "architecture": "Haswell"}], False),
        ([{"internal_api": "mkl"}], False),
        ([], False),
    ],
)
def test_only_openblas_with_avx512_is_given_small_matrices(libraries, expected):
    assert has_small_kernels(libraries) == expected


@pytest.mark.usefixtures("crews")
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_an_odd_number_of_steps_leaves_the_weights_where_they_are_read(spec, threads):
    # One call of three steps, and three of one: a step ends in the other copy of the numbers.
    whole, singly = (classifier(spec, threads=threads) for _ in range(2))
    losses = [train(singly, steps=1, start=step) for step in range(3)]
    np.testing.assert_array_equal(train(whole, steps=3), np.concatenate(losses))
    assert_same(singly.export_weights(), whole.export_weights())
    assert_same(singly.export_optimizer(), whole.export_optimizer())


@pytest.mark.parametrize("small_kernels", [False, True])
def test_the_images_of_an_mlp_are_cut_where_blas_likes_it(small_kernels, monkeypatch):
    monkeypatch.setattr(numpy_adapter, "has_small_kernels", lambda _: small_kernels)
    asked = []

    def strips_for(count, *, small_kernels):
        asked.append(small_kernels)
        return 1

    monkeypatch.setattr(mlp, "strips_for", strips_for)
    classifier(MLP).predict_logits(pictures(20)[0])
    assert set(asked) == {small_kernels}


def test_members_of_a_crew_add_up_their_terms_meeting_after_meeting(crews):
    crew = Crew(3, capacity=4)
    sums = shared_array((50, 3, 4), np.float32)

    def work(member):
        for turn in range(50):
            sums[turn, member] = crew.all_reduce(member, np.full(4, turn + 100 * member))

    with crew.working(work):
        work(0)
    assert (sums == np.arange(0, 150, 3)[:, np.newaxis, np.newaxis] + 300).all()


@pytest.mark.usefixtures("crews")
def test_a_failing_helper_stops_the_crew_and_says_why(capfd):
    crew = Crew(3)

    def work(member):
        if member == 1:
            raise ValueError("helper")
        crew.meet(member)

    with (
        pytest.raises(FrameworkError, match=r"failed \(ValueError: helper\).*--threads 1"),
        crew.working(work),
    ):
        work(0)
    assert capfd.readouterr().err == ""


@pytest.mark.usefixtures("crews")
def test_a_helper_that_fails_without_a_meeting_is_told_at_the_end(monkeypatch):
    monkeypatch.setattr("mnist_cli.scratch.network.MIN_CHUNKS", 1)
    model = classifier(CNN, threads=2)
    images, _ = pictures(70)

    def fail(*_):
        raise MemoryError("too much")

    monkeypatch.setattr(model.network._members[1], "logits", fail)
    with pytest.raises(FrameworkError, match="MemoryError: too much"):
        model.predict_logits(images)


@pytest.mark.usefixtures("crews")
def test_an_error_with_an_undecodable_path_is_told_too():
    crew = Crew(2)

    def work(member):
        if member == 1:
            raise OSError("no file \udcff")
        crew.meet(member)

    with pytest.raises(FrameworkError, match="OSError: no file"), crew.working(work):
        work(0)


@needs_fork
def test_a_helper_that_cannot_be_started_is_told(monkeypatch):
    def refuse():
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    with (
        pytest.raises(FrameworkError, match=r"temporarily unavailable.*--threads 1"),
        Crew(2).working(print),
    ):
        pass


def _logits_of_seventy(_=None):
    model = classifier(CNN, threads=2)
    return model.predict_logits(pictures(70)[0])


@needs_fork
def test_in_a_pool_of_processes_threads_take_the_helpers_place(monkeypatch):
    monkeypatch.setattr("mnist_cli.scratch.network.MIN_CHUNKS", 1)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        (found,) = pool.map(_logits_of_seventy, [None])
    np.testing.assert_array_equal(found, _logits_of_seventy())


@needs_fork
def test_without_shared_semaphores_threads_take_the_helpers_place(monkeypatch):
    def refuse(*_):
        raise OSError("no /dev/shm")

    monkeypatch.setattr("multiprocessing.context.ForkContext.Semaphore", refuse)
    assert not can_fork()


@needs_fork
@pytest.mark.parametrize("more", [0, 1])
def test_helpers_have_a_core_each_only_in_a_crew_of_as_many_as_there_are_cores(more):
    cores = sorted(os.sched_getaffinity(0))
    crew = Crew(len(cores) + more)
    found = shared_array((crew.members, max(cores) + 1), bool)

    def work(member):
        found[member, list(os.sched_getaffinity(0))] = True

    with crew.working(work):
        work(0)
    assert np.flatnonzero(found[0]).tolist() == cores  # the caller goes where it likes
    for member in range(1, crew.members):
        expected = cores if more else [cores[member]]
        assert np.flatnonzero(found[member]).tolist() == expected


@needs_fork
def test_a_caller_that_takes_steps_on_a_core_of_its_own_is_free_again_afterwards():
    cores = os.sched_getaffinity(0)
    crew = Crew(len(cores))
    with crew.own_core(0):
        assert os.sched_getaffinity(0) == {min(cores)} or len(cores) == 1
    assert os.sched_getaffinity(0) == cores
    model = classifier(MLP, threads=len(cores))
    images, labels = pictures()
    for _ in epoch(model, images, labels):  # between chunks, what it starts may go anywhere
        assert os.sched_getaffinity(0) == cores


@needs_fork
def test_a_killed_helper_is_told():
    crew = Crew(2)

    def work(member):
        if member == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        crew.meet(member)

    with pytest.raises(FrameworkError, match=r"exit code -9 \(killed"), crew.working(work):
        work(0)


@pytest.mark.usefixtures("crews")
def test_a_caller_that_fails_leaves_no_helper_behind():
    crew = Crew(2)
    before = threading.enumerate()

    def work(member):
        crew.meet(member)
        crew.meet(member)

    def fail():
        with crew.working(work):
            crew.meet(0)
            assert multiprocessing.active_children() or threading.enumerate() != before
            raise ValueError("caller")

    with pytest.raises(ValueError, match="caller"):
        fail()
    assert threading.enumerate() == before
    assert not multiprocessing.active_children()


def test_a_helper_ends_when_its_caller_is_killed(tmp_path):
    program = """
import os, signal
from mnist_cli.scratch.crew import Crew
crew = Crew(2)
def work(member):
    if member == 1:
        print(os.getpid(), flush=True)
        crew.meet(member)
with crew.working(work):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    # The helper holds the other end of the pipe: reading to its end waits for the helper's.
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.usefixtures("crews")
def test_training_left_in_the_middle_of_an_epoch_leaves_whole_weights_and_can_go_on():
    model, other = (classifier(CNN, threads=2, config=PAIRS) for _ in range(2))
    images, labels = pictures()
    chunks = epoch(model, images, labels)
    next(chunks)
    chunks.close()
    list(epoch(other, images, labels, steps=STEPS_PER_CHUNK))
    assert_same(model.export_weights(), other.export_weights())
    for each in (model, other):
        list(epoch(each, images, labels))
    assert_same(model.export_weights(), other.export_weights())


@pytest.mark.usefixtures("crews")
def test_helpers_stay_from_epoch_to_epoch_and_end_with_their_network():
    before = helpers()
    model = classifier(CNN, threads=2, config=PAIRS)
    images, labels = pictures()
    list(epoch(model, images, labels))
    (helper,) = helpers() - before
    list(epoch(model, images, labels[::-1].copy()))
    assert helpers() - before == {helper}
    del model
    assert helpers() == before


@pytest.mark.usefixtures("crews")
@pytest.mark.parametrize("spec", [CNN, MLP], ids=str)
@pytest.mark.parametrize("changed", ["labels", "images", "weights", "less a batch", "more a batch"])
def test_helpers_take_what_has_changed_since_the_epoch_before(spec, changed):
    model, other = (classifier(spec, threads=2, config=PAIRS) for _ in range(2))
    images, labels = pictures()
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
def test_helpers_that_could_not_be_started_for_other_images_can_be_for_the_ones_before(monkeypatch):
    model, other = (classifier(CNN, threads=2, config=PAIRS) for _ in range(2))
    images, labels = pictures()
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
def test_a_copy_of_the_process_leaves_its_helpers_alone():
    model, other = (classifier(CNN, threads=2, config=PAIRS) for _ in range(2))
    images, labels = pictures()
    for each in (model, other):
        list(epoch(each, images, labels))
    copy = multiprocessing.get_context("fork").Process(target=model.network._training.close)
    copy.start()
    copy.join(30)
    assert copy.exitcode == 0
    for each in (model, other):
        list(epoch(each, images, labels))
    assert_same(model.export_weights(), other.export_weights())


@needs_fork
@pytest.mark.parametrize("refused", ["sched_getaffinity", "sched_setaffinity"])
def test_without_leave_to_choose_cores_training_goes_on(refused, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    expected = classifier(MLP, threads=2)
    found = classifier(MLP, threads=2)
    train(expected)
    monkeypatch.setattr(os, refused, refuse)
    train(found)
    assert_same(found.export_weights(), expected.export_weights())


@needs_fork
def test_steps_are_taken_on_a_core_of_ones_own_where_the_crew_takes_all(monkeypatch):
    bound = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: bound.append(sorted(cores)))
    train(classifier(MLP, threads=2))
    # What the helper did is its own; the caller was bound and set free again for each chunk.
    assert bound == [[0], [0, 1]]


@needs_fork
def test_a_helper_killed_between_epochs_is_told_and_replaced_by_the_next_call():
    before = helpers()
    model, other = (classifier(CNN, threads=2, config=PAIRS) for _ in range(2))
    images, labels = pictures()
    list(epoch(model, images, labels))
    for helper in helpers() - before:
        helper.kill()
        helper.join()
    with pytest.raises(FrameworkError, match=r"exit code -9 \(killed"):
        list(epoch(model, images, labels))
    model.import_weights(other.export_weights())
    model.import_optimizer(other.export_optimizer())
    for each in (model, other):
        list(epoch(each, images, labels))
    assert_same(model.export_weights(), other.export_weights())


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


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_logits_of_an_image_do_not_depend_on_how_many_come_with_it(spec, threads, monkeypatch):
    monkeypatch.setattr("mnist_cli.scratch.network.MIN_CHUNKS", 1)
    monkeypatch.setattr("mnist_cli.scratch.network.MAX_CHUNK", {"cnn": 16, "mlp": 16})
    model = classifier(spec, threads=threads)
    images, _ = pictures(65)
    everything = model.predict_logits(images)
    assert everything.dtype == np.float32
    for count in (0, 1, 7, 33):
        logits = model.predict_logits(images[:count])
        assert logits.shape == (count, 10)
        # Other matrix sizes take other paths through BLAS: rounding of float32, on logits near 1.
        np.testing.assert_allclose(logits, everything[:count], rtol=0, atol=1e-5)


def test_prediction_leaves_its_images_as_they_are():
    images, _ = pictures(5)
    before = images.copy()
    for spec in SPECS:
        classifier(spec).predict_logits(images)
    np.testing.assert_array_equal(images, before)


def test_cuda_is_refused_and_auto_is_the_processor():
    with pytest.raises(FrameworkError, match=r"not on cuda.*--device cpu"):
        adapter.build(MLP, CONFIG, device="cuda", threads=1)
    adapter.build(MLP, CONFIG, device="auto", threads=1)


def test_environment_is_json_and_names_numpy_and_its_blas():
    environment = json.loads(json.dumps(adapter.environment()))
    assert environment["numpy"] == np.__version__
    assert environment["device"] == "cpu"
    assert environment["blas"] != "unknown"


def test_the_adapter_imports_numpy_alone():
    program = (
        "import sys, mnist_cli.adapters.numpy_adapter\n"
        "print([m for m in ('torch', 'tensorflow', 'scipy', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.decode().strip() == "[]", done.stderr

"""The worker group: barriers, sums, cores, and what happens when a worker fails."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from mnist_cli.scratch.engine.worker_group import WorkerError, WorkerGroup, can_fork, shared_array

needs_fork = pytest.mark.skipif(not can_fork(), reason="workers are threads here")


def test_all_reduce_sums_the_terms_of_all_workers_time_after_time(worker_kinds):
    group = WorkerGroup(3, capacity=4)
    sums = shared_array((50, 3, 4), np.float32)

    def work(rank):
        for turn in range(50):
            sums[turn, rank] = group.all_reduce(rank, np.full(4, turn + 100 * rank))

    with group.running(work):
        work(0)
    assert (sums == np.arange(0, 150, 3)[:, np.newaxis, np.newaxis] + 300).all()


@pytest.mark.usefixtures("worker_kinds")
def test_a_failing_worker_stops_the_group_and_says_why(capfd):
    group = WorkerGroup(3)

    def work(rank):
        if rank == 1:
            raise ValueError("worker")
        group.barrier(rank)

    with (
        pytest.raises(WorkerError, match=r"failed \(ValueError: worker\).*--threads 1"),
        group.running(work),
    ):
        work(0)
    assert capfd.readouterr().err == ""


@pytest.mark.usefixtures("worker_kinds")
def test_an_error_with_an_undecodable_path_is_reported():
    group = WorkerGroup(2)

    def work(rank):
        if rank == 1:
            raise OSError("no file \udcff")
        group.barrier(rank)

    with pytest.raises(WorkerError, match="OSError: no file"), group.running(work):
        work(0)


@needs_fork
def test_a_worker_that_cannot_be_started_is_reported(monkeypatch):
    def refuse():
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    with (
        pytest.raises(WorkerError, match=r"temporarily unavailable.*--threads 1"),
        WorkerGroup(2).running(print),
    ):
        pass


@needs_fork
def test_without_shared_semaphores_workers_are_threads(monkeypatch):
    def refuse(*_):
        raise OSError("no /dev/shm")

    monkeypatch.setattr("multiprocessing.context.ForkContext.Semaphore", refuse)
    assert not can_fork()


@needs_fork
@pytest.mark.parametrize("more", [0, 1])
def test_workers_are_pinned_only_if_there_is_one_per_core(more):
    cores = sorted(os.sched_getaffinity(0))
    group = WorkerGroup(len(cores) + more)
    found = shared_array((group.size, max(cores) + 1), bool)

    def work(rank):
        found[rank, list(os.sched_getaffinity(0))] = True

    with group.running(work):
        work(0)
    assert np.flatnonzero(found[0]).tolist() == cores  # the caller goes where it likes
    for rank in range(1, group.size):
        expected = cores if more else [cores[rank]]
        assert np.flatnonzero(found[rank]).tolist() == expected


@needs_fork
def test_a_killed_worker_is_reported():
    group = WorkerGroup(2)

    def work(rank):
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        group.barrier(rank)

    with pytest.raises(WorkerError, match=r"exit code -9 \(killed"), group.running(work):
        work(0)


@pytest.mark.usefixtures("worker_kinds")
def test_a_caller_that_fails_leaves_no_worker_behind():
    group = WorkerGroup(2)
    before = threading.enumerate()

    def work(rank):
        group.barrier(rank)
        group.barrier(rank)

    def fail():
        with group.running(work):
            group.barrier(0)
            assert multiprocessing.active_children() or threading.enumerate() != before
            raise ValueError("caller")

    with pytest.raises(ValueError, match="caller"):
        fail()
    assert threading.enumerate() == before
    assert not multiprocessing.active_children()


def test_a_worker_ends_when_its_caller_is_killed(tmp_path):
    program = """
import os, signal
from mnist_cli.scratch.engine.worker_group import WorkerGroup
group = WorkerGroup(2)
def work(rank):
    if rank == 1:
        print(os.getpid(), flush=True)
        group.barrier(rank)
with group.running(work):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    # The worker holds the other end of the pipe: reading to its end waits for the worker's end.
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGKILL

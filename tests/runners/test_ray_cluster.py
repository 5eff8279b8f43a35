"""A cluster for one call, and what is said of one that cannot be used."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from waiting import wait_until

from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.errors import FrameworkError, UsageError
from mnist_cli.runners import process, ray_cluster
from mnist_cli.runners.base import TrainJob

Mnist = Callable[..., Any]


@pytest.fixture
def local(small_data: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A comparison on a cluster for the call, with a run that does not end."""
    variables = {"FAKE_FRAMEWORK": "sleep 1", "FAKE_FRAMEWORK_ONLY": "mlp 77"}
    command = [sys.executable, "-m", "mnist_cli", "compare", "--runner", "ray", "--address"]
    command += ["local", "--framework", "fake", "--arch", "mlp", "--seed", "77"]
    command += ["--dataset", str(small_data), "--results-dir", str(tmp_path)]
    with subprocess.Popen(
        command, env=os.environ | variables, stderr=subprocess.PIPE, text=True
    ) as started:
        yield started
        started.kill()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_a_local_cluster_listens_to_this_machine_alone_and_ends_with_the_call(
    local: subprocess.Popen[str], sent: signal.Signals
) -> None:
    driver = psutil.Process(local.pid)

    def is_at_work() -> bool:
        children = driver.children(recursive=True)
        return any("mnist_cli.runners.process" in " ".join(c.cmdline()) for c in children)

    wait_until(is_at_work, "a run at work")
    processes = [driver, *driver.children(recursive=True)]
    listening = [
        (each.name(), socket.laddr.ip)
        for each in processes
        for socket in each.net_connections("inet")
        if socket.status == psutil.CONN_LISTEN
    ]
    assert {name for name, _ in listening} >= {"gcs_server", "raylet"}
    loopback = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert [each for each in listening if each[1] not in loopback] == []
    local.send_signal(sent)
    local.wait(20)
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert [" ".join(each.cmdline())[:200] for each in alive] == []


@pytest.mark.parametrize(
    ("address", "error", "said"),
    [
        ("ray://127.0.0.1:9", FrameworkError, "There is no Ray cluster at ray://127.0.0.1:9 (Conn"),
        ("127.0.0.1:9", FrameworkError, "Start one with 'ray start --head'"),
        ("http://127.0.0.1", UsageError, "address must be auto, local, ray://HOST:PORT or HOST"),
        ("nowhere", UsageError, "not 'nowhere'"),
        ("ray://a:b", UsageError, "not 'ray://a:b'"),
    ],
)
def test_an_address_without_a_cluster_is_named(
    address: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error) as caught, ray_cluster.connected(address, []):
        pass
    assert said in str(caught.value)


def test_without_ray_the_extra_is_named(
    mnist: Mnist, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ray_cluster.importlib.util, "find_spec", lambda name: None)
    outcome = mnist("train", "--framework", "fake", "--runner", "ray", "--results-dir", tmp_path)
    assert outcome.exit_code == 1
    assert outcome.stderr.endswith("pip install 'mnist-cli[cluster]'\n")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--runner", "slurm"], "Unknown runner 'slurm'. Choose from process, ray."),
        (["--address", "local"], "give --runner ray too"),
        (["--share-nodes"], "give --runner ray too"),
        (["--runner", "ray", "--quiet-machine"], "leave --quiet-machine out"),
        (["--runner", "ray", "--gpus-per-run", "1"], "give --device cuda"),
        (["--runner", "ray", "--gpus-per-run", "0", "--device", "cuda"], "GPUs per run must be"),
        (["--runner", "ray", "--threads", "0"], "threads must be from 1 to 1024, not 0."),
    ],
)
def test_options_that_do_not_fit_together_are_refused(
    mnist: Mnist, options: list[str], said: str
) -> None:
    outcome = mnist("compare", "--framework", "fake", *options)
    assert outcome.exit_code == 2
    assert said in outcome.stderr


def test_a_job_from_a_node_names_the_files_that_are_here(small_data: Path) -> None:
    job = TrainJob("fake", ModelSpec("mlp"), TrainConfig(), 1, "a", files={"a": "b"})
    assert process.read_job(process.job_json(job)).local("a") == "b"
    assert job.local("c") == "c"

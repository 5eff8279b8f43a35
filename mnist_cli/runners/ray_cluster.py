"""A Ray cluster: connect to one or start one for the call, and see that its nodes are fit.

The only file that imports Ray, and only when it is asked for.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO, Any
from urllib.parse import urlsplit

from mnist_cli import __version__
from mnist_cli.errors import FrameworkError, UsageError, not_installed
from mnist_cli.machine import available_cores
from mnist_cli.names import framework_name

AUTO, LOCAL = "auto", "local"
_CLIENT_PORT = 10001  # of ray:// addresses that name none
_STORE_BYTES = 256 * 2**20  # of a cluster for one call: MNIST and a few models
_CONNECT_SECONDS = 5.0
_ANSWER_SECONDS = 60.0  # after so long a node that does not answer is taken for lost

# Before Ray is imported: no usage reports, no advice on other ways to install it, and an actor
# without GPUs sees none.
_VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
# Ray's switch against clusters on systems that may not have them: its sockets listen on 127.0.0.1
# alone. Without it Ray replaces 127.0.0.1, even if asked for, by an address that others can reach.
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


@dataclass(frozen=True)
class Share:
    """What the runs on one node have: ``slots`` at a time, each with so many CPUs and GPUs."""

    node: str
    name: str
    slots: int
    cpus: int
    gpus: int


@dataclass
class Ray:
    """The few things that a runner needs of Ray. ``lost`` are the errors of what is gone."""

    module: Any
    frameworks: Sequence[str]
    modules: Sequence[str] = ()
    lost: tuple[type[Exception], ...] = ()
    _problems: dict[str, str] = field(default_factory=dict)  # of each node seen; "" if it is fit

    def __post_init__(self) -> None:
        names = "RayActorError NodeDiedError WorkerCrashedError OutOfMemoryError ObjectLostError "
        names += "GetTimeoutError ActorUnschedulableError TaskUnschedulableError RaySystemError"
        self.lost = tuple(getattr(self.module.exceptions, name) for name in names.split())

    def put(self, value: Any) -> Any:
        """Return the reference of a value in the object store."""
        return self.module.put(value)

    def get(self, reference: Any) -> Any:
        """Return the value of a reference. Raises one of ``lost`` if it is gone."""
        return self.module.get(reference, timeout=_ANSWER_SECONDS)

    def is_ready(self, reference: Any) -> bool:
        """Return whether a value, or an error, is there."""
        return bool(self.module.wait([reference], timeout=0)[0])

    def wait(self, references: list[Any], *, timeout: float, number: int = 1) -> None:
        """Wait until so many of the references are ready, at most so many seconds."""
        self.module.wait(references, timeout=timeout, num_returns=number)

    def kill(self, actor: Any) -> None:
        """End an actor's process."""
        self.module.kill(actor, no_restart=True)

    def actor(self, kind: type, share: Share) -> Callable[..., Any]:
        """Return what starts an actor on a node, with its share of it."""
        options: dict[str, Any] = {
            "num_cpus": share.cpus,
            "num_gpus": share.gpus,
            "max_concurrency": 4,
            "scheduling_strategy": self._on(share.node),
        }
        start: Callable[..., Any] = self.module.remote(kind).options(**options).remote
        return start

    def here(self) -> Share:
        """Return a share of this process' node, the head for ray://, that takes no CPU."""
        return Share(self.module.get_runtime_context().get_node_id(), "", 1, 0, 0)

    def nodes(self) -> list[dict[str, Any]]:
        """Return the nodes that are alive and fit, the first one seen first."""
        alive = [node for node in self.module.nodes() if node["Alive"]]
        self._examine([node for node in alive if node["NodeID"] not in self._problems])
        return [node for node in alive if not self._problems[node["NodeID"]]]

    def problems(self) -> list[str]:
        """Return a sentence for each node on which the runs would fail."""
        return [problem for problem in self._problems.values() if problem]

    def _examine(self, nodes: Sequence[Mapping[str, Any]]) -> None:
        """Find out what is installed on new nodes, without a module that they may not have."""

        def examine(
            version: str, frameworks: Sequence[str], modules: Sequence[str]
        ) -> dict[str, Any]:
            try:
                import mnist_cli
            except ImportError:
                return {"version": None}
            if mnist_cli.__version__ != version:
                return {"version": mnist_cli.__version__}
            from importlib.util import find_spec

            from mnist_cli import adapters

            return {
                "version": version,
                "missing": [name for name in frameworks if not adapters.is_installed(name)],
                "modules": [name for name in modules if find_spec(name) is None],
            }

        self._problems |= {node["NodeID"]: "" for node in nodes}
        able = [node for node in nodes if node["Resources"].get("CPU", 0) >= 1]
        started = [
            self.module.remote(examine)
            .options(num_cpus=0, scheduling_strategy=self._on(node["NodeID"]))
            .remote(__version__, list(self.frameworks), list(self.modules))
            for node in able
        ]
        for node, reference in zip(able, started, strict=True):
            name = node_name(node)
            problem = f"The node {name} does not answer."
            with suppress(*self.lost):
                problem = _problem(name, self.get(reference))
            self._problems[node["NodeID"]] = problem

    def _on(self, node: str) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return NodeAffinitySchedulingStrategy(node_id=node, soft=False)


def _problem(name: str, found: Mapping[str, Any]) -> str:
    """Return in a sentence why the runs would fail on a node, or an empty text."""
    if found["version"] is None:
        return (
            f"The node {name} has no mnist-cli. Install it there: "
            f"pip install 'mnist-cli[cluster]=={__version__}'"
        )
    if found["version"] != __version__:
        return (
            f"The node {name} has mnist-cli {found['version']}, here it is {__version__}. "
            "Install the same version on all nodes."
        )
    missing = ", ".join(map(framework_name, found["missing"]))
    if missing:
        return (
            f"The node {name} has no {missing}. Install it there, or choose others with "
            "--framework."
        )
    if found["modules"]:
        return (
            f"The node {name} has no {', '.join(found['modules'])}. Install it there: "
            "pip install 'mnist-cli[cluster]'"
        )
    return ""


def node_name(node: Mapping[str, Any]) -> str:
    """Return a node's name: its host's, and what tells nodes on one host apart."""
    return f"{node['NodeManagerHostname']}-{node['NodeID'][:4]}"


def shares(
    nodes: Sequence[Mapping[str, Any]],
    *,
    threads: int | None,
    share_nodes: bool,
    gpus_per_run: int,
) -> list[Share]:
    """Return what a run gets on each node; nodes that have too little are left out.

    A run has the node to itself, with ``gpus_per_run`` its part of the GPUs, and with
    ``share_nodes`` as many CPUs as ``threads``, by default 1.
    """
    found = []
    for node in nodes:
        cpus = int(node["Resources"].get("CPU", 0))
        slots = 1
        if gpus_per_run:
            slots = int(node["Resources"].get("GPU", 0) / gpus_per_run)
        elif share_nodes:
            slots = cpus // (threads or 1)
        each = cpus // max(slots, 1) if not share_nodes or gpus_per_run else threads or 1
        if slots and each >= (threads or 1):
            found.append(Share(node["NodeID"], node_name(node), slots, each, gpus_per_run))
    return found


@contextmanager
def connected(
    address: str, frameworks: Sequence[str], *, modules: Sequence[str] = ()
) -> Iterator[Ray]:
    """Connect to the cluster at ``address``, and disconnect at the end.

    ``auto`` is the cluster that runs on this machine; ``local`` starts one for the call, which
    listens on 127.0.0.1 alone, and ends it. Raises `UsageError` or `FrameworkError`, in one line,
    if there is no such cluster, or for a node on which runs of ``frameworks`` would fail, or which
    lacks one of ``modules``.
    """
    for module in ("ray", *modules):
        if importlib.util.find_spec(module) is None:
            raise not_installed(module.capitalize(), "cluster")
    if address not in (AUTO, LOCAL):
        _require_listening(address)
    with ExitStack() as stack:
        stack.enter_context(_environment(_VARIABLES))
        if address == LOCAL:
            stack.enter_context(_environment(_LOOPBACK))
            watchman = stack.enter_context(_watchman())
        import ray

        stack.callback(ray.shutdown)
        _connect(ray, address)
        if address == LOCAL:
            _watch_children(watchman)
        cluster = Ray(ray, frameworks, modules)
        cluster.nodes()
        if problems := cluster.problems():
            raise FrameworkError(problems[0])
        yield cluster


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables of this process, and so of those that it starts, for a while."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _watchman() -> Iterator[IO[str]]:
    """Start a process that ends others when this one is gone, also if it is killed.

    Some of Ray's processes notice that only after a minute. Yields where to name them.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", f"from {__name__} import end_named; end_named()"],
        stdin=subprocess.PIPE,
        text=True,
        start_new_session=True,  # out of reach of Ctrl-C in a terminal
    )
    assert process.stdin is not None
    try:
        yield process.stdin
    finally:
        process.communicate()


def _watch_children(watchman: IO[str]) -> None:
    import psutil

    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has ended meanwhile
            watchman.write(f"{child.pid} {child.create_time()}\n")
    watchman.flush()


def end_named() -> None:
    """Wait until standard input ends, and kill the processes that it named."""
    import psutil

    named = [line.split() for line in sys.stdin]
    for number, created in named:
        with suppress(psutil.Error):  # it has ended
            process = psutil.Process(int(number))
            if process.pid != os.getpid() and process.create_time() == float(created):
                process.kill()


def _require_listening(address: str) -> None:
    """Raise `UsageError` or `FrameworkError` unless somebody listens at ``ray://host:port``."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        port = parts.port or (_CLIENT_PORT if parts.scheme == "ray" else None)
    except ValueError:
        port = None
    if parts.scheme not in ("", "ray") or not parts.hostname or port is None:
        raise UsageError(
            f"address must be auto, local, ray://HOST:PORT or HOST:PORT, not '{address}'."
        )
    try:
        socket.create_connection((parts.hostname, port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise FrameworkError(
            f"There is no Ray cluster at {address} ({error.strerror or error}). Start one with "
            "'ray start --head', give the address of another, or take --address local."
        ) from error


def _connect(ray: Any, address: str) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == LOCAL:
        options |= {
            "num_cpus": available_cores(),
            "include_dashboard": False,
            "object_store_memory": _STORE_BYTES,
        }
    try:
        ray.init(address=address, **options)
    except ConnectionError as error:
        where = "running on this machine" if address == AUTO else f"at {address}"
        raise FrameworkError(
            f"There is no Ray cluster {where}. Start one with 'ray start --head', give its "
            "--address, or take --address local."
        ) from error
    except Exception as error:  # Ray raises its own and others' for versions, tokens, the network
        raise FrameworkError(
            f"Cannot use the Ray cluster at {address}: {_reason(error)}. All nodes and this "
            "machine need the same versions of Ray and Python, and the same token."
        ) from error
    if address == LOCAL and any(
        node["NodeManagerAddress"] not in ("127.0.0.1", "::1") for node in ray.nodes()
    ):
        ray.shutdown()
        raise FrameworkError(
            "Ray was imported before and would listen to other machines: let mnist_cli import it."
        )


def _reason(error: Exception) -> str:
    """Return what Ray says, on one line, without the advice after it."""
    return " ".join(str(error).split())[:300].rstrip(".")

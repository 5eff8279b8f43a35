"""Execute jobs on the nodes of a Ray cluster, one at a time on each node unless asked otherwise.

On each node an actor, `node.NodeAgent`, executes one job after the other, each in a process of its
own as at home. The driver keeps the queue: runs that differ in their framework alone go to the same
node, one after the other. What was on a node that is lost goes on elsewhere, from the checkpoint of
its last epoch if it writes any. A record comes home once, as the result of a call, and files come
and go through Ray's object store.
"""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mnist_cli import errors, records
from mnist_cli.errors import FrameworkError, MnistError
from mnist_cli.machine import slow_nodes
from mnist_cli.names import plural
from mnist_cli.runners import process
from mnist_cli.runners.base import Job, Outcome, TrainJob
from mnist_cli.runners.node import NEWS_SECONDS, NodeAgent, sha256
from mnist_cli.runners.ray_cluster import Ray, Share, connected, shares

MAX_RETRIES = 3  # of one run, on nodes that were lost
_NODES_SECONDS = 2.0  # between two looks at which nodes there are
_WITHOUT_NODES_SECONDS = 600.0  # then the runs have failed
_SOON_SECONDS = 30.0  # in which a node that has nothing to do takes a run
_CANCEL_SECONDS = 8.0
_NAMED = 8  # nodes, when there are more


@dataclass
class _Run:
    """A submitted job, how often it was begun again, and on which kinds of machine it came far.

    ``kinds`` are those on which epochs ended whose checkpoint is here.
    """

    handle: int
    job: TrainJob
    retries: int = 0
    kinds: set[str] = field(default_factory=set)

    def can_go_on(self, kind: str, *, compares_speed: bool) -> bool:
        """Return whether it may go on, on a machine of this kind, after its last epoch.

        A speed that is set against others' is of one kind of machine.
        """
        return bool(self.kinds) and (self.kinds == {kind} or not compares_speed)


@dataclass
class _Slot:
    """A place where one run at a time is executed: an actor on a node, and what it is at."""

    share: Share
    actor: Any
    probe: Any  # the reference of its probe; None once that is done
    kind: str = ""  # of the machine; the probe tells it
    group: str = ""  # of the runs that it is at
    run: _Run | None = None
    result: Any = None
    news: Any = None
    news_at: float = 0.0
    asked_at: float = field(default_factory=time.monotonic)

    def waits_for(self) -> list[Any]:
        """Return the references that it will have something to tell about."""
        return [each for each in (self.probe, self.result, self.news) if each is not None]


@dataclass
class Files:
    """What has been put into the object store: SHA-256 and reference, by the name in jobs."""

    ray: Ray
    stored: dict[str, tuple[str, Any]] = field(default_factory=dict)

    def of(self, job: TrainJob) -> tuple[dict[str, str], list[Any]]:
        """Return the digests of the files that a job needs, by name, and their references."""
        names = [name for name in (job.dataset, job.started_from) if name and name != "mnist"]
        found = {name: self._stored(name, is_data=name == job.dataset) for name in names}
        if job.resume and job.checkpoint and Path(job.checkpoint).exists():
            found[job.checkpoint] = self._put(Path(job.checkpoint).read_bytes())
        return {name: digest for name, (digest, _) in found.items()}, [
            reference for _, reference in found.values()
        ]

    def _stored(self, name: str, *, is_data: bool) -> tuple[str, Any]:
        if name not in self.stored:
            self.stored[name] = self._put(_packed(name) if is_data else Path(name).read_bytes())
        return self.stored[name]

    def _put(self, content: bytes) -> tuple[str, Any]:
        import numpy as np  # an array is not copied out of the store, bytes are

        return sha256(content), self.ray.put(np.frombuffer(content, dtype=np.uint8))


def _packed(name: str) -> bytes:
    """Return a dataset as the bytes of one file."""
    import tempfile

    from mnist_cli.data.registry import load_dataset, save_copy

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.npz"
        save_copy(load_dataset(name), path)
        return path.read_bytes()


class RayRunner:
    """Executes training jobs on the nodes of a cluster that is connected to: see `connected`."""

    def __init__(
        self,
        ray: Ray,
        *,
        threads: int,
        share_nodes: bool,
        gpus_per_run: int = 0,
        timeout_seconds: float | None = None,
        execute: process.Execute | None = None,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``note`` gets a message for the user, such as that a node was lost.

        ``threads`` are those of each run, and ``gpus_per_run`` its GPUs. With ``share_nodes`` a
        node has as many runs at a time as it has cores for. ``execute`` stands in for
        `process.run` on the nodes, in benchmarks.
        """
        self._ray = ray
        self.threads = threads
        self._gpus, self._share_nodes = gpus_per_run, share_nodes
        self._timeout_seconds = timeout_seconds
        self._execute = execute
        self.note = note
        self._files = Files(ray)
        self._groups: dict[str, deque[_Run]] = {}  # runs that are not at work, in order
        self._slots: list[_Slot] = []
        self._outcomes: deque[Outcome] = deque()
        self._told: set[str] = set()
        self._failed_starts: Counter[str] = Counter()  # by node
        self._submitted = 0
        self._looked_at = -_NODES_SECONDS
        self._had_nodes_at = time.monotonic()
        self._probes: dict[str, dict[str, float]] = {}  # seconds by kind and node

    def submit(self, job: Job) -> int:
        """Take a training job to execute, and return its handle."""
        assert isinstance(job, TrainJob)
        run = _Run(self._submitted, job)
        self._submitted += 1
        self._groups.setdefault(_group(job), deque()).append(run)
        return run.handle

    def wait(self, on_event: Callable[[int, dict[str, Any]], None]) -> Outcome:
        """Execute until one of the submitted jobs has ended, and return how."""
        while not self._outcomes:
            self._look_for_nodes()
            self._begin_next(on_event)
            references = [each for slot in self._slots for each in slot.waits_for()]
            if references:
                self._ray.wait(references, timeout=NEWS_SECONDS / 2)
            else:
                time.sleep(NEWS_SECONDS / 2)
            for slot in list(self._slots):
                self._attend(slot, on_event)
        self._begin_next(on_event)  # before the caller writes its document, which may take seconds
        return self._outcomes.popleft()

    def cancel(self, handle: int) -> None:
        """Give up a job: it is not started, or its process is stopped."""
        for key, runs in list(self._groups.items()):
            self._groups[key] = deque(run for run in runs if run.handle != handle)
        for slot in self._slots:
            if slot.run is not None and slot.run.handle == handle:
                slot.run = slot.result = slot.news = None
                self._end([slot])

    def close(self) -> None:
        """Stop all runs on all nodes; none of their processes is left."""
        self._groups.clear()
        self._end(list(self._slots))

    def _end(self, slots: Sequence[_Slot]) -> None:
        """Stop the processes of some slots, then their actors, and forget them."""
        references = []
        for slot in slots:
            with suppress(*self._ray.lost):
                references.append(slot.actor.cancel.remote())
        if references:
            with suppress(*self._ray.lost):
                self._ray.wait(references, timeout=_CANCEL_SECONDS, number=len(references))
        for slot in slots:
            self._slots.remove(slot)
            with suppress(*self._ray.lost):
                self._ray.kill(slot.actor)

    def _look_for_nodes(self) -> None:
        """Give each node that is new, or is there again, its actors."""
        now = time.monotonic()
        if self._slots:
            self._had_nodes_at = now
        elif now - self._had_nodes_at > _WITHOUT_NODES_SECONDS:
            raise FrameworkError(
                f"The cluster has had no node to run on for {_WITHOUT_NODES_SECONDS / 60:g} "
                "minutes. Start one, and go on with --resume."
            )
        if now - self._looked_at < _NODES_SECONDS:
            return
        self._looked_at = now
        known = {slot.share.node for slot in self._slots}
        timing = "shared" if self._share_nodes else "exclusive"
        found = shares(
            self._ray.nodes(),
            threads=self.threads,
            share_nodes=self._share_nodes,
            gpus_per_run=self._gpus,
        )
        for problem in self._ray.problems():
            self._note_once(f"{problem} Until then it gets no runs.")
        for slot in self._slots:
            if slot.probe is not None and now - slot.asked_at > _SOON_SECONDS:
                self._note_once(f"Waiting for {slot.share.name}: others may use its cores.")
        for share in found:
            if share.node not in known:
                for _ in range(share.slots):
                    actor = self._ray.actor(NodeAgent, share)(
                        share.name, timing=timing, execute=self._execute
                    )
                    self._slots.append(_Slot(share, actor, actor.probe.remote()))

    def _note_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self.note(text)

    def _begin_next(self, on_event: Callable[[int, dict[str, Any]], None]) -> None:
        """Let every slot that has nothing to do begin a run."""
        for slot in self._slots:
            if slot.probe is None and slot.run is None:
                self._begin(slot, on_event)

    def _begin(self, slot: _Slot, on_event: Callable[[int, dict[str, Any]], None]) -> None:
        """Let a slot begin the next run: of the runs it is at, else of those nobody is at."""
        taken = {other.group for other in self._slots}
        if not self._groups.get(slot.group):
            self._groups.pop(slot.group, None)
            free = (key for key, runs in self._groups.items() if runs and key not in taken)
            slot.group = next(free, "")
            if not slot.group:
                return
        run = slot.run = self._groups[slot.group].popleft()
        job = run.job
        compares_speed = self._submitted > 1 and not self._share_nodes
        if run.can_go_on(slot.kind, compares_speed=compares_speed):
            job = replace(job, resume=True)
        else:
            run.kinds = set()
        digests, contents = self._files.of(job)
        slot.result = slot.actor.run.remote(
            process.job_json(job), self._timeout_seconds, digests, *contents
        )
        slot.news_at = time.monotonic() + NEWS_SECONDS
        on_event(run.handle, {"event": "started", "node": slot.share.name})

    def _attend(self, slot: _Slot, on_event: Callable[[int, dict[str, Any]], None]) -> None:
        """Take what a slot has to tell; if it is lost, its run is begun again."""
        try:
            self._hear(slot, on_event)
        except self._ray.lost as error:
            self._lose(slot, error)

    def _hear(self, slot: _Slot, on_event: Callable[[int, dict[str, Any]], None]) -> None:
        if slot.probe is not None and self._ray.is_ready(slot.probe):
            probe = self._ray.get(slot.probe)
            slot.probe, slot.kind = None, probe["kind"]
            self._compare_with_kind(slot.share.name, **probe)
        if slot.run is None:
            return
        has_ended = self._ray.is_ready(slot.result)
        if slot.news is not None and (has_ended or self._ray.is_ready(slot.news)):
            self._tell(slot, slot.run, self._ray.get(slot.news), on_event)
            slot.news, slot.news_at = None, time.monotonic() + NEWS_SECONDS
        if has_ended:
            run, end = slot.run, self._ray.get(slot.result)
            slot.run = slot.result = None
            self._tell(slot, run, end, on_event)
            if end.get("was_killed") and run.retries < MAX_RETRIES:
                self.note(f"{end['message']} It is begun again.")
                self._again(slot, run)
            else:
                self._outcomes.append(_outcome(run, end))
        elif slot.news is None and time.monotonic() >= slot.news_at:
            slot.news = slot.actor.news.remote()

    def _tell(
        self,
        slot: _Slot,
        run: _Run,
        news: dict[str, Any],
        on_event: Callable[[int, dict[str, Any]], None],
    ) -> None:
        if news["checkpoint"] is not None:
            run.kinds.add(slot.kind)
            with records.replacing(Path(str(run.job.checkpoint))) as temporary:
                temporary.write_bytes(news["checkpoint"])
        for event in news["events"]:
            on_event(run.handle, event)

    def _lose(self, slot: _Slot, error: Exception) -> None:
        """Forget a slot whose actor, or whole node, is gone; its run is begun again elsewhere."""
        self._slots.remove(slot)
        with suppress(*self._ray.lost):
            self._ray.kill(slot.actor)
        reason = " ".join(str(error).split()).partition(". ")[0]
        if slot.probe is not None:
            self._require_starts(slot.share, reason)
        run = slot.run
        if run is None:
            return
        what = f"{slot.share.name} was lost during a run ({reason})"
        if run.retries < MAX_RETRIES:
            self.note(f"{what}; it is begun again on another node.")
            self._again(slot, run)
        else:
            failure = FrameworkError(
                f"{what}, its {plural(run.retries + 1, 'node')} after another."
            )
            self._outcomes.append(Outcome(run.handle, error=failure))

    def _require_starts(self, share: Share, reason: str) -> None:
        """Raise `FrameworkError` if a node that is alive has lost its actor too often at once."""
        self._failed_starts[share.node] += 1
        if self._failed_starts[share.node] > MAX_RETRIES:
            raise FrameworkError(
                f"The node {share.name} starts no runs ({reason}). If the cluster was started "
                "without a token and this machine has one, set RAY_AUTH_MODE=disabled here."
            )

    def _again(self, slot: _Slot, run: _Run) -> None:
        run.retries += 1
        self._groups.setdefault(slot.group, deque()).appendleft(run)

    def _compare_with_kind(self, node: str, *, kind: str, probe_seconds: float) -> None:
        """Name a node that is slower than its kind."""
        probes = self._probes.setdefault(kind, {})
        before = slow_nodes(probes)
        probes[node] = probe_seconds
        for name, share in slow_nodes(probes).items():
            if name not in before:
                self.note(f"{name} is {share:.0%} slower than its kind in a short probe.")


def _group(job: TrainJob) -> str:
    """Return what runs have in common that are compared, and so go to one node."""
    others = ("framework", "checkpoint", "resume")
    return json.dumps({name: value for name, value in asdict(job).items() if name not in others})


def _outcome(run: _Run, end: dict[str, Any]) -> Outcome:
    if "error" in end:
        error = getattr(errors, end["error"], MnistError)(end["message"])
        error.details = end["details"]
        return Outcome(run.handle, error=error)
    result = end["result"]
    if "environment" in result:
        result["retries"] = run.retries
    return Outcome(run.handle, result)


def require_shares(
    ray: Ray, *, threads: int | None, share_nodes: bool, gpus_per_run: int
) -> list[Share]:
    """Return what a run gets on each node, as `shares` does. Raises `FrameworkError` for none."""
    found = shares(ray.nodes(), threads=threads, share_nodes=share_nodes, gpus_per_run=gpus_per_run)
    if not found:
        gpus = f"{plural(gpus_per_run, 'GPU')} and " if gpus_per_run else ""
        raise FrameworkError(
            f"No node of the cluster has {gpus}{plural(threads or 1, 'core')} for a run. "
            "Ask for fewer, or start a node that has them."
        )
    return found


def cluster_line(found: Sequence[Share], threads: int) -> str:
    """Return which nodes there are, and the threads of each run on them, in a line."""
    names = ", ".join(share.name for share in found[:_NAMED])
    more = ", ..." if len(found) > _NAMED else ""
    return (
        f"Ray cluster: {plural(len(found), 'node')} ({names}{more}), "
        f"{plural(threads, 'thread')} for each run."
    )


@contextmanager
def ray_runner(
    address: str,
    *,
    frameworks: Sequence[str],
    threads: int | None,
    device: str,
    share_nodes: bool = False,
    gpus_per_run: int | None = None,
    timeout_seconds: float | None = None,
    execute: process.Execute | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> Iterator[RayRunner]:
    """Connect to a cluster as `connected` does; yield a runner on it, and stop its runs at the end.

    ``threads`` are by default what each run has on every node. Raises `FrameworkError` if no node
    has those, or the GPUs asked for by ``gpus_per_run`` or, 1 for each run, by ``device`` cuda.
    """
    if gpus_per_run is None:
        gpus_per_run = int(device == "cuda")
    with connected(address, frameworks) as ray:
        found = require_shares(
            ray, threads=threads, share_nodes=share_nodes, gpus_per_run=gpus_per_run
        )
        if threads is None:
            threads = 1 if share_nodes else min(share.cpus for share in found)
        runner = RayRunner(
            ray,
            threads=threads,
            share_nodes=share_nodes,
            gpus_per_run=gpus_per_run,
            timeout_seconds=timeout_seconds,
            execute=execute,
            note=note,
        )
        note(cluster_line(found, threads))
        try:
            yield runner
        finally:
            runner.close()

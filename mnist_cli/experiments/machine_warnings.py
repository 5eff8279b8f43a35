"""Warnings that a machine has spoilt a comparison: a sentence each, from the records alone."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mnist_cli.conditions import DISTURBING_SHARE
from mnist_cli.experiments.statistics import same_device
from mnist_cli.machine import emulates_bfloat16, machine_kind, slow_nodes
from mnist_cli.names import framework_name, plural
from mnist_cli.records import RunRecord

# Variables that limit a framework's speed on a processor. Those of threads are not among them:
# `runners.process` sets them.
_LIMITS = {
    "ATEN_CPU_CAPABILITY": ("torch",),
    "DNNL_MAX_CPU_ISA": ("tensorflow", "torch"),
    "MKL_CBWR": ("numpy", "torch"),
    "MKL_DEBUG_CPU_TYPE": ("numpy", "torch"),
    "MKL_ENABLE_INSTRUCTIONS": ("numpy", "torch"),
    "NPY_DISABLE_CPU_FEATURES": ("numpy",),
    "NPY_ENABLE_CPU_FEATURES": ("numpy",),
    "OMP_THREAD_LIMIT": ("torch",),
    "ONEDNN_MAX_CPU_ISA": ("tensorflow", "torch"),
    "OPENBLAS_CORETYPE": ("numpy",),
    "OPENBLAS_L2_SIZE": ("numpy",),
}
# Instruction sets by speed, and those of the processors that OpenBLAS names its kernels after.
_LEVELS = {"AVX512": 3, "AVX2": 2, "AVX": 1}
_OPENBLAS_LEVELS = {
    **dict.fromkeys(("SkylakeX", "Cooperlake", "SapphireRapids"), 3),
    **dict.fromkeys(("Haswell", "Zen"), 2),
    **dict.fromkeys(("Sandybridge", "Bulldozer", "Piledriver", "Steamroller", "Excavator"), 1),
}


def machine_warnings(records: Sequence[RunRecord]) -> list[str]:
    """Return a sentence, without a full stop, for each way in which the machine spoilt the runs."""
    return [
        *library_limits(records),
        *_different_devices(records),
        *_disturbances(records),
        *_throttling(records),
        *_gpu_sharing(records),
        *_node_sharing(records),
        *_kinds_of_machine(records),
        *_slow_nodes(records),
    ]


def library_limits(records: Sequence[RunRecord]) -> list[str]:
    """Return a sentence for each variable that limits a framework on this processor.

    And for each framework that computed in bfloat16, if the processor has no instructions for it.
    """
    sentences = [
        _limit(record, variable, value)
        for record in records
        for variable, value in record.environment.get("variables", {}).items()
        if record.framework in _LIMITS.get(variable, ()) and _device(record) == "cpu"
    ]
    return [*dict.fromkeys(filter(None, sentences)), *_emulated_precision(records)]


def _emulated_precision(records: Sequence[RunRecord]) -> list[str]:
    names = {
        framework_name(record.framework)
        for record in records
        if record.precision == "bfloat16" and emulates_bfloat16(record.environment)
    }
    return [
        f"{name} emulates bfloat16, slower than float32: the processor has no instructions for it"
        for name in sorted(names)
    ]


def _limit(record: RunRecord, variable: str, value: str) -> str:
    """Return what a variable does to a run, or an empty text if it takes nothing from it."""
    environment = record.environment
    best = environment.get("cpu_isa")  # None on processors other than x86
    used = None
    if variable.startswith("MKL_") and "mkl" not in re.split(r"\W+", environment.get("blas", "")):
        return ""
    if variable == "OPENBLAS_CORETYPE":
        used = environment.get("blas_kernels", {}).get("openblas")
        if used is None:
            return ""
    elif variable.endswith("_MAX_CPU_ISA"):
        used = environment.get("onednn_isa")
    elif variable == "ATEN_CPU_CAPABILITY":
        used = value
    name = framework_name(record.framework)
    if used is None or best is None:
        return f"{name} may be slowed by {variable}={value}"
    is_limited = _level(used) < _level(best)
    if record.precision == "bfloat16" and variable.endswith("_MAX_CPU_ISA"):
        is_limited = used != best  # finer steps matter there
    return f"{name} is limited to {used} kernels by {variable}" if is_limited else ""


def _level(name: str) -> int:
    """Return the rank of an instruction set, or of an OpenBLAS processor's; 0 for the least."""
    by_prefix = (rank for prefix, rank in _LEVELS.items() if name.upper().startswith(prefix))
    return _OPENBLAS_LEVELS.get(name) or next(by_prefix, 0)


def _device(record: RunRecord) -> str:
    return str(record.environment.get("device", "cpu"))


def _different_devices(records: Sequence[RunRecord]) -> list[str]:
    if same_device(map(_device, records)):
        return []
    pairs = {f"{framework_name(record.framework)}: {_device(record)}" for record in records}
    return [f"the frameworks ran on different devices ({', '.join(sorted(pairs))})"]


def _disturbances(records: Sequence[RunRecord]) -> list[str]:
    shares = [r.conditions.taken_share for r in records if r.conditions]
    disturbing = [share for share in shares if share > DISTURBING_SHARE]
    if not disturbing:
        return []
    return [f"others took {_most(disturbing)} of the cores during {_part(disturbing, records)}"]


def _throttling(records: Sequence[RunRecord]) -> list[str]:
    shares = [
        (r.conditions.throttled_periods or 0) / r.conditions.quota_periods
        for r in records
        if r.conditions and r.conditions.quota_periods
    ]
    disturbing = [share for share in shares if share > DISTURBING_SHARE]
    if not disturbing:
        return []
    stopped = _part(disturbing, records)
    return [f"the CPU quota stopped {stopped}, in {_most(disturbing)} of its periods"]


def _gpu_sharing(records: Sequence[RunRecord]) -> list[str]:
    shared = [r for r in records if r.conditions and r.conditions.gpu_others]
    if not shared:
        return []
    return [f"other processes were on the GPU during {_part(shared, records)}"]


def _node_sharing(records: Sequence[RunRecord]) -> list[str]:
    shared = [record for record in records if record.timing == "shared"]
    if not shared:
        return []
    return [f"other runs were on the machine during {_part(shared, records)}: compare no speed"]


def _kinds_of_machine(records: Sequence[RunRecord]) -> list[str]:
    kinds = {machine_kind(record.environment) for record in records}
    if len(kinds) < 2:
        return []
    return [f"times and speeds are means over {len(kinds)} kinds of machine"]


def _slow_nodes(records: Sequence[RunRecord]) -> list[str]:
    probes: dict[str, dict[str, float]] = {}
    for environment in (record.environment for record in records):
        if "probe_seconds" in environment:
            nodes = probes.setdefault(machine_kind(environment), {})
            nodes[environment["node"]] = environment["probe_seconds"]
    return [
        f"the node {name} is {share:.0%} slower than its kind in a short probe"
        for nodes in probes.values()
        for name, share in slow_nodes(nodes).items()
    ]


def _most(shares: Sequence[float]) -> str:
    """Return ``up to 43%``, or ``43%`` for a single share."""
    return "up to " * (len(shares) > 1) + f"{max(shares):.0%}"


def _part(some: Sequence[object], records: Sequence[RunRecord]) -> str:
    """Return ``3 of 18 runs``, or ``the run`` if there is only one."""
    if len(records) == 1:
        return "the run"
    return f"{len(some)} of {plural(len(records), 'run')}"

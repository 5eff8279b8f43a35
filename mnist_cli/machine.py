"""The machine that a run is on: processors, quota, kernels, variables and GPUs."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

# Variables that can hold a library back, or say how many threads it starts.
_VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "CUDA_LAUNCH_BLOCKING",
    "DNNL_MAX_CPU_ISA",
    "NPY_DISABLE_CPU_FEATURES",
    "NPY_ENABLE_CPU_FEATURES",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS",
    "OMP_THREAD_LIMIT",
    "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_CORETYPE",
    "OPENBLAS_L2_SIZE",
    "OPENBLAS_NUM_THREADS",
)
_VARIABLE_PREFIXES = ("KMP_", "MKL_")

# oneDNN's instruction sets, the best first, with the processor's flags that each needs.
_INSTRUCTION_SETS = {
    "AVX512_CORE_AMX_FP16": "amx_tile amx_fp16 avx512_fp16",
    "AVX512_CORE_AMX": "amx_tile amx_int8 amx_bf16 avx512_fp16",
    "AVX512_CORE_FP16": "avx512_fp16 avx512_bf16 avx512_vnni",
    "AVX512_CORE_BF16": "avx512_bf16 avx512_vnni avx512f",
    "AVX512_CORE_VNNI": "avx512_vnni avx512f",
    "AVX512_CORE": "avx512f avx512bw avx512vl avx512dq",
    "AVX2_VNNI_2": "avx_vnni_int8 avx_ne_convert avx2",
    "AVX2_VNNI": "avx_vnni avx2",
    "AVX2": "avx2",
    "AVX": "avx",
    "SSE41": "sse4_1",
}
# Those that multiply bfloat16; with others it is converted to float32 and back.
_BFLOAT16_SETS = [name for name, flags in _INSTRUCTION_SETS.items() if "bf16" in flags] + [
    "AVX512_CORE_AMX_FP16"
]

# A node so much slower than its kind in a short probe is named.
SLOW_SHARE = 0.2

_PROCESS = Path("/proc/self")


def available_cores() -> int:
    """Return for how many threads this process has processors and quota.

    The smaller of its affinity and its control groups' quota, rounded down; at least 1.
    """
    if hasattr(os, "sched_getaffinity"):
        processors = len(os.sched_getaffinity(0))
    else:
        processors = os.cpu_count() or 1
    quota = cpu_quota()
    return processors if quota is None else max(1, min(processors, int(quota)))


def cpu_quota() -> float | None:
    """Return how many processors' time the control groups of this process allow, if limited."""
    limiting = limiting_group()
    return None if limiting is None else limiting[1]


def limiting_group() -> tuple[Path, float] | None:
    """Return the folder and the quota, in processors, of the control group that allows least.

    That is the process's own group or one of those around it, of version 1 or 2; None if no group
    has a quota.
    """
    quotas = [(folder, quota) for folder in _control_groups() if (quota := _quota(folder))]
    return min(quotas, key=lambda pair: pair[1], default=None)


def _control_groups() -> list[Path]:
    """Return the folders of the groups whose quota counts: from the process's own to the root."""
    try:
        memberships = (_PROCESS / "cgroup").read_text().splitlines()
        mounts = (_PROCESS / "mountinfo").read_text().splitlines()
    except OSError:
        return []
    groups = {}  # the path of the process's group, by type of file system
    for line in memberships:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            groups["cgroup2"] = path
        elif "cpu" in controllers.split(","):
            groups["cgroup"] = path
    folders = []
    for line in mounts:  # ID, parent, device, root, mount point, ... - type, source, options
        mount, _, filesystem = line.partition(" - ")
        root, point = mount.split()[3:5]
        kind, _, options = filesystem.split()
        if kind in groups and (kind == "cgroup2" or "cpu" in options.split(",")):
            own = PurePosixPath(groups[kind])
            # A container may see only its own group, mounted under a path of the host.
            parts = own.relative_to(root).parts if own.is_relative_to(root) else ()
            folders += [Path(point, *parts[:depth]) for depth in range(len(parts), -1, -1)]
    return folders


def _quota(folder: Path) -> float | None:
    """Return the quota of a control group in processors, or None if it has none."""
    with suppress(OSError, ValueError):  # not there, or "max"
        quota, period = map(int, (folder / "cpu.max").read_text().split())
        return quota / period
    with suppress(OSError, ValueError):
        quota, period = (
            int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period")
        )
        return quota / period if quota > 0 else None  # -1 is none
    return None


def version_of(distribution: str) -> str | None:
    """Return the installed version of a distribution without importing it, or None."""
    from importlib import metadata  # a tenth of `mnist predict`'s own time to start

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


@functools.cache  # it runs other programs, and an experiment needs it after each run
def describe_machine() -> dict[str, Any]:
    """Return hardware, system and program as JSON values; the caller must not change the result."""
    return {
        "cpu": _cpu_name(),
        "cores": available_cores(),
        "cpu_quota": cpu_quota(),
        "cpu_isa": instruction_set(),
        "onednn_isa": instruction_set(limit=_onednn_limit()),
        "memory_gib": _memory_gib(),
        "gpus": _gpus(),
        "variables": variables(),
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "mnist_cli": version_of("mnist-cli"),
        "git_commit": _git_commit(),
    }


def machine_kind(environment: Mapping[str, Any]) -> str:
    """Return what makes two machines one kind, from what `describe_machine` said of one.

    Processor, cores, vector instructions and GPUs: ``Xeon, 8 cores, AVX2``. Runs that name no
    ``node`` of a cluster were all on one machine, whatever an older record leaves out of it.
    """
    if "node" not in environment:
        return ""
    cores = environment.get("cores")
    parts = [environment["cpu"], cores and f"{cores} cores", environment.get("cpu_isa")]
    return ", ".join(filter(None, [*parts, *(environment.get("gpus") or [])]))


def probe_seconds() -> float:
    """Return how long a fixed piece of work takes on one core: the best of some, 0.2 s in all.

    Matrix products and plain Python: what all runs need, on every kind of machine.
    """
    import numpy as np
    from threadpoolctl import threadpool_limits

    matrix = np.linspace(0.0, 1.0, 192 * 192, dtype=np.float32).reshape(192, 192)
    best = float("inf")
    with threadpool_limits(1):
        for _ in range(12):
            began = time.perf_counter()
            for _ in range(20):
                _ = matrix @ matrix
            sum(range(100_000))
            best = min(best, time.perf_counter() - began)
    return best


def slow_nodes(probes: Mapping[str, float]) -> dict[str, float]:
    """Return which nodes of one kind are slower than the others, and by what share (0-1).

    ``probes`` are their `probe_seconds` by name. The usual time is the median or, of two in the
    middle, the shorter.
    """
    if not probes:
        return {}
    usual = sorted(probes.values())[(len(probes) - 1) // 2]
    slower = {node: 1 - usual / seconds for node, seconds in probes.items()}
    return {node: share for node, share in slower.items() if share > SLOW_SHARE}


def variables() -> dict[str, str]:
    """Return the variables of the environment that libraries take limits from, by name."""
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name in _VARIABLES or name.startswith(_VARIABLE_PREFIXES)
    }


def instruction_set(*, limit: str | None = None) -> str | None:
    """Return the processor's best vector instructions, by oneDNN's name; None if not known.

    ``limit`` is the best of them that may be used.
    """
    flags = _cpu_flags()
    names = list(_INSTRUCTION_SETS)
    allowed = names[names.index(limit) :] if limit in names else names
    return next(
        (name for name in allowed if flags.issuperset(_INSTRUCTION_SETS[name].split())), None
    )


def emulates_bfloat16(environment: Mapping[str, Any]) -> bool:
    """Return whether a run in this environment, a record's, had no instructions for bfloat16."""
    known = environment.get("cpu_isa")  # None on processors other than x86
    is_cpu = environment.get("device") == "cpu"
    return is_cpu and known is not None and known not in _BFLOAT16_SETS


def _onednn_limit() -> str | None:
    """Return the instruction set to which variables limit oneDNN, if they do.

    oneDNN itself does not tell what it uses; this is its documented rule.
    """
    value = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA"))
    return value and value.upper()


def blas_kernels() -> dict[str, str]:
    """Return for which processor each loaded BLAS library has chosen its kernels.

    ``{"openblas": "SkylakeX"}``, say. Libraries that do not tell are left out, MKL among them.
    """
    from threadpoolctl import threadpool_info

    return {
        library["internal_api"]: library["architecture"]
        for library in threadpool_info()
        if library.get("architecture")
    }


def gpu_state() -> dict[str, float] | None:
    """Return what the GPU that a run would use is doing, or None if there is no NVIDIA GPU.

    ``clock_mhz``, ``max_clock_mhz``, ``busy_share`` (0-1) and ``processes``; what the driver does
    not tell is left out.
    """
    gpu = f"--id={os.environ.get('CUDA_VISIBLE_DEVICES', '').partition(',')[0] or 0}"
    query = "--query-gpu=clocks.sm,clocks.max.sm,utilization.gpu"
    line = _run("nvidia-smi", gpu, query, "--format=csv,noheader,nounits")
    if not line:
        return None
    state = {}
    for name, text in zip(
        ("clock_mhz", "max_clock_mhz", "busy_share"), line.split(","), strict=True
    ):
        with suppress(ValueError):  # "[N/A]"
            state[name] = float(text)
    if "busy_share" in state:
        state["busy_share"] /= 100
    processes = _run("nvidia-smi", gpu, "--query-compute-apps=pid", "--format=csv,noheader")
    return {**state, "processes": len(processes.splitlines())}


def peak_rss_mib() -> float:
    """Return this process's peak resident memory in MiB, or 0 if the system does not report it."""
    # On Linux getrusage's figure survives exec, so a child can inherit its parent's; VmHWM does
    # not.
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    with suppress(ImportError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 1024 / (1024 if platform.system() == "Darwin" else 1)
    return 0.0


def _cpu_name() -> str:
    return _cpu_field("model name") or platform.processor() or platform.machine()


def _cpu_flags() -> set[str]:
    return set(_cpu_field("flags").split())


def _cpu_field(name: str) -> str:
    """Return what Linux says of the first processor, or an empty text."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(name):
                return line.partition(":")[2].strip()
    return ""


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _gpus() -> list[str]:
    return _run("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines()


def _git_commit() -> str | None:
    """Return the commit this package runs from, or None when it is installed elsewhere."""
    folder = Path(__file__).parent
    tracked = _run("git", "-C", str(folder), "ls-files", "--error-unmatch", "machine.py")
    return _run("git", "-C", str(folder), "rev-parse", "HEAD").strip() or None if tracked else None


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout

"""The machine as it is described: cores and quota, kernels, variables, GPUs, memory."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mnist_cli import machine

Groups = Callable[..., Path]


def _run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


# --- Cores and quota ---------------------------------------------------------------------------


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Groups:
    """Put this process into control groups made of files; return the folder of the outermost.

    ``cgroup`` is the text of /proc/self/cgroup. ``kind``, ``root`` and ``options`` are those of the
    mount; ``files`` are written below it.
    """

    def groups(
        files: dict[str, str],
        *,
        cgroup: str,
        kind: str = "cgroup2",
        root: str = "/",
        options: str = "rw",
    ) -> Path:
        process, mount = tmp_path / "process", tmp_path / "mount"
        process.mkdir()
        (process / "cgroup").write_text(cgroup)
        (process / "mountinfo").write_text(
            f"24 1 0:21 / /proc rw,nosuid shared:12 - proc proc rw\n"
            f"31 24 0:28 {root} {mount} ro,nosuid shared:9 - {kind} {kind} {options}\n"
        )
        for name, text in files.items():
            path = mount / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
        monkeypatch.setattr(machine, "_PROCESS", process)
        return mount

    return groups


@pytest.fixture
def processors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host of 64 processors, all of which the process may use."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)


V1 = {
    "kind": "cgroup",
    "options": "rw,cpu,cpuacct",
    "cgroup": "5:memory:/\n4:cpu,cpuacct:/\n0::/\n",
}


def _v1(folder: str, quota: int, period: int = 100_000) -> dict[str, str]:
    names = {"cpu.cfs_quota_us": quota, "cpu.cfs_period_us": period}
    return {f"{folder}{name}": str(figure) for name, figure in names.items()}


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("100000 100000", 1),
        ("350000 100000", 3),
        ("50000 100000", 1),
        ("25000 10000", 2),
        ("max 100000", 64),
        ("9900000 100000", 64),
    ],
)
def test_cores_are_the_quota_of_version_2_rounded_down_but_at_least_one(
    groups: Groups, processors: None, quota: str, cores: int
) -> None:
    groups({"cpu.max": quota}, cgroup="0::/\n")
    assert machine.available_cores() == cores


@pytest.mark.parametrize(
    ("quota", "period", "cores"),
    [(100_000, 100_000, 1), (350_000, 100_000, 3), (5_000, 10_000, 1), (-1, 100_000, 64)],
)
def test_cores_are_the_quota_of_version_1_rounded_down_but_at_least_one(
    groups: Groups, processors: None, quota: int, period: int, cores: int
) -> None:
    groups(_v1("", quota, period), **V1)
    assert machine.available_cores() == cores


def test_the_quota_of_every_group_around_the_process_counts(
    groups: Groups, processors: None
) -> None:
    files = {
        "cpu.max": "max 100000",
        "pod/cpu.max": "250000 100000",
        "pod/task/cpu.max": "800000 100000",
        "other/cpu.max": "100000 100000",
    }
    mount = groups(files, cgroup="0::/pod/task/step\n")  # a group of its own, without a quota
    assert machine.cpu_quota() == 2.5
    assert machine.available_cores() == 2
    assert machine.limiting_group() == (mount / "pod", 2.5)


def test_the_quotas_of_nested_groups_count_in_version_1_too(
    groups: Groups, processors: None
) -> None:
    files = _v1("", -1) | _v1("pod/", 400_000) | _v1("pod/task/", 600_000)
    groups(files, **(V1 | {"cgroup": "4:cpu,cpuacct:/pod/task\n0::/\n"}))
    assert machine.available_cores() == 4


def test_a_container_that_sees_only_its_own_group_finds_its_quota(
    groups: Groups, processors: None
) -> None:
    # Docker with version 1: the path is the host's, and so is the root of the mount.
    path = "/docker/0123"
    groups(_v1("", 200_000), **(V1 | {"cgroup": f"4:cpu,cpuacct:{path}\n", "root": path}))
    assert machine.available_cores() == 2


def test_a_group_outside_the_mount_is_read_as_far_as_it_is_seen(
    groups: Groups, processors: None
) -> None:
    groups({"cpu.max": "300000 100000"}, cgroup="0::/kubepods/pod1\n", root="/kubepods/pod2")
    assert machine.available_cores() == 3


def test_other_controllers_have_no_say(groups: Groups, processors: None) -> None:
    groups(_v1("", 100_000), **(V1 | {"options": "rw,cpuset"}))
    assert machine.cpu_quota() is None


def test_the_affinity_counts_where_it_is_the_smaller(
    groups: Groups, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups({"cpu.max": "800000 100000"}, cgroup="0::/\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5, 7}, raising=False)
    assert machine.available_cores() == 3


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_available_cores_are_those_that_the_process_may_use() -> None:
    assert 1 <= machine.available_cores() <= len(os.sched_getaffinity(0))
    code = (
        "import os\n"
        "from mnist_cli.machine import available_cores\n"
        "os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "print(available_cores())\n"
    )
    assert _run(code).stdout == "1\n"


def test_without_affinity_all_processors_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "_PROCESS", tmp_path)  # a system without control groups
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert machine.available_cores() == 12
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.available_cores() == 1


def test_threads_are_those_of_the_quota(groups: Groups, processors: None) -> None:
    from mnist_cli.api.arguments import checked_threads
    from mnist_cli.errors import UsageError

    groups({"cpu.max": "150000 100000"}, cgroup="0::/\n")
    assert checked_threads(None) == 1
    with pytest.raises(UsageError, match="threads must be from 1 to 1, not 2"):
        checked_threads(2)


# --- Kernels and variables ---------------------------------------------------------------------


def test_variables_that_limit_a_library_are_listed_and_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [*machine.variables(), "SECRET"]:
        monkeypatch.delenv(name, raising=False)
    limits = {"MKL_ENABLE_INSTRUCTIONS": "AVX2", "OPENBLAS_CORETYPE": "Haswell"}
    for name, value in limits.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MNIST_OTHER", "1")
    assert machine.variables() == limits


@pytest.fixture
def flags(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Give the processor these flags, and set no variable that limits oneDNN."""
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    return lambda text: monkeypatch.setattr(machine, "_cpu_flags", lambda: set(text.split()))


AVX2 = "sse4_1 avx avx2 fma"
AVX512 = f"{AVX2} avx512f avx512bw avx512vl avx512dq"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("", None),
        ("sse4_1", "SSE41"),
        (AVX2, "AVX2"),
        (f"{AVX2} avx_vnni", "AVX2_VNNI"),
        (AVX512, "AVX512_CORE"),
        (f"{AVX512} avx512_vnni avx512_bf16", "AVX512_CORE_BF16"),
    ],
)
def test_the_instruction_set_is_the_best_that_the_processor_has(
    flags: Callable[[str], None], text: str, name: str | None
) -> None:
    flags(text)
    assert machine.instruction_set() == name


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({}, "AVX512_CORE"),
        ({"ONEDNN_MAX_CPU_ISA": "avx2"}, "AVX2"),
        ({"DNNL_MAX_CPU_ISA": "AVX2_VNNI"}, "AVX2"),  # the best below that this processor has
        ({"ONEDNN_MAX_CPU_ISA": "AVX", "DNNL_MAX_CPU_ISA": "AVX2"}, "AVX"),
        ({"ONEDNN_MAX_CPU_ISA": "DEFAULT"}, "AVX512_CORE"),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_AMX"}, "AVX512_CORE"),
    ],
)
def test_onednn_uses_what_its_variables_allow(
    flags: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    name: str,
) -> None:
    flags(AVX512)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    described = machine.describe_machine.__wrapped__()
    assert (described["cpu_isa"], described["onednn_isa"]) == ("AVX512_CORE", name)


def test_blas_kernels_are_those_that_threadpoolctl_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    libraries = [
        {"internal_api": "openblas", "architecture": "SkylakeX"},
        {"internal_api": "mkl"},
        {"internal_api": "openmp", "architecture": None},
    ]
    monkeypatch.setattr("threadpoolctl.threadpool_info", lambda: libraries)
    assert machine.blas_kernels() == {"openblas": "SkylakeX"}


def test_the_kernels_of_openblas_follow_its_variable() -> None:
    code = "import numpy\nfrom mnist_cli.machine import blas_kernels\nprint(blas_kernels())\n"
    kernels = _run(code, OPENBLAS_CORETYPE="Nehalem").stdout
    if "openblas" not in _run(code).stdout or platform.machine() != "x86_64":
        pytest.skip("NumPy has no OpenBLAS for x86")
    assert kernels == "{'openblas': 'Nehalem'}\n"


# --- GPUs --------------------------------------------------------------------------------------


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Install a driver's program of this shell script; ``$*`` are its arguments."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    def install(script: str) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    return install


def test_a_gpu_tells_clocks_load_and_processes(
    nvidia_smi: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    nvidia_smi(
        'case "$*" in\n'
        "*--id=2*clocks.sm*) echo '1410, 1980, 25' ;;\n"
        "*--id=2*compute-apps*) echo 4711; echo 4712 ;;\n"
        "*) exit 1 ;;\n"
        "esac"
    )
    assert machine.gpu_state() is None  # the first GPU, of which this driver knows nothing
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
    expected = {"clock_mhz": 1410, "max_clock_mhz": 1980, "busy_share": 0.25, "processes": 2}
    assert machine.gpu_state() == expected


def test_what_a_driver_does_not_tell_is_left_out(nvidia_smi: Callable[[str], None]) -> None:
    nvidia_smi('case "$*" in *clocks*) echo "1410, [N/A], [N/A]";; esac')
    assert machine.gpu_state() == {"clock_mhz": 1410, "processes": 0}
    nvidia_smi("echo no devices were found; exit 6")
    assert machine.gpu_state() is None


# --- The description ---------------------------------------------------------------------------


def test_versions_are_read_without_importing() -> None:
    assert machine.version_of("pytest") == pytest.__version__
    assert machine.version_of("no-such-distribution") is None


def test_the_machine_is_described_in_json_values() -> None:
    described = machine.describe_machine()
    assert json.loads(json.dumps(described)) == described
    assert described["cores"] == machine.available_cores()
    assert described["python"] == platform.python_version()
    assert described["os"].startswith(platform.system())
    assert described["cpu"]


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="needs /proc")
def test_memory_is_the_systems_in_gib() -> None:
    (total,) = (
        int(line.split()[1])
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemTotal:")
    )
    # Both are the kernel's figure; one is rounded to a tenth.
    assert machine.describe_machine()["memory_gib"] == pytest.approx(total / 2**20, abs=0.1)


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="needs /proc")
def test_the_processor_is_named_as_the_system_names_it() -> None:
    text = Path("/proc/cpuinfo").read_text()
    if "model name" in text:
        name = machine.describe_machine()["cpu"]
        assert re.search(rf"^model name\s*: {re.escape(name)}$", text, re.M)
        assert name == name.strip()


def test_what_the_system_does_not_tell_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", absent)
    monkeypatch.setattr(os, "sysconf", absent)
    monkeypatch.setattr(subprocess, "run", absent)
    described = machine.describe_machine.__wrapped__()
    assert described["cpu"] == (platform.processor() or platform.machine())
    assert described["memory_gib"] is described["cpu_isa"] is None
    assert described["gpus"] == []
    assert described["git_commit"] is None


def test_each_gpu_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA H100'\necho 'NVIDIA H200'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert machine.describe_machine.__wrapped__()["gpus"] == ["NVIDIA H100", "NVIDIA H200"]
    program.write_text("#!/bin/sh\necho 'no devices were found'; exit 6\n")
    assert machine.describe_machine.__wrapped__()["gpus"] == []


@pytest.mark.parametrize("tracked", [True, False])
def test_the_commit_is_that_of_the_package_and_of_no_other_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracked: bool
) -> None:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    (tmp_path / "machine.py").write_text("")
    (tmp_path / "other.py").write_text("")
    git("init", "--quiet")
    git("add", "machine.py" if tracked else "other.py")
    git("commit", "--quiet", "-m", "first")
    # Installed into an environment inside somebody's repository, it is not of their commit.
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "machine.py"))
    assert machine._git_commit() == (git("rev-parse", "HEAD") if tracked else None)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_peak_memory_is_the_processs_own_peak_in_mib() -> None:
    code = (
        "from mnist_cli.machine import peak_rss_mib\n"
        "before = peak_rss_mib()\n"
        "bytearray(b'x') * (100 * 2**20)\n"
        "print(before, peak_rss_mib())\n"
    )
    # The parent is large; a child must not inherit its peak.
    ballast = bytearray(b"x") * (200 * 2**20)
    before, after = map(float, _run(code).stdout.split())
    del ballast
    assert 5 < before < 100  # the interpreter and this package's ground floor
    # 100 MiB and less than a page or two beside them.
    assert after - before == pytest.approx(100, abs=5)


@pytest.mark.parametrize(("system", "divisor"), [("Linux", 1), ("Darwin", 1024)])
def test_peak_memory_without_proc_is_that_of_getrusage(
    monkeypatch: pytest.MonkeyPatch, system: str, divisor: int
) -> None:
    resource = pytest.importorskip("resource")

    def absent(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", absent)
    monkeypatch.setattr(platform, "system", lambda: system)
    # Linux counts in KiB, macOS in bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert machine.peak_rss_mib() == pytest.approx(peak / 1024 / divisor, rel=0.01)


def test_peak_memory_is_0_where_the_system_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", absent)
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows: its import fails
    assert machine.peak_rss_mib() == 0

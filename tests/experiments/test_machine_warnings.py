"""Warnings that the machine spoilt a comparison, and where they are shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chart_checks import require_readable, texts
from made_records import make_record
from rich.console import Console

from mnist_cli.cli import output
from mnist_cli.conditions import Conditions
from mnist_cli.experiments import statistics
from mnist_cli.experiments.machine_warnings import machine_warnings
from mnist_cli.records import RunRecord
from mnist_cli.reporting import console, page, tables
from mnist_cli.reporting.charts import batch_size as batch_size_chart
from mnist_cli.reporting.charts import comparison as comparison_chart
from mnist_cli.reporting.comparison import Comparison


def on(
    framework: str = "numpy",
    *,
    precision: str = "float32",
    conditions: Conditions | None = None,
    **environment: Any,
) -> RunRecord:
    """A run on a processor with AVX-512 and OpenBLAS, unless ``environment`` says otherwise."""
    record = make_record(framework)
    defaults = {
        "cpu_isa": "AVX512_CORE_BF16",
        "onednn_isa": "AVX512_CORE_BF16",
        "blas_kernels": {"openblas": "Cooperlake"},
        "blas": "openblas 0.3.30",
        "variables": {"OMP_NUM_THREADS": "2"},
    }
    environment = record.environment | defaults | environment
    return replace(
        record, precision=precision, conditions=conditions, environment=environment, test_errors=()
    )


def haswell(framework: str = "numpy", **environment: Any) -> RunRecord:
    """A run under OpenBLAS's variable."""
    variables = {"OPENBLAS_CORETYPE": "Haswell"}
    kernels = {"openblas": "Haswell"}
    return on(framework, **({"variables": variables, "blas_kernels": kernels} | environment))


HASWELL = "NumPy is limited to Haswell kernels by OPENBLAS_CORETYPE"


@pytest.mark.parametrize(
    ("environment", "is_emulated"),
    [
        ({}, False),  # AVX512_BF16
        ({"cpu_isa": "AVX512_CORE_AMX", "onednn_isa": "AVX512_CORE_AMX"}, False),
        ({"cpu_isa": "AVX512_CORE_AMX_FP16", "onednn_isa": "AVX512_CORE_AMX_FP16"}, False),
        ({"cpu_isa": "AVX2", "onednn_isa": "AVX2"}, True),
        ({"cpu_isa": None, "onednn_isa": None}, False),  # not known
        ({"device": "NVIDIA H100", "cpu_isa": "AVX2"}, False),
    ],
)
def test_bfloat16_without_instructions_for_it_is_warned_of(
    environment: dict[str, Any], is_emulated: bool
) -> None:
    said = "PyTorch emulates bfloat16, slower than float32: the processor has no instructions"
    run = on("torch", precision="bfloat16", **environment)
    assert any(said in text for text in machine_warnings([run])) == is_emulated
    assert not any(said in text for text in machine_warnings([replace(run, precision="float32")]))


def test_runs_on_a_machine_of_their_own_have_no_warning() -> None:
    calm = Conditions(10.0, others_share=0.02, steal_share=0.01)
    records = [on(conditions=calm), on("torch", conditions=calm), make_record("tensorflow")]
    assert machine_warnings(records) == []


def test_a_variable_that_limits_kernels_is_named_once_with_framework_and_kernels() -> None:
    assert machine_warnings([haswell(), haswell(), haswell("torch")]) == [HASWELL]


@pytest.mark.parametrize(
    "harmless",
    [
        haswell(cpu_isa="AVX2"),  # the processor has no better ones
        haswell(blas_kernels={}, blas="mkl 2024.0"),  # no OpenBLAS
        on(variables={"OPENBLAS_CORETYPE": "SkylakeX"}, blas_kernels={"openblas": "SkylakeX"}),
        on(variables={"ONEDNN_MAX_CPU_ISA": "AVX2"}, onednn_isa="AVX2"),  # NumPy has no oneDNN
        on("torch", variables={"ONEDNN_MAX_CPU_ISA": "DEFAULT"}),
        # Of a matter to bfloat16 alone.
        on("torch", variables={"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, onednn_isa="AVX512_CORE"),
        on("torch", variables={"ATEN_CPU_CAPABILITY": "avx512"}),
        on("torch", variables={"MKL_ENABLE_INSTRUCTIONS": "AVX2"}, blas="mkldnn, openmp"),
        on("torch", variables={"MKL_NUM_THREADS": "1"}, blas="mkl, mkldnn, openmp"),
        on("torch", variables={"ATEN_CPU_CAPABILITY": "default"}, device="NVIDIA H100"),
        on("somebodys", variables={"OPENBLAS_CORETYPE": "Haswell"}),
    ],
)
def test_a_variable_that_takes_nothing_from_a_run_is_no_warning(harmless: RunRecord) -> None:
    assert machine_warnings([harmless]) == []


@pytest.mark.parametrize(
    ("limited", "said"),
    [
        (
            on("torch", variables={"ONEDNN_MAX_CPU_ISA": "AVX2"}, onednn_isa="AVX2"),
            "PyTorch is limited to AVX2 kernels by ONEDNN_MAX_CPU_ISA",
        ),
        (
            on("tensorflow", variables={"DNNL_MAX_CPU_ISA": "SSE41"}, onednn_isa="SSE41"),
            "TensorFlow is limited to SSE41 kernels by DNNL_MAX_CPU_ISA",
        ),
        (
            on(
                "torch",
                precision="bfloat16",
                variables={"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
                onednn_isa="AVX512_CORE",
            ),
            "PyTorch is limited to AVX512_CORE kernels by ONEDNN_MAX_CPU_ISA",
        ),
        (
            on("torch", variables={"ATEN_CPU_CAPABILITY": "avx2"}),
            "PyTorch is limited to avx2 kernels by ATEN_CPU_CAPABILITY",
        ),
        (
            on("torch", variables={"MKL_ENABLE_INSTRUCTIONS": "AVX2"}, blas="mkl, mkldnn"),
            "PyTorch may be slowed by MKL_ENABLE_INSTRUCTIONS=AVX2",
        ),
        (
            on(variables={"OPENBLAS_L2_SIZE": "512"}),
            "NumPy may be slowed by OPENBLAS_L2_SIZE=512",
        ),
        (
            on(variables={"NPY_DISABLE_CPU_FEATURES": "AVX512F"}),
            "NumPy may be slowed by NPY_DISABLE_CPU_FEATURES=AVX512F",
        ),
        (
            haswell(cpu_isa=None),  # not an x86 processor
            "NumPy may be slowed by OPENBLAS_CORETYPE=Haswell",
        ),
    ],
)
def test_each_variable_limits_the_frameworks_that_read_it(limited: RunRecord, said: str) -> None:
    assert machine_warnings([limited]) == [said]


def test_others_that_took_more_than_a_twentieth_of_the_cores_are_told() -> None:
    shares = (0.02, 0.05, 0.061, 0.43)
    records = [on(conditions=Conditions(9.0, others_share=share)) for share in shares]
    assert machine_warnings(records) == ["others took up to 43% of the cores during 2 of 4 runs"]
    assert machine_warnings(records[2:3]) == ["others took 6% of the cores during the run"]
    stolen = on(conditions=Conditions(9.0, others_share=0.03, steal_share=0.04))
    assert machine_warnings([stolen]) == ["others took 7% of the cores during the run"]


def test_a_quota_that_stopped_runs_is_told() -> None:
    throttled = Conditions(9.0, quota_periods=90, throttled_periods=18)
    records = [on(conditions=throttled), on(conditions=Conditions(9.0, quota_periods=90))]
    said = "the CPU quota stopped 1 of 2 runs, in 20% of its periods"
    assert machine_warnings(records) == [said]


def test_other_processes_on_the_gpu_are_told() -> None:
    shared = on("torch", device="NVIDIA H100", conditions=Conditions(9.0, gpu_others=2))
    assert machine_warnings([shared]) == ["other processes were on the GPU during the run"]


def test_different_devices_are_told_and_there_is_no_verdict_on_speed() -> None:
    runs = [
        replace(on(framework, device=device), images_per_second=speed, seed=seed)
        for framework, device, speed in (("torch", "NVIDIA H100", 900.0), ("numpy", "cpu", 100.0))
        for seed in range(3)
    ]
    said = "the frameworks ran on different devices (NumPy: cpu, PyTorch: NVIDIA H100)"
    assert machine_warnings(runs) == [said]
    (row,) = statistics.compare_frameworks(runs)
    assert row["faster"] is None
    (sentence,) = Comparison(_document(runs)).verdicts()
    assert (
        "PyTorch is 9.00x (95% CI 9.00 to 9.00) as fast as NumPy: no verdict, because they ran on "
        "different devices (NVIDIA H100 and cpu). Test accuracy"
    ) in sentence


def test_one_gpu_has_a_name_in_each_framework() -> None:
    runs = [on("torch", device="NVIDIA H100"), on("tensorflow", device="/physical_device:GPU:0")]
    assert machine_warnings(runs) == []


def test_a_comparison_from_before_devices_were_compared_still_has_its_verdict() -> None:
    document = _document([make_record("torch"), make_record("numpy")])
    for row in document["frameworks"]:
        del row["devices"]
    (sentence,) = Comparison(document).verdicts()
    assert "inconclusive with 1 run" in sentence


def _document(runs: list[RunRecord]) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "created": "2025-01-31T00:00:00+00:00",
        "settings": {
            **{"epochs": 5, "batch_size": 64, "learning_rate": 0.1, "limit": None},
            **{"dataset": "mnist", "threads": 2},
        },
        "runs": [run.to_json() for run in runs],
        "failures": [],
        "summary": statistics.summarize(runs),
        "frameworks": statistics.compare_frameworks(runs),
        "architectures": [],
        "environment": runs[0].environment,
    }


# --- Where they are shown ----------------------------------------------------------------------

SPOILT = [
    replace(haswell(), conditions=Conditions(9.0, others_share=0.43)),
    on("torch", conditions=Conditions(9.0, others_share=0.01)),
]
LINES = [f"Warning: {HASWELL}.", "Warning: others took 43% of the cores during 1 of 2 runs."]


def test_report_page_and_objects_carry_the_warnings() -> None:
    document = _document(SPOILT)
    comparison = Comparison(document)
    assert comparison.warnings() == LINES
    assert "\n".join(LINES) in repr(comparison)
    markdown = tables.as_markdown(document)
    assert "\n".join(f"- {line}" for line in LINES) in markdown
    for line in LINES:
        assert f"<strong>{line}</strong>" in page.document_html(document)
        assert f"<strong>{line}</strong>" in page.render_page({"comparison_results": document}, [])


def test_a_comparison_is_printed_with_its_warnings(capfd: pytest.CaptureFixture[str]) -> None:
    output.finish_experiment(Comparison(_document(SPOILT)), Path("results"), as_json=False)
    assert [line for line in capfd.readouterr().out.splitlines() if "Warning" in line] == LINES
    output.finish_experiment(Comparison(_document(SPOILT)), Path("results"), as_json=True)
    assert capfd.readouterr().err.splitlines() == LINES


def test_the_table_of_one_training_carries_its_warnings() -> None:
    screen = Console(width=100)
    variables = {"MKL_CBWR": "[b]"}  # no markup
    with screen.capture() as shown:
        screen.print(
            console.history_table(
                on("torch", blas="mkl", variables=variables, conditions=SPOILT[0].conditions)
            )
        )
    said = " ".join(shown.get().split())
    assert "Warning: PyTorch may be slowed by MKL_CBWR=[b]." in said
    assert "Warning: others took 43% of the cores during the run." in said


def test_charts_carry_the_warnings(tmp_path: Path, drawn: Any) -> None:
    different = on("tensorflow", device="NVIDIA H100 80GB HBM3")
    comparison_chart.draw([*SPOILT, different], tmp_path / "chart.png")
    require_readable(tmp_path / "chart.png", drawn)
    caption = " ".join(texts(drawn)).replace("\n", " ")
    assert f"warning: {HASWELL}" in caption
    assert "warning: others took 43% of the cores during 1 of 3 runs" in caption
    assert "TensorFlow: NVIDIA H100 80GB HBM3" in caption


@pytest.mark.parametrize("chart", [comparison_chart, batch_size_chart])
def test_charts_of_other_networks_carry_the_warnings_too(
    chart: Any, tmp_path: Path, drawn: Any
) -> None:
    runs = [
        replace(run, arch=arch, batch_size=batch_size)
        for run in SPOILT
        for arch in ("cnn", "lenet5", "deep")
        for batch_size in ((64,) if chart is comparison_chart else (64, 128))
    ]
    chart.draw(runs, tmp_path / "chart.png")
    caption = " ".join(texts(drawn)).replace("\n", " ")
    assert f"warning: {HASWELL}" in caption
    assert "warning: others took up to 43% of the cores" in caption

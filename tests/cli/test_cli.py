"""The command line as a user sees it: output, files, exit codes, one-line errors."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from outcomes import Outcome
from PIL import Image
from rich.console import Console

from mnist_cli.records import RunRecord
from mnist_cli.reporting import console

Mnist = Callable[..., Outcome]


@pytest.fixture
def quick(small_data: Path, tmp_path: Path) -> tuple[object, ...]:
    """Options for a run of a second: the fake framework's data and a fresh results folder."""
    folder = tmp_path / "results"
    return ("--dataset", small_data, "--results-dir", folder, "--epochs", 2, "--batch-size", 20)


def _width(path: Path) -> int:
    with Image.open(path) as image:
        image.verify()
        return image.width


def _assert_one_line_error(outcome: Outcome, exit_code: int, *said: str) -> None:
    assert outcome.exit_code == exit_code, outcome.stderr
    assert outcome.stdout == ""
    lines = outcome.stderr.strip().splitlines()
    assert len(lines) == 1, outcome.stderr
    assert lines[0].startswith("Error: ")
    for text in said:
        assert text in lines[0]


def test_train_writes_model_record_and_chart_and_prints_a_table(
    mnist: Mnist, quick: tuple[object, ...], tmp_path: Path
) -> None:
    outcome = mnist("train", "--framework", "fake", "--arch", "mlp", *quick)
    assert outcome.exit_code == 0, outcome.stderr
    results = tmp_path / "results"
    assert sorted(str(path.relative_to(results)) for path in results.rglob("*.*")) == [
        "fake-mlp_training.json",
        "fake-mlp_training.png",
        "models/fake-mlp.safetensors",
    ]
    for name in ("models/fake-mlp.safetensors", "fake-mlp_training.json", "fake-mlp_training.png"):
        assert f"written: {results / name}\n" in outcome.stderr
    assert _width(results / "fake-mlp_training.png") >= 1600
    assert "fake MLP: 101,770 parameters" in outcome.stdout
    # Not a terminal: one plain line an epoch, no control characters.
    assert re.search(r"^fake MLP  2/2  loss .*  validation .*%  test .* s$", outcome.stderr, re.M)
    assert "\x1b" not in outcome.stderr


@pytest.mark.parametrize(
    ("target", "said"),
    [(0.2, r"target 0\.2: reached after \d+\.\d s"), (1, "target 1: not reached")],
)
def test_train_says_whether_the_target_was_reached(
    mnist: Mnist, quick: tuple[object, ...], target: float, said: str
) -> None:
    outcome = mnist("train", "--framework", "fake", *quick, "--target-accuracy", target)
    assert re.search(said, outcome.stdout), outcome.stdout


def test_train_json_is_one_record_and_the_record_on_disk(
    mnist: Mnist, quick: tuple[object, ...], tmp_path: Path
) -> None:
    outcome = mnist("train", "--framework", "fake", "--arch", "mlp", "--json", *quick)
    record = RunRecord.from_json(outcome.document)
    assert (record.framework, record.arch, record.epochs) == ("fake", "mlp", 2)
    on_disk = json.loads((tmp_path / "results" / "fake-mlp_training.json").read_text())
    assert on_disk == outcome.document
    required = {
        *("framework", "arch", "parameters", "epochs", "batch_size", "seed", "history"),
        *("test_accuracy", "test_loss", "import_seconds", "warmup_seconds", "train_seconds"),
        *("time_to_accuracy", "peak_rss_mib", "checkpoint", "environment", "schema_version"),
    }
    assert required <= outcome.document.keys()


@pytest.mark.parametrize("reader", [None, "numpy"])
def test_evaluate_reports_any_model_in_any_framework_and_draws_it(
    mnist: Mnist, quick: tuple[object, ...], tmp_path: Path, small_data: Path, reader: str | None
) -> None:
    mnist("train", "--framework", "numpy", "--arch", "mlp", *quick)
    results = tmp_path / "results"
    model = results / "models" / "numpy-mlp.safetensors"
    options = ["--dataset", small_data, "--results-dir", results, "--json"]
    outcome = mnist("evaluate", model, *options, *(["--framework", reader] if reader else []))
    report = outcome.document
    assert report["framework"] == "numpy"
    assert report["images"] == 100
    assert sum(map(sum, report["confusion_matrix"])) == 100
    diagonal = sum(report["confusion_matrix"][digit][digit] for digit in range(10))
    assert report["accuracy"] == diagonal / 100
    assert [row["digit"] for row in report["per_class"]] == list(range(10))
    assert sum(row["support"] for row in report["per_class"]) == 100
    assert _width(results / "numpy-mlp_confusion.png") >= 1000
    assert _width(results / "numpy-mlp_predictions.png") >= 1000


def test_evaluate_takes_a_short_name_and_prints_a_table(
    mnist: Mnist, quick: tuple[object, ...], tmp_path: Path, small_data: Path
) -> None:
    mnist("train", "--framework", "numpy", "--arch", "mlp", *quick)
    options = ["--dataset", small_data, "--results-dir", tmp_path / "results"]
    outcome = mnist("evaluate", "numpy-mlp", *options)
    assert outcome.exit_code == 0, outcome.stderr
    assert "of 100 correct" in outcome.stdout
    assert "precision" in outcome.stdout


def test_compare_runs_every_cell_and_writes_document_and_chart(
    mnist: Mnist, quick: tuple[object, ...], tmp_path: Path
) -> None:
    outcome = mnist("compare", "--framework", "fake", "--runs", 3, *quick)
    assert outcome.exit_code == 0, outcome.stderr
    assert "fake" in outcome.stdout
    results = tmp_path / "results"
    document = json.loads((results / "comparison_results.json").read_text())
    cells = [(run["arch"], run["seed"]) for run in document["runs"]]
    # Rounds are reversed in turn: ABBAAB.
    assert cells == [("cnn", 0), ("mlp", 0), ("mlp", 1), ("cnn", 1), ("cnn", 2), ("mlp", 2)]
    assert [(row["arch"], row["n"]) for row in document["summary"]] == [("cnn", 3), ("mlp", 3)]
    assert document["failures"] == []
    assert _width(results / "comparison_results.png") >= 1600
    assert sorted(path.name for path in (results / "models").iterdir()) == [
        "fake-cnn.safetensors",
        "fake-mlp.safetensors",
    ]


def test_compare_goes_on_past_a_missing_framework_and_says_so(
    mnist: Mnist, quick: tuple[object, ...], tmp_path: Path
) -> None:
    frameworks = ["--framework", "absent", "--framework", "fake", "--arch", "mlp"]
    outcome = mnist("compare", *frameworks, "--json", *quick)
    assert outcome.exit_code == 1
    assert [run["framework"] for run in outcome.document["runs"]] == ["fake"]
    (failure,) = outcome.document["failures"]
    assert (failure["framework"], failure["arch"]) == ("absent", "mlp")
    assert "Install it" in failure["error"]
    assert (tmp_path / "results" / "comparison_results.png").exists()


def test_compare_goes_on_past_a_crash_and_a_divergence(
    mnist: Mnist, quick: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FRAMEWORK", "nan 1")
    frameworks = ["--framework", "fake", "--framework", "numpy", "--arch", "mlp"]
    outcome = mnist("compare", *frameworks, *quick)
    assert outcome.exit_code == 1
    assert "failed fake MLP: The loss became nan" in outcome.stderr
    assert "NumPy" in outcome.stdout


def test_a_comparison_where_all_fail_still_says_why(
    mnist: Mnist, quick: tuple[object, ...], tmp_path: Path
) -> None:
    outcome = mnist("compare", "--framework", "absent", *quick)
    assert outcome.exit_code == 1
    assert outcome.stderr.count("absent cannot be imported") >= 2
    assert not (tmp_path / "results" / "comparison_results.png").exists()


def test_info_names_versions_devices_threads_and_data(mnist: Mnist) -> None:
    document = mnist("info", "--json").document
    assert document["threads"] >= 1
    assert {"jax", "numpy", "tensorflow", "torch"} <= set(document["frameworks"])
    assert re.match(r"\d+\.\d+", document["versions"]["numpy"])
    assert "mnist" in document["datasets"]
    assert isinstance(document["gpus"], list)
    assert "numpy" in mnist("info").stdout


def test_info_says_what_the_machine_is_and_does() -> None:
    screen = Console(width=100)
    document = {
        "cpu_quota": 1.5,
        "variables": {"OPENBLAS_CORETYPE": "Haswell"},
        "blas_kernels": {},
        "conditions": {"others_share": 0.43, "clock_mhz": 2596.1, "gpu_clock_mhz": None},
        "gpu": {"clock_mhz": 1410.0, "busy_share": 0.25, "processes": 2},
    }
    with screen.capture() as shown:
        screen.print(console.info_table(document))
    for line in ("cpu quota 1.5 cores", "OPENBLAS_CORETYPE: Haswell", "blas kernels none"):
        assert line in " ".join(shown.get().split())
    assert "others share: 43%\n" in re.sub(r" +(?=\n)", "", shown.get())
    assert "clock mhz: 2,596" in shown.get()
    assert "busy share: 25%" in shown.get()
    assert "gpu clock" not in shown.get()
    with screen.capture() as shown:
        screen.print(console.info_table({"cpu_quota": None, "gpu": None}))
    assert shown.get().split() == ["cpu", "quota", "none", "gpu", "none"]


def test_info_says_what_is_not_installed() -> None:
    screen = Console()
    with screen.capture() as shown:
        screen.print(console.info_table({"versions": {"numpy": "2.0", "torch": None}}))
    assert "numpy: 2.0" in shown.get()
    assert "torch: not installed" in shown.get()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "--framework", "jaxx"], "Unknown framework 'jaxx'. Choose from"),
        (
            ["train", "--arch", "rnn"],
            "Unknown architecture 'rnn'. Choose from cnn, mlp, lenet5, linear, deep, resnet, or",
        ),
        (["train", "--activation", "tanh", "--arch", "mlp"], "Unknown activation 'tanh'"),
        (["train", "--activation", "sigmoid"], "activations of 'cnn' are in its line"),
        (["train", "--device", "tpu"], "Unknown device 'tpu'. Choose from auto, cpu, cuda, mps."),
        (["train", "--epochs", "0"], "epochs must be from 1 to 10000, not 0."),
        (["train", "--epochs", "many"], "'--epochs': Input should be a valid integer"),
        (["train", "--batch-size", "0"], "batch size must be from 1 to 65536, not 0."),
        (["train", "--batch-size", "-5"], "batch size must be"),
        (["train", "--learning-rate", "nan"], "learning rate must be"),
        (["train", "--label-smoothing", "1"], "label smoothing must be from 0 to below 1"),
        (["train", "--warmup-fraction", "1"], "warmup fraction must be in (0, 1), not 1.0."),
        (["train", "--decay-power", "0"], "decay power must be above 0 to 10, not 0.0."),
        (["train", "--precision", "int8"], "Unknown precision 'int8'. Choose from"),
        (["train", "--target-accuracy", "99"], "target accuracy must be above 0 and at most 1"),
        (["train", "--threads", "0"], "threads must be from 1 to "),
        (["train", "--limit", "0", "--framework", "fake"], "limit must be from 1 to 55000"),
        (["train", "--limit", "55001", "--framework", "fake"], "limit must be from 1 to 55000"),
        (["train", "--dataset", "cifar", "--framework", "fake"], "cifar"),
        (["train", "--no-such-option"], "See 'mnist train --help'."),
        (["compare", "--runs", "0"], "runs must be from 1 to 1000, not 0."),
        (["compare", "--framework", "candle"], "Unknown framework 'candle'"),
        (["compare", "--arch", "rnn"], "Unknown architecture 'rnn'"),
        (["train", "--arch", ""], "Error: ^: an empty line; write layers"),
        (["train", "--arch", "conv 16, poool"], "Error: conv 16, ^poool: unknown layer 'poool'"),
        (["train", "--arch", "conv 8 4x4"], "conv 8 ^4x4: the kernel must be odd"),
        (["compare", "--arch", "cnn", "--arch", "conv 8 40x40"], "conv 8 ^40x40: the kernel must"),
        (["sweep-batch", "--arch", "pool 29"], "^pool 29: a pool of 29x29 leaves nothing"),
        (["train", "--arch", "dense 2500000"], "with this layer the network has 1,962,500,000 par"),
        (["compare", "--arch", "residual(conv 8)"], "1x28x28 goes in and 8x28x28 comes out"),
        (["networks", "conv"], "conv^: expected the number of filters"),
        (["networks", "rnn"], "Unknown architecture 'rnn'"),
        (["networks", "--arch-file", "absent.toml"], "Cannot read absent.toml"),
        (["train", "--arch", "dense 5", "--activation", "sigmoid"], "are in its line"),
        (["compare", "--dataset", "cifar", "--framework", "fake"], "cifar"),
        (["evaluate"], "See 'mnist evaluate --help'."),
        (["sing"], "sing"),
    ],
)
def test_a_wrong_command_ends_in_one_line_and_exit_code_2(
    mnist: Mnist, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    _assert_one_line_error(mnist(*arguments), 2, said)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_results_folder_that_cannot_be_written_is_found_out_before_training(
    mnist: Mnist, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    for command in (["train", "--framework", "fake"], ["compare"]):
        for folder, why in (
            (file, "not a folder"),
            (file / "results", "not a folder"),
            (tmp_path / ("r" * 300), "name too long"),
        ):
            outcome = mnist(*command, "--results-dir", folder)
            _assert_one_line_error(outcome, 1, f"folder {folder}: ", why, "--results-dir")


def test_bad_data_and_bad_models_end_in_one_line_and_exit_code_1(
    mnist: Mnist, tmp_path: Path, quick: tuple[object, ...]
) -> None:
    (tmp_path / "empty").mkdir()
    bad_data = ["--dataset", tmp_path / "empty", "--results-dir", tmp_path / "r"]
    _assert_one_line_error(mnist("train", "--framework", "fake", *bad_data), 1, "empty")
    _assert_one_line_error(mnist("compare", "--framework", "fake", *bad_data), 1, "empty")
    (tmp_path / "not.safetensors").write_text("no")
    _assert_one_line_error(
        mnist("evaluate", tmp_path / "not.safetensors"), 1, "not a whole safetensors file"
    )
    _assert_one_line_error(mnist("evaluate", "nothing-here"), 1, "No model at")


def test_debug_shows_what_lies_behind_an_error(
    mnist: Mnist, quick: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FRAMEWORK", "crash 1")
    outcome = mnist("train", "--framework", "fake", *quick)
    assert outcome.exit_code == 1
    assert "Traceback" not in outcome.stderr
    shown = mnist("train", "--framework", "fake", *quick, "--debug")
    assert shown.exit_code == 1
    assert "Traceback" in shown.stderr
    assert "in train_epoch" in shown.stderr  # what the failed process printed
    wrong = mnist("train", "--framework", "jaxx", "--debug")
    assert wrong.exit_code == 2


def test_ctrl_c_exits_130_keeps_the_checkpoint_and_shows_no_traceback(
    quick: tuple[object, ...], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "mnist_cli", "train", "--framework", "fake", *map(str, quick)]
    process = subprocess.Popen(
        command,
        env={**os.environ, "FAKE_FRAMEWORK": "sleep 2"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a group of its own, to be interrupted whole as a terminal does
    )
    assert process.stderr is not None
    assert "1/2" in process.stderr.readline()
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Interrupted" in stderr
    assert "Traceback" not in stderr
    assert (tmp_path / "results" / "models" / "fake-cnn.safetensors").exists()


def test_a_terminal_sees_live_progress(
    quick: tuple[object, ...], on_terminal: Callable[..., bytes]
) -> None:
    seen = on_terminal("train", "--framework", "fake", *quick)
    assert b"fake CNN" in seen
    assert b"left" in seen
    assert b"\x1b[?25l" in seen  # the cursor is hidden while the bars are live,
    assert b"\x1b[?25h" in seen  # and given back


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["jax", "tensorflow", "torch"])
def test_mixed_precision_learns_and_leaves_a_model_that_numpy_reads(
    mnist: Mnist, framework: str, small_data: Path, tmp_path: Path
) -> None:
    where = ["--dataset", small_data, "--results-dir", tmp_path, "--json"]
    # The default rate is for batches of 64: at 16 a warm-up of 27 steps is too short for it.
    sizes = ["--epochs", 5, "--batch-size", 16, "--learning-rate", 0.03]
    recipe = ["--framework", framework, *sizes, "--device", "cpu"]
    full = mnist("train", *recipe, *where).document
    record = mnist("train", *recipe, *where, "--precision", "bfloat16").document
    losses = [run["history"][0]["train_loss"] for run in (record, full)]
    # Runs of one precision agree to 1e-5 or so even if threads add in another order.
    assert abs(losses[0] / losses[1] - 1) > 1e-4
    assert [run["precision"] for run in (record, full)] == ["bfloat16", "float32"]
    assert record["test_accuracy"] > 0.7  # a few hundred digits teach a CNN to read most
    read = mnist("evaluate", record["checkpoint"], "--framework", "numpy", *where).document
    assert read["accuracy"] == record["test_accuracy"]  # both judge in float32


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "batch_size", "threads"),
    [("mlp", 255, 1), ("mlp", 256, 2), ("cnn", 15, 1), ("cnn", 16, 2)],
)
def test_tensorflow_takes_a_thread_for_each_8_images_of_the_cnn_and_128_of_the_mlp(
    mnist: Mnist, tmp_path: Path, arch: str, batch_size: int, threads: int
) -> None:
    options = ["--framework", "tensorflow", "--arch", arch, "--device", "cpu", "--threads", 2]
    sizes = ["--epochs", 1, "--limit", 300, "--batch-size", batch_size]
    record = mnist("train", *options, *sizes, "--results-dir", tmp_path, "--json").document
    assert record["environment"]["framework_threads"] == threads


def test_numpy_refuses_mixed_precision_in_one_line(mnist: Mnist, tmp_path: Path) -> None:
    options = ["--framework", "numpy", "--precision", "bfloat16", "--results-dir", tmp_path]
    _assert_one_line_error(mnist("train", *options), 1, "float32 only")


@pytest.mark.parametrize(
    ("command", "said", "more"), [("--help", "compare", {"numpy"}), ("info", "threads", set())]
)
def test_help_and_info_load_nothing_heavy(command: str, said: str, more: set[str]) -> None:
    script = (
        f"import sys; sys.argv = ['mnist', '{command}']\n"
        "from mnist_cli.cli import app\n"
        "try: app.main()\n"
        "finally: print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert said in done.stdout
    heavy = {"torch", "tensorflow", "keras", "jax", "matplotlib", "sklearn", "scipy", "pandas"}
    assert not set(done.stderr.split()) & (heavy | more)


def test_the_module_runs_as_the_command_does() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mnist_cli", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.fullmatch(r"mnist \d+\.\d+\.\d+\n", done.stdout)

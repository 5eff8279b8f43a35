"""Records as JSON, and files that a kill leaves whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from made_records import make_record

from mnist_cli import records
from mnist_cli.conditions import Conditions
from mnist_cli.errors import OutputError
from mnist_cli.records import EpochRecord, RunRecord


def _run(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


# --- Files -------------------------------------------------------------------------------------


def test_a_kill_while_writing_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    records.write_json(path, {"runs": 1})
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from mnist_cli import records\n"
        "write = Path.write_text\n"
        "def killed(self, text, **options):\n"
        "    write(self, text[: len(text) // 2], **options)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "Path.write_text = killed\n"
        "records.write_json(Path(sys.argv[1]), {'runs': 2})\n"
    )
    assert _run(code, path).returncode == -signal.SIGKILL
    assert json.loads(path.read_text()) == {"runs": 1}


def test_a_file_is_replaced_in_one_step_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "chart.png"
    with records.replacing(path) as temporary:
        assert temporary.parent == path.parent  # the same disk: elsewhere it could not be renamed
        assert temporary.suffix == ".png"  # Matplotlib tells the format by it
        assert temporary.name.startswith(".")  # not shown, and no pattern like *.png finds it
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o644  # others may read it; temporary files are private


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_writing_leaves_no_file_open(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        records.write_json(tmp_path / "record.json", {})
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_block_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text("old")
    with pytest.raises(ValueError, match="half way"), records.replacing(path) as temporary:
        _write_half(temporary)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def _write_half(path: Path) -> None:
    path.write_text("half")
    raise ValueError("half way")


def test_a_disk_that_is_full_is_named_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    message = r"Cannot write .*record.json: No space left on device\. Free space"
    with pytest.raises(OutputError, match=message), records.replacing(path):
        raise OSError(28, "No space left on device")
    message = r"record.json: the library's own words\."
    with pytest.raises(OutputError, match=message), records.replacing(path):
        raise OSError("the library's own words")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_can_be_written_is_left_empty(tmp_path: Path) -> None:
    records.require_writable(tmp_path / "results")
    assert list((tmp_path / "results").iterdir()) == []


@pytest.mark.parametrize("name", ["file", "file/results"])
def test_a_folder_that_cannot_be_written_is_named_with_its_option(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "file").write_text("in the way")
    message = r"Cannot write to the folder .*: a part of this path is not a folder\. Choose another"
    with pytest.raises(OutputError, match=message + " with --results-dir"):
        records.require_writable(tmp_path / name)
    with pytest.raises(OutputError, match=message + " with --save-plot"):
        records.require_writable(tmp_path / name, option="--save-plot")


def test_a_document_is_utf_8_and_ends_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    code = (
        "import sys; from pathlib import Path; from mnist_cli import records\n"
        "records.write_json(Path(sys.argv[1]), {'dataset': 'd\\u00e9j\\u00e0', 'runs': []})\n"
    )
    done = _run(code, path, PYTHONIOENCODING="ascii", LC_ALL="C", PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr
    text = path.read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert json.loads(text) == {"dataset": "déjà", "runs": []}
    assert len(text.splitlines()) == 4  # a line for each value: changes are seen in a diff


# --- Records -----------------------------------------------------------------------------------


def test_a_record_comes_back_from_json_as_it_was() -> None:
    conditions = Conditions(12.5, others_share=0.25, quota_periods=120)
    record = replace(make_record(epochs=2), test_errors=((3, 5), (8, 1)), conditions=conditions)
    assert RunRecord.from_json(json.loads(json.dumps(record.to_json()))) == record


def test_a_record_from_before_a_field_has_what_was_then_the_only_choice() -> None:
    newer = ("label_smoothing", "warmup_fraction", "decay_power", "precision", "augment")
    newer += ("patience", "model_epoch", "conditions")
    values = {k: v for k, v in make_record().to_json().items() if k not in newer}
    old = RunRecord.from_json(values)
    assert (old.precision, old.augment, old.patience, old.model_epoch) == (
        "float32",
        False,
        None,
        None,
    )
    assert old.label_smoothing is old.warmup_fraction is old.decay_power is None
    assert old.conditions is None
    assert old.schema_version == 1


def _history(*accuracies: float) -> tuple[EpochRecord, ...]:
    return tuple(
        EpochRecord(
            epoch=epoch,
            train_loss=1.0,
            validation_loss=1.0,
            validation_accuracy=accuracy,
            test_loss=1.0,
            test_accuracy=0.999,
            train_seconds=10.0 * epoch,
            images_per_second=100.0,
        )
        for epoch, accuracy in enumerate(accuracies, start=1)
    )


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ((0.97, 0.98, 0.985, 0.99), {"0.98": 20.0, "0.99": 40.0}),
        ((0.99, 0.97), {"0.98": 10.0, "0.99": 10.0}),
        ((0.981, 0.97), {"0.98": 10.0, "0.99": None}),
        ((0.9799,), {"0.98": None, "0.99": None}),
    ],
)
def test_time_to_accuracy_is_that_of_the_first_epoch_whose_validation_reached_it(
    accuracies: tuple[float, ...], expected: dict[str, float | None]
) -> None:
    assert records.time_to_accuracy(_history(*accuracies)) == expected

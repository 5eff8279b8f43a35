"""The runs that are in a folder of results: those of its records, and of models without one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from mnist_cli.errors import CheckpointError, RecordError
from mnist_cli.records import SCHEMA_VERSION, EpochRecord, RunRecord, throughput

# Folders of what other programs read, with copies of models and records.
_LEFT_OUT = ("exports", "logs")


@dataclass(frozen=True)
class StoredRun:
    """One run: a record's, or as a model's file tells it.

    ``date`` is its day, ``epochs_done`` those of ``epochs`` that it has trained, ``test_accuracy``
    0-1 and of the last epoch if a model has no record; ``train_seconds`` are training alone.
    ``machine`` is its processor, as it calls itself; ``file`` what the run was read from.
    """

    date: str | None
    framework: str
    arch: str
    activation: str
    dataset: str
    batch_size: int
    seed: int
    epochs_done: int
    epochs: int
    test_accuracy: float
    train_seconds: float
    images_per_second: float
    machine: str
    threads: int | None
    device: str | None
    file: str

    def __post_init__(self) -> None:
        # What a file says is not always of these types, and runs are sorted by it.
        for name, kind in get_type_hints(StoredRun).items():
            value = getattr(self, name)
            if not isinstance(value, kind):
                raise TypeError(f"{name} is of type {type(value).__name__}")

    @property
    def key(self) -> tuple[object, ...]:
        """What no two runs have in common: seconds are measured to the nanosecond."""
        return (self.framework, self.arch, self.batch_size, self.seed, self.train_seconds)


def stored_runs(folder: Path) -> tuple[list[StoredRun], list[str]]:
    """Return the runs in a folder and those below it, each once, and a line per unreadable file.

    Raises `RecordError` if there is no such folder.
    """
    if not folder.is_dir():
        raise RecordError(
            f"No folder {folder}. Name one with results of 'mnist train' or 'mnist compare'."
        )
    runs: dict[tuple[object, ...], StoredRun] = {}
    problems = []
    # Records come first: they say more of a run than its model does.
    for path in sorted(_files(folder), key=lambda path: (path.suffix != ".json", path)):
        read = _read_records if path.suffix == ".json" else _read_model
        try:
            for run in read(path):
                runs.setdefault(run.key, run)
        except (RecordError, CheckpointError) as error:
            problems.append(str(error))
        except (
            OSError,
            ValueError,
            TypeError,
            KeyError,
            AttributeError,
            IndexError,
            ArithmeticError,
            RecursionError,
        ) as error:
            problems.append(f"{path} cannot be read ({type(error).__name__}: {error}).")
    return list(runs.values()), problems


def _files(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in _LEFT_OUT and name[0] != "."]
        for name in names:
            if name.endswith((".json", ".safetensors")) and name[0] != ".":
                yield Path(place, name)


def _read_records(path: Path) -> list[StoredRun]:
    """Return the runs of a record, or of a document of any experiment."""
    document = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict):
        raise RecordError(f"{path} is no record of this program.")
    if "trials" in document or "curves" in document:  # of mnist tune, of evaluate --robustness
        return []
    lists = [value for value in document.values() if isinstance(value, list)]
    each_of = [document] if "history" in document else [each for value in lists for each in value]
    found = [each for each in each_of if isinstance(each, dict) and "history" in each]
    if not found and document.get("runs") != []:
        raise RecordError(f"{path} has no runs: it is no record of a training by this program.")
    for each in (document, *found):
        version = each.get("schema_version", SCHEMA_VERSION)
        if version != SCHEMA_VERSION:
            raise RecordError(
                f"{path} has schema version {version}; this program reads {SCHEMA_VERSION}. "
                "Use the version of mnist-cli that wrote it."
            )
    return [_of_record(RunRecord.from_json(values), str(path)) for values in found]


def _of_record(record: RunRecord, file: str) -> StoredRun:
    return StoredRun(
        date=record.environment.get("date"),
        framework=record.framework,
        arch=record.arch,
        activation=record.activation,
        dataset=record.dataset,
        batch_size=record.batch_size,
        seed=record.seed,
        epochs_done=len(record.history),
        epochs=record.epochs,
        test_accuracy=float(record.test_accuracy),
        train_seconds=float(record.train_seconds),
        images_per_second=float(record.images_per_second),
        **_machine(record.environment),
        file=file,
    )


def _machine(environment: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "machine": str(environment.get("cpu") or "unknown"),
        "threads": environment.get("threads"),
        "device": environment.get("device"),
    }


def _read_model(path: Path) -> list[StoredRun]:
    """Return the run of a model, or none if it came from another program."""
    from mnist_cli.training.checkpoint import read_details

    details = read_details(path)
    if "imported_from" in details["versions"]:
        return []
    recipe = details["recipe"]
    history = [EpochRecord(**row) for row in details["history"]]
    return [
        StoredRun(
            date=details["versions"].get("date"),
            framework=details["framework"],
            arch=details["arch"],
            activation=details["activation"],
            dataset=details["dataset"],
            batch_size=recipe["batch_size"],
            seed=details["seed"],
            epochs_done=len(history),
            epochs=recipe["epochs"],
            test_accuracy=float(details["test_accuracy"]),
            train_seconds=float(history[-1].train_seconds),
            images_per_second=float(throughput(history)),
            **_machine(details["versions"]),
            file=str(path),
        )
    ]

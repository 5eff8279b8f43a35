"""The document of an experiment: its settings, records, failures and statistics, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mnist_cli.errors import RecordError
from mnist_cli.experiments import statistics
from mnist_cli.experiments.plan import job_key
from mnist_cli.machine import describe_machine
from mnist_cli.records import SCHEMA_VERSION, RunRecord
from mnist_cli.runners.base import TrainJob


def load_document(path: Path) -> dict[str, Any]:
    """Return the document of an experiment.

    Raises `RecordError` if there is none, or one that is damaged or of another schema version.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        version = document["schema_version"]
        if version != SCHEMA_VERSION:
            raise RecordError(
                f"{path} has schema version {version}; this program reads {SCHEMA_VERSION}. "
                "Use the version of mnist-cli that wrote it, or measure anew."
            )
        measured = records_of(document)
        for name in ("settings", "environment"):
            dict(document[name])
        for name in ("failures", "frameworks", "architectures"):
            list(document[name])
        if len(document["summary"]) != len(statistics.summarize(measured)):
            raise ValueError("the summary is not that of the runs")
    except FileNotFoundError:
        raise RecordError(f"No records at {path}. Make them with 'mnist compare'.") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise RecordError(
            f"{path} is damaged ({type(error).__name__}: {error}). "
            "Bring it back from a copy, or measure anew."
        ) from error
    return dict(document)


def records_of(document: Mapping[str, Any]) -> list[RunRecord]:
    """Return the runs of a document as records."""
    return [RunRecord.from_json(values) for values in document["runs"]]


def build_document(
    jobs: Sequence[TrainJob],
    finished: Mapping[Any, RunRecord],
    failures: list[dict[str, Any]],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the document of the runs finished so far, in the order of the plan."""
    runs = [finished[job_key(job)] for job in jobs if job_key(job) in finished]
    one_batch_size = len({job.config.batch_size for job in jobs}) == 1
    return {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "settings": dict(settings),
        "runs": [record.to_json() for record in runs],
        "failures": failures,
        "summary": statistics.summarize(runs),
        "frameworks": statistics.compare_frameworks(runs) if one_batch_size else [],
        "architectures": statistics.compare_architectures(runs) if one_batch_size else [],
        "environment": describe_machine(),
    }

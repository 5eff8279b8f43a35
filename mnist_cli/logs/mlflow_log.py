"""Logs in MLflow, by its client: ``mlflow.db`` in the folder of logs, or `MLFLOW_TRACKING_URI`.

A run is begun when it starts; its points are written when it has ended, because a server that does
not answer would hold the training up.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mnist_cli.logs.formats import Ending, Point, Run

if TYPE_CHECKING:
    from pathlib import Path

# MLflow reads these when it is imported. The user's own values come first.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # by default a server that is not there takes minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}.items():
    os.environ.setdefault(_name, _value)

from mlflow import MlflowClient  # noqa: E402  # after its variables
from mlflow.entities import Metric, Param, RunTag  # noqa: E402
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_SOURCE_NAME  # noqa: E402

_EXPERIMENT = "mnist"
_STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
_MAX_LETTERS = 5000  # of a parameter or tag
_MAX_METRICS = 1000  # of a request


class Log:
    """One run of the experiment ``mnist``; the runs of a comparison are children of its own."""

    def __init__(self, run: Run) -> None:
        self.place = _tracking_uri(run.root)
        self._client = MlflowClient(tracking_uri=self.place)
        tags = {MLFLOW_SOURCE_NAME: "mnist"}
        if isinstance(run.parent, Log):
            tags[MLFLOW_PARENT_RUN_ID] = run.parent.run_id
        created = self._client.create_run(
            _experiment_id(self._client, run.root), run_name=run.name, tags=tags
        )
        self.run_id: str = created.info.run_id
        params = [Param(name, _short(value)) for name, value in run.settings.items()]
        self._client.log_batch(self.run_id, params=params)
        self._points: list[Point] = []

    def add(self, points: Sequence[Point]) -> None:
        """Keep the points for the end."""
        self._points += points

    def end(self, ending: Ending) -> None:
        """Write metrics, tags and artifacts, and how the run ended."""
        metrics = [
            Metric(name, value, round(1000 * point.time), point.step)
            for point in self._points
            for name, value in point.figures.items()
        ]
        last = self._points[-1] if self._points else Point(0, 0, 0.0, {})
        metrics += [
            Metric(f"final/{name}", value, round(1000 * last.time), last.step)
            for name, value in ending.figures.items()
        ]
        for start in range(0, len(metrics), _MAX_METRICS):
            self._client.log_batch(self.run_id, metrics=metrics[start : start + _MAX_METRICS])
        tags = {**ending.environment, **({"reason": ending.reason} if ending.reason else {})}
        self._client.log_batch(
            self.run_id, tags=[RunTag(name, _short(value)) for name, value in tags.items()]
        )
        for path in ending.files:
            self._client.log_artifact(self.run_id, str(path))
        self._client.set_terminated(self.run_id, _STATUS[ending.status])


def _tracking_uri(root: Path) -> str:
    """Return where MLflow keeps its runs: a database, as it refuses folders of files by now."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.resolve() / 'mlflow.db'}"


def _experiment_id(client: MlflowClient, root: Path) -> str:
    """Return the experiment of all runs; in a database of ours artifacts are beside it."""
    found = client.get_experiment_by_name(_EXPERIMENT)
    if found is not None:
        return str(found.experiment_id)
    is_ours = not os.environ.get("MLFLOW_TRACKING_URI")
    artifacts = (root.resolve() / "mlartifacts").as_uri() if is_ours else None
    return str(client.create_experiment(_EXPERIMENT, artifact_location=artifacts))


def _short(value: object) -> str:
    return str(value)[:_MAX_LETTERS]

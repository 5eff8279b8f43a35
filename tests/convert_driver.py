"""Do export and import jobs of one framework, one after the other, in one process.

A framework takes seconds to import, and the jobs are many: with `kept_processes`,
`mnist_cli.runners.process.run` sends its jobs here instead of starting a process for each.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnist_cli import errors
from mnist_cli.errors import MnistError
from mnist_cli.networks.language import find_network
from mnist_cli.networks.spec import weight_shapes
from mnist_cli.records import EpochRecord
from mnist_cli.runners import process, tasks
from mnist_cli.runners.base import ExportJob, ImportJob, Job
from mnist_cli.training import checkpoint


class Runtimes:
    """A stand-in for `process.run` that keeps one process per framework, in ``processes``."""

    def __init__(self) -> None:
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self._start_one = process.run

    def __call__(self, job: Job, on_event: Any, **options: Any) -> dict[str, Any]:
        if not isinstance(job, (ExportJob, ImportJob)):
            return self._start_one(job, on_event, **options)
        answer = self._ask(job.framework, {"task": type(job).__name__, **asdict(job)})
        if "error" in answer:
            raise getattr(errors, answer["error"], AssertionError)(answer["message"])
        return answer

    def make(self, framework: str, script: Path, folder: Path) -> None:
        """Let the process of a framework run ``main(folder)`` of a script."""
        answer = self._ask(framework, {"script": str(script), "folder": str(folder)})
        assert "error" not in answer, answer

    def _ask(self, framework: str, asked: dict[str, Any]) -> dict[str, Any]:
        if framework not in self.processes:
            self.processes[framework] = subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=process.process_environment(2),
                text=True,
            )
        worker = self.processes[framework]
        assert worker.stdin is not None
        assert worker.stdout is not None
        print(json.dumps(asked), file=worker.stdin, flush=True)
        return dict(json.loads(worker.stdout.readline()))


@contextmanager
def kept_processes() -> Iterator[Runtimes]:
    """Let `process.run` send its conversions to processes that are kept until the end."""
    runtimes = Runtimes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "run", runtimes)
        yield runtimes
    for worker in runtimes.processes.values():
        worker.communicate()


def save_model(path: Path, arch: str, seed: int = 0) -> checkpoint.Checkpoint:
    """Save a model whose every weight matters, as a finished training would."""
    rng = np.random.default_rng(seed)
    spec = find_network(arch)
    weights = {
        # Near 1, so that neither a mean nor a variance is lost unseen.
        name: (rng.random(shape) * 0.5 + 0.5).astype(np.float32)
        if len(shape) == 1
        else (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        for name, shape in weight_shapes(spec).items()
    }
    row = EpochRecord(1, 0.4, 0.2, 0.95, 0.21, 0.94, 1.5, 36_000.0)
    model = checkpoint.Checkpoint(
        spec=spec,
        config=checkpoint.TrainConfig(epochs=1),
        framework="numpy",
        dataset="mnist",
        dataset_sha256="00",
        train_images=55_000,
        history=(row,),
        weights=weights,
        pixel_mean=0.2,
        pixel_std=0.4,
    )
    checkpoint.save(path, model)
    return model


def _answer(asked: str) -> dict[str, Any]:
    if "script" in json.loads(asked):
        wanted = json.loads(asked)
        runpy.run_path(wanted["script"])["main"](Path(wanted["folder"]))
        return {}
    job = process.read_job(asked)
    return tasks.export(job) if isinstance(job, ExportJob) else tasks.import_file(job)


def main() -> None:
    """Answer until standard input ends; what the framework prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for asked in sys.stdin:
        try:
            answer = _answer(asked)
        except MnistError as error:
            answer = {"error": type(error).__name__, "message": str(error)}
        except Exception as error:
            answer = {"error": "crash", "message": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()

"""How speed grows with the training set, the batch and the threads.

    python tests/benchmarks/scaling.py [--redraw]

Writes results/scaling.json, the records of three runs for each point, and results/scaling.png;
with ``--redraw`` only the picture, from the records. Every other round is reversed, so that a
machine whose speed drifts favours no framework. Run nothing else meanwhile: it takes some twenty
minutes.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

from mnist_cli.config import ARCHITECTURES, ModelSpec, TrainConfig
from mnist_cli.records import RunRecord, write_json
from mnist_cli.reporting.charts import scaling
from mnist_cli.runners import process
from mnist_cli.runners.base import TrainJob

RESULTS = Path(__file__).parents[2] / "results"
FRAMEWORKS = ("numpy", "tensorflow", "torch")
TRAIN_IMAGES = (1_000, 4_000, 16_000, 60_000)  # of the last, 5,000 are for validation
BATCH_SIZES = (16, 64, 256, 1024)
USUAL_IMAGES = 16_000
ROUNDS = 3
LEAST_IMAGES = 4_000  # a run passes through: fewer take no time to speak of


def points(cores: int) -> dict[str, list[TrainJob]]:
    """Return the jobs of each group; a group varies one number about the usual ones."""
    groups: dict[str, list[TrainJob]] = {"train_images": [], "batch_size": [], "threads": []}
    for arch in ARCHITECTURES:
        for framework in FRAMEWORKS:
            usual = TrainJob(
                framework=framework,
                spec=ModelSpec(arch),
                config=TrainConfig(epochs=1),
                threads=cores,
                limit=USUAL_IMAGES,
                device="cpu",
            )
            for limit in TRAIN_IMAGES:
                epochs = max(1, LEAST_IMAGES // limit)
                config = replace(usual.config, epochs=epochs)
                # The whole set leaves out nothing but the validation images.
                size = None if limit == TRAIN_IMAGES[-1] else limit
                groups["train_images"].append(replace(usual, limit=size, config=config))
            for batch_size in BATCH_SIZES:
                config = replace(usual.config, batch_size=batch_size)
                groups["batch_size"].append(replace(usual, config=config))
            for threads in range(1, cores + 1):
                groups["threads"].append(replace(usual, threads=threads))
    return groups


def main() -> None:
    """Run what is to be run, write the records, draw the chart."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--redraw", action="store_true")
    path = RESULTS / "scaling.json"
    if not parser.parse_args().redraw:
        groups = points(len(os.sched_getaffinity(0)))
        # The usual point is in every group.
        runs: dict[TrainJob, list[dict[str, object]]] = {
            job: [] for jobs in groups.values() for job in jobs
        }
        for number in range(ROUNDS):
            for job in list(runs)[:: -1 if number % 2 else 1]:
                # Which test images were misread is most of a record, and not the question.
                run = process.run(job, lambda _: None) | {"test_errors": []}
                runs[job].append(run)
                label = (job.framework, job.spec.arch, job.limit, job.config.batch_size)
                print(*label, job.threads, f"{run['images_per_second']:,.0f} images/s", flush=True)
        write_json(
            path,
            {field: [run for job in jobs for run in runs[job]] for field, jobs in groups.items()},
        )
    records = json.loads(path.read_text())
    scaling.draw(
        {field: [RunRecord.from_json(run) for run in group] for field, group in records.items()},
        path.with_suffix(".png"),
    )


if __name__ == "__main__":
    main()

"""One run in a process of its own: a job goes in, events and one result come out.

The parent (`run`) starts ``python -m mnist_cli.worker`` with thread counts already in its
environment, since frameworks read them once, when imported. The job travels as a line of JSON on
standard input, which then stays open: its end tells the child that the parent is gone. Events come
back as lines of JSON on what was the child's standard output; anything a framework prints goes to
its standard error.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import IO, TYPE_CHECKING, Any

from mnist_cli import errors
from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.errors import FrameworkError, MnistError

if TYPE_CHECKING:
    from mnist_cli.architectures import Array
    from mnist_cli.data.dataset import Dataset
    from mnist_cli.records import EpochRecord

OnEvent = Callable[[dict[str, Any]], None]

_GRACE_SECONDS = 10


@dataclass(frozen=True)
class TrainJob:
    """A training: its result is a `records.RunRecord` as JSON."""

    framework: str
    spec: ModelSpec
    config: TrainConfig
    threads: int
    dataset: str = "mnist"
    limit: int | None = None
    device: str = "auto"
    checkpoint: str | None = None
    resume: bool = False


@dataclass(frozen=True)
class EvaluateJob:
    """A test of a saved model.

    Its result is an `evaluation.Evaluation` as JSON, with the ``predictions`` and ``confidences``
    of all test images besides.
    """

    framework: str
    checkpoint: str
    threads: int
    dataset: str = "mnist"
    device: str = "auto"


@dataclass(frozen=True)
class PredictJob:
    """A reading of prepared digits, (N, 28, 28) uint8 in the .npy file ``images``.

    Its result holds their ``logits``.
    """

    framework: str
    checkpoint: str
    threads: int
    images: str
    device: str = "auto"


Job = TrainJob | EvaluateJob | PredictJob


def run(job: Job, on_event: OnEvent, *, timeout_seconds: float | None = None) -> dict[str, Any]:
    """Do a job in a process of its own and return its result.

    ``on_event`` is called with each event on the way. Raises the `MnistError` that ended the
    job, or `FrameworkError` if its process crashed or was still at work after
    ``timeout_seconds``. No process outlives the call, but for a killed one's helpers, which see
    within a fraction of a second that it is gone.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "mnist_cli.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            encoding="utf-8",
            env=process_environment(job.threads),
        )
        late = threading.Event()

        def stop_late() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(timeout_seconds or 0, stop_late)
        if timeout_seconds is not None:
            timer.start()
        try:
            result = _talk(process, job, on_event)
            with suppress(subprocess.TimeoutExpired):  # a framework may hang at its exit
                process.wait(_GRACE_SECONDS)
        finally:
            timer.cancel()
            _end(process)
        if result is not None:
            return result
        if late.is_set():
            raise FrameworkError(
                f"The {job.framework} process was stopped after {timeout_seconds:g} s, "
                "the --timeout for a run. Give it longer, or fewer epochs."
            )
        raise _crash(job, process.returncode, stderr)


def process_environment(threads: int) -> dict[str, str]:
    """Return the environment variables that a job's process runs under."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        # NumPy's own products: the scratch network shares its work out itself.
        "OPENBLAS_NUM_THREADS": "1",
        # Freed arrays stay with the process (glibc; elsewhere without effect): else each batch's
        # feature maps come from the system anew, page by page.
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(2**32),
        # Another backend in the user's keras.json would quietly be measured instead.
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # By itself TensorFlow leaves oneDNN alone where the processor has no instructions for
        # neural networks (VNNI, AMX).
        "TF_ENABLE_ONEDNN_OPTS": "1",
        "PYTHONIOENCODING": "utf-8",
        # The folder a user works in must not shadow modules.
        "PYTHONSAFEPATH": "1",
    }


def _talk(process: subprocess.Popen[str], job: Job, on_event: OnEvent) -> dict[str, Any] | None:
    """Hand the job over and listen; return the result, or None if the child ended without one."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps({"task": type(job).__name__, **asdict(job)}) + "\n")
    process.stdin.flush()
    for line in process.stdout:
        try:
            event = json.loads(line)
        except ValueError:  # killed in the middle of a line
            return None
        if event["event"] == "result":
            result: dict[str, Any] = event["result"]
            return result
        if event["event"] == "error":
            raise getattr(errors, event["type"], MnistError)(event["message"])
        on_event(event)
    return None


def _end(process: subprocess.Popen[str]) -> None:
    """Stop a process that is still at work."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _crash(job: Job, exit_code: int, stderr: IO[str]) -> FrameworkError:
    stderr.seek(0)
    output = stderr.read()
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    how = f"was killed by {signal.Signals(-exit_code).name}" if exit_code < 0 else "crashed"
    hint = " (out of memory?)" if exit_code == -9 else ""
    error = FrameworkError(
        f"The {job.framework} process {how}{hint}: {lines[-1] if lines else 'it said nothing'}. "
        "Run it again with --debug to see all it printed."
    )
    error.details = output
    return error


# --- The child's side --------------------------------------------------------------------------


def main() -> None:
    """Do the one job that comes on standard input."""
    # A Ctrl-C reaches the whole terminal: the parent decides, and ends this process by SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stop)
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what frameworks print must not mix with the events

    def emit(event: dict[str, Any]) -> None:
        events.write(json.dumps(event) + "\n")
        events.flush()

    job = _read_job(sys.stdin.readline())
    threading.Thread(target=_follow_parent, daemon=True).start()
    try:
        match job:
            case TrainJob():
                result = _train(job, emit)
            case EvaluateJob():
                result = _evaluate(job)
            case PredictJob():
                result = _predict(job)
        emit({"event": "result", "result": result})
    except MnistError as error:
        emit({"event": "error", "type": type(error).__name__, "message": str(error)})
    except Exception:
        traceback.print_exc()
        raise SystemExit(1) from None


def _stop(*_: object) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def _follow_parent() -> None:
    """End this process when the parent's end of standard input closes."""
    # Not sys.stdin.read(): a thread in it would hold the lock that the interpreter's exit takes.
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)  # an orderly end, if the main thread can take it
    time.sleep(_GRACE_SECONDS)
    os._exit(1)


def _read_job(line: str) -> Job:
    values = json.loads(line)
    task = values.pop("task")
    for kind in (EvaluateJob, PredictJob):
        if task == kind.__name__:
            return kind(**values)
    spec, config = ModelSpec(**values.pop("spec")), TrainConfig(**values.pop("config"))
    return TrainJob(spec=spec, config=config, **values)


def _train(job: TrainJob, emit: OnEvent) -> dict[str, Any]:
    started = time.perf_counter()
    from datetime import datetime, timezone
    from pathlib import Path

    from mnist_cli import adapters, architectures, evaluation, recipe, records, training
    from mnist_cli.checkpoint import Checkpoint
    from mnist_cli.data.dataset import fetch, load_dataset, split

    def load() -> tuple[Dataset, training.TrainingData]:
        dataset = load_dataset(job.dataset)
        return dataset, training.prepare(
            dataset, split(dataset, seed=job.config.seed, limit=job.limit)
        )

    emit({"event": "phase", "name": f"loading {job.dataset} and {job.framework}"})
    fetch(job.dataset)  # here, where an interruption ends it
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(load)
        began = time.perf_counter()
        adapter = adapters.load(job.framework)
        import_seconds = time.perf_counter() - began
        dataset, data = loading.result()
    classifier = adapter.build(job.spec, job.config, device=job.device, threads=job.threads)
    environment = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        **records.describe_machine(),
        "threads": job.threads,
        **adapter.environment(),
    }

    path = Path(job.checkpoint) if job.checkpoint else None
    start = Checkpoint(
        spec=job.spec,
        config=job.config,
        framework=job.framework,
        dataset=dataset.name,
        dataset_sha256=dataset.sha256,
        train_images=len(data.train.labels),
        history=(),
        weights=recipe.starting_weights(job.spec, job.config.seed),
        versions=environment,
    )
    if job.resume and path is not None:
        start = training.resumable(path, start)
        if not start.history:
            note = f"There is no {path} to resume: training anew."
        elif training.is_finished(start):
            note = "Nothing is left to train: the run is finished."
        else:
            note = f"Going on after epoch {len(start.history)} of {job.config.epochs}."
        emit({"event": "note", "text": note})
    emit({"event": "phase", "name": "warming up"})
    fit = training.fit(classifier, data, start, path=path, emit=emit)

    last = fit.history[-1]
    record = records.RunRecord(
        framework=job.framework,
        arch=job.spec.arch,
        activation=job.spec.activation,
        parameters=architectures.parameter_count(job.spec),
        dataset=dataset.name,
        train_images=len(data.train.labels),
        epochs=job.config.epochs,
        batch_size=job.config.batch_size,
        learning_rate=job.config.learning_rate,
        label_smoothing=job.config.label_smoothing,
        warmup_fraction=job.config.warmup_fraction,
        decay_power=job.config.decay_power,
        precision=job.config.precision,
        augment=job.config.augment,
        seed=job.config.seed,
        history=fit.history,
        test_accuracy=last.test_accuracy,
        test_loss=last.test_loss,
        test_errors=evaluation.errors(fit.test_logits, data.test.labels),
        import_seconds=import_seconds,
        warmup_seconds=fit.warmup_seconds,
        train_seconds=last.train_seconds,
        evaluate_seconds=fit.evaluate_seconds,
        wall_seconds=time.perf_counter() - started,
        images_per_second=_throughput(fit.history),
        time_to_accuracy=records.time_to_accuracy(fit.history),
        peak_rss_mib=records.peak_rss_mib(),
        checkpoint=job.checkpoint,
        environment=environment | {"data_sha256": dataset.sha256},
    )
    if path is not None:  # in no figure of the record: whatever they say is of the training
        emit({"event": "phase", "name": "calibrating"})
        training.calibrate(classifier, data, path)
    return record.to_json()


def _throughput(history: Sequence[EpochRecord]) -> float:
    """Return the images of all epochs over their seconds; the last epoch may be a part of one."""
    ends = [0.0, *(row.train_seconds for row in history)]
    spans = zip(history, ends, ends[1:], strict=False)  # an epoch, its start, its end
    return sum(row.images_per_second * (end - start) for row, start, end in spans) / ends[-1]


def _evaluate(job: EvaluateJob) -> dict[str, Any]:
    from mnist_cli import evaluation
    from mnist_cli.data.dataset import load_dataset

    dataset = load_dataset(job.dataset)
    logits = _logits(job, dataset.test_images)
    report = evaluation.report(
        logits,
        dataset.test_labels,
        framework=job.framework,
        checkpoint=job.checkpoint,
        dataset=dataset.name,
    )
    return {
        **report.to_json(),
        "predictions": logits.argmax(axis=1).tolist(),
        "confidences": evaluation.probabilities(logits).max(axis=1).tolist(),
    }


def _predict(job: PredictJob) -> dict[str, Any]:
    import numpy as np

    return {"logits": _logits(job, np.load(job.images)).tolist()}


def _logits(job: EvaluateJob | PredictJob, images: Array) -> Array:
    """Return the logits (N, 10) that the job's model has for images (N, 28, 28), uint8."""
    from pathlib import Path

    from mnist_cli import adapters, checkpoint, recipe

    model = checkpoint.load(Path(job.checkpoint))
    adapter = adapters.load(job.framework)
    classifier = model.classifier(adapter, device=job.device, threads=job.threads)
    return classifier.predict_logits(
        recipe.normalize(images, mean=model.pixel_mean, std=model.pixel_std)
    )


if __name__ == "__main__":
    main()

"""Made-up records with the shape of real ones, for tests that train nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mnist_cli.records import EpochRecord, RunRecord, time_to_accuracy

ENVIRONMENT = {
    "cpu": "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz",
    "threads": 2,
    "device": "cpu",
    "date": "2025-01-31",
}
EPOCH_SECONDS = {"numpy": 70.0, "tensorflow": 24.0, "torch": 19.0}
MEMORY_MIB = {"numpy": 640.0, "tensorflow": 1310.0, "torch": 905.0}
BEST_ACCURACY = {"cnn": 0.9935, "mlp": 0.982}


def make_record(
    framework: str = "torch",
    arch: str = "cnn",
    *,
    seed: int = 0,
    epochs: int = 5,
    best: float | None = None,
    loss_scale: float = 1.0,
    activation: str = "relu",
) -> RunRecord:
    """A made-up run with the shape of a real one: frameworks of one seed nearly coincide."""
    rng = np.random.default_rng([seed, len(arch), len(framework)])
    best = BEST_ACCURACY.get(arch, BEST_ACCURACY["mlp"]) if best is None else best
    speed = 1.0 if arch == "cnn" else 0.06
    epoch_seconds = EPOCH_SECONDS.get(framework, 33.0) * speed * rng.uniform(0.97, 1.03)
    history = []
    for epoch in range(1, epochs + 1):
        accuracy = best * (1 - 0.04 * math.exp(-0.9 * (epoch - 1)) * (1 - 0.5 * (arch == "cnn")))
        accuracy = min(accuracy * rng.normal(1, 0.0004), 1.0)
        loss = loss_scale * (0.16 * math.exp(-0.7 * epoch) + 3.2 * (1.0005 - accuracy))
        history.append(
            EpochRecord(
                epoch=epoch,
                train_loss=loss * (1.5 - 0.18 * min(epoch, 6)),
                validation_loss=loss * rng.normal(1, 0.02),
                validation_accuracy=min(accuracy * rng.normal(0.999, 0.0003), 1.0),
                test_loss=loss,
                test_accuracy=accuracy,
                train_seconds=epoch * epoch_seconds,
                images_per_second=55_000 / epoch_seconds,
            )
        )
    return RunRecord(
        framework=framework,
        arch=arch,
        activation=activation,
        parameters=421_642 if arch == "cnn" else 101_770,
        dataset="mnist",
        train_images=55_000,
        epochs=epochs,
        batch_size=64,
        learning_rate=0.1,
        seed=seed,
        history=tuple(history),
        test_accuracy=history[-1].test_accuracy,
        test_loss=history[-1].validation_loss,
        test_errors=make_errors(framework, history[-1].test_accuracy, seed=seed),
        import_seconds=2.0,
        warmup_seconds=1.0,
        train_seconds=history[-1].train_seconds,
        evaluate_seconds=3.0,
        wall_seconds=history[-1].train_seconds + 6.0,
        images_per_second=55_000 / epoch_seconds,
        time_to_accuracy=time_to_accuracy(tuple(history)),
        peak_rss_mib=MEMORY_MIB.get(framework, 800.0) * rng.uniform(0.98, 1.02),
        checkpoint=None,
        environment=ENVIRONMENT,
    )


def make_errors(
    framework: str, accuracy: float, *, seed: int, images: int = 10_000
) -> tuple[tuple[int, int], ...]:
    """Mistakes as real models share them: the same images are hard for all, give or take."""
    hardness = np.random.default_rng(7).normal(size=images)
    own = np.random.default_rng([seed, len(framework), round(1e6 * accuracy)])
    hardest = np.argsort(-hardness - own.normal(0, 0.3, images))[: round(images * (1 - accuracy))]
    # Every made-up label is index % 10.
    return tuple((int(index), int(index + own.integers(1, 3)) % 10) for index in sorted(hardest))


def make_records(
    frameworks: Sequence[str] = ("numpy", "tensorflow", "torch"),
    archs: Sequence[str] = ("cnn", "mlp"),
    *,
    seeds: int = 3,
    epochs: int = 5,
) -> list[RunRecord]:
    return [
        make_record(framework, arch, seed=seed, epochs=epochs)
        for seed in range(seeds)
        for framework in frameworks
        for arch in archs
    ]

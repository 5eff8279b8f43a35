"""Seconds of training to 99% of the validation images: `mnist train` against a tutorial's loop.

    python tests/benchmarks/time_to_accuracy.py [--seeds 5] [--threads N] [--framework torch]

`mnist train` runs as it does by default. The loop is what beginners with PyTorch write: the
same network with PyTorch's own initial weights, a `DataLoader` over torchvision's transforms, and
Adam at its default rate 0.001; it decodes and normalises each image within the measured time. Both
warm up before the measurement, train on the same images, and evaluate the same 5,000 validation
images ten times per epoch, outside the measured time. One run at a time, in alternating order; run
nothing else meanwhile.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
import time
from typing import Any

from throughput import BATCH_SIZE, plain_environment, torch_model, torchvision_loader

from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.machine import available_cores
from mnist_cli.runners import process
from mnist_cli.runners.base import TrainJob

TARGET_ACCURACY = 0.99
CHECKS_PER_EPOCH = 10
MOST_EPOCHS = 20  # of the loop: a seed that is not there by then counts as never


def loop_seconds(seed: int, threads: int) -> float:
    """Return the seconds that the loop trains until the target, infinite if it is never reached."""
    import torch
    from torch.nn import functional

    from mnist_cli.data.registry import load_dataset
    from mnist_cli.data.split import split
    from mnist_cli.training import evaluation, recipe

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    data = split(load_dataset(), seed=seed)
    loader = torchvision_loader(data.train_images, data.train_labels)
    validation_images = torch.from_numpy(recipe.normalize(data.validation_images)).unsqueeze(1)
    validation_labels = torch.from_numpy(data.validation_labels)
    model = torch_model("cnn")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    steps_between_checks = len(data.train_labels) // BATCH_SIZE // CHECKS_PER_EPOCH

    def reached() -> bool:
        with torch.inference_mode():
            logits = torch.cat([model(part) for part in validation_images.split(250)]).numpy()
        return evaluation.accuracy(logits, data.validation_labels) >= TARGET_ACCURACY

    for _ in range(3):  # allocate, and let oneDNN choose; the weights stay as they are
        functional.cross_entropy(
            model(validation_images[:BATCH_SIZE]), validation_labels[:BATCH_SIZE]
        ).backward()
    reached()
    began, check_seconds = time.perf_counter(), 0.0
    for _ in range(MOST_EPOCHS):
        for step, (images, labels) in enumerate(loader, start=1):
            optimizer.zero_grad()
            functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
            if step % steps_between_checks == 0:
                check_began = time.perf_counter()
                is_there = reached()
                check_seconds += time.perf_counter() - check_began
                if is_there:
                    return time.perf_counter() - began - check_seconds
    return math.inf


def loop(seed: int, threads: int) -> float:
    """Return `loop_seconds`, measured in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--loop", str(seed), "--threads", str(threads)],
        env=plain_environment(threads),
        stdout=subprocess.PIPE,
        check=True,
    )
    return float(done.stdout.split()[-1])


def mnist_train(framework: str, seed: int, threads: int) -> tuple[float, dict[str, Any]]:
    """Return the seconds that `mnist train` takes, infinite if it ends below, and its record."""
    job = TrainJob(
        framework=framework,
        spec=ModelSpec("cnn"),
        config=TrainConfig(seed=seed, target_accuracy=TARGET_ACCURACY),
        threads=threads,
        device="cpu",
    )
    record = process.run(job, lambda _: None)
    return record["time_to_accuracy"][str(TARGET_ACCURACY)] or math.inf, record


def main() -> None:
    """Measure, and print a line for each seed and the ratio of the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--framework", default="torch")
    parser.add_argument("--loop", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    framework, threads = arguments.framework, arguments.threads
    if arguments.loop is not None:
        print(loop_seconds(arguments.loop, threads))
        return
    print(f"| seed | mnist train, {framework}: seconds | images/s | the loop: seconds |")
    print("| ---: | ---: | ---: | ---: |")
    ours, theirs = [], []
    for seed in range(arguments.seeds):
        if seed % 2:
            theirs.append(loop(seed, threads))
        seconds, record = mnist_train(framework, seed, threads)
        ours.append(seconds)
        if not seed % 2:
            theirs.append(loop(seed, threads))
        speed = record["images_per_second"]
        print(f"| {seed} | {ours[-1]:.1f} | {speed:,.0f} | {theirs[-1]:.1f} |", flush=True)
    medians = statistics.median(ours), statistics.median(theirs)
    print(f"| median | {medians[0]:.1f} | | {medians[1]:.1f} |")
    if math.isinf(medians[0]):
        print("\nmnist train was not there in the median.")
    else:
        print(f"\n{medians[1] / medians[0]:.1f} times sooner (at least 8 is asked for)")


if __name__ == "__main__":
    main()

"""Training throughput of each framework against the plain loop a user would write.

    python tests/benchmarks/throughput.py [--rounds 7] [--threads N]

Each contender trains in a process of its own; the processes take turns, one segment of images at a
time, in rounds that are reversed every second time, so that a machine whose speed drifts favours
nobody. The table gives medians over rounds and the ratios that the project promises. Nothing else
should run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

SEGMENT_IMAGES = {"cnn": 6_400, "mlp": 54_400}  # one to three seconds each on two cores
BATCH_SIZE = 64
CONTENDERS = ("numpy", "torch", "tensorflow", "bare torch loop", "keras fit")
# (contender, peer, at least) for each architecture
PROMISES = {
    "cnn": (
        ("numpy", "torch", 0.7),
        ("torch", "bare torch loop", 0.95),
        ("tensorflow", "keras fit", 1.0),
    ),
    "mlp": (("numpy", "torch", 1.0),),
}

Segment = Callable[[], None]


def load() -> tuple[np.ndarray, np.ndarray]:
    """Return MNIST's training part, normalised, as every contender gets it."""
    from mnist_cli import recipe
    from mnist_cli.data.dataset import load_dataset, split

    data = split(load_dataset(), seed=0)
    return recipe.normalize(data.train_images), data.train_labels


def adapter_segment(framework: str, arch: str, threads: int) -> Segment:
    """Train as `mnist train` does."""
    from mnist_cli import adapters, recipe
    from mnist_cli.config import ModelSpec, TrainConfig

    spec, config = ModelSpec(arch), TrainConfig(batch_size=BATCH_SIZE)
    images, labels = load()
    classifier = adapters.load(framework).build(spec, config, device="cpu", threads=threads)
    weights = recipe.starting_weights(spec, 0)
    classifier.import_weights(weights)
    classifier.import_optimizer({name: np.zeros_like(array) for name, array in weights.items()})
    order = recipe.epoch_order(config, epoch=1, count=len(images))[: SEGMENT_IMAGES[arch]]
    rates = np.full(len(order) // BATCH_SIZE, 0.01, dtype=np.float32)

    def segment() -> None:
        for _ in classifier.train_epoch(images, labels, order=order, learning_rates=rates):
            pass

    return segment


def bare_torch_segment(arch: str, threads: int) -> Segment:
    """Train in the shortest PyTorch loop: tensors in memory, channels last, `optim.SGD`."""
    import torch
    from torch import nn

    torch.set_num_threads(threads)
    if arch == "cnn":
        model = nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(3136, 128), nn.ReLU(), nn.Linear(128, 10)),
        )
    else:
        model = nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    arrays = load()
    images, labels = torch.from_numpy(arrays[0]).unsqueeze(1), torch.from_numpy(arrays[1])

    def segment() -> None:
        order = torch.randperm(len(images))[: SEGMENT_IMAGES[arch]]
        for batch in order.split(BATCH_SIZE):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()

    return segment


def keras_fit_segment(arch: str, threads: int) -> Segment:
    """Train with `keras.Model.fit` on arrays in memory."""
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    layers = keras.layers
    hidden = (
        [
            *(layers.Conv2D(32, 3, padding="same", activation="relu"), layers.MaxPooling2D()),
            *(layers.Conv2D(64, 3, padding="same", activation="relu"), layers.MaxPooling2D()),
        ]
        if arch == "cnn"
        else []
    )
    dense = [layers.Flatten(), layers.Dense(128, activation="relu"), layers.Dense(10)]
    model = keras.Sequential([keras.Input((28, 28, 1)), *hidden, *dense])
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    images, labels = load()
    images, labels = images[: SEGMENT_IMAGES[arch], ..., None], labels[: SEGMENT_IMAGES[arch]]

    def segment() -> None:
        model.fit(images, labels, batch_size=BATCH_SIZE, epochs=1, verbose=0)

    return segment


def contend(contender: str, arch: str, threads: int) -> None:
    """Be a contender: train one segment for each line on standard input, answer with images/s."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what frameworks print is no answer
    if contender == "bare torch loop":
        segment = bare_torch_segment(arch, threads)
    elif contender == "keras fit":
        segment = keras_fit_segment(arch, threads)
    else:
        segment = adapter_segment(contender, arch, threads)
    for _ in sys.stdin:
        began = time.perf_counter()
        segment()
        print(SEGMENT_IMAGES[arch] / (time.perf_counter() - began), file=answers, flush=True)


def start(contender: str, arch: str, threads: int) -> subprocess.Popen[str]:
    """Start a contender's process, with the thread counts of `mnist_cli.worker`."""
    return subprocess.Popen(
        [sys.executable, __file__, "--contend", contender, arch, "--threads", str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "OPENBLAS_NUM_THREADS": "1",
            "KERAS_BACKEND": "tensorflow",
        },
    )


def turn(process: subprocess.Popen[str]) -> float:
    """Let a contender train one segment; return its images per second."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def measure(arch: str, rounds: int, threads: int) -> dict[str, list[float]]:
    """Return each contender's images per second in each round, after one to warm up."""
    processes = {name: start(name, arch, threads) for name in CONTENDERS}
    try:
        speeds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
        for name in CONTENDERS:
            turn(processes[name])
        for index in range(rounds):
            for name in CONTENDERS if index % 2 == 0 else reversed(CONTENDERS):
                speeds[name].append(turn(processes[name]))
        return speeds
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--contend", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contend:
        contend(*arguments.contend, arguments.threads)
        return
    print(f"{arguments.rounds} rounds, {arguments.threads} threads, batch {BATCH_SIZE}\n")
    print("| network | contender | median images/s | lowest | highest |")
    print("| --- | --- | ---: | ---: | ---: |")
    measured = {}
    for arch in PROMISES:
        measured[arch] = measure(arch, arguments.rounds, arguments.threads)
        for name, speeds in measured[arch].items():
            figures = (statistics.median(speeds), min(speeds), max(speeds))
            print(f"| {arch} | {name} |", *(f"{figure:,.0f} |" for figure in figures), flush=True)
    print("\n| ratio of images/s, median over rounds | at least | measured |")
    print("| --- | ---: | ---: |")
    for arch, promises in PROMISES.items():
        for name, peer, least in promises:
            pairs = zip(measured[arch][name], measured[arch][peer], strict=True)
            ratio = statistics.median(one / other for one, other in pairs)
            print(f"| {arch}: {name} / {peer} | {least:.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()

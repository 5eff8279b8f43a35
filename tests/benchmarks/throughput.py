"""Training throughput of each framework against the plain loop a user would write.

    python tests/benchmarks/throughput.py [--rounds 7] [--threads N] [--network cnn|mlp]

Each contender trains in a process of its own: a framework in the environment that `mnist train`
gives it, a peer in a user's own, with as many threads. The processes take turns, one segment of
images at a time, in rounds that are reversed every second time, so that a machine whose speed
drifts favours no contender. The table gives medians over rounds and the ratios that the project
promises. Nothing else should run on the machine meanwhile.

"matrix products" trains nothing: it multiplies as many numbers as the direct method would for as
many images. Its images/s are the floor that a network's are a share of; Winograd's method has
fewer products, and may exceed 1.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

SEGMENT_IMAGES = {"cnn": 6_400, "mlp": 54_400}  # one to three seconds each on two cores
BATCH_SIZE = 64
# Between turns: a contender's threads go on looking for work for a while after its segment.
PAUSE_SECONDS = 0.3
PRODUCTS = "matrix products"
JITTED = "bare jitted step"  # in JAX
FRAMEWORKS = ("numpy", "torch", "tensorflow", "jax")
# Twice: on the numbers that all others get, and on those that it makes of integers, as
# `fetch_openml` gives them, or that dividing these by 255 makes.
SKLEARN = {"scikit-learn float32": np.float32, "scikit-learn float64": np.float64}
CONTENDERS = {
    "cnn": (*FRAMEWORKS, "bare torch loop", "torchvision loop", "keras fit", JITTED, PRODUCTS),
    "mlp": (*FRAMEWORKS, "bare torch loop", "keras fit", JITTED, *SKLEARN, PRODUCTS),
}
# (contender, peer, at least) for each architecture; "best" is the fastest of `FRAMEWORKS`
PROMISES = {
    "cnn": (
        ("numpy", "bare torch loop", 1.0),
        ("torch", "torchvision loop", 2.0),
        ("torch", "bare torch loop", 1.1),
        ("tensorflow", "keras fit", 1.25),
        ("jax", JITTED, 1.0),
        ("best", PRODUCTS, 0.6),
    ),
    "mlp": (
        ("numpy", "bare torch loop", 2.0),
        ("torch", "bare torch loop", 1.0),
        ("jax", JITTED, 1.0),
        *(("numpy", name, 3.0) for name in SKLEARN),
    ),
}

Segment = Callable[[], None]


def load() -> tuple[np.ndarray, np.ndarray]:
    """Return MNIST's training part, normalised, as every contender gets it."""
    from mnist_cli.data.registry import load_dataset
    from mnist_cli.data.split import split
    from mnist_cli.training import recipe

    data = split(load_dataset(), seed=0)
    return recipe.normalize(data.train_images), data.train_labels


def adapter_segment(framework: str, arch: str, threads: int) -> Segment:
    """Train as `mnist train` does."""
    from mnist_cli import adapters
    from mnist_cli.config import ModelSpec, TrainConfig
    from mnist_cli.training import recipe

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


def torch_model(arch: str) -> Any:
    """Return the network in PyTorch, as a user would write it."""
    from torch import nn

    if arch == "cnn":
        return nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(3136, 128), nn.ReLU(), nn.Linear(128, 10)),
        )
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))


def torch_sgd(model: Any) -> Any:
    """Return PyTorch's own optimiser with the recipe's numbers."""
    import torch

    return torch.optim.SGD(
        model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4
    )


def bare_torch_segment(arch: str, threads: int) -> Segment:
    """Train in the shortest PyTorch loop: tensors in memory, channels last, `optim.SGD`."""
    import torch
    from torch.nn import functional

    torch.set_num_threads(threads)
    model = torch_model(arch).to(memory_format=torch.channels_last)
    optimizer = torch_sgd(model)
    arrays = load()
    images, labels = torch.from_numpy(arrays[0]).unsqueeze(1), torch.from_numpy(arrays[1])

    def segment() -> None:
        order = torch.randperm(len(images))[: SEGMENT_IMAGES[arch]]
        for batch in order.split(BATCH_SIZE):
            optimizer.zero_grad()
            functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()

    return segment


def torchvision_loader(pixels: np.ndarray, labels: np.ndarray) -> Any:
    """Return a `DataLoader` over PIL images through torchvision's transforms, as in tutorials."""
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    transform = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
    )

    class Digits(Dataset):  # type: ignore[misc, type-arg]
        """What `torchvision.datasets.MNIST` gives, without its download."""

        def __len__(self) -> int:
            return len(pixels)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return transform(Image.fromarray(pixels[index])), int(labels[index])

    return DataLoader(Digits(), batch_size=BATCH_SIZE, shuffle=True)


def torchvision_segment(arch: str, threads: int) -> Segment:
    """Train from `torchvision_loader`."""
    import torch
    from torch.nn import functional

    from mnist_cli.data.registry import load_dataset
    from mnist_cli.data.split import split

    torch.set_num_threads(threads)
    data = split(load_dataset(), seed=0)
    images = SEGMENT_IMAGES[arch]
    loader = torchvision_loader(data.train_images[:images], data.train_labels[:images])
    model = torch_model(arch)
    optimizer = torch_sgd(model)

    def segment() -> None:
        for inputs, targets in loader:
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()

    return segment


def sklearn_segment(arch: str, threads: int, *, dtype: type) -> Segment:
    """Train scikit-learn's `MLPClassifier`, by SGD with Nesterov's momentum, on ``dtype``."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    assert arch == "mlp"
    warnings.simplefilter("ignore", ConvergenceWarning)  # one epoch is all it gets
    images, labels = load()
    rows = images[: SEGMENT_IMAGES[arch]].reshape(-1, 784).astype(dtype)
    classifier = MLPClassifier(
        (128,),
        solver="sgd",
        momentum=0.9,
        nesterovs_momentum=True,
        alpha=5e-4,
        batch_size=BATCH_SIZE,
        learning_rate_init=0.01,
        max_iter=1,
        warm_start=True,
    )

    def segment() -> None:
        classifier.fit(rows, labels[: len(rows)])

    return segment


def products_segment(arch: str, threads: int) -> Segment:
    """Multiply 512 x 512 matrices, one on each thread, as often as the direct method needs."""
    from concurrent.futures import ThreadPoolExecutor

    operations = training_operations(arch) * SEGMENT_IMAGES[arch]
    side = 512
    each = math.ceil(operations / (2 * side**3) / threads)
    rng = np.random.default_rng(0)
    matrices = [rng.standard_normal((3, side, side), dtype=np.float32) for _ in range(threads)]
    pool = ThreadPoolExecutor(threads)

    def multiply(three: np.ndarray) -> None:
        for _ in range(each):
            np.matmul(three[0], three[1], out=three[2])

    def segment() -> None:
        list(pool.map(multiply, matrices))

    return segment


def training_operations(arch: str) -> int:
    """Return the floating-point operations of the products that train on one image, directly.

    Two for each weight and each place it is used at, for each of three products: outputs, gradient
    in the weights, and, but for the first layer, gradient in the inputs.
    """
    from mnist_cli.arrays import IMAGE_SIZE
    from mnist_cli.config import ModelSpec
    from mnist_cli.networks import spec

    places, operations = IMAGE_SIZE**2, 0
    for index, layer in enumerate(spec.parameter_layers(ModelSpec(arch))):
        is_convolution = isinstance(layer, spec.Conv)
        uses = math.prod(layer.weight_shape) * (places if is_convolution else 1)
        operations += 2 * uses * (3 if index else 2)
        places //= 4  # a pool follows each convolution
    return operations


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


def jitted_segment(arch: str, threads: int) -> Segment:
    """Train in the shortest JAX loop: a jitted step per batch, arrays in memory, NHWC."""
    os.environ["NPROC"] = str(threads)  # XLA's threads
    import jax
    import jax.numpy as jnp
    from jax import lax

    sizes = {"conv1": (3, 3, 1, 32), "conv2": (3, 3, 32, 64)} if arch == "cnn" else {}
    sizes |= {"fc1": (3136 if arch == "cnn" else 784, 128), "fc2": (128, 10)}
    rng = np.random.default_rng(0)
    weights = {
        name: (jnp.asarray(rng.normal(0, 0.05, size), jnp.float32), jnp.zeros(size[-1]))
        for name, size in sizes.items()
    }
    velocities = jax.tree.map(jnp.zeros_like, weights)
    arrays = load()
    images, labels = jnp.asarray(arrays[0][..., None]), jnp.asarray(arrays[1])

    def loss(weights: Any, inputs: Any, targets: Any) -> Any:
        for name, (weight, bias) in weights.items():
            if weight.ndim == 4:
                dimensions = ("NHWC", "HWIO", "NHWC")
                inputs = lax.conv_general_dilated(
                    inputs, weight, (1, 1), "SAME", dimension_numbers=dimensions
                )
                windows = (1, 2, 2, 1)
                inputs = lax.reduce_window(
                    jax.nn.relu(inputs + bias), -jnp.inf, lax.max, windows, windows, "VALID"
                )
            else:
                inputs = inputs.reshape(len(inputs), -1) @ weight + bias
                inputs = jax.nn.relu(inputs) if name == "fc1" else inputs
        return -jnp.take_along_axis(jax.nn.log_softmax(inputs), targets[:, None], 1).mean()

    @jax.jit
    def step(weights: Any, velocities: Any, images: Any, labels: Any, batch: Any) -> Any:
        gradients = jax.grad(loss)(weights, images[batch], labels[batch])
        gradients = jax.tree.map(lambda g, w: g + 5e-4 * w, gradients, weights)
        velocities = jax.tree.map(lambda v, g: 0.9 * v + g, velocities, gradients)
        moved = jax.tree.map(
            lambda w, g, v: w - 0.01 * (g + 0.9 * v), weights, gradients, velocities
        )
        return moved, velocities

    def segment() -> None:
        nonlocal weights, velocities
        order = rng.permutation(len(images))[: SEGMENT_IMAGES[arch]]
        for batch in order.reshape(-1, BATCH_SIZE):
            weights, velocities = step(weights, velocities, images, labels, batch)
        jax.block_until_ready(weights)

    return segment


def contend(contender: str, arch: str, threads: int) -> None:
    """Be a contender: train one segment for each line on standard input, answer with images/s."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what frameworks print is no answer
    peers = {
        "bare torch loop": bare_torch_segment,
        "torchvision loop": torchvision_segment,
        "keras fit": keras_fit_segment,
        JITTED: jitted_segment,
        **{name: partial(sklearn_segment, dtype=dtype) for name, dtype in SKLEARN.items()},
        PRODUCTS: products_segment,
    }
    if contender in peers:
        segment = peers[contender](arch, threads)
    else:
        segment = adapter_segment(contender, arch, threads)
    for _ in sys.stdin:
        began = time.perf_counter()
        segment()
        print(SEGMENT_IMAGES[arch] / (time.perf_counter() - began), file=answers, flush=True)


def plain_environment(threads: int) -> dict[str, str]:
    """Return the environment of a user's own script, with ``threads`` threads for everything."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {**os.environ, "KERAS_BACKEND": "tensorflow", **dict.fromkeys(names, str(threads))}


def start(contender: str, arch: str, threads: int) -> subprocess.Popen[str]:
    """Start a contender's process: a framework's in the environment that `mnist train` gives it."""
    from mnist_cli.runners.process import process_environment

    # Those that share out their work themselves want no threads of BLAS's.
    is_ours = contender in (*FRAMEWORKS, PRODUCTS)
    environment = process_environment if is_ours else plain_environment
    return subprocess.Popen(
        [sys.executable, __file__, "--contend", contender, arch, "--threads", str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment(threads),
    )


def turn(process: subprocess.Popen[str]) -> float:
    """Let a contender train one segment; return its images per second."""
    assert process.stdin is not None
    assert process.stdout is not None
    time.sleep(PAUSE_SECONDS)
    process.stdin.write("go\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def measure(arch: str, rounds: int, threads: int) -> dict[str, list[float]]:
    """Return each contender's images per second in each round, after one to warm up."""
    contenders = CONTENDERS[arch]
    processes = {name: start(name, arch, threads) for name in contenders}
    try:
        speeds: dict[str, list[float]] = {name: [] for name in contenders}
        for name in contenders:
            turn(processes[name])
        for index in range(rounds):
            for name in contenders if index % 2 == 0 else reversed(contenders):
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
    parser.add_argument("--network", choices=PROMISES, help="one of the two alone")
    parser.add_argument("--contend", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contend:
        contend(*arguments.contend, arguments.threads)
        return
    archs = [arguments.network] if arguments.network else list(PROMISES)
    print(f"{arguments.rounds} rounds, {arguments.threads} threads, batch {BATCH_SIZE}\n")
    print("| network | contender | median images/s | lowest | highest |")
    print("| --- | --- | ---: | ---: | ---: |")
    measured = {}
    for arch in archs:
        measured[arch] = measure(arch, arguments.rounds, arguments.threads)
        for name, speeds in measured[arch].items():
            figures = (statistics.median(speeds), min(speeds), max(speeds))
            print(f"| {arch} | {name} |", *(f"{figure:,.0f} |" for figure in figures), flush=True)
    print("\n| ratio of images/s, median over rounds | at least | measured |")
    print("| --- | ---: | ---: |")
    for arch in archs:
        speeds = measured[arch]
        best = max(FRAMEWORKS, key=lambda name: statistics.median(speeds[name]))
        for promised, peer, least in PROMISES[arch]:
            name = best if promised == "best" else promised
            pairs = zip(speeds[name], speeds[peer], strict=True)
            ratio = statistics.median(one / other for one, other in pairs)
            print(f"| {arch}: {name} / {peer} | {least:.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()

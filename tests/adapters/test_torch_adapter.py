"""PyTorch's steps as graphs, by a fake one on the CPU, and its devices.

Real graphs and a real GPU are tested where there is one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.errors import FrameworkError
from mnist_cli.networks.language import find_network
from mnist_cli.training import recipe

torch_adapter = pytest.importorskip("mnist_cli.adapters.torch_adapter")
torch = torch_adapter.torch

pytestmark = pytest.mark.slow

CONFIG = TrainConfig(batch_size=16)
# Batch norm, whose running statistics a recording moves as well, and a residual; no maxima, of
# which rounding may pick another.
LINE = (
    "conv 4 5x5 stride 2, batchnorm, gelu, pool avg, residual(conv 4, batchnorm, tanh), dense 12, "
    "batchnorm, gelu"
)
CPU = torch.device("cpu")
COUNT = 400
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(0, 1, (COUNT, 28, 28)).astype(np.float32)
LABELS = RNG.integers(0, 10, COUNT)


class FakeGraphs:
    """Records as a GPU does, by running the work, and replays by running it again."""

    def __init__(self) -> None:
        self.recorded = 0

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        self.recorded += 1
        for _ in range(3):
            work()
        return work


def built(spec: ModelSpec, config: TrainConfig, capture: Any = None, device: Any = CPU) -> Any:
    torch.set_num_threads(1)  # sums in one order: what differs is the graph's doing
    classifier = torch_adapter.TorchClassifier(spec, config, device, capture=capture)
    classifier.import_weights(recipe.starting_weights(spec, 0))
    return classifier


def train(
    classifier: Any, first: int, last: int, *, images: np.ndarray = IMAGES, chunks: int = 99
) -> np.ndarray:
    """Take the steps from ``first`` to ``last``, or end after some chunks; return the losses."""
    size = classifier.batch_size
    order = np.random.default_rng(1).integers(0, len(images), 200 * size).reshape(-1, size)
    rates = np.linspace(0.001, 0.02, 200, dtype=np.float32)
    losses = classifier.train_epoch(
        images,
        LABELS[: len(images)],
        order=order[first:last].ravel(),
        learning_rates=rates[first:last],
    )
    return np.concatenate([chunk for chunk, _ in zip(losses, range(chunks), strict=False)])


def assert_same(one: Any, other: Any) -> None:
    for ours, theirs in (
        (one.export_weights(), other.export_weights()),
        (one.export_optimizer(), other.export_optimizer()),
    ):
        for name in ours:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("spec", "changes"),
    [
        (ModelSpec("cnn"), {}),
        (ModelSpec("mlp", "sigmoid"), {"batch_size": 50}),
        (ModelSpec("mlp"), {"momentum": 0.0, "label_smoothing": 0.0}),
        (ModelSpec("mlp"), {"reject": True}),
        (ModelSpec("mlp"), {"precision": "bfloat16"}),
        (ModelSpec("mlp"), {"precision": "tf32"}),
        (find_network(LINE), {}),
    ],
    ids=["cnn", "sigmoid", "no-momentum", "reject", "bfloat16", "tf32", "line"],
)
def test_recorded_steps_have_the_losses_of_eager_ones(
    spec: ModelSpec, changes: dict[str, Any]
) -> None:
    config = replace(CONFIG, **changes)
    graphs = FakeGraphs()
    eager, recorded = built(spec, config), built(spec, config, graphs)
    losses = train(recorded, 0, 100)
    np.testing.assert_allclose(losses, train(eager, 0, 100), rtol=1e-5)
    assert len(losses) == 100
    assert_same(recorded, eager)
    assert graphs.recorded == 2  # a chunk, and a step


def test_what_the_warm_up_recorded_serves_other_epochs_images_and_velocities() -> None:
    graphs = FakeGraphs()
    eager, recorded = (built(ModelSpec("mlp"), CONFIG, each) for each in (None, graphs))
    for classifier in (eager, recorded):
        train(classifier, 0, 33)
    addresses = [tensor.data_ptr() for tensor in memory(recorded)]
    velocities = {
        name: np.full_like(array, 0.01) for name, array in eager.export_optimizer().items()
    }
    augmented = IMAGES[::-1] * np.float32(0.5)
    for classifier in (eager, recorded):
        classifier.import_weights(recipe.starting_weights(ModelSpec("mlp"), 1))
        classifier.import_optimizer(velocities)
    for first, last, images in ((0, 59, augmented), (59, 64, IMAGES), (64, 128, augmented)):
        losses = [train(each, first, last, images=images) for each in (recorded, eager)]
        np.testing.assert_allclose(*losses, rtol=1e-5)
    assert_same(recorded, eager)
    assert graphs.recorded == 2
    assert [tensor.data_ptr() for tensor in memory(recorded)] == addresses


def memory(classifier: Any) -> list[Any]:
    """Return all tensors whose addresses a recording has."""
    parameters = list(classifier.module.parameters())
    kept = classifier._recorded
    return [
        *parameters,
        *classifier.velocities.values(),
        *(kept.images, kept.labels, kept._order, kept._rates, kept._losses),
    ]


def test_an_epoch_may_end_early_and_others_be_predicted_in_between() -> None:
    eager, recorded = (built(ModelSpec("mlp"), CONFIG, each) for each in (None, FakeGraphs()))
    for classifier in (eager, recorded):
        assert len(train(classifier, 0, 100, chunks=1)) == 32
    assert_same(recorded, eager)
    np.testing.assert_allclose(
        recorded.predict_logits(IMAGES), eager.predict_logits(IMAGES), atol=1e-5
    )
    np.testing.assert_allclose(train(recorded, 32, 50), train(eager, 32, 50), rtol=1e-5)


def test_another_number_of_images_is_recorded_anew() -> None:
    graphs = FakeGraphs()
    eager, recorded = (built(ModelSpec("mlp"), CONFIG, each) for each in (None, graphs))
    for classifier in (eager, recorded):
        train(classifier, 0, 3)
    few = IMAGES[:30]
    np.testing.assert_allclose(
        train(recorded, 3, 40, images=few), train(eager, 3, 40, images=few), rtol=1e-5
    )
    assert graphs.recorded == 3


def test_without_a_graph_steps_are_eager_and_a_note_says_so() -> None:
    def fails(work: Callable[[], None]) -> Callable[[], None]:
        work()
        raise RuntimeError("operation not permitted\nwhen a stream is capturing")

    eager, refused = built(ModelSpec("mlp"), CONFIG), built(ModelSpec("mlp"), CONFIG, fails)
    np.testing.assert_array_equal(train(refused, 0, 40), train(eager, 0, 40))
    assert_same(refused, eager)
    assert refused.note == (
        "PyTorch takes one step at a time: no CUDA graph could be had (operation not permitted)."
    )
    assert eager.note == ""


def test_with_dropout_steps_are_eager_and_a_note_says_so() -> None:
    spec, graphs = find_network("dense 20, relu, dropout 0.5"), FakeGraphs()
    eager, noted = built(spec, CONFIG), built(spec, CONFIG, graphs)
    np.testing.assert_array_equal(train(noted, 0, 40), train(eager, 0, 40))
    assert_same(noted, eager)
    assert noted.note == "PyTorch takes one step at a time: dropout draws a mask for each."
    assert eager.note == ""
    assert graphs.recorded == 0


class Available:
    """Says which devices there are, and takes what is built for them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *devices: str) -> None:
        for name, module in (("cuda", torch.cuda), ("mps", torch.backends.mps)):
            monkeypatch.setattr(module, "is_available", lambda name=name: name in devices)
        monkeypatch.setattr(torch_adapter, "TorchClassifier", self.take)

    def take(self, spec: Any, config: Any, device: Any, *, capture: Any) -> None:
        self.built = (device.type, capture)


def build(device: str, precision: str = "float32") -> Any:
    config = replace(CONFIG, precision=precision)
    return torch_adapter.TorchAdapter().build(ModelSpec("mlp"), config, device=device, threads=1)


@pytest.mark.parametrize(
    ("devices", "asked", "taken"),
    [
        (("cuda", "mps"), "auto", "cuda"),
        (("mps",), "auto", "mps"),
        ((), "auto", "cpu"),
        (("mps",), "mps", "mps"),
        (("cuda",), "cpu", "cpu"),
    ],
)
def test_auto_is_the_best_device_and_only_cuda_records(
    devices: tuple[str, ...], asked: str, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    available = Available(monkeypatch, *devices)
    build(asked)
    capture = torch_adapter.capture_cuda_graph if taken == "cuda" else None
    assert available.built == (taken, capture)


@pytest.mark.parametrize(
    ("devices", "asked", "precision", "said"),
    [
        ((), "cuda", "float32", "PyTorch sees no CUDA device. Use --device cpu"),
        ((), "mps", "float32", "PyTorch sees no Apple GPU. Use --device cpu"),
        (("mps",), "auto", "tf32", "tf32 on a CUDA device only, not on mps. Use --device cuda"),
        ((), "cpu", "tf32", "PyTorch computes in tf32 on a CUDA device only, not on cpu"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(
    devices: tuple[str, ...],
    asked: str,
    precision: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Available(monkeypatch, *devices)
    with pytest.raises(FrameworkError, match=said):
        build(asked, precision)


def test_tf32_is_allowed_within_its_steps_alone() -> None:
    classifier = built(ModelSpec("mlp"), replace(CONFIG, precision="tf32"))
    seen = []
    inner = classifier._step
    classifier._step = lambda *batch: seen.append(allows_tf32()) or inner(*batch)
    torch_adapter._allow_tf32(False)
    train(classifier, 0, 2)
    assert seen == [(True, True)] * 2
    assert allows_tf32() == (False, False)


def allows_tf32() -> tuple[bool, bool]:
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.mark.skipif(not torch.backends.mps.is_available(), reason="no Apple GPU here")
@pytest.mark.parametrize("arch", ["cnn", "mlp"])
def test_an_apple_gpu_has_the_losses_of_the_cpu(arch: str) -> None:
    cpu, gpu = (built(ModelSpec(arch), CONFIG, device=torch.device(d)) for d in ("cpu", "mps"))
    np.testing.assert_allclose(train(gpu, 0, 40), train(cpu, 0, 40), rtol=0.01)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("arch", ["cnn", "mlp", LINE], ids=["cnn", "mlp", "line"])
def test_cuda_graphs_have_the_losses_of_eager_steps_and_of_the_cpu(arch: str) -> None:
    cuda, spec = torch.device("cuda"), find_network(arch)
    graph = built(spec, CONFIG, torch_adapter.capture_cuda_graph, cuda)
    eager, cpu = built(spec, CONFIG, device=cuda), built(spec, CONFIG)
    losses = train(graph, 0, 100)
    assert graph.note == ""
    np.testing.assert_allclose(losses, train(eager, 0, 100), rtol=1e-5)
    # Sums in another order; see `framework_driver` for how such differences grow.
    np.testing.assert_allclose(losses, train(cpu, 0, 100), rtol=0.01)
    assert graph.predict_logits(IMAGES).shape == (COUNT, 10)
    assert len(graph._predicted) == 1

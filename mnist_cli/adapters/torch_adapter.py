"""PyTorch: an `nn.Module`, one fused SGD step per batch; on CUDA a chunk of steps is a graph.

A step of the MLP is so short that calling PyTorch takes as long as computing. So the gradient of
the loss is computed from its formula, without autograd, and the update is PyTorch's function of SGD
rather than its `Optimizer`.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.sgd import sgd

from mnist_cli.adapters.base import (
    STEPS_PER_CHUNK,
    compiled_chunks,
    dropout_masks,
    require_precision,
    smoothed_targets,
)
from mnist_cli.adapters.torch_network import (
    SeededDropout,
    build_module,
    canonical,
    stack_rows,
)
from mnist_cli.arrays import IMAGE_SIZE, Array, Weights
from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.errors import FrameworkError
from mnist_cli.networks.spec import (
    Activation,
    Conv,
    Flatten,
    MaxPool,
    layers,
    weight_shapes,
)

# On a CPU a larger one takes more memory and, in PyTorch, more time.
_PREDICT_BATCH = {"cpu": 250, "cuda": 2_000, "mps": 2_000}
_KEPT_SETS = 3  # on a GPU: the warm-up's images, then those of validation and test

# Runs work, records it, and returns what repeats it on the same memory.
Capture: TypeAlias = Callable[[Callable[[], None]], Callable[[], None]]


def _suits_onednn(spec: ModelSpec) -> bool:
    """Return whether feature maps can stay in oneDNN's layout: see `TorchClassifier._logits`."""
    first, *others = itertools.takewhile(lambda each: each != Flatten(), layers(spec))
    return (isinstance(first, Conv) and first.is_usual) and all(
        isinstance(each, (Conv, MaxPool)) or each == Activation("relu") for each in others
    )


def capture_cuda_graph(work: Callable[[], None]) -> Callable[[], None]:
    """Run ``work`` to let libraries set themselves up, record it, and return its replay."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


class RecordedSteps:
    """Training steps recorded once and replayed, one launch for a chunk in place of thousands.

    A recording works on the memory that it was recorded on: images (N, 1, 28, 28), labels (N,),
    the order (n, batch), learning rates (n,) and losses (n,) are copied into and out of tensors
    that stay. ``take_step`` gets the images, labels and rate of a batch and returns its loss.
    """

    def __init__(
        self,
        take_step: Callable[[Tensor, Tensor, Tensor], Tensor],
        capture: Capture,
        *,
        images: int,
        batch_size: int,
        device: torch.device,
    ) -> None:
        self._take_step, self._capture = take_step, capture
        self._replays: dict[int, Callable[[], None]] = {}
        self._source: Array | None = None
        self.images = torch.empty((images, 1, IMAGE_SIZE, IMAGE_SIZE), device=device)
        self.labels = torch.empty(images, dtype=torch.int64, device=device)
        self._order = torch.zeros((STEPS_PER_CHUNK, batch_size), dtype=torch.int64, device=device)
        self._rates = torch.zeros(STEPS_PER_CHUNK, device=device)
        self._losses = torch.zeros(STEPS_PER_CHUNK, device=device)

    def load(self, images: Array, labels: Array) -> None:
        """Copy a training set in; the images only if they are another array than last time."""
        if images is not self._source:
            self.images.copy_(torch.from_numpy(images).unsqueeze(1))
            self._source = images
        self.labels.copy_(torch.from_numpy(labels))

    def record(self, count: int, state: list[Tensor]) -> None:
        """Record ``count`` steps, if that is yet to be done; ``state`` is what they change."""
        if count in self._replays:
            return

        def work() -> None:
            losses = [
                self._take_step(self.images[batch], self.labels[batch], rate)
                for batch, rate in zip(self._order[:count], self._rates, strict=False)
            ]
            torch.stack(losses, out=self._losses[:count])

        before = [tensor.detach().clone() for tensor in state]
        try:
            self._replays[count] = self._capture(work)
        finally:
            with torch.no_grad():
                for tensor, value in zip(state, before, strict=True):
                    tensor.copy_(value)

    def run(self, order: Tensor, rates: Tensor) -> Tensor:
        """Take recorded steps on other batches and return their losses (n,)."""
        count = len(rates)
        self._order[:count].copy_(order)
        self._rates[:count].copy_(rates)
        self._replays[count]()
        return self._losses[:count].clone()


class TorchClassifier:
    """`base.Classifier` in PyTorch, whose parameters have canonical names and layouts anyway.

    With ``capture`` steps are recorded and replayed: see `RecordedSteps`. ``rows`` are the part of
    each batch that is computed here, by default all: see `torch_distributed`.
    """

    def __init__(
        self,
        spec: ModelSpec,
        config: TrainConfig,
        device: torch.device,
        *,
        capture: Capture | None = None,
        rows: range | None = None,
    ) -> None:
        self.note = ""
        self.spec = spec
        self.images_per_step = config.batch_size
        self.rows = rows or range(config.batch_size)
        self.batch_size = len(self.rows)
        self.capture = capture
        self.momentum = config.momentum
        self.device = device
        # The target probabilities of each label, with a column for "no digit" if that is learnt.
        self.targets = torch.from_numpy(smoothed_targets(config, spec.classes)).to(device)
        # On a CPU channels last is faster, on a GPU slower, at this size.
        is_cpu = device.type == "cpu"
        memory_format = torch.channels_last if is_cpu else torch.contiguous_format
        self.module = self._built(spec).to(memory_format=memory_format).to(device)
        maps = next(i for i, module in enumerate(self.module) if isinstance(module, nn.Flatten))
        # Everything after the first convolution, on feature maps and on vectors; see `_logits`.
        self.maps, self.vectors = self.module[1:maps], self.module[maps:]
        self.is_mixed = config.precision == "bfloat16"
        self._take_step = self._tf32_step if config.precision == "tf32" else self._step
        has_onednn = is_cpu and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        self.in_onednn = has_onednn and maps > 0 and _suits_onednn(spec)
        self.dropouts = [each for each in self.module.modules() if isinstance(each, SeededDropout)]
        if self.capture is not None and self.dropouts:  # masks are drawn outside the graph
            self.capture = None
            self.note = "PyTorch takes one step at a time: dropout draws a mask for each."
        self.parameters = canonical(self.module.named_parameters())
        buffers = canonical(self.module.named_buffers())
        statistics = {name: buffers[name] for name in weight_shapes(spec) if name in buffers}
        self.tensors: dict[str, Tensor] = {**self.parameters, **statistics}
        self.velocities = {name: torch.zeros_like(each) for name, each in self.parameters.items()}
        is_weight = {name: name.endswith(".weight") for name in self.parameters}
        # Names of parameters with the weight decay of each: there is none on biases.
        self._groups = [
            ([name for name, decays in is_weight.items() if decays], config.weight_decay),
            ([name for name, decays in is_weight.items() if not decays], 0.0),
        ]
        self._resident: tuple[Array, Tensor] | None = None
        self._predicted: deque[tuple[Array, Tensor]] = deque(maxlen=_KEPT_SETS)
        self._recorded: RecordedSteps | None = None

    def train_epoch(
        self,
        images: Array,
        labels: Array,
        *,
        order: Array,
        learning_rates: Array,
        mask_seeds: Array | None = None,
    ) -> Iterator[Array]:
        """See `base.Classifier.train_epoch`."""
        seeds = np.zeros(len(learning_rates), np.int64) if mask_seeds is None else mask_seeds
        self.module.train()
        batches = torch.from_numpy(order).to(self.device).view(-1, self.batch_size)
        recorded = self._record(images, labels, len(learning_rates))
        if recorded is not None:
            rates = torch.from_numpy(learning_rates).to(self.device)
            for calls in compiled_chunks(len(learning_rates)):
                some = [recorded.run(batches[steps], rates[steps]) for steps in calls]
                yield torch.cat(some).cpu().numpy()
            return
        inputs = self._on_device(images)
        answers = torch.from_numpy(labels).to(self.device)
        losses: list[Tensor] = []
        for step, learning_rate in enumerate(learning_rates.tolist()):
            self._set_masks(int(seeds[step]))
            # Twice as fast as indexing.
            batch = batches[step]
            chosen = inputs.index_select(0, batch), answers.index_select(0, batch)
            losses.append(self._take_step(*chosen, learning_rate))
            if len(losses) == STEPS_PER_CHUNK or step == len(learning_rates) - 1:
                yield torch.stack(losses).cpu().numpy()
                losses = []

    def _built(self, spec: ModelSpec) -> nn.Sequential:
        return build_module(spec)

    def _set_masks(self, seed: int) -> None:
        if self.dropouts:  # drawing from a new generator takes time even if nothing is drawn
            masks = dropout_masks(self.spec, seed, self.images_per_step)
            for module, mask in zip(self.dropouts, masks, strict=True):
                rows = mask[self.rows.start : self.rows.stop]
                module.kept = torch.from_numpy(rows).to(self.device)

    def _record(self, images: Array, labels: Array, steps: int) -> RecordedSteps | None:
        """Return the recordings that ``steps`` steps need, or None if they cannot be had."""
        if self.capture is None:
            return None
        try:
            if self._recorded is None or len(self._recorded.images) != len(images):
                self._recorded = RecordedSteps(
                    self._take_step,
                    self.capture,
                    images=len(images),
                    batch_size=self.batch_size,
                    device=self.device,
                )
            self._recorded.load(images, labels)
            state = [*self.tensors.values(), *self.velocities.values()]
            for calls in compiled_chunks(steps):
                self._recorded.record(calls[0].stop - calls[0].start, state)
        except RuntimeError as error:  # also of too little memory
            self.capture = self._recorded = None
            reason = str(error).partition("\n")[0]
            self.note = f"PyTorch takes one step at a time: no CUDA graph could be had ({reason})."
        return self._recorded

    def _tf32_step(self, inputs: Tensor, targets: Tensor, learning_rate: float | Tensor) -> Tensor:
        with _tf32():
            return self._step(inputs, targets, learning_rate)

    def _step(self, inputs: Tensor, labels: Tensor, learning_rate: float | Tensor) -> Tensor:
        """Take a step and return the batch's loss without label smoothing."""
        logits = self._mixed_logits(inputs) if self.is_mixed else self._logits(inputs)
        with torch.no_grad():
            # The logit of "no digit" is 0.
            all_logits = functional.pad(logits, (0, len(self.targets) - self.spec.classes))
            log_probabilities = functional.log_softmax(all_logits, dim=1)
            loss = functional.nll_loss(log_probabilities, labels)
            # The gradient of the mean cross-entropy: (softmax - targets) / batch size.
            gradient = log_probabilities.exp() - self.targets.index_select(0, labels)
            gradient /= self.images_per_step
        logits.backward(gradient[:, : self.spec.classes])  # type: ignore[no-untyped-call]  # untyped in torch
        self._update(learning_rate)
        return loss

    @torch.no_grad()
    def _update(self, learning_rate: float | Tensor) -> None:
        """Change the parameters by their gradients, and forget these."""
        for names, weight_decay in self._groups:
            parameters: list[Tensor] = [self.parameters[name] for name in names]
            sgd(
                parameters,
                [each.grad for each in parameters if each.grad is not None],
                [self.velocities[name] for name in names],
                fused=True,
                weight_decay=weight_decay,
                momentum=self.momentum,
                lr=learning_rate,
                dampening=0.0,
                nesterov=self.momentum > 0,
                maximize=False,
            )
            for each in parameters:
                each.grad = None

    def _logits(self, inputs: Tensor) -> Tensor:
        if self.in_onednn:
            # On a CPU oneDNN keeps feature maps in its preferred layout, and the backward pass of
            # its pooling is several times as fast as PyTorch's, which stores 64-bit indices.
            first = functional.conv2d(
                stack_rows(inputs).to_mkldnn(),
                # (32, 1, 3, 3) -> (32, 3, 1, 3)
                self.module.get_parameter("conv1.weight").transpose(1, 2),
                self.module.get_parameter("conv1.bias"),
                padding=(0, 1),
            )
            logits: Tensor = self.vectors(self.maps(first).to_dense())
        else:
            logits = self.module(inputs)
        return logits

    def _mixed_logits(self, inputs: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16):
            logits: Tensor = self.module(inputs)
        return logits.float()

    def _on_device(self, images: Array) -> Tensor:
        """Return images as (N, 1, 28, 28) on the device, copied only when the array changes."""
        if self._resident is None or self._resident[0] is not images:
            self._resident = (images, torch.from_numpy(images).unsqueeze(1).to(self.device))
        return self._resident[1]

    @torch.inference_mode()
    def predict_logits(self, images: Array) -> Array:
        """See `base.Classifier.predict_logits`."""
        self.module.eval()
        inputs = self._kept_on_device(images)
        logits = torch.empty((len(images), self.spec.classes), device=self.device)
        size = _PREDICT_BATCH[self.device.type]
        for start in range(0, len(images), size):
            logits[start : start + size] = self._logits(inputs[start : start + size])
        self.module.train()  # training goes on after a look at the validation images
        return logits.cpu().numpy()

    def _kept_on_device(self, images: Array) -> Tensor:
        """Return images to predict as (N, 1, 28, 28); on a GPU the last sets stay there."""
        for array, tensor in self._predicted:
            if array is images:
                return tensor
        inputs = torch.from_numpy(images).unsqueeze(1).to(self.device)
        if self.device.type != "cpu":
            self._predicted.append((images, inputs))
        return inputs

    def export_weights(self) -> Weights:
        """See `base.Classifier.export_weights`."""
        return {name: _to_numpy(tensor) for name, tensor in self.tensors.items()}

    def import_weights(self, weights: Weights) -> None:
        """See `base.Classifier.import_weights`."""
        with torch.no_grad():
            for name, tensor in self.tensors.items():
                tensor.copy_(torch.from_numpy(weights[name]))

    def export_optimizer(self) -> Weights:
        """See `base.Classifier.export_optimizer`."""
        return {name: _to_numpy(velocity) for name, velocity in self.velocities.items()}

    def import_optimizer(self, velocities: Weights) -> None:
        """See `base.Classifier.import_optimizer`."""
        for name, velocity in self.velocities.items():
            velocity.copy_(torch.from_numpy(velocities[name]))

    def synchronize(self) -> None:
        """See `base.Classifier.synchronize`."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()


@contextmanager
def _tf32() -> Iterator[None]:
    """Allow TF32 on a GPU meanwhile."""
    _allow_tf32(True)
    try:
        yield
    finally:
        _allow_tf32(False)


def _allow_tf32(allowed: bool) -> None:
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cuda.matmul.allow_tf32 = allowed


def _to_numpy(tensor: Tensor) -> Array:
    # Channels-last weights are strided: copy them to the canonical C order.
    return np.array(tensor.detach().cpu().numpy(), order="C")


_DEVICE_HINTS = {
    "cuda": "CUDA device. Use --device cpu, or install a CUDA build and driver.",
    "mps": "Apple GPU. Use --device cpu; mps needs macOS on Apple silicon.",
}


class TorchAdapter:
    """PyTorch as one of the frameworks."""

    name = "torch"

    def build(
        self, spec: ModelSpec, config: TrainConfig, *, device: str, threads: int
    ) -> TorchClassifier:
        """See `base.Adapter.build`."""
        self._device = self._prepared(config, device, threads)
        capture = capture_cuda_graph if self._device.type == "cuda" else None
        return TorchClassifier(spec, config, self._device, capture=capture)

    def _prepared(self, config: TrainConfig, device: str, threads: int) -> torch.device:
        """Return the device to compute on, after the settings that count for the whole process."""
        is_there = {
            "cpu": True,
            "cuda": torch.cuda.is_available(),
            "mps": torch.backends.mps.is_available(),
        }
        if device == "auto":
            device = next(name for name in ("cuda", "mps", "cpu") if is_there[name])
        if not is_there[device]:
            raise FrameworkError(f"PyTorch sees no {_DEVICE_HINTS[device]}")
        require_precision(self.name, config, device)
        torch.set_num_threads(threads)
        # Full float32 on a GPU too: defaults for TF32 differ between frameworks.
        _allow_tf32(False)
        return torch.device(device)

    def environment(self) -> dict[str, Any]:
        """See `base.Adapter.environment`."""
        on_gpu = self._device.type == "cuda"
        return {
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name(self._device) if on_gpu else self._device.type,
            "blas": ", ".join(
                name
                for name in ("cudnn", "mkl", "mkldnn", "openmp")
                if getattr(torch.backends, name).is_available()
            ),
            "framework_threads": torch.get_num_threads(),
        }


adapter = TorchAdapter()

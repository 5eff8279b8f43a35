"""One training by several processes, each with its rows of every batch: see docs/scale.md.

All processes have the whole network, all images and the same seeded order. Each computes its part
of the gradient of the batch's mean loss, and a sum over the processes makes it whole: the mean that
`DistributedDataParallel` takes, and right also where a batch does not divide. That module would
gain little here: it sends gradients while the backward pass goes on, and a network of some hundred
thousand parameters sends them in less time than one of its layers takes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mnist_cli.adapters.torch_adapter import TorchAdapter, TorchClassifier
from mnist_cli.arrays import Array, Weights
from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.errors import CheckpointError, FrameworkError, LostRankError
from mnist_cli.names import plural
from mnist_cli.networks.spec import EPSILON, STATISTICS_MOMENTUM
from mnist_cli.torchrun import Rank, current_rank

if TYPE_CHECKING:
    from mnist_cli.training.checkpoint import Checkpoint

_BACKENDS = {"cpu": "gloo", "cuda": "nccl"}


@contextmanager
def _together(rank: Rank) -> Iterator[None]:
    """Turn the error of a call that all processes make into one that says what it means."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise LostRankError(
            f"Process {rank.rank} of {rank.world_size} has lost another ({reason}). torchrun says "
            "which; go on with --resume."
        ) from error


def _summed(tensor: Tensor, rank: Rank) -> Tensor:
    """Replace a tensor by its sum over the processes, and return it."""
    with _together(rank):
        distributed.all_reduce(tensor)
    return tensor


class _Sum(torch.autograd.Function):
    """The sum over the processes; so is its gradient, because each has a part of the loss."""

    @staticmethod
    def forward(context: Any, tensor: Tensor, rank: Rank) -> Tensor:
        context.rank = rank
        return _summed(tensor.clone(), rank)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _summed(gradient.clone(), context.rank), None


class GlobalBatchNorm(_BatchNorm):
    """Batch norm by mean and variance of the whole batch, of which this process has some images.

    `nn.SyncBatchNorm` is that on GPUs alone.
    """

    def __init__(self, channels: int, images: int, rank: Rank) -> None:
        super().__init__(channels, EPSILON, STATISTICS_MOMENTUM)
        self.images, self.rank = images, rank

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002  # PyTorch's own name
        pass

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Return the outputs."""
        if not self.training:
            return super().forward(input)
        inputs = input.float()  # in mixed precision the moments are float32, as PyTorch's are
        dims, shape = [0, *range(2, inputs.dim())], (1, -1, *[1] * (inputs.dim() - 2))
        count = self.images * inputs[0, 0].numel()
        mean = self._sum(inputs.sum(dims)) / count
        centred = inputs - mean.view(shape)
        variance = self._sum(centred.square().sum(dims)) / count
        assert self.running_mean is not None
        assert self.running_var is not None
        with torch.no_grad():
            self.running_mean.lerp_(mean, STATISTICS_MOMENTUM)
            self.running_var.lerp_(variance * count / (count - 1), STATISTICS_MOMENTUM)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale.view(shape) + self.bias.view(shape)).to(input.dtype)

    def _sum(self, tensor: Tensor) -> Tensor:
        summed: Tensor = _Sum.apply(tensor, self.rank)
        return summed


def _share_batch_norm(module: nn.Module, images: int, rank: Rank) -> None:
    """Replace every batch norm in a module by a `GlobalBatchNorm`."""
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            setattr(module, name, GlobalBatchNorm(child.num_features, images, rank))
        else:
            _share_batch_norm(child, images, rank)


class DistributedClassifier(TorchClassifier):
    """A `TorchClassifier` of which each process has a part of the work; all do the same calls.

    What decides about the training, losses and logits, is the same number in all of them.
    """

    def __init__(
        self, spec: ModelSpec, config: TrainConfig, device: torch.device, rank: Rank
    ) -> None:
        self.rank = rank
        self._is_alone = False
        super().__init__(spec, config, device, rows=rank.rows(config.batch_size))
        self.note = (
            f"{rank.world_size} processes: each takes up to {self.batch_size:,} of the "
            f"{self.images_per_step:,} images of a step."
        )

    def _built(self, spec: ModelSpec) -> nn.Sequential:
        module = super()._built(spec)
        _share_batch_norm(module, self.images_per_step, self.rank)
        return module

    def train_epoch(
        self,
        images: Array,
        labels: Array,
        *,
        order: Array,
        learning_rates: Array,
        mask_seeds: Array | None = None,
    ) -> Iterator[Array]:
        """See `base.Classifier.train_epoch`; ``order`` is that of all processes together."""
        batches = order.reshape(-1, self.images_per_step)
        for losses in super().train_epoch(
            images,
            labels,
            order=batches[:, self.rows.start : self.rows.stop].ravel(),
            learning_rates=learning_rates,
            mask_seeds=mask_seeds,
        ):
            yield self._sum(losses * np.float32(self.batch_size / self.images_per_step))

    @torch.no_grad()
    def _update(self, learning_rate: float | Tensor) -> None:
        gradients = [each.grad for each in self.parameters.values() if each.grad is not None]
        whole = _summed(torch.cat([each.reshape(-1) for each in gradients]), self.rank)
        parts = whole.split([each.numel() for each in gradients])  # type: ignore[no-untyped-call]
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
        super()._update(learning_rate)

    def predict_logits(self, images: Array) -> Array:
        """See `base.Classifier.predict_logits`: each process computes a part of the images."""
        if self._is_alone:
            return super().predict_logits(images)
        mine = self.rank.rows(len(images))
        logits = np.zeros((len(images), self.spec.classes), np.float32)
        logits[mine.start : mine.stop] = super().predict_logits(images[mine.start : mine.stop])
        return self._sum(logits)

    def _sum(self, array: Array) -> Array:
        whole: Array = _summed(torch.from_numpy(array).to(self.device), self.rank).cpu().numpy()
        return whole

    def synchronize(self) -> None:
        """Wait for the device, and for the other processes."""
        super().synchronize()
        if not self._is_alone:
            with _together(self.rank):
                distributed.barrier()

    def require_same(self, start: Checkpoint) -> None:
        """Raise `CheckpointError` unless rank 0 starts from the same settings, data and weights."""
        epochs = len(start.history)
        digest = hashlib.sha256(json.dumps([epochs, start.settings()]).encode())
        for array in _arrays(start.weights, start.velocities, start.best_weights):
            digest.update(array.tobytes())
        mine = torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8).to(self.device)
        first = mine.clone()
        with _together(self.rank):
            distributed.broadcast(first, src=0)
        if not torch.equal(first, mine):
            raise CheckpointError(
                f"Process {self.rank.rank} of {self.rank.world_size} starts from other settings, "
                f"data or weights (after {epochs} epochs) than process 0. Give all the same "
                "command, data and files; --resume needs the model on every machine."
            )

    def leave(self) -> None:
        """Leave the other processes: what follows is computed by this one alone."""
        self._is_alone = True
        distributed.destroy_process_group()


def _arrays(*all_weights: Weights) -> Iterator[Array]:
    for weights in all_weights:
        for name in sorted(weights):
            yield weights[name]


class DistributedTorchAdapter(TorchAdapter):
    """PyTorch in one of the processes that torchrun started."""

    def build(
        self, spec: ModelSpec, config: TrainConfig, *, device: str, threads: int
    ) -> DistributedClassifier:
        """See `base.Adapter.build`. Waits until all processes are there."""
        rank = current_rank()
        assert rank is not None
        self._device = self._prepared(config, device, threads)
        if self._device.type not in _BACKENDS:
            raise FrameworkError(
                f"Several processes do not train on {self._device.type}. Use --device cpu, or "
                "start mnist without torchrun."
            )
        if self._device.type == "cuda":
            self._device = _own_gpu(rank)
        try:
            distributed.init_process_group(_BACKENDS[self._device.type])
        except (RuntimeError, ValueError) as error:
            address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            reason = str(error).strip().splitlines()[0]
            raise FrameworkError(
                f"Process {rank.rank} of {rank.world_size} cannot reach the others at {address} "
                f"({reason}). Start all with torchrun, and let nothing between them block ports."
            ) from error
        classifier = DistributedClassifier(spec, config, self._device, rank)
        self._shared = {
            "world_size": rank.world_size,
            "rank_batch_size": classifier.batch_size,
        }
        return classifier

    def environment(self) -> dict[str, Any]:
        """See `base.Adapter.environment`; with the number of processes, and rank 0's images."""
        return super().environment() | self._shared


def _own_gpu(rank: Rank) -> torch.device:
    """Return this process's GPU. Raises `FrameworkError` if there are fewer than processes."""
    gpus = torch.cuda.device_count()
    if gpus < rank.local_world_size:
        raise FrameworkError(
            f"torchrun started {rank.local_world_size} processes here, for {plural(gpus, 'GPU')}. "
            f"Give --nproc-per-node {gpus}, or --device cpu."
        )
    device = torch.device("cuda", rank.local_rank)
    torch.cuda.set_device(device)
    return device


adapter = DistributedTorchAdapter()

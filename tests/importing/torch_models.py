"""PyTorch files as others write them, made by its ``main`` in a process of PyTorch.

The networks are those of public tutorials, by their descriptions, and some that must be refused.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

warnings.simplefilter("ignore")


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil-ran",)


class View(nn.Module):
    def forward(self, x):
        return x.view(x.size(0), -1)


class Skip(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return torch.relu(x + self.body(x))


def tutorials() -> dict[str, nn.Module]:
    return {
        # pytorch/examples, mnist
        "torch-example": nn.Sequential(
            nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Dropout(0.25), nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Dropout(0.5),
            nn.Linear(128, 10), nn.LogSoftmax(1),
        ),
        # pytorch.org, "Quickstart"
        "torch-quickstart": nn.Sequential(
            nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(),
            nn.Linear(512, 10),
        ),
        # LeNet-5 as in "Dive into deep learning"
        "torch-lenet": nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2), nn.Sigmoid(), nn.AvgPool2d(2, 2), nn.Conv2d(6, 16, 5),
            nn.Sigmoid(), nn.AvgPool2d(2, 2), View(), nn.Linear(400, 120), nn.Sigmoid(),
            nn.Linear(120, 84), nn.Sigmoid(), nn.Linear(84, 10),
        ),
        # Lightning's MNIST example
        "torch-lightning": nn.Sequential(
            nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 256), nn.ReLU(),
            nn.Linear(256, 10), nn.LogSoftmax(1),
        ),
        # the network of PyTorch's "60 minute blitz", for 28x28
        "torch-blitz": nn.Sequential(
            nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(),
            nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 120), nn.ReLU(), nn.Linear(120, 84),
            nn.ReLU(), nn.Linear(84, 10),
        ),
        # pytorch/examples, mnist, as it was before 2019
        "torch-older": nn.Sequential(
            nn.Conv2d(1, 10, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(10, 20, 5), nn.Dropout2d(),
            nn.MaxPool2d(2), nn.ReLU(), View(), nn.Linear(320, 50), nn.ReLU(), nn.Dropout(),
            nn.Linear(50, 10), nn.LogSoftmax(1),
        ),
        # convolutions alone, as in "Striving for simplicity"
        "torch-convolutions": nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(16, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        ),
        "torch-batchnorm": nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.MaxPool2d(2), Skip(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))),
            nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(), nn.Linear(12, 20), nn.BatchNorm1d(20), nn.Tanh(), nn.Linear(20, 10),
            nn.Softmax(1),
        ),
    }  # fmt: skip


def main(folder: Path) -> None:
    torch.manual_seed(0)
    os.chdir(folder)
    image = torch.zeros(2, 1, 28, 28)
    for name, model in tutorials().items():
        for norm in model.modules():
            if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
                for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                    tensor.data.uniform_(0.5, 1)
        model.eval()
        torch.save(model.state_dict(), f"{name}.pt")
        axes = {"x": {0: "n"}, "y": {0: "n"}}
        torch.onnx.export(
            model, (image,), f"{name}.onnx", dynamo=False, opset_version=17,
            input_names=["x"], output_names=["y"], dynamic_axes=axes,
        )  # fmt: skip
    for path in folder.glob("export-*/model.safetensors"):
        torch.save(load_file(path), f"{path.parent.name}.pt")
    model = tutorials()["torch-example"].eval()
    torch.save({"epoch": 3, "model": model.state_dict(), "lr": 0.1}, "training.pt")
    torch.save({f"module.{k}": v for k, v in model.state_dict().items()}, "parallel.pt")
    torch.save({"weights": Evil()}, "evil.pt")
    torch.save(model, "whole.pt")
    torch.jit.script(model).save("script.pt")
    torch.save({"lstm.weight_ih_l0": torch.zeros(4, 3, 2)}, "recurrent.pt")
    torch.save([1, 2, 3], "list.pt")

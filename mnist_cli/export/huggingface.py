"""A Hugging Face folder: a model card from the record of training, ``config.json``, the weights.

The weights and ``model.py`` are those of `torch_folder`.
"""

from __future__ import annotations

import json
from pathlib import Path

from mnist_cli.arrays import Array
from mnist_cli.export import torch_folder
from mnist_cli.names import DIGITS, dataset_name, model_name
from mnist_cli.networks.spec import operation_count, parameter_count
from mnist_cli.training.checkpoint import Checkpoint

CONFIG, CARD = "config.json", "README.md"
_CARD = """\
---
library_name: pytorch
pipeline_tag: image-classification
tags: [mnist, {kind}, safetensors]
datasets: [{dataset_id}]
metrics: [accuracy]
model-index:
- name: {name}
  results:
  - task: {{type: image-classification}}
    dataset: {{name: {dataset}, type: {dataset_id}, split: test}}
    metrics: [{{type: accuracy, value: {accuracy:.4f}}}]
---

# {title}

{task}, 28x28 pixels, light ink on dark: {parameters:,} parameters,
{operations:,} operations per image.

| | accuracy | loss |
| --- | ---: | ---: |
| test images of {dataset} | {accuracy:.2%} | {test_loss:.4f} |
| validation images | {validation_accuracy:.2%} | {validation_loss:.4f} |

## Use

```python
import model  # model.py of this folder; it needs torch and safetensors

probabilities = model.load()(model.normalise(images)).softmax(1)  # images (N, 28, 28), 0-255
```

## Network

`{line}`

Pixels are normalised as (pixel / 255 - {mean}) / {std}.

## Training

{origin}

| setting | value |
| --- | --- |
{recipe}

Written by mnist-cli.
"""


def export(checkpoint: Checkpoint, path: Path, *, raw: bool = False) -> None:  # noqa: ARG001
    """Write the files into a folder; see `formats.Exporter` and `torch_folder.export`."""
    torch_folder.export(checkpoint, path)
    (path / CONFIG).write_text(json.dumps(_config(checkpoint), indent=1) + "\n", encoding="utf-8")
    (path / CARD).write_text(_card(checkpoint), encoding="utf-8")


def verify(path: Path, images: Array) -> Array:
    """Return the logits of a folder; see `formats.Exporter`."""
    return torch_folder.verify(path, images)


def _config(checkpoint: Checkpoint) -> dict[str, object]:
    return {
        "model_type": "mnist-cli",
        "architectures": ["Network"],
        "arch": checkpoint.spec.arch,
        "line": checkpoint.spec.line,
        "num_labels": len(checkpoint.class_names),
        "id2label": {str(label): name for label, name in enumerate(checkpoint.class_names)},
        "image_size": 28,
        "num_channels": 1,
        "image_mean": [checkpoint.pixel_mean],
        "image_std": [checkpoint.pixel_std],
        "torch_dtype": "float32",
    }


def _card(checkpoint: Checkpoint) -> str:
    row = checkpoint.model_epoch
    imported = checkpoint.versions.get("imported_from")
    recipe = {
        "data": f"{checkpoint.train_images:,} images of {dataset_name(checkpoint.dataset)}",
        "epochs": row.epoch,
        "training seconds": f"{row.train_seconds:.1f}",
        "batch size": checkpoint.config.batch_size,
        "optimiser": f"SGD, Nesterov momentum {checkpoint.config.momentum:g}",
        "peak learning rate": f"{checkpoint.config.learning_rate:g}",
        "weight decay": f"{checkpoint.config.weight_decay:g}",
        "label smoothing": f"{checkpoint.config.label_smoothing:g}",
        "augmentation": "small elastic distortions" if checkpoint.config.augment else "none",
        "precision": checkpoint.config.precision,
        "seed": checkpoint.config.seed,
    }
    origin = f"Started from the weights of `{checkpoint.started_from}`."
    if imported:
        recipe, origin = {"imported from": imported}, "Trained elsewhere; how is not recorded."
    elif not checkpoint.started_from:
        origin = "Started from random weights."
    return _CARD.format(
        name=checkpoint.spec.arch,
        task=_task(checkpoint),
        kind="digits" if checkpoint.class_names == DIGITS else "classes",
        title=model_name(checkpoint.framework, checkpoint.spec.arch, checkpoint.spec.activation),
        dataset=dataset_name(checkpoint.dataset),
        dataset_id=checkpoint.dataset if checkpoint.dataset.isidentifier() else "other",
        accuracy=row.test_accuracy,
        test_loss=row.test_loss,
        validation_accuracy=row.validation_accuracy,
        validation_loss=row.validation_loss,
        parameters=parameter_count(checkpoint.spec),
        operations=operation_count(checkpoint.spec),
        line=checkpoint.spec.line,
        mean=checkpoint.pixel_mean,
        std=checkpoint.pixel_std,
        origin=origin,
        recipe="\n".join(f"| {name} | {value} |" for name, value in recipe.items()),
    )


def _task(checkpoint: Checkpoint) -> str:
    if checkpoint.class_names == DIGITS:
        return "Reads one handwritten digit"
    names = checkpoint.class_names
    return f"Tells {len(names)} classes apart, {names[0]} to {names[-1]}"

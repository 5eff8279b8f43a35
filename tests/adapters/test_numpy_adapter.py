"""What the NumPy adapter adds to the network: the choice of kernels, and its limits."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from mnist_cli.adapters import numpy_adapter
from mnist_cli.adapters.numpy_adapter import adapter, has_small_kernels
from mnist_cli.config import ModelSpec, TrainConfig
from mnist_cli.errors import FrameworkError
from mnist_cli.scratch.engine import mlp

MLP, CONFIG = ModelSpec("mlp"), TrainConfig(batch_size=16)


@pytest.mark.parametrize(
    ("libraries", "expected"),
    [
        ([{"internal_api": "openblas", "architecture": "SkylakeX"}], True),
        ([{"internal_api": "openblas", "architecture": "Haswell"}], False),
        ([{"internal_api": "mkl"}], False),
        ([], False),
    ],
)
def test_only_openblas_with_avx512_is_given_small_matrices(libraries, expected):
    assert has_small_kernels(libraries) == expected


@pytest.mark.parametrize("small_kernels", [False, True])
def test_the_mlp_splits_its_product_only_where_blas_has_small_kernels(small_kernels, monkeypatch):
    monkeypatch.setattr(numpy_adapter, "has_small_kernels", lambda _: small_kernels)
    asked: list[bool] = []

    def splits_for(count, *, small_kernels):
        asked.append(small_kernels)
        return 1

    monkeypatch.setattr(mlp, "splits_for", splits_for)
    model = adapter.build(MLP, CONFIG, device="cpu", threads=1)
    model.predict_logits(np.zeros((20, 28, 28), dtype=np.float32))
    assert set(asked) == {small_kernels}


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_gpu_is_refused_and_auto_is_the_processor(device):
    with pytest.raises(FrameworkError, match=rf"not on {device}.*--device cpu"):
        adapter.build(MLP, CONFIG, device=device, threads=1)
    adapter.build(MLP, CONFIG, device="auto", threads=1)


def test_environment_is_json_and_names_numpy_and_its_blas():
    environment = json.loads(json.dumps(adapter.environment()))
    assert environment["numpy"] == np.__version__
    assert environment["device"] == "cpu"
    assert environment["blas"] != "unknown"


def test_the_adapter_imports_numpy_alone():
    program = (
        "import sys, mnist_cli.adapters.numpy_adapter\n"
        "print([m for m in ('torch', 'tensorflow', 'scipy', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.decode().strip() == "[]", done.stderr

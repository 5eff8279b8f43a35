"""How frameworks and networks are called in charts, tables and sentences.

Options, files and JSON fields use the short names that one types: ``torch``, ``cnn``.
"""

from __future__ import annotations

from collections.abc import Iterable

_FRAMEWORKS = {
    "jax": "JAX",
    "numpy": "NumPy",
    "onnx": "ONNX Runtime",
    "tensorflow": "TensorFlow",
    "torch": "PyTorch",
}
_NETWORKS = {"cnn": "CNN", "mlp": "MLP", "lenet5": "LeNet-5", "resnet": "ResNet"}


_DATASETS = {
    "emnist-digits": "EMNIST digits",
    "emnist-letters": "EMNIST letters",
    "fashion-mnist": "Fashion-MNIST",
    "kmnist": "KMNIST",
    "mnist": "MNIST",
    "qmnist": "QMNIST",
    "svhn": "SVHN",
    "usps": "USPS",
}
DIGITS = tuple("0123456789")
_CLASS_NAMES = {
    "emnist-letters": tuple("abcdefghijklmnopqrstuvwxyz"),
    "fashion-mnist": (
        *("T-shirt", "trouser", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
    ),
    "kmnist": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
}


def dataset_name(dataset: str) -> str:
    """Return ``MNIST`` for ``mnist``; a path as it is."""
    return _DATASETS.get(dataset, dataset)


def class_names(dataset: str) -> tuple[str, ...]:
    """Return the names of a named data set's classes; of another, the ten digits."""
    return _CLASS_NAMES.get(dataset, DIGITS)


def numbered(count: int) -> tuple[str, ...]:
    """Return the names of classes that have none of their own: their labels."""
    return tuple(map(str, range(count)))


def require_names(names: Iterable[object]) -> None:
    """Raise `ValueError` unless the names of classes are distinct strings that can be shown."""
    seen: set[str] = set()
    for name in names:
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise ValueError(
                f"has a class named {repr(name)[:80]}; expected printable text that is not blank"
            )
        if name in seen:
            raise ValueError(f"has two classes named {name[:80]!r}; expected distinct names")
        seen.add(name)


def framework_name(framework: str) -> str:
    """Return ``PyTorch`` for ``torch``; the name of a framework from elsewhere as it is."""
    return _FRAMEWORKS.get(framework, framework)


def network_name(arch: str, activation: str = "relu") -> str:
    """Return ``CNN`` for ``cnn``; an activation other than ReLU is named too."""
    name = _NETWORKS.get(arch, arch)
    return name if activation == "relu" else f"{name} {activation}"


def model_name(framework: str, arch: str, activation: str = "relu") -> str:
    """Return ``PyTorch CNN`` for ``torch`` and ``cnn``."""
    return f"{framework_name(framework)} {network_name(arch, activation)}"


def plural(count: int, noun: str) -> str:
    """Return ``1 run``, ``2 runs``, ``1,000 runs``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"

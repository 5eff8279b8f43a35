"""Datasets by name: the embedded MNIST, those that torchvision fetches, and unknown names."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dataset_checks import FILES, TRAIN_IMAGES, TRAIN_LABELS, assert_same_content, loading_error
from idx_files import idx_bytes, mnist, real_digits, write_dataset, write_idx

import mnist_cli.data
from mnist_cli.data import registry
from mnist_cli.data.dataset import Format
from mnist_cli.data.registry import load_dataset
from mnist_cli.errors import DataError, UsageError

DATA_FOLDER = Path(mnist_cli.data.__file__).parent


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path / "cache"
    monkeypatch.setattr("platformdirs.user_cache_path", lambda _name: cache)
    return cache


# --- The embedded MNIST ------------------------------------------------------------------------


def test_embedded_mnist_has_the_published_shapes_and_types() -> None:
    dataset = mnist()
    assert dataset.name == "mnist"
    assert dataset.train_images.shape == (60_000, 28, 28)
    assert dataset.test_images.shape == (10_000, 28, 28)
    assert dataset.train_images.dtype == dataset.test_images.dtype == np.uint8
    assert dataset.train_labels.shape == (60_000,)
    assert dataset.test_labels.shape == (10_000,)
    assert dataset.train_labels.dtype == dataset.test_labels.dtype == np.int64


def test_embedded_mnist_has_the_published_counts_of_each_digit() -> None:
    dataset = mnist()
    train = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    test = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert np.bincount(dataset.train_labels).tolist() == train
    assert np.bincount(dataset.test_labels).tolist() == test
    assert dataset.train_labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]


def test_embedded_mnist_is_light_ink_on_black_over_the_whole_range() -> None:
    images = mnist().train_images
    assert (images.min(), images.max()) == (0, 255)
    # The mean and deviation everyone normalises MNIST by, given to four places.
    assert images.mean() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert images.std() / 255 == pytest.approx(0.3081, abs=5e-5)


@pytest.mark.parametrize("name", FILES)
def test_embedded_file_is_the_authors_own_as_the_readme_says(name: str) -> None:
    content = gzip.decompress((DATA_FOLDER / f"{name}.gz").read_bytes())
    row = next(
        line
        for line in (DATA_FOLDER / "README.md").read_text().splitlines()
        if f"| `{name}`" in line
    )
    assert f"{len(content):,}" in row
    assert hashlib.md5(content).hexdigest() in row
    assert hashlib.sha256(content).hexdigest() in row


@pytest.mark.parametrize("name", FILES)
def test_embedded_gzip_header_holds_no_name_and_no_time(name: str) -> None:
    header = (DATA_FOLDER / f"{name}.gz").read_bytes()[:8]
    assert header == bytes.fromhex("1f8b 08 00 00000000")


def test_md5_of_the_embedded_files_is_the_one_published_for_mnist() -> None:
    published = {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    }
    readme = (DATA_FOLDER / "README.md").read_text()
    assert dict(re.findall(r"`([\w-]+-ubyte)` \|[^|]+\| `(\w{32})`", readme)) == published


@pytest.fixture
def tampered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the embedded files, read in their place."""
    copy = tmp_path / "embedded"
    shutil.copytree(DATA_FOLDER, copy, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    monkeypatch.setattr(registry.importlib.resources, "files", lambda _package: copy)
    return copy


def test_one_changed_label_in_the_embedded_files_is_noticed(tampered: Path) -> None:
    labels = mnist().train_labels.copy()
    labels[12345] = (labels[12345] + 1) % 10
    write_idx(tampered / f"{TRAIN_LABELS}.gz", labels)
    message = loading_error("mnist")
    assert "SHA-256 of the training labels" in message
    assert "reinstall mnist-cli" in message


@pytest.mark.parametrize("damage", ["truncated", "missing", "another dataset"])
def test_damaged_embedded_files_ask_for_a_reinstall(tampered: Path, damage: str) -> None:
    file = tampered / f"{TRAIN_LABELS}.gz"
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-1000])
    elif damage == "missing":
        file.unlink()
    else:
        write_dataset(tampered, gz=True)
    assert "damaged" in (message := loading_error("mnist"))
    assert "reinstall mnist-cli" in message


def test_loading_mnist_imports_no_framework() -> None:
    heavy = ("torch", "torchvision", "tensorflow", "keras", "sklearn", "matplotlib", "platformdirs")
    code = (
        "import sys; from mnist_cli.data.registry import load_dataset; load_dataset('mnist');"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- Names and paths ---------------------------------------------------------------------------


def test_digest_tells_different_data_apart(tmp_path: Path) -> None:
    digests = {load_dataset(str(write_dataset(tmp_path / str(s), seed=s))).sha256 for s in range(3)}
    assert len(digests) == 3


def test_known_name_wins_over_a_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path / "mnist")
    monkeypatch.chdir(tmp_path)
    assert len(load_dataset("mnist").train_images) == 60_000
    assert len(load_dataset("./mnist").train_images) == 120


@pytest.mark.parametrize("name", ["", "minst", "MNIST", "/no/such/folder", "two\nlines", "nul\0"])
def test_unknown_name_lists_the_choices(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_dataset(name)
    message = str(caught.value)
    assert repr(name) in message
    assert "fashion-mnist, kmnist, mnist" in message
    assert "folder of IDX files or an .npz" in message
    assert len(message.splitlines()) == 1


def test_a_registered_format_reads_the_paths_that_match(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits = list(real_digits())
    added = Format("a .test file", lambda path: path.suffix == ".test", lambda *_: (digits, None))
    monkeypatch.setattr(registry, "FORMATS", (added, *registry.FORMATS))
    (tmp_path / "digits.test").touch()
    dataset = load_dataset(str(tmp_path / "digits.test"))
    assert_same_content(dataset, load_dataset(str(write_dataset(tmp_path / "digits"))))
    with pytest.raises(
        UsageError, match=r"give a \.test file or a \.csv file .* or a folder of IDX"
    ):
        load_dataset("absent")


# --- Datasets that torchvision fetches ---------------------------------------------------------


def _fake_torchvision(
    monkeypatch: pytest.MonkeyPatch, download: Callable[[Path], object], class_name: str
) -> None:
    """Put a torchvision in place whose one dataset is ``download(raw folder)``."""

    class FakeDataset:
        def __init__(self, *, root: str, download: bool) -> None:
            assert download
            print("Downloading")  # as some versions of the real one do
            fetch(Path(root) / class_name / "raw")

    fetch = download
    module = types.ModuleType("torchvision")
    module.datasets = types.SimpleNamespace(**{class_name: FakeDataset})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", module)
    monkeypatch.setattr(registry, "_download_in_subprocess", registry._download)  # in this process


def _forbid_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)  # makes its import raise ImportError


@pytest.mark.parametrize(
    ("name", "class_name"), [("fashion-mnist", "FashionMNIST"), ("kmnist", "KMNIST")]
)
def test_fetched_dataset_is_kept_and_then_read_without_torchvision(
    name: str, class_name: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fake_torchvision(monkeypatch, write_dataset, class_name)
    fetched = load_dataset(name)
    _forbid_torchvision(monkeypatch)
    kept = load_dataset(name)
    assert fetched.name == kept.name == name
    assert_same_content(fetched, kept)
    assert_same_content(fetched, load_dataset(str(write_dataset(tmp_path / "digits"))))
    assert [path.name for path in cache.iterdir()] == [name]


@pytest.mark.parametrize("fails", [False, True])
def test_fetching_loads_no_torchvision_in_this_process_and_prints_nothing(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "torchvision.py").write_text(
        "import sys, pathlib\n"
        f"sys.path.append({str(Path(__file__).parents[1])!r})\n"
        "class datasets:\n"
        "    def KMNIST(root, download):\n"
        "        print('Downloading')\n"
        f"        if {fails}: raise RuntimeError('no route to host')\n"
        "        from idx_files import write_dataset\n"
        "        write_dataset(pathlib.Path(root) / 'KMNIST' / 'raw')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(package))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent))
    if fails:
        assert loading_error("kmnist").startswith("Cannot fetch kmnist into")
        assert list(cache.iterdir()) == []
    else:
        assert len(load_dataset("kmnist").train_images) == 120
    assert getattr(sys.modules.get("torchvision"), "__file__", "") != str(package)


def _offline(raw: Path) -> None:
    write_idx(raw / TRAIN_IMAGES, real_digits()[0])
    raise RuntimeError("Error downloading train-labels:\nTried http://a, got:\n<urlopen error>\n")


def _full_disk(_raw: Path) -> None:
    raise OSError(28, "No space left on device")


def _half(raw: Path) -> None:
    write_idx(raw / TRAIN_IMAGES, real_digits()[0])


@pytest.mark.parametrize(
    ("download", "expected"),
    [
        (_offline, "Tried http://a, got: <urlopen error>"),
        (_full_disk, "No space left"),
        (_half, "No training labels"),
    ],
)
def test_failed_fetch_leaves_nothing_behind(
    download: Callable[[Path], object],
    expected: str,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _fake_torchvision(monkeypatch, download, "KMNIST")
    message = loading_error("kmnist")
    assert expected in message
    assert "Check the network" in message
    assert list(cache.iterdir()) == []


def test_interrupted_fetch_leaves_nothing_behind(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(raw: Path) -> None:
        _half(raw)
        raise KeyboardInterrupt

    _fake_torchvision(monkeypatch, interrupt, "KMNIST")
    with pytest.raises(KeyboardInterrupt):
        load_dataset("kmnist")
    assert list(cache.iterdir()) == []


def test_dataset_is_never_seen_half_fetched(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def download(raw: Path) -> None:
        write_dataset(raw)
        seen.append((cache / "kmnist").exists())

    _fake_torchvision(monkeypatch, download, "KMNIST")
    load_dataset("kmnist")
    assert seen == [False]
    assert (cache / "kmnist").is_dir()


def test_two_fetches_at_once_both_get_the_data(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch_while_another_finishes(raw: Path) -> None:
        write_dataset(raw)
        write_dataset(cache / "kmnist")

    _fake_torchvision(monkeypatch, fetch_while_another_finishes, "KMNIST")
    assert len(load_dataset("kmnist").train_images) == 120
    assert [path.name for path in cache.iterdir()] == ["kmnist"]


@pytest.mark.parametrize(
    "raised",
    [
        "ImportError('no module')",
        "RuntimeError('operator torchvision::nms does not exist')",
        "OSError('libcudart.so: cannot open')",
    ],
)
def test_broken_torchvision_is_explained(
    raised: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site"
    package.mkdir()
    (package / "torchvision.py").write_text(f"raise {raised}\n")
    monkeypatch.syspath_prepend(package)
    monkeypatch.setenv("PYTHONPATH", str(package))
    message = loading_error("kmnist")
    assert "torchvision cannot be imported" in message
    assert raised.split("'")[1] in message
    assert "Install the torchvision that fits your torch" in message
    assert not cache.exists()


def test_damaged_cache_says_what_to_delete(cache: Path) -> None:
    write_dataset(cache / "kmnist")
    (cache / "kmnist" / TRAIN_LABELS).write_bytes(idx_bytes(real_digits()[1])[:-1])
    message = loading_error("kmnist")
    assert "The cached kmnist is damaged" in message
    assert f"delete {cache / 'kmnist'}" in message


def test_an_unreadable_cache_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(registry, "_cache_folder", lambda: tmp_path)
    monkeypatch.setattr(Path, "is_dir", refuse)
    with pytest.raises(DataError, match="Permission denied") as error_info:
        registry.fetch("kmnist")
    assert str(tmp_path / "kmnist") in str(error_info.value)


@pytest.mark.skipif(os.name == "nt", reason="Windows reports another error")
def test_unusable_cache_folder_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.write_text("not a folder")
    _fake_torchvision(monkeypatch, write_dataset, "KMNIST")
    assert str(cache) in loading_error("kmnist")

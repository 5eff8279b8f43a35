"""Datasets: what is embedded, what is read, what is refused, and how training data is parted."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import shutil
import struct
import subprocess
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from idx_files import idx_bytes, mnist, real_digits, write_dataset, write_idx

import mnist_cli.data
from mnist_cli.data import dataset as dataset_module
from mnist_cli.data.dataset import Dataset, Split, load_dataset, split
from mnist_cli.errors import DataError, UsageError

DATA_FOLDER = Path(mnist_cli.data.__file__).parent
PARTS = ("train_images", "train_labels", "test_images", "test_labels")
TRAIN_IMAGES = "train-images-idx3-ubyte"
TRAIN_LABELS = "train-labels-idx1-ubyte"
FILES = (TRAIN_IMAGES, TRAIN_LABELS, "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "digits")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path / "cache"
    monkeypatch.setattr("platformdirs.user_cache_path", lambda _name: cache)
    return cache


def assert_same_content(left: Dataset, right: Dataset) -> None:
    for part in PARTS:
        np.testing.assert_array_equal(getattr(left, part), getattr(right, part))
    assert left.sha256 == right.sha256


def error_of(name: str | Path) -> str:
    """Return the message that loading must fail with, after checking what holds for all."""
    with pytest.raises(DataError) as caught:
        load_dataset(str(name))
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.isprintable()
    return message


# --- The embedded MNIST ----------------------------------------------------------------------


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
    monkeypatch.setattr(dataset_module.importlib.resources, "files", lambda _package: copy)
    return copy


def test_one_changed_label_in_the_embedded_files_is_noticed(tampered: Path) -> None:
    labels = mnist().train_labels.copy()
    labels[12345] = (labels[12345] + 1) % 10
    write_idx(tampered / f"{TRAIN_LABELS}.gz", labels)
    message = error_of("mnist")
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
    assert "damaged" in (message := error_of("mnist"))
    assert "reinstall mnist-cli" in message


def test_loading_mnist_imports_no_framework() -> None:
    heavy = ("torch", "torchvision", "tensorflow", "keras", "sklearn", "matplotlib", "platformdirs")
    code = (
        "import sys; from mnist_cli.data.dataset import load_dataset; load_dataset('mnist');"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- Layouts of a person's own files ---------------------------------------------------------


def test_folder_is_read_as_it_was_written(folder: Path) -> None:
    dataset = load_dataset(str(folder))
    for part, written in zip(PARTS, real_digits(), strict=True):
        np.testing.assert_array_equal(getattr(dataset, part), written)
    assert dataset.name == str(folder)
    assert dataset.train_images.dtype == np.uint8
    assert dataset.train_labels.dtype == np.int64
    assert dataset.train_images.flags.writeable  # torch.from_numpy warns about the other kind


def _gzipped(folder: Path) -> str:
    return str(write_dataset(folder, gz=True))


def _gzipped_without_saying_so(folder: Path) -> str:
    for name in FILES:
        (folder / f"{name}.gz").rename(write_dataset(folder, gz=True) / name)
    return str(folder)


def _unpacked_by_the_browser(folder: Path) -> str:
    write_dataset(folder)
    for name in FILES:
        (folder / name).rename(folder / f"{name}.gz")
    return str(folder)


def _dotted(folder: Path) -> str:
    write_dataset(folder)
    for name in FILES:
        (folder / name).rename(folder / name.replace("-idx", ".idx"))
    return str(folder)


def _torchvision_class(folder: Path) -> str:
    write_dataset(folder / "raw")
    return str(folder)


def _torchvision_root(folder: Path) -> str:
    write_dataset(folder / "MNIST/raw")
    return str(folder)


def _whole_below_a_stray_file(folder: Path) -> str:
    write_dataset(folder / "raw")
    (folder / TRAIN_LABELS).write_bytes(b"")
    return str(folder)


def _npz_file(folder: Path, **changes: np.ndarray) -> str:
    arrays = dict(zip(NPZ_KEYS, real_digits(), strict=True))
    folder.mkdir(exist_ok=True)
    np.savez(folder / "digits.npz", **(arrays | changes))
    return str(folder / "digits.npz")


def _compressed_npz(folder: Path) -> str:
    folder.mkdir()
    np.savez_compressed(folder / "digits.npz", **dict(zip(NPZ_KEYS, real_digits(), strict=True)))
    return str(folder / "digits.npz")


def _npz_with_a_channel_axis(folder: Path) -> str:
    x_train, _, x_test, _ = real_digits()
    return _npz_file(folder, x_train=x_train[..., None], x_test=x_test[..., None])


def _npz_in_fortran_order(folder: Path) -> str:
    return _npz_file(folder, x_train=np.asfortranarray(real_digits()[0]))


def _npz_with_wide_labels(folder: Path) -> str:
    return _npz_file(folder, y_train=real_digits()[1].astype(">i8"))


@pytest.mark.parametrize(
    "layout",
    [
        _gzipped,
        _gzipped_without_saying_so,
        _unpacked_by_the_browser,
        _dotted,
        _torchvision_class,
        _torchvision_root,
        _whole_below_a_stray_file,
        _npz_file,
        _compressed_npz,
        _npz_with_a_channel_axis,
        _npz_in_fortran_order,
        _npz_with_wide_labels,
    ],
)
def test_every_layout_gives_the_same_arrays_and_digest(
    layout: Callable[[Path], str], folder: Path, tmp_path: Path
) -> None:
    loaded = load_dataset(layout(tmp_path / "other"))
    assert_same_content(loaded, load_dataset(str(folder)))
    assert loaded.train_images.flags.c_contiguous
    assert loaded.train_labels.dtype == np.int64


def test_unpacked_mnist_has_the_digest_of_the_embedded(tmp_path: Path) -> None:
    for name in FILES:
        packed = (DATA_FOLDER / f"{name}.gz").read_bytes()
        (tmp_path / name).write_bytes(gzip.decompress(packed))
    assert load_dataset(str(tmp_path)).sha256 == mnist().sha256


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


# --- What is refused -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "minst", "MNIST", "/no/such/folder", "two\nlines", "nul\0"])
def test_unknown_name_lists_the_choices(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_dataset(name)
    message = str(caught.value)
    assert repr(name) in message
    assert "fashion-mnist, kmnist, mnist" in message
    assert "folder of IDX files or an .npz" in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("name", FILES)
def test_missing_file_names_what_was_looked_for(folder: Path, name: str) -> None:
    (folder / name).unlink()
    message = error_of(folder)
    assert f"in {folder}: looked for {name} and {name.replace('-idx', '.idx')}" in message


def test_empty_folder_names_the_folder_given(tmp_path: Path) -> None:
    assert f"No training images in {tmp_path}:" in error_of(tmp_path)


def _header(*sizes: int, kind: int = 0x08) -> bytes:
    return struct.pack(f">HBB{len(sizes)}I", 0, kind, len(sizes), *sizes)


IMAGES, LABELS = (idx_bytes(array) for array in real_digits()[:2])


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (TRAIN_IMAGES, b"", "is empty; expected training images"),
        (TRAIN_IMAGES, IMAGES[:3], "is not an IDX file"),
        (TRAIN_IMAGES, IMAGES[:10], "truncated: expected a header of 16 bytes, but it has 10"),
        (TRAIN_IMAGES, IMAGES[:-5], "truncated: its header promises 94080 bytes .* has 94075"),
        (TRAIN_LABELS, LABELS[:-1], "truncated: its header promises 120 bytes .* has 119"),
        (TRAIN_IMAGES, IMAGES + b"\0", "too long: its header promises 94080 bytes .* has more"),
        (TRAIN_IMAGES, b"<htm" + IMAGES[4:], "not an IDX file: .* starts with 3c 68 74 6d"),
        (TRAIN_IMAGES, _header(1, 28, 28, kind=0x0D) + bytes(3136), "type 0x0d; .* type 0x08"),
        (TRAIN_IMAGES, LABELS, "holds labels .* expected training images, .* not swapped"),
        (TRAIN_LABELS, IMAGES, "holds images .* expected training labels, .* not swapped"),
        (TRAIN_IMAGES, _header(9, 784) + bytes(9 * 784), "an array of 2 dimensions"),
        (TRAIN_IMAGES, _header(2, 32, 32) + bytes(2048), r"shape \(2, 32, 32\); .*\(N, 28, 28\)"),
        (TRAIN_IMAGES, _header(0, 28, 28), "holds no training images"),
        (TRAIN_LABELS, _header(0), "holds no training labels"),
        (TRAIN_LABELS, _header(3) + b"\1\2\x0a", "label 10 at position 2; expected 0 to 9"),
        (TRAIN_LABELS, _header(3) + b"\1\2\3", "120 training images but 3 training labels"),
        (TRAIN_IMAGES, b"\x1f\x8b garbage", "damaged gzip"),
        (TRAIN_IMAGES, gzip.compress(IMAGES, mtime=0)[:-9], "damaged gzip"),
        (TRAIN_IMAGES, gzip.compress(IMAGES, mtime=0)[:-8] + bytes(8), "damaged gzip .*CRC"),
        (TRAIN_IMAGES, gzip.compress(IMAGES, mtime=0)[:99] + b"\xff" * 99, "damaged gzip"),
        (TRAIN_IMAGES, gzip.compress(IMAGES[:-5], mtime=0), "truncated: its header promises 94080"),
        (TRAIN_IMAGES, gzip.compress(b"", mtime=0), "is empty"),
    ],
)
def test_bad_idx_file_is_named_with_what_was_expected_and_came(
    folder: Path, name: str, content: bytes, expected: str
) -> None:
    (folder / name).write_bytes(content)
    message = error_of(folder)
    assert re.search(expected, message), message
    assert str(folder) in message


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["raw", "gzip"])
def test_header_that_promises_terabytes_takes_no_memory_for_them(
    folder: Path, pack: Callable[[bytes], bytes]
) -> None:
    # 3 TiB: asking for so much fails at once on most machines, and that would be a MemoryError.
    (folder / TRAIN_IMAGES).write_bytes(pack(_header(2**32 - 1, 28, 28) + bytes(100)))
    assert "has 100." in error_of(folder)


def test_folder_in_the_place_of_a_file_is_missing(folder: Path) -> None:
    (folder / TRAIN_IMAGES).unlink()
    (folder / TRAIN_IMAGES).mkdir()
    assert "No training images" in error_of(folder)


def test_unreadable_file_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Not by chmod: the tests may run as root, who reads everything.
    def refuse(path: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    assert error_of(folder) == f"Cannot read {folder / TRAIN_IMAGES}: Permission denied."


def test_an_unreadable_cache_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(dataset_module, "_cache_folder", lambda: tmp_path)
    monkeypatch.setattr(Path, "is_dir", refuse)
    with pytest.raises(DataError, match="Permission denied") as error_info:
        dataset_module.fetch("kmnist")
    assert str(tmp_path / "kmnist") in str(error_info.value)


def test_path_with_a_newline_is_shown_in_one_line(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "two\nlines")
    (folder / TRAIN_IMAGES).write_bytes(b"")
    assert r"two\nlines" in error_of(folder)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"x_train": np.zeros((120, 28, 28))}, "x_train in .* is float64; expected uint8, 0-255"),
        ({"y_train": np.zeros(120)}, "y_train in .* is float64; expected uint8, 0-9"),
        ({"y_train": np.full(120, -1)}, "label -1 at position 0; expected 0 to 9"),
        ({"y_train": np.zeros((120, 10), np.uint8)}, r"shape \(120, 10\); expected .* \(N,\)"),
        ({"x_train": np.zeros((120, 784), np.uint8)}, r"shape \(120, 784\); .*\(N, 28, 28\)"),
        ({"x_test": np.zeros((9, 28, 28, 3), np.uint8)}, r"shape \(9, 28, 28, 3\)"),
        ({"x_train": np.zeros((0, 28, 28), np.uint8)}, "no training images"),
        ({"y_test": np.zeros(3, np.uint8)}, "40 test images but 3 test labels"),
        ({"x_train": np.zeros(3, [("a", "u1")])}, "expected uint8"),
    ],
)
def test_bad_npz_array_is_named_with_what_was_expected_and_came(
    tmp_path: Path, changes: dict[str, np.ndarray], expected: str
) -> None:
    message = error_of(_npz_file(tmp_path, **changes))
    assert re.search(expected, message), message
    assert "digits.npz" in message


def test_npz_with_other_keys_lists_them(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", images=np.zeros(3), labels=np.zeros(3))
    message = error_of(tmp_path / "other.npz")
    assert "no x_train (training images)" in message
    assert "expected x_train, y_train, x_test, y_test, found images, labels" in message


class _Bomb:
    """Leaves a mark where it was unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("as_object_array", [True, False])
def test_pickle_is_refused_and_never_opened(tmp_path: Path, as_object_array: bool) -> None:
    mark = tmp_path / "unpickled"
    bomb = np.array([_Bomb(mark)], dtype=object)
    if as_object_array:
        message = error_of(_npz_file(tmp_path, x_train=bomb))
        assert "not a whole .npz file of plain arrays" in message
    else:
        bomb.dump(tmp_path / "digits.npz")
        assert "not a whole .npz" in error_of(tmp_path / "digits.npz")
    assert not mark.exists()


def _npz_of_members(path: Path, members: dict[str, bytes], compression: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def _npy(header: str, content: bytes = b"") -> bytes:
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode() + content


@pytest.mark.parametrize(
    "member",
    [
        b"",
        b"not an array",
        b"\x93NUMPY\2\0\xff\xff\xff\xff",
        b"\x93NUMPY\1\0\xff\xff",
        _npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1, 28, 28)"),
        _npy("{[]: 1}"),
        _npy("(" * 5000),
        _npy("{'descr': 'what', 'fortran_order': False, 'shape': (1, 28, 28), }\n"),
        _npy("{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 28, 28), }\n"),
    ],
)
def test_malformed_npy_member_is_a_data_error(tmp_path: Path, member: bytes) -> None:
    assert "digits.npz" in error_of(
        _npz_of_members(tmp_path / "digits.npz", {"x_train.npy": member})
    )


def test_npy_header_that_promises_terabytes_takes_no_memory_for_them(tmp_path: Path) -> None:
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (9999999999, 28, 28), }\n"
    members = {"x_train.npy": _npy(header, bytes(100))}
    message = error_of(_npz_of_members(tmp_path / "digits.npz", members, zipfile.ZIP_DEFLATED))
    assert "not a whole .npz" in message


@pytest.mark.parametrize("content", [b"", b"PK\3\4 cut short", IMAGES])
def test_file_that_is_no_zip_says_what_was_expected(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "digits").write_bytes(content)
    message = error_of(tmp_path / "digits")
    assert "not a whole .npz file" in message
    assert "expected a folder of IDX files, or an .npz of x_train" in message


def _packed_npz() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **dict(zip(NPZ_KEYS, real_digits(12, 10), strict=True)))
    return file.getvalue()


X_SMALL, Y_SMALL = (idx_bytes(array) for array in real_digits(12, 10)[:2])
VICTIMS = {
    "images": (TRAIN_IMAGES, X_SMALL),
    "gzipped images": (TRAIN_IMAGES, gzip.compress(X_SMALL, mtime=0)),
    "labels": (TRAIN_LABELS, Y_SMALL),
    "npz": ("digits.npz", _packed_npz()),
}


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("mutated"), 12, 10)


@given(
    victim=st.sampled_from(sorted(VICTIMS)),
    # Positions from either end: headers lie at the front, a zip's directory at the back.
    edits=st.lists(st.tuples(st.integers(-400, 400), st.binary(max_size=4)), max_size=4),
    cut=st.none() | st.integers(-400, 400),
)
@example(victim="labels", edits=[], cut=None)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_mutated_file_gives_a_valid_dataset_or_a_data_error(
    small_folder: Path, victim: str, edits: list[tuple[int, bytes]], cut: int | None
) -> None:
    name, content = VICTIMS[victim]
    mutated = bytearray(content)
    for position, replacement in edits:
        start = position % len(mutated)
        mutated[start : start + len(replacement)] = replacement
    file = small_folder / name
    original = file.read_bytes() if file.exists() else b""
    file.write_bytes(mutated[:cut])
    try:
        dataset = load_dataset(str(file if victim == "npz" else small_folder))
    except DataError as error:
        message = str(error)
    else:
        message = ""
        assert dataset.train_images.shape == (len(dataset.train_labels), 28, 28)
        assert dataset.train_images.dtype == np.uint8
        assert set(dataset.train_labels.tolist()) <= set(range(10))
    finally:
        file.write_bytes(original)
    assert message.isprintable()


# --- Datasets that are fetched ---------------------------------------------------------------


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
    monkeypatch.setattr(dataset_module, "_download", dataset_module._fetch)  # in this process


def _forbid_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)  # makes its import raise ImportError


@pytest.mark.parametrize(
    ("name", "class_name"), [("fashion-mnist", "FashionMNIST"), ("kmnist", "KMNIST")]
)
def test_fetched_dataset_is_kept_and_then_read_without_torchvision(
    name: str, class_name: str, cache: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fake_torchvision(monkeypatch, write_dataset, class_name)
    fetched = load_dataset(name)
    _forbid_torchvision(monkeypatch)
    kept = load_dataset(name)
    assert fetched.name == kept.name == name
    assert_same_content(fetched, kept)
    assert_same_content(fetched, load_dataset(str(folder)))
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
        assert error_of("kmnist").startswith("Cannot fetch kmnist into")
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
    message = error_of("kmnist")
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

    def fetch(raw: Path) -> None:
        write_dataset(raw)
        seen.append((cache / "kmnist").exists())

    _fake_torchvision(monkeypatch, fetch, "KMNIST")
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
    message = error_of("kmnist")
    assert "torchvision cannot be imported" in message
    assert raised.split("'")[1] in message
    assert "Install the torchvision that fits your torch" in message
    assert not cache.exists()


def test_damaged_cache_says_what_to_delete(cache: Path) -> None:
    write_dataset(cache / "kmnist")
    (cache / "kmnist" / TRAIN_LABELS).write_bytes(LABELS[:-1])
    message = error_of("kmnist")
    assert "The cached kmnist is damaged" in message
    assert f"delete {cache / 'kmnist'}" in message


@pytest.mark.skipif(os.name == "nt", reason="a file where a folder should be, as POSIX tells it")
def test_unusable_cache_folder_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.write_text("not a folder")
    _fake_torchvision(monkeypatch, write_dataset, "KMNIST")
    assert str(cache) in error_of("kmnist")


# --- Training and validation -----------------------------------------------------------------


def _numbered(count: int) -> Dataset:
    """A dataset whose images carry their own number in the first two pixels."""
    images = np.zeros((count, 28, 28), dtype=np.uint8)
    numbers = np.arange(count)
    images[:, 0, 0], images[:, 0, 1] = numbers // 256, numbers % 256
    return Dataset("numbered", images, numbers % 10, images[:5], numbers[:5] % 10, "")


def _numbers(images: np.ndarray) -> list[int]:
    return [int(number) for number in images[:, 0, 0].astype(int) * 256 + images[:, 0, 1]]


def _all_numbers(parts: Split) -> tuple[list[int], list[int]]:
    return _numbers(parts.train_images), _numbers(parts.validation_images)


def test_mnist_is_split_in_55000_and_5000() -> None:
    parts = split(mnist(), seed=0)
    assert parts.train_images.shape == (55_000, 28, 28)
    assert parts.train_labels.shape == (55_000,)
    assert parts.validation_images.shape == (5_000, 28, 28)
    assert parts.validation_labels.shape == (5_000,)
    assert parts.train_images.dtype == np.uint8
    assert parts.validation_labels.dtype == np.int64


@given(count=st.integers(12, 3000), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_split_uses_every_image_once_with_its_own_label(count: int, seed: int) -> None:
    parts = split(_numbered(count), seed=seed)
    train, validation = _all_numbers(parts)
    assert sorted(train + validation) == list(range(count))
    assert len(validation) == count // 12
    assert parts.train_labels.tolist() == [number % 10 for number in train]
    assert parts.validation_labels.tolist() == [number % 10 for number in validation]


def test_split_depends_on_the_seed_and_on_nothing_else() -> None:
    first, again, other = (_all_numbers(split(_numbered(600), seed=s)) for s in (1, 1, 2))
    assert first == again
    assert set(first[1]) != set(other[1])


def test_limit_keeps_the_first_of_the_full_split() -> None:
    train, validation = _all_numbers(split(_numbered(600), seed=3))
    assert _all_numbers(split(_numbered(600), seed=3, limit=10)) == (train[:10], validation[:10])
    assert _all_numbers(split(_numbered(600), seed=3, limit=100)) == (train[:100], validation)
    assert _all_numbers(split(_numbered(600), seed=3, limit=550)) == (train, validation)


@pytest.mark.parametrize("limit", [0, -1, 551])
def test_limit_out_of_range_says_the_range(limit: int) -> None:
    with pytest.raises(UsageError, match=rf"limit must be from 1 to 550 .*, not {limit}\."):
        split(_numbered(600), seed=0, limit=limit)


def test_too_few_images_to_validate_on_is_a_data_error() -> None:
    with pytest.raises(DataError, match="has 11 training images, but at least 12 are needed"):
        split(_numbered(11), seed=0)


def test_split_copies_so_that_the_dataset_stays_as_it_is() -> None:
    dataset = _numbered(24)
    parts = split(dataset, seed=0)
    parts.train_images[:] = 255
    assert dataset.train_images.max() < 255


# --- The helper that other tests build on ----------------------------------------------------


def test_written_datasets_are_balanced_real_digits(tmp_path: Path) -> None:
    dataset = load_dataset(str(write_dataset(tmp_path, train=103, test=20)))
    counts = np.bincount(dataset.train_labels, minlength=10)
    assert counts.sum() == 103
    assert set(counts.tolist()) == {10, 11}
    assert np.bincount(dataset.test_labels).tolist() == [2] * 10

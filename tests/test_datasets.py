"""Data sets from files that the tests write themselves, and the real ones where they are."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile

import numpy as np
import pytest
import sklearn.datasets
import torch
import torchvision
from PIL import Image

from captum_deduce import datasets
from captum_deduce.datasets import ImageData


@pytest.fixture(autouse=True)
def no_default_root(request, monkeypatch):
    if "slow" not in request.keywords:
        monkeypatch.delenv("CAPTUM_DEDUCE_DATA", raising=False)


def as_rows(*parts: ImageData) -> np.ndarray:
    """Images with their classes, one row each, in an order of their own."""
    rows = np.concatenate([np.c_[part.target, part.images.flatten(1)] for part in parts])
    return rows[np.lexsort(rows.T)]


def idx(values: np.ndarray) -> bytes:
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    return header + values.astype(np.uint8).tobytes()


# --- digits ---


def test_digits_are_all_of_scikit_learns_once():
    splits = datasets.load_digits()
    bunch = sklearn.datasets.load_digits()
    expected = ImageData(
        torch.tensor(bunch.data / 16).float().reshape(-1, 1, 8, 8),
        torch.tensor(bunch.target),
        splits.train.class_names,
    )
    np.testing.assert_array_equal(as_rows(*splits), as_rows(expected))
    assert [len(part) for part in splits] == [1000, 297, 500]
    assert splits.train.class_names == tuple("0123456789")


def test_digits_have_equal_shares_of_every_class_in_each_split():
    splits = datasets.load_digits(seed=5)
    total = torch.bincount(torch.from_numpy(sklearn.datasets.load_digits().target))
    for part in splits:
        expected = total * len(part) / total.sum()
        assert (torch.bincount(part.target) - expected).abs().max() <= 2


def test_the_seed_decides_the_split():
    first, again, other = (datasets.load_digits(seed) for seed in (1, 1, 2))
    for part, same in zip(first, again, strict=True):
        assert torch.equal(part.images, same.images)
        assert torch.equal(part.target, same.target)
    assert not np.array_equal(as_rows(first.test), as_rows(other.test))


# --- IDX files ---


@pytest.mark.parametrize("shape", [(0,), (7,), (3, 4, 5), (2, 1, 3, 2)])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx_files_are_read_packed_or_not(tmp_path, shape, pack):
    values = np.random.default_rng(0).integers(0, 256, shape)
    path = tmp_path / "values"
    path.write_bytes(pack(idx(values)))
    read = datasets.read_idx(path)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, values)


IDX = idx(np.arange(24).reshape(2, 3, 4))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not an IDX file.*empty"),
        (b"\x00\x00\x08", "not an IDX file"),
        (b"\x89PNG\r\n", "not an IDX file.*89 50 4e"),
        (b"\x00\x00\x0d" + IDX[3:], "not an IDX file.*00 00 0d"),
        (IDX[:9], "ends within its header of 16 bytes"),
        (IDX[:-1], r"24 values for the shape \(2, 3, 4\), got 23"),
        (IDX + b"\x00", r"24 values for the shape \(2, 3, 4\), got 25"),
        (gzip.compress(IDX, mtime=0)[:-12], "damaged gzip"),
        (gzip.compress(IDX, mtime=0)[:-8] + bytes(8), "damaged gzip"),
        (gzip.compress(IDX, mtime=0)[:10] + b"\xff" * 20, "damaged gzip"),
        (gzip.compress(IDX[:-1], mtime=0), "24 values"),
    ],
)
def test_damaged_idx_files_are_refused_by_name(tmp_path, content, words):
    path = tmp_path / "damaged-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"damaged-idx3-ubyte.*{words}"):
        datasets.read_idx(path)


# --- MNIST ---

RNG = np.random.default_rng(1)
MNIST = {
    "train-images-idx3-ubyte": RNG.integers(0, 256, (50_004, 3, 2)),
    "train-labels-idx1-ubyte": RNG.integers(0, 10, 50_004),
    "t10k-images-idx3-ubyte": RNG.integers(0, 256, (6, 3, 2)),
    "t10k-labels-idx1-ubyte": RNG.integers(0, 10, 6),
}


def write_mnist(folder, packed=(), **changed):
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in (MNIST | changed).items():
        if name in packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(values), 1, mtime=0))
        else:
            (folder / name).write_bytes(idx(values))


def check_mnist(splits):
    images, target = MNIST["train-images-idx3-ubyte"], MNIST["train-labels-idx1-ubyte"]
    expected = [
        (images[:50_000], target[:50_000]),
        (images[50_000:], target[50_000:]),
        (MNIST["t10k-images-idx3-ubyte"], MNIST["t10k-labels-idx1-ubyte"]),
    ]
    for part, (pixels, classes) in zip(splits, expected, strict=True):
        np.testing.assert_allclose(part.images[:, 0].numpy(), pixels / 255, rtol=1e-6)
        np.testing.assert_array_equal(part.target, classes)
        assert part.images.dtype == torch.float32
        assert part.class_names == tuple("0123456789")


@pytest.mark.parametrize("folder", [".", "mnist", "MNIST/raw"])
@pytest.mark.parametrize("packed", [(), tuple(MNIST), tuple(MNIST)[1:3]])
def test_mnist_is_found_wherever_it_lies_packed_or_not(tmp_path, folder, packed):
    write_mnist(tmp_path / folder, packed)
    check_mnist(datasets.load_mnist(tmp_path))


def test_the_environment_variable_is_the_default_root(tmp_path, monkeypatch):
    write_mnist(tmp_path)
    monkeypatch.setenv("CAPTUM_DEDUCE_DATA", str(tmp_path))
    check_mnist(datasets.load("mnist"))


def test_missing_mnist_says_where_it_was_looked_for(tmp_path):
    write_mnist(tmp_path / "mnist")
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        datasets.load_mnist(tmp_path)
    for folder in [tmp_path, tmp_path / "mnist", tmp_path / "MNIST" / "raw"]:
        assert str(folder) in str(caught.value)
    assert "download=True" in str(caught.value)


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_without_a_root_the_message_names_the_ways_to_give_one(name):
    with pytest.raises(FileNotFoundError, match=r"data_root.*CAPTUM_DEDUCE_DATA"):
        datasets.load(name, download=True)


def test_mnist_is_downloaded_only_on_request_and_only_where_it_is_missing(tmp_path, monkeypatch):
    calls = []

    def download_mnist(root, *, download):
        calls.append((root, download))
        write_mnist(tmp_path / "MNIST" / "raw")

    monkeypatch.setattr(torchvision.datasets, "MNIST", download_mnist)
    with pytest.raises(FileNotFoundError):
        datasets.load_mnist(tmp_path)
    assert calls == []
    check_mnist(datasets.load("mnist", tmp_path, download=True))
    check_mnist(datasets.load("mnist", tmp_path, download=True))
    assert calls == [(str(tmp_path), True)]


@pytest.mark.parametrize(
    "changed",
    [
        {"t10k-labels-idx1-ubyte": np.zeros(5)},
        {"t10k-labels-idx1-ubyte": np.array([0, 1, 2, 3, 4, 10])},
        {"t10k-labels-idx1-ubyte": np.zeros((6, 1))},
        {"t10k-images-idx3-ubyte": np.zeros((6, 6))},
    ],
)
def test_images_and_labels_that_do_not_fit_are_refused_by_name(tmp_path, changed):
    write_mnist(tmp_path, **changed)
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte and .*t10k-labels-idx1-ubyte"):
        datasets.load_mnist(tmp_path)


# --- CIFAR-10 ---

CLASSES = ("airplane", "cat", "truck")


def colour_images(split, encoding="png", height=5, width=7):
    """Encoded images by name, each of one colour that no other has; ten per class."""
    files, colours = {}, {}
    for i in range(30):
        colour = (20 + 7 * i, 250 - 7 * i, 100 * (split == "test"))
        encoded = io.BytesIO()
        Image.new("RGB", (width, height), colour).save(encoded, encoding)
        files[f"{CLASSES[i % 3]}/{i:04}.{encoding}"] = encoded.getvalue()
        colours[colour] = i % 3
    return files, colours


def write_cifar(root, packed, **changes):
    for split in ("train", "test"):
        files = changes.get(split, colour_images(split)[0])
        if packed:
            root.mkdir(parents=True, exist_ok=True)
            with tarfile.open(root / f"{split}.tar.gz", "w:gz") as archive:
                for name, content in files.items():
                    member = tarfile.TarInfo(f"{split}/{name}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
        else:
            for name, content in files.items():
                path = root / split / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)


@pytest.mark.parametrize("folder", [".", "cifar10"])
@pytest.mark.parametrize("packed", [True, False])
def test_cifar_is_read_from_class_folders_packed_or_not(tmp_path, folder, packed):
    write_cifar(tmp_path / folder, packed)
    train, validation, test = datasets.load("cifar10", tmp_path)
    assert [len(train), len(validation), len(test)] == [27, 3, 30]
    assert torch.equal(torch.bincount(validation.target), torch.tensor([1, 1, 1]))
    for parts, split in [((train, validation), "train"), ((test,), "test")]:
        seen = {}
        for part in parts:
            assert part.class_names == CLASSES
            assert part.images.shape[1:] == (3, 5, 7)
            for image, target in zip(part.images * 255, part.target, strict=True):
                assert torch.equal(image, image[:, :1, :1].expand_as(image))
                seen[tuple(image[:, 0, 0].round().int().tolist())] = target.item()
        assert seen == colour_images(split)[1]


def test_cifar_reads_jpegs(tmp_path):
    write_cifar(tmp_path, True, test=colour_images("test", "jpeg")[0])
    test = datasets.load_cifar10(tmp_path).test
    for image, target in zip(test.images, test.target, strict=True):
        distances = {
            colour: (image.mean((1, 2)) * 255 - torch.tensor(colour)).abs().max().item()
            for colour in colour_images("test")[1]
        }
        nearest = min(distances, key=distances.__getitem__)
        assert distances[nearest] < 3.5  # half of what lies between two of the colours
        assert colour_images("test")[1][nearest] == target


def test_cifar_comes_shuffled_by_the_seed_whatever_the_order_of_the_files(tmp_path):
    files, _ = colour_images("train")
    write_cifar(tmp_path / "a", True)
    write_cifar(tmp_path / "b", True, train=dict(reversed(files.items())))
    first, other_order = (datasets.load_cifar10(tmp_path / name) for name in "ab")
    for part, same in zip(first, other_order, strict=True):
        assert torch.equal(part.images, same.images)
        assert torch.equal(part.target, same.target)
    reseeded = datasets.load_cifar10(tmp_path / "a", seed=1)
    for part, other in zip(first, reseeded, strict=True):
        assert not torch.equal(part.images, other.images)
    # sorted by class, the first ten would be of one class
    assert len(first.test.target[:10].unique()) == 3


def test_missing_cifar_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        datasets.load_cifar10(tmp_path)
    for name in ["train.tar.gz", "train", "cifar10/train.tar.gz", "cifar10/train"]:
        assert str(tmp_path / name) in str(caught.value)


def test_damaged_archives_and_images_are_refused_by_name(tmp_path):
    files, _ = colour_images("train")
    write_cifar(tmp_path / "image", True, train=files | {"cat/0001.png": b"nonsense"})
    with pytest.raises(ValueError, match=r"train\.tar\.gz.*cat/0001\.png"):
        datasets.load_cifar10(tmp_path / "image")

    larger, _ = colour_images("train", height=6)
    write_cifar(tmp_path / "size", False, train=files | {"cat/0001.png": larger["cat/0001.png"]})
    with pytest.raises(ValueError, match=r"one size.*\(5, 7\).*\(6, 7\)"):
        datasets.load_cifar10(tmp_path / "size")

    write_cifar(tmp_path / "class", True, test={"dog/0000.png": files["cat/0001.png"]})
    with pytest.raises(ValueError, match=r"same classes.*airplane, cat, truck.*dog"):
        datasets.load_cifar10(tmp_path / "class")

    write_cifar(tmp_path / "cut", True)
    archive = tmp_path / "cut" / "train.tar.gz"
    archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"train\.tar\.gz is a damaged archive"):
        datasets.load_cifar10(tmp_path / "cut")


# --- all of them ---


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(
        ValueError, match=r"name must be one of 'digits', 'mnist', 'cifar10'.*'nist'"
    ):
        datasets.load("nist")


def test_load_passes_the_seed_on():
    by_name, directly = datasets.load("digits", seed=4), datasets.load_digits(4)
    assert torch.equal(by_name.test.images, directly.test.images)


def some_data(count=7, **changes):
    fields = {
        "images": torch.rand(count, 2, 4, 3),
        "target": torch.arange(count) % 3,
        "class_names": ("a", "b", "c"),
    }
    return ImageData(**fields | changes)


def test_slices_and_indices_select_images_with_their_classes():
    data = some_data()
    for index in [slice(2, 5), torch.tensor([6, 0]), data.target == 1]:
        part = data[index]
        assert torch.equal(part.images, data.images[index])
        assert torch.equal(part.target, data.target[index])
        assert part.class_names == data.class_names


def test_batches_are_all_the_data_in_order_without_a_copy():
    data = some_data()
    batches = data.batches(3)
    assert [len(target) for _, target in batches] == [3, 3, 1]
    assert torch.equal(torch.cat([images for images, _ in batches]), data.images)
    assert torch.equal(torch.cat([target for _, target in batches]), data.target)
    assert batches[0][0].data_ptr() == data.images.data_ptr()
    with pytest.raises(ValueError, match="batch_size"):
        data.batches(0)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"images": torch.rand(7, 1, 4, 4).double()}, TypeError, "float64"),
        ({"target": torch.zeros(7).int()}, TypeError, "int32"),
        ({"images": torch.rand(7, 16)}, ValueError, r"\(7, 16\)"),
        ({"target": torch.zeros(6).long()}, ValueError, r"\(6,\)"),
        ({"target": torch.full((7,), 3)}, ValueError, "0 ... 2 for 3 class_names.*3"),
        ({"class_names": {"a": 2, "b": 0, "c": 1}}, TypeError, "class_names must be a tuple"),
        ({"class_names": {"a", "b", "c"}}, TypeError, "class_names must be a tuple"),
        ({"target": torch.full((7,), -1)}, ValueError, "-1"),
    ],
)
def test_images_and_classes_that_do_not_fit_are_refused(changes, error, words):
    with pytest.raises(error, match=words):
        some_data(**changes)


# --- the real files ---


def real(name):
    try:
        return datasets.load(name)
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.mark.slow
def test_real_mnist_has_its_published_statistics():
    train, validation, test = real("mnist")
    assert train.images.shape == (50_000, 1, 28, 28)
    assert validation.images.shape == test.images.shape == (10_000, 1, 28, 28)
    images = torch.cat([train.images, validation.images]).double()
    assert images.mean().item() == pytest.approx(0.1307, abs=5e-5)
    assert images.std().item() == pytest.approx(0.3081, abs=5e-5)
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert torch.bincount(test.target).tolist() == counts


@pytest.mark.slow
def test_real_cifar_has_its_published_statistics():
    train, validation, test = real("cifar10")
    assert train.images.shape == (45_000, 3, 32, 32)
    assert torch.bincount(validation.target).tolist() == [500] * 10
    assert torch.bincount(test.target).tolist() == [1000] * 10
    images = torch.cat([train.images, validation.images])
    # JPEG compression moves single values by a few levels, means hardly
    expected = torch.tensor([0.4914, 0.4822, 0.4465])
    torch.testing.assert_close(images.mean((0, 2, 3)), expected, rtol=0, atol=2e-3)
    assert "airplane" in train.class_names
    assert "truck" in train.class_names

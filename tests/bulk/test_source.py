from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torchvision.datasets import ImageFolder

from captum_deduce import datasets
from captum_deduce.bulk.source import Source

IMAGES = torch.arange(12 * 4, dtype=torch.float32).view(12, 1, 2, 2) / 48
LABELS = torch.arange(12) % 3
WHOLE = [range(100)]


class Items(Dataset):
    """Map-style; some items raise."""

    def __init__(self, broken=()):
        self.broken = set(broken)

    def __len__(self):
        return 12

    def __getitem__(self, index):
        if index in self.broken:
            raise OSError(f"no file {index}")
        return IMAGES[index], int(LABELS[index])


class Flow(IterableDataset):
    """Every worker yields its share, as PyTorch's documentation has it."""

    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        for index in range(first, 12, step):
            yield IMAGES[index], LABELS[index]


def mappings():
    return [{"img": IMAGES[i].numpy(), "label": np.int64(LABELS[i])} for i in range(12)]


def assert_whole(items, order=range(12)):
    items = list(items)
    assert [item.index for item in items] == list(range(12))
    assert [item.error for item in items] == [None] * 12
    for item, place in zip(items, order, strict=True):
        assert item.image.dtype == torch.float32
        assert torch.equal(item.image, IMAGES[place])
        assert item.label == int(LABELS[place])


@pytest.mark.parametrize(
    "dataset",
    [
        Items(),
        TensorDataset(IMAGES, LABELS),
        datasets.ImageData(IMAGES, LABELS, ("a", "b", "c")),
        Subset(Items(), range(12)),
        list(zip(IMAGES, LABELS, strict=True)),
        mappings(),
        DataLoader(Items(), batch_size=5),
        DataLoader(Items(), batch_size=None),
        DataLoader(Flow(), batch_size=5),
        Flow(),
        zip(IMAGES, LABELS, strict=True),
    ],
    ids=lambda dataset: type(dataset).__name__,
)
def test_any_data_set_is_read_item_by_item(dataset):
    source = Source(dataset)
    assert torch.equal(source.example().image, IMAGES[0])
    assert_whole(source.items(WHOLE))
    assert source.length == 12


def test_several_processes_read_the_same():
    assert_whole(Source(Items(), num_workers=2).items(WHOLE))
    loader = DataLoader(Items(), batch_size=4, num_workers=1)
    assert Source(loader).num_workers == 1
    assert_whole(Source(loader).items(WHOLE))


def test_workers_of_an_iterable_data_set_keep_one_order():
    items = [list(Source(Flow(), num_workers=2).items(WHOLE)) for _ in range(2)]
    assert [item.label for item in items[0]] == [item.label for item in items[1]]
    # Batches of one worker, then of the other; of 12 items each worker has one batch.
    assert_whole(items[0], [*range(0, 12, 2), *range(1, 12, 2)])


def test_hugging_face_data_sets_are_read():
    hugging_face = pytest.importorskip("datasets")
    pictures = [Image.fromarray(np.full((2, 3), 20 * i, dtype=np.uint8)) for i in range(4)]
    features = hugging_face.Features(
        {"image": hugging_face.Image(), "label": hugging_face.ClassLabel(names=["no", "yes"])}
    )
    data = hugging_face.Dataset.from_dict(
        {"image": pictures, "label": [0, 1, 1, -1]}, features=features
    )
    for dataset in (data, data.to_iterable_dataset()):
        source = Source(dataset)
        items = list(source.items(WHOLE))
        assert [item.label for item in items] == [0, 1, 1, None]
        for place, item in enumerate(items):
            assert torch.equal(item.image, torch.full((1, 2, 3), 20 * place / 255))
    assert Source(data).class_names == ["no", "yes"]


def test_image_folders_are_read(tmp_path):
    colours = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    for name, pixels in zip(("bird", "cat"), colours, strict=True):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(tmp_path / name / "0.png")
    source = Source(ImageFolder(str(tmp_path)))
    items = list(source.items(WHOLE))
    assert source.class_names == ["bird", "cat"]
    assert [item.label for item in items] == [0, 1]
    for item, pixels in zip(items, colours, strict=True):
        torch.testing.assert_close(item.image, pixels / 255, rtol=0, atol=1e-7)


def test_a_loaders_own_collate_function_is_kept():
    def doubled(batch):
        return {"image": torch.stack([2 * image for image, _ in batch]), "label": [1] * len(batch)}

    items = list(Source(DataLoader(Items(), batch_size=3, collate_fn=doubled)).items(WHOLE))
    assert torch.equal(torch.stack([item.image for item in items]), 2 * IMAGES)
    assert {item.label for item in items} == {1}


@pytest.mark.parametrize("workers", [0, 1])
def test_an_item_that_raises_says_why_and_the_others_are_read(workers):
    items = list(Source(Items(broken=[0, 7]), num_workers=workers).items(WHOLE))
    assert [item.index for item in items if item.image is None] == [0, 7]
    assert items[7].error == "OSError: no file 7"
    assert torch.equal(items[8].image, IMAGES[8])
    assert Source(Items(broken=[0, 7])).example().index == 1


def test_a_transform_that_fails_is_told_too_and_the_label_is_kept():
    def odd(image):
        if image.sum() > 2:
            raise RuntimeError("too bright")
        return image * 2

    items = list(Source(Items(), transform=odd).items(WHOLE))
    broken = [item for item in items if item.image is None]
    assert broken
    assert {item.error for item in broken} == {"RuntimeError: too bright"}
    assert [item.label for item in broken] == [int(LABELS[item.index]) for item in broken]


@pytest.mark.parametrize("make", [Items, Flow])
def test_only_the_spans_that_are_asked_for_are_read(make):
    seen = []

    def noted(image):
        seen.append(image)
        return image

    source = Source(make(), transform=noted)
    items = list(source.items(iter([range(2, 4), range(9, 20)])))
    assert [item.index for item in items] == [2, 3, 9, 10, 11]
    assert len(seen) == 5


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (({"picture": 1}), "an item must have its image under image, img"),
        ((torch.zeros(1, 2, 2), [0, 1]), "a label must be one integer"),
        ((torch.zeros(1, 2, 2), 0.5), "a label must be one integer"),
        ((torch.zeros(1, 2, 2, dtype=torch.float16), 0), "float32 or float64, or of 8 bits"),
        ((torch.zeros(1, 2, 2, dtype=torch.int64), 0), "float32 or float64, or of 8 bits"),
        (("a word", 0), "a tensor, a picture or an array, got str"),
    ],
)
def test_what_is_no_image_or_no_label_is_named(item, reason):
    (found,) = Source([item]).items(WHOLE)
    assert found.image is None
    assert reason in found.error
    with pytest.raises(ValueError, match="dataset must hold an image that can be read"):
        Source([item]).example()


def test_what_is_no_data_set_or_in_no_fixed_order_is_refused():
    with pytest.raises(TypeError, match="dataset must be a data set"):
        Source(3)
    with pytest.raises(ValueError, match=r"RandomSampler \(shuffle=True\?\)"):
        Source(DataLoader(Items(), shuffle=True))
    with pytest.raises(ValueError, match="num_workers must be 0 for a generator"):
        Source((pair for pair in []), num_workers=2)
    with pytest.raises(TypeError, match="map-style"):
        Source(Flow()).item(0)


def test_what_an_iterable_data_set_raises_ends_the_run():
    """Nothing can be read after it, and what came before must not pass for the whole."""

    def failing():
        yield IMAGES[0], 0
        raise OSError("connection lost")

    source = Source(failing())
    with pytest.raises(OSError, match="connection lost"):
        list(source.items(WHOLE))
    assert source.length is None

"""PrototypeIndex against naive searches, and what it refuses."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from captum_deduce import PrototypeIndex
from tests import reference


@pytest.fixture
def samples() -> tuple[Tensor, Tensor]:
    """200 rows of 5 features in 6 classes, of which class 4 is empty."""
    generator = torch.Generator().manual_seed(3)
    target = torch.randint(0, 5, (200,), generator=generator)
    target[target == 4] = 5
    features = torch.randn(200, 5, generator=generator, dtype=torch.float64)
    return features + target.unsqueeze(1) / 3, target


def rows_of(features: Tensor, target: Tensor) -> dict[int, np.ndarray]:
    return {c: features[target == c].numpy() for c in range(int(target.max()) + 1)}


@pytest.mark.parametrize("chunk_size", [3, 4096])
@pytest.mark.parametrize(("k", "k_type"), [(None, "mean"), (1, "mean"), (5, "mean"), (5, "point")])
def test_selection_equals_the_naive_one(samples, chunk_size, k, k_type):
    features, target = samples
    index = PrototypeIndex(features, target, chunk_size=chunk_size)
    queries = torch.randn(30, 5, dtype=torch.float64) + 1
    generator = torch.Generator().manual_seed(0)
    admissible = torch.rand(30, 6, generator=generator) < 0.5
    admissible[:, 2] |= ~admissible[:, [0, 1, 3, 5]].any(1)
    prototypes, classes = index.select(queries, admissible, k=k, k_type=k_type)
    assert len(classes.unique()) > 3
    for i, query in enumerate(queries.numpy()):
        rows = {c: r for c, r in rows_of(features, target).items() if admissible[i, c]}
        expected_class, expected = reference.nearest_prototype(query, rows, k, k_type)
        assert classes[i] == expected_class
        np.testing.assert_allclose(prototypes[i].numpy(), expected, rtol=1e-12, atol=1e-12)


def test_a_column_of_classes_is_read_as_their_row(samples):
    features, target = samples
    index, expected = (
        PrototypeIndex(features, target.unsqueeze(1)),
        PrototypeIndex(features, target),
    )
    assert torch.equal(index.features, expected.features)
    assert torch.equal(index.counts, expected.counts)
    with pytest.raises(TypeError, match="target must hold integers"):
        PrototypeIndex(features, target.unsqueeze(1).float())


def test_mean_and_point_may_choose_different_classes():
    """One near row and one far, against two in between."""
    features = torch.tensor([[1.0], [10.0], [6.0], [7.0]])
    index = PrototypeIndex(features, torch.tensor([0, 0, 1, 1]))
    query, both = torch.zeros(1, 1), torch.ones(1, 2, dtype=torch.bool)
    for k, k_type, prototype, chosen in (
        (2, "mean", 5.5, 0),
        (2, "point", 7.0, 1),
        (1, "mean", 1.0, 0),
        (1, "point", 1.0, 0),
        (None, "mean", 5.5, 0),
    ):
        prototypes, classes = index.select(query, both, k=k, k_type=k_type)
        assert (prototypes.item(), classes.item()) == (prototype, chosen)


def test_the_first_class_wins_a_tie():
    index = PrototypeIndex(torch.tensor([[1.0], [-1.0], [1.0]]), torch.tensor([2, 1, 0]))
    everything = torch.ones(1, 3, dtype=torch.bool)
    _, classes = index.select(torch.zeros(1, 1), everything, k=1)
    assert classes.item() == 0
    _, classes = index.select(torch.zeros(1, 1), everything & torch.tensor([0, 1, 1]).bool(), k=1)
    assert classes.item() == 1


def test_nearest_rows_of_one_class(samples):
    features, target = samples
    distances, rows = PrototypeIndex(features, target).nearest(features[:3], 2, k=4)
    own = features[target == 2]
    expected = torch.cdist(features[:3], own).topk(4, largest=False)
    torch.testing.assert_close(distances, expected.values)
    torch.testing.assert_close(rows, own[expected.indices])


class Brightness(nn.Module):
    """Predicts the tenth of the range in which the image's mean lies."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = nn.Dropout(0.5)
        self.centers = nn.Parameter(torch.linspace(0.05, 0.95, 10))

    def forward(self, images: Tensor) -> Tensor:
        return -self.noise((images.flatten(1).mean(1, keepdim=True) - self.centers).abs())


class Halves(nn.Module):
    """Encodes an image as the mean of each half, as a map of 2 x 1."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = nn.Dropout(0.5)

    def forward(self, images: Tensor) -> Tensor:
        return self.noise(images).flatten(1).unflatten(1, (2, 1, -1)).mean(3)


@pytest.mark.parametrize("labelled", [True, False])
def test_one_pass_over_a_loader_groups_by_the_predicted_class(labelled):
    images = torch.rand(60, 1, 4, 4) * torch.linspace(0, 1, 60).view(-1, 1, 1, 1)
    wrong = torch.full((60,), 9)
    data = TensorDataset(images, wrong) if labelled else images
    passes = []

    class Counted:
        def __iter__(self):
            passes.append(1)
            return iter(DataLoader(data, batch_size=7))

    model, encoder = Brightness().train(), Halves().train()
    index = PrototypeIndex.from_loader(model, encoder, Counted())
    assert passes == [1]
    assert model.noise.training
    assert encoder.noise.training
    predicted = (images.flatten(1).mean(1) * 10).long()
    assert index.counts.tolist() == predicted.bincount(minlength=10).tolist()
    assert (index.num_classes, index.num_features, len(index)) == (10, 2, 60)
    for c in predicted.unique().tolist():
        own = images[predicted == c].flatten(1)
        expected = torch.stack([own[:, :8].mean(1), own[:, 8:].mean(1)], 1)
        _, rows = index.nearest(torch.zeros(1, 2), c, k=len(own))
        order = (expected**2).sum(1).argsort()
        torch.testing.assert_close(rows[0], expected[order])


def test_without_an_encoder_images_are_their_own_features():
    images = torch.rand(12, 2, 3, 3)
    index = PrototypeIndex.from_loader(Brightness(), None, [images[:5], images[5:]])
    assert index.num_features == 18
    kept = {tuple(row) for row in index.features.tolist()}
    assert kept == {tuple(row) for row in images.flatten(1).tolist()}


def test_save_and_load(samples, tmp_path):
    index = PrototypeIndex(*samples, num_classes=8, chunk_size=77)
    path = tmp_path / "prototypes.safetensors"
    index.save(path)
    loaded = PrototypeIndex.load(path)
    assert torch.equal(loaded.features, index.features)
    assert torch.equal(loaded.counts, index.counts)
    assert loaded.chunk_size == 77
    most = int(samples[1].bincount().max())
    assert repr(loaded) == f"PrototypeIndex(classes=8, features=5, counts=0..{most})"
    assert repr(loaded) == repr(index)


def test_dtype_and_state_dict_go_along_as_in_any_module(samples):
    index = PrototypeIndex(*samples).float()
    assert index.features.dtype == torch.float32
    assert index.counts.dtype == torch.int64
    assert set(index.state_dict()) == {"features", "counts"}


def test_files_that_are_no_index(samples, tmp_path):
    with pytest.raises(FileNotFoundError, match="no prototypes at"):
        PrototypeIndex.load(tmp_path / "missing.safetensors")
    foreign = tmp_path / "foreign.safetensors"
    save_file({"features": torch.zeros(2, 2)}, foreign)
    with pytest.raises(ValueError, match=r"foreign.* holds no prototypes"):
        PrototypeIndex.load(foreign)
    whole = tmp_path / "whole.safetensors"
    PrototypeIndex(*samples).save(whole)
    content = whole.read_bytes()
    cut = tmp_path / "cut.safetensors"
    for length in (3, 200, len(content) - 8):
        cut.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"cut.* truncated"):
            PrototypeIndex.load(cut)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    del header["crc32"]  # of what was there
    lacking = tmp_path / "lacking.safetensors"
    save_file({"features": torch.zeros(2, 2)}, lacking, header)
    with pytest.raises(ValueError, match=r"lacking.* no complete prototypes"):
        PrototypeIndex.load(lacking)
    save_file({"features": torch.zeros(2, 2), "counts": torch.tensor([3])}, lacking, header)
    with pytest.raises(ValueError, match=r"lacking.* no complete prototypes"):
        PrototypeIndex.load(lacking)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"features": [[1.0]]}, TypeError, "features must be a torch.Tensor"),
        ({"features": torch.ones(200, 5, dtype=torch.int64)}, TypeError, "floating-point"),
        ({"features": torch.zeros(200)}, ValueError, r"features .*N x D.* got \(200,\)"),
        ({"features": torch.zeros(0, 5)}, ValueError, r"features .* got \(0, 5\)"),
        ({"features": torch.full((200, 5), torch.inf)}, ValueError, "features must be finite"),
        ({"target": torch.zeros(199).long()}, ValueError, r"target .* per row \(200\)"),
        ({"target": torch.zeros(200)}, TypeError, "target must hold integers"),
        ({"target": [0] * 200}, TypeError, "target must be a torch.Tensor"),
        ({"target": -torch.ones(200).long()}, ValueError, "target must lie in"),
        ({"num_classes": 5}, ValueError, r"target must lie in 0 ... 4 .* got 5"),
        ({"num_classes": 0}, ValueError, "num_classes"),
        ({"chunk_size": 0}, ValueError, "chunk_size"),
    ],
    ids=str,
)
def test_what_the_constructor_refuses(samples, arguments, error, message):
    features, target = samples
    given = {"features": features, "target": target} | arguments
    with pytest.raises(error, match=message):
        PrototypeIndex(given.pop("features"), given.pop("target"), **given)


def test_classes_with_too_few_images_are_named(samples):
    features, target = samples
    index = PrototypeIndex(features, target)
    count = int((target == 3).sum())
    with pytest.raises(ValueError, match="no image of class 4"):
        index.nearest(features[:1], 4)
    with pytest.raises(ValueError, match=rf"k must be .*class 3 .*, {count}, got {count + 1}"):
        index.nearest(features[:1], 3, k=count + 1)
    with pytest.raises(ValueError, match=r"target must lie in 0 ... 5"):
        index.nearest(features[:1], 6)
    only_empty = torch.zeros(2, 6, dtype=torch.bool)
    only_empty[0, 1] = only_empty[1, 4] = True
    with pytest.raises(ValueError, match=r"admissible for row 1 \(\[4\]\)"):
        index.select(features[:2], only_empty)
    with pytest.raises(ValueError, match=r"k must be at most .* got 1000"):
        index.select(features[:1], ~only_empty[:1], k=1000)
    index.require(5)
    with pytest.raises(ValueError, match="no image of class 4"):
        index.require(5, [0, 4])
    with pytest.raises(ValueError, match="k must be a finite number"):
        index.require(0, [0])
    alone = PrototypeIndex(features, torch.full((200,), 3))
    with pytest.raises(ValueError, match=r"two classes at least, got only \[3\]"):
        alone.require(5)


def test_queries_that_do_not_fit_are_refused(samples):
    index = PrototypeIndex(*samples)
    everything = torch.ones(2, 6, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"features .*D = 5, got D = 4"):
        index.nearest(torch.zeros(2, 4).double(), 0)
    with pytest.raises(ValueError, match=r"features .*torch.float64, got dtype torch.float32"):
        index.nearest(torch.zeros(2, 5), 0)
    with pytest.raises(ValueError, match="features must be finite"):
        index.select(torch.full((2, 5), torch.nan).double(), everything)
    queries = torch.zeros(2, 5).double()
    with pytest.raises(ValueError, match=r"admissible must be bool and 2 x 6, got .*\(2, 5\)"):
        index.select(queries, everything[:, :5])
    with pytest.raises(ValueError, match="admissible must be bool"):
        index.select(queries, everything.long())
    with pytest.raises(ValueError, match="k_type must be one of 'mean', 'point'"):
        index.select(queries, everything, k_type="median")


def test_loaders_and_encoders_that_are_refused():
    images = torch.rand(4, 1, 4, 4)
    model = Brightness()
    with pytest.raises(ValueError, match="loader must yield at least one batch"):
        PrototypeIndex.from_loader(model, None, [])
    with pytest.raises(TypeError, match=r"loader must yield batches of images.*dict"):
        PrototypeIndex.from_loader(model, None, [{"images": images}])
    with pytest.raises(TypeError, match=r"encoder must be an nn.Module or a function"):
        PrototypeIndex.from_loader(model, "encoder", [images])
    with pytest.raises(TypeError, match="encoder must return a tensor, got tuple"):
        PrototypeIndex.from_loader(model, lambda x: (x,), [images])
    with pytest.raises(ValueError, match=r"encoder .* a row for each of 4 image.*\(1, 64\)"):
        PrototypeIndex.from_loader(model, lambda x: x.reshape(1, -1), [images])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory in kilobytes")
def test_60000_rows_of_1024_features_need_little_memory_beside_their_own():
    resource = pytest.importorskip("resource")
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(60_000, 1024, generator=generator)
    index = PrototypeIndex(features, torch.arange(60_000) % 10)
    del features
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    queries = index.features[::600]
    _, classes = index.select(queries, torch.ones(100, 10, dtype=torch.bool), k=1)
    assert classes.tolist() == [i // 10 for i in range(100)]
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 150_000

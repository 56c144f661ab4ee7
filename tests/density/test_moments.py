from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from captum_deduce.density.moments import COVARIANCE_TYPES, Moments
from captum_deduce.density.samples import Samples
from tests.reference import class_scatter

C, D = 3, 7


def data(n: int = 400, seed: int = 0, offset: float = 0.0, condition: float = 1.0):
    """Correlated features of three classes, their labels and weights, in float64."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, D, dtype=torch.float64, generator=generator)
    basis, _ = torch.linalg.qr(torch.randn(D, D, dtype=torch.float64, generator=generator))
    scales = torch.logspace(0, -0.5 * np.log10(condition), D, dtype=torch.float64)
    labels = torch.randint(C, (n,), generator=generator)
    features = (features * scales) @ basis.T + offset + labels.unsqueeze(1)
    return features, labels, torch.rand(n, dtype=torch.float64, generator=generator) + 0.1


def streamed(
    covariance_type: str, features: Tensor, target: Tensor, weight: Tensor | None, seed: int
) -> Moments:
    """Shuffled, cut at random, fitted in several parts, merged in random order."""
    rng = np.random.default_rng(seed)
    order = torch.from_numpy(rng.permutation(len(features)))
    cuts = np.sort(rng.choice(np.arange(1, len(features)), size=rng.integers(3, 30), replace=False))
    parts = []
    for rows in np.split(order.numpy(), cuts):
        if not parts or rng.random() < 0.3:
            parts.append(Moments(covariance_type, 0, D))
        parts[-1].add(
            Samples(features[rows], target[rows], None if weight is None else weight[rows])
        )
    while len(parts) > 1:
        first, second = rng.choice(len(parts), 2, replace=False)
        parts[first].merge(parts[second])
        del parts[second]
    return parts[0]


def scatter_of(moments: Moments) -> Tensor:
    if moments.covariance_type != "full":
        return moments.scatter
    return torch.stack([moments.class_scatter(c) for c in range(moments.num_classes)])


def relative(found: Tensor, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found.numpy() - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("offset", "condition"), [(0, 1), (1e4, 1), (-1e3, 1e10)])
def test_covariances_equal_numpys_for_any_split_and_order_of_merges(
    offset, condition, weighted, seed
):
    features, labels, weight = data(offset=offset, condition=condition)
    weight = weight if weighted else None
    moments = streamed("full", features, labels, weight, seed)
    for c in range(C):
        rows = (labels == c).numpy()
        own = None if weight is None else weight.numpy()[rows]
        expected = np.cov(features.numpy()[rows].T, ddof=1, aweights=own)
        assert relative(moments.class_scatter(c) / moments.normalizer()[c], expected) < 1e-10
        mean = np.average(features.numpy()[rows], axis=0, weights=own)
        np.testing.assert_allclose(moments.mean[c].numpy(), mean, rtol=1e-13)
        assert moments.count[c] == rows.sum()


@pytest.mark.parametrize("seed", range(3))
def test_responsibilities_equal_numpys_weights(seed):
    features, _, weight = data(offset=100)
    generator = torch.Generator().manual_seed(seed)
    soft = torch.rand(len(features), C, dtype=torch.float64, generator=generator)
    soft[soft < 0.3] = 0
    moments = streamed("full", features, soft, weight, seed)
    for c in range(C):
        own = (soft[:, c] * weight).numpy()
        expected = np.cov(features.numpy().T, ddof=1, aweights=own)
        assert relative(moments.class_scatter(c) / moments.normalizer()[c], expected) < 1e-10
        assert moments.count[c] == (own > 0).sum()
        np.testing.assert_allclose(moments.effective_count()[c], own.sum() ** 2 / (own**2).sum())


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_other_types_keep_parts_of_the_full_scatter(weighted, seed):
    features, labels, weight = data(n=120, offset=50)
    weight = weight if weighted else torch.ones_like(weight)
    scatters = np.stack(
        [
            class_scatter(features[labels == c].numpy(), weight[labels == c].numpy())[1]
            for c in range(C)
        ]
    )
    expected = {
        "full": scatters,
        "tied": scatters.sum(0),
        "diag": np.stack([np.diag(scatter) for scatter in scatters]),
        "spherical": np.array([np.trace(scatter) for scatter in scatters]),
    }
    for covariance_type in COVARIANCE_TYPES:
        moments = streamed(covariance_type, features, labels, weight if weighted else None, seed)
        assert scatter_of(moments).shape == expected[covariance_type].shape
        assert relative(scatter_of(moments), expected[covariance_type]) < 1e-12
        whole = np.trace(scatters, axis1=1, axis2=2)
        if covariance_type == "tied":
            whole = np.full(C, whole.sum())
        assert relative(moments.trace(), whole) < 1e-12


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_memory_does_not_grow_with_the_samples(covariance_type):
    def size(moments: Moments) -> int:
        matrices = 0 if moments.classes is None else moments.classes.nbytes
        return matrices + sum(b.untyped_storage().nbytes() for b in moments.buffers())

    moments = Moments(covariance_type, C, D)
    sizes = []
    for seed in range(20):
        features, labels, _ = data(n=500, seed=seed)
        moments.add(Samples(features, labels, None))
        sizes.append(size(moments))
    (empty,) = set(sizes)
    assert moments.count.sum() == 10_000
    numbers = {"full": C * D * D, "tied": D * D, "diag": C * D, "spherical": C}[covariance_type]
    assert empty == 8 * (numbers + C * D + 3 * C)


def test_a_constant_feature_does_not_vary_wherever_it_lies():
    features, labels, weight = data()
    features[:, 3] = 0.1
    for own in (None, weight):
        moments = streamed("diag", features.float(), labels, own, seed=1)
        assert (moments.scatter[:, 3] == 0).all()
        assert (moments.scatter[:, :3] > 0).all()
        assert (moments.mean[:, 3] == features[0, 3].float().double()).all()


def test_single_samples_and_absent_classes_have_no_normalizer():
    moments = Moments("full", 0, D)
    moments.add(
        Samples(torch.randn(4, D), torch.tensor([0, 2, 2, 4]), torch.tensor([0.3, 1, 2, 0]))
    )
    assert moments.num_classes == 5
    assert moments.effective_count().tolist() == pytest.approx([1, 0, 9 / 5, 0, 0])
    assert moments.normalizer().tolist() == pytest.approx([0, 0, 3 - 5 / 3, 0, 0])


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_growing_keeps_what_there_is(covariance_type):
    features, labels, _ = data()
    moments, larger = Moments(covariance_type, 0, D), Moments(covariance_type, C + 2, D)
    for part in (labels == 0, labels == 2, labels == 1):
        moments.add(Samples(features[part], labels[part], None))
        larger.add(Samples(features[part], labels[part], None))
    moments.grow(C + 2)
    moments.grow(1)
    for name, buffer in larger.named_buffers():
        assert torch.equal(getattr(moments, name), buffer), name


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_classes_that_come_one_by_one_are_rarely_copied(covariance_type):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(400, D, generator=generator, dtype=torch.float64)
    labels = torch.arange(400) // 2
    moments, places = Moments(covariance_type, 0, D), set()
    for c in range(200):
        rows = labels == c
        moments.add(Samples(features[rows], labels[rows], None))
        places.add((moments.mean.data_ptr(), getattr(moments, "scatter", moments.mean).data_ptr()))
    # 1.5 ** 14 > 200
    assert len(places) <= 2 * 14
    whole = Moments(covariance_type, 0, D)
    whole.add(Samples(features, labels, None))
    for name, buffer in whole.named_buffers():
        torch.testing.assert_close(getattr(moments, name), buffer, rtol=1e-12, atol=1e-12)
    # copies, conversions and state dicts hold what there is, and can grow on their own
    fresh = Moments(covariance_type)
    fresh.load_state_dict(moments.state_dict())
    for copied in (copy.deepcopy(moments), fresh, copy.deepcopy(moments).half()):
        copied.add(Samples(features[:2], labels[:2] + 200, None))
        assert copied.num_classes == 201
        assert copied.count.tolist() == [2] * 201
    assert moments.num_classes == 200


def test_memory_is_for_classes_with_samples_only():
    features, labels, _ = data()
    far = torch.tensor([0, 967, 999])[labels]
    moments, other = Moments("full", 1000, D), Moments("full", 1000, D)
    moments.add(Samples(features, far, None))
    other.merge(moments)
    for each in (moments, other):
        assert sorted(each.classes.matrices) == [0, 967, 999]
        assert each.classes.nbytes == C * D * D * 8
        assert each.num_classes == len(each.trace()) == 1000
        assert each.trace().nonzero().flatten().tolist() == [0, 967, 999]
        assert each.trace()[967] == each.class_scatter(967).trace()
        assert not each.class_scatter(1).any()
    loaded = Moments("full")
    loaded.load_state_dict(moments.state_dict())
    loaded.add(Samples(features[:1], torch.tensor([500]), None))
    assert loaded.classes.classes() == [0, 500, 967, 999]
    assert loaded.count.sum() == len(features) + 1


def test_samples_are_kept_until_they_outnumber_the_features():
    features, _, weight = data()
    features = features.float()
    moments = Moments("full", 0, D)
    for count in range(1, 12):
        rows = slice(count - 1, count)
        moments.add(Samples(features[rows], torch.tensor([4]), weight[rows]))
        assert moments.classes.nbytes == (count * (D * 4 + 8) if count <= D else D * D * 8)
        _, expected = class_scatter(features[:count].double().numpy(), weight[:count].numpy())
        np.testing.assert_allclose(moments.class_scatter(4), expected, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(moments.trace()[4], np.trace(expected), rtol=1e-9, atol=1e-12)
        restored = Moments("full")
        restored.load_state_dict(moments.state_dict())
        assert torch.equal(restored.class_scatter(4), moments.class_scatter(4))
        assert restored.classes.nbytes == moments.classes.nbytes


@pytest.mark.parametrize("split", [3, 6, 20, 60])
def test_samples_and_matrices_are_merged(split):
    features, _, weight = data(n=66)
    labels, whole = torch.zeros(66).long(), Moments("full", 0, D)
    whole.add(Samples(features, labels, weight))
    parts = []
    for rows in torch.arange(66).tensor_split([split]):
        parts.append(Moments("full", 0, D))
        parts[-1].add(Samples(features[rows], labels[rows], weight[rows]))
    for first, second in ((0, 1), (1, 0)):
        merged = copy.deepcopy(parts[first])
        merged.merge(parts[second])
        torch.testing.assert_close(merged.class_scatter(0), whole.class_scatter(0))
        torch.testing.assert_close(merged.mean, whole.mean)
        assert merged.count.tolist() == [66]


def test_matrices_of_before_they_were_named_are_read():
    features, labels, _ = data()
    moments, restored = Moments("full", C, D), Moments("full")
    moments.add(Samples(features, labels, None))
    state = moments.state_dict()
    del state["scatter_class"]
    restored.load_state_dict(state)
    assert torch.equal(scatter_of(restored), scatter_of(moments))
    del state["scatter"]
    with pytest.raises(RuntimeError, match="scatter is missing"):
        restored.load_state_dict(state)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_merging_with_itself_counts_everything_twice(covariance_type):
    features, labels, weight = data()
    moments, doubled = Moments(covariance_type, C, D), Moments(covariance_type, C, D)
    moments.add(Samples(features, labels, weight))
    moments.merge(moments)
    doubled.add(Samples(features.repeat(2, 1), labels.repeat(2), weight.repeat(2)))
    for name, buffer in doubled.named_buffers():
        torch.testing.assert_close(getattr(moments, name), buffer, rtol=1e-12, atol=1e-12)


def test_the_other_moments_of_a_merge_are_left_as_they_were():
    features, labels, _ = data()
    first, second = Moments("full", 0, D), Moments("full", 0, D)
    first.add(Samples(features[:50], labels[:50] % 2, None))
    second.add(Samples(features[50:], labels[50:], None))
    before = {name: buffer.clone() for name, buffer in second.named_buffers()}
    first.merge(second)
    first.add(Samples(features, labels, None))
    assert all(torch.equal(getattr(second, name), buffer) for name, buffer in before.items())


def test_known_gaussians_have_their_covariances():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(C, D, D, dtype=torch.float64, generator=generator)
    covariance = root @ root.mT
    weight, mean = torch.tensor([0.2, 0.3, 0.5]).double(), torch.randn(C, D, dtype=torch.float64)
    for covariance_type, given in {
        "full": covariance,
        "tied": covariance[0],
        "diag": covariance.diagonal(dim1=1, dim2=2),
        "spherical": covariance[:, 0, 0],
    }.items():
        moments = Moments.of_population(covariance_type, weight, mean, given)
        normalizer = moments.normalizer()
        if covariance_type == "tied":
            found = moments.scatter / normalizer.sum()
        else:
            found = scatter_of(moments) / normalizer.view(C, *[1] * (given.dim() - 1))
        if covariance_type == "spherical":
            found = found / D
        torch.testing.assert_close(found, given, rtol=1e-14, atol=0)
        assert torch.isinf(moments.effective_count()).all()


@pytest.mark.parametrize("covariance_type", ["tied", "diag", "spherical"])
def test_a_state_dict_of_another_covariance_type_is_refused(covariance_type):
    moments = Moments(covariance_type, C, D)
    with pytest.raises(RuntimeError, match=r"scatter has shape .* covariance_type 'full' .*\(3, 7"):
        Moments("full").load_state_dict(moments.state_dict())

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.covariance import oas
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from captum_deduce.density.class_gaussian_mixture import ClassGaussianMixture
from captum_deduce.density.moments import COVARIANCE_TYPES
from tests.reference import Array, class_covariances, log_density

C, D = 3, 6


def data(n: int = 150, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(D, D, dtype=torch.float64, generator=generator) + 2 * torch.eye(D)
    features = torch.randn(n, D, dtype=torch.float64, generator=generator) @ mixing + 30
    weight = torch.rand(n, dtype=torch.float64, generator=generator) + 0.2
    return features, torch.arange(n) % C, weight


def equal_up_to_rounding(first: ClassGaussianMixture, second: ClassGaussianMixture) -> None:
    torch.testing.assert_close(first.means, second.means, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(first.covariances, second.covariances, rtol=1e-10, atol=1e-10)
    assert torch.equal(first.counts, second.counts)


# --- fit, partial_fit, merge ---


def test_a_fit_equals_numpy():
    features, labels, weight = data()
    for own in (None, weight):
        density = ClassGaussianMixture().fit(features, labels, own)
        for c in range(C):
            rows = (labels == c).numpy()
            aweights = None if own is None else own.numpy()[rows]
            expected = np.cov(features.numpy()[rows].T, ddof=1, aweights=aweights)
            difference = np.linalg.norm(density.covariances[c].numpy() - expected)
            assert difference < 1e-10 * np.linalg.norm(expected)
            mean = np.average(features.numpy()[rows], axis=0, weights=aweights)
            np.testing.assert_allclose(density.means[c], mean, rtol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_batches_and_merges_equal_one_fit(covariance_type, weighted):
    features, labels, weight = data()
    weights = weight if weighted else torch.ones_like(weight)
    whole = ClassGaussianMixture(covariance_type).fit(
        features, labels, weights if weighted else None
    )
    batches, parts = ClassGaussianMixture(covariance_type), []
    for rows in torch.randperm(len(features)).split(17):
        own = weight[rows] if weighted else None
        batches.partial_fit(features[rows], labels[rows], own)
        parts.append(
            ClassGaussianMixture(covariance_type).partial_fit(features[rows], labels[rows], own)
        )
    merged = ClassGaussianMixture(covariance_type)
    for part in parts:
        assert merged.merge(part) is merged
    means, covariances = class_covariances(
        features.numpy(), labels.numpy(), weights.numpy(), covariance_type
    )
    for density in (whole, batches, merged):
        equal_up_to_rounding(density, whole)
        expected = [log_density(z.numpy(), means[1], covariances[1]) for z in features[:20]]
        np.testing.assert_allclose(density.log_prob(features[:20], 1), expected, rtol=1e-10)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_soft_labels_of_one_and_zero_are_labels(covariance_type):
    features, labels, weight = data()
    hard = ClassGaussianMixture(covariance_type).fit(features, labels, weight)
    for soft in (torch.eye(C), torch.eye(C).double(), torch.eye(C, dtype=torch.bool)):
        density = ClassGaussianMixture(covariance_type).fit(features, soft[labels], weight)
        equal_up_to_rounding(density, hard)


def test_a_column_of_labels_is_labels():
    features, labels, _ = data()
    column = ClassGaussianMixture().fit(features, labels.unsqueeze(1))
    row = ClassGaussianMixture().fit(features, labels)
    equal_up_to_rounding(column, row)
    assert torch.equal(column.quantile(0.2), row.quantile(0.2))


def test_soft_labels_and_weights_multiply():
    features, _, weight = data()
    soft = torch.softmax(torch.randn(len(features), C, dtype=torch.float64), 1)
    density = ClassGaussianMixture().fit(features, soft, weight)
    for c in range(C):
        expected = np.cov(features.numpy().T, aweights=(soft[:, c] * weight).numpy())
        np.testing.assert_allclose(density.covariances[c], expected, rtol=1e-10)


def test_the_scale_of_weights_within_a_class_does_not_matter():
    features, labels, weight = data()
    first = ClassGaussianMixture().fit(features, labels, weight)
    second = ClassGaussianMixture().fit(features, labels, weight * (labels + 0.01) * 1e6)
    equal_up_to_rounding(first, second)


def test_a_fit_starts_afresh_and_a_partial_fit_goes_on():
    features, labels, _ = data()
    density = ClassGaussianMixture().fit(features[:90, :4], labels[:90])
    assert density.fit(features, labels) is density
    equal_up_to_rounding(density, ClassGaussianMixture().fit(features, labels))
    assert density.partial_fit(features, labels) is density
    assert density.counts.tolist() == [100] * C


def test_classes_are_added_as_they_come():
    features, labels, _ = data()
    density = ClassGaussianMixture()
    for c in (1, 0, 2):
        density.partial_fit(features[labels == c], labels[labels == c])
        assert density.num_classes == max(c + 1, density.num_classes)
    equal_up_to_rounding(density, ClassGaussianMixture().fit(features, labels))
    small = ClassGaussianMixture().fit(features[labels == 0], labels[labels == 0])
    both = small.merge(ClassGaussianMixture().fit(features[labels > 0], labels[labels > 0]))
    equal_up_to_rounding(both, density)


def test_the_state_does_not_grow_with_the_samples():
    features, labels, _ = data()
    density = ClassGaussianMixture().partial_fit(features, labels)
    before = {name: buffer.shape for name, buffer in density.named_buffers()}
    for seed in range(10):
        density.partial_fit(*data(seed=seed)[:2])
    assert {name: buffer.shape for name, buffer in density.named_buffers()} == before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_features_of_any_precision_are_fitted_in_double(dtype):
    features, labels, _ = data()
    rounded = features.to(dtype)
    density = ClassGaussianMixture().fit(rounded, labels)
    equal_up_to_rounding(density, ClassGaussianMixture().fit(rounded.double(), labels))


def test_what_cannot_be_fitted_leaves_the_fit_as_it_was():
    features, labels, weight = data()
    density = ClassGaussianMixture(num_classes=C).fit(features, labels)
    expected, quantile = density.log_probs(features), density.quantile(0.1)
    broken = features.clone()
    broken[-1, -1] = torch.inf
    for arguments in (
        (broken, labels),
        (features, labels + 1),
        (features, labels[:-1]),
        (features, labels, -weight),
        (features, torch.eye(C + 1)[labels]),
    ):
        for method in (density.fit, density.partial_fit):
            with pytest.raises(ValueError, match=r"features|target|sample_weight"):
                method(*arguments)
    for nothing in ((features, labels, 0 * weight), (features, torch.zeros(len(labels), C))):
        with pytest.raises(ValueError, match="sample_weight or responsibilities must not all be 0"):
            density.fit(*nothing)
    with pytest.raises(ValueError, match=r"features must have the shape N x 6, .* got \(150, 5\)"):
        density.partial_fit(features[:, :5], labels)
    assert torch.equal(density.log_probs(features), expected)
    assert torch.equal(density.quantile(0.1), quantile)


def test_what_cannot_be_merged_is_refused():
    features, labels, _ = data()
    density = ClassGaussianMixture(num_classes=C).fit(features, labels)
    for other, error, message in (
        ("density", TypeError, "other must be a ClassGaussianMixture, got str"),
        (
            ClassGaussianMixture("diag").fit(features, labels),
            ValueError,
            "other must have covariance_type 'auto', got 'diag'",
        ),
        (
            ClassGaussianMixture().fit(features[:, :5], labels),
            ValueError,
            "other must have 6 features, got 5",
        ),
        (
            ClassGaussianMixture(num_classes=C + 1).fit(features, labels),
            ValueError,
            "other has 4 classes, more than num_classes=3",
        ),
    ):
        with pytest.raises(error, match=message):
            density.merge(other)
    equal_up_to_rounding(density.merge(ClassGaussianMixture()), density)
    assert density.counts.sum() == len(labels)


def test_few_samples_warn_with_the_name_of_the_class():
    features, labels, _ = data()
    keep = (labels != 2) | (torch.arange(len(labels)) < 12)
    density = ClassGaussianMixture("full", regularization="jitter")
    with pytest.warns(
        UserWarning, match=r"class 2 \(4 samples\): regularised by a jitter of 1e-10"
    ):
        density.fit(features[keep], labels[keep])
    assert density.regularization_used.tolist() == [0, 0, 1e-10]


def test_oas_is_scikit_learns():
    features, labels, _ = data(30)
    density = ClassGaussianMixture(regularization="oas").fit(features, labels)
    for c in range(C):
        expected, shrinkage = oas(features[labels == c].numpy())
        np.testing.assert_allclose(density.covariances[c], expected, rtol=1e-10)
        assert density.regularization_used[c].item() == pytest.approx(shrinkage)


# --- fit_loader ---


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, D),
        nn.Linear(D, C),
    )


def loader(target: Tensor | None = None, n: int = 120, seed: int = 0) -> DataLoader:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(n, 1, 6, 6, generator=generator)
    target = torch.arange(n) % C if target is None else target
    return DataLoader(TensorDataset(images, target), 32, shuffle=True)


def features_of(model: nn.Sequential, batches: DataLoader) -> Tensor:
    model.eval()
    with torch.no_grad():
        return model[:5](batches.dataset.tensors[0])


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_a_loader_is_fitted_as_its_features_would_be(covariance_type, by_name):
    model, batches = network(), loader()
    layer = "4" if by_name else model[4]
    found = ClassGaussianMixture.fit_loader(model, layer, batches, covariance_type=covariance_type)
    expected = ClassGaussianMixture(covariance_type)
    expected.fit(features_of(model, batches), batches.dataset.tensors[1])
    torch.testing.assert_close(found.covariances, expected.covariances, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.means, expected.means, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.quantile(0.2), expected.quantile(0.2), rtol=1e-3, atol=1e-3)
    assert found.counts.tolist() == [40] * C


def test_the_model_is_left_as_it_was_and_its_batch_norm_unmoved():
    model, batches = network(), loader()
    model[0].eval()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    ClassGaussianMixture.fit_loader(model, model[4], batches)

    def failing() -> Iterator[tuple[Tensor, Tensor]]:
        yield next(iter(batches))
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        ClassGaussianMixture.fit_loader(model, model[4], failing(), quantiles=False)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model[4]._forward_hooks


def test_soft_labels_come_from_a_loader_too():
    model = network()
    soft = torch.softmax(torch.randn(120, C), 1)
    batches = loader(soft)
    density = ClassGaussianMixture.fit_loader(model, model[4], batches)
    expected = ClassGaussianMixture().fit(features_of(model, batches), soft)
    torch.testing.assert_close(density.covariances, expected.covariances, rtol=1e-4, atol=1e-6)
    with pytest.raises(RuntimeError, match="soft labels"):
        density.quantile(0.5)


@pytest.mark.parametrize("soft", [False, True])
def test_quantiles_of_a_held_out_loader(soft):
    model, held_out = network(), loader(n=60, seed=5)
    batches = loader(torch.rand(120, C) if soft else None)
    density = ClassGaussianMixture.fit_loader(
        model, model[4], iter(batches), held_out_loader=iter(held_out)
    )
    labels = held_out.dataset.tensors[1]
    log_prob = density.log_prob(features_of(model, held_out), labels)
    expected = [np.quantile(log_prob[labels == c], 0.25) for c in range(C)]
    np.testing.assert_allclose(density.quantile(0.25), expected, rtol=1e-4)


class Augmented:
    """A loader that yields other images in each pass; it remembers what it has yielded."""

    def __init__(self, n: int = 120, noise: float = 0.3, batch_size: int = 32) -> None:
        self.images, self.labels = loader(n=n).dataset.tensors
        self.noise, self.batch_size, self.passes = noise, batch_size, 0
        self.generator = torch.Generator().manual_seed(2)
        self.seen: list[tuple[Tensor, Tensor]] = []

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.passes += 1
        order = torch.randperm(len(self.labels), generator=self.generator)
        for rows in order.split(self.batch_size):
            noise = torch.randn(self.images[rows].shape, generator=self.generator)
            self.seen.append((self.images[rows] + self.noise * noise, self.labels[rows]))
            yield self.seen[-1]


class Dropping(Augmented):
    """The same images in each pass but for the last batch, which is dropped."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in super().__iter__():
            if len(labels) == self.batch_size:
                yield images, labels
            else:
                self.seen.pop()


def refitted_without_each(model: nn.Sequential, seen: list[tuple[Tensor, Tensor]]) -> list[Array]:
    """Log-densities of each class's images, each under a fit without it."""
    images, labels = (torch.cat(parts) for parts in zip(*seen, strict=True))
    with torch.no_grad():
        features = model.eval()[:5](images).double().numpy()
    values: list[list[float]] = [[] for _ in range(C)]
    for i, own in enumerate(labels.tolist()):
        rest, others = np.delete(features, i, axis=0), np.delete(labels.numpy(), i)
        means, covariances = class_covariances(rest, others, np.ones(len(rest)), "full")
        values[own].append(log_density(features[i], means[own], covariances[own]))
    return [np.array(part) for part in values]


@pytest.mark.parametrize("kind", [Augmented, Dropping])
@pytest.mark.parametrize("once", [False, True])
def test_quantiles_are_of_the_images_that_were_fitted(kind, once):
    noise = 0.3 if kind is Augmented else 0.0
    model, batches = network(), kind(noise=noise)
    density = ClassGaussianMixture.fit_loader(model, "4", iter(batches) if once else batches)
    assert batches.passes == 1
    assert density.counts.sum() == (120 if kind is Augmented else 96)
    expected = refitted_without_each(model, batches.seen)
    for q in (0.0, 0.05, 0.5):
        np.testing.assert_allclose(
            density.quantile(q), [np.quantile(part, q) for part in expected], rtol=1e-6
        )


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("n", [120, 32 * 90])
@pytest.mark.parametrize("kind", [Augmented, Dropping])
def test_a_second_pass_that_differs_is_refused(kind, n, covariance_type):
    noise = 0.3 if kind is Augmented else 0.0
    batches = kind(n + 20, noise)
    with pytest.raises(ValueError, match=r"not those that were fitted: .* memory_budget, .* held_"):
        ClassGaussianMixture.fit_loader(
            network(), "4", batches, memory_budget=1000, covariance_type=covariance_type
        )
    assert batches.passes == 2


def test_a_second_pass_that_misses_images_is_refused():
    batches = [(part, labels) for part, labels in loader(n=128)]
    shorter = iter([batches, batches[:-1]])

    class Shorter:
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            return iter(next(shorter))

    with pytest.raises(ValueError, match=r"class\(es\) \[.*\] has fewer samples than in the fit"):
        ClassGaussianMixture.fit_loader(network(), "4", Shorter(), memory_budget=0)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_a_second_pass_is_made_beyond_the_memory_budget_only(covariance_type):
    model, batches = network(), Augmented(noise=0.0)
    size = 120 * (D * 4 + 8)
    kinds = {"covariance_type": covariance_type}
    kept = ClassGaussianMixture.fit_loader(model, "4", batches, memory_budget=size, **kinds)
    assert batches.passes == 1
    again = ClassGaussianMixture.fit_loader(model, "4", batches, memory_budget=size - 1, **kinds)
    assert batches.passes == 3
    for q in (0.0, 0.1, 0.7):
        torch.testing.assert_close(again.quantile(q), kept.quantile(q), rtol=1e-4, atol=1e-4)
    ClassGaussianMixture.fit_loader(model, "4", batches, quantiles=False, memory_budget=0, **kinds)
    assert batches.passes == 4
    with pytest.raises(TypeError, match=r"second pass .* memory_budget=1,000 bytes; got generator"):
        ClassGaussianMixture.fit_loader(model, "4", iter(batches), memory_budget=1000, **kinds)
    for wrong in (-1, 0.5):
        with pytest.raises((TypeError, ValueError), match="memory_budget must be"):
            ClassGaussianMixture.fit_loader(model, "4", batches, memory_budget=wrong)


def test_classes_are_those_of_the_model():
    model = nn.Sequential(*network()[:5], nn.Linear(D, 50))
    density = ClassGaussianMixture.fit_loader(model, "4", loader())
    assert density.num_classes == 50
    assert density.fitted_classes.tolist() == [True] * C + [False] * (50 - C)
    assert density.quantile(0.1)[C:].isnan().all()
    # and no memory is spent on those without images
    assert sorted(density.moments.classes.matrices) == list(range(C))
    assert density._derived().whitening.shape == (C, D, D)
    beyond = loader(torch.arange(120) % C + 48)
    with pytest.raises(ValueError, match=r"0 \.\.\. 49 \(num_classes=50; .* model's .*, got 50"):
        ClassGaussianMixture.fit_loader(model, "4", beyond)
    more = ClassGaussianMixture.fit_loader(model, "4", beyond, num_classes=60)
    assert more.num_classes == 60


def test_a_column_of_labels_comes_from_a_loader_too():
    model, labels = network(), (torch.arange(120) % C).to(torch.uint8)
    column = ClassGaussianMixture.fit_loader(model, "4", loader(labels.unsqueeze(1)))
    assert column.counts.tolist() == [40] * C
    assert torch.isfinite(column.quantile(0.5)).all()
    with pytest.raises(TypeError, match=r"got torch.int64 of shape \(32, 3\)"):
        ClassGaussianMixture.fit_loader(model, "4", loader(torch.eye(C).long()[labels.long()]))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("full", r"a 'full' covariance of 6 features takes 0\.0 GiB for each class"),
        ("tied", r"a 'tied' covariance of 6 features takes 0\.0 GiB, .*covariance_type='diag'"),
        ("low_rank", r"a 'low_rank' covariance of 6 features takes 0\.0 GiB, .*"),
        ("auto", r"a 'tied' covariance of 6 features takes 0\.0 GiB, .*covariance_type='diag'"),
        ("diag", None),
    ],
)
def test_features_that_need_large_matrices_are_warned_of(monkeypatch, kind, message):
    monkeypatch.setattr("captum_deduce.density.class_gaussian_mixture._MOST_FEATURES", 5)
    features, labels = torch.randn(40, 6), torch.arange(40) % 2
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ClassGaussianMixture(kind).partial_fit(features, labels)
        ClassGaussianMixture(kind).partial_fit(features[:, :5], labels)
    assert len(caught) == (message is not None)
    assert message is None or re.match(message, str(caught[0].message))


def test_a_layer_outside_the_model_is_refused():
    with pytest.raises(ValueError, match="layer"):
        ClassGaussianMixture.fit_loader(network(), nn.Linear(2, 2), loader())


def test_too_few_images_warn_when_a_loader_is_fitted():
    model = network()
    with pytest.warns(UserWarning, match="class 0 .* regularised"):
        ClassGaussianMixture.fit_loader(
            model, model[4], loader(n=12), quantiles=False, covariance_type="full"
        )


def test_a_progress_bar_is_shown_if_asked_for(capsys):
    model, batches = network(), loader()
    ClassGaussianMixture.fit_loader(model, model[4], batches)
    assert "features" not in capsys.readouterr().err
    ClassGaussianMixture.fit_loader(model, model[4], batches, show_progress=True)
    assert "features of loader: 100%" in capsys.readouterr().err

from __future__ import annotations

import copy
import threading
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import multivariate_normal
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from captum_deduce.density.class_gaussian_mixture import ClassGaussianMixture
from captum_deduce.density.moments import COVARIANCE_TYPES

C, D = 4, 5


def data(n: int = 160, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(C, D, D, dtype=torch.float64, generator=generator)
    labels = torch.arange(n) % C
    noise = torch.randn(n, 1, D, dtype=torch.float64, generator=generator)
    features = (noise @ mixing[labels]).squeeze(1) + labels.unsqueeze(1)
    return features.to(dtype), labels


def fitted(covariance_type: str = "full", **arguments) -> ClassGaussianMixture:
    return ClassGaussianMixture(covariance_type, **arguments).fit(*data())


def scipys(density: ClassGaussianMixture, features: Tensor) -> Tensor:
    """N x C log-densities by scipy, from the public means and covariances."""
    columns = []
    for c in range(density.num_classes):
        covariance = density.covariances
        if density.covariance_type != "tied":
            covariance = covariance[c]
        covariance = covariance.numpy() if covariance.dim() else covariance.item()
        mean = density.means[c].numpy()
        columns.append(multivariate_normal(mean, covariance).logpdf(features.numpy()))
    return torch.from_numpy(np.stack(columns, 1))


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_densities_agree_with_scipys(covariance_type):
    density, (features, labels) = fitted(covariance_type), data()
    expected = scipys(density, features)
    log_probs = density.log_probs(features)
    torch.testing.assert_close(log_probs, expected, rtol=1e-9, atol=1e-9)
    own = density.log_prob(features, labels)
    torch.testing.assert_close(
        own, expected[torch.arange(len(labels)), labels], rtol=1e-9, atol=1e-9
    )
    whole = torch.log(expected.exp().mean(1))
    torch.testing.assert_close(density.log_density(features), whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_any_order_and_any_form_of_targets(covariance_type):
    density, (features, _) = fitted(covariance_type), data()
    expected = density.log_probs(features)
    target = torch.randint(C, (len(features),), generator=torch.Generator().manual_seed(1))
    for given in (target, target.tolist(), target.int(), target.numpy()):
        found = density.log_prob(features, given)
        torch.testing.assert_close(found, expected[torch.arange(len(target)), target])
    for given in (2, torch.tensor(2), torch.tensor([2]), [2]):
        torch.testing.assert_close(density.log_prob(features, given), expected[:, 2])
    assert density.log_prob(features[:0], target[:0]).shape == (0,)
    assert density.log_probs(features[:0]).shape == (0, C)


def test_only_the_targets_class_is_evaluated(monkeypatch):
    density, (features, _) = fitted(), data()
    evaluated = []
    original = type(density._gaussians).log_prob

    def spy(self, projected, component):
        evaluated.append((component, len(projected)))
        return original(self, projected, component)

    monkeypatch.setattr(type(density._gaussians), "log_prob", spy)
    chosen = torch.tensor([3, 1, 1, 3, 1])
    density.log_prob(features[:5], chosen)
    assert evaluated == [(1, 3), (3, 2)]


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that an operation returns."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                self.size = max(self.size, tensor.numel())
        return result


def test_nothing_of_n_times_d_times_d_is_made():
    width, count = 48, 400
    features = torch.randn(count, width, dtype=torch.float64).requires_grad_()
    labels = torch.arange(count) % 2
    density = ClassGaussianMixture().fit(features, labels, quantiles=False)
    with Largest() as largest:
        log_prob = density.log_prob(features, labels)
        torch.autograd.grad(log_prob.sum(), features)
    assert count * width <= largest.size < 2 * count * width


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_gradients(covariance_type):
    density, (features, labels) = fitted(covariance_type), data()
    inputs = features[:6].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: density.log_prob(z, labels[:6]), inputs)
    assert torch.autograd.gradcheck(density.log_probs, inputs)
    assert torch.autograd.gradcheck(density.log_density, inputs)
    assert torch.autograd.gradgradcheck(lambda z: density.log_prob(z, labels[:6]), inputs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_lower_precision_is_raised_for_values_and_kept_for_gradients(dtype):
    density, (features, labels) = fitted(), data(dtype=dtype)
    inputs = features.clone().requires_grad_()
    log_prob = density.log_prob(inputs, labels)
    assert log_prob.dtype == torch.float64
    torch.testing.assert_close(log_prob, density.log_prob(features.double(), labels))
    (gradient,) = torch.autograd.grad(log_prob.sum(), inputs)
    assert gradient.dtype == dtype
    assert gradient.abs().sum() > 0


def test_a_row_that_is_not_finite_concerns_no_other():
    density, (features, labels) = fitted(), data()
    expected = density.log_prob(features, labels)
    features[3, 1] = torch.nan
    found = density.log_prob(features, labels)
    assert torch.isnan(found[3])
    others = torch.arange(len(labels)) != 3
    torch.testing.assert_close(found[others], expected[others])


def test_classes_without_samples():
    features, labels = data()
    keep = labels != 1
    density = ClassGaussianMixture(num_classes=C + 1).fit(features[keep], labels[keep])
    seen = ClassGaussianMixture().fit(features[keep], torch.tensor([0, -1, 1, 2])[labels[keep]])
    log_probs = density.log_probs(features)
    assert (log_probs[:, [1, 4]] == -torch.inf).all()
    torch.testing.assert_close(log_probs[:, [0, 2, 3]], seen.log_probs(features))
    assert density.fitted_classes.tolist() == [True, False, True, True, False]
    assert density.covariances.shape == (5, D, D)
    torch.testing.assert_close(density.covariances[[0, 2, 3]], seen.covariances)
    assert density.covariances[[1, 4]].isnan().all()
    # classes without samples have no share in the mixture
    torch.testing.assert_close(density.log_density(features), seen.log_density(features))
    inputs = features[:3].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(density.log_density(inputs).sum(), inputs)
    assert torch.isfinite(gradient).all()
    with pytest.raises(ValueError, match=r"target names class\(es\) \[1, 4\] that .* no samples"):
        density.log_prob(features[:4], [0, 1, 4, 1])
    assert torch.isnan(density.means[[1, 4]]).all()
    assert torch.isnan(density.covariances[[1, 4]]).all()
    assert density.regularization_used.isnan().tolist() == [False, True, False, False, True]
    assert density.quantile(0.5).isnan().tolist() == [False, True, False, False, True]
    assert density.counts.tolist() == [40, 0, 40, 40, 0]


@pytest.mark.parametrize(
    ("features", "target", "error", "message"),
    [
        (torch.zeros(2, D).long(), [0, 1], TypeError, "features must be floating-point"),
        (torch.zeros(2, D).tolist(), [0, 1], TypeError, "features must be a torch.Tensor"),
        (torch.zeros(D), [0], ValueError, r"features must have the shape N x 5.* got \(5,\)|N x D"),
        (torch.zeros(2, 3), [0, 1], ValueError, r"features must have the shape N x 5.* \(2, 3\)"),
        (torch.zeros(2, D), [0, 4], ValueError, r"target must lie in 0 \.\.\. 3 .* got 4"),
        (torch.zeros(2, D), [-1, 1], ValueError, r"target must lie in 0 \.\.\. 3 .* got -1"),
        (torch.zeros(2, D), [0, 1, 2], ValueError, r"target must be one class .*\(2\), got .*\(3,"),
        (torch.zeros(2, D), torch.zeros(2), TypeError, "target must hold integers"),
        (torch.zeros(2, D), "cat", TypeError, "target must be an int"),
        (torch.zeros(2, D, device="meta"), [0, 1], ValueError, "features are on meta, .* on cpu"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(features, target, error, message):
    with pytest.raises(error, match=message):
        fitted().log_prob(features, target)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"covariance_type": "ful"},
            ValueError,
            "covariance_type must be one of 'auto', 'full', 'low_rank', ",
        ),
        ({"regularization": "ridge"}, ValueError, "regularization must be one of 'jitter', 'oas'"),
        (
            {"covariance_type": "diag", "regularization": "oas"},
            ValueError,
            "covariance_type must be 'auto', 'full', 'low_rank' or 'tied', got 'diag'",
        ),
        ({"num_classes": 0}, ValueError, "num_classes must be"),
        ({"num_classes": 2.0}, TypeError, "num_classes must be an int"),
    ],
)
def test_arguments_that_make_no_density_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        ClassGaussianMixture(**arguments)


@pytest.mark.parametrize(
    "use",
    [
        lambda d: d.log_prob(torch.zeros(1, D), 0),
        lambda d: d.log_probs(torch.zeros(1, D)),
        lambda d: d.log_density(torch.zeros(1, D)),
        lambda d: d.covariances,
        lambda d: d.regularization_used,
    ],
)
def test_what_is_not_fitted_says_so(use):
    with pytest.raises(RuntimeError, match="not fitted; call fit, partial_fit, fit_loader or load"):
        use(ClassGaussianMixture())
    weightless = ClassGaussianMixture().partial_fit(*data(), torch.zeros(160))
    with pytest.raises(RuntimeError, match="not fitted"):
        use(weightless)


@pytest.mark.parametrize(
    "convert", [nn.Module.half, nn.Module.float, lambda m: m.to(torch.float32)]
)
def test_precision_survives_conversions(convert):
    density, (features, labels) = fitted(), data()
    expected, quantiles = density.log_prob(features, labels), density.quantile(0.3)
    convert(nn.Sequential(density))
    assert torch.equal(density.log_prob(features, labels), expected)
    assert torch.equal(density.quantile(0.3), quantiles)
    density.partial_fit(features, labels)
    assert all(b.dtype in (torch.float64, torch.int64) for b in density.buffers())


def same(first: ClassGaussianMixture, second: ClassGaussianMixture) -> bool:
    features, labels = data()
    results = [
        (
            density.log_prob(features, labels),
            density.regularization_used,
            density.quantile(0.1),
            density.counts.double(),
        )
        for density in (first, second)
    ]
    equal = (torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(*results, strict=True))
    return repr(first) == repr(second) and all(equal)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_state_dicts_files_and_copies_hold_everything(covariance_type, tmp_path):
    density = fitted(covariance_type)
    fresh = ClassGaussianMixture(covariance_type)
    fresh.load_state_dict(density.state_dict())
    density.save(tmp_path / "density.safetensors")
    loaded = ClassGaussianMixture.load(tmp_path / "density.safetensors")
    for other in (fresh, copy.deepcopy(density), loaded):
        assert same(density, other)
    features, labels = data(80)
    assert same(
        *(
            d.partial_fit(features + 1, labels).update_quantiles(features + 1, labels)
            for d in (density, loaded)
        )
    )
    assert not same(density, fresh)


def test_the_regularisation_is_part_of_the_state(tmp_path):
    density = fitted(regularization="oas", num_classes=C + 2)
    path = tmp_path / "density.safetensors"
    density.save(path)
    fresh = ClassGaussianMixture()
    fresh.load_state_dict(density.state_dict())
    for other in (fresh, ClassGaussianMixture.load(str(path))):
        assert same(density, other)
        assert other.regularization == "oas"
        with pytest.raises(ValueError, match="num_classes=6"):
            other.partial_fit(torch.zeros(1, D), torch.tensor([6]))


def test_a_state_dict_replaces_what_was_fitted():
    density, other = fitted("diag"), ClassGaussianMixture("diag")
    other.fit(torch.randn(50, 3), torch.zeros(50).long())
    other.load_state_dict(density.state_dict())
    assert same(density, other)
    density.load_state_dict(ClassGaussianMixture("diag").state_dict())
    with pytest.raises(RuntimeError, match="not fitted"):
        density.log_probs(torch.zeros(1, D))


def test_a_density_is_part_of_the_state_of_a_larger_module():
    density = fitted()
    model, fresh = (nn.ModuleDict({"density": d}) for d in (density, ClassGaussianMixture()))
    fresh.load_state_dict(model.state_dict())
    assert same(density, fresh["density"])


def test_states_of_before_there_was_a_choice_are_full_ones():
    density = ClassGaussianMixture("full").fit(*data())
    state = density.state_dict()
    del state["moments.scatter_class"]
    state["_extra_state"][0] %= 64
    for fresh in (ClassGaussianMixture("full"), ClassGaussianMixture()):
        fresh.load_state_dict(state)
        assert same(density, fresh)


def test_files_hold_plain_tensors_in_double_precision(tmp_path):
    fitted().save(tmp_path / "density.safetensors")
    tensors = load_file(tmp_path / "density.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.float64, torch.int64}
    assert tensors["moments.scatter"].shape == (C, D, D)


def test_broken_and_foreign_files_are_named(tmp_path):
    path = tmp_path / "density.safetensors"
    fitted().save(path)
    whole = path.read_bytes()
    for content in (b"", whole[:5], whole[:100], whole[:-1], b"PK\x03\x04" + whole, b"\0" * 64):
        broken = tmp_path / "broken.safetensors"
        broken.write_bytes(content)
        with pytest.raises(ValueError, match=r"broken\.safetensors is truncated or not"):
            ClassGaussianMixture.load(broken)
    foreign = tmp_path / "foreign.safetensors"
    tensors = load_file(path)
    metadata = {"format": "captum-deduce density", "format_version": "1", "covariance_type": "full"}
    for wrong in ({}, metadata | {"format_version": "2"}, metadata | {"format": "other"}):
        save_file(tensors, foreign, wrong or None)
        with pytest.raises(ValueError, match=r"foreign\.safetensors is not a density that"):
            ClassGaussianMixture.load(foreign)
    incomplete = {name: value for name, value in tensors.items() if name != "moments.mean"}
    for content, about in (
        (incomplete, metadata),
        (tensors | {"moments.extra": torch.ones(1)}, metadata),
        (tensors, metadata | {"covariance_type": "diag"}),
        (tensors, metadata | {"covariance_type": "other"}),
        (tensors, {k: v for k, v in metadata.items() if k != "covariance_type"}),
        (tensors | {"_extra_state": torch.tensor([9, 0])}, metadata),
    ):
        save_file(content, foreign, about)
        with pytest.raises(ValueError, match=r"foreign\.safetensors holds no complete density"):
            ClassGaussianMixture.load(foreign)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ClassGaussianMixture.load(tmp_path / "nowhere")


def test_a_density_of_inference_mode_can_be_differentiated():
    features, labels = data()
    with torch.inference_mode():
        inferred = features * 1.0
        within = ClassGaussianMixture().fit(inferred, labels)
        lazily = ClassGaussianMixture().partial_fit(inferred, labels)
        expected = lazily.log_prob(inferred, labels)
    outside = ClassGaussianMixture().fit(inferred, labels)
    for density in (within, lazily, outside):
        inputs = features.clone().requires_grad_()
        log_prob = density.log_prob(inputs, labels)
        torch.testing.assert_close(log_prob.detach(), expected)
        torch.autograd.grad(log_prob.sum(), inputs)
        density.partial_fit(features, labels)
        assert density.counts.sum() == 2 * len(labels)


def test_fitting_records_no_gradients():
    features, labels = data()
    density = ClassGaussianMixture().fit(features.clone().requires_grad_(), labels)
    assert not any(buffer.requires_grad for buffer in density.buffers())
    assert not density.quantile(0.5).requires_grad


def test_several_threads_may_be_the_first_to_evaluate():
    features, labels = data()
    expected = fitted().log_prob(features, labels)
    density, found, start = (
        ClassGaussianMixture().partial_fit(features, labels),
        [],
        threading.Barrier(8),
    )

    def evaluate() -> None:
        start.wait()
        found.append(density.log_prob(features, labels))

    threads = [threading.Thread(target=evaluate) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    for values in found:
        torch.testing.assert_close(values, expected)


def test_repr_says_what_was_fitted():
    assert repr(ClassGaussianMixture("tied")) == (
        "ClassGaussianMixture(covariance_type='tied', not fitted)"
    )
    features, labels = data()
    density = ClassGaussianMixture(regularization="oas").fit(features[:-2], labels[:-2])
    assert repr(density) == (
        "ClassGaussianMixture(covariance_type='auto', chosen_covariance_type='full', "
        "regularization='oas', classes=4, features=5, counts=39..40)"
    )


def test_warnings_come_once_until_the_data_change():
    features, labels = data(C * 3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        density = ClassGaussianMixture().partial_fit(features, labels)
        assert not caught
        density.log_probs(features)
        density.half().log_density(features)
        assert len(caught) == 1
        density.partial_fit(features, labels).log_probs(features)
        assert len(caught) == 2

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from captum_deduce.density import doubts
from captum_deduce.density.class_gaussian_mixture import ClassGaussianMixture
from captum_deduce.density.estimation import estimate
from captum_deduce.density.moments import COVARIANCE_TYPES, Moments
from captum_deduce.density.samples import Samples

C, D = 3, 8


def data(n: int = 300, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(D, D, dtype=torch.float64, generator=generator)
    features = torch.randn(n, D, dtype=torch.float64, generator=generator) @ mixing
    return features, torch.arange(n) % C


def test_the_expected_log_density_is_the_negative_entropy():
    features, labels = data()
    for covariance_type in COVARIANCE_TYPES:
        moments = Moments(covariance_type, C, D)
        moments.add(Samples(features, labels, None))
        gaussians = estimate(moments, torch.arange(C), "jitter")
        found = doubts.expected_log_density(gaussians, D)
        covariances = gaussians.covariances(moments).numpy()
        for c in range(C):
            covariance = covariances if covariance_type == "tied" else covariances[c]
            if covariance_type == "spherical":
                covariance = covariance * np.ones(D)
            entropy = stats.multivariate_normal(np.zeros(D), covariance).entropy()
            assert found[c].item() == pytest.approx(-entropy)


def single_spikes(count: int = 60):
    """100 samples of each class; in class 1 most features vary in single samples only."""
    generator = torch.Generator().manual_seed(3)
    width, labels = 64, torch.arange(300) % C
    features = torch.randn(300, width, dtype=torch.float64, generator=generator)
    own = (labels == 1).nonzero().flatten()
    features[own[:, None], torch.arange(count)] = 1e-3 * features[own[:, None], torch.arange(count)]
    features[own[:count], torch.arange(count)] += 10
    return features, labels


def test_a_class_that_its_own_samples_surprise_is_named_with_figures():
    features, labels = single_spikes()
    with pytest.warns(UserWarning, match="says little") as caught:
        density = ClassGaussianMixture(regularization="jitter").fit(features, labels)
    assert len(caught) == 1
    message = str(caught[0].message)
    lowest, expected = (
        density.quantile(0.05)[1],
        doubts.expected_log_density(density._derived(), 64),
    )
    assert f"class 1 (100 samples) {lowest:,.0f}, expected {expected[1]:,.0f}" in message
    assert "class 0" not in message
    assert message.endswith("regularization='oas', covariance_type='tied' or more samples help")
    assert lowest < -1000
    assert density.doubtful_classes == [1]
    # the figures come from the state, so a copy that was stored knows them, too
    restored = ClassGaussianMixture(regularization="jitter")
    restored.load_state_dict(density.state_dict())
    assert restored.doubtful_classes == [1]
    # in batches it is said when all samples have come
    batches = ClassGaussianMixture().partial_fit(features, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batches.update_quantiles(features[:200], labels[:200])
    with pytest.warns(UserWarning, match=r"class 1 \(100 samples\)"):
        batches.update_quantiles(features[200:], labels[200:])


@pytest.mark.parametrize("arguments", [{"regularization": "oas"}, {"covariance_type": "tied"}])
def test_after_the_remedy_there_is_no_warning(arguments):
    features, labels = single_spikes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        density = ClassGaussianMixture(**arguments).fit(features, labels)
    assert density.doubtful_classes == []
    assert density.quantile(0.05).min() > -1000


@pytest.mark.parametrize("covariance_type", ["diag", "spherical"])
def test_variances_have_their_own_remedy(covariance_type):
    features, labels = torch.zeros(60, D).double(), torch.zeros(60).long()
    features[torch.arange(D), torch.arange(D)] = 1.0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        density = ClassGaussianMixture(covariance_type).fit(features, labels)
    assert density.doubtful_classes == ([0] if covariance_type == "diag" else [])
    assert len(caught) == len(density.doubtful_classes)
    assert all(str(w.message).endswith("with regularization='oas' helps") for w in caught)


@pytest.mark.parametrize("n", [100, 130, 640])
def test_normal_samples_give_no_warning(n):
    """Not even 100 of them for 64 features: their quantiles are low, but calibrated."""
    generator = torch.Generator().manual_seed(n)
    features = torch.randn(n, 64, dtype=torch.float64, generator=generator)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        density = ClassGaussianMixture().fit(features, torch.zeros(n).long())
    assert density.doubtful_classes == []


def test_what_was_regularised_is_doubtful_and_named_once():
    features, labels = data(15)
    with pytest.warns(UserWarning, match="regularised by a jitter") as caught:
        density = ClassGaussianMixture("full", num_classes=C + 1, regularization="jitter").fit(
            features, labels
        )
    assert len(caught) == 1
    assert density.doubtful_classes == [0, 1, 2]


def test_a_long_list_is_cut():
    moments = Moments("diag", 30, D)
    moments.add(Samples(torch.randn(60, D), torch.arange(60) % 30, None))
    gaussians = estimate(moments, torch.arange(30), "jitter")
    text = doubts.describe(list(range(30)), moments, gaussians, torch.zeros(30))
    assert "class 9 (2 samples)" in text
    assert "class 10" not in text
    assert text.endswith("; and 20 more")


@pytest.mark.parametrize("by_loader", [False, True])
@pytest.mark.parametrize("few", [False, True])
def test_shrinkage_is_chosen_where_a_density_would_say_little_and_said(few, by_loader, tmp_path):
    features, labels = data(15) if few else single_spikes()

    def fitted(**arguments) -> ClassGaussianMixture:
        arguments["covariance_type"] = "full"
        if not by_loader:
            return ClassGaussianMixture(**arguments).fit(features, labels)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(features.shape[1], C))
        parts = list(zip(features.split(7), labels.split(7), strict=True))
        return ClassGaussianMixture.fit_loader(model.double(), model[0], parts, **arguments)

    reason = r"too few samples .*class 0 \(5 samples\)" if few else r"says little .*class 1 \(100"
    with pytest.warns(UserWarning, match=f"{reason}.*are shrunk instead") as caught:
        chosen = fitted()
    assert len(caught) == 1
    assert few or caught[0].filename == __file__
    asked = fitted(regularization="oas")
    assert torch.equal(chosen.covariances, asked.covariances)
    torch.testing.assert_close(chosen.quantile(0.05), asked.quantile(0.05))
    assert chosen.doubtful_classes == []
    assert "regularization='oas'" in repr(chosen)
    # what was chosen goes with the file, without a word
    chosen.save(tmp_path / "density.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if few else "error")
        stored = ClassGaussianMixture.load(tmp_path / "density.safetensors")
        assert torch.equal(stored.log_probs(features), chosen.log_probs(features))


def test_the_choice_is_made_anew_when_samples_come():
    features, labels = data(15)
    density = ClassGaussianMixture("full").partial_fit(features, labels)
    with pytest.warns(UserWarning, match="are shrunk instead"):
        density.log_probs(features)
    more, others = data(300, seed=0)
    density.partial_fit(more, others)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = density.log_probs(features)
    whole = ClassGaussianMixture(regularization="jitter").fit(
        torch.cat([features, more]), torch.cat([labels, others])
    )
    torch.testing.assert_close(found, whole.log_probs(features))
    assert "oas" not in repr(density)


def test_what_a_mixture_of_variances_lacks_can_not_be_shrunk():
    density = ClassGaussianMixture("diag")
    with pytest.warns(UserWarning, match="too few samples"):
        density.fit(torch.rand(4, D), torch.tensor([0, 0, 0, 1]))
    assert "oas" not in repr(density)


def uniform_batches() -> tuple[torch.nn.Sequential, list[tuple[Tensor, Tensor]]]:
    """Images of which a class has hardly more than the layer has features."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 30))
    images, labels = torch.rand(80, 1, 8, 8), torch.arange(80) % 2
    return model, list(zip(images.split(40), labels.split(40), strict=True))


SHRUNK = r"says little .*are shrunk instead \(regularization='oas'\)"


@pytest.mark.parametrize("way", ["second pass", "held out", "held out once", "update_quantiles"])
def test_shrinkage_is_chosen_whichever_way_quantiles_come(way):
    model, batches = uniform_batches()
    with pytest.warns(UserWarning, match=SHRUNK) as caught:
        kept = ClassGaussianMixture.fit_loader(model, "1", batches, covariance_type="full")
    assert len(caught) == 1
    assert kept.regularization == "oas"
    arguments: dict[str, Any] = {"memory_budget": 0} if way == "second pass" else {}
    if way.startswith("held out"):
        others = [(torch.rand(200, 1, 8, 8), torch.arange(200) % 2)]
        arguments["held_out_loader"] = iter(others) if way == "held out once" else others

    def fitted() -> ClassGaussianMixture:
        if way != "update_quantiles":
            return ClassGaussianMixture.fit_loader(
                model, "1", batches, covariance_type="full", **arguments
            )
        density, buffer = ClassGaussianMixture("full", num_classes=30), torch.empty(40, 30)
        for update in (density.partial_fit, density.update_quantiles):
            for images, labels in batches:
                update(buffer.copy_(model(images).detach()), labels)
        return density

    with pytest.warns(UserWarning, match=SHRUNK) as caught:
        density = fitted()
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert density.regularization == "oas"
    torch.manual_seed(1)
    asked = torch.rand(6, 30)
    target = torch.arange(6) % 2
    torch.testing.assert_close(density.log_prob(asked, target), kept.log_prob(asked, target))
    if "held_out_loader" not in arguments:
        for q in (0.05, 0.5):
            found, expected = (each.quantile(q)[:2] for each in (density, kept))
            torch.testing.assert_close(found, expected)
    else:
        expected = density.log_prob(model(others[0][0]), others[0][1])[::2].quantile(0.5)
        torch.testing.assert_close(density.quantile(0.5)[0], expected)


def test_samples_too_many_to_be_kept_have_to_come_again(monkeypatch):
    monkeypatch.setattr("captum_deduce.density.calibrated.KEPT", 1000)
    model, batches = uniform_batches()
    features = [(model(images).detach(), labels) for images, labels in batches]
    density = ClassGaussianMixture("full")
    for part, labels in features:
        density.partial_fit(part, labels)
    density.update_quantiles(*features[0])
    with pytest.warns(UserWarning, match=f"{SHRUNK}.* call update_quantiles again, with all"):
        density.update_quantiles(*features[1])
    with pytest.raises(RuntimeError, match="call update_quantiles"):
        density.quantile(0.05)
    for part, labels in features:
        density.update_quantiles(part, labels)
    with pytest.warns(UserWarning, match=SHRUNK):
        kept = ClassGaussianMixture.fit_loader(model, "1", batches, covariance_type="full")
    torch.testing.assert_close(density.quantile(0.05), kept.quantile(0.05)[:2])


def test_held_out_images_too_many_to_be_kept_are_refused_where_they_come_once():
    model, batches = uniform_batches()
    others = iter([(torch.rand(200, 1, 8, 8), torch.arange(200) % 2)])
    with (
        pytest.warns(UserWarning, match=SHRUNK),
        pytest.raises(TypeError, match="held_out_loader must allow a second pass"),
    ):
        ClassGaussianMixture.fit_loader(
            model, "1", batches, covariance_type="full", memory_budget=0, held_out_loader=others
        )

from __future__ import annotations

import math
import subprocess
import sys
import warnings

import pytest
import torch
from torch import Tensor

from captum_deduce.density import choice, memory
from captum_deduce.density.choice import (
    CHOICES,
    choose,
    keeps_classes,
    matrices_fit,
    matrices_size,
    outgrown,
)
from captum_deduce.density.class_gaussian_mixture import ClassGaussianMixture
from captum_deduce.density.moments import COVARIANCE_TYPES, Moments
from captum_deduce.density.samples import Samples

C, D = 3, 16


def data(each: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(D, D, dtype=torch.float64, generator=generator)
    features = torch.randn(C * each, D, dtype=torch.float64, generator=generator) @ mixing
    return features, torch.arange(C * each) % C


def test_every_covariance_may_be_chosen_or_asked_for():
    assert set(CHOICES) == {"auto", "low_rank", *COVARIANCE_TYPES}
    assert [kind for kind in CHOICES if keeps_classes(kind)] == ["auto", "full", "low_rank"]


# n - 1 >= 1.25 D for full, 3 (n - 1) >= 2 D for low rank
@pytest.mark.parametrize(
    ("each", "expected"), [(21, "full"), (20, "low_rank"), (12, "low_rank"), (11, "tied")]
)
def test_what_is_chosen_depends_on_the_samples(each, expected):
    moments = Moments("full", C, D)
    moments.add(Samples(*data(each), None))
    kind, reason = choose(moments)
    assert kind == expected
    assert bool(reason) == (kind != "full")


@pytest.mark.parametrize(
    ("each", "expected"), [(60, "full"), (20, "low_rank"), (12, "low_rank"), (11, "tied")]
)
def test_auto_chooses_by_samples(each, expected):
    features, labels = data(each)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        density = ClassGaussianMixture().fit(features, labels)
    assert density.covariance_type == "auto"
    assert density.chosen_covariance_type == expected
    assert f"covariance_type='auto', chosen_covariance_type='{expected}'" in repr(density)
    if expected == "full":
        assert not caught
        asked = ClassGaussianMixture("full").fit(features, labels)
    else:
        assert len(caught) == 1
        assert str(caught[0].message).startswith(
            f"covariance_type='auto' chose '{expected}' with regularization='oas': 3 of 3 classes "
            f"have fewer than the 21 samples that a 'full' covariance of 16 features needs (class "
            f"0: {each})"
        )
        asked = ClassGaussianMixture(expected, regularization="oas").fit(features, labels)
    assert torch.equal(density.log_probs(features), asked.log_probs(features))
    assert torch.equal(density.quantile(0.1), asked.quantile(0.1))
    assert torch.equal(density.covariances, asked.covariances)


def test_one_small_class_is_enough_for_another_choice_and_is_named():
    features, labels = data(100)
    keep = (labels != 1) | (torch.arange(len(labels)) < 12)
    with pytest.warns(UserWarning, match=r"'low_rank'.*: 1 of 3 classes .* \(class 1: 4\)"):
        density = ClassGaussianMixture().fit(features[keep], labels[keep])
    assert density.doubtful_classes == []
    far = torch.tensor([1, 70, 99])[labels[keep]]
    with pytest.warns(UserWarning, match=r"'low_rank'.*: 1 of 3 classes .* \(class 70: 4\)"):
        ClassGaussianMixture(num_classes=100).fit(features[keep], far)


@pytest.mark.parametrize(("each", "expected"), [(60, "low_rank"), (4, "tied")])
def test_auto_chooses_by_memory(each, expected, monkeypatch):
    features, labels = data(each)
    monkeypatch.setattr(choice, "MOST_KEPT", 10_000)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 30_000.0)
    assert matrices_size(C, D) == 3 * 8 * 3 * 16 * 16
    with pytest.warns(UserWarning, match="'full' covariances of 3 classes of 16 .* would take"):
        density = ClassGaussianMixture().fit(features, labels)
    assert density.chosen_covariance_type == expected


def test_matrices_fit_where_they_are_few_small_or_there_is_room(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(memory, "free_bytes", lambda device: math.inf)
    assert matrices_fit(10, 512, cpu)
    assert matrices_fit(100, 512, cpu)
    assert matrices_fit(4, 2048, cpu)
    assert not matrices_fit(1000, 2048, cpu)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 0.0)
    assert matrices_fit(10, 512, cpu)
    assert not matrices_fit(100, 512, cpu)


def test_moments_are_outgrown_where_no_choice_needs_them():
    moments = Moments("full", 0, 2048)
    many = Samples(torch.zeros(1).expand(20_000, 2048), torch.arange(20_000) % 1000, None)
    few = Samples(many.features[:1000], many.target[:1000], None)
    five = Samples(many.features, torch.arange(20_000) % 5, None)
    assert outgrown(moments, "auto", many)
    assert outgrown(moments, "low_rank", many)
    assert not outgrown(moments, "auto", few)
    assert not outgrown(moments, "auto")
    # five matrices may become those of the paper
    assert not outgrown(moments, "auto", five)
    assert outgrown(moments, "low_rank", five)


def test_the_choice_is_kept_with_the_state_and_made_anew_with_other_samples(tmp_path):
    features, labels = data(12)
    with pytest.warns(UserWarning, match="chose 'low_rank'"):
        density = ClassGaussianMixture().fit(features, labels)
    density.save(tmp_path / "density.safetensors")
    fresh = ClassGaussianMixture()
    fresh.load_state_dict(density.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for other in (ClassGaussianMixture.load(tmp_path / "density.safetensors"), fresh):
            assert other.covariance_type == "auto"
            assert other.chosen_covariance_type == "low_rank"
            assert torch.equal(other.log_probs(features), density.log_probs(features))
            other.partial_fit(*data(40, seed=1))
            assert other.chosen_covariance_type == "full"
            assert other.counts.tolist() == [52] * C
    whole = ClassGaussianMixture("full", regularization="jitter")
    both = [torch.cat(parts) for parts in zip(data(12), data(40, seed=1), strict=True)]
    torch.testing.assert_close(
        other.log_probs(features), whole.fit(*both).log_probs(features), rtol=1e-9, atol=1e-9
    )


def test_what_was_asked_for_is_what_is_chosen():
    features, labels = data(4)
    for kind in ("full", "low_rank", "tied", "diag"):
        density = ClassGaussianMixture(kind)
        assert density.chosen_covariance_type == kind
    with pytest.raises(RuntimeError, match="not fitted"):
        _ = ClassGaussianMixture().chosen_covariance_type
    with pytest.warns(UserWarning, match="^covariance_type='auto' chose 'tied': "):
        density = ClassGaussianMixture(regularization="jitter").fit(features, labels)
    assert density._derived().regularization == "jitter"


def test_a_state_of_another_covariance_type_is_refused():
    features, labels = data(30)
    state = ClassGaussianMixture("diag").fit(features, labels).state_dict()
    with pytest.raises(ValueError, match="of covariance_type 'diag', not 'full'"):
        ClassGaussianMixture("full").load_state_dict(state)
    density = ClassGaussianMixture()
    density.load_state_dict(state)
    assert density.covariance_type == "diag"


@pytest.mark.parametrize("each", [30, 12, 4])
def test_the_order_of_samples_does_not_matter(each):
    features, labels = data(each)
    found = []
    for order in (torch.arange(len(labels)), labels.argsort(), torch.randperm(len(labels))):
        density = ClassGaussianMixture()
        for rows in order.split(7):
            density.partial_fit(features[rows], labels[rows])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found.append(density.log_probs(features))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found[0], found[2], rtol=1e-9, atol=1e-9)


def test_choose_names_reasons():
    features, labels = data(30)
    moments = Moments("full", C, D)
    moments.add(Samples(features, labels, None))
    assert choose(moments) == ("full", "")
    moments.add(Samples(features[:1], torch.tensor([7]), None))
    kind, reason = choose(moments)
    assert kind == "low_rank"
    assert "1 of 4 classes" in reason


_PEAK = """
import resource, sys, warnings
import torch
from captum_deduce import ClassGaussianMixture
torch.set_num_threads(1)
warnings.simplefilter("ignore")
count, order = int(sys.argv[1]), sys.argv[2]
generator = torch.Generator().manual_seed(0)
labels = torch.randint(1000, (count,), generator=generator)
labels = labels.sort().values if order == "sorted" else labels
density = ClassGaussianMixture()
for part in labels.split(500):
    density.partial_fit(torch.randn(len(part), 2048, generator=generator), part)
density.log_prob(torch.randn(8, 2048), labels[:8])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux does")
@pytest.mark.parametrize("order", ["sorted", "shuffled"])
@pytest.mark.parametrize("count", [64, 20_000])
def test_a_thousand_classes_of_2048_features_take_little_memory(count, order):
    run = subprocess.run(
        [sys.executable, "-c", _PEAK, str(count), order], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) < 1.5

"""Schut's method against algorithm 1 on the mean of softmax probabilities, written out."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from captum_deduce import Schut, remove_spectral_normalization
from tests import reference
from tests.conftest import Digits, digits_network, train_briefly
from tests.explainers.test_deduce import pairs_of
from tests.explainers.test_jsma import assert_same_paths


@pytest.fixture(scope="module")
def others(_digits: Digits) -> list[nn.Sequential]:
    members = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        member = digits_network().double()
        train_briefly(member, _digits.train_images, _digits.train_labels, epochs=4)
        members.append(member)
    return members


@pytest.fixture
def members(digits: Digits, others: list[nn.Sequential]) -> list[nn.Sequential]:
    return [remove_spectral_normalization(copy.deepcopy(digits.model)), *others]


def log_mean(members: list[nn.Sequential], image: Tensor) -> Tensor:
    probabilities = [torch.softmax(member(image.unsqueeze(0))[0], 0) for member in members]
    return torch.log(sum(probabilities) / len(members))


def loss_gradient(members: list[nn.Sequential], image: reference.Array, target: int) -> Tensor:
    x = torch.from_numpy(image).requires_grad_()
    return torch.autograd.grad(-log_mean(members, x)[target], x)[0].numpy()


@pytest.mark.parametrize(
    "settings", [{}, {"confidence": 0.6, "max_changes": None, "momentum": 0.3}]
)
def test_equals_its_naive_form_pixel_for_pixel(digits, members, settings):
    images, targets = pairs_of(digits, 9)
    result = Schut(members, **settings).generate(
        images, targets, internal_batch_size=4, return_trajectory=True
    )
    naive_settings = {"confidence": 0.99, "momentum": 0.0} | settings
    attempts = [
        reference.algorithm_1(
            image.numpy(),
            target,
            lambda x: log_mean(members, x).detach(),
            lambda x, target=target: loss_gradient(members, x, target),
            **naive_settings,
        )
        for image, target in zip(images, targets.tolist(), strict=True)
    ]
    assert_same_paths(result, attempts)


def test_the_whole_ensemble_believes_it(digits, members):
    images, targets = pairs_of(digits, 12)
    result = Schut(members).generate(images, targets)
    rows = torch.arange(12)
    with torch.no_grad():
        each = torch.stack([m(result.counterfactuals).softmax(1)[rows, targets] for m in members])
    torch.testing.assert_close(result.confidence, each.mean(0))
    assert result.success.all()
    assert (each.mean(0) > 0.99).all()
    assert each.min() > 1 - 3 * 0.01


def test_one_model_and_a_module_list_will_do(digits, members):
    images, targets = pairs_of(digits, 3)
    alone = Schut(members[0]).generate(images, targets)
    listed = Schut([members[0]]).generate(images, targets)
    torch.testing.assert_close(alone.counterfactuals, listed.counterfactuals)
    modules = Schut(nn.ModuleList(members)).generate(images, targets)
    torch.testing.assert_close(
        modules.counterfactuals, Schut(members).generate(images, targets).counterfactuals
    )


def test_every_member_is_searched_in_eval_mode_and_left_as_found(digits, members):
    images, targets = pairs_of(digits, 3)
    expected = Schut(members).generate(images, targets)
    for member in members:
        member.train()
    result = Schut(members).generate(images, targets)
    assert torch.equal(result.counterfactuals, expected.counterfactuals)
    assert all(member.training and member[1].training for member in members)


def test_ensembles_that_are_refused(digits, members):
    images = digits.images[:2]
    with pytest.raises(ValueError, match="models must hold at least one model"):
        Schut([])
    with pytest.raises(TypeError, match=r"models\[1\] must be an nn.Module or a function"):
        Schut([members[0], 3])
    few = nn.Sequential(nn.Flatten(), nn.Linear(64, 7)).double()
    with pytest.raises(ValueError, match=r"models must agree .* got \[10, 7\]"):
        Schut([members[0], few]).generate(images, 3)
    probabilities = nn.Sequential(members[1], nn.Softmax(1))
    with pytest.raises(ValueError, match=r"models\[1\]: forward_func must return logits"):
        Schut([members[0], probabilities]).generate(images, 3)
    assert not np.isnan(Schut(members).generate(images, 3).confidence.numpy()).any()

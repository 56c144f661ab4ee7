"""Losses against the formulas written out in NumPy, and their gradients against equation 5."""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import log_softmax

from captum_deduce.search import losses


def test_target_log_probability_is_the_log_softmax_of_logits_and_of_log_probabilities():
    scores = torch.randn(6, 5, dtype=torch.float64) * 4
    target = torch.tensor([0, 4, 2, 1, 3, 2])
    expected = log_softmax(scores.numpy(), axis=1)[np.arange(6), target.numpy()]
    found = losses.target_log_probability(scores, target)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    again = losses.target_log_probability(torch.from_numpy(log_softmax(scores.numpy(), 1)), target)
    np.testing.assert_allclose(again.numpy(), expected, rtol=1e-12)


def terms(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A positive loss and a log-density of either sign, with known gradients."""
    return (x**2).sum(1), torch.cos(3 * x).sum(1)


def test_relative_sum_has_the_gradient_of_equation_5():
    x = torch.tensor([[0.1, -0.3], [1.1, 0.2], [0.4, 0.9]], dtype=torch.float64, requires_grad=True)
    loss = losses.relative_sum(*terms(x), 0.7)
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    values = x.detach().numpy()
    first = 2 * values / (values**2).sum(1, keepdims=True)
    log_density = np.cos(3 * values).sum(1, keepdims=True)
    second = -3 * np.sin(3 * values) / np.abs(log_density)
    assert (log_density < 0).any()
    assert (log_density > 0).any()
    np.testing.assert_allclose(gradient.numpy(), 0.7 * first - second, rtol=1e-12)


def test_weighted_sum_has_the_gradient_of_equation_4():
    x = torch.tensor([[0.3, -0.8], [1.1, 0.2]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(losses.weighted_sum(*terms(x), 10.0).sum(), x)
    values = x.detach().numpy()
    np.testing.assert_allclose(gradient.numpy(), 20 * values + 3 * np.sin(3 * values), rtol=1e-12)


def test_denominators_are_floored_and_a_vanished_loss_adds_nothing():
    cross_entropy = torch.tensor([0.0, 1e-9, 2.0], dtype=torch.float64, requires_grad=True)
    log_density = torch.tensor([1e-9, -3.0, 0.0], dtype=torch.float64, requires_grad=True)
    loss = losses.relative_sum(cross_entropy, log_density, 1.0)
    first, second = torch.autograd.grad(loss.sum(), (cross_entropy, log_density))
    np.testing.assert_allclose(first.numpy(), [0.0, 1e6, 0.5])
    np.testing.assert_allclose(second.numpy(), [-1e6, -1 / 3, -1e6])


def test_distances_are_sums_over_all_entries():
    difference = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    flat = difference.numpy().reshape(4, -1)
    squares = (flat**2).sum(1)
    np.testing.assert_allclose(losses.l1_norm(difference).numpy(), np.abs(flat).sum(1), rtol=1e-12)
    np.testing.assert_allclose(losses.squared_norm(difference).numpy(), squares, rtol=1e-12)
    expected = squares + 0.3 * np.abs(flat).sum(1)
    np.testing.assert_allclose(losses.elastic_net(difference, 0.3).numpy(), expected, rtol=1e-12)


def test_the_hinge_ends_at_its_margin():
    probabilities = torch.tensor(
        [[0.6, 0.3, 0.1], [0.3, 0.6, 0.1], [0.45, 0.1, 0.45], [0.1, 0.2, 0.7]]
    ).double()
    original = torch.tensor([0, 0, 2, 0])
    plain = losses.untargeted_hinge(probabilities, original, 0.0)
    torch.testing.assert_close(plain, torch.tensor([0.3, 0.0, 0.0, 0.0]).double())
    wide = losses.untargeted_hinge(probabilities, original, 0.4)
    torch.testing.assert_close(wide, torch.tensor([0.7, 0.1, 0.4, 0.0]).double())


def test_the_hinge_pulls_at_the_original_and_the_likeliest_other_class():
    probabilities = torch.tensor(
        [[0.5, 0.2, 0.3], [0.2, 0.5, 0.3], [0.4, 0.3, 0.3], [0.4, 0.4, 0.2]]
    ).double()
    probabilities.requires_grad_()
    loss = losses.untargeted_hinge(probabilities, torch.tensor([0, 0, 0, 0]), 0.0)
    (gradient,) = torch.autograd.grad(loss.sum(), probabilities)
    # Beyond the boundary and on it there is no pull; rivals that are level share it.
    expected = [[1.0, 0.0, -1.0], [0.0, 0.0, 0.0], [1.0, -0.5, -0.5], [0.0, 0.0, 0.0]]
    assert gradient.tolist() == expected


def test_margin_is_the_lead_over_the_best_of_the_others():
    scores = torch.randn(6, 5, dtype=torch.float64) * 4
    target = torch.tensor([0, 4, 2, 1, 3, 2])
    expected = [
        row[t] - max(value for c, value in enumerate(row) if c != t)
        for row, t in zip(scores.tolist(), target.tolist(), strict=True)
    ]
    np.testing.assert_allclose(losses.margin(scores, target).numpy(), expected, rtol=1e-12)
    probabilities = torch.from_numpy(log_softmax(scores.numpy(), 1))
    np.testing.assert_allclose(losses.margin(probabilities, target).numpy(), expected, rtol=1e-9)


def test_margin_shares_its_gradient_among_the_best_of_the_others():
    scores = torch.tensor([[1.0, 3.0, 3.0]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(losses.margin(scores, torch.tensor([0])).sum(), scores)
    assert gradient.tolist() == [[1.0, -0.5, -0.5]]

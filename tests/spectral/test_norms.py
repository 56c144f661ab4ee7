from __future__ import annotations

import pytest
import torch
from torch import nn

from captum_deduce.spectral import spectral_normalize, spectral_norms
from tests.spectral.networks import (
    IMAGES,
    largest_singular_value,
    normalized_network,
    same,
    small_network,
    snapshot,
)


def test_norms_of_a_plain_model_say_which_layers_a_bound_would_touch():
    model = small_network()
    exact = {
        "0": largest_singular_value(model[0], model[0].weight, (5, 5)),
        "3": largest_singular_value(model[3], model[3].weight, (5, 5)),
        "5": largest_singular_value(model[5], model[5].weight, (100,)),
    }
    assert spectral_norms(model, example_input=IMAGES) == pytest.approx(exact, rel=2e-3)
    with pytest.raises(ValueError, match=r"example_input is needed .*'0' \(Conv2d\)"):
        spectral_norms(model)


def test_norms_at_another_size_than_the_one_that_is_bounded():
    model = spectral_normalize(nn.Conv2d(2, 2, 3), 0.5, example_input=torch.rand(1, 2, 4, 4))
    larger = torch.rand(1, 2, 9, 9)
    exact = largest_singular_value(model, model.eval().weight, (9, 9))
    assert exact > 0.55
    assert spectral_norms(model)[""] == pytest.approx(0.5, rel=0.01)
    assert spectral_norms(model, example_input=larger)[""] == pytest.approx(exact, rel=2e-3)


@pytest.mark.parametrize("example_input", [None, IMAGES])
def test_measuring_norms_leaves_the_model_and_the_random_state_alone(example_input):
    model = normalized_network()
    model[1].eval()
    before, state = snapshot(model), torch.get_rng_state()
    norms = spectral_norms(model, example_input=example_input)
    assert same(snapshot(model), before)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    assert spectral_norms(model, example_input=example_input) == norms


def test_norms_of_the_layers_that_are_not_left_out():
    model = spectral_normalize(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(4, 3)), 0.2, skip="0")
    with pytest.raises(ValueError, match=r"example_input is needed .* skip=\['0'\]"):
        spectral_norms(model)
    norms = spectral_norms(model, skip="0")
    exact = torch.linalg.svdvals(model.eval()[1].weight)[0].item()
    assert norms == {"1": pytest.approx(exact, rel=1e-3)}


@pytest.mark.parametrize(("show_progress", "bars"), [(True, 1), (False, 0), (None, 0)])
def test_a_bar_is_drawn_where_it_is_asked_for(capsys, show_progress, bars):
    spectral_norms(small_network(), example_input=IMAGES, show_progress=show_progress)
    assert capsys.readouterr().err.count("spectral norms: 100%") == bars


def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError, match=r"module must be an nn\.Module, got str"):
        spectral_norms("model")

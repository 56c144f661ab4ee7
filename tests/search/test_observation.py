from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from captum_deduce import JSMA, DeDUCE
from captum_deduce.search import observed


class EnoughError(Exception):
    pass


@pytest.fixture
def jsma() -> JSMA:
    return JSMA(nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(64, 3)))


def test_an_observer_sees_the_images_of_the_trajectory_and_their_confidence(jsma):
    images = torch.rand(1, 1, 8, 8)
    seen = []
    with observed(lambda what, evaluation: seen.append((what, evaluation.images.clone()))):
        result = jsma.generate(images, target=2, confidence=0.9, return_trajectory=True)
    assert len(seen) > 2
    assert {what for what, _ in seen} == {"counterfactuals"}
    assert torch.equal(torch.cat([image for _, image in seen]), result.trajectory[0])


def test_it_tells_refinement_from_the_search(digits):
    seen = []
    explainer = DeDUCE(digits.model, digits.layer, digits.density, refine=True)
    with observed(lambda what, _: seen.append(what)):
        result = explainer.generate(digits.images[:1], target=(int(digits.labels[0]) + 1) % 10)
    assert result.success.all()
    assert set(seen) == {"counterfactuals", "refinement"}
    assert seen.count("counterfactuals") == int(result.evaluations[0])


def test_what_it_raises_ends_the_search_and_leaves_the_model_as_it_was(jsma):
    model = jsma.forward_func.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def stop(what, evaluation):
        raise EnoughError

    with observed(stop), pytest.raises(EnoughError):
        jsma.generate(torch.rand(1, 1, 8, 8), target=2)
    assert model.training
    assert model[1].training
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    jsma.generate(torch.rand(1, 1, 8, 8), target=2)  # nobody looks on any more


def test_nobody_sees_the_searches_of_another_thread(jsma):
    seen = []
    with observed(lambda *_: seen.append(1)):
        other = threading.Thread(target=jsma.generate, args=(torch.rand(1, 1, 8, 8), 2))
        other.start()
        other.join()
    assert not seen

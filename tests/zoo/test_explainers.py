from __future__ import annotations

import dataclasses

import pytest

from captum_deduce.zoo.explainers import make_explainer


def test_the_explainer_is_the_checkpoints_with_the_settings(demo):
    explainer = make_explainer(demo.checkpoint, confidence=0.7, pixels_per_step=2)
    assert explainer.forward_func is demo.checkpoint.model
    assert explainer.density is demo.checkpoint.density
    assert (explainer.confidence, explainer.pixels_per_step) == (0.7, 2)


def test_a_checkpoint_without_a_density_is_refused(demo):
    with pytest.raises(ValueError, match="checkpoint holds no density"):
        make_explainer(dataclasses.replace(demo.checkpoint, density=None))

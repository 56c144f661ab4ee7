"""A wrapped classifier is left as it was, and its layers are found by their names."""

from __future__ import annotations

import pytest
from torch import nn

from captum_deduce.classifiers.wrapped import WrappedClassifier


def nested() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(4, 3), nn.ReLU()), nn.Dropout())


@pytest.mark.parametrize("training", [False, True])
def test_every_part_keeps_its_mode_and_the_wrapper_has_the_models(training):
    model = nested().train(training)
    model[1].train(not training)
    before = [part.training for part in model.modules()]
    wrapped = WrappedClassifier(model)
    assert wrapped.model is model
    assert [part.training for part in model.modules()] == before
    assert wrapped.training == wrapped.features.training == training


def test_a_layer_has_one_name_however_it_is_given():
    model = nested()
    wrapped = WrappedClassifier(model)
    assert wrapped.name_of("1.0") == wrapped.name_of(model[1][0]) == "1.0"
    model.append(model[0])  # a part with two names has the first
    assert wrapped.name_of(model[3]) == "0"


def test_what_is_no_model_or_no_layer_of_it_is_refused():
    with pytest.raises(TypeError, match=r"model must be an nn\.Module, got str"):
        WrappedClassifier("model")
    wrapped = WrappedClassifier(nested())
    with pytest.raises(ValueError, match="is not part of"):
        wrapped.name_of(nn.ReLU())
    with pytest.raises(TypeError, match=r"layer must be an nn\.Module or its name, got int"):
        wrapped.name_of(1)

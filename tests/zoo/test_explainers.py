from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

from captum_deduce import datasets, training
from captum_deduce.models import VAE
from captum_deduce.zoo.explainers import (
    DISTRACTORS,
    make_explainer,
    make_patch_swap,
    make_piece,
)


def test_the_explainer_is_the_checkpoints_with_the_settings(demo):
    explainer = make_explainer(demo.checkpoint, confidence=0.7, pixels_per_step=2)
    assert explainer.forward_func is demo.checkpoint.model
    assert explainer.density is demo.checkpoint.density
    assert (explainer.confidence, explainer.pixels_per_step) == (0.7, 2)


def test_a_checkpoint_without_a_density_is_refused(demo):
    with pytest.raises(ValueError, match="checkpoint holds no density"):
        make_explainer(dataclasses.replace(demo.checkpoint, density=None))


@pytest.fixture
def train():
    return datasets.load_digits().train


def test_piece_knows_the_classes_that_the_classifier_sees(demo, train, capsys):
    vae = VAE(image_size=8)
    explainer = make_piece(demo.checkpoint, vae, train, alpha=0.3)
    assert (explainer.forward_func, explainer.vae) == (demo.checkpoint.model, vae)
    assert explainer.alpha == 0.3
    predicted = training.predict(demo.checkpoint.model, train.images).argmax(1)
    seen = predicted.bincount(minlength=10)
    by_label = "hurdle models are of labels" in capsys.readouterr().out
    assert by_label == bool((seen == 0).any())
    expected = train.target.bincount() if by_label else seen
    assert explainer.hurdles.counts.tolist() == expected.tolist()


def test_hurdle_models_go_by_labels_where_a_class_is_never_seen(demo, train, capsys):
    model = copy.deepcopy(demo.checkpoint.model)
    with torch.no_grad():
        model.fc.bias[3] = -1e6
    blind = dataclasses.replace(demo.checkpoint, model=model)
    explainer = make_piece(blind, VAE(image_size=8), train)
    assert "hurdle models are of labels" in capsys.readouterr().out
    assert explainer.hurdles.counts.tolist() == train.target.bincount().tolist()


@pytest.mark.parametrize(("size", "layer"), [(8, "stages.1"), (28, "stages.3"), (16, "stages.2")])
def test_parts_come_from_the_first_images_of_each_class(demo, train, size, layer):
    images = nn.functional.interpolate(train.images, size)
    explainer = make_patch_swap(demo.checkpoint, dataclasses.replace(train, images=images))
    assert explainer.layer == layer
    assert explainer.labels.bincount().tolist() == [DISTRACTORS] * 10
    for c in range(10):
        mine = images[train.target == c][:DISTRACTORS]
        assert torch.equal(explainer.distractors[explainer.labels == c], mine)

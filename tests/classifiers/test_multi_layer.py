"""A multi-layer classifier scores as its model does, and is described by several layers."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from captum_deduce import (
    ClassGaussianMixture,
    DeDUCE,
    MultiLayerClassifier,
    SmoothedClassifier,
    spectral_normalize,
)
from captum_deduce.classifiers import FrozenModel
from tests import reference

GENERATOR = torch.Generator().manual_seed(4)
IMAGES = torch.rand(7, 2, 9, 8, generator=GENERATOR)


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(6)
        return nn.Sequential(
            nn.Conv2d(2, 3, 3),
            nn.BatchNorm2d(3),
            nn.ReLU(inplace=True),
            nn.Conv2d(3, 2, 2),
            nn.Flatten(),
            nn.Linear(60, 4),
            nn.Tanh(),
            nn.Linear(4, 3),
        )


def features_of(seen, images):
    with FrozenModel(seen, seen.features) as frozen:
        return frozen(images)


@pytest.mark.parametrize("grid", [1, 2, 4, 6])
@pytest.mark.parametrize("by_name", [False, True])
def test_features_are_each_layers_means_over_the_cells_of_its_grid(grid, by_name):
    """Maps of 7 x 6: cells of different sizes, and some that overlap."""
    model = network().eval()
    first, second = ("1", "6") if by_name else (model[1], model[6])
    seen = MultiLayerClassifier(model, {second: None, first: grid})
    images = IMAGES.clone().requires_grad_()
    scores, features = features_of(seen, images)
    gradient = torch.autograd.grad((features.sin().sum(1) + scores.exp().sum(1)).sum(), images)[0]
    assert features.shape == (7, 4 + 3 * grid**2)
    exact = copy.deepcopy(model).double()
    for place, image in enumerate(IMAGES.double()):
        image.requires_grad_()
        maps = exact[:2](image.unsqueeze(0))
        hidden = exact[3:7](maps.relu())
        row = torch.cat([hidden[0], reference.averaged_on_grid(maps[0], grid)])
        expected_scores = exact[7](hidden)[0]
        loss = row.sin().sum() + expected_scores.exp().sum()
        expected = torch.autograd.grad(loss, image)[0]
        torch.testing.assert_close(features[place].double(), row, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(scores[place].double(), expected_scores, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(gradient[place].double(), expected, rtol=1e-4, atol=1e-5)


def test_without_a_grid_maps_are_flattened_as_they_are():
    model = network().eval()
    _, features = features_of(MultiLayerClassifier(model, {"3": None, "0": None}), IMAGES)
    first = model[0](IMAGES)
    expected = torch.cat([model[:4](IMAGES).flatten(1), first.flatten(1)], 1)
    torch.testing.assert_close(features, expected)


def test_a_layer_with_one_number_an_image_or_a_tuple_of_one_is_read():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()
            self.mean = Mean()

        def forward(self, images):
            return self.net(images) + self.mean(images)[0].unsqueeze(1)

    class Mean(nn.Module):
        def forward(self, images):
            return (images.flatten(1).mean(1),)

    model = Model().eval()
    _, features = features_of(MultiLayerClassifier(model, {"mean": None, "net.6": None}), IMAGES)
    torch.testing.assert_close(features[:, 0], IMAGES.flatten(1).mean(1))
    torch.testing.assert_close(features[:, 1:], model.net[:7](IMAGES))


def test_arguments_reach_the_model_and_copies_stand_on_their_own():
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, images, offset):
            return self.net(images) + offset

    model = Shifted().eval()
    seen = MultiLayerClassifier(model, {model.net[6]: None})
    offset = torch.tensor([1.0, 0.0, -1.0])
    torch.testing.assert_close(seen(IMAGES, offset), model(IMAGES, offset))
    other = copy.deepcopy(seen)
    with torch.no_grad():
        other.model.net[5].weight.zero_()
        other.model.net[5].bias.zero_()
    with FrozenModel(other, other.features) as frozen:
        assert not frozen(IMAGES, (offset,))[1].any()
    with FrozenModel(seen, seen.features) as frozen:
        assert frozen(IMAGES, (offset,))[1].any()


def test_making_it_leaves_the_mode_of_every_part_and_no_images_give_no_scores():
    model = network().train()
    model[1].eval()
    before = [part.training for part in model.modules()]
    seen = MultiLayerClassifier(model, {"0": 2})
    assert [part.training for part in model.modules()] == before
    assert seen.training
    other = MultiLayerClassifier(network().eval(), {"0": 2})
    assert not any(part.training for part in other.modules())
    assert seen.eval()(torch.empty(0, 2, 9, 8)).shape == (0, 3)
    assert "layers={'0': 2}" in repr(seen)


def test_deduce_explains_it_to_its_goal_and_leaves_the_model_as_it_was():
    model = network()
    with torch.no_grad():
        model[7].weight *= 10  # so that the untrained model can be sure of something
    spectral_normalize(model, coeff=20.0, example_input=IMAGES).train()
    seen = MultiLayerClassifier(model, {"0": 2, "6": None})
    before = copy.deepcopy(model.state_dict())
    images = torch.rand(90, 2, 9, 8, generator=GENERATOR)
    labels = torch.arange(90) % 3
    density = ClassGaussianMixture.fit_loader(seen, seen.features, [(images, labels)])
    assert density.num_features == 16
    explainer = DeDUCE(seen, seen.features, density, density_quantile=0.05)
    target = labels[:12].roll(1)
    result = explainer.generate(images[:12], target=target, internal_batch_size=5)
    assert result.success.any()
    assert model.training
    assert not model[0]._forward_hooks
    assert not model[6]._forward_hooks
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], msg=name)
    found = result[result.success]
    scores, features = features_of(seen, found.counterfactuals)
    reached = density.log_prob(features, found.target)
    # of float32 features, which round otherwise in batches of another size
    torch.testing.assert_close(reached, found.log_density, rtol=1e-5, atol=1e-5)
    assert (reached >= density.quantile(0.05)[found.target]).all()
    torch.testing.assert_close(
        scores.softmax(1).gather(1, found.target.unsqueeze(1))[:, 0].detach(), found.confidence
    )


def test_it_can_be_smoothed_and_a_smoothed_classifier_seen_in_layers():
    model = network().eval()
    seen = MultiLayerClassifier(model, {"0": 3, "6": None})
    smoothed = SmoothedClassifier(seen, seen.features, noise=0.4, copies=2, seed=8)
    draw = 0.4 * torch.randn(1, 2, 9, 8, generator=torch.Generator().manual_seed(8))
    disturbed = [features_of(seen, IMAGES + sign * draw) for sign in (1, -1)]
    scores, features = features_of(smoothed, IMAGES)
    torch.testing.assert_close(scores, (disturbed[0][0] + disturbed[1][0]) / 2)
    torch.testing.assert_close(features, (disturbed[0][1] + disturbed[1][1]) / 2)
    outer = MultiLayerClassifier(smoothed, {"features": None})
    for found, expected in zip(features_of(outer, IMAGES), (scores, features), strict=True):
        torch.testing.assert_close(found, expected)


def test_threads_read_their_own_images():
    seen = MultiLayerClassifier(network().eval(), {"0": 2, "6": None})
    expected = [features_of(seen, image.unsqueeze(0))[1] for image in IMAGES]
    meet = threading.Barrier(len(IMAGES), timeout=20)

    def wait(*_) -> None:
        meet.wait()

    # Between the layers, so that the passes of all threads overlap.
    seen.model[4].register_forward_hook(wait)

    def read(image):
        return features_of(seen, image.unsqueeze(0))[1]

    with ThreadPoolExecutor(len(IMAGES)) as pool:
        found = list(pool.map(read, IMAGES))
    torch.testing.assert_close(found, expected)


def test_scores_of_half_precision_are_widened_and_such_that_are_none_refused():
    model = network().eval()
    assert MultiLayerClassifier(copy.deepcopy(model).half(), {"6": None})(IMAGES.half()).dtype == (
        torch.float32
    )
    with pytest.raises(ValueError, match="must return N x C class scores"):
        MultiLayerClassifier(model[:4], {"0": 1})(IMAGES)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"model": len}, TypeError, "model must be an nn.Module, got builtin_function"),
        ({"layers": ["0", "6"]}, TypeError, "layers must be a mapping.*got list"),
        ({"layers": {}}, ValueError, "layers must name at least one layer, got none"),
        ({"layers": {"nowhere": 1}}, ValueError, "layer 'nowhere' is not in the model"),
        ({"layers": {nn.ReLU(): 1}}, ValueError, "is not part of"),
        ({"layers": {"0": 0}}, ValueError, "the grid of layer '0' must be"),
        ({"layers": {"0": 1.5}}, TypeError, "the grid of layer '0' must be an int"),
        ({"layers": {"0": True}}, TypeError, "the grid of layer '0' must be an int"),
        ({"layers": {0: 1}}, TypeError, "layer must be an nn.Module or its name, got int"),
    ],
)
def test_what_has_no_sense_is_refused(settings, error, words):
    arguments = {"model": network(), "layers": {"0": 1}, **settings}
    with pytest.raises(error, match=words):
        MultiLayerClassifier(arguments["model"], arguments["layers"])


def test_a_layer_named_twice_is_refused():
    model = network()
    with pytest.raises(ValueError, match="layers must name each layer once, got '0' twice"):
        MultiLayerClassifier(model, {"0": 1, model[0]: 2})


def test_a_grid_of_any_integer_type_is_the_same_setting():
    seen = MultiLayerClassifier(network().eval(), {"0": np.int64(2)})
    assert repr(seen) == repr(MultiLayerClassifier(network().eval(), {"0": 2}))
    assert features_of(seen, IMAGES)[1].shape == (7, 12)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ({"0": 7}, r"layer '0' must output maps of at least 7 x 7.*\(7, 3, 7, 6\)"),
        ({"6": 1}, r"layer '6' must output maps, N x channels.*\(7, 4\); give it None"),
    ],
)
def test_maps_that_do_not_fill_the_grid_are_refused_and_hooks_are_gone(layers, words):
    model = network()
    with pytest.raises(ValueError, match=words):
        MultiLayerClassifier(model, layers)(IMAGES)
    assert not any(part._forward_hooks for part in model.modules())


def test_a_layer_that_does_not_run_once_is_named():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part, self.idle = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, images):
            return self.part(self.part(images))

    model = Twice()
    for name, times in (("part", 2), ("idle", 0)):
        with pytest.raises(ValueError, match=f"layer '{name}' ran {times} times"):
            MultiLayerClassifier(model, {name: None})(torch.rand(4, 3))
        assert not getattr(model, name)._forward_hooks

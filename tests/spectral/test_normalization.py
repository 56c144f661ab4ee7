from __future__ import annotations

import copy
import pickle
import re

import pytest
import torch
import torchvision
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy, max_pool2d
from torch.nn.utils import parametrizations, parametrize, prune, weight_norm

from captum_deduce.spectral import remove_spectral_normalization, spectral_normalize, spectral_norms
from tests.spectral.networks import (
    IMAGES,
    buffers_of,
    largest_singular_value,
    normalized_network,
    original_of,
    same,
    small_network,
    snapshot,
)


class Shared(nn.Module):
    """One convolution under two names, called on two sizes."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 2, 3, padding=1)
        self.second = self.first

    def forward(self, images):
        return (
            self.second(max_pool2d(self.first(images), (2, 1)))
            + self.first(images[..., :2])[..., :1].mean()
        )


def test_a_layer_called_at_several_sizes_is_bounded_at_all_of_them():
    model = spectral_normalize(Shared(), 0.3, example_input=torch.rand(1, 2, 8, 6)).eval()
    assert list(spectral_norms(model)) == ["first"]
    sigma = {
        size: largest_singular_value(model.first, model.first.weight, size)
        for size in [(8, 6), (4, 6), (8, 2)]
    }
    assert sigma[8, 6] == pytest.approx(0.3, rel=0.01)
    assert sigma[4, 6] < sigma[8, 6]
    assert sigma[8, 2] < sigma[8, 6]
    assert isinstance(remove_spectral_normalization(model).second.weight, nn.Parameter)


def test_the_example_input_may_be_a_tuple_of_arguments():
    class TwoInputs(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)

        def forward(self, images, scale):
            return self.conv(images) * scale

    model = TwoInputs()
    spectral_normalize(model, 0.2, example_input=(torch.rand(1, 1, 6, 6), 2.0))
    weight = model.eval().conv.weight
    assert largest_singular_value(model.conv, weight, (4, 6)) < 0.2
    assert largest_singular_value(model.conv, weight, (6, 6)) == pytest.approx(0.2, rel=0.01)


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    images = torch.from_numpy(data.images).float().unsqueeze(1) / 16
    return images, torch.from_numpy(data.target)


DIGITS_SIZES = {"0": (8, 8), "3": (8, 8), "6": (4, 4), "9": (4, 4), "12": (4, 4), "17": (16,)}


def digits_network():
    norm, activation = nn.BatchNorm2d, nn.LeakyReLU
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), norm(8), activation(0.01)),
        *(nn.Conv2d(8, 16, 3, stride=2, padding=1), norm(16), activation(0.01)),
        *(nn.Conv2d(16, 16, 3, padding=1, groups=2), norm(16), activation(0.01)),
        *(nn.Conv2d(16, 16, 1), norm(16), activation(0.01)),
        *(nn.Conv2d(16, 16, 3, padding=1), norm(16), activation(0.01)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)),
    )


@pytest.mark.parametrize("coeff", [1.0, 4.0])
@pytest.mark.parametrize("decay", [True, False], ids=["learning rate falls", "constant"])
def test_after_training_every_layer_keeps_its_bound(digits, coeff, decay):
    images, labels = digits
    model = spectral_normalize(digits_network(), coeff, example_input=images[:1])
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [4, 6], 0.1 if decay else 1.0)
    for _ in range(8):
        for rows in torch.randperm(1500).split(50):
            optimizer.zero_grad()
            cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
        schedule.step()
    model.eval()
    assert (model(images[1500:]).argmax(1) == labels[1500:]).float().mean() > 0.9

    free, bounded = (
        {
            name: largest_singular_value(layer, weight_of(layer), size)
            for name, size in DIGITS_SIZES.items()
            for layer in [model.get_submodule(name)]
        }
        for weight_of in (original_of, lambda layer: layer.weight)
    )
    assert max(bounded.values()) <= coeff * 1.02
    held = [name for name, sigma in free.items() if sigma > coeff * 1.05]
    assert len(held) == 6 if coeff == 1 else 1 <= len(held) <= 3
    assert all(bounded[name] >= coeff * 0.98 for name in held)
    assert spectral_norms(model) == pytest.approx(bounded, rel=2e-3)


def test_a_state_dict_goes_into_another_model_that_was_normalised_alike():
    model, other = normalized_network(), normalized_network()
    for _ in range(3):
        model(IMAGES + torch.rand_like(IMAGES))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(IMAGES), model.eval()(IMAGES))
    # and on with the same training
    assert torch.equal(other.train()(IMAGES), model.train()(IMAGES))


def test_a_deep_copy_is_independent():
    model = normalized_network().eval()
    duplicate = copy.deepcopy(model)
    before = model(IMAGES)
    assert torch.equal(duplicate(IMAGES), before)
    with torch.no_grad():
        for parameter in duplicate.parameters():
            parameter.add_(1)
    duplicate.train()(IMAGES)
    assert torch.equal(model(IMAGES), before)
    assert not torch.equal(duplicate.eval()(IMAGES), before)


def test_a_normalised_model_moves_with_its_singular_vectors():
    model = normalized_network().double()
    assert {buffer.dtype for buffer in buffers_of(model).values()} == {torch.float64}
    assert model(IMAGES.double()).dtype == torch.float64


def test_pickling_is_refused_until_the_normalisation_is_removed():
    model = normalized_network()
    with pytest.raises(RuntimeError, match="only supported through state_dict"):
        pickle.dumps(model)
    pickle.dumps(remove_spectral_normalization(model))


@pytest.mark.parametrize("training", [True, False])
def test_removal_leaves_plain_layers_with_the_weights_of_eval_mode(training):
    plain = small_network()
    model = normalized_network()
    model(IMAGES)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    expected = model.eval()(IMAGES)
    weights = [original_of(model[index]) for index in (0, 3, 5)]
    model.train(training)
    assert remove_spectral_normalization(model) is model
    assert all(module.training is training for module in model.modules())
    assert torch.equal(model.eval()(IMAGES), expected)
    assert [type(layer) for layer in model] == [type(layer) for layer in plain]
    assert list(model.state_dict()) == list(plain.state_dict())
    assert repr(model) == repr(plain)
    for weight, index in zip(weights, (0, 3, 5), strict=True):
        assert model[index].weight is weight
        assert any(weight is held for held in optimizer.param_groups[0]["params"])
    plain.load_state_dict(model.state_dict())
    assert torch.equal(plain.eval()(IMAGES), expected)


@pytest.mark.parametrize("remove_from_the_copy", [True, False])
def test_removal_does_not_touch_copies(remove_from_the_copy):
    model = normalized_network().eval()
    expected = model(IMAGES)
    changed, kept = copy.deepcopy(model), model
    if not remove_from_the_copy:
        changed, kept = kept, changed
    remove_spectral_normalization(changed)
    assert torch.equal(kept(IMAGES), expected)
    assert len(buffers_of(kept)) == 6
    kept.train()(IMAGES).sum().backward()
    assert original_of(kept[0]).grad is not None
    assert torch.equal(changed(IMAGES), expected)
    remove_spectral_normalization(kept)
    assert type(kept[0]) is type(changed[0]) is nn.Conv2d


class Doubled(nn.Module):
    def forward(self, value):
        return 2 * value


def test_parametrizations_of_other_tensors_stay():
    model = small_network()
    parametrize.register_parametrization(model[0], "bias", Doubled())
    expected = model.eval()(IMAGES)
    spectral_normalize(model, 1e3, example_input=IMAGES)
    assert torch.equal(model(IMAGES), expected)
    duplicate = copy.deepcopy(model)
    remove_spectral_normalization(model)
    assert parametrize.is_parametrized(model[0], "bias")
    assert not parametrize.is_parametrized(model[0], "weight")
    assert torch.equal(model(IMAGES), expected)
    assert torch.equal(duplicate(IMAGES), expected)
    parametrize.remove_parametrizations(model[0], "bias")
    assert type(model[0]) is nn.Conv2d
    assert torch.equal(duplicate(IMAGES), expected)


def test_removal_refuses_a_weight_that_others_have_parametrized_since():
    model = normalized_network()
    parametrize.register_parametrization(model[5], "weight", Doubled())
    expected = model.eval()(IMAGES)
    with pytest.raises(
        ValueError, match=r"module: layer '5' \(Linear\) has another parametrization"
    ):
        remove_spectral_normalization(model)
    assert parametrize.is_parametrized(model[0], "weight")
    assert torch.equal(model(IMAGES), expected)


def test_removal_without_any_normalisation_changes_nothing():
    model = small_network().eval()
    expected = model(IMAGES)
    assert torch.equal(remove_spectral_normalization(model)(IMAGES), expected)


@pytest.mark.parametrize(
    ("architecture", "count", "strided"),
    [("resnet18", 21, "layer4.0.conv1"), ("resnet50", 54, "layer4.0.conv2")],
)
def test_torchvision_resnets(architecture, count, strided):
    images = torch.rand(2, 3, 32, 32)
    build = getattr(torchvision.models, architecture)
    model = spectral_normalize(build(), 0.7, example_input=images[:1])
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == count
    assert all(parametrize.is_parametrized(layer, "weight") for layer in layers)
    cross_entropy(model(images), torch.tensor([3, 5])).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())

    expected = model.eval()(images)
    norms = spectral_norms(model)
    assert len(norms) == count
    assert max(norms.values()) <= 0.7 * 1.01
    # The last stage goes from 2 x 2 to one entry, so that few taps of a kernel meet the image.
    for name, taps in [(strided, slice(1, 3)), ("layer4.1.conv2", slice(1, 2))]:
        matrix = model.get_submodule(name).weight.detach()[:, :, taps, taps].flatten(1)
        exact = torch.linalg.svdvals(matrix)[0].item()
        assert norms[name] == pytest.approx(exact, rel=0.01)

    other = spectral_normalize(build(), 0.7, example_input=images[:1])
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(images), expected)
    duplicate = copy.deepcopy(model)
    remove_spectral_normalization(duplicate)
    assert torch.equal(duplicate(images), expected)
    assert torch.equal(model(images), expected)
    with pytest.raises(RuntimeError, match="state_dict"):
        pickle.dumps(model)
    pickle.dumps(duplicate)


def with_second(layer, call=True):
    """A model whose first layer is fine and whose second is the given one."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.fine = nn.Conv2d(1, 1, 3, padding=1)
            self.other = layer

        def forward(self, images):
            images = self.fine(images)
            return self.other(images) if call else images

    return Model()


def tied():
    model = with_second(nn.Conv2d(1, 1, 3))
    model.other.weight = model.fine.weight
    return model


def embedding_tied():
    model = with_second(nn.Linear(5, 7))
    model.embedding = nn.Embedding(7, 5)
    model.embedding.weight = model.other.weight
    return model


def filled(value):
    layer = nn.Linear(5, 2)
    nn.init.constant_(layer.weight, value)
    return layer


def half_normalized():
    return with_second(spectral_normalize(nn.Linear(5, 2)))


def pruned():
    return with_second(prune.l1_unstructured(nn.Linear(5, 2), "weight", 0.5))


REFUSED = {
    "normalised already": (half_normalized, r"'other' \(Linear\) is spectrally normalised already"),
    "parametrized": (
        lambda: with_second(parametrizations.weight_norm(nn.Linear(5, 2))),
        r"'other' \(Linear\) has a weight that something else computes",
    ),
    "weight norm by hooks": (
        lambda: with_second(weight_norm(nn.Linear(5, 2))),
        r"'other' \(Linear\) has a weight that something else computes",
    ),
    "pruned": (pruned, r"'other' \(Linear\) has a weight that something else computes"),
    "tied": (tied, r"'fine' \(Conv2d\) shares its weight between fine\.weight and other\.weight"),
    "tied to an embedding": (
        embedding_tied,
        r"'other' \(Linear\) shares its weight between other\.weight and embedding\.weight",
    ),
    "lazy": (lambda: with_second(nn.LazyConv2d(2, 3)), r"'other\.weight' has no values yet"),
    "lazy batch norm": (
        lambda: with_second(nn.LazyBatchNorm2d()),
        r"'other\.weight' has no values yet",
    ),
    "on the meta device": (
        lambda: with_second(nn.Linear(5, 2, device="meta")),
        r"'other\.weight' has no values yet",
    ),
    "NaN": (
        lambda: with_second(filled(float("nan"))),
        r"'other' \(Linear\) must have a weight of finite real numbers.*with 10 entries",
    ),
    "infinite": (
        lambda: with_second(filled(float("inf"))),
        r"'other' \(Linear\) must have a weight of finite real numbers.*with 10 entries",
    ),
    "complex": (
        lambda: with_second(nn.Linear(5, 2, dtype=torch.complex64)),
        r"'other' \(Linear\) must have a weight of finite real numbers.*complex64",
    ),
    "empty": (
        lambda: with_second(nn.Linear(0, 2)),
        r"'other' \(Linear\) must have a weight of finite real numbers.*\(2, 0\)",
    ),
    "never called": (
        lambda: with_second(nn.Conv2d(1, 1, 3), call=False),
        r"example_input: .* never calls layer 'other' \(Conv2d\)",
    ),
    "failing": (
        lambda: with_second(nn.Linear(9, 2)),
        "example_input: the forward pass on it failed",
    ),
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", list(REFUSED))
def test_refusals_name_the_layer_and_leave_the_model_as_it_was(name):
    build, message = REFUSED[name]
    model = build()
    before, state = snapshot(model), torch.get_rng_state()
    with pytest.raises(ValueError, match=message):
        spectral_normalize(model, example_input=torch.ones(1, 1, 5, 5))
    assert same(snapshot(model), before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"coeff": 0}, ValueError, r"coeff must be a finite number in \(0, inf\), got 0"),
        ({"coeff": -1.0}, ValueError, "coeff must be"),
        ({"coeff": float("nan")}, ValueError, "coeff must be a finite number"),
        ({"coeff": float("inf")}, ValueError, "coeff must be a finite number"),
        ({"coeff": "4"}, TypeError, "coeff must be a number, got str"),
        ({"coeff": True}, TypeError, "coeff must be a number, got bool"),
        ({"n_power_iterations": 0}, ValueError, "n_power_iterations must be"),
        ({"n_power_iterations": 1.5}, TypeError, "n_power_iterations must be an int, got float"),
        ({"example_input": None}, ValueError, r"example_input is needed .*'0' \(Conv2d\)"),
        ({"example_input": [IMAGES]}, TypeError, r"example_input must be .*got list"),
        ({"show_progress": 1}, TypeError, "show_progress must be True, False or None, got int"),
        ({"skip": 1}, TypeError, "skip must be a name or a submodule"),
        ({"skip": "head"}, ValueError, "skip: 'head' is not in the module"),
        ({"module": nn.ReLU()}, ValueError, "module must hold a linear or convolutional layer"),
        ({"module": torch.relu}, TypeError, r"module must be an nn\.Module, got builtin"),
    ],
)
def test_arguments_are_checked(arguments, error, message):
    model = small_network()
    before = snapshot(model)
    arguments = {"module": model, "example_input": IMAGES} | arguments
    with pytest.raises(error, match=message):
        spectral_normalize(arguments.pop("module"), **arguments)
    assert same(snapshot(model), before)


@pytest.mark.parametrize(("value", "bounded"), [(-8.0, -4.0), (3.0, 3.0)])
def test_a_weight_of_a_single_entry_is_bounded_as_any_other(value, bounded):
    layer = nn.Linear(1, 1)
    nn.init.constant_(layer.weight, value)
    assert spectral_normalize(layer).eval().weight.item() == pytest.approx(bounded)


def test_removal_refuses_what_is_no_module():
    with pytest.raises(TypeError, match=r"module must be an nn\.Module, got str"):
        remove_spectral_normalization("model")


@pytest.mark.parametrize(("show_progress", "bars"), [(True, 1), (False, 0), (None, 0)])
def test_a_bar_is_drawn_where_it_is_asked_for(capsys, show_progress, bars):
    normalized_network(show_progress=show_progress)
    drawn = capsys.readouterr().err
    # The end may be drawn twice, once more on closing; the beginning never.
    assert drawn.count("spectral norms:   0%") == bars
    assert bool(re.search("layer/s|s/layer", drawn)) == bool(bars)


def reordered():
    """A network one of whose layers has its bias before its weight, as torch's own undoing leaves.

    (Of a weight norm, a pruning or another parametrization.)
    """
    model = small_network()
    parametrizations.weight_norm(model[3])
    parametrize.remove_parametrizations(model[3], "weight")
    assert list(model[3]._parameters) == ["bias", "weight"]
    return model


def with_parametrized_bias():
    model = small_network()
    parametrize.register_parametrization(model[0], "bias", Doubled())
    return model


class Scaled(nn.Linear):
    def __init__(self):
        super().__init__(100, 5)
        self.scale = nn.Parameter(torch.ones(5))
        self.inner = nn.Linear(5, 5)


def with_more_in_a_layer():
    return nn.Sequential(*small_network()[:5], Scaled())


NETWORKS = {
    "plain": small_network,
    "a layer alone": lambda: nn.Sequential(nn.Flatten(), nn.Linear(25, 5)),
    "without bias": lambda: nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.Conv2d(2, 2, 3)),
    "bias first": reordered,
    "parametrized bias": with_parametrized_bias,
    "more in a layer": with_more_in_a_layer,
}


@pytest.mark.parametrize("name", list(NETWORKS))
@pytest.mark.parametrize("copied", [True, False])
def test_parameters_keep_their_order_when_a_model_is_normalised_and_back(name, copied):
    model = NETWORKS[name]()
    shapes = [parameter.shape for parameter in model.parameters()]
    before = [id(parameter) for parameter in model.parameters()]
    names = [key for key, _ in model.named_parameters()]
    spectral_normalize(model, 0.5, example_input=IMAGES)
    assert [id(parameter) for parameter in model.parameters()] == before
    assert len(set(model.modules())) == len(list(model.modules()))
    assert (
        dict(model.named_modules()).keys()
        == dict(model.named_modules(remove_duplicate=False)).keys()
    )
    if copied:
        model = copy.deepcopy(model)
        assert [parameter.shape for parameter in model.parameters()] == shapes
        before = [id(parameter) for parameter in model.parameters()]
    remove_spectral_normalization(model)
    assert [id(parameter) for parameter in model.parameters()] == before
    assert [key for key, _ in model.named_parameters()] == names
    assert all("named_modules" not in vars(type(module)) for module in model[0:1])


def test_names_of_modules_lead_to_them():
    model = nn.ModuleDict({"body": normalized_network()})
    for name, module in model.named_modules(prefix="model"):
        assert name == "model" or model.get_submodule(name.removeprefix("model.")) is module
    shared = nn.ModuleList([model["body"], model["body"][5]])
    names = [name for name, _ in shared.named_modules(remove_duplicate=False)]
    assert "1.parametrizations.weight.0" in names
    assert len(list(shared.parameters())) == len(list(small_network().parameters()))


def test_a_layer_names_its_modules_as_torch_would():
    layer = nn.Linear(4, 3)
    layer.twice = layer.once = nn.ReLU()
    spectral_normalize(layer)
    for arguments in ({}, {"remove_duplicate": False}, {"prefix": "head"}):
        found = dict(layer.named_modules(**arguments))
        assert found == dict(nn.Module.named_modules(layer, **arguments))
    assert len(list(layer.named_modules())) == len(set(layer.modules()))


def step(model, optimizer):
    optimizer.zero_grad()
    model(IMAGES).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("first", ["plain", "normalised"])
def test_the_state_of_adam_goes_on_when_a_model_is_normalised_or_no_longer(first):
    def moments_by_shape(optimizer):
        return [
            (parameter.shape, optimizer.state[parameter]["exp_avg"].clone())
            for parameter in optimizer.param_groups[0]["params"]
        ]

    model = small_network() if first == "plain" else normalized_network()
    optimizer = torch.optim.Adam(model.parameters())
    step(model, optimizer)
    by_name = {
        name.replace("parametrizations.weight.original", "weight"): optimizer.state[parameter][
            "exp_avg"
        ].clone()
        for name, parameter in model.named_parameters()
    }
    saved = optimizer.state_dict()
    other = normalized_network() if first == "plain" else remove_spectral_normalization(model)
    again = torch.optim.Adam(other.parameters())
    again.load_state_dict(saved)
    for name, parameter in other.named_parameters():
        name = name.replace("parametrizations.weight.original", "weight")
        assert torch.equal(again.state[parameter]["exp_avg"], by_name[name])
    step(other, again)


def test_a_layer_of_equal_bias_and_weight_keeps_its_moments_apart():
    """Where the shapes agree, a wrong order would not even raise."""
    layer = spectral_normalize(nn.Conv1d(1, 1, 1), 0.5)
    optimizer = torch.optim.Adam(layer.parameters())
    (3 * layer.bias.sum() + 0 * layer.weight.sum()).backward()
    optimizer.step()
    again = torch.optim.Adam(remove_spectral_normalization(layer).parameters())
    again.load_state_dict(optimizer.state_dict())
    assert again.state[layer.bias]["exp_avg"].item() == pytest.approx(0.3)
    assert again.state[layer.weight]["exp_avg"].abs().item() == 0


class TrainingHead(nn.Module):
    """A head that only training mode calls, as Inception has."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(1, 2, 3)
        self.aux = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Flatten(), nn.Linear(2, 2))
        self.fc = nn.Linear(2, 2)

    def forward(self, images):
        features = self.body(images)
        scores = self.fc(features.mean((2, 3)))
        return (scores, self.aux(features)) if self.training else scores


def test_a_head_that_only_training_calls_is_left_out_by_the_name_that_the_message_gives():
    model = TrainingHead()
    with pytest.raises(ValueError, match=r"never calls .*'aux\.0'.* skip=\['aux\.0'\]"):
        spectral_normalize(model, 0.1, example_input=IMAGES)
    weight = model.aux[0].weight
    spectral_normalize(model, 0.1, example_input=IMAGES, skip=["aux.0"])
    assert model.aux[0].weight is weight
    assert set(spectral_norms(model, skip="aux.0")) == {"body", "aux.2", "fc"}
    scores, auxiliary = model.train()(IMAGES)
    (scores.sum() + auxiliary.sum()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert largest_singular_value(model.body, model.eval().body.weight, (5, 5)) == pytest.approx(
        0.1, rel=0.01
    )


def test_parts_may_have_bounds_of_their_own():
    model = small_network()
    spectral_normalize(model[5], 0.2)
    spectral_normalize(model, 0.4, example_input=IMAGES, skip=model[5])
    model.eval()
    assert spectral_norms(model) == pytest.approx({"0": 0.4, "3": 0.4, "5": 0.2}, rel=0.01)


# These do not run, whatever is bounded.
UNUSABLE = ("lazy", "lazy batch norm", "on the meta device", "complex", "empty", "failing")


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", [name for name in REFUSED if name not in UNUSABLE])
def test_what_is_refused_can_be_left_out(name):
    model = REFUSED[name][0]()
    skip = ["fine", "other"] if name == "tied" else "other"
    model.more = nn.Linear(2, 2)
    spectral_normalize(model, 0.1, example_input=torch.ones(1, 1, 5, 5), skip=skip)
    assert parametrize.is_parametrized(model.more, "weight")
    assert parametrize.is_parametrized(model.fine, "weight") is (name != "tied")


@pytest.mark.parametrize(
    ("architecture", "size", "skip", "left_out"),
    [("inception_v3", 75, "AuxLogits", 3), ("googlenet", 32, None, 0)],
)
def test_torchvision_models_with_training_heads(architecture, size, skip, left_out):
    model = getattr(torchvision.models, architecture)(
        weights=None, init_weights=False, num_classes=3
    )
    before = [id(parameter) for parameter in model.parameters()]
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    images = torch.rand(1, 3, size, size)
    spectral_normalize(model, 0.7, example_input=images, skip=skip)
    bounded = [layer for layer in layers if parametrize.is_parametrized(layer, "weight")]
    assert len(layers) - len(bounded) == left_out
    assert [id(parameter) for parameter in model.parameters()] == before
    assert max(spectral_norms(model, skip=skip).values()) < 0.7 * 1.01


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_other_paddings_are_bounded_as_they_are(mode):
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1, padding_mode=mode),
        nn.Conv2d(3, 2, 3, padding=2, padding_mode=mode),
    )
    spectral_normalize(model, 0.3, example_input=IMAGES).train()
    for _ in range(3):
        model(IMAGES).sum().backward()
    model.eval()
    for layer in model:
        sigma = largest_singular_value(layer, layer.weight, (5, 5))
        assert sigma == pytest.approx(0.3, rel=0.01)

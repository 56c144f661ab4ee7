"""A frozen model reads what it should and leaves everything as it was."""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import threading
import warnings
import weakref

import pytest
import torch
from torch import Tensor, nn

from captum_deduce import spectral_normalize
from captum_deduce.classifiers import FrozenModel, modules_of


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(144, 3),
    )


IMAGES = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("by_name", [False, True])
def test_the_layers_output_of_the_same_forward_pass(by_name):
    model = network().eval()
    expected = model[:3](IMAGES).flatten(1)
    with FrozenModel(model, "2" if by_name else model[2]) as frozen:
        scores, features = frozen(IMAGES)
    torch.testing.assert_close(features, expected)
    torch.testing.assert_close(scores, model(IMAGES))


def test_a_layer_whose_output_is_overwritten_in_place_is_read_before():
    model = network().eval()
    expected = model[:2](IMAGES).flatten(1)
    assert (expected < 0).any()
    with FrozenModel(model, model[1]) as frozen:
        _, features = frozen(IMAGES)
    torch.testing.assert_close(features, expected)


def test_without_a_layer_features_are_empty():
    with FrozenModel(network()) as frozen:
        _, features = frozen(IMAGES)
    assert features.shape == (5, 0)


def test_gradients_flow_through_scores_and_features():
    model = network().eval().double()
    images = IMAGES[:1].double().requires_grad_()
    with FrozenModel(model, model[3]) as frozen:
        assert torch.autograd.gradcheck(frozen, (images,))


def snapshot(model: nn.Module) -> list[object]:
    return [
        [(name, m.training) for name, m in model.named_modules()],
        [len(m._forward_hooks) for m in model.modules()],
        [(n, p.requires_grad, p.grad is None, p._version) for n, p in model.named_parameters()],
        {n: v.clone() for n, v in model.state_dict().items()},
    ]


def assert_same(before: list[object], after: list[object]) -> None:
    assert before[:3] == after[:3]
    torch.testing.assert_close(before[3], after[3], rtol=0, atol=0)


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("normalized", [False, True])
def test_the_model_is_left_as_it_was_found(error, normalized):
    model = network().train()
    if normalized:
        spectral_normalize(model, coeff=0.5, example_input=IMAGES)
    model[1].eval()
    model[0].bias.requires_grad_(False)
    before = snapshot(model)

    def search() -> None:
        with FrozenModel(model, model[2]) as frozen:
            assert not any(m.training for m in model.modules())
            frozen(IMAGES)
            if error:
                raise error

    if error:
        with pytest.raises(error):
            search()
    else:
        search()
    assert_same(before, snapshot(model))


def test_a_model_inside_any_callable_is_set_to_eval_mode():
    model = network().train()

    class Wrapper:
        def __init__(self) -> None:
            self.inner = model

        def __call__(self, x: Tensor) -> Tensor:
            return self.inner(x)

        def scores(self, x: Tensor) -> Tensor:
            return self.inner(x)

    def scaled(x: Tensor, scale: float) -> Tensor:
        return model(x) * scale

    callables = [
        model,
        model.forward,
        lambda x: model(x),
        functools.partial(scaled, scale=2.0),
        functools.partial(model),
        Wrapper(),
        Wrapper().scores,
    ]
    for forward_func in callables:
        assert modules_of(forward_func) == [model]
        with FrozenModel(forward_func, model[3]) as frozen:
            assert not model[1].training
            frozen(IMAGES)
        assert model[1].training
    assert modules_of(torch.sum) == []


class Odd(nn.Module):
    """A model with layers that give no usable features."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.ReLU()
        self.never = nn.ReLU()
        self.pair = Pair()
        self.lone = Lone()
        self.integer = Integer()
        self.mixed = Mixed()
        self.fc = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.pair(x)
        self.integer(x)
        self.mixed(x)
        (x,) = self.lone(x)
        return self.fc(self.twice(self.twice(x)).flatten(1))


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Lone(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (x,)


class Integer(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.long()


class Mixed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten()


@pytest.mark.parametrize(
    ("layer", "error", "message"),
    [
        ("twice", ValueError, "layer ran 2 times"),
        ("never", ValueError, "layer ran 0 times"),
        ("pair", TypeError, "layer must output a tensor, got tuple"),
        ("integer", ValueError, "torch.int64"),
        ("mixed", ValueError, r"one per image, got shape \(320,\)"),
    ],
)
def test_layers_without_usable_output(layer, error, message):
    model = Odd()
    with FrozenModel(model, layer) as frozen, pytest.raises(error, match=message):
        frozen(IMAGES)
    assert not any(m._forward_hooks for m in model.modules())


def test_an_output_in_a_tuple_of_one_is_read():
    with FrozenModel(Odd(), "lone") as frozen:
        _, features = frozen(IMAGES)
    torch.testing.assert_close(features, IMAGES.flatten(1))


def test_a_part_that_spreads_over_several_devices_is_refused():
    spread = nn.DataParallel(nn.Linear(64, 4))
    inside = nn.Sequential(nn.Flatten(), spread)
    for forward_func in (spread, inside, lambda x: spread(x.flatten(1))):
        with pytest.raises(ValueError, match=r"wrapped in DataParallel.*\.module"):
            FrozenModel(forward_func)


def test_half_precision_scores_are_widened():
    with FrozenModel(lambda x: x.flatten(1).half()) as frozen:
        assert frozen(IMAGES)[0].dtype == torch.float32


def test_additional_arguments_follow_the_inputs():
    with FrozenModel(lambda x, scale, shift: x.flatten(1) * scale + shift) as frozen:
        scores, _ = frozen(IMAGES, (2.0, 1.0))
    torch.testing.assert_close(scores, IMAGES.flatten(1) * 2 + 1)


def test_two_threads_read_their_own_features_and_the_last_restores_the_mode():
    model = network().train()
    first_is_in, second_is_done = threading.Event(), threading.Event()
    read: dict[str, Tensor] = {}

    def long_search() -> None:
        with torch.no_grad(), FrozenModel(model, model[3]) as frozen:
            first_is_in.set()
            second_is_done.wait(10)
            assert not model[1].training
            read["long"] = frozen(IMAGES[:2])[1]

    thread = threading.Thread(target=long_search)
    thread.start()
    first_is_in.wait(10)
    with torch.no_grad(), FrozenModel(model, model[3]) as frozen:
        read["short"] = frozen(IMAGES[2:])[1]
    assert not model[1].training, "the other thread still searches"
    second_is_done.set()
    thread.join()
    assert model.training
    assert model[1].training
    expected = copy.deepcopy(model).eval()[:4](IMAGES)
    torch.testing.assert_close(torch.cat([read["long"], read["short"]]), expected)


def test_nothing_keeps_a_model_alive():
    model = network()
    with FrozenModel(model, model[3]) as frozen:
        frozen(IMAGES)
    gone = weakref.ref(model)
    del model, frozen
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("fails", [False, True])
def test_companions_are_frozen_and_left_as_they_were(fails):
    model, beside = nn.Linear(4, 3), nn.Sequential(nn.Dropout(), nn.Linear(4, 4)).train()
    beside[1].eval()
    spectral_normalize(beside, coeff=0.1, example_input=torch.zeros(1, 4))
    with (
        contextlib.suppress(KeyboardInterrupt),
        FrozenModel(model, companions=[lambda x: beside(x), beside[1]]) as frozen,
    ):
        assert not beside.training
        assert beside[1].weight is beside[1].weight
        assert not beside[1].weight.requires_grad
        assert frozen.modules == [model]
        if fails:
            raise KeyboardInterrupt
    assert beside.training
    assert beside[0].training
    assert not beside[1].training
    assert beside[1].weight.requires_grad


# --- what a function runs is observed ---


class Learner:
    """As training frameworks have it: the model is an attribute of something that is no module."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model


def dropping() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(144, 3),
    )


unrelated = nn.Linear(1, 1)
hidden = {"resnet": dropping()}


def logits(inputs: Tensor) -> Tensor:
    return hidden["resnet"](inputs)


def log_probabilities(inputs: Tensor) -> Tensor:
    return logits(inputs).log_softmax(1)


class Unregistered(nn.Module):
    """A module that keeps another one where PyTorch does not see it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.parts = {"inner": inner}

    def forward(self, inputs: Tensor) -> Tensor:
        return self.parts["inner"](inputs)


class OneByOne:
    """A callable without attributes that are modules."""

    def __call__(self, inputs: Tensor) -> Tensor:
        for layer in hidden["resnet"]:
            inputs = layer(inputs)
        return inputs


learner = Learner(hidden["resnet"])
HIDDEN = {
    "learner": lambda x: learner.model(x),
    "learner's method": lambda x: learner.model.forward(x),
    "dict": lambda x: hidden["resnet"](x),
    "function that calls a function": log_probabilities,
    "decorated": torch.autocast("cpu", enabled=False)(lambda x: hidden["resnet"](x)),
    "attribute of an object": type("Service", (), {"__call__": lambda self, x: logits(x)})(),
    "unregistered part": Unregistered(hidden["resnet"]),
    "layer by layer": OneByOne(),
    "partial of a function": functools.partial(log_probabilities),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_models_are_in_eval_mode_before_they_compute_anything(name):
    model = hidden["resnet"].train()
    model[2].eval()
    before = snapshot(model)
    random_state = torch.get_rng_state()
    with torch.no_grad(), FrozenModel(HIDDEN[name]) as frozen:
        first = frozen(IMAGES)[0]
        again = frozen(IMAGES)[0]
        assert not any(part.training for part in model if part is not model)
    assert_same(before, snapshot(model))
    assert torch.equal(torch.get_rng_state(), random_state)
    with torch.no_grad():
        expected = copy.deepcopy(model).eval()(IMAGES)
    for found in (first, again):
        torch.testing.assert_close(found.softmax(1), expected.softmax(1))


def test_an_unrelated_global_with_the_name_of_an_attribute_is_not_taken_for_the_model():
    assert modules_of(lambda x: learner.unrelated(x)) == []
    assert modules_of(lambda x: unrelated(x)) == [unrelated]


def test_a_module_that_first_runs_in_a_later_batch_is_frozen_then():
    experts = [dropping().train(), dropping().train()]
    turn = iter([0, 1])
    with torch.no_grad(), FrozenModel(lambda x: Learner(experts[next(turn)]).model(x)) as frozen:
        frozen(IMAGES)
        late = frozen(IMAGES)[0]
    assert all(expert.training and expert[3].training for expert in experts)
    with torch.no_grad():
        torch.testing.assert_close(late, copy.deepcopy(experts[1]).eval()(IMAGES))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_hidden_models_are_restored_after_an_error_too(error):
    model = dropping().train()

    def broken(inputs: Tensor) -> Tensor:
        Learner(model).model(inputs)
        raise error

    with pytest.raises(error), FrozenModel(broken) as frozen:
        frozen(IMAGES)
    assert all(part.training for part in model.modules())
    assert not torch.nn.modules.module._global_forward_pre_hooks


def test_layers_by_name_are_found_in_what_a_function_runs():
    model = hidden["resnet"].eval()
    expected = model[:5](IMAGES)
    with torch.no_grad(), FrozenModel(log_probabilities, "4") as frozen:
        for _ in range(2):
            torch.testing.assert_close(frozen(IMAGES)[1], expected)
        assert frozen.layer is model[4]
        assert frozen.modules == [model]
    assert not any(part._forward_hooks for part in model.modules())


def test_a_layers_name_that_fits_none_or_several_modules_is_refused_at_the_first_call():
    other = network().eval()
    message = r"'avgpool' is not in the model.*0, 1, 2, 3, 4, 5"
    with (
        FrozenModel(log_probabilities, "avgpool") as frozen,
        pytest.raises(ValueError, match=message),
    ):
        frozen(IMAGES)
    both = FrozenModel(lambda x: logits(x) + Learner(other).model(x), "4")
    with both as frozen, pytest.raises(ValueError, match="runs 2 modules that have one of this"):
        frozen(IMAGES)


def test_modules_of_other_threads_are_left_alone():
    mine, theirs = network().train(), network().train()
    modes, entered, done = [], threading.Event(), threading.Event()

    def train() -> None:
        entered.wait(10)
        theirs(IMAGES)
        modes.append(theirs[1].training)
        done.set()

    thread = threading.Thread(target=train)
    thread.start()
    with torch.no_grad(), FrozenModel(lambda x: Learner(mine).model(x)) as frozen:
        frozen(IMAGES)
        entered.set()
        done.wait(10)
    thread.join()
    assert modes == [True]


def test_hidden_companions_are_frozen_too_and_not_taken_for_the_model():
    model, beside = network().train(), dropping().train()
    with torch.no_grad(), FrozenModel(model, companions=[lambda x: Learner(beside).model(x)]) as f:
        first = Learner(beside).model(IMAGES)
        assert f.modules == [model]
    assert beside.training
    with torch.no_grad():
        torch.testing.assert_close(first, copy.deepcopy(beside).eval()(IMAGES))


def test_a_name_is_found_where_a_function_names_several_modules():
    net, norm = network().eval(), nn.Identity()
    body, head = nn.Sequential(net[:4]), nn.Sequential(net[4])
    for forward_func, name in (
        (lambda x: net(norm(x)), "3"),
        (lambda x: head(body(x)), "0.3"),
        (functools.partial(lambda first, second, x: second(first(x)), norm, net), "3"),
    ):
        frozen = FrozenModel(forward_func, name)
        for _ in range(2):  # it may be entered again
            with torch.no_grad(), frozen:
                torch.testing.assert_close(frozen(IMAGES)[1], net[:4](IMAGES))
    again = FrozenModel(log_probabilities, "4")
    for _ in range(2):
        with torch.no_grad(), again:
            assert again(IMAGES)[1].shape == (5, 144)


def test_hidden_experts_are_frozen_whenever_they_are_first_called():
    class Mixture(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = [dropping().train(), dropping().train()]

        def forward(self, inputs: Tensor) -> Tensor:
            return torch.cat([self.experts[int(i.mean() > 0.5)](i[None]) for i in inputs])

    model = Mixture()
    dark, bright = IMAGES * 0.3, IMAGES * 0.3 + 0.6
    with torch.no_grad(), FrozenModel(model) as frozen:
        frozen(dark)
        late = frozen(bright)[0]
    assert all(expert.training for expert in model.experts)
    with torch.no_grad():
        torch.testing.assert_close(late, model.experts[1].eval()(bright))


def _compiled_in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="eager")
    return model


def _with_a_compiled_forward(model: nn.Module) -> nn.Module:
    outer = Unregistered(model)
    outer.forward = torch.compile(outer.forward, backend="eager")
    return outer


def _compile(model):
    return torch.compile(model, backend="eager")


COMPILED = {
    "in a learner": lambda model: lambda x: Learner(_compile(model)).model(x),
    "in place, in a learner": lambda model: lambda x: Learner(_compiled_in_place(model)).model(x),
    "unregistered": lambda model: Unregistered(_compile(model)),
    "in place, unregistered": lambda model: Unregistered(_compiled_in_place(model)),
    "around what hides it": lambda model: _compile(Unregistered(model)),
    "a forward": _with_a_compiled_forward,
    "a function": lambda model: _compile(lambda x: {"net": model}["net"](x)),
    "a function behind another": lambda model: functools.partial(
        lambda call, x: call[0](x), [_compile(lambda x: Learner(model).model(x))]
    ),
    "beside it": lambda model: nn.Sequential(_compile(nn.Identity()), Unregistered(model)),
}


@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="needs PyTorch 2.6")
@pytest.mark.filterwarnings("ignore:Using .torch.compile")
@pytest.mark.parametrize("name", COMPILED)
def test_models_that_compiled_code_hides_are_in_eval_mode(name):
    torch.compiler.reset()
    model = dropping().train()
    model[2].eval()
    forward_func = COMPILED[name](model)
    before = snapshot(model)
    with torch.no_grad(), FrozenModel(forward_func) as frozen:
        scores = [frozen(IMAGES)[0] for _ in range(2)]
    assert_same(before, snapshot(model))
    with torch.no_grad():
        expected = copy.deepcopy(network_of(model)).eval()(IMAGES)
    for found in scores:
        torch.testing.assert_close(found, expected)


@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="needs PyTorch 2.6")
@pytest.mark.filterwarnings("ignore:Using .torch.compile")
def test_layers_of_compiled_models_and_hidden_compiled_companions():
    torch.compiler.reset()
    model, beside = dropping().train(), dropping().train()
    expected, other = (network_of(each).eval()[:5](IMAGES) for each in (model, beside))
    for each in (model, beside):
        each.train()
    compiled = _compile(model)
    compiled.eval()(IMAGES)  # compiled before there is a hook on the layer
    model.train()
    for layer in ("_orig_mod.4", model[4]):
        with torch.no_grad(), FrozenModel(compiled, layer) as frozen:
            for _ in range(2):
                torch.testing.assert_close(frozen(IMAGES)[1], expected)
    companion = _compile(lambda x: Learner(beside).model[:5](x))
    with torch.no_grad(), FrozenModel(model, companions=[companion]):
        torch.testing.assert_close(companion(IMAGES), other)
    assert all(part.training for part in (*model.modules(), *beside.modules()))


def network_of(model: nn.Sequential) -> nn.Sequential:
    """The same layers, not compiled."""
    return nn.Sequential(*model)


def test_a_compiled_model_is_searched_without_a_warning():
    model = dropping().train()
    compiled = torch.compile(model, backend="eager")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        with FrozenModel(compiled) as frozen:
            frozen(IMAGES)
            frozen(IMAGES)
    assert all(part.training for part in model.modules())


def test_modules_that_are_not_the_models_are_left_alone():
    augmentation, model = nn.Dropout(0.5), network()
    with torch.no_grad(), FrozenModel(lambda x: model(x)) as frozen:
        assert (augmentation(torch.ones(100)) == 0).any()
        frozen(IMAGES)


def test_callables_that_contain_themselves_end():
    class Pipeline:
        def __init__(self) -> None:
            self.net = network()
            self.steps = [self.scale, self.net]

        def scale(self, inputs: Tensor) -> Tensor:
            return inputs * 2 - 1

        def __call__(self, inputs: Tensor) -> Tensor:
            for step in self.steps:
                inputs = step(inputs)
            return inputs

    pipeline = Pipeline()
    assert modules_of(pipeline) == [pipeline.net]


def test_a_shape_that_does_not_fit_is_not_blamed_on_the_dtype():
    half = network().bfloat16()
    large = torch.rand(2, 1, 9, 9)
    model = FrozenModel(lambda x: half(x.bfloat16()))
    with model as frozen, pytest.raises(RuntimeError, match="shapes"):
        frozen(large)


def folding(images: Tensor) -> nn.Sequential:
    model = network().to(images)
    model[1].running_mean.fill_(0.2)
    model[1].running_var.fill_(2.0)
    return model


@pytest.mark.parametrize("by_name", [False, True])
def test_a_quick_copy_gives_the_models_scores_and_features(by_name):
    model = folding(IMAGES.double())
    state = snapshot(model)
    with FrozenModel(model, "3" if by_name else model[3]) as frozen:
        assert frozen.use_quick_copy(IMAGES[:2].double()) == ["1"]
        scores, features = frozen(IMAGES.double())
        assert not any(part.training for part in model.modules())
    assert_same(state, snapshot(model))
    model.eval()
    torch.testing.assert_close(scores, model(IMAGES.double()))
    torch.testing.assert_close(features, model[:4](IMAGES.double()))


def test_a_quick_copy_is_gone_after_the_block_and_may_be_made_again():
    model = folding(IMAGES)
    frozen = FrozenModel(model)
    for _ in range(2):
        with frozen:
            assert frozen.use_quick_copy(IMAGES) == ["1"]
            copied = weakref.ref(frozen._quick)
        gc.collect()
        assert copied() is None


def test_hooks_run_with_the_model_itself():
    model, seen = folding(IMAGES), []
    model[2].register_forward_hook(lambda module, _, __: seen.append(module))
    with FrozenModel(model) as frozen:
        assert frozen.use_quick_copy(IMAGES) is None
        frozen(IMAGES)
    assert seen == [model[2]]


class Awkward(nn.Sequential):
    """Draws noise, or takes maps in one layout only, as a user's model may."""

    how = ""

    def forward(self, inputs: Tensor) -> Tensor:
        if self.how == "view":  # needs maps in the usual layout
            return self[4](self[:3](inputs).view(len(inputs), -1))
        if self.how == "noise":
            inputs = inputs + torch.randn_like(inputs)
        return super().forward(inputs)


@pytest.mark.parametrize("how", ["view", "noise"])
def test_a_copy_that_does_not_give_the_same_is_not_used(how):
    model = Awkward(*folding(IMAGES))
    model.how = how
    with FrozenModel(model) as frozen:
        assert frozen.use_quick_copy(IMAGES) is None
        frozen(IMAGES)


class Elsewhere(nn.Module):
    """The convolution of bright images is not followed by the norm."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.conv, self.norm, self.error = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), error

    def forward(self, inputs: Tensor) -> Tensor:
        if self.error is not None and len(inputs) > 2:
            raise self.error
        maps = self.conv(inputs)
        return (maps if inputs.mean() > 1 else self.norm(maps)).amax((2, 3))


def test_where_a_copy_fails_the_model_itself_runs():
    model = Elsewhere().eval()
    model.norm.running_mean.fill_(3.0)
    with FrozenModel(model, model.conv) as frozen:
        assert frozen.use_quick_copy(IMAGES) == []
    with FrozenModel(model) as frozen:
        assert frozen.use_quick_copy(IMAGES) == ["norm"]
        torch.testing.assert_close(frozen(IMAGES)[0], model(IMAGES))
        for images in (IMAGES + 1, IMAGES):
            assert torch.equal(frozen(images)[0], model(images))


def test_a_copy_that_runs_out_of_memory_stays_in_use():
    model = Elsewhere(torch.cuda.OutOfMemoryError("CUDA out of memory")).eval()
    with FrozenModel(model) as frozen:
        assert frozen.use_quick_copy(IMAGES[:2]) == ["norm"]
        with pytest.raises(torch.cuda.OutOfMemoryError):
            frozen(IMAGES)
        assert not torch.equal(frozen(IMAGES[:2])[0], model(IMAGES[:2]))
        torch.testing.assert_close(frozen(IMAGES[:2])[0], model(IMAGES[:2]))


def test_autocast_does_not_stand_in_the_way_of_a_copy():
    model = folding(IMAGES).eval()
    with torch.autocast("cpu", torch.bfloat16), FrozenModel(model) as frozen:
        assert frozen.use_quick_copy(IMAGES) == ["1"]
        scores, _ = frozen(IMAGES)
    torch.testing.assert_close(scores, model(IMAGES), rtol=0.05, atol=0.05)

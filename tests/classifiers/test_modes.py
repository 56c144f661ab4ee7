from __future__ import annotations

import pytest
import torch
from torch import nn

from captum_deduce.classifiers import FrozenModel, eval_mode
from tests.classifiers.test_frozen import IMAGES, network


@pytest.mark.parametrize("wrapper_first", [False, True])
def test_a_part_is_in_eval_mode_until_the_last_that_holds_it_is_done(wrapper_first):
    """A model, and a wrapper of it, searched at the same time."""
    model = network().train()
    model[3].eval()
    wrapper = nn.Sequential(model, nn.Identity())
    before = [part.training for part in wrapper.modules()]
    first, second = (wrapper, model) if wrapper_first else (model, wrapper)
    held, still_held = FrozenModel(first), FrozenModel(second)
    held.__enter__()
    still_held.__enter__()
    held.__exit__(None, None, None)
    assert not any(part.training for part in model.modules())
    still_held.__exit__(None, None, None)
    assert [part.training for part in wrapper.modules()] == before


class Merging(nn.Module):
    """Its ``train`` does more than set a flag, as that of low-rank adapters does."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[bool] = []

    def train(self, mode: bool = True) -> Merging:
        self.calls.append(mode)
        return super().train(mode)


class Refusing(Merging):
    """As exported modules are."""

    def train(self, mode: bool = True) -> Merging:
        raise NotImplementedError("an exported module has one mode")


@pytest.mark.parametrize("kind", [Merging, Refusing])
def test_nobodys_train_or_eval_is_called(kind):
    part = kind()
    model = nn.Sequential(nn.BatchNorm2d(1), part)
    model.calls = None
    part.calls.clear()
    with eval_mode(model):
        assert not any(each.training for each in model.modules())
    assert all(each.training for each in model.modules())
    assert part.calls == []


def test_parts_of_an_exported_program_do_not_stand_in_the_way():
    head = torch.export.export(nn.Linear(64, 3), (torch.rand(2, 64),)).module()
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), head)
    with pytest.raises((AssertionError, RuntimeError)), eval_mode(model):  # torch 2.4: the latter
        model(torch.rand(2, 1, 8, 9))  # of another size than was exported
    assert model.training
    assert model[0].training
    with eval_mode(model):
        assert not model[0].training
    assert model[0].training, "an error must not leave it held for ever"


@pytest.mark.parametrize("frozen", [False, True])
def test_scripts_have_their_mode_restored_and_frozen_ones_have_none(frozen):
    script = torch.jit.script(nn.Sequential(nn.Dropout(), nn.Flatten()).train(not frozen))
    if frozen:
        script = torch.jit.freeze(script)
    model = nn.Sequential(script, nn.Dropout())
    with eval_mode(model):
        assert torch.equal(model(IMAGES), IMAGES.flatten(1))
    assert model[1].training
    if not frozen:
        assert model[0].training


def test_the_flag_that_a_compiled_module_borrows_is_restored():
    model = network().train()
    model[3].eval()
    before = [part.training for part in model.modules()]
    compiled = nn.Sequential(torch.compile(model, backend="eager"))
    inner, outer = eval_mode(model), eval_mode(compiled)
    outer.__enter__()
    inner.__enter__()
    assert not any(part.training for part in model.modules())
    outer.__exit__(None, None, None)
    assert not any(part.training for part in model.modules()), "still held itself"
    inner.__exit__(None, None, None)
    assert [part.training for part in model.modules()] == before
    assert compiled.training

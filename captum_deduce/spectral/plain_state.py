"""A plain model's state dict, loaded into a normalised model."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.utils import parametrize

from captum_deduce.spectral.bound import SpectralBound


def accept_plain_weight(layer: Any) -> None:
    """Let ``load_state_dict`` take what a plain layer's ``state_dict`` holds.

    A weight that is loaded so gets singular vectors of its own, as if the plain layer had been
    normalised with it.

    Args:
        layer (nn.Module): A spectrally normalised layer.
    """
    # With an underscore, as torch's own weight_norm: the public name came after torch 2.4.
    layer._register_load_state_dict_pre_hook(_rename_plain_weight, with_module=True)


def stop_accepting_plain_weight(layer: Any) -> None:
    """Undo :func:`accept_plain_weight`.

    Args:
        layer (nn.Module): The layer, or a deep copy of it.
    """
    hooks = layer._load_state_dict_pre_hooks
    # By the function: a copy's hooks have the numbers of those that they were copied from.
    for number in [n for n, hook in hooks.items() if hook.hook is _rename_plain_weight]:
        del hooks[number]


def _rename_plain_weight(layer: Any, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    plain, own = f"{prefix}weight", f"{prefix}parametrizations.weight."
    if plain not in state_dict or any(key.startswith(own) for key in state_dict):
        return
    parametrized = parametrize.is_parametrized(layer, "weight")
    bounds = list(layer.parametrizations["weight"]) if parametrized else []
    if len(bounds) != 1 or not isinstance(bounds[0], SpectralBound):
        return  # Others have removed it, or have put theirs on top: torch says what it misses.
    weight, bound = state_dict.pop(plain), bounds[0]
    u, v = bound.u, bound.v
    fits = isinstance(weight, Tensor) and weight.is_floating_point()
    if fits and weight.shape == bound.weight_shape:
        u, v = bound.vectors(weight.to(v.device))
    state_dict |= {f"{own}original": weight, f"{own}0.u": u, f"{own}0.v": v}

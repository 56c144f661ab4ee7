"""Blocks in which normalised layers use other weights than the bounded ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from captum_deduce.spectral.bound import Held, bounded_layers, held_weight, hold


@contextmanager
def frozen_spectral_weights(module: nn.Module) -> Iterator[None]:
    """Compute bounded weights once, for a search that runs the model many times.

    Inside the ``with`` block every spectrally normalised layer below ``module`` uses one detached
    weight, computed on entry as eval mode computes it, so that a step costs what it costs with
    plain layers. Changes of the parameters meanwhile have no effect, and no gradient reaches them.
    This holds in the thread that entered the block and in no other, so that several may search the
    same model at a time. Blocks may be nested. Nothing stays after the block, whatever ends it.

    Args:
        module (nn.Module): A model, spectrally normalised or not.

    Raises:
        TypeError: ``module`` is no module.

    Examples::

        >>> from captum_deduce.spectral import spectral_normalize
        >>> model = spectral_normalize(nn.Linear(4, 2), coeff=.5).eval()
        >>> with frozen_spectral_weights(model):
        ...     model.weight.requires_grad, model.weight is model.weight
        (False, True)
    """
    weights = {}
    with torch.no_grad():
        for layer, bound in bounded_layers(module).values():
            original = layer.parametrizations["weight"].original
            held = held_weight(bound, original)
            if held is None or held is original:
                held = bound.bounded(original)
            weights[bound] = Held(original, held)
    with hold(weights):
        yield


@contextmanager
def unbounded_weights(module: nn.Module) -> Iterator[None]:
    """Let ``nn.init`` and other writes in place reach the layers' own weights.

    The weight of a spectrally normalised layer is computed at each access, so that
    ``nn.init.orthogonal_(layer.weight)`` writes into a tensor that nobody uses again. Inside the
    ``with`` block ``layer.weight`` is the layer's own parameter, without the bound, and may be
    written into. At its end the bound applies again, with singular vectors that are taken anew
    where a weight has changed: a weight whose norm is within the bound is kept exactly, another is
    scaled down to it. A single weight may be assigned without a block: ``layer.weight = tensor``.

    The model is not to be run in the block, as it has no bound there. It holds in the thread that
    entered it.

    Args:
        module (nn.Module): A model, spectrally normalised or not.

    Raises:
        TypeError: ``module`` is no module.

    Examples::

        >>> from captum_deduce.spectral import spectral_normalize
        >>> model = spectral_normalize(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), coeff=2.0)
        >>> with unbounded_weights(model):
        ...     for layer in model:
        ...         _ = nn.init.constant_(layer.weight, 0.5)
        >>> model[1].weight.detach().unique()
        tensor([0.5000])
    """
    bounds = {
        bound: layer.parametrizations["weight"].original
        for layer, bound in bounded_layers(module).values()
    }
    before = {bound: weight.detach().clone() for bound, weight in bounds.items()}
    try:
        with hold({bound: Held(weight, weight) for bound, weight in bounds.items()}):
            yield
    finally:
        for bound, weight in bounds.items():
            if not torch.equal(weight, before[bound]):
                bound.aim(weight)

"""Whether a model can be cut in two at a layer: nothing goes past it to the rest."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from captum_deduce.classifiers.frozen import FrozenModel
from captum_deduce.classifiers.quick import same_outputs


def is_cut(
    model: FrozenModel,
    inputs: Tensor,
    additional_forward_args: tuple[Any, ...] = (),
    *,
    one_input: bool = False,
) -> bool:
    """Try whether a model's scores follow from what its layer outputs, and from that alone.

    The scores of each of two inputs are computed from its features and the *other* input. They are
    the same, but for rounding, unless something goes past the layer, as a skip connection around
    it.

    Args:
        model (FrozenModel): With a layer, ready to be called.
        inputs (Tensor): 2 x ..., different ones.
        additional_forward_args (tuple, optional): As for the call. Default: ()
        one_input (bool, optional): Try it with a single input for both features, as saves the
            layers before: some models reshape by the number of inputs. Default: False

    Returns:
        bool: Whether the scores are the same.

    Raises:
        Exception: What the model raises, but for ``one_input``, which it may refuse in any way.
    """
    with torch.no_grad():
        expected, features = model(inputs.clone(), additional_forward_args)
        if not one_input:
            swapped = model.from_layer(features, inputs.flip(0), additional_forward_args)
            return same_outputs(swapped, expected)
        try:
            found = [
                model.from_layer(features.clone(), each.clone(), additional_forward_args)
                for each in torch.split(inputs, 1)
            ]
        except Exception:  # whatever a model raises that wants as many inputs as features
            return False
        return all(same_outputs(scores, expected) for scores in found)

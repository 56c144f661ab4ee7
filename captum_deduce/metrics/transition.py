r"""COUT: how soon the class changes as a counterfactual's changes are made one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from captum_deduce import checks
from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.metrics.forward import BATCH_SIZE, read_outputs


class COUT:
    r"""The counterfactual transition score: do the largest changes alone bring the target?

    The changed places of :math:`x'` are inserted into the original :math:`x`, the largest change
    first. With :math:`x^{(u)}` the image in which a share u of them is inserted, t the target and s
    the class of the original, it is

    .. math::
        \mathrm{COUT} = \int_0^1 p_t(x^{(u)})\, du - \int_0^1 p_s(x^{(u)})\, du ,

    by the trapezoidal rule, in [-1, 1]; higher is better. Near 1 a few of the places already carry
    the image into the target class; near -1 it stays in the original's until the last of them.

    Source: Khorram and Fuxin, *Cycle-Consistent Counterfactuals by Latent Transformations* (2022),
    section 4. There all places of an image are inserted, in T equal parts; here only those that
    differ, so that a change of few pixels, which would be whole after the first part, is followed
    place by place. A pair with k changed places has min(k, ``steps``) steps: after step i, of T,
    :math:`\lfloor ki/T \rfloor` places are inserted, and u is the share that this is of k. Where
    nothing has changed both curves are flat, and the value is :math:`p_t(x) - p_s(x)`; so is it 0
    where t is s.

    A place is a pixel with all its channels, and the size of its change the sum of
    :math:`|x' - x|` over these, in the images' units; of equal changes the first in reading order
    comes first. Counterfactuals of several methods have different places to insert, and a value is
    relative to a pair's own: it says nothing of how many there are (see :func:`sites`), nor whether
    the image is real: an adversarial example of few strong pixels has a high one. A search that
    stops as soon as :math:`p_t` is 0.5 mostly has a negative value, as the original's class leads
    until the end: compare methods at the same confidence.

    An instance is called with :class:`~captum_deduce.Counterfactuals` and gives one value a pair;
    s is the result's ``prediction``. A pair's value does not depend on the other pairs.

    Args:
        forward_func (Callable or nn.Module): The explained model, returning logits or
            log-probabilities. It runs in eval mode and is left as it was found.
        steps (int, optional): Most steps of a pair. Default: 50
        batch_size (int, optional): Images per forward pass, of one pair or several. Memory for so
            many images, whatever the number of pairs and steps. Default: 500

    Raises:
        TypeError: A model that can't be called, or a number of the wrong kind.
        ValueError: A number out of its range.

    Examples::

        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2, bias=False))
        >>> _ = model[1].weight.data.copy_(torch.tensor([[0.0, 0, 0, 0], [9, 9, 9, 9]]))
        >>> before = torch.tensor([[[[0.0, -0.5], [0.0, 0.0]]]])
        >>> after = torch.tensor([[[[1.0, -0.5], [0.1, 0.0]]]])
        >>> COUT(model).transition(before, after, target=1, source=0)
        tensor([0.4923])
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        steps: int = 50,
        *,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        checks.number("steps", steps, minimum=1, integer=True)
        checks.number("batch_size", batch_size, minimum=1, integer=True)
        self.forward_func = checks.callable_model("forward_func", forward_func)
        self.steps = steps
        self.batch_size = batch_size

    def transition(
        self, inputs: Tensor, counterfactuals: Tensor, target: object, source: object
    ) -> Tensor:
        """Follow both classes from the originals to the counterfactuals.

        Args:
            inputs (Tensor): Originals, N x channels x height x width; without a second dimension of
                channels, N x length, every entry is a place.
            counterfactuals (Tensor): Of the same shape.
            target (int, list or Tensor): t, N classes or one for all.
            source (int, list or Tensor): s, likewise.

        Returns:
            Tensor: N values in [-1, 1], of the inputs' dtype and on their device.

        Raises:
            TypeError: Images or classes of the wrong kind.
            ValueError: Images of different shapes or that are not finite, classes that the model
                does not have, or scores that are no logits.
        """
        checks.images(inputs)
        checks.images(counterfactuals)
        if inputs.shape != counterfactuals.shape:
            raise ValueError(
                "inputs and counterfactuals must have the same shape N x ..., got "
                f"{tuple(inputs.shape)} and {tuple(counterfactuals.shape)}"
            )
        counterfactuals = counterfactuals.to(inputs)
        few = read_outputs(self.forward_func, [inputs[:2]], lambda scores, _: scores)
        of_target, of_source = (
            checks.targets(classes, len(inputs), few.shape[1], name)
            for name, classes in (("target", target), ("source", source))
        )
        chunks = zip(
            *(torch.split(images, self.batch_size) for images in (inputs, counterfactuals)),
            strict=True,
        )
        changed = torch.cat([(_sizes(*chunk) > 0).sum(1) for chunk in chunks]).cpu()
        pairs, inserted, shares = _insertions(changed, self.steps)
        asked = iter(torch.split(torch.stack([of_target, of_source], 1)[pairs], self.batch_size))

        def leads(scores: Tensor, _: Tensor) -> Tensor:
            both = scores.softmax(1).gather(1, next(asked).to(scores.device))
            return both[:, 0] - both[:, 1]

        batches = _batches(inputs, counterfactuals, pairs, inserted, self.batch_size)
        lead = read_outputs(self.forward_func, batches, leads).cpu().double()
        # Both integrals are linear, so that one of the difference is enough.
        areas = (shares[1:] - shares[:-1]) * (lead[1:] + lead[:-1]) / 2
        areas[pairs[1:] != pairs[:-1]] = 0
        values = torch.zeros(len(inputs), dtype=torch.float64).index_add_(0, pairs[1:], areas)
        return values.to(inputs)

    def __call__(self, result: Counterfactuals) -> Tensor:
        """Judge counterfactuals; s is the model's prediction of the original.

        Args:
            result (Counterfactuals): N pairs.

        Returns:
            Tensor: N values, as of :meth:`transition`.
        """
        return self.transition(
            result.inputs, result.counterfactuals, result.target, result.prediction
        )


def _sizes(inputs: Tensor, counterfactuals: Tensor) -> Tensor:
    """Size of the change at every place, N x places."""
    sizes = (counterfactuals - inputs).abs()
    return (sizes.sum(1) if sizes.dim() > 2 else sizes).flatten(1)


def _insertions(changed: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """All images to evaluate: their pair, how many places are inserted, and which share this is."""
    steps = changed.clamp(1, most)
    pairs = torch.arange(len(changed)).repeat_interleave(steps + 1)
    starts = (steps + 1).cumsum(0) - (steps + 1)
    step = torch.arange(len(pairs)) - starts[pairs]
    inserted = changed[pairs] * step // steps[pairs]
    # Without a change the curve is flat from 0 to 1.
    shares = torch.where(changed[pairs] > 0, inserted, step).double()
    return pairs, inserted, shares / changed.clamp_min(1)[pairs]


def _batches(
    inputs: Tensor, counterfactuals: Tensor, pairs: Tensor, inserted: Tensor, batch_size: int
) -> Iterator[Tensor]:
    """Make the images with so many places inserted, a batch at a time."""
    spread = (inputs.shape[0], 1, *inputs.shape[2:]) if inputs.dim() > 2 else inputs.shape
    chunks = (torch.split(values, batch_size) for values in (pairs, inserted))
    for rows, counts in zip(*chunks, strict=True):
        # Pairs are in order, so that those of a batch are a slice.
        held = slice(int(rows[0]), int(rows[-1]) + 1)
        before, after = inputs[held], counterfactuals[held]
        order = _sizes(before, after).argsort(dim=1, descending=True, stable=True)
        places = torch.arange(order.shape[1], device=order.device).expand_as(order)
        ranks = torch.empty_like(order).scatter_(1, order, places)
        of_batch = (rows - held.start).to(inputs.device)
        moved = ranks[of_batch] < counts.to(inputs.device).unsqueeze(1)
        yield torch.where(moved.view(len(rows), *spread[1:]), after[of_batch], before[of_batch])

"""What one call of an explainer asks for, and when it is reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from captum_deduce.classifiers import FrozenModel
from captum_deduce.search import loop
from captum_deduce.search.losses import target_log_probability

ANY_CLASS = -1
"""Stands in a target's place where any class but the predicted one will do."""


@dataclass(frozen=True)
class Problem:
    """What one call asks for, checked and on the inputs' device.

    Args:
        model (FrozenModel): The model, ready to be called.
        inputs (Tensor): N x ..., detached copies.
        target (Tensor): N, int64, on the inputs' device; :data:`ANY_CLASS` where any class but the
            predicted one will do.
        classes (list[int]): The same targets, on the host.
        additional_forward_args (tuple): What the model takes besides; tensors with N rows are
            per pair.
        mask (Tensor or None): Bool, of the inputs' shape: the entries that may change.
        lower (Tensor): Lower bound, of the shape of one input, or of all inputs where each has its
            own (then the upper bound, too).
        upper (Tensor): Upper bound, likewise.
        groups (Tensor, optional): For each entry the number of the group that it moves with, from
            0, int64: of the shape of one input, or of all inputs where each has its own.
            Default: None (the explainer says what moves as one)
    """

    model: FrozenModel
    inputs: Tensor
    target: Tensor
    classes: list[int]
    additional_forward_args: tuple[Any, ...]
    mask: Tensor | None
    lower: Tensor
    upper: Tensor
    groups: Tensor | None = None

    def rows(self, pairs: list[int]) -> loop.State:
        """What a procedure needs of each pair in its state, as copies.

        Args:
            pairs (list[int]): Indices of pairs.

        Returns:
            dict[str, Tensor]: ``original``, ``target``, ``allowed`` where there is a mask,
            ``lower`` and ``upper`` where each pair has its own bounds, ``groups`` where each has
            its own, and the per-pair arguments of the model.
        """
        each = {"original": self.inputs, "target": self.target}
        if self.mask is not None:
            each["allowed"] = self.mask
        if self.lower.dim() == self.inputs.dim():
            each |= {"lower": self.lower, "upper": self.upper}
        if self.groups is not None and self.groups.dim() == self.inputs.dim():
            each["groups"] = self.groups
        each |= {
            _argument(place): value
            for place, value in enumerate(self.additional_forward_args)
            if _is_per_pair(value, len(self.inputs))
        }
        return {
            name: value[torch.tensor(pairs, dtype=torch.int64).to(value.device)]
            for name, value in each.items()
        }

    def bounds(self, state: loop.State) -> tuple[Tensor, Tensor]:
        """Between which values the active pairs' images must stay.

        Args:
            state (dict[str, Tensor]): Of the active pairs, with what :meth:`rows` put there.

        Returns:
            tuple[Tensor, Tensor]: Lower and upper bound, of the shape of one input, or A x ...
            where each pair has its own.
        """
        return state.get("lower", self.lower), state.get("upper", self.upper)

    def forward(self, images: Tensor, state: loop.State) -> tuple[Tensor, Tensor]:
        """Evaluate the model on images of the active pairs.

        Args:
            images (Tensor): A x ...
            state (dict[str, Tensor]): Of the active pairs, with what :meth:`rows` put there.

        Returns:
            tuple[Tensor, Tensor]: Class scores, A x C, and features, A x D.
        """
        # A clone, as a first layer may work in place, which a leaf does not allow.
        return self.model(images.clone(), self.arguments(state))

    def arguments(self, state: loop.State) -> tuple[Any, ...]:
        """What the model takes besides the images of the active pairs.

        Args:
            state (dict[str, Tensor]): Of the active pairs, with what :meth:`rows` put there.

        Returns:
            tuple: Tensors with a row for each of them, and what is the same for all.
        """
        return tuple(
            state.get(_argument(place), value)
            for place, value in enumerate(self.additional_forward_args)
        )

    def from_layer(
        self, features: Tensor, state: loop.State, rows: Tensor, *, one_input: bool
    ) -> Tensor:
        """Evaluate the model from its layer on.

        Args:
            features (Tensor): What the layer might output, K x D.
            state (dict[str, Tensor]): Of the active pairs, with what :meth:`rows` put there.
            rows (Tensor): Which of the pairs each belongs to, K, int64.
            one_input (bool): The layers before run on a single input, see
                :func:`~captum_deduce.classifiers.is_cut`; only without arguments of each pair.

        Returns:
            Tensor: Class scores, K x C.
        """
        before = slice(1) if one_input else rows
        inputs = state["original"][before].clone()
        of_each = {name: value[before] for name, value in state.items() if _is_argument(name)}
        return self.model.from_layer(features, inputs, self.arguments(of_each))

    @property
    def arguments_of_each(self) -> bool:
        """Whether the model takes something besides that differs from pair to pair."""
        return any(_is_per_pair(a, len(self.inputs)) for a in self.additional_forward_args)


@dataclass(frozen=True)
class Goal:
    """What an image has to reach to be a counterfactual.

    Args:
        confidence (float): What the target's softmax probability has to exceed; where it is below
            0.5 the target must also be the most likely class.
        log_density (Tensor, optional): For each class the least log-density of an image's features
            under it, C, float64. Default: None (any will do)
    """

    confidence: float
    log_density: Tensor | None = None

    def reached(
        self, confidence: Tensor, prediction: Tensor, target: Tensor, log_density: Tensor | None
    ) -> Tensor:
        """Tell which images are what was asked for.

        Args:
            confidence (Tensor): Softmax probability of the target, N.
            prediction (Tensor): The most likely class, N.
            target (Tensor): N classes.
            log_density (Tensor or None): Of the features under the target class, N.

        Returns:
            Tensor: N, bool.
        """
        confident = is_success(confidence, prediction, target, self.confidence)
        if self.log_density is None or log_density is None:
            return confident
        return confident & (log_density >= self.log_density[target])

    def merit(
        self, confidence: Tensor, prediction: Tensor, target: Tensor, log_density: Tensor | None
    ) -> Tensor | None:
        """Rank attempts that miss the goal: confident ones first, among them the likelier.

        Args:
            confidence (Tensor): As for :meth:`reached`.
            prediction (Tensor): Likewise.
            target (Tensor): Likewise.
            log_density (Tensor or None): Likewise.

        Returns:
            Tensor or None: N, float64, higher is better; None where the confidence alone ranks.
        """
        if self.log_density is None or log_density is None:
            return None
        confident = is_success(confidence, prediction, target, self.confidence)
        # No log-density is as low as half of the lowest number.
        unlikely = torch.finfo(torch.float64).min * (1 - confidence.double().nan_to_num(0.0) / 2)
        return torch.where(confident, log_density.nan_to_num(-torch.inf), unlikely)


def confidence_of(scores: Tensor, target: Tensor) -> Tensor:
    """Softmax probability of the target class.

    Args:
        scores (Tensor): Logits or log-probabilities, N x C.
        target (Tensor): N classes, on the same device.

    Returns:
        Tensor: N probabilities, detached.
    """
    return target_log_probability(scores.detach(), target).exp()


def is_success(confidence: Tensor, prediction: Tensor, target: Tensor, threshold: float) -> Tensor:
    """Tell which images are what was asked for.

    Args:
        confidence (Tensor): Softmax probability of the target, N.
        prediction (Tensor): The most likely class, N.
        target (Tensor): N classes.
        threshold (float): What the confidence has to exceed; where it is below 0.5 the target must
            also be the prediction.

    Returns:
        Tensor: N, bool.
    """
    success = confidence > threshold
    return success & (prediction == target) if threshold < 0.5 else success


def argument_rows(
    arguments: tuple[Any, ...], count: int, rows: slice | list[int]
) -> tuple[Any, ...]:
    """Take the rows of those arguments that have one per pair.

    Args:
        arguments (tuple): What the model takes besides its inputs.
        count (int): The number of pairs.
        rows (slice or list[int]): Which to take.

    Returns:
        tuple: The same arguments; tensors with a row per pair are cut, others are whole.
    """
    return tuple(a[rows] if _is_per_pair(a, count) else a for a in arguments)


def _argument(place: int) -> str:
    return f"additional_forward_args[{place}]"


def _is_per_pair(value: Any, count: int) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and len(value) == count


def _is_argument(name: str) -> bool:
    return name.startswith("additional_forward_args[")

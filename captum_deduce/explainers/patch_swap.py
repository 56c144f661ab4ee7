"""PatchSwap: the fewest parts of an image exchanged with those of images of another class."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from captum_deduce import checks, search
from captum_deduce.classifiers import FrozenModel
from captum_deduce.explainers.base import CounterfactualExplainer
from captum_deduce.explainers.patches import PatchSwaps
from captum_deduce.explainers.swapping import CellExchange
from captum_deduce.search import Problem

ENDINGS = ("pixels", "features")
"""What may end the search of a :class:`PatchSwap`."""


class PatchSwap(CounterfactualExplainer):
    r"""The fewest parts of an image exchanged with parts of images of another class.

    A convolutional layer cuts the classifier in two: it outputs maps of h x w cells,
    :math:`f(I) \in \mathbb R^{D \times h w}`, and the rest of the model, the head g, makes scores
    of them. For a query I and distractors :math:`I'_1, \dots, I'_M` of the target class t, each
    step replaces one cell of the query by one of a distractor, the pair (i, j) with the largest

    .. math::
        \log p_t\bigl(g(f(I)_{i \leftarrow j})\bigr)
        + \lambda \log \frac{\exp(\cos(u_i, u'_j) / \tau)}{\sum_k \exp(\cos(u_i, u'_k) / \tau)}

    and retires both cells, until the target is reached. The second term, which is left out unless
    there is a ``similarity``, wants parts that mean the same: u are the cells of another network's
    features, such as a self-supervised one's, and only the ``tried_share`` most similar pairs are
    tried. The counterfactual is the query with the pixels of these cells pasted; :meth:`swaps` also
    says which cell came from where.

    Sources: Goyal, Wu, Ernst, Batra, Parikh, Lee, "Counterfactual Visual Explanations", ICML 2019
    (no similarity, one distractor: the defaults); Vandenhende, Mahajan, Radenovic, Ghadiyaram,
    "Making Heads or Tails: Towards Semantically Consistent Visual Counterfactuals", ECCV 2022
    (``similarity``, 20 distractors). Deviations and choices:

    * The edit lives in features, which see more of an image than their cell, so that the pasted
      pixels need not flip the class where the features do. With ``until="pixels"`` the search goes
      on until the classifier puts the *pasted image* into the target class, which is what
      ``success`` says in either case; ``until="features"`` ends where the papers' do. As what
      gains most at the features may gain nothing in pixels, features propose only: of the
      ``verified`` best exchanges the one is made whose pasted pixels the classifier likes best.
    * The head is run by putting other features in the place of what ``layer`` outputs: nobody has
      to cut the model. That they decide alone about the scores is tried at each call.
    * Distractors of a pair are the ``num_distractors`` of its target class that are nearest in the
      mean of the layer's maps; in the papers they are drawn at random.
    * The goal is ``confidence``, as for all explainers here; the papers' is the most likely class,
      which is ``confidence=0`` to this one.
    * Of equal gains, as many cells of a uniform background have, the first counts.
    * With a mask, pixels are pasted where they may change; cells without any are not exchanged.
      What is pasted is clipped to the bounds.

    No gradient is computed: ``evaluations`` is 0, and ``forward_evaluations`` counts for each step
    of a pair a pass of the whole model and one of the head, ``verified`` ones of the whole model,
    and one of the head for each pair of cells that was tried, up to h w times M h w. That the
    distractors are encoded once in a call is not counted. A pair without a cell left to exchange
    ends with ``success=False`` and its best attempt.

    Examples::

        >>> model = nn.Sequential(
        ...     nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
        ... )
        >>> images = torch.rand(20, 1, 8, 8)
        >>> labels = torch.arange(20) % 3
        >>> explainer = PatchSwap(model, model[1], images[8:], labels[8:])
        >>> explainer.generate(images[:4], (labels[:4] + 1) % 3).counterfactuals.shape
        torch.Size([4, 1, 8, 8])
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: nn.Module | str,
        distractors: Tensor,
        labels: Tensor | list[int] | None = None,
        *,
        num_distractors: int = 1,
        similarity: Callable[[Tensor], Tensor] | None = None,
        similarity_weight: float = 0.4,
        temperature: float = 0.1,
        tried_share: float = 0.2,
        until: str = "pixels",
        verified: int = 16,
        confidence: float = 0.5,
        max_iterations: int | None = None,
        memory_budget: int = 2**24,
        lower_bound: float | Tensor = 0.0,
        upper_bound: float | Tensor = 1.0,
    ) -> None:
        r"""Bring the classifier and the distractors together.

        Args:
            forward_func (Callable or nn.Module): The classifier: N inputs to N x C logits or
                log-probabilities.
            layer (nn.Module or str): The layer whose maps are exchanged, N x D x h x w; a module of
                the classifier or its dotted name. A late one, so that cells mean something and are
                few: 7 x 7 behind VGG's last convolution or in ResNet's last stage.
            distractors (Tensor): Images to take cells from, K x channels x height x width, in the
                inputs' units.
            labels (Tensor or list[int], optional): Their classes, K; only those of the classes
                asked for are encoded. Default: None (what the classifier predicts; all are)
            num_distractors (int, optional): Most distractors for an image, M. Default: 1
            similarity (Callable, optional): N images to N x S x h' x w' features whose cosine says
                what is alike; averaged to h x w cells. Default: None (no such term)
            similarity_weight (float, optional): :math:`\lambda`. Default: 0.4
            temperature (float, optional): :math:`\tau`. Default: 0.1
            tried_share (float, optional): Share of all pairs of cells that are tried, the most
                similar ones; only with a ``similarity``. Default: 0.2
            until (str, optional): ``"pixels"``: the search ends when the pasted image is a
                counterfactual; ``"features"``: when the exchanged features are. Default: "pixels"
            verified (int, optional): With ``until="pixels"``: of how many exchanges, those with the
                largest gains at the features, the pasted pixels are classified, so that the one
                that gains most there is made. 1: the best at the features, unseen. Default: 16
            confidence (float, optional): Of the target's softmax probability, what has to be
                exceeded; where it is below 0.5 the target must also be the argmax. Default: 0.5
            max_iterations (int, optional): Most cells of an image that are exchanged.
                Default: None (all)
            memory_budget (int, optional): Most bytes of features that are tried at once; the head
                takes its own memory besides. A GPU likes more. Default: 16 MiB
            lower_bound (float or Tensor, optional): Smallest input value; a tensor broadcasts to
                one input (channels x 1 x 1 for inputs normalised per channel), or to all, as
                ``images - eps``. Default: 0.0
            upper_bound (float or Tensor, optional): Largest input value, likewise. Default: 1.0

        Raises:
            TypeError: An argument of the wrong kind.
            ValueError: Distractors of the wrong shape, another number of labels, or a number out of
                its range.
        """
        super().__init__(forward_func)
        self.layer = layer
        self.distractors = distractors
        self.labels = labels
        self.num_distractors = num_distractors
        self.similarity = similarity
        self.similarity_weight = similarity_weight
        self.temperature = temperature
        self.tried_share = tried_share
        self.until = until
        self.verified = verified
        self.confidence = confidence
        self.max_iterations = max_iterations
        self.memory_budget = memory_budget
        self.lower_bound = lower_bound
        self.upper_bound = upper_bound
        self._searches: list[CellExchange] | None = None
        self._check_settings()

    def swaps(
        self,
        inputs: Tensor,
        target: int | list[int] | Tensor | None = None,
        **arguments: Any,
    ) -> PatchSwaps:
        """Search as :meth:`generate` does, and say which cells were exchanged.

        Args:
            inputs (Tensor): N x channels x height x width, as for :meth:`generate`.
            target (int, list, Tensor or None, optional): As for :meth:`generate`. Default: None
            **arguments (Any): As :meth:`generate` takes them by keyword.

        Returns:
            PatchSwaps: The cells, and as its ``result`` the images.

        Raises:
            TypeError: As :meth:`generate`.
            ValueError: As :meth:`generate`.
        """
        observed = copy.copy(self)
        observed._searches = []
        result = observed.generate(inputs, target, **arguments)
        return observed._searches[0].swaps(result)

    def _check_settings(self) -> None:
        distractors = self.distractors
        if not isinstance(distractors, Tensor) or not distractors.is_floating_point():
            given = distractors.dtype if isinstance(distractors, Tensor) else type(distractors)
            raise TypeError(f"distractors must be a floating-point torch.Tensor, got {given}")
        if distractors.dim() != 4 or len(distractors) == 0:
            raise ValueError(
                "distractors must have the shape K x channels x height x width with at least one "
                f"image, got {tuple(distractors.shape)}"
            )
        if self.labels is not None:
            labels = torch.as_tensor(self.labels)
            if labels.is_floating_point() or labels.dtype == torch.bool:
                raise TypeError(f"labels must hold integers, got {labels.dtype}")
            if labels.shape != (len(distractors),) or bool((labels < 0).any()):
                raise ValueError(
                    f"labels must hold one class per distractor ({len(distractors)}), got shape "
                    f"{tuple(labels.shape)} and the smallest {int(labels.min())}"
                )
        if self.similarity is not None and not callable(self.similarity):
            raise TypeError(
                f"similarity must be callable or None, got {type(self.similarity).__name__}"
            )
        checks.number("num_distractors", self.num_distractors, minimum=1, integer=True)
        checks.number("similarity_weight", self.similarity_weight, minimum=0)
        checks.number("temperature", self.temperature, minimum=0, exclusive=True)
        checks.number("tried_share", self.tried_share, minimum=0, maximum=1)
        checks.choice("until", self.until, ENDINGS)
        checks.number("verified", self.verified, minimum=1, integer=True)
        checks.number("confidence", self.confidence, minimum=0, maximum=1)
        if self.max_iterations is not None:
            checks.number("max_iterations", self.max_iterations, minimum=0, integer=True)
        checks.number("memory_budget", self.memory_budget, minimum=1, integer=True)

    def _frozen_model(self) -> FrozenModel:
        beside = [] if self.similarity is None else [self.similarity]
        return FrozenModel(self.forward_func, self.layer, companions=beside)

    def _targetable(self, num_classes: int) -> Tensor | None:
        if self.labels is None:
            return None
        labels = torch.as_tensor(self.labels).cpu()
        return torch.isin(torch.arange(num_classes), labels)

    def _procedure(self, problem: Problem) -> search.Procedure:
        inputs, distractors = problem.inputs, self.distractors
        if distractors.shape[1:] != inputs.shape[1:]:
            raise ValueError(
                f"distractors must have the inputs' shape {tuple(inputs.shape[1:])}, got "
                f"{tuple(distractors.shape[1:])}"
            )
        labels = self.labels
        exchange = CellExchange(
            problem,
            self,
            distractors.detach().to(inputs.device, inputs.dtype),
            None if labels is None else torch.as_tensor(labels).to(inputs.device, torch.int64),
        )
        if self._searches is not None:
            self._searches.append(exchange)
        return exchange

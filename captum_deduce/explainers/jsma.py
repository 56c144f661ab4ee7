"""JSMA: one salient pixel after another, by the classifier's gradient alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_deduce import checks, search
from captum_deduce.explainers.pixelwise import PixelwiseExplainer
from captum_deduce.search import PixelDescent, Problem

SALIENCIES = ("gradient", "papernot")

_PAIRS_AT_ONCE = 1 << 22


class JSMA(PixelwiseExplainer):
    r"""Jacobian-based Saliency Map Attack, as a counterfactual explainer.

    ``saliency="gradient"`` is the baseline of the DeDUCE paper: each step moves, in either
    direction, the pixel with the largest gradient of the target's negative log-likelihood; a pixel
    is out once a step has put it on a bound, or where the step could not move it.

    ``saliency="papernot"`` is the original saliency map (Papernot et al., 2016, equations 8 and 9).
    With :math:`\alpha_i = \partial F_t / \partial x_i` and
    :math:`\beta_i = \sum_{j \ne t} \partial F_j / \partial x_i`, pixels that are raised have the
    saliency :math:`\alpha_i |\beta_i|` where :math:`\alpha_i > 0 > \beta_i`, else 0; pixels that
    are lowered (``increase=False``) have it with both signs reversed. A step moves one pixel, or
    (``pixels_per_step=2``, algorithm 3 there) the pair with the largest
    :math:`(\alpha_i + \alpha_j)\,|\beta_i + \beta_j|`. Two backward passes a step give
    :math:`\alpha` and :math:`\beta`; there is never a full Jacobian. Pairs are exact, at the price
    of a second synchronisation a step.

    Sources: Papernot, McDaniel, Jha, Fredrikson, Celik, Swami, "The Limitations of Deep Learning in
    Adversarial Settings", 2016; Höltgen et al., "DeDUCE", 2021, section 4.2. Deviations from
    Papernot: :math:`F` is what ``forward_func`` returns (logits, with which the two sums are not
    mere opposites as they are with probabilities); the search ends at a confidence, not at the
    argmax; saliencies are per unit of the input range; values within 1e-6 of the range of a bound
    or of the original snap to it.

    Papernot's saliency needs logits of all classes that depend on the input: of a binary model
    made into two classes as ``[0, z]`` it moves nothing; ``[-z / 2, z / 2]`` is the same model.

    A pair that fails returns its best attempt with ``success=False``.

    Examples::

        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
        >>> result = JSMA(model).generate(torch.rand(4, 1, 8, 8), target=2)
        >>> bool((model(result.counterfactuals).softmax(1)[result.success, 2] > 0.5).all())
        True
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        *,
        saliency: str = "gradient",
        increase: bool = True,
        confidence: float = 0.5,
        step_size: float = 0.2,
        max_changes: int | None = None,
        pixels_per_step: int | str = 1,
        momentum: float = 0.0,
        max_iterations: int = 700,
        skip_saturated: bool = True,
        pixel: str = "entry",
        patch_size: int = 8,
        lower_bound: float | Tensor = 0.0,
        upper_bound: float | Tensor = 1.0,
    ) -> None:
        r"""Take the classifier and the settings.

        Args:
            forward_func (Callable or nn.Module): The classifier: N inputs to N x C logits or
                log-probabilities.
            saliency (str, optional): ``"gradient"`` or ``"papernot"``, see above.
                Default: "gradient"
            increase (bool, optional): With ``"papernot"``: raise pixels; False: lower them.
                Default: True
            confidence (float, optional): The search ends when the target's softmax probability
                exceeds it; where it is below 0.5 the target must also be the argmax. Default: 0.5
            step_size (float, optional): How far a pixel moves in a step, as a fraction of
                ``upper_bound - lower_bound``. Default: 0.2
            max_changes (int or None, optional): Most changes of one pixel; None: any number, until
                it is on a bound. Default: None
            pixels_per_step (int or str, optional): Pixels that move together; with ``"papernot"`` 1
                or 2. With ``"gradient"`` also ``"adaptive"``, for large images: steps as in
                :class:`DeDUCE`, of at most ``step_size``, and pixels on a bound may come back.
                Default: 1
            momentum (float, optional): As in DeDUCE; 0 with ``"papernot"``. Default: 0.0
            max_iterations (int, optional): Most steps of an image. Default: 700
            skip_saturated (bool, optional): Never choose a pixel that the move would not change;
                False: choose it, waste the step, and then leave it out. Default: True
            pixel (str, optional): ``"entry"``, or with ``"gradient"`` also ``"site"``: a spatial
                position moves with all its channels, and ``"patch"``: so does a square of
                positions. A call's ``feature_mask`` takes its place. Default: "entry"
            patch_size (int, optional): Height and width of a patch; those at the lower and right
                edges may be smaller. Default: 8
            lower_bound (float or Tensor, optional): Smallest input value; a tensor broadcasts to
                one input, or to all, as ``images - eps``. Default: 0.0
            upper_bound (float or Tensor, optional): Largest input value, likewise. Default: 1.0

        Raises:
            TypeError: An argument of the wrong kind.
            ValueError: A number out of its range, or settings that ``"papernot"`` does not have.
        """
        super().__init__(forward_func)
        self.saliency = saliency
        self.increase = increase
        self.confidence = confidence
        self.step_size = step_size
        self.max_changes = max_changes
        self.pixels_per_step = pixels_per_step
        self.momentum = momentum
        self.max_iterations = max_iterations
        self.skip_saturated = skip_saturated
        self.pixel = pixel
        self.patch_size = patch_size
        self.lower_bound = lower_bound
        self.upper_bound = upper_bound
        self._check_settings()

    _retire_at_bounds = True

    def _check_settings(self) -> None:
        super()._check_settings()
        checks.choice("saliency", self.saliency, SALIENCIES)
        checks.flag("increase", self.increase)
        if self.saliency == "papernot":
            for name, allowed in (
                ("pixels_per_step", (1, 2)),
                ("momentum", (0,)),
                ("pixel", ("entry",)),
                ("skip_saturated", (True,)),
            ):
                given = getattr(self, name)
                if given not in allowed:
                    values = " or ".join(repr(value) for value in allowed)
                    raise ValueError(
                        f'{name} must be {values} with saliency="papernot", got {given!r}'
                    )

    def _check_feature_mask(self) -> None:
        if self.saliency == "papernot":
            raise ValueError('feature_mask needs saliency="gradient", got saliency="papernot"')

    def _procedure(self, problem: Problem) -> search.Procedure:
        if self.saliency != "papernot":
            return super()._procedure(problem)
        return PapernotDescent(
            problem,
            self._objective,
            self._step(problem),
            self._goal(problem),
            increase=self.increase,
            momentum=self.momentum,
            max_iterations=self.max_iterations,
            retire_at_bounds=True,
        )


class PapernotDescent(PixelDescent):
    r"""The same search with Papernot's saliency in place of a loss's gradient.

    Args:
        *arguments (Any): Those of :class:`~captum_deduce.search.PixelDescent`; the objective is
            not used.
        increase (bool): Raise pixels, or lower them.
        **settings (Any): Likewise.
    """

    def __init__(self, *arguments: Any, increase: bool, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.sign = 1.0 if increase else -1.0

    def gradient(
        self,
        images: Tensor,
        scores: Tensor,
        features: Tensor,
        classes: list[int],
        state: search.State,
    ) -> tuple[Tensor, Tensor, None]:
        r"""Compute :math:`\alpha` and :math:`\beta`, signed so that useful ones are positive.

        Args:
            images (Tensor): A x ..., the leaf that scores were computed from.
            scores (Tensor): A x C.
            features (Tensor): Not used.
            classes (list[int]): Not used.
            state (dict[str, Tensor]): Of the active pairs.

        Returns:
            tuple[Tensor, Tensor, None]: A x 2 x ...: what a move raises the target's score by, and
            lowers the others' sum by, per unit of the input; and the scores, negated, A.
        """
        chosen = scores.gather(1, state["target"].unsqueeze(1)).squeeze(1)
        (raised,) = torch.autograd.grad(chosen.sum(), images, retain_graph=True)
        (total,) = torch.autograd.grad(scores.sum(), images)
        return self.sign * torch.stack([raised, raised - total], dim=1), -chosen, None

    def step(self, state: search.State, evaluation: search.Evaluation) -> Tensor:
        """Move one pixel or a pair, see :meth:`captum_deduce.search.Procedure.step`."""
        rule = self.rule(state)
        span = rule.upper - rule.lower
        raised, lowered = (slope * span for slope in evaluation.gradient.unbind(1))
        broken = ~torch.isfinite(evaluation.gradient).flatten(1).all(1)
        towards = torch.full_like(raised, -self.sign)
        if rule.pixels_per_step == 1:
            saliency = torch.where((raised > 0) & (lowered > 0), raised * lowered, 0.0)
            # The step rule multiplies by the range once more.
            return self.move(state, towards * saliency / span) | broken
        proposal = rule.proposal(state["images"], towards, state["original"])
        movable = rule.movable(state["images"], proposal, state["allowed"])
        pair = most_salient_pair(raised, lowered, rule.admissible(movable, state["changes"]))
        return self.move(state, towards, allowed=pair) | broken


def most_salient_pair(raised: Tensor, lowered: Tensor, admissible: Tensor) -> Tensor:
    r"""Find the two pixels with the largest :math:`(a_i + a_j)(b_i + b_j)`, both sums positive.

    Exact without trying all pairs: as the product grows with each :math:`a` and :math:`b`, a pixel
    of the best pair is beaten in both by at most one other. Only such pixels, the first two layers
    of the Pareto front, are paired with each other.

    Args:
        raised (Tensor): :math:`a`, A x ...
        lowered (Tensor): :math:`b`, of the same shape.
        admissible (Tensor): Bool, of the same shape.

    Returns:
        Tensor: Bool, of the same shape: two pixels of each image, or none where no pair has
        positive sums.
    """
    a = raised.masked_fill(~admissible, -torch.inf).flatten(1)
    b = lowered.masked_fill(~admissible, -torch.inf).flatten(1)
    order = a.argsort(dim=1, descending=True)
    falling = b.gather(1, order)
    first = _records(falling)
    second = _records(falling.masked_fill(first, -torch.inf))
    front = first | second
    width = max(int(front.sum(1).max()), 2)
    pixels = order.gather(1, front.to(torch.uint8).topk(width, dim=1).indices)
    a, b = a.gather(1, pixels), b.gather(1, pixels)

    best = a.new_full((len(a),), 0.0)
    pair = torch.zeros(len(a), 2, dtype=torch.int64, device=a.device)
    rows = max(_PAIRS_AT_ONCE // (len(a) * width), 1)
    for start in range(0, width, rows):
        block = slice(start, start + rows)
        sums_a = a[:, block, None] + a[:, None, :]
        sums_b = b[:, block, None] + b[:, None, :]
        product = torch.where((sums_a > 0) & (sums_b > 0), sums_a * sums_b, 0.0)
        product.diagonal(offset=start, dim1=1, dim2=2).zero_()
        value, place = product.flatten(1).max(1)
        better = value > best
        best = torch.where(better, value, best)
        found = torch.stack([place // width + start, place % width], dim=1)
        pair = torch.where(better[:, None], found, pair)
    chosen = torch.zeros_like(admissible.flatten(1))
    chosen.scatter_(1, pixels.gather(1, pair), (best > 0)[:, None].expand(-1, 2))
    return chosen.view_as(admissible)


def _records(values: Tensor) -> Tensor:
    """Tell where a row exceeds all that stands before it (and -inf)."""
    before = torch.nn.functional.pad(values, (1, -1), value=-torch.inf).cummax(1).values
    return values > before

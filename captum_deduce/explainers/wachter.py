"""Wachter's method: the closest image of the target class, by descent in the input alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import threshold

from captum_deduce import checks, search
from captum_deduce.explainers.base import CounterfactualExplainer
from captum_deduce.search import AdamStep, Problem, is_success, losses, refine_weight

DISTANCES = ("l1", "mad", "l2")
"""What :class:`Wachter` may call close."""

PATIENCE = 20
"""Steps in a row without a closer success that end a round of :class:`Wachter`."""

_STEEPEST = 1e6


def median_absolute_deviation(images: Tensor) -> Tensor:
    r"""How much each entry varies over a data set, for ``Wachter(distance="mad")``.

    .. math:: \mathrm{MAD}_i = \mathrm{median}_n |x_{n,i} - \mathrm{median}_m\, x_{m,i}|

    Args:
        images (Tensor): N x ..., for example all training images.

    Returns:
        Tensor: Of the shape of one image, in its units; 0 where more than half of the images agree.
        Of an even number of values, the median is the mean of the middle two.

    Raises:
        TypeError: A dtype other than float32 or float64.
        ValueError: No images, or values that are not finite.

    Examples::

        >>> median_absolute_deviation(torch.tensor([[0.0, 1.0], [0.0, 2.0], [3.0, 6.0]]))
        tensor([0., 1.])
    """
    checks.images(images)
    return _median((images - _median(images)).abs())


class Wachter(CounterfactualExplainer):
    r"""The method of Wachter, Mittelstadt and Russell: close to the original, nothing else.

    The counterfactual solves (equation 1 of the DeDUCE paper)

    .. math::
        \min_{\mathbf x'} \max_\lambda\; \lambda\, (f_t(\mathbf x') - y')^2
        + d(\mathbf x, \mathbf x')

    with f the softmax of the classifier's scores and :math:`y'` the probability that is aimed at
    (``target_probability``). Nothing keeps it near real images. The distance d is one of

    * ``"l1"``: :math:`\sum_i |x'_i - x_i| / (u_i - l_i)`, with u and l the bounds;
    * ``"mad"``: :math:`\sum_i |x'_i - x_i| / \mathrm{MAD}_i`, as the authors advise;
    * ``"l2"``: :math:`\sum_i (x'_i - x_i)^2 / (u_i - l_i)^2`.

    The search goes in rounds, each with a weight :math:`\lambda` of the pair's own. As long as no
    image has reached the target, a round goes on where the last one ended, with ten times its
    :math:`\lambda`; the first success ends the round. From then on every round starts at the
    closest success, and :math:`\lambda` is searched by bisection: where a round's last image is a
    success it falls, half-way to the highest :math:`\lambda` known to be too low, or to 0; else it
    rises, half-way to the lowest known to be high enough, or tenfold. The closest success of all
    rounds is returned, and always lies within the bounds.

    Source: Wachter, Mittelstadt, Russell, "Counterfactual Explanations without Opening the Black
    Box", Harvard Journal of Law & Technology, 2018. They increase :math:`\lambda` until the
    prediction is near enough to :math:`y'` and leave the optimiser open. Choices and deviations:

    * Adam moves the image, in units of ``upper_bound - lower_bound``, and the distance acts by its
      proximal operator in Adam's metric: an entry whose pull doesn't outweigh its distance is
      exactly that of the original, where a subgradient would leave all entries a little changed.
    * :math:`\lambda` is counted from the image's own scale
      :math:`\lambda_0 = 1 / \max_i |w_i^{-1} \partial_i (f_t - y')^2|`, at which the entry that
      pulls hardest just outweighs its distance, whose weight is :math:`w_i` (below it, an L1
      distance lets nothing move). It starts at ``lambda_init`` times this, at the original and
      anew at the first success, as the probability of a class that is far away is nearly flat.
    * A round also ends when :data:`~captum_deduce.explainers.wachter.PATIENCE` steps in a row
      brought no closer success.
    * A probability below 1e-19 (in float64 1e-154) counts as that much in the gradient, which would
      underflow: its direction is kept.
    * A weighted gradient whose largest entry exceeds 1e6 is scaled down to it: the distance has no
      say there, and its square would overflow.
    * Changes below 1e-6 of the range are undone.

    A pair that fails returns its best attempt with ``success=False``; one whose gradient is not
    finite, or 0 at the start, stops as failed. In float32 rounding depends on the size of a batch:
    of 100 pairs of 8x8 digits, searched one at a time instead of together, two differed by more
    than 0.001 in an entry, and none in whether it was found (``benchmarks/batch_sizes.py``).

    Examples::

        >>> from torch import nn
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 3))
        >>> images = torch.rand(4, 1, 8, 8)
        >>> result = Wachter(model).generate(images, target=2)
        >>> result.success.tolist()
        [True, True, True, True]
        >>> bool((model(result.counterfactuals).softmax(1)[:, 2] > 0.5).all())
        True
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        *,
        confidence: float = 0.5,
        distance: str = "l1",
        mad: Tensor | None = None,
        target_probability: float = 1.0,
        lambda_init: float = 5.0,
        lambda_rounds: int = 10,
        learning_rate: float = 0.01,
        max_iterations: int = 100,
        lower_bound: float | Tensor = 0.0,
        upper_bound: float | Tensor = 1.0,
    ) -> None:
        r"""Say what counts as close and how long to search.

        Args:
            forward_func (Callable or nn.Module): The classifier: N inputs to N x C logits or
                log-probabilities.
            confidence (float, optional): An image is a success when the target's softmax
                probability exceeds it; where it is below 0.5 the target must also be the argmax.
                Default: 0.5
            distance (str, optional): ``"l1"``, ``"mad"`` or ``"l2"``, see above. Default: "l1"
            mad (Tensor, optional): The median absolute deviation of each entry, in the inputs'
                units, which ``distance="mad"`` needs: a tensor that broadcasts to one input, as
                from :func:`median_absolute_deviation`. Where it is 0, as on pixels that are mostly
                blank, the smallest one that isn't is taken. Default: None
            target_probability (float, optional): :math:`y'`, above ``confidence``. Default: 1.0
            lambda_init (float, optional): :math:`\lambda` at first, in units of the image's own
                scale. Default: 5.0
            lambda_rounds (int, optional): How many values of :math:`\lambda` are tried. Default: 10
            learning_rate (float, optional): Of Adam: about how far a pixel moves in a step, as a
                fraction of ``upper_bound - lower_bound``. Default: 0.01
            max_iterations (int, optional): Most steps of an image in each round. Default: 100
            lower_bound (float or Tensor, optional): Smallest input value; a tensor broadcasts to
                one input (channels x 1 x 1 for inputs normalised per channel), or to all, as
                ``images - eps``. Default: 0.0
            upper_bound (float or Tensor, optional): Largest input value, likewise. Default: 1.0

        Raises:
            TypeError: An argument of the wrong kind.
            ValueError: A number out of its range, or ``distance="mad"`` without a usable ``mad``.
        """
        super().__init__(forward_func)
        self.confidence = confidence
        self.distance = distance
        self.mad = mad
        self.target_probability = target_probability
        self.lambda_init = lambda_init
        self.lambda_rounds = lambda_rounds
        self.learning_rate = learning_rate
        self.max_iterations = max_iterations
        self.lower_bound = lower_bound
        self.upper_bound = upper_bound
        self._check_settings()

    def _check_settings(self) -> None:
        checks.number("confidence", self.confidence, minimum=0, maximum=1, exclusive=True)
        checks.choice("distance", self.distance, DISTANCES)
        checks.number("target_probability", self.target_probability, minimum=0, maximum=1)
        if self.target_probability <= self.confidence:
            raise ValueError(
                f"target_probability must be above confidence ({self.confidence:g}), got "
                f"{self.target_probability!r}"
            )
        checks.number("lambda_init", self.lambda_init, minimum=0, exclusive=True)
        checks.number("lambda_rounds", self.lambda_rounds, minimum=1, integer=True)
        checks.number("learning_rate", self.learning_rate, minimum=0, maximum=1, exclusive=True)
        checks.number("max_iterations", self.max_iterations, minimum=0, integer=True)
        if self.mad is not None:
            _check_mad(self.mad)
        elif self.distance == "mad":
            raise ValueError(
                "mad must be given where distance='mad': for example "
                "median_absolute_deviation(training_images)"
            )

    def _procedure(self, problem: Problem) -> search.Procedure:
        mad = None
        if self.distance == "mad" and self.mad is not None:
            mad = checks.per_input("mad", self.mad, problem.inputs)
            _check_mad(mad)  # again, as small numbers may vanish in the inputs' dtype
            mad = mad.masked_fill(mad == 0, mad[mad > 0].min())
        return DistanceDescent(problem, self, mad)


class DistanceDescent(search.Procedure):
    """Descend in rounds, from the closest success on, with a prediction loss of another weight.

    Args:
        problem (Problem): What the call asks for.
        settings (Wachter): The explainer, for its numbers.
        mad (Tensor or None): What a change is divided by in the distance, in the inputs' units, of
            the shape of one input; None where it is the range.
    """

    def __init__(self, problem: Problem, settings: Wachter, mad: Tensor | None) -> None:
        self.problem = problem
        self.settings = settings
        self.mad = mad
        self.max_iterations = settings.lambda_rounds * settings.max_iterations
        self.step_rule = AdamStep(settings.learning_rate)

    def start(self, pairs: list[int]) -> search.State:
        """Begin at the originals, see :meth:`captum_deduce.search.Procedure.start`."""
        state = self.problem.rows(pairs)
        images = state["original"]
        none = torch.zeros_like(state["target"])
        zero = torch.zeros(len(pairs), dtype=images.dtype, device=images.device)
        blank = torch.zeros_like(images)
        return state | {
            "images": images.clone(),
            "change": blank,
            "closest_change": blank.clone(),
            "closest_pull": blank.clone(),
            "mean": blank.clone(),
            "square": blank.clone(),
            "distance": zero,
            "closest_distance": zero + float("inf"),
            "weight": zero.clone(),
            "too_low": zero.clone(),
            "high_enough": zero + float("inf"),
            "iteration": none,
            "idle": none.clone(),
            "rounds": none.clone(),
        }

    def evaluate(self, state: search.State, pairs: list[int]) -> search.Evaluation:
        """Run the model, see :meth:`captum_deduce.search.Procedure.evaluate`."""
        images = state["images"].detach().requires_grad_()
        target = state["target"]
        scores, _ = self.problem.forward(images, state)
        log_probability = losses.target_log_probability(scores, target)
        probability = log_probability.detach().exp()
        # The slope of (f - y')^2, by way of log f, which the model's pass is differentiated for.
        least = torch.finfo(probability.dtype).tiny ** 0.5
        slope = 2 * (probability - self.settings.target_probability) * probability.clamp_min(least)
        (gradient,) = torch.autograd.grad(log_probability, images, slope)
        span = self._span(state)
        gradient *= span
        if "allowed" in state:
            gradient.masked_fill_(~state["allowed"], 0.0)
        prediction = scores.detach().argmax(1)
        success = is_success(probability, prediction, target, self.settings.confidence)
        state["change"] = (state["images"] - state["original"]).div_(span)
        state["distance"] = self.distance(state["change"], self._entry_weight(state))
        return search.Evaluation(
            images=state["images"],
            confidence=probability,
            success=success,
            finished=success & (state["distance"] == 0),
            prediction=prediction,
            gradient=gradient,
            distance=state["distance"],
        )

    def step(self, state: search.State, evaluation: search.Evaluation) -> Tensor:
        """Choose the weights, and descend; see :meth:`captum_deduce.search.Procedure.step`."""
        pull = evaluation.gradient
        anew, over = self._end_rounds(state, evaluation.success, pull)
        # Between whole rows, lerp by 0 or 1 chooses exactly, and faster than where.
        again = _column(over & (state["closest_distance"] < float("inf")), pull)
        change = state["change"].lerp(state["closest_change"], again)
        pull = pull.lerp(state["closest_pull"], again)
        entry_weight = self._entry_weight(state)
        weighed = pull if entry_weight is None else pull / entry_weight
        hardest = weighed.abs().flatten(1).amax(1)
        self._begin_rounds(state, evaluation.success, anew, over, hardest)
        weight = torch.minimum(state["weight"], _STEEPEST / hardest)
        state["images"] = self._descend(change, pull.mul_(_column(weight, pull)), state)
        # A NaN in the gradient is the largest there, and without a gradient the weight is infinite.
        broken = ~(hardest * state["weight"]).isfinite()
        return broken | (state["rounds"] > self.settings.lambda_rounds)

    def distance(self, change: Tensor, entry_weight: Tensor | None) -> Tensor:
        """Measure changes.

        Args:
            change (Tensor): Image less original, in units of the range, A x ...
            entry_weight (Tensor or None): What such a unit weighs, of the shape of one change or
                of all; None where it is 1.

        Returns:
            Tensor: A distances.
        """
        if self.settings.distance == "l2":
            return losses.squared_norm(change)
        return losses.l1_norm(change if entry_weight is None else change * entry_weight)

    def _span(self, state: search.State) -> Tensor:
        lower, upper = self.problem.bounds(state)
        return upper - lower

    def _entry_weight(self, state: search.State) -> Tensor | None:
        return None if self.mad is None else self._span(state) / self.mad

    def _end_rounds(
        self, state: search.State, success: Tensor, pull: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Remember closer successes; tell for which pairs the search begins anew or a round ends.

        It begins anew at the original and at the first success.
        """
        found = state["closest_distance"] < float("inf")
        closer = success & (state["distance"] < state["closest_distance"])
        state["closest_distance"] = torch.where(
            closer, state["distance"], state["closest_distance"]
        )
        state["closest_change"].lerp_(state["change"], _column(closer, pull))
        state["closest_pull"].lerp_(pull, _column(closer, pull))
        state["idle"] = (state["idle"] + 1).masked_fill(closer, 0)
        anew = (state["rounds"] == 0) | (closer & ~found)
        idle = found & (state["idle"] >= PATIENCE)
        return anew, anew | idle | (state["iteration"] >= self.settings.max_iterations)

    def _begin_rounds(
        self, state: search.State, success: Tensor, anew: Tensor, over: Tensor, hardest: Tensor
    ) -> None:
        """Give pairs whose round is over the next weight, from the image's own scale if anew."""
        weight, too_low, high_enough = refine_weight(
            state["weight"], state["too_low"], state["high_enough"], success
        )
        for name, value in (
            ("weight", torch.where(anew, self.settings.lambda_init / hardest, weight)),
            ("too_low", too_low.masked_fill(anew, 0.0)),
            ("high_enough", high_enough.masked_fill(anew, float("inf"))),
        ):
            state[name] = torch.where(over, value, state[name])
        same_round = _column(~over, state["mean"])
        state["mean"] *= same_round
        state["square"] *= same_round
        state["iteration"] = state["iteration"].masked_fill(over, 0) + 1
        state["idle"] = state["idle"].masked_fill(over, 0)
        state["rounds"] = state["rounds"] + over

    def _descend(self, change: Tensor, gradient: Tensor, state: search.State) -> Tensor:
        """Move by Adam, and take the distance's part off the changes, in their own memory."""
        lower, upper = self.problem.bounds(state)
        entry_weight = self._entry_weight(state)
        update, rate = self.step_rule(gradient, state["mean"], state["square"], state["iteration"])
        moved = change.sub_(update)
        size = moved.abs()
        if self.settings.distance == "l2":
            size /= rate.mul_(2).add_(1)
        else:
            size -= rate if entry_weight is None else rate.mul_(entry_weight)
        size = threshold(size, checks.TOLERANCE, 0.0)
        images = size.copysign(moved).mul_(upper - lower).add_(state["original"])
        images.clamp_(lower, upper)
        # An entry that begins outside the bounds stays there until it is moved.
        return torch.where(size > 0, images, state["original"])


def _column(flags: Tensor, like: Tensor) -> Tensor:
    """One number for each image, 0 or 1, that broadcasts over its entries."""
    return search.as_column(flags.to(like.dtype), like)


def _median(values: Tensor) -> Tensor:
    ordered = values.sort(0).values
    middle = len(values) // 2
    return (ordered[middle] + ordered[-1 - middle]) / 2


def _check_mad(mad: object) -> None:
    if not isinstance(mad, Tensor):
        raise TypeError(f"mad must be a torch.Tensor, got {type(mad).__name__}")
    if not (torch.isfinite(mad).all() and (mad >= 0).all() and (mad > 0).any()):
        extremes = (mad.min().item(), mad.max().item()) if mad.numel() else ()
        raise ValueError(
            "mad must be finite and not negative, and above 0 somewhere, got the extremes "
            f"{extremes} in {tuple(mad.shape)} values of {mad.dtype}"
        )

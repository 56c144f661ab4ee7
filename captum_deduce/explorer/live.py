"""A search that can be watched."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.explainers import CounterfactualExplainer
from captum_deduce.explorer.turns import Turns
from captum_deduce.explorer.work import Work
from captum_deduce.search import Evaluation

_KEPT_BYTES = 64_000_000
"""What the images of one search may take; of a longer one every second is dropped, again and
again."""


@dataclass
class Course:
    """What a search went through so far.

    Args:
        confidence (list[float]): Probability of the target, at each evaluation.
        log_density (list[float]): Of the features under the target class, in nats; empty where the
            explainer has no density.
        steps (list[int]): The evaluations whose images were kept, ascending.
        images (list[Tensor]): These images, channels x height x width, on the CPU.
        refined (int): Evaluations of a refinement after the search.
    """

    confidence: list[float] = field(default_factory=list)
    log_density: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    images: list[Tensor] = field(default_factory=list)
    refined: int = 0
    _stride: int = 1

    def add(self, evaluation: Evaluation) -> None:
        """Note an evaluation.

        Args:
            evaluation (Evaluation): Of one pair.
        """
        step = len(self.confidence)
        known = evaluation.log_density
        said = [evaluation.confidence, *([] if known is None else [known])]
        confidence, *density = torch.stack([value[0].double() for value in said]).tolist()
        self.confidence.append(confidence)
        self.log_density += density
        if step % self._stride:
            return
        image = evaluation.images[0].detach().cpu().clone()
        self.steps.append(step)
        self.images.append(image)
        if len(self.images) * image.numel() * image.element_size() > _KEPT_BYTES:
            self._stride *= 2
            kept = [place for place, at in enumerate(self.steps) if at % self._stride == 0]
            self.steps = [self.steps[place] for place in kept]
            self.images = [self.images[place] for place in kept]


class Search(Work):
    """One image, one target, one explainer.

    Args:
        explainer (CounterfactualExplainer): Of any method.
        image (Tensor): 1 x channels x height x width, on the model's device.
        target (int): The class to reach.
        mask (Tensor, optional): Height x width, where it may change. Default: None (everywhere)
        turns (Turns, optional): Where it waits for its turn. Default: None (it need not wait)

    Attributes:
        course (Course): So far.
        result (Counterfactuals or None): Of the one pair, once it is there.
    """

    def __init__(
        self,
        explainer: CounterfactualExplainer,
        image: Tensor,
        target: int,
        mask: Tensor | None = None,
        turns: Turns | None = None,
    ) -> None:
        super().__init__(turns)
        self.explainer = explainer
        self.image, self.target, self.mask = image, target, mask
        self.course = Course()
        self.result: Counterfactuals | None = None

    @property
    def progress(self) -> int:
        """Evaluations so far."""
        return len(self.course.confidence) + self.course.refined

    def do(self) -> None:
        """Search."""
        self.result = self.explainer.generate(
            self.image, self.target, mask=self.mask, show_progress=False
        )

    def see(self, what: str, evaluation: Evaluation) -> None:
        """Note an evaluation in the course.

        Args:
            what (str): "counterfactuals", "polishing" or "refinement".
            evaluation (Evaluation): Of the one pair.
        """
        if what == "refinement":
            self.course.refined += 1
        else:
            self.course.add(evaluation)

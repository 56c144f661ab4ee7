"""A search that pairs flow through, so that no batch of a data set waits for its slowest pair."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import Tensor

from captum_deduce import checks, feature_masks, search
from captum_deduce.classifiers import device_of
from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.explainers.base import CounterfactualExplainer
from captum_deduce.search import Problem, SearchResult, smaller_batch

Key = TypeVar("Key")


class Stream:
    r"""A search that is open for pairs of images and targets as long as there are more.

    What :meth:`~captum_deduce.CounterfactualExplainer.generate` does with pairs that are all there,
    this does with pairs that come one by one: each takes the place of one that has ended. Memory is
    that of ``internal_batch_size`` pairs, however many come. It is a context manager; within the
    block the model is held in eval mode, and left as it was found.

    A method's procedure is built once, before the pairs are known. So it may depend on the shape of
    images, but not on what they are; those of this package don't.

    Args:
        explainer (CounterfactualExplainer): Of any method.
        example (Tensor): One image or more as they will come, n x channels x height x width. The
            model is tried with the first two.
        internal_batch_size (int, optional): Most pairs that the model sees at once. Where they are
            too many for the memory, the search goes on with half of them. Default: 128
        mask (Tensor, optional): 1 where pixels may change, one for all images.
            Default: None (all may)
        feature_mask (Tensor, optional): Groups of entries that move as one, for all images, see
            :meth:`~captum_deduce.CounterfactualExplainer.generate`. Default: None

    Attributes:
        num_classes (int): C, within the block.
        lower (Tensor): Lower bound, of the shape of an image, on the model's device.
        upper (Tensor): Upper bound, likewise.
        device (torch.device): The model's.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: What ``generate`` refuses of the example, or no class that can be a target; on
            entering the block.

    Examples::

        >>> from captum_deduce import JSMA
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
        >>> images = torch.rand(20, 1, 8, 8)
        >>> pairs = ((number, image, 2) for number, image in enumerate(images))
        >>> with Stream(JSMA(model), images[:2], internal_batch_size=4) as stream:
        ...     found = {key: pair for keys, result in stream.search(pairs)
        ...              for key, pair in zip(keys, result.images)}
        >>> len(found), found[0].shape
        (20, torch.Size([1, 8, 8]))
    """

    num_classes: int
    lower: Tensor
    upper: Tensor

    def __init__(
        self,
        explainer: CounterfactualExplainer,
        example: Tensor,
        *,
        internal_batch_size: int = 128,
        mask: Tensor | None = None,
        feature_mask: Tensor | None = None,
    ) -> None:
        checks.images(example)
        checks.number("internal_batch_size", internal_batch_size, minimum=1, integer=True)
        if feature_mask is not None:
            explainer._check_feature_mask()
        self.explainer = explainer
        self.batch_size = internal_batch_size
        self._example, self._mask, self._groups = example, mask, feature_mask
        self._unreachable: dict[int, str | None] = {}
        self._exit = ExitStack()

    def __enter__(self) -> Stream:
        explainer = self.explainer
        with ExitStack() as stack, torch.inference_mode(False), torch.enable_grad():
            self._model = stack.enter_context(explainer._frozen_model())
            self.device = device_of(self._model.modules)
            images = self._example[:2].detach().to(self.device, copy=True)
            # Of a single image, so that nothing is taken for one row for each image.
            one = images[:1]
            self.lower, self.upper = checks.bounds(
                explainer.lower_bound, explainer.upper_bound, one
            )
            outside = checks.outside_bounds(images, self.lower, self.upper)
            if outside:
                raise ValueError(outside)
            self._allowed = checks.masks(self._mask, one)
            if self._groups is not None:
                self._groups = feature_masks.numbered(self._groups, one)
            self.num_classes = explainer._probe(
                self._model, images, (), (self.lower, self.upper), self.batch_size
            )
            if explainer.optimize_model:
                self._model.use_quick_copy(images)
            self._example = one
            self._targetable = explainer._targetable(self.num_classes)
            classes = range(self.num_classes)
            self._some_target = next((t for t in classes if self.unreachable(t) is None), -1)
            if self._some_target < 0:
                why = self.unreachable(0)
                raise ValueError(f"no class can be a target of this explainer: {why}")
            self._exit = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._exit.close()

    @torch.no_grad()
    def scores(self, images: Tensor) -> Tensor:
        """Run the model.

        Args:
            images (Tensor): N x channels x height x width, on any device.

        Returns:
            Tensor: Logits or log-probabilities, N x C, on the CPU.
        """
        found, start = [], 0
        while start < len(images):
            rows = images[start : start + self.batch_size].to(self.device, copy=True)
            try:
                found.append(self._model(rows)[0].cpu())
            except Exception as error:
                fewer = smaller_batch(error, len(rows))
                if fewer is None:
                    raise
                self.batch_size = fewer
                continue
            start += len(rows)
        return torch.cat(found)

    def targetable(self) -> list[bool]:
        """Tell which classes can be targets.

        Returns:
            list[bool]: One for each class.
        """
        return [self.unreachable(target) is None for target in range(self.num_classes)]

    def unreachable(self, target: int) -> str | None:
        """Tell why a class can't be a target.

        Args:
            target (int): A class.

        Returns:
            str or None: The reason; None where it can.
        """
        if not 0 <= target < self.num_classes:
            return (
                f"target must lie in 0 ... {self.num_classes - 1} (the model has "
                f"{self.num_classes} classes), got {target}"
            )
        if self._targetable is not None and self._targetable[target]:
            return None
        if target not in self._unreachable:
            try:
                with torch.inference_mode(False), torch.enable_grad():
                    self.explainer._procedure(self._problem(self._example, [target]))
                self._unreachable[target] = None
            except ValueError as error:
                self._unreachable[target] = str(error)
        return self._unreachable[target]

    def search(
        self, pairs: Iterable[tuple[Key, Tensor, int]]
    ) -> Iterator[tuple[list[Key], SearchResult]]:
        """Search for pairs as they come.

        Args:
            pairs (Iterable[tuple]): A key of any kind, the image, channels x height x width, finite
                and within the bounds, and its target, for which :meth:`unreachable` is None. It may
                be a generator that calls :meth:`scores`. A pair is drawn when it can begin.

        Yields:
            tuple[list, SearchResult]: The keys of pairs that ended together, and what was found, in
            the same order, before refinement: :meth:`finish` turns it into counterfactuals.
        """
        count = self.batch_size
        with torch.inference_mode(False):
            places = self._example.repeat(count, *[1] * (self._example.dim() - 1))
            problem = self._problem(places, [self._some_target] * count)
        free = list(range(count))
        keys: dict[int, Key] = {}

        def seated() -> Iterator[int]:
            for key, image, target in pairs:
                slot = free.pop()
                keys[slot] = key
                problem.inputs[slot] = image.to(self.device)
                problem.target[slot] = problem.classes[slot] = target
                yield slot

        @torch.inference_mode(False)
        @torch.enable_grad()
        def ended() -> Iterator[tuple[list[int], SearchResult]]:
            procedure = self.explainer._procedure(problem)
            yield from search.stream(procedure, seated(), batch_size=count)

        for slots, found in ended():
            free += slots
            yield [keys.pop(slot) for slot in slots], found

    def finish(
        self, images: list[Tensor], targets: list[int], found: list[SearchResult]
    ) -> Counterfactuals:
        """Do what the method does after its search, such as refining, and put it all together.

        Args:
            images (list[Tensor]): The originals, N of channels x height x width, on any device.
            targets (list[int]): N classes.
            found (list[SearchResult]): What :meth:`search` found for these pairs, in their order,
                in as many parts as it came; on any device.

        Returns:
            Counterfactuals: The pairs, on the model's device.
        """
        parts: dict[str, Any] = {
            name: torch.cat([getattr(part, name).to(self.device) for part in found])
            for name, value in vars(found[0]).items()
            if isinstance(value, Tensor)
        }
        with torch.inference_mode(False), torch.enable_grad():
            originals = torch.stack([image.to(self.device) for image in images])
            problem = self._problem(originals, targets)
            finished = self.explainer._finish(
                problem, SearchResult(**parts), self.batch_size, False
            )
            return self.explainer._result(problem, finished)

    def _problem(self, images: Tensor, targets: list[int]) -> Problem:
        allowed = None if self._allowed is None else self._allowed.expand(images.shape)
        return Problem(
            model=self._model,
            inputs=images,
            target=torch.tensor(targets, device=images.device),
            classes=list(targets),
            additional_forward_args=(),
            mask=allowed,
            lower=self.lower,
            upper=self.upper,
            groups=self._groups,
        )

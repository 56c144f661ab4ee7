"""What a model says of the originals: their second classes, and where it says nothing."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from captum_deduce import checks
from captum_deduce.classifiers import FrozenModel
from captum_deduce.search.loop import SearchResult
from captum_deduce.search.memory import smaller_batch
from captum_deduce.search.problem import Problem, argument_rows


def runner_up(
    model: FrozenModel,
    images: Tensor,
    arguments: tuple[Any, ...],
    batch_size: int | None,
    targetable: Tensor | None,
) -> Tensor:
    """Find the most likely class but the predicted one.

    Args:
        model (FrozenModel): The model, ready to be called.
        images (Tensor): N x ...
        arguments (tuple): What the model takes besides; tensors with N rows are per image.
        batch_size (int or None): Most images that the model sees at once.
        targetable (Tensor or None): Which classes can be targets, C, bool, on the CPU; None for all
            of them.

    Returns:
        Tensor: N classes, int64, on the CPU.

    Raises:
        ValueError: NaN scores, or no class to choose from.
    """
    size = min(batch_size or len(images), len(images))
    start, halved = 0, False
    seconds = []
    with torch.no_grad():
        while start < len(images):
            rows = slice(start, start + size)
            beside = argument_rows(arguments, len(images), rows)
            try:
                scores, _ = model(images[rows].clone(), beside)
            except Exception as error:
                fewer = smaller_batch(error, size, warned=halved, stacklevel=4)
                if fewer is None:
                    raise
                size, halved = fewer, True
                continue
            broken = scores.isnan().any(1).nonzero().flatten() + start
            if len(broken):
                raise ValueError(
                    "target must be given where forward_func returns NaN, as for inputs "
                    f"{checks.some(broken.tolist())}"
                )
            start += size
            if targetable is None:
                seconds.append(scores.topk(2, dim=1).indices[:, 1].cpu())
                continue
            others = scores.cpu().masked_fill(~targetable, -torch.inf)
            others.scatter_(1, scores.argmax(1, keepdim=True).cpu(), -torch.inf)
            if others.isneginf().all(1).any():
                raise ValueError(
                    f"target must be given: of the classes that can be targets "
                    f"({targetable.nonzero().flatten().tolist()}) there is none but the predicted "
                    "one"
                )
            seconds.append(others.argmax(1))
    return torch.cat(seconds)


def warn_of_broken_scores(
    problem: Problem, found: SearchResult, batch_size: int | None, *, stacklevel: int = 2
) -> None:
    """Say of which originals a search learnt nothing.

    Args:
        problem (Problem): What was asked for.
        found (SearchResult): What came of it. Only pairs without any confidence are looked at, so
            that this costs nothing where there are none.
        batch_size (int or None): Most images that the model sees at once.
        stacklevel (int, optional): Of the warning. Default: 2

    Warns:
        UserWarning: The model returned NaN or infinite scores for some originals.
    """
    suspects = (~found.success & (found.confidence == 0)).nonzero().flatten().tolist()
    size, broken = batch_size or len(problem.inputs), []
    for start in range(0, len(suspects), size):
        pairs = suspects[start : start + size]
        rows = problem.rows(pairs)
        with torch.no_grad():
            scores, _ = problem.forward(rows["original"], rows)
        finite = scores.isfinite().all(1).tolist()
        broken += [pair for pair, fine in zip(pairs, finite, strict=True) if not fine]
    if broken:
        warnings.warn(
            "forward_func returned NaN or infinite scores for inputs "
            f"{checks.some(broken)}: these pairs failed, and what is said of them (prediction, "
            "confidence) means nothing",
            stacklevel=stacklevel,
        )

"""The one loop that every method runs in: a queue of pairs, an active set, per-pair stopping.

It knows neither models nor losses. A *procedure* keeps a small state for each (image, target)
pair, evaluates a batch of states and makes one step with each; the loop decides who is in the
batch, keeps the best attempt of each pair and takes a pair out as soon as it has ended, so that no
pair waits for a slower one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from captum_deduce import progress
from captum_deduce.search.columns import as_column
from captum_deduce.search.memory import smaller_batch
from captum_deduce.search.observation import current_observer

State = dict[str, Tensor]
"""Tensors on one device with a leading dimension of the pairs in the active set.

A procedure that makes forward passes besides its evaluations counts them for each pair under
``forward_evaluations`` (int64), and one whose evaluations do not all compute a gradient counts
those that do under ``evaluations``; all other names are its own.
"""


_COUNTS = ("forward_evaluations", "evaluations")


@dataclass
class Evaluation:
    """What one batched model evaluation shows of the A active pairs.

    Args:
        images (Tensor): The images that were evaluated, A x ...
        confidence (Tensor): Softmax probability of the target, A.
        success (Tensor): Whether the image is what the pair is looking for, A, bool.
        finished (Tensor): Whether the pair ends here, A, bool (at the first success, or when its
            own schedule is over).
        prediction (Tensor): Class that the model gives the image, A, int64.
        gradient (Tensor): Of the pair's loss, for the procedure's own step.
        distance (Tensor, optional): What the best success minimises, A. Default: None (the first
            success is the best)
        log_density (Tensor, optional): Of the image's features under the target class, A.
            Default: None
        target (Tensor, optional): The class that the pair counts as asking for where any will do,
            A, int64. Default: None (a procedure whose targets do not change)
        merit (Tensor, optional): What the best of the attempts without success has most of, A.
            Default: None (the confidence)
    """

    images: Tensor
    confidence: Tensor
    success: Tensor
    finished: Tensor
    prediction: Tensor
    gradient: Tensor
    distance: Tensor | None = None
    log_density: Tensor | None = None
    target: Tensor | None = None
    merit: Tensor | None = None


class Procedure(ABC):
    """A method, as the loop sees it.

    Args:
        max_iterations (int): Most steps of a pair.
    """

    max_iterations: int

    @abstractmethod
    def start(self, pairs: list[int]) -> State:
        """Make the states of pairs that enter the active set.

        Args:
            pairs (list[int]): Their indices in the call.

        Returns:
            dict[str, Tensor]: New tensors (no views of what is shared), a row for each pair.
        """

    @abstractmethod
    def evaluate(self, state: State, pairs: list[int]) -> Evaluation:
        """Evaluate the active pairs' images: one forward pass and one gradient.

        An evaluation that runs out of memory is repeated with fewer pairs.

        Args:
            state (dict[str, Tensor]): Of the active pairs; other tensors may be put in it, but
                those that are there are not changed in place.
            pairs (list[int]): Their indices in the call.

        Returns:
            Evaluation: What it showed.
        """

    @abstractmethod
    def step(self, state: State, evaluation: Evaluation) -> Tensor:
        """Make one step with each active pair, in place.

        Args:
            state (dict[str, Tensor]): Of the active pairs; changed in place.
            evaluation (Evaluation): Of the same pairs.

        Returns:
            Tensor: Whether a pair is stuck: no step changes its image, or its gradient is not
            finite (A, bool).
        """


@dataclass(frozen=True)
class SearchResult:
    """The best attempt of each of N pairs, and what it took.

    Args:
        images (Tensor): N x ...
        confidence (Tensor): N.
        success (Tensor): N, bool.
        prediction (Tensor): Of the first image evaluated, N, int64.
        iterations (Tensor): Steps made, N, int64.
        log_density (Tensor, optional): N. Default: None
        target (Tensor, optional): Of the best attempt, N, int64. Default: None
        forward_evaluations (Tensor, optional): N, int64. Default: None (the procedure counts none)
        evaluations (Tensor, optional): N, int64. Default: None (one more than the steps)
        distance (Tensor, optional): Of the best attempt, N. Default: None (the first success is
            the best)
        trajectory (list[Tensor], optional): All images evaluated, on the CPU. Default: None
    """

    images: Tensor
    confidence: Tensor
    success: Tensor
    prediction: Tensor
    iterations: Tensor
    log_density: Tensor | None = None
    target: Tensor | None = None
    forward_evaluations: Tensor | None = None
    evaluations: Tensor | None = None
    distance: Tensor | None = None
    trajectory: list[Tensor] | None = None


def run(
    procedure: Procedure,
    num_pairs: int,
    *,
    batch_size: int | None = None,
    show_progress: bool | None = None,
    return_trajectory: bool = False,
    description: str = "counterfactuals",
) -> SearchResult:
    """Search for the counterfactuals of all pairs.

    Each round costs one batched evaluation and one device-to-host synchronisation (a trajectory
    costs a copy of the images more). Memory does not grow with the number of rounds.

    Where an evaluation runs out of memory, the later half of the active set goes back to the head
    of the queue as it stands, and the search goes on with places for the other half only.

    Args:
        procedure (Procedure): The method.
        num_pairs (int): N.
        batch_size (int, optional): Most pairs in the active set. Default: None (all)
        show_progress (bool, optional): Draw a bar over the pairs that have ended, with the steps
            made, the pairs found and the mean of the active pairs' best confidences so far.
            Default: None (after two seconds, in a terminal or a notebook)
        return_trajectory (bool, optional): Keep every image that was evaluated. Default: False
        description (str, optional): What the bar says. Default: "counterfactuals"

    Returns:
        SearchResult: In the order of the pairs, whatever the order in which they ended.

    Raises:
        Exception: Whatever an evaluation raises; out of memory only with a single pair.

    Warns:
        UserWarning: Once, where an evaluation of several pairs runs out of memory.
    """
    size = num_pairs if batch_size is None else min(batch_size, num_pairs)
    paths: list[list[Tensor]] | None = None
    if return_trajectory:
        paths = [[] for _ in range(num_pairs)]
    with progress.bar(
        total=num_pairs, desc=description, unit="pair", show_progress=show_progress
    ) as bar:
        ended = list(_search(procedure, range(num_pairs), size, _News(bar), paths, description))
    return _in_order(ended, paths)


def stream(
    procedure: Procedure, pairs: Iterable[int], *, batch_size: int
) -> Iterator[tuple[list[int], SearchResult]]:
    """Search for the counterfactuals of pairs that come in one by one, as long as there are more.

    The batch stays full until the last pair has come. A pair is drawn when there is a place for it,
    after those that have left have been handed out; so what belongs to at most ``batch_size`` pairs
    has to be kept, and a pair's number may be used again as soon as it has left.

    Args:
        procedure (Procedure): The method.
        pairs (Iterable[int]): Their numbers, as the procedure knows them.
        batch_size (int): Most pairs in the active set.

    Yields:
        tuple[list[int], SearchResult]: Pairs that have left together, and their best attempts, in
        the same order.

    Raises:
        Exception: As :func:`run`, or what the iterable raises.

    Warns:
        UserWarning: As :func:`run`.
    """
    with progress.bar(show_progress=False) as hidden:
        for ended in _search(procedure, pairs, batch_size, _News(hidden), None):
            yield ended.pairs, _result(ended.rows, ended.steps)


def beginners(pairs: list[int], begun: Container[int], steps: Tensor) -> list[int]:
    """Find the active pairs that are at their very first evaluation.

    One that waited while memory was short starts anew, but goes on from where it was.

    Args:
        pairs (list[int]): The active pairs.
        begun (Container[int]): Those that are known to be further.
        steps (Tensor): Steps of each so far, A, int64; read only where there are others.

    Returns:
        list[int]: Their places among the active pairs.
    """
    unknown = [slot for slot, pair in enumerate(pairs) if pair not in begun]
    if not unknown:
        return []
    made = steps[_index(unknown, {"steps": steps})].tolist()
    return [slot for slot, step in zip(unknown, made, strict=True) if step == 0]


@dataclass(frozen=True)
class _Ended:
    """Pairs that have left the active set together."""

    pairs: list[int]
    steps: list[int]
    rows: State


def _search(
    procedure: Procedure,
    pairs: Iterable[int],
    size: int,
    news: _News,
    paths: list[list[Tensor]] | None,
    description: str = "counterfactuals",
) -> Iterator[_Ended]:
    """Keep the batch full, hand out the pairs that have ended."""
    observer = current_observer()
    queue = _Queue(pairs)
    active = queue.take(size)
    if not active:
        return
    halved = False
    steps = [0] * len(active)
    state = procedure.start(active)
    best: State = {}
    while active:
        outcome = _evaluate(procedure, state, active, warned=halved)
        if isinstance(outcome, int):
            halved = True
            queue.put_back(active[outcome:], steps[outcome:], state, best)
            active, steps = active[:outcome], steps[:outcome]
            state, best = _first_rows(state, outcome), _first_rows(best, outcome)
            continue
        state, evaluation = outcome
        best = _keep_best(best, evaluation, steps)
        if observer is not None:
            observer(description, evaluation)
        if paths is not None:
            for pair, image in zip(active, evaluation.images.cpu(), strict=True):
                paths[pair].append(image.clone())
        stuck = procedure.step(state, evaluation)
        over = news.tell(evaluation.finished | stuck, best)
        ended = [
            ends or step >= procedure.max_iterations for ends, step in zip(over, steps, strict=True)
        ]
        steps = [step + 1 for step in steps]
        if not any(ended):
            continue
        out = [slot for slot, ends in enumerate(ended) if ends]
        counted = {name: state[name] for name in _COUNTS if name in state}
        rows = _rows(best | counted, out)
        news.take_out(out)
        yield _Ended([active[slot] for slot in out], [steps[slot] - 1 for slot in out], rows)

        # Pairs from the queue take the places of those that ended; the rest closes up.
        new = queue.take(len(out))
        refilled, emptied = out[: len(new)], set(out[len(new) :])
        if new:
            _replace(state, refilled, procedure.start(new))
            for slot, pair in zip(refilled, new, strict=True):
                active[slot] = pair
                steps[slot] = queue.resume(pair, slot, state, best)
        if emptied:
            kept = [slot for slot in range(len(active)) if slot not in emptied]
            state, best = _rows(state, kept), _rows(best, kept)
            active = [active[slot] for slot in kept]
            steps = [steps[slot] for slot in kept]


def _evaluate(
    procedure: Procedure, state: State, active: list[int], *, warned: bool
) -> tuple[State, Evaluation] | int:
    """The state after an evaluation, and what it showed; out of memory: how many pairs to keep."""
    attempt = dict(state)
    try:
        return attempt, procedure.evaluate(attempt, active)
    except Exception as error:
        fewer = smaller_batch(error, len(active), warned=warned, stacklevel=6)
        if fewer is None:
            raise
        return fewer


class _Queue:
    """The pairs that wait: to begin, or to go on from where they were when memory ran out."""

    def __init__(self, pairs: Iterable[int]) -> None:
        self.fresh = iter(pairs)
        self.returned: deque[int] = deque()
        self.interrupted: dict[int, tuple[int, State, State]] = {}

    def put_back(self, pairs: list[int], steps: list[int], state: State, best: State) -> None:
        """Let the last of the active pairs wait at the head of the queue, with all that is known.

        One that was never evaluated knows nothing.
        """
        for place, (pair, step) in enumerate(zip(pairs, steps, strict=True), start=-len(pairs)):
            if step:
                self.interrupted[pair] = step, _rows(state, [place]), _rows(best, [place])
        self.returned.extendleft(reversed(pairs))

    def take(self, count: int) -> list[int]:
        """Take as many pairs as there are, at most so many."""
        again = [self.returned.popleft() for _ in range(min(count, len(self.returned)))]
        return again + list(islice(self.fresh, count - len(again)))

    def resume(self, pair: int, slot: int, state: State, best: State) -> int:
        """Put back what is known of a pair; returns the steps that it has made."""
        step, own_state, own_best = self.interrupted.pop(pair, (0, {}, {}))
        for name, value in own_state.items():
            state[name][slot] = value[0]
        for name, value in own_best.items():
            best[name][slot] = value[0]
        return step


class _News:
    """How a search stands, for a person who waits: on a bar over the pairs that have ended."""

    def __init__(self, bar: Any) -> None:
        self.bar = bar
        self.rounds = self.found = 0
        self.success: list[float] = []

    def tell(self, over: Tensor, best: State) -> list[bool]:
        """Bring to the host which pairs end: all that is told comes in the same copy."""
        if self.bar.disable:
            return [bool(ends) for ends in over.tolist()]
        confidence = best["confidence"]
        told = torch.stack([row.to(confidence) for row in (over, best["success"], confidence)])
        ends, self.success, confidences = told.tolist()
        self.rounds += 1
        self.bar.set_postfix(
            steps=self.rounds,
            found=self.found + int(sum(self.success)),
            confidence=f"{fmean(confidences):.3f}",
            refresh=False,
        )
        self.bar.miniters = 0  # or the bar would wait for as many pairs as once ended together
        self.bar.update(0)
        return [bool(end) for end in ends]

    def take_out(self, slots: list[int]) -> None:
        """Count pairs that have ended."""
        self.bar.update(len(slots))
        if not self.bar.disable:
            self.found += int(sum(self.success[slot] for slot in slots))


def _keep_best(best: State, evaluation: Evaluation, steps: list[int]) -> State:
    """Update each pair's best attempt; a pair with no step made yet starts its record."""
    seen: State = {
        "images": evaluation.images,
        "confidence": evaluation.confidence.nan_to_num(0.0),
        "success": evaluation.success,
    }
    seen["merit"] = seen["confidence"] if evaluation.merit is None else evaluation.merit
    for name in ("distance", "log_density", "target"):
        value = getattr(evaluation, name)
        if value is not None:
            seen[name] = value
    if not best:
        first = {**seen, "prediction": evaluation.prediction}
        return {name: value.clone() for name, value in first.items()}
    better = seen["success"] & ~best["success"]
    neither = ~seen["success"] & ~best["success"]
    better |= neither & (seen["merit"] > best["merit"])
    if "distance" in seen:
        better |= seen["success"] & best["success"] & (seen["distance"] < best["distance"])
    prediction = best["prediction"]
    if 0 in steps:
        started = torch.tensor([step == 0 for step in steps]).to(better.device, non_blocking=True)
        better |= started
        prediction = torch.where(started, evaluation.prediction, prediction)
    updated = {name: _where(better, value, best[name]) for name, value in seen.items()}
    return {**updated, "prediction": prediction}


def _where(condition: Tensor, value: Tensor, other: Tensor) -> Tensor:
    return torch.where(as_column(condition, value), value, other)


def _rows(state: State, slots: list[int]) -> State:
    index = _index(slots, state)
    return {name: value[index] for name, value in state.items()}


def _first_rows(state: State, count: int) -> State:
    return {name: value[:count].clone() for name, value in state.items()}


def _replace(state: State, slots: list[int], rows: State) -> None:
    index = _index(slots, state)
    for name, value in state.items():
        value[index] = rows[name]


def _index(slots: list[int], state: State) -> Tensor:
    device = next(iter(state.values())).device
    return torch.tensor(slots, dtype=torch.int64).to(device, non_blocking=True)


def _in_order(ended: list[_Ended], paths: list[list[Tensor]] | None) -> SearchResult:
    pairs = [pair for each in ended for pair in each.pairs]
    steps = [step for each in ended for step in each.steps]
    order = sorted(range(len(pairs)), key=pairs.__getitem__)
    joined = {name: torch.cat([each.rows[name] for each in ended]) for name in ended[0].rows}
    return _result(_rows(joined, order), [steps[place] for place in order], paths)


def _result(rows: State, steps: list[int], paths: list[list[Tensor]] | None = None) -> SearchResult:
    values = {name: value for name, value in rows.items() if name != "merit"}
    return SearchResult(
        **values,
        iterations=torch.tensor(steps).to(rows["success"].device),
        trajectory=None if paths is None else [torch.stack(path) for path in paths],
    )

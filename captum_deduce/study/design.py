"""Who is shown what: every method of every original equally often, nobody the same twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

TASKS = {
    "name": "Name the class",
    "real": "Real or changed",
    "prefer": "Which explains better",
}
"""What people are asked, in the order in which they are asked, with a title each.

Preferences come last, since they show the original beside what became of it."""

ORIGINAL = -1
"""Stands in the place of a method where the original itself is shown."""


@dataclass(frozen=True)
class Trial:
    """One question to one person.

    Args:
        pair (int): The number of the original and its target.
        methods (tuple[int, ...]): Whose pictures are to be judged: one method, or
            :data:`ORIGINAL`, or two methods to choose from.
    """

    pair: int
    methods: tuple[int, ...]


def plan_task(
    task: str, num_pairs: int, num_methods: int, rng: np.random.Generator, *, labels: bool = False
) -> list[Trial]:
    """Lay out all trials of a task in a circle of which each person gets a part.

    The circle is made of rounds. A round has every pair once, and as many pairs of each method as
    of any other, to within one; from round to round a pair goes on to the next method, as in a
    Latin square. Whoever gets one round never sees an original twice in a task, and as many people
    as there are rounds see each trial once.

    Args:
        task (str): One of :data:`TASKS`. Of ``"real"`` every other trial is an original, so that
            half of what a person sees is real; of ``"prefer"`` a trial has two methods.
        num_pairs (int): N.
        num_methods (int): M.
        rng (numpy.random.Generator): For the order of the pairs.
        labels (bool, optional): Whether the originals' classes are known, so that ``"name"`` asks
            for these, too. Default: False

    Returns:
        list[Trial]: Rounds of N trials: M of ``"name"`` (one more with ``labels``), 2 M of
        ``"real"``, M (M - 1) / 2 of ``"prefer"``.

    Raises:
        ValueError: An unknown task.
    """
    columns: list[tuple[int, ...]]
    if task == "name":
        columns = [(method,) for method in range(num_methods)]
        columns += [(ORIGINAL,)] * labels
    elif task == "real":
        columns = [(shown,) for method in range(num_methods) for shown in (method, ORIGINAL)]
    elif task == "prefer":
        columns = list(combinations(range(num_methods), 2))
    else:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
    order = rng.permutation(num_pairs).tolist()
    return [
        Trial(pair, columns[(place + turn) % len(columns)])
        for turn in range(len(columns))
        for place, pair in enumerate(order)
    ]


def choose_options(
    pairs: Sequence[tuple[int, int]],
    num_classes: int,
    rng: np.random.Generator,
    *,
    most: int = 10,
) -> list[list[int]]:
    """Choose the classes that are offered where a pair's class is to be named.

    They depend on the pair alone, not on the method, so that no method has the easier choice.

    Args:
        pairs (Sequence[tuple[int, int]]): The class that the model sees in the original, and the
            target, of each of N pairs.
        num_classes (int): C.
        rng (numpy.random.Generator): For the others.
        most (int, optional): How many are offered at most, at least 2. Default: 10

    Returns:
        list[list[int]]: Classes in ascending order: all of them if there are few, else the pair's
        two with others, those that occur in some pair first.
    """
    if num_classes <= most:
        return [list(range(num_classes))] * len(pairs)
    occurring = sorted({number for pair in pairs for number in pair})
    rare = sorted(set(range(num_classes)) - set(occurring))
    offered = []
    for pair in pairs:
        others = [number for number in occurring if number not in pair]
        drawn = [*rng.permutation(others).tolist(), *rng.permutation(rare).tolist()]
        own = sorted(set(pair))
        offered.append(sorted([*own, *(int(number) for number in drawn[: most - len(own)])]))
    return offered

"""From several methods' results to a page that asks people, and the key to it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from captum_deduce import checks, storage
from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.study.design import ORIGINAL, TASKS, choose_options, plan_task
from captum_deduce.study.key import PairKey, StudyKey, TrialKey
from captum_deduce.study.methods import MethodResults, shared_pairs
from captum_deduce.study.page import study_html
from captum_deduce.study.pictures import picture_uris
from captum_deduce.visualization import ClassNames, read_class_names

TITLE = "A study of pictures"
"""What a page is called unless its author says otherwise."""

CONSENT = """\
You will be shown pictures and asked what you see in them. There are no right or wrong answers to
remember, and you may stop at any time.

Your answers, the time that each took, and the name or number that you give below are kept in this
browser. They leave this device only in the file that you save at the end and hand over yourself."""
"""What is said before people agree, unless the author has a text of their own."""


@dataclass(frozen=True)
class Study:
    """A page, and the key to it.

    Args:
        html (str): The page; nothing in it names a method.
        key (StudyKey): What is needed to read the answers.
    """

    html: str
    key: StudyKey

    def save(self, page: str | os.PathLike[str], key: str | os.PathLike[str]) -> None:
        """Write both, the key first: without it answers could not be read.

        Args:
            page (str or Path): The file of the page; one that is there is replaced.
            key (str or Path): The file of the key, likewise.

        Raises:
            OSError: One of them can't be written.
        """
        self.key.save(Path(key))
        with storage.whole_file(Path(page)) as unfinished:
            unfinished.write_text(self.html, encoding="utf-8")


def make_study(
    methods: Sequence[MethodResults],
    *,
    num_pairs: int = 20,
    tasks: Sequence[str] = tuple(TASKS),
    trials: int | None = None,
    class_names: ClassNames | None = None,
    title: str = TITLE,
    consent: str = CONSENT,
    mean: Any = None,
    std: Any = None,
    seed: int = 0,
) -> Study:
    """Make a study of several methods' counterfactuals.

    It shows pairs for which every method found a counterfactual, so that all are judged on the
    same originals. Failures are left out, and counted in the key.

    Args:
        methods (Sequence[MethodResults]): M methods, one at least.
        num_pairs (int, optional): How many originals are shown, at most: drawn from those that
            all methods share. Default: 20
        tasks (Sequence[str], optional): Of :data:`TASKS`; ``"prefer"`` needs two methods, and is
            left out where there is one. Default: all
        trials (int, optional): How many of each task a person is asked, at most.
            Default: None (as many as there are originals, so that nobody meets one twice in a task)
        class_names (Sequence[str] or Mapping, optional): A name per class, or ``{index: name}``.
            Default: None (those of a run, else numbers)
        title (str, optional): Of the page. Default: :data:`TITLE`
        consent (str, optional): What people agree to, paragraphs apart by an empty line.
            Default: :data:`CONSENT`
        mean (float, sequence or Tensor, optional): The mean with which inputs were normalised, a
            number or one per channel. Default: None (the bounds of a run, else they were not)
        std (float, sequence or Tensor, optional): The standard deviation, likewise. Default: None
        seed (int, optional): By which pairs, orders and names of pictures are drawn. Default: 0

    Returns:
        Study: The page with its key.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: No method or task, an unknown task, no pair that all methods found, a class
            without a name, or images that can't be drawn.
    """
    checks.number("num_pairs", num_pairs, minimum=1, integer=True)
    checks.number("seed", seed, minimum=0, integer=True)
    if trials is not None:
        checks.number("trials", trials, minimum=1, integer=True)
    chosen = _tasks(tasks, len(methods))
    rng = np.random.default_rng(seed)
    shared = _shared(methods)
    rows = [shared[row] for row in sorted(rng.permutation(len(shared))[:num_pairs].tolist())]
    if mean is None and std is None:
        mean, std = next((m.colors for m in methods if m.colors is not None), (None, None))
    found = [method.read([row[place] for row in rows]) for place, method in enumerate(methods)]
    names = _Names(rng)
    ids, pictures = _pictures(found, names, mean, std)
    labels = [methods[0].labels[row[0]] for row in rows]
    if class_names is None:
        class_names = next((m.class_names for m in methods if m.class_names), None)
    pairs, all_names = _pairs(found[0], labels, class_names, rng)
    plan = {
        task: plan_task(task, len(rows), len(methods), rng, labels=None not in labels)
        for task in chosen
    }
    key = StudyKey(
        study="",
        methods=[method.name for method in methods],
        class_names=all_names,
        pairs=pairs,
        trials={
            names.new(): TrialKey(
                task, trial.pair, [ids[m, trial.pair] for m in trial.methods], list(trial.methods)
            )
            for task, circle in plan.items()
            for trial in circle
        },
        per_person={task: min(trials or len(rows), len(circle)) for task, circle in plan.items()},
        counts={method.name: method.counts for method in methods},
        shared=len(shared),
        seed=seed,
    )
    content = json.dumps([asdict(key), pictures], sort_keys=True)
    key = replace(key, study=hashlib.sha256(content.encode()).hexdigest()[:16])
    originals = [ids[ORIGINAL, pair] for pair in range(len(rows))]
    return Study(study_html(key, pictures, originals, title, consent), key)


class _Names:
    """Names that say nothing, each given once."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.given: set[str] = set()

    def new(self) -> str:
        name = self.rng.bytes(5).hex()
        while name in self.given:
            name = self.rng.bytes(5).hex()
        self.given.add(name)
        return name


def _tasks(tasks: Sequence[str], num_methods: int) -> list[str]:
    unknown = [task for task in tasks if task not in TASKS]
    if unknown or isinstance(tasks, str):
        raise ValueError(f"tasks must be some of {', '.join(TASKS)}, got {tasks!r}")
    possible = [task for task in TASKS if task in tasks and (task != "prefer" or num_methods > 1)]
    if not possible:
        raise ValueError(
            f"tasks must hold at least one that {num_methods} method(s) allow, got {list(tasks)}"
        )
    return possible


def _shared(methods: Sequence[MethodResults]) -> list[list[int]]:
    if not methods:
        raise ValueError("methods must hold at least one, got none")
    shared = shared_pairs(methods)
    if not shared:
        found = ", ".join(f"{m.name} {m.counts['found']} of {len(m.questions)}" for m in methods)
        raise ValueError(
            "no pair of the same image and target was found by all methods, so there is nothing "
            f"to compare; found were: {found}"
        )
    return shared


def _pictures(
    found: Sequence[Counterfactuals], names: _Names, mean: Any, std: Any
) -> tuple[dict[tuple[int, int], str], dict[str, str]]:
    """Names of the pictures by method and pair, and the pictures by their names."""
    parts: list[Tensor] = [found[0].inputs, *(part.counterfactuals for part in found)]
    ids: dict[tuple[int, int], str] = {}
    pictures = {}
    for shown, images in enumerate(parts, ORIGINAL):
        for pair, uri in enumerate(picture_uris(images, mean, std)):
            ids[shown, pair] = names.new()
            pictures[ids[shown, pair]] = uri
    return ids, pictures


def _pairs(
    found: Counterfactuals,
    labels: list[int | None],
    class_names: ClassNames | None,
    rng: np.random.Generator,
) -> tuple[list[PairKey], list[str]]:
    classes = list(zip(found.prediction.tolist(), found.target.tolist(), strict=True))
    known = [label for label in labels if label is not None]
    seen = 1 + max([number for pair in classes for number in pair] + known)
    names = read_class_names(class_names, max(seen, len(class_names or ())))
    offered = choose_options(classes, len(names), rng)
    pairs = [
        PairKey(prediction, target, label, options)
        for (prediction, target), label, options in zip(classes, labels, offered, strict=True)
    ]
    return pairs, names

"""Results, studies and people for tests: what they see is known, as it was made up."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from captum_deduce import Counterfactuals
from captum_deduce.study import MethodResults, Study, StudyKey, make_study


def result(
    num_pairs: int = 6,
    *,
    change: float = 0.25,
    failed: Sequence[int] = (),
    already: Sequence[int] = (),
    channels: int = 1,
    size: int = 8,
    classes: int = 10,
) -> Counterfactuals:
    """Images that are the same whatever the change, towards the class after that of the model."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.rand(num_pairs, channels, size, size, generator=generator) / 2
    changed = inputs.clone()
    moving = [pair for pair in range(num_pairs) if pair not in already]
    changed[moving, :, 0, 0] += change
    success = torch.ones(num_pairs, dtype=torch.bool)
    success[list(failed)] = False
    prediction = torch.arange(num_pairs) % classes
    count = torch.ones(num_pairs, dtype=torch.int64)
    return Counterfactuals(
        inputs=inputs,
        counterfactuals=changed,
        target=(prediction + 1) % classes,
        success=success,
        confidence=torch.full((num_pairs,), 0.9),
        iterations=count,
        evaluations=count,
        forward_evaluations=count,
        prediction=prediction,
    )


def methods(names: Sequence[str] = ("alpha", "beta", "gamma"), **settings) -> list[MethodResults]:
    return [
        MethodResults.of(name, result(change=0.1 * (1 + place), **settings))
        for place, name in enumerate(names)
    ]


def study(
    names: Sequence[str] = ("alpha", "beta", "gamma"), num_pairs: int = 6, **settings
) -> Study:
    return make_study(methods(names, num_pairs=num_pairs), num_pairs=num_pairs, **settings)


def circle(key: StudyKey, task: str) -> list[str]:
    return [name for name, trial in key.trials.items() if trial.task == task]


def asked(key: StudyKey, number: int) -> list[str]:
    """What the page asks the person of a number, in the order of the circles."""
    chosen = []
    for task, count in key.per_person.items():
        names = circle(key, task)
        start = (number - 1) * count
        chosen += [names[(start + place) % len(names)] for place in range(count)]
    return chosen


def answers(
    key: StudyKey, number: int, say: Callable[[str, int], object], seconds: float = 2.0
) -> dict[str, object]:
    """A file of answers as the page writes it; ``say`` takes a trial's name and the person."""
    given = [
        {"trial": name, "answer": say(name, number), "seconds": seconds, "interrupted": False}
        for name in asked(key, number)
    ]
    return {
        "format": "captum-deduce study answers",
        "version": 1,
        "study": key.study,
        "participant": str(number),
        "agreed": "2030-01-01T00:00:00.000Z",
        "finished": "2030-01-01T00:10:00.000Z",
        "answers": given,
    }


def write(folder: Path, content: object, name: str = "answers.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def simulated(
    key: StudyKey,
    num_people: int,
    named: Sequence[float],
    real: Sequence[float],
    strength: Sequence[float],
    rng: np.random.Generator,
) -> list[dict[str, object]]:
    """People who name the target of each method, take it for real and prefer it with known chances.

    The last chance of ``real`` is that of the originals.
    """

    def say(name: str, number: int) -> object:
        trial = key.trials[name]
        pair, first = key.pairs[trial.pair], trial.methods[0]
        if trial.task == "name":
            return pair.target if rng.random() < named[first] else pair.prediction
        if trial.task == "real":
            return bool(rng.random() < real[first])
        odds = np.exp(strength[first] - strength[trial.methods[1]])
        return trial.pictures[0] if rng.random() < odds / (1 + odds) else trial.pictures[1]

    return [answers(key, number, say) for number in range(1, num_people + 1)]

"""The key of a study: what each picture is, kept apart from the page that shows it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from captum_deduce import storage
from captum_deduce.study.design import TASKS

FORMAT = "captum-deduce study key"
VERSION = 1


@dataclass(frozen=True)
class PairKey:
    """An original and its target.

    Args:
        prediction (int): The class that the model sees in the original.
        target (int): The class that was asked for.
        label (int or None): The true class of the original, where it is known.
        options (list[int]): The classes that are offered where it is to be named.
    """

    prediction: int
    target: int
    label: int | None
    options: list[int]


@dataclass(frozen=True)
class TrialKey:
    """What a trial shows.

    Args:
        task (str): One of :data:`captum_deduce.study.TASKS`.
        pair (int): The number of its original and target.
        pictures (list[str]): The pictures to judge, by the page's names for them.
        methods (list[int]): Whose these are, by number; -1 is the original itself.
    """

    task: str
    pair: int
    pictures: list[str]
    methods: list[int]


@dataclass(frozen=True)
class StudyKey:
    """What is needed to read the answers of a study, and was kept from those who gave them.

    Args:
        study (str): By which a page and its answers know one another.
        methods (list[str]): The methods' names.
        class_names (list[str]): The classes' names.
        pairs (list[PairKey]): The originals with their targets.
        trials (dict[str, TrialKey]): All trials by the page's names for them.
        per_person (dict[str, int]): How many trials of each task a person is asked.
        counts (dict[str, dict[str, int]]): For each method how many pairs of its results were
            ``found``, ``failed`` and were there ``already``; only the first are shown.
        shared (int): How many pairs every method had found, of which those of the study are drawn.
        seed (int): By which it was drawn.
    """

    study: str
    methods: list[str]
    class_names: list[str]
    pairs: list[PairKey]
    trials: dict[str, TrialKey]
    per_person: dict[str, int]
    counts: dict[str, dict[str, int]]
    shared: int
    seed: int

    def save(self, path: str | Path) -> None:
        """Write the key as JSON.

        Args:
            path (str or Path): The file; one that is there is replaced.

        Raises:
            OSError: It can't be written.
        """
        text = json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)}, indent=1)
        with storage.whole_file(Path(path)) as unfinished:
            unfinished.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> StudyKey:
        """Read a key that :meth:`save` wrote.

        Args:
            path (str or Path): The file.

        Returns:
            StudyKey: As it was saved.

        Raises:
            FileNotFoundError: No such file.
            ValueError: Something else than a key, or one of another version.
        """
        content = read_json(Path(path), "key of a study", FORMAT, VERSION)
        try:
            found = cls(
                study=str(content["study"]),
                methods=list(content["methods"]),
                class_names=list(content["class_names"]),
                pairs=[PairKey(**pair) for pair in content["pairs"]],
                trials={name: TrialKey(**trial) for name, trial in content["trials"].items()},
                per_person={
                    task: int(content["per_person"][task]) for task in content["per_person"]
                },
                counts=dict(content["counts"]),
                shared=int(content["shared"]),
                seed=int(content["seed"]),
            )
            _check(found)
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ValueError(f"{path} holds no complete key of a study: {error!r}") from error
        return found

    @property
    def tasks(self) -> list[str]:
        """What people are asked, in that order."""
        return [task for task in TASKS if task in self.per_person]


def _check(key: StudyKey) -> None:
    """Refuse a key whose parts name what isn't there."""
    classes, methods = range(len(key.class_names)), range(-1, len(key.methods))
    _require(_words(key.methods) and _words(key.class_names), "names of methods and classes", key)
    for pair in key.pairs:
        asked = [pair.prediction, pair.target, *pair.options]
        asked += [] if pair.label is None else [pair.label]
        _require(all(type(one) is int and one in classes for one in asked), "classes", pair)
    for trial in key.trials.values():
        shown = 2 if trial.task == "prefer" else 1
        there = type(trial.pair) is int and trial.pair in range(len(key.pairs))
        _require(trial.task in TASKS and there, "a task and a pair of the study", trial)
        _require(_words(trial.pictures) and len(trial.pictures) == shown, "pictures", trial)
        judged = [type(one) is int and one in methods for one in trial.methods]
        _require(all(judged) and len(judged) == shown, "a method for each picture", trial)
        two = len(set(trial.methods) - {-1}) == 2
        _require(trial.task != "prefer" or two, "two methods to prefer one of", trial)
    _require(set(key.per_person) <= set(TASKS), f"tasks of {', '.join(TASKS)}", key.per_person)
    numbers = [*key.per_person.values(), key.shared, key.seed]
    _require(min(numbers) >= 0, "numbers from 0", numbers)
    for counts in key.counts.values():
        known = {"found", "failed", "already"} <= counts.keys()
        _require(
            known and all(type(one) is int for one in counts.values()), "whole numbers", counts
        )
    _require(set(key.methods) <= key.counts.keys(), "counts of each method", key.counts)


def _words(names: Any) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) for name in names)


def _require(condition: bool, what: str, where: object) -> None:
    if not condition:
        raise ValueError(f"there must be {what} in {str(where)[:200]}")


def read_json(path: Path, what: str, form: str, version: int) -> Mapping[str, Any]:
    """Read a file of this room.

    Args:
        path (Path): The file.
        what (str): What it should be, for errors.
        form (str): What its entry ``format`` has to say.
        version (int): What its entry ``version`` has to say.

    Returns:
        Mapping[str, Any]: What stands in it.

    Raises:
        FileNotFoundError: No such file.
        ValueError: No JSON, or of another format or version.
    """
    content = storage.read_json(path, what)
    found = content.get("format") if isinstance(content, dict) else None
    if found != form:
        raise ValueError(f"{path} is no {what}: its format must be {form!r}, got {found!r}")
    if content.get("version") != version:
        raise ValueError(
            f"{path} is a {what} of version {content.get('version')!r}, this reads {version}"
        )
    checked: Mapping[str, Any] = content
    return checked

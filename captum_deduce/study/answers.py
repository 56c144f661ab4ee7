"""The answers of people, read and held against the key of the study."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captum_deduce.study.design import TASKS
from captum_deduce.study.key import StudyKey, TrialKey, read_json

FORMAT = "captum-deduce study answers"
VERSION = 1


@dataclass(frozen=True)
class Answer:
    """What one person said to one trial.

    Args:
        participant (str): Who.
        trial (str): The trial, by its name in the key.
        answer (int, bool, str or None): Of ``"name"`` the class, or None: can't tell; of ``"real"``
            whether it was taken for real; of ``"prefer"`` the name of the picture, or None: no
            difference.
        seconds (float): From the sight of the picture to the answer.
        interrupted (bool): Whether the page was left or loaded again meanwhile, so that the time
            says nothing.
    """

    participant: str
    trial: str
    answer: int | bool | str | None
    seconds: float
    interrupted: bool


def read_answers(
    paths: Sequence[str | Path], key: StudyKey, *, incomplete: bool = False
) -> list[Answer]:
    """Read the files that people saved.

    Args:
        paths (Sequence[str or Path]): A file per person.
        key (StudyKey): Of the study.
        incomplete (bool, optional): Whether to take what people answered who did not get to the
            end. Default: False

    Returns:
        list[Answer]: Of all people, in the order of the files.

    Raises:
        FileNotFoundError: No such file.
        ValueError: No file, one that holds something else, answers to another study, a person
            twice, a trial twice or unknown, an answer that was not offered, a time that is none, or
            without ``incomplete`` fewer answers than were asked for.
    """
    if not paths:
        raise ValueError("at least one file of answers must be given, got none")
    answers: list[Answer] = []
    files: dict[str, Path] = {}
    for path in map(Path, paths):
        content = read_json(path, "file of answers", FORMAT, VERSION)
        participant = _participant(content, key, path)
        if participant in files:
            raise ValueError(
                f"{path} holds answers of participant {participant!r}, as {files[participant]} "
                "does; give each person's last file once"
            )
        files[participant] = path
        own = _answers(content, participant, key, path)
        if not incomplete:
            _check_complete(own, key, path)
        answers += own
    return answers


def _participant(content: Mapping[str, Any], key: StudyKey, path: Path) -> str:
    if content.get("study") != key.study:
        raise ValueError(
            f"{path} answers the study {content.get('study')!r}, but the key is of {key.study!r}"
        )
    participant = content.get("participant")
    if not isinstance(participant, str) or not participant.strip():
        raise ValueError(f"{path} must name its participant, got {participant!r}")
    return participant.strip()


def _answers(
    content: Mapping[str, Any], participant: str, key: StudyKey, path: Path
) -> list[Answer]:
    given = content.get("answers")
    if not isinstance(given, list) or not all(isinstance(entry, dict) for entry in given):
        raise ValueError(f"{path} must hold a list of answers, got {type(given).__name__}")
    found: dict[str, Answer] = {}
    for number, entry in enumerate(given, 1):
        where = f"{path}, answer {number}"
        name = entry.get("trial")
        if not isinstance(name, str) or name not in key.trials:
            raise ValueError(f"{where}: the study has no trial {name!r}")
        if name in found:
            raise ValueError(f"{where}: trial {name!r} was answered before")
        if "answer" not in entry or not _offered(entry["answer"], key.trials[name], key):
            raise ValueError(
                f"{where}: {entry.get('answer')!r} was not offered in the task "
                f"{key.trials[name].task!r}"
            )
        seconds = entry.get("seconds")
        numeric = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        # compared, as no whole number is too large for that
        if not numeric or not 0 <= seconds < math.inf or seconds > sys.float_info.max:
            raise ValueError(f"{where}: seconds must be a number from 0, got {seconds!r:.80}")
        found[name] = Answer(
            participant, name, entry["answer"], float(seconds), bool(entry.get("interrupted"))
        )
    return list(found.values())


def _offered(answer: object, trial: TrialKey, key: StudyKey) -> bool:
    if trial.task == "real":
        return isinstance(answer, bool)
    if trial.task == "prefer":
        return answer is None or answer in trial.pictures
    whole = isinstance(answer, int) and not isinstance(answer, bool)
    return answer is None or (whole and answer in key.pairs[trial.pair].options)


def _check_complete(answers: Sequence[Answer], key: StudyKey, path: Path) -> None:
    given = dict.fromkeys(TASKS, 0)
    for answer in answers:
        given[key.trials[answer.trial].task] += 1
    missing = {
        task: asked - given[task] for task, asked in key.per_person.items() if given[task] < asked
    }
    if missing:
        said = ", ".join(
            f"{count} of {key.per_person[task]} in {task}" for task, count in missing.items()
        )
        raise ValueError(
            f"{path} is not complete, answers are missing: {said}; incomplete=True (--incomplete) "
            "takes those that are there"
        )

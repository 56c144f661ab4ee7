"""What the answers of a study say, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from captum_deduce.study import packages
from captum_deduce.study.agreement import krippendorff_alpha
from captum_deduce.study.answers import Answer
from captum_deduce.study.design import ORIGINAL
from captum_deduce.study.key import StudyKey
from captum_deduce.study.power import answers_needed, comparisons_needed
from captum_deduce.study.preferences import RESAMPLES, Preference, preferences
from captum_deduce.study.proportions import difference, share

if TYPE_CHECKING:
    from pandas import DataFrame

ORIGINALS = "(originals)"
"""What the real images are called in tables."""


@dataclass(frozen=True)
class StudyAnalysis:
    """What the answers say; a table of a task that was not asked has no rows.

    Args:
        key (StudyKey): Of the study.
        answers (pandas.DataFrame): A row per answer: ``participant``, ``task``, ``pair``,
            ``method``, ``other``, ``answer``, ``seconds`` (missing where they say nothing).
        naming (pandas.DataFrame): For each method how many ``answers``, the share ``correct`` that
            names the target (of originals their label), its interval ``low`` to ``high``, the share
            ``as_original`` that names the class that the model saw in the original, the share
            ``unsure``, and the median ``seconds``.
        realness (pandas.DataFrame): For each method and the originals how many ``answers``, the
            share ``judged_real``, ``low`` to ``high``, the ``difference`` to originals with
            ``difference_low`` and ``difference_high``, and the median ``seconds``.
        preference (pandas.DataFrame): For each method how many ``comparisons``, ``wins`` and
            ``ties``, its ``strength`` after Bradley and Terry, ``low`` to ``high``, the chance
            to be ``preferred`` to another method, the mean over these, and the median ``seconds``.
        agreement (pandas.DataFrame): For each task Krippendorff's ``alpha``, and how many of what
            was ``shown``, pictures or two of them, two people or more answered to.
        power (pandas.DataFrame): For each task and two methods the shares ``first_share`` and
            ``second_share``, how many ``answers`` there are (of the method that has fewer), and how
            many are ``needed`` for a difference of that size to be seen with 80% chance.
    """

    key: StudyKey
    answers: DataFrame
    naming: DataFrame
    realness: DataFrame
    preference: DataFrame
    agreement: DataFrame
    power: DataFrame

    @property
    def num_people(self) -> int:
        """How many people answered."""
        return int(self.answers["participant"].nunique())


def analyse_study(
    answers: Sequence[Answer], key: StudyKey, *, resamples: int = RESAMPLES, seed: int = 0
) -> StudyAnalysis:
    """Analyse answers.

    Args:
        answers (Sequence[Answer]): Of :func:`read_answers`.
        key (StudyKey): Of the study.
        resamples (int, optional): How often people are drawn anew for the intervals of preferences.
            Default: :data:`RESAMPLES`
        seed (int, optional): Of these draws. Default: 0

    Returns:
        StudyAnalysis: Tables for pandas.

    Raises:
        ValueError: No answers.
        ImportError: A package of the extra ``study`` is not installed.
    """
    if not answers:
        raise ValueError("answers must hold at least one, got none")
    table = _table(answers, key)
    found = _preference(table, key, resamples, seed)
    naming, realness = _naming(table, key), _realness(table, key)
    return StudyAnalysis(
        key=key,
        answers=table,
        naming=naming,
        realness=realness,
        preference=_preference_table(table, key, found),
        agreement=_agreement(table, key),
        power=_power(naming, realness, found, key),
    )


def _table(answers: Sequence[Answer], key: StudyKey) -> DataFrame:
    rows = []
    for answer in answers:
        trial = key.trials[answer.trial]
        rows.append(
            {
                "participant": answer.participant,
                "trial": answer.trial,
                "task": trial.task,
                "pair": trial.pair,
                "method": _named(trial.methods[0], key),
                "other": _named(trial.methods[1], key) if len(trial.methods) > 1 else None,
                "answer": _in_words(answer.answer, answer.trial, key),
                "seconds": float("nan") if answer.interrupted else answer.seconds,
            }
        )
    pd = packages.frames()
    table: DataFrame = pd.DataFrame(rows)
    return table.astype({"answer": object, "other": object})


def _named(method: int, key: StudyKey) -> str:
    return ORIGINALS if method == ORIGINAL else key.methods[method]


def _in_words(answer: Any, name: str, key: StudyKey) -> Any:
    """A preferred picture as the name of its method; classes and judgements as they are."""
    trial = key.trials[name]
    if trial.task != "prefer" or answer is None:
        return answer
    return key.methods[trial.methods[trial.pictures.index(answer)]]


def _naming(table: DataFrame, key: StudyKey) -> DataFrame:
    asked = table[table["task"] == "name"]
    rows = []
    for method in [*key.methods, ORIGINALS]:
        own = asked[asked["method"] == method]
        if not len(own):
            continue
        pairs = [key.pairs[pair] for pair in own["pair"]]
        said = [None if unsure else int(value) for value, unsure in _marked(own["answer"])]
        truth = [pair.label if method == ORIGINALS else pair.target for pair in pairs]
        correct = share(sum(a == b for a, b in zip(said, truth, strict=True)), len(own))
        kept = sum(a == pair.prediction for a, pair in zip(said, pairs, strict=True))
        rows.append(
            {
                "method": method,
                "answers": len(own),
                "correct": correct.value,
                "low": correct.low,
                "high": correct.high,
                "as_original": kept / len(own),
                "unsure": said.count(None) / len(own),
                "seconds": own["seconds"].median(),
            }
        )
    return _frame(
        rows,
        ["method", "answers", "correct", "low", "high", "as_original", "unsure", "seconds"],
    )


def _marked(column: Any) -> Any:
    return zip(column, column.isna(), strict=True)


def _realness(table: DataFrame, key: StudyKey) -> DataFrame:
    asked = table[table["task"] == "real"]
    groups = {method: asked[asked["method"] == method] for method in [*key.methods, ORIGINALS]}
    shares = {
        m: share(int(own["answer"].astype(bool).sum()), len(own)) for m, own in groups.items()
    }
    rows = []
    for method, own in groups.items():
        if not len(own):
            continue
        found = shares[method]
        apart = difference(found, shares[ORIGINALS])
        unknown = method == ORIGINALS or not shares[ORIGINALS].total
        rows.append(
            {
                "method": method,
                "answers": found.total,
                "judged_real": found.value,
                "low": found.low,
                "high": found.high,
                "difference": float("nan") if unknown else apart.value,
                "difference_low": float("nan") if unknown else apart.low,
                "difference_high": float("nan") if unknown else apart.high,
                "seconds": own["seconds"].median(),
            }
        )
    columns = ["method", "answers", "judged_real", "low", "high"]
    columns += ["difference", "difference_low", "difference_high", "seconds"]
    return _frame(rows, columns)


def _preference(table: DataFrame, key: StudyKey, resamples: int, seed: int) -> Preference | None:
    asked = table[table["task"] == "prefer"]
    if not len(asked):
        return None
    number = {method: place for place, method in enumerate(key.methods)}
    person = packages.frames().factorize(asked["participant"])[0]
    first = asked["method"].map(number).to_numpy(int)
    second = asked["other"].map(number).to_numpy(int)
    won = np.select(
        [asked["answer"].isna(), asked["answer"] == asked["method"]], [0.5, 1.0], default=0.0
    )
    wins = np.zeros((person.max() + 1, len(number), len(number)))
    np.add.at(wins, (person, first, second), won)
    np.add.at(wins, (person, second, first), 1 - won)
    return preferences(wins, resamples=resamples, seed=seed)


def _preference_table(table: DataFrame, key: StudyKey, found: Preference | None) -> DataFrame:
    columns = ["method", "comparisons", "wins", "ties", "strength", "low", "high"]
    columns += ["preferred", "seconds"]
    if found is None:
        return _frame([], columns)
    asked = table[table["task"] == "prefer"]
    rows = []
    for place, method in enumerate(key.methods):
        own = asked[(asked["method"] == method) | (asked["other"] == method)]
        others = np.delete(found.chances[place], place)
        rows.append(
            {
                "method": method,
                "comparisons": len(own),
                "wins": int((own["answer"] == method).sum()),
                "ties": int(own["answer"].isna().sum()),
                "strength": found.strength[place],
                "low": found.low[place],
                "high": found.high[place],
                "preferred": others.mean(),
                "seconds": own["seconds"].median(),
            }
        )
    return _frame(rows, columns)


def _agreement(table: DataFrame, key: StudyKey) -> DataFrame:
    rows = []
    for task in key.tasks:
        asked = table[table["task"] == task]
        # the same picture may be asked about in several trials
        shown = asked["pair"].astype(str) + asked["method"] + asked["other"].fillna("")
        # "can't tell" and "no difference" are values like others
        said = asked["answer"].map(lambda value: "none" if value is None else str(value))
        said = said.where(asked["answer"].notna(), "none")
        counts = packages.frames().crosstab(shown, said)
        rows.append(
            {
                "task": task,
                "alpha": krippendorff_alpha(counts) if len(asked) else float("nan"),
                "shown": int((counts.sum(axis=1) >= 2).sum()) if len(asked) else 0,
            }
        )
    return _frame(rows, ["task", "alpha", "shown"])


def _power(
    naming: DataFrame, realness: DataFrame, found: Preference | None, key: StudyKey
) -> DataFrame:
    rows = []
    for task, table, column in (("name", naming, "correct"), ("real", realness, "judged_real")):
        for first, second in combinations(table.to_dict("records"), 2):
            shares = (first[column], second[column])
            rows.append(
                _power_row(
                    task,
                    (first["method"], second["method"]),
                    shares,
                    min(first["answers"], second["answers"]),
                    answers_needed(*shares),
                )
            )
    for a, b in combinations(range(len(key.methods)), 2):
        if found is None:
            break
        compared = round(found.wins[a, b] + found.wins[b, a])
        if compared:
            won = found.wins[a, b] / compared
            both = (key.methods[a], key.methods[b])
            rows.append(
                _power_row("prefer", both, (won, 1 - won), compared, comparisons_needed(won))
            )
    columns = ["task", "first", "second", "first_share", "second_share", "answers", "needed"]
    return _frame(rows, columns)


def _power_row(
    task: str,
    methods: tuple[str, str],
    shares: tuple[float, float],
    answers: int,
    needed: float,
) -> dict[str, Any]:
    return {
        "task": task,
        "first": methods[0],
        "second": methods[1],
        "first_share": float(shares[0]),
        "second_share": float(shares[1]),
        "answers": answers,
        "needed": needed,
    }


def _frame(rows: list[dict[str, Any]], columns: list[str]) -> DataFrame:
    made: DataFrame = packages.frames().DataFrame(rows, columns=columns)
    return made

"""The page of a study: it asks, keeps and hands out answers without a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from captum_deduce.reports import render_page
from captum_deduce.study.answers import FORMAT, VERSION
from captum_deduce.study.design import TASKS
from captum_deduce.study.key import StudyKey


def study_html(
    key: StudyKey,
    pictures: Mapping[str, str],
    originals: Sequence[str],
    title: str,
    consent: str,
) -> str:
    """Write a study as HTML.

    Title, consent and names of classes stand in it as text, never as markup; a browser that reads
    the page loads nothing, and runs only the page's own script.

    Args:
        key (StudyKey): What is shown.
        pictures (Mapping[str, str]): The pictures by their names, as addresses that hold them.
        originals (Sequence[str]): The name of each pair's original.
        title (str): Of the page.
        consent (str): What people agree to, paragraphs apart by an empty line.

    Returns:
        str: A whole page, in which nothing names a method.
    """
    values = {
        "title": title,
        "consent": [" ".join(part.split()) for part in consent.split("\n\n") if part.strip()],
        "total": sum(key.per_person.values()),
        "data": _page_data(key, pictures, originals),
    }
    return render_page("captum_deduce.study", "study", values)


def _page_data(
    key: StudyKey, pictures: Mapping[str, str], originals: Sequence[str]
) -> dict[str, Any]:
    """Write what the page's script reads: pictures and questions, and no word of the methods."""
    tasks = []
    for task in key.tasks:
        circle = [
            {
                "id": name,
                "pictures": trial.pictures,
                **({"options": key.pairs[trial.pair].options} if task == "name" else {}),
                **(_explained(key, trial.pair, originals) if task == "prefer" else {}),
            }
            for name, trial in key.trials.items()
            if trial.task == task
        ]
        tasks.append(
            {"name": task, "title": TASKS[task], "trials": circle, "count": key.per_person[task]}
        )
    return {
        "format": FORMAT,
        "version": VERSION,
        "study": key.study,
        "classes": key.class_names,
        "tasks": tasks,
        # in the order of their names, which is that of no method
        "pictures": dict(sorted(pictures.items())),
    }


def _explained(key: StudyKey, pair: int, originals: Sequence[str]) -> dict[str, Any]:
    """Of a preference people have to know what is explained; this task is the last."""
    about = key.pairs[pair]
    return {"original": originals[pair], "seen": about.prediction, "target": about.target}

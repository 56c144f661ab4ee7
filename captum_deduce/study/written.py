"""An analysis on disk: tables as text, Markdown, CSV and JSON, and a picture."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captum_deduce.reports import DPI, Column, markdown, table
from captum_deduce.study.analysis import StudyAnalysis
from captum_deduce.study.design import TASKS
from captum_deduce.study.plot import plot_study

if TYPE_CHECKING:
    from pandas import DataFrame

_ABSENT = "-"


def analysis_text(analysis: StudyAnalysis, *, as_markdown: bool = False) -> str:
    """Write an analysis for people.

    Args:
        analysis (StudyAnalysis): Of :func:`analyse_study`.
        as_markdown (bool, optional): Whether tables are in Markdown. Default: False (plain text)

    Returns:
        str: Who was asked what, and a table for each question.
    """
    write = markdown if as_markdown else table
    lines = [_about(analysis)]
    for heading, columns, note in _parts(analysis):
        title = f"## {heading}" if as_markdown else heading
        lines += [title, write(columns), *([note] if note else [])]
    return "\n\n".join(lines)


def save_analysis(analysis: StudyAnalysis, folder: str | os.PathLike[str]) -> list[Path]:
    """Write an analysis to a folder.

    Args:
        analysis (StudyAnalysis): Of :func:`analyse_study`.
        folder (str or Path): Where, which must exist; files of an earlier analysis are replaced.

    Returns:
        list[Path]: ``study.md``, ``study.txt`` and ``study.json`` with all tables, a CSV file for
        each table that has rows, the answers included, and ``study.png``.

    Raises:
        OSError: One can't be written.
    """
    place = Path(folder)
    frames = {name: frame for name, frame in _frames(analysis).items() if len(frame)}
    texts = {
        "study.md": f"# What the answers say\n\n{analysis_text(analysis, as_markdown=True)}\n",
        "study.txt": f"{analysis_text(analysis)}\n",
        "study.json": json.dumps(_as_json(analysis), indent=1) + "\n",
        **{f"{name}.csv": frame.to_csv(index=False) for name, frame in frames.items()},
    }
    for name, text in texts.items():
        (place / name).write_text(text, encoding="utf-8")
    plot_study(analysis).savefig(place / "study.png", dpi=DPI)
    return [*(place / name for name in texts), place / "study.png"]


def _frames(analysis: StudyAnalysis) -> dict[str, DataFrame]:
    return {
        "naming": analysis.naming,
        "realness": analysis.realness,
        "preference": analysis.preference,
        "agreement": analysis.agreement,
        "power": analysis.power,
        "answers": analysis.answers.drop(columns="trial"),
    }


def _as_json(analysis: StudyAnalysis) -> dict[str, Any]:
    key = analysis.key
    tables = {
        name: [
            {column: _plain(value) for column, value in row.items()}
            for row in frame.to_dict("records")
        ]
        for name, frame in _frames(analysis).items()
        if name != "answers"
    }
    return {
        "study": key.study,
        "people": analysis.num_people,
        "pairs": len(key.pairs),
        "methods": key.methods,
        "counts": key.counts,
        **tables,
    }


def _plain(value: Any) -> Any:
    """JSON has neither NaN nor infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _about(analysis: StudyAnalysis) -> str:
    key = analysis.key
    left_out = [
        f"{method}: {counts['failed']} failed, {counts['already']} there already"
        for method, counts in key.counts.items()
    ]
    people = "1 person" if analysis.num_people == 1 else f"{analysis.num_people} people"
    return (
        f"{len(analysis.answers)} answers of {people} about {len(key.pairs)} of the {key.shared} "
        f"pairs that every method found. Left out ({'; '.join(left_out)}). Intervals are to 95%."
    )


def _parts(analysis: StudyAnalysis) -> list[tuple[str, list[Column], str]]:
    parts: list[tuple[str, list[Column], str]] = []
    if len(analysis.naming):
        own = analysis.naming
        columns: list[Column] = [
            ("method", own["method"].tolist()),
            ("answers", _counts(own["answers"])),
            ("correct", _shares(own["correct"])),
            ("interval", _intervals(own, "low", "high", percent=True)),
            ("as original", _shares(own["as_original"])),
            ("can't tell", _shares(own["unsure"])),
            ("seconds", _numbers(own["seconds"], 1)),
        ]
        parts.append((TASKS["name"], columns, ""))
    if len(analysis.realness):
        own = analysis.realness
        columns = [
            ("method", own["method"].tolist()),
            ("answers", _counts(own["answers"])),
            ("judged real", _shares(own["judged_real"])),
            ("interval", _intervals(own, "low", "high", percent=True)),
            ("less originals", _shares(own["difference"])),
            ("its interval", _intervals(own, "difference_low", "difference_high", percent=True)),
            ("seconds", _numbers(own["seconds"], 1)),
        ]
        parts.append((TASKS["real"], columns, ""))
    if len(analysis.preference):
        own = analysis.preference.sort_values("strength", ascending=False)
        columns = [
            ("method", own["method"].tolist()),
            ("comparisons", _counts(own["comparisons"])),
            ("wins", _counts(own["wins"])),
            ("no difference", _counts(own["ties"])),
            ("strength", _numbers(own["strength"], 2)),
            ("interval", _intervals(own, "low", "high")),
            ("preferred", _shares(own["preferred"])),
            ("seconds", _numbers(own["seconds"], 1)),
        ]
        note = "One person gives no interval." if analysis.num_people < 2 else ""
        parts.append((TASKS["prefer"], columns, note))
    agreement, power = analysis.agreement, analysis.power
    parts.append(
        (
            "Agreement between people",
            [
                ("task", [TASKS[task] for task in agreement["task"]]),
                ("Krippendorff's alpha", _numbers(agreement["alpha"], 2)),
                ("shown to two people or more", _counts(agreement["shown"])),
            ],
            "",
        )
    )
    if len(power):
        columns = [
            ("task", [TASKS[task] for task in power["task"]]),
            ("first", power["first"].tolist()),
            ("second", power["second"].tolist()),
            ("shares", [f"{a:.0%} and {b:.0%}" for a, b in _pairs(power)]),
            ("answers", _counts(power["answers"])),
            ("needed", ["never" if math.isinf(n) else f"{n:.0f}" for n in power["needed"]]),
        ]
        note = (
            "Needed: answers of each method that it takes to see a difference of this size, with "
            "80% chance, at the 5% level."
        )
        parts.append(("How many answers a difference needs", columns, note))
    return parts


def _pairs(power: DataFrame) -> Any:
    return zip(power["first_share"], power["second_share"], strict=True)


def _counts(values: Any) -> list[str]:
    return [str(int(value)) for value in values]


def _shares(values: Any) -> list[str]:
    return [_ABSENT if value != value else f"{value:.0%}" for value in values]


def _numbers(values: Any, digits: int) -> list[str]:
    return [_ABSENT if value != value else f"{value:.{digits}f}" for value in values]


def _intervals(frame: DataFrame, low: str, high: str, *, percent: bool = False) -> list[str]:
    ends = zip(frame[low], frame[high], strict=True)
    form = "{:.0%} to {:.0%}" if percent else "{:.2f} to {:.2f}"
    return [_ABSENT if a != a else form.format(a, b) for a, b in ends]

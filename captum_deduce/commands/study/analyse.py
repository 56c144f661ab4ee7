"""``captum-deduce study analyse``: what the answers of people say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from captum_deduce.commands.given import make_folder
from captum_deduce.study import (
    RESAMPLES,
    StudyKey,
    analyse_study,
    analysis_text,
    read_answers,
    save_analysis,
)


def run(
    answers: Sequence[Path],
    *,
    key: Path = Path("study.key.json"),
    output: Path = Path("captum-deduce-study"),
    incomplete: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> None:
    """Print an analysis and write it.

    Args:
        answers (Sequence[Path]): A file per person.
        key (Path, optional): Of the study. Default: ``study.key.json`` in the current folder
        output (Path, optional): The folder to write to. Default: ``captum-deduce-study``
        incomplete (bool, optional): Whether to take what people answered who did not get to the
            end. Default: False
        resamples (int, optional): How often people are drawn anew for intervals of preferences.
            Default: :data:`captum_deduce.study.RESAMPLES`
        seed (int, optional): Of these draws. Default: 0

    Raises:
        FileNotFoundError: No key, or no file of answers.
        ValueError: Files that are something else, of another study, or not complete.
        ImportError: A package of the extra ``study`` is not installed.
    """
    read = StudyKey.load(key)
    analysis = analyse_study(
        read_answers(answers, read, incomplete=incomplete), read, resamples=resamples, seed=seed
    )
    make_folder(output)
    written = save_analysis(analysis, output)
    print(analysis_text(analysis))
    print("\nWritten: " + ", ".join(str(path) for path in written))

"""``captum-deduce study make``: a page that asks people, and the key to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from captum_deduce.commands.given import make_folder, read_names
from captum_deduce.study import CONSENT, TASKS, TITLE, StudyKey, make_study, read_methods


def run(
    results: Sequence[Path],
    *,
    names: Sequence[str] | None = None,
    output: Path = Path("study.html"),
    key: Path | None = None,
    pairs: int = 20,
    tasks: Sequence[str] = tuple(TASKS),
    trials: int | None = None,
    title: str | None = None,
    consent: Path | None = None,
    class_names: Path | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Write the page of a study and its key.

    Args:
        results (Sequence[Path]): Files of counterfactuals, and folders of runs.
        names (Sequence[str], optional): Of the methods. Default: None (those of the files)
        output (Path, optional): The page. Default: ``study.html`` in the current folder
        key (Path, optional): The key. Default: None (beside the page, ``study.key.json``)
        pairs (int, optional): How many originals are shown, at most. Default: 20
        tasks (Sequence[str], optional): What is asked. Default: all
        trials (int, optional): How many of each task a person is asked. Default: None (``pairs``)
        title (str, optional): Of the page. Default: None (:data:`captum_deduce.study.TITLE`)
        consent (Path, optional): A file of the text that people agree to.
            Default: None (:data:`captum_deduce.study.CONSENT`)
        class_names (Path, optional): A file of names. Default: None (those of a run, else numbers)
        mean (Sequence[float], optional): Of the inputs' normalisation. Default: None
        std (Sequence[float], optional): Of the inputs' normalisation. Default: None
        seed (int, optional): Of pairs and orders. Default: 0
        overwrite (bool, optional): Whether files of these names may be replaced. Default: False

    Raises:
        FileNotFoundError: No results, or no file of consent or class names.
        ValueError: A file exists, results that don't fit together, or no pair that all found.
        ImportError: A run needs pyarrow, which is not installed.
    """
    key = output.with_name(f"{output.stem}.key.json") if key is None else key
    for option, path in (("--output", output), ("--key", key)):
        if path.is_dir() or (path.exists() and not overwrite):
            raise ValueError(f"{option} {path} exists; choose another name, or pass --overwrite")
    if key.resolve() == output.resolve():
        raise ValueError(f"--key must be another file than the page, got {key} for both")
    study = make_study(
        read_methods(results, names),
        num_pairs=pairs,
        tasks=tasks,
        trials=trials,
        class_names=None if class_names is None else read_names(class_names),
        title=TITLE if title is None else title,
        consent=CONSENT if consent is None else _read_consent(consent),
        mean=mean,
        std=std,
        seed=seed,
    )
    make_folder(output.parent)
    make_folder(key.parent)
    study.save(output, key)
    print(_summary(study.key))
    print(f"Page: {output}")
    print(f"Key, not to be handed out: {key}")


def _read_consent(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"no text of consent at {path}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"--consent {path} must be text in UTF-8: {error}") from error
    if not text.strip():
        raise ValueError(f"--consent {path} must hold a text, it is empty")
    return text


def _summary(key: StudyKey) -> str:
    lines = [
        f"{method}: {counts['found']} found, {counts['failed']} failed, {counts['already']} there "
        "already"
        for method, counts in key.counts.items()
    ]
    asked = ", ".join(f"{count} {task}" for task, count in key.per_person.items())
    lines.append(f"Shown: {len(key.pairs)} of the {key.shared} pairs that every method found")
    lines.append(f"Each person is asked: {asked}")
    return "\n".join(lines)

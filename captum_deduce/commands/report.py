"""``captum-deduce report``: what a run over a data set tells about the model, as a page."""

from __future__ import annotations

from pathlib import Path

from captum_deduce import bulk
from captum_deduce.commands.given import make_folder, read_names
from captum_deduce.reports import STATES, report_run, save_report


def run(
    folder: Path,
    *,
    output: Path = Path("report.html"),
    class_names: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Write the page of a run.

    Args:
        folder (Path): Of the run, complete or not.
        output (Path, optional): The page. Default: ``report.html`` in the current folder
        class_names (Path, optional): A file of names, one per line, or JSON: a list, or names by
            index. Default: None (those of the run, else numbers)
        overwrite (bool, optional): Whether a file of that name may be replaced. Default: False

    Raises:
        FileNotFoundError: No run in the folder, or no file of class names.
        ValueError: The page exists, its folder is a file, a file of the run is damaged, the run has
            no pairs yet, or there are fewer names than classes.
        ImportError: pyarrow is not installed.
    """
    if output.is_dir() or (output.exists() and not overwrite):
        raise ValueError(f"--output {output} exists; choose another name, or pass --overwrite")
    names = None if class_names is None else read_names(class_names)
    report = report_run(bulk.read(folder), class_names=names)
    make_folder(output.parent)
    save_report(report, output)
    states = report.pairs["state"].value_counts()
    counted = ", ".join(f"{states[state]:,} {state}" for state in STATES if state in states)
    print(f"{len(report.pairs):,} pairs: {counted}")
    print(f"Report: {output}")

"""Counterfactuals as a table of text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.reports.explained import Explained

Column = tuple[str, Sequence[str]]
"""A heading and the cells below it."""


def table(columns: Iterable[Column]) -> str:
    """Align columns; numbers stand at the right, all else at the left.

    Args:
        columns (Iterable[tuple[str, Sequence[str]]]): Headings and cells, as many in each.

    Returns:
        str: The headings and a line per row.
    """
    aligned = []
    for heading, cells in columns:
        width = max(map(len, (heading, *cells)))
        place = str.rjust if _are_numbers(cells) else str.ljust
        aligned.append([place(cell, width) for cell in (heading, *cells)])
    return "\n".join("  ".join(row).rstrip() for row in zip(*aligned, strict=True))


def markdown(columns: Iterable[Column]) -> str:
    """Write columns as a table in Markdown, numbers and words as in :func:`table`.

    Args:
        columns (Iterable[tuple[str, Sequence[str]]]): Headings and cells, as many in each.

    Returns:
        str: A line for the headings, one below it, and one per row.
    """
    lined = [
        (_escaped(heading), "---:" if _are_numbers(cells) else "---", *map(_escaped, cells))
        for heading, cells in columns
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in zip(*lined, strict=True))


def mean(values: Tensor, digits: int) -> str:
    """Write the mean of some values.

    Args:
        values (Tensor): N.
        digits (int): How many to write after the point.

    Returns:
        str: The mean; "-" where there is no value.
    """
    return f"{_mean(values):.{digits}f}" if len(values) else "-"


def search_columns(explained: Explained) -> list[Column]:
    """Say for each pair what was looked for and what was found.

    Args:
        explained (Explained): N pairs.

    Returns:
        list[tuple[str, list[str]]]: Classes (of the original, and the target), success, L0, for
        several channels the places that changed, L1, the target's probability before and after, and
        steps.
    """
    result, names = explained.result, explained.class_names
    pairs = zip(result.prediction.tolist(), result.target.tolist(), strict=True)
    asked = explained.before.gather(1, result.target.unsqueeze(1)).squeeze(1).tolist()
    confidences = zip(asked, result.confidence.tolist(), strict=True)
    return [
        ("seen as -> target", [f"{names[a]} -> {names[b]}" for a, b in pairs]),
        ("found", _outcomes(result)),
        ("L0", [str(int(count)) for count in result.l0().tolist()]),
        *([("places", list(map(str, result.sites().tolist())))] if _has_channels(result) else []),
        ("L1", [f"{distance:.2f}" for distance in result.l1().tolist()]),
        ("p(target)", [f"{before:.3f} -> {after:.3f}" for before, after in confidences]),
        ("steps", [str(count) for count in result.iterations.tolist()]),
    ]


def totals(explained: Explained) -> str:
    """Sum a search up.

    Args:
        explained (Explained): N pairs.

    Returns:
        str: A line or two: pairs, those found, those whose original was at the goal already, means
        over those found, and the time per counterfactual.
    """
    result, seconds = explained.result, explained.seconds
    searched = result[~result.already]
    found = searched[searched.success]
    time = f"{seconds:.2f} s in all, {seconds / len(result):.3f} s per counterfactual"
    counts = f"{len(found)} of {len(searched)} found"
    if len(searched) < len(result):
        counts += f", {len(result) - len(searched)} there already"
    if not len(found):
        return f"{counts}; {time}"
    places = f" in {_mean(found.sites()):.1f} places" if _has_channels(found) else ""
    return (
        f"{counts}; means over those found: "
        f"L0 {_mean(found.l0()):.1f}{places}, L1 {_mean(found.l1()):.2f}, "
        f"p(target) {_mean(found.confidence):.3f}, {_mean(found.iterations):.1f} steps\n{time}"
    )


def _outcomes(result: Counterfactuals) -> list[str]:
    pairs = zip(result.success.tolist(), result.already.tolist(), strict=True)
    return [("already" if there else "yes") if success else "FAILED" for success, there in pairs]


def _has_channels(result: Counterfactuals) -> bool:
    return result.inputs.shape[1] > 1


def _escaped(cell: str) -> str:
    """Write what a cell says so that it does not end the cell."""
    return cell.replace("|", "\\|")


def _are_numbers(cells: Sequence[str]) -> bool:
    return all(cell.replace(".", "", 1).isdecimal() for cell in cells)


def _mean(values: Tensor) -> float:
    return values.to(torch.float64).mean().item()

"""Curves of a search that goes on, small enough to be drawn anew several times a second."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

_MOST_POINTS = 300
_WIDTH, _HEIGHT = 600, 90


def curve_html(
    title: str,
    values: Sequence[float],
    *,
    limits: tuple[float, float] | None = None,
    threshold: float | None = None,
    mark: int | None = None,
) -> str:
    """Draw one curve over the steps of a search.

    Args:
        title (str): What it shows.
        values (Sequence[float]): One for each step; those that are not finite leave a gap.
        limits (tuple[float, float], optional): Of the vertical axis. Default: None (of the values)
        threshold (float, optional): A level to draw as a line. Default: None
        mark (int, optional): A step to mark. Default: None

    Returns:
        str: HTML with an SVG, which takes the page's colours.
    """
    finite = [value for value in values if math.isfinite(value)]
    low, high = limits or (min(finite, default=0.0), max(finite, default=1.0))
    span = (high - low) or 1.0
    last = max(len(values) - 1, 1)

    def across(step: int) -> str:
        return f"{_WIDTH * step / last:.1f}"

    def up(value: float) -> str:
        return f"{_HEIGHT - (_HEIGHT - 4) * (value - low) / span - 2:.1f}"

    stride = -(-len(values) // _MOST_POINTS) or 1
    steps = [step for step in range(len(values)) if step % stride == 0 or step == len(values) - 1]
    lines: list[list[str]] = [[]]
    for step in steps:
        if math.isfinite(values[step]):
            lines[-1].append(f"{across(step)},{up(values[step])}")
        else:
            lines.append([])
    drawn = "".join(f'<polyline points="{" ".join(line)}"/>' for line in lines if line)
    if threshold is not None:
        at = up(threshold)
        drawn += f'<line class="goal" x1="0" x2="{_WIDTH}" y1="{at}" y2="{at}"/>'
    if mark is not None:
        drawn += (
            f'<line class="mark" x1="{across(mark)}" x2="{across(mark)}" y1="0" y2="{_HEIGHT}"/>'
        )
    now = values[-1 if mark is None else min(mark, len(values) - 1)] if values else math.nan
    said = f"{now:.3g}" if math.isfinite(now) else "-"
    ends = f"<span>{high:.4g}</span><span>{low:.4g}</span>" if finite or limits else ""
    return (
        f'<figure class="curve"><figcaption>{escape(title)} <b>{said}</b></figcaption>'
        f'<div><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(title)}: {said}">{drawn}</svg><div class="ends">{ends}</div></div>'
        "</figure>"
    )

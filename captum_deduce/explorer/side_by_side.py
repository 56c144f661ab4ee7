"""Explainers compared on one image, as a table with pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.explorer.collection import scores_of
from captum_deduce.explorer.scale import Scale
from captum_deduce.explorer.stage import failure, picture_html, seconds


@dataclass(frozen=True)
class Attempt:
    """What one explainer made of an image.

    Args:
        name (str): The explainer's.
        result (Counterfactuals or None): Of the one pair; None where it failed with an error.
        seconds (float): What it took.
        error (BaseException, optional): Of the explainer or the model. Default: None
        seen (Mapping[str, str], optional): What each oracle sees in the counterfactual.
            Default: None (there are no oracles)
    """

    name: str
    result: Counterfactuals | None
    seconds: float
    error: BaseException | None = None
    seen: Mapping[str, str] | None = None


def ask(
    oracles: Mapping[str, Callable[..., Any]], result: Counterfactuals, class_names: Sequence[str]
) -> dict[str, str]:
    """Ask classifiers that had no part in the search what they see.

    Args:
        oracles (Mapping[str, Callable]): By name; each returns logits or log-probabilities of the
            explained model's classes.
        result (Counterfactuals): Of one pair.
        class_names (Sequence[str]): One name for each class.

    Returns:
        dict[str, str]: For each oracle the class that it sees, with its probability.
    """
    said = {}
    for name, oracle in oracles.items():
        likeliest = scores_of(oracle, result.counterfactuals).softmax(1).max(1)
        said[name] = f"{class_names[int(likeliest.indices)]} {float(likeliest.values):.0%}"
    return said


def comparison_html(attempts: Sequence[Attempt], scale: Scale, oracles: Sequence[str]) -> str:
    """Set attempts side by side.

    Args:
        attempts (Sequence[Attempt]): Of one image and target.
        scale (Scale): Of the model's inputs.
        oracles (Sequence[str]): Names of the oracles, a column each.

    Returns:
        str: HTML: a table, one row for each.
    """
    heads = ["explainer", "image", "change", "outcome", "probability"]
    heads += [*(f"{name} sees" for name in oracles), "L0", "L1", "L2", "steps", "seconds"]
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join(_row(attempt, scale, oracles) for attempt in attempts)
    return (
        '<div class="compared"><table><thead><tr>'
        f"{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _row(attempt: Attempt, scale: Scale, oracles: Sequence[str]) -> str:
    name = f"<th>{escape(attempt.name)}</th>"
    result = attempt.result
    if result is None:
        said = failure(attempt.error) if attempt.error is not None else "stopped"
        return f'<tr>{name}<td colspan="{9 + len(oracles)}">{escape(said)}</td></tr>'
    image, original = result.counterfactuals[0].cpu(), result.inputs[0].cpu()
    found = "there already" if result.already.all() else "found"
    values = [
        found if result.success.all() else "not found",
        f"{float(result.confidence):.1%}",
        *((attempt.seen or {}).get(oracle, "") for oracle in oracles),
        f"{int(result.l0())}",
        f"{float(result.l1()):.3g}",
        f"{float(result.l2()):.3g}",
        f"{int(result.iterations)}",
        seconds(attempt.seconds),
    ]
    pictures = (scale.pixels(image), scale.change(image, original))
    drawn = "".join(f"<td>{picture_html(pixels, '')}</td>" for pixels in pictures)
    cells = "".join(f"<td>{escape(value)}</td>" for value in values)
    return f"<tr>{name}{drawn}{cells}</tr>"

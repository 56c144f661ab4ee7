"""What the page shows of a search: three pictures, how it stands, its curves, as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.explorer.curves import curve_html
from captum_deduce.explorer.live import Search
from captum_deduce.explorer.scale import Scale, png_uri
from captum_deduce.explorer.visitors import Chosen

_FINE = 128
"""Pixels of the longer side of an image that may be shown smaller than it is: a browser that picks
pixels would lose some, so that only smaller images are shown as squares."""


def message_html(kind: str, message: str) -> str:
    """Say how things stand.

    Args:
        kind (str): "info", "busy", "good", "weak" or "error".
        message (str): Plain text.

    Returns:
        str: HTML.
    """
    role = "alert" if kind == "error" else "status"
    return f'<p class="said {kind}" role="{role}">{escape(message)}</p>'


def picture_html(pixels: NDArray[np.uint8], alt: str) -> str:
    """Show a picture.

    Args:
        pixels (NDArray): Height x width (x 3), from 0 to 255.
        alt (str): What it is, in plain text.

    Returns:
        str: HTML.
    """
    coarse = ' class="coarse"' if max(pixels.shape[:2]) < _FINE else ""
    return f'<img{coarse} src="{png_uri(pixels)}" alt="{escape(alt)}">'


def failure(error: BaseException) -> str:
    """Say what went wrong.

    Args:
        error (BaseException): Whatever a model, an explainer or a file raised.

    Returns:
        str: Plain text, one line.
    """
    words = " ".join(str(error).split()) or "no message"
    name = "" if isinstance(error, ValueError | TypeError) else f"{type(error).__name__}: "
    return f"That did not work. {name}{words[:600]}"


def waiting(before: int) -> str:
    """Say what a search waits for.

    Args:
        before (int): Searches that must end first.

    Returns:
        str: Plain text; empty where it does not wait.
    """
    if not before:
        return ""
    return f"Waiting for {before} other search{'es' if before > 1 else ''} to end"


def seconds(number: float) -> str:
    """Write a time to two digits, or to the second.

    Args:
        number (float): Seconds.

    Returns:
        str: Without a unit.
    """
    return f"{number:.0f}" if number >= 10 else f"{number:.2g}"


def distances(result: Counterfactuals) -> str:
    """Say how far the one counterfactual of a result is from its original.

    Args:
        result (Counterfactuals): Of one pair.

    Returns:
        str: In input units.
    """
    places = f" in {int(result.sites())} places" if result.inputs.shape[1] > 1 else ""
    return (
        f"L0 {int(result.l0())}{places}, L1 {float(result.l1()):.3g}, L2 {float(result.l2()):.3g}, "
        f"largest change {float(result.linf()):.2g}"
    )


class Stage:
    """Draws the chosen image and the search.

    Args:
        class_names (Sequence[str]): One name for each class.
        scale (Scale): Of the model's inputs.
    """

    def __init__(self, class_names: Sequence[str], scale: Scale) -> None:
        self.class_names = class_names
        self.scale = scale

    def still(self, chosen: Chosen, message: str) -> str:
        """Show an image before anything is searched.

        Args:
            chosen (Chosen): The image.
            message (str): HTML of :func:`message_html`.

        Returns:
            str: HTML.
        """
        picture = self._figure("now", "Image", chosen.about, self.scale.pixels(chosen.image[0]))
        return f'<div class="stage">{message}<div class="pictures still">{picture}</div></div>'

    def moving(self, search: Search, about: str, message: str, at: int | None = None) -> str:
        """Show a search as far as it has come, or one of the images on its way.

        Args:
            search (Search): With an image at least.
            about (str): What the original is, in plain text.
            message (str): HTML of :func:`message_html`.
            at (int, optional): Which of the images that were kept. Default: None (what was found,
                and before that the last image)

        Returns:
            str: HTML.
        """
        course, result = search.course, search.result
        original = search.image[0].cpu()
        name = self.class_names[search.target]
        if at is not None:
            at = min(at, len(course.images) - 1)
            image, step = course.images[at], course.steps[at]
            caption, mark = f"step {step}: {course.confidence[step]:.1%} {name}", step
        elif result is not None:
            image, mark = result.counterfactuals[0].cpu(), None
            caption = f"{float(result.confidence):.1%} {name}"
        else:
            image = course.images[-1] if course.images else original
            caption = f"{course.confidence[-1]:.1%} {name}" if course.confidence else name
            mark = None
        title = "Counterfactual" if result is not None and result.success.all() else "Best so far"
        title = "On the way" if at is not None or result is None else title
        scale = self.scale
        figures = [
            self._figure("original", "Original", about, scale.pixels(original)),
            self._figure("now", title, caption, scale.pixels(image)),
            self._figure("change", "Change", "red up, blue down", scale.change(image, original)),
        ]
        curves = [
            curve_html(
                f"Probability of {name}",
                course.confidence,
                limits=(0.0, 1.0),
                threshold=search.explainer.confidence,
                mark=mark,
            )
        ]
        if course.log_density:
            curves.append(
                curve_html(f"Log-density among {name}, in nats", course.log_density, mark=mark)
            )
        return (
            f'<div class="stage">{message}<div class="pictures">{"".join(figures)}</div>'
            f'<div class="curves">{"".join(curves)}</div></div>'
        )

    def outcome(self, search: Search) -> str:
        """Say how a search stands.

        Args:
            search (Search): Going on or ended.

        Returns:
            str: HTML.
        """
        course, result = search.course, search.result
        steps = max(len(course.confidence) - 1, 0)
        if search.was_stopped:
            after = (
                f"after {steps} step{'' if steps == 1 else 's'}"
                if course.confidence
                else "before it began"
            )
            return message_html("info", f"Stopped {after}.")
        if search.error is not None:
            return message_html("error", failure(search.error))
        if result is None:
            doing = f"refining, {course.refined} trials" if course.refined else f"step {steps}"
            return message_html("busy", waiting(search.before) or f"Searching: {doing}")
        took = f"{int(result.iterations)} steps, {seconds(search.seconds)} s"
        if result.already.all():
            return message_html("info", "Nothing to change: the model sees this class already.")
        if not result.success.all():
            return message_html(
                "weak", f"Not found in {took}. This is the best attempt, no counterfactual."
            )
        return message_html("good", f"Found in {took}: {distances(result)}.")

    def _figure(self, place: str, title: str, caption: str, pixels: NDArray[np.uint8]) -> str:
        picture = picture_html(pixels, f"{title}: {caption}")
        return (
            f'<figure class="{place}"><figcaption><b>{title}</b> {escape(caption)}</figcaption>'
            f"{picture}</figure>"
        )

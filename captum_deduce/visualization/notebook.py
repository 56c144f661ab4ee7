"""What a result looks like in a notebook."""

from __future__ import annotations

import base64
import html

import torch

from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.visualization.comparisons import plot_counterfactuals
from captum_deduce.visualization.pixels import PixelScale, check_images, in_colors
from captum_deduce.visualization.sheet import png

_ROWS = 5
_IMAGE_SIZE = 1.0
_ALT = "In rows: original, counterfactual and change"


def notebook_html(result: Counterfactuals) -> str:
    """Show a result's summary and its first pairs as pictures.

    Inputs outside [0, 1] were normalised in a way that is not known here: their range is stretched
    from black to white, and a line says so. What can't be drawn, such as images of seven channels,
    is shown as text only, with the reason.

    Args:
        result (Counterfactuals): Any.

    Returns:
        str: HTML that needs nothing from outside.
    """
    lines = [result.summary()]
    picture = ""
    if len(result):
        try:
            content, note = _first_rows(result)
        except (TypeError, ValueError) as reason:
            lines.append(f"No pictures: {reason}.")
        else:
            encoded = base64.b64encode(content).decode("ascii")
            picture = f'<img alt="{_ALT}" src="data:image/png;base64,{encoded}">'
            lines += note
    text = html.escape("\n".join(lines))
    return f'<div><pre style="white-space: pre-wrap">{text}</pre>{picture}</div>'


def _first_rows(result: Counterfactuals) -> tuple[bytes, list[str]]:
    first = result[:_ROWS]
    check_images(first.inputs, "inputs")
    check_images(first.counterfactuals, "counterfactuals")
    images = torch.cat([first.inputs, first.counterfactuals])
    scale, note = PixelScale.read(None, None, images.shape[1:]), []
    if not in_colors(images):
        scale = PixelScale.stretched(images)
        note = [
            f"Values from {images.min():.3g} to {images.max():.3g} are drawn from black to white; "
            "plot(mean=..., std=...) shows true colours."
        ]
    figure = plot_counterfactuals(
        result, max_rows=_ROWS, image_size=_IMAGE_SIZE, mean=scale.mean, std=scale.std
    )
    return png(figure), note

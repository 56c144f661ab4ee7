r"""Attributions and images in the form that ``captum.attr.visualization`` draws properly.

Its functions take NumPy arrays with the channels last, and other layouts without a word; they add
up channels, so that changes that cancel disappear; they draw grey images in false colours; with
their standard ``outlier_perc=2`` several entries of a sparse map get the full colour; and they
stop with "Cannot normalize by scale factor = 0" at a map without any entry of the sign asked for:
that of a counterfactual that only brightens pixels, or that needed no change at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from captum.attr import visualization
from numpy.typing import NDArray
from torch import Tensor

from captum_deduce import checks
from captum_deduce.visualization.pixels import (
    Bands,
    PerChannel,
    PixelScale,
    check_images,
    strongest,
)
from captum_deduce.visualization.sheet import CHANGE_COLORS, DPI, Picture, own_style

_SIGNED = {"positive": 1, "negative": -1}
_METHODS = tuple(visualization.ImageVisualizationMethod.__members__)
_SIGNS = tuple(visualization.VisualizeSign.__members__)


def captum_image(
    image: Tensor,
    *,
    mean: PerChannel | None = None,
    std: PerChannel | None = None,
    bands: Bands | None = None,
) -> NDArray[np.float64]:
    """Turn an image into what Captum takes as ``original_image``.

    Args:
        image (Tensor): Channels x height x width, or with a leading dimension of 1; grey or RGB, or
            with ``bands``.
        mean (float, sequence or Tensor, optional): The mean with which it was normalised: a number
            or one per channel. Default: None (it was not)
        std (float, sequence or Tensor, optional): The standard deviation, likewise. Default: None
        bands (int or Sequence[int], optional): Of more than three channels those to draw as red,
            green and blue, or one as grey. Default: None (all are drawn)

    Returns:
        NDArray: Height x width x 3, from 0 to 1; a grey image has three equal channels.

    Raises:
        TypeError: Not a floating-point tensor.
        ValueError: Another shape, or colours outside [0, 1].

    Examples::

        >>> import torch
        >>> captum_image(torch.zeros(1, 8, 8)).shape
        (8, 8, 3)
    """
    batch = _as_batch("image", image)
    colors = PixelScale.read(mean, std, batch.shape[1:], bands).colors(batch, "image")
    return np.array(colors[0])


def captum_attribution(attribution: Tensor, *, channels: str = "largest") -> NDArray[np.float64]:
    """Turn an attribution into what Captum takes as ``attr``.

    A map without a positive (negative) entry gets one of 2e-308 at a site that has none, so that
    Captum can draw that sign: it warns then that all values are close to 0, and the site stands out
    though there is nothing. :func:`visualize_attribution` draws such maps blank.

    Args:
        attribution (Tensor): Channels x height x width, or with a leading dimension of 1; any
            number of channels.
        channels (str, optional): What one number per site stands for. ``"largest"``: the entry of
            the largest magnitude, with its sign; ``"magnitude"``: the sum of magnitudes, without a
            sign. Default: "largest"

    Returns:
        NDArray: Height x width x 1, which Captum's sum over channels leaves as it is.

    Raises:
        TypeError: Not a floating-point tensor.
        ValueError: Another shape, values that are not finite, or an unknown word.

    Examples::

        >>> import torch
        >>> change = torch.zeros(3, 2, 2)
        >>> change[:, 0, 0] = torch.tensor([0.5, -0.75, 0.25])  # the sum is 0
        >>> captum_attribution(change)[0, 0]
        array([-0.75])
    """
    map_ = _one_map(attribution, channels)
    unchanged = np.argwhere(map_ == 0)
    tiny = np.finfo(np.float64).tiny
    if len(unchanged) and not (map_ > 0).any():
        map_[tuple(unchanged[0])] = tiny
    if len(unchanged) and not (map_ < 0).any():
        map_[tuple(unchanged[-1])] = -tiny
    return map_[..., np.newaxis]


@own_style()
def visualize_attribution(
    attribution: Tensor,
    image: Tensor | None = None,
    *,
    methods: str | Sequence[str] = "heat_map",
    signs: str | Sequence[str] = "all",
    titles: Sequence[str] | None = None,
    channels: str = "largest",
    mean: PerChannel | None = None,
    std: PerChannel | None = None,
    bands: Bands | None = None,
    outlier_perc: float = 1e-6,
    panel_size: float = 3.0,
    **arguments: Any,
) -> Picture:
    r"""Draw an attribution with Captum's ``visualize_image_attr``, whatever it holds.

    Maps without any entry of the sign asked for are drawn blank, where Captum stops. The signs
    together are drawn from blue to red, which everybody can tell apart; ``cmap`` changes that.

    Args:
        attribution (Tensor): Channels x height x width, or with a leading dimension of 1.
        image (Tensor, optional): The image that it belongs to, likewise; all methods but
            ``"heat_map"`` need it. Default: None
        methods (str or Sequence[str], optional): Captum's methods, a panel each: ``"heat_map"``,
            ``"blended_heat_map"``, ``"original_image"``, ``"masked_image"``, ``"alpha_scaling"``.
            Default: "heat_map"
        signs (str or Sequence[str], optional): ``"all"``, ``"positive"``, ``"negative"`` or
            ``"absolute_value"``; one for all panels or one each. Default: "all"
        titles (Sequence[str], optional): One per panel. Default: None
        channels (str, optional): See :func:`captum_attribution`. Default: "largest"
        mean (float, sequence or Tensor, optional): See :func:`captum_image`. Default: None
        std (float, sequence or Tensor, optional): See :func:`captum_image`. Default: None
        bands (int or Sequence[int], optional): See :func:`captum_image`. Default: None
        outlier_perc (float, optional): Captum's share of the total, in percent, that gets the full
            colour. At 0 Captum fails on some maps, by rounding. Default: 1e-6 (the largest entry)
        panel_size (float, optional): Inches of a panel's side. Default: 3.0
        **arguments (Any): Further arguments of Captum's function: ``cmap``, ``alpha_overlay``,
            ``show_colorbar``.

    Returns:
        matplotlib.figure.Figure: The figure; it is not shown. There is no ``ax``
        argument: each panel has axes of its own.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: A shape, method, sign or number of them that does not fit.
    """
    panels = [methods] if isinstance(methods, str) else list(methods)
    shown = [signs] * len(panels) if isinstance(signs, str) else list(signs)
    _check_panels(panels, shown, titles, needs_image=image is None)
    checks.number("outlier_perc", outlier_perc, minimum=0, maximum=100, exclusive=True)
    checks.number("panel_size", panel_size, minimum=0, exclusive=True)
    map_ = _one_map(attribution, channels)
    colors = None if image is None else captum_image(image, mean=mean, std=std, bands=bands)
    if colors is not None and colors.shape[:2] != map_.shape:
        raise ValueError(
            f"image must have the attribution's height and width {map_.shape}, got "
            f"{colors.shape[:2]}"
        )
    figure = Picture(figsize=(len(panels) * panel_size, 1.15 * panel_size), dpi=DPI)
    every = figure.subplots(1, len(panels), squeeze=False)[0]
    for place, (axes, method, sign) in enumerate(zip(every, panels, shown, strict=True)):
        part = map_ * _SIGNED.get(sign, 1)
        empty = not (part > 0).any() if sign in _SIGNED else not part.any()
        style = {"cmap": CHANGE_COLORS, **arguments} if sign == "all" else arguments
        visualization.visualize_image_attr(
            (np.full_like(map_, _SIGNED.get(sign, 1)) if empty else map_)[..., np.newaxis],
            colors,
            method=method,
            sign=sign,
            plt_fig_axis=(figure, axes),
            outlier_perc=outlier_perc,
            title=None if titles is None else titles[place],
            use_pyplot=False,
            **style,
        )
        if empty and method != "original_image":
            drawn = axes.images[-1]
            drawn.set_data(np.zeros_like(drawn.get_array()))
    figure.tight_layout()
    return figure


def _as_batch(name: str, value: object) -> Tensor:
    if isinstance(value, Tensor) and value.dim() == 3:
        value = value.unsqueeze(0)
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if value.dim() != 4 or len(value) != 1:
        raise ValueError(
            f"{name} must be one image, channels x height x width, got shape {tuple(value.shape)}"
        )
    return value


def _one_map(attribution: Tensor, channels: str) -> NDArray[np.float64]:
    """Reduce an attribution to one number per site, height x width."""
    checks.choice("channels", channels, ("largest", "magnitude"))
    batch = _as_batch("attribution", attribution)
    check_images(batch.flatten(1, 2).unsqueeze(1), "attribution")  # any number of channels
    values: NDArray[np.float64] = batch.detach().cpu().double().numpy()
    if channels == "largest":
        largest: NDArray[np.float64] = strongest(values)[0]
        return largest
    magnitude: NDArray[np.float64] = np.abs(values[0]).sum(0)
    return magnitude


def _check_panels(
    methods: list[str], signs: list[str], titles: Sequence[str] | None, *, needs_image: bool
) -> None:
    for method in methods:
        checks.choice("methods", method, _METHODS)
    for sign in signs:
        checks.choice("signs", sign, _SIGNS)
    given = {"signs": len(signs), "titles": len(methods) if titles is None else len(titles)}
    for name, count in given.items():
        if count != len(methods) or not methods:
            raise ValueError(
                f"{name} must hold one for each of {len(methods)} methods, got {count}"
            )
    if needs_image and set(methods) != {"heat_map"}:
        raise ValueError(f"image is None, but these methods draw it: {', '.join(methods)}")
    for method, sign in zip(methods, signs, strict=True):
        if method in ("masked_image", "alpha_scaling") and sign == "all":
            raise ValueError(
                f"signs must be 'positive', 'negative' or 'absolute_value' with {method!r}, which "
                "shows no sign, got 'all'"
            )

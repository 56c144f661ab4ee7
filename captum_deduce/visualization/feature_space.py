"""The feature space as in figure 2 of the paper: classes, Gaussians, a counterfactual's way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from torch import Tensor

from captum_deduce import checks
from captum_deduce.classifiers import FrozenModel
from captum_deduce.density import ClassGaussianMixture
from captum_deduce.visualization import sheet as sheets
from captum_deduce.visualization.class_names import ClassNames, read_class_names
from captum_deduce.visualization.planes import (
    Plane,
    ProjectedGaussian,
    class_plane,
    feature_plane,
    path_plane,
    plain,
)

CONTENTS = (0.5, 0.95)
"""Share of a Gaussian that each of its ellipses holds, in the plane."""

# Okabe and Ito's colours, which can be told apart with every kind of colour blindness; a second
# and a third marker tell apart the classes that share one.
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C8C8C")
_MARKERS = ("o", "s", "^")
_GRID = 200
_BATCH = 4096


@sheets.own_style()
def plot_density(
    features: Tensor,
    target: Tensor,
    density: ClassGaussianMixture,
    *,
    path: Tensor | None = None,
    path_target: int | None = None,
    classifier: Callable[[Tensor], Any] | None = None,
    classes: Sequence[int] | None = None,
    class_names: ClassNames | None = None,
    max_points: int = 2000,
    size: float = 6.0,
) -> sheets.Picture:
    r"""Draw the feature space, the Gaussians and a counterfactual's way, as the paper's figure 2.

    Training images are points. Each class's Gaussian is two ellipses, which hold 50% and 95% of it.
    A counterfactual's way is a black line from a circle to a star. The decision boundary is dashed.

    More than two features are projected orthogonally onto a plane: with a path the one through its
    start, its end and the mean of the target class; else that of the two first principal axes of
    the class means, completed by the features' own where the means span less. The Gaussians'
    covariances are projected by the same map, so that their ellipses are exact. The boundary is
    where the classifier's decision changes *on that plane*: with a path it is exact at its start,
    at its end and at the target's mean, while other points were moved onto the plane and may appear
    on a side that is not theirs. With two features everything is exact.

    Args:
        features (Tensor): Of the training images, N x D with D at least 2, floating-point.
        target (Tensor): Their classes, N integers.
        density (ClassGaussianMixture): Fitted to such features.
        path (Tensor, optional): Features along a trajectory, S x D: the ``features`` of
            :func:`trace_trajectory`. Default: None
        path_target (int, optional): The class that it went to; needed with a path. Of the
            boundaries only that of this class is drawn then. Default: None
        classifier (Callable, optional): From features (N x D) to class scores (N x C): the model's
            last layer, or ``density.log_probs``. Default: None (no decision boundary)
        classes (Sequence[int], optional): The classes to draw. Default: None (all that the density
            has seen)
        class_names (Sequence[str] or Mapping, optional): A name per class, or ``{index: name}``.
            Default: None (their numbers)
        max_points (int, optional): Training images to draw at most, a random choice that is always
            the same. Default: 2000
        size (float, optional): Inches of the plot's longer side. Default: 6.0

    Returns:
        matplotlib.figure.Figure: The figure; it is not shown. There is no ``ax``
        argument: the axes take the proportions of what is drawn.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: A density that is not fitted, or shapes, classes or names that do not fit.

    Examples::

        >>> features = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
        >>> labels = torch.arange(200) % 2
        >>> features += 4.0 * labels.unsqueeze(1)
        >>> density = ClassGaussianMixture().fit(features, labels)
        >>> figure = plot_density(features, labels, density, classifier=density.log_probs)
        >>> figure.axes[0].get_xlabel()
        'feature 0'
    """
    if not isinstance(density, ClassGaussianMixture):
        raise TypeError(f"density must be a ClassGaussianMixture, got {type(density).__name__}")
    if density.num_features < 2:
        raise ValueError(
            "density must be fitted to at least 2 features to be drawn, got "
            f"{density.num_features or 'none'}"
        )
    features = _read_features("features", features, density.num_features)
    labels = checks.targets(target, len(features), density.num_classes)
    drawn = _read_classes(density, classes)
    if path is not None:
        path = _read_features("path", path, density.num_features)
    goal = _read_goal(path, path_target, drawn)
    checks.number("max_points", max_points, minimum=1, integer=True)
    checks.number("size", size, minimum=0, exclusive=True)
    names = read_class_names(class_names, max(drawn) + 1)
    if classifier is not None:
        checks.callable_model("classifier", classifier)

    chosen = _sample(labels, drawn, max_points)
    points, labels = plain(features[chosen.to(features.device)]), labels[chosen]
    plane = _choose_plane(density, drawn, points, path, goal, names)
    gaussians = _projected(density, drawn, plane)
    spots = plane.project(points)
    way = np.empty((0, 2)) if path is None else plane.project(path)
    figure, axes = _frame(plane, size, _corners(spots, gaussians, way))
    for order, c in enumerate(drawn):
        color = _COLORS[order % len(_COLORS)]
        marker = _MARKERS[order // len(_COLORS) % len(_MARKERS)]
        x, y = spots[labels == c].T
        axes.scatter(x, y, s=12, color=color, marker=marker, alpha=0.4, linewidth=0)
        for gaussian in gaussians:
            if gaussian.class_index == c:
                _draw_gaussian(axes, gaussian, color, names[c])
    if classifier is not None:
        _draw_boundaries(axes, plane, classifier, features, goal)
    if path is not None:
        _draw_way(axes, way)
    _draw_legend(axes, boundary=classifier is not None, way=path is not None)
    return figure


def _read_features(name: str, value: object, num_features: int) -> Tensor:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        given = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} must be a floating-point torch.Tensor, got {given}")
    if value.dim() != 2 or not len(value) or value.shape[1] != num_features:
        raise ValueError(
            f"{name} must have the shape N x {num_features} with N at least 1, as the density was "
            f"fitted to {num_features} features, got {tuple(value.shape)}"
        )
    if not torch.isfinite(value.detach()).all():
        raise ValueError(f"{name} must be finite, got NaN or infinite values")
    return value.detach()


def _read_classes(density: ClassGaussianMixture, classes: Sequence[int] | None) -> list[int]:
    known = torch.isfinite(density.means).all(1).tolist()
    seen = sorted({c for c, fitted in zip(density.component_class, known, strict=True) if fitted})
    if classes is None:
        return seen
    wanted = list(dict.fromkeys(int(c) for c in classes))
    missing = [c for c in wanted if c not in seen]
    if missing or not wanted:
        raise ValueError(
            f"classes must be some of those that the density has seen ({seen}), got {wanted}"
        )
    return wanted


def _read_goal(path: Tensor | None, path_target: int | None, drawn: list[int]) -> int | None:
    if (path is None) != (path_target is None):
        raise ValueError("path and path_target belong together: give both or neither")
    if path_target is not None and path_target not in drawn:
        raise ValueError(
            f"path_target must be one of the classes drawn ({drawn}), got {path_target}"
        )
    return None if path_target is None else int(path_target)


def _sample(labels: Tensor, drawn: list[int], most: int) -> Tensor:
    """Choose the images to draw, the same at every call."""
    rows = torch.isin(labels, torch.tensor(drawn)).nonzero().flatten()
    if not len(rows):
        raise ValueError(f"target holds none of the classes to draw ({drawn})")
    if len(rows) <= most:
        return rows
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:most]]


def _choose_plane(
    density: ClassGaussianMixture,
    drawn: list[int],
    points: Tensor,
    path: Tensor | None,
    goal: int | None,
    names: list[str],
) -> Plane:
    if density.num_features == 2:
        return feature_plane()
    means = plain(density.means)
    class_means = {c: means[_components(density, c)].mean(0) for c in drawn}
    if path is None or goal is None:
        return class_plane(torch.stack(list(class_means.values())), points)
    return path_plane(path, class_means[goal], points, names[goal])


def _components(density: ClassGaussianMixture, c: int) -> list[int]:
    return [k for k, owner in enumerate(density.component_class) if owner == c]


def _projected(
    density: ClassGaussianMixture, drawn: list[int], plane: Plane
) -> list[ProjectedGaussian]:
    means = density.means
    return [
        ProjectedGaussian(
            c,
            plane.project(means[k : k + 1])[0],
            plane.project_covariance(density.covariance(k)),
        )
        for c in drawn
        for k in _components(density, c)
    ]


def _draw_gaussian(axes: Axes, gaussian: ProjectedGaussian, color: str, name: str) -> None:
    for content in CONTENTS:
        width, height, angle = gaussian.ellipse(content)
        x, y = gaussian.mean
        axes.add_patch(
            Ellipse((x, y), width, height, angle=angle, fill=False, edgecolor=color, linewidth=1.8)
        )
    axes.text(
        x,
        y,
        name,
        color=color,
        fontsize=sheets.FONT_SIZE + 2,
        fontweight="bold",
        ha="center",
        va="center",
        parse_math=False,
        clip_on=True,
        path_effects=[withStroke(linewidth=3, foreground="white")],
    )


def _corners(
    spots: NDArray[np.float64], gaussians: list[ProjectedGaussian], way: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Find the lower left and upper right corner of all that must be seen."""
    outlines = [g.mean + sign * g.reach(max(CONTENTS)) for g in gaussians for sign in (-1, 1)]
    every = np.vstack([*outlines, way, np.percentile(spots, (0.5, 99.5), axis=0)])
    low, high = every.min(0), every.max(0)
    edge = 0.06 * (high - low).max() or 1.0
    return np.stack([low - edge, high + edge])


def _frame(plane: Plane, size: float, corners: NDArray[np.float64]) -> tuple[sheets.Picture, Axes]:
    """Make a figure whose axes have the corners' proportions, within reason, and equal units."""
    spans = corners[1] - corners[0]
    spans = np.maximum(spans, 0.5 * spans.max())
    middle = corners.mean(0)
    width, height = size * spans / spans.max()
    left, bottom = 0.85, 1.1
    figure = sheets.Picture(
        figsize=(left + width + 0.2, bottom + height + 0.2), dpi=sheets.DPI, facecolor="white"
    )
    axes = sheets.add_axes(figure, left, bottom, width, height)
    axes.set_xlim(middle[0] - spans[0] / 2, middle[0] + spans[0] / 2)
    axes.set_ylim(middle[1] - spans[1] / 2, middle[1] + spans[1] / 2)
    axes.set_aspect("equal")
    axes.tick_params(labelsize=sheets.FONT_SIZE)
    for label, set_label, inches in (
        (plane.labels[0], axes.set_xlabel, width),
        (plane.labels[1], axes.set_ylabel, height),
    ):
        set_label(sheets.fitted(label, inches), fontsize=sheets.FONT_SIZE, parse_math=False)
    return figure, axes


def _draw_boundaries(
    axes: Axes,
    plane: Plane,
    classifier: Callable[[Tensor], Any],
    features: Tensor,
    goal: int | None,
) -> None:
    xs = np.linspace(*axes.get_xlim(), _GRID)
    ys = np.linspace(*axes.get_ylim(), _GRID)
    grid = plane.points(np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2))
    with torch.no_grad(), FrozenModel(classifier) as head:
        scores = torch.cat(
            [
                plain(head(rows.to(features.device, features.dtype))[0])
                for rows in torch.split(grid, _BATCH)
            ]
        )
    if goal is not None and scores.shape[1] <= goal:
        raise ValueError(
            f"classifier must score class {goal} (path_target), got {scores.shape[1]} classes"
        )
    for margin in _margins(scores.nan_to_num(nan=-np.inf).numpy(), goal):
        field = margin.reshape(_GRID, _GRID)
        if np.nanmin(field) < 0 < np.nanmax(field):
            axes.contour(xs, ys, field, levels=[0], colors="black", linestyles="--", linewidths=1.2)


def _margins(scores: NDArray[np.float64], goal: int | None) -> list[NDArray[np.float64]]:
    """Functions that are zero where the decision changes, each boundary in one of them.

    Class c's is its lead over the later classes, where no earlier class beats them all.
    """
    num_classes = scores.shape[1]
    if goal is not None:
        others = np.delete(scores, goal, axis=1)
        return [scores[:, goal] - others.max(1)]
    margins = []
    for c in range(num_classes - 1):
        margin = scores[:, c] - scores[:, c + 1 :].max(1)
        margin[scores[:, :c].max(1, initial=-np.inf) > scores[:, c:].max(1)] = np.nan
        if not np.isnan(margin).all():
            margins.append(margin)
    return margins


def _draw_way(axes: Axes, way: NDArray[np.float64]) -> None:
    outline = [withStroke(linewidth=4, foreground="white")]
    axes.plot(*way.T, color="black", linewidth=1.8, path_effects=outline, zorder=4)
    style: dict[str, Any] = {"markeredgecolor": "white", "linestyle": "none", "zorder": 5}
    axes.plot(*way[0], color="black", marker="o", markersize=9, **style)
    axes.plot(*way[-1], color="black", marker="*", markersize=17, **style)


def _draw_legend(axes: Axes, *, boundary: bool, way: bool) -> None:
    shares = " and ".join(f"{content:.0%}" for content in CONTENTS)
    entries = [Line2D([], [], color="0.3", linewidth=1.8, label=f"{shares} of a class")]
    if boundary:
        entries.append(Line2D([], [], color="black", linestyle="--", label="decision boundary"))
    if way:
        marks: dict[str, Any] = {"color": "black", "linestyle": "none"}
        entries.append(Line2D([], [], marker="o", markersize=8, label="original", **marks))
        entries.append(Line2D([], [], marker="*", markersize=13, label="counterfactual", **marks))
    inches = axes.get_window_extent().height / sheets.DPI
    axes.legend(
        handles=entries,
        loc="upper left",
        bbox_to_anchor=(-0.02, -0.5 / inches),
        ncols=2,
        frameon=False,
        fontsize=sheets.FONT_SIZE,
    )

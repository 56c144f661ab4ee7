"""Planes in a feature space: what a picture in two dimensions shows of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_PARALLEL = 1e-6
"""Directions whose remainder is a smaller part of their length add nothing to a plane."""


@dataclass(frozen=True)
class Plane:
    """An origin and two orthonormal directions, onto which features are projected orthogonally.

    Args:
        origin (Tensor): A point of the plane, D, float64.
        directions (Tensor): Orthonormal rows, 2 x D, float64.
        labels (tuple[str, str]): What the directions are.
    """

    origin: Tensor
    directions: Tensor
    labels: tuple[str, str]

    def project(self, features: Tensor) -> NDArray[np.float64]:
        """Find the nearest points of the plane.

        Args:
            features (Tensor): N x D.

        Returns:
            NDArray: N x 2, in the plane's coordinates.
        """
        return ((plain(features) - self.origin) @ self.directions.T).numpy()

    def project_covariance(self, covariance: Tensor) -> NDArray[np.float64]:
        """Find the covariance of features after their projection.

        Args:
            covariance (Tensor): Theirs: a matrix (D x D), variances per feature (D), or one
                variance for all (no dimension).

        Returns:
            NDArray: 2 x 2.
        """
        spread = plain(covariance)
        if spread.dim() < 2:
            return ((self.directions * spread) @ self.directions.T).numpy()
        return (self.directions @ spread @ self.directions.T).numpy()

    def points(self, coordinates: NDArray[np.float64]) -> Tensor:
        """Find the features at points of the plane.

        Args:
            coordinates (NDArray): N x 2.

        Returns:
            Tensor: N x D, float64.
        """
        return self.origin + torch.from_numpy(coordinates) @ self.directions


@dataclass(frozen=True)
class ProjectedGaussian:
    """A Gaussian of a feature space, projected onto a plane.

    Args:
        class_index (int): The class that it belongs to.
        mean (NDArray): Of length 2.
        covariance (NDArray): 2 x 2.
    """

    class_index: int
    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]

    def ellipse(self, content: float) -> tuple[float, float, float]:
        """Outline the part that holds a share of it, the densest one.

        Args:
            content (float): The share, above 0 and below 1.

        Returns:
            tuple[float, float, float]: Width, height, and the angle of the width in degrees.
        """
        variances, directions = np.linalg.eigh(self.covariance)
        width, height = 2 * _radius(content) * np.sqrt(variances.clip(min=0))
        return width, height, math.degrees(math.atan2(directions[1, 0], directions[0, 0]))

    def reach(self, content: float) -> NDArray[np.float64]:
        """Find how far that part reaches from the mean, along either coordinate.

        Args:
            content (float): The share.

        Returns:
            NDArray: Of length 2.
        """
        return _radius(content) * np.sqrt(np.diag(self.covariance))


def feature_plane() -> Plane:
    """Take two features as they are.

    Returns:
        Plane: All of a feature space with D = 2.
    """
    identity = torch.eye(2, dtype=torch.float64)
    return Plane(torch.zeros(2, dtype=torch.float64), identity, ("feature 0", "feature 1"))


def class_plane(means: Tensor, features: Tensor) -> Plane:
    """Choose the plane in which the class means lie farthest apart.

    Args:
        means (Tensor): Class means, K x D.
        features (Tensor): N x D; where the means span less than a plane, the features' own
            principal axes complete it.

    Returns:
        Plane: Through the mean of the means, along their first principal axes.
    """
    centres = plain(means)
    labels = ("first axis of the class means", "second axis of the class means")
    axes = zip(principal_axes(centres), labels, strict=False)
    return _span(centres.mean(0), [*axes], features)


def path_plane(path: Tensor, goal: Tensor, features: Tensor, goal_name: str) -> Plane:
    """Choose the plane through a path's start, its end and the mean that it heads for.

    Args:
        path (Tensor): S x D.
        goal (Tensor): The mean of the target class, D.
        features (Tensor): N x D; where the three points lie on a line, the features' principal axes
            complete the plane.
        goal_name (str): What the target class is called.

    Returns:
        Plane: With the start as its origin and the mean along the first axis.
    """
    start, end = plain(path[0]), plain(path[-1])
    towards = (plain(goal) - start, f"distance from the original towards the mean of {goal_name}")
    across = (end - start, "distance across, on the counterfactual's side")
    return _span(start, [towards, across], features)


def principal_axes(points: Tensor) -> Tensor:
    """Find the directions along which points vary, the one of the largest variance first.

    Args:
        points (Tensor): N x D.

    Returns:
        Tensor: Orthonormal rows, at most min(N, D) x D, those without variance left out. The entry
        of the largest magnitude in each is positive, so that pictures do not flip.
    """
    centred = points - points.mean(0)
    _, spread, axes = torch.linalg.svd(centred, full_matrices=False)
    axes = axes[spread > _PARALLEL * spread.max().clamp(min=torch.finfo(spread.dtype).tiny)]
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    oriented: Tensor = axes * largest.sign()
    return oriented


def plain(values: Tensor) -> Tensor:
    """Copy values to the CPU as float64, free of any graph.

    Args:
        values (Tensor): Any.

    Returns:
        Tensor: Of the same shape.
    """
    return values.detach().cpu().double()


def _radius(content: float) -> float:
    """Mahalanobis distance within which a Gaussian in two dimensions holds a share of its mass.

    The squared distance has an exponential distribution of mean 2.
    """
    return math.sqrt(-2 * math.log(1 - content))


def _span(origin: Tensor, wanted: list[tuple[Tensor, str]], features: Tensor) -> Plane:
    """Orthonormalise the first two directions that differ, in the order given (Gram-Schmidt)."""
    rows: list[Tensor] = []
    labels: list[str] = []
    for direction, label in _completed(wanted, features):
        rest = direction.clone()
        for row in rows:
            rest -= (rest @ row) * row
        if rest.norm() > _PARALLEL * direction.norm():
            rows.append(rest / rest.norm())
            labels.append(label)
        if len(rows) == 2:
            break
    return Plane(origin, torch.stack(rows), (labels[0], labels[1]))


def _completed(wanted: list[tuple[Tensor, str]], features: Tensor) -> Iterator[tuple[Tensor, str]]:
    yield from wanted
    for axis in principal_axes(plain(features)):
        yield axis, "principal axis of the features"
    # Features that do not vary at all leave the choice to us.
    for axis in torch.eye(features.shape[1], dtype=torch.float64):
        yield axis, "another direction of the features"

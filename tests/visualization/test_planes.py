from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from sklearn.decomposition import PCA

from captum_deduce.visualization.planes import (
    Plane,
    ProjectedGaussian,
    class_plane,
    feature_plane,
    path_plane,
    principal_axes,
)


def _plane(dimensions=5):
    generator = torch.Generator().manual_seed(0)
    directions, _ = torch.linalg.qr(
        torch.randn(dimensions, 2, dtype=torch.float64, generator=generator)
    )
    origin = torch.randn(dimensions, dtype=torch.float64, generator=generator)
    return Plane(origin, directions.T.contiguous(), ("x", "y"))


def _assert_orthonormal(plane):
    gram = plane.directions @ plane.directions.T
    np.testing.assert_allclose(gram, np.eye(2), atol=1e-10)


def _holds(plane, point):
    """Whether a point of the feature space lies in the plane."""
    back = plane.points(plane.project(point.unsqueeze(0)))[0]
    return bool((back - point).norm() < 1e-9 * (1 + point.norm()))


def test_points_of_a_plane_are_their_own_projections():
    plane = _plane()
    coordinates = np.random.default_rng(0).normal(size=(7, 2))
    features = plane.points(coordinates)
    assert features.shape == (7, 5)
    np.testing.assert_allclose(plane.project(features), coordinates, atol=1e-12)
    # what is orthogonal to the plane disappears
    normal = torch.randn(5, dtype=torch.float64)
    normal -= plane.directions.T @ (plane.directions @ normal)
    np.testing.assert_allclose(plane.project(features + normal), coordinates, atol=1e-12)


def test_a_covariance_is_projected_as_its_samples_are():
    plane = _plane()
    samples = torch.randn(400, 5, dtype=torch.float64) @ torch.randn(5, 5, dtype=torch.float64)
    covariance = torch.from_numpy(np.cov(samples.numpy().T))
    expected = np.cov(plane.project(samples).T)
    np.testing.assert_allclose(plane.project_covariance(covariance), expected, atol=1e-10)
    variances = torch.rand(5, dtype=torch.float64)
    np.testing.assert_allclose(
        plane.project_covariance(variances), plane.project_covariance(torch.diag(variances))
    )
    np.testing.assert_allclose(
        plane.project_covariance(torch.tensor(2.5)), 2.5 * np.eye(2), atol=1e-12
    )


@pytest.mark.parametrize("content", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("variances", [(3.0, 1.0), (1.0, 4.0), (2.0, 2.0)])
@pytest.mark.parametrize("correlation", [-0.9, -0.3, 0.0, 0.6])
def test_an_ellipse_holds_its_share(content, variances, correlation):
    mixed = correlation * np.sqrt(variances[0] * variances[1])
    covariance = np.array([[variances[0], mixed], [mixed, variances[1]]])
    gaussian = ProjectedGaussian(0, np.array([1.0, -2.0]), covariance)
    width, height, angle = gaussian.ellipse(content)
    turn = np.deg2rad(angle)
    around = np.linspace(0, 2 * np.pi, 200)
    x, y = width / 2 * np.cos(around), height / 2 * np.sin(around)
    outline = np.stack(
        [x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)], 1
    )
    squared = np.einsum("nd,de,ne->n", outline, np.linalg.inv(gaussian.covariance), outline)
    np.testing.assert_allclose(squared, chi2(2).ppf(content), rtol=1e-9)
    reach = gaussian.reach(content)
    np.testing.assert_allclose(np.abs(outline).max(0), reach, rtol=5e-3)
    assert (np.abs(outline) <= reach + 1e-9).all()


def test_a_flat_gaussian_has_a_flat_ellipse():
    flat = ProjectedGaussian(0, np.zeros(2), np.array([[4.0, 0.0], [0.0, -1e-18]]))
    sides = sorted(flat.ellipse(0.5)[:2])
    assert sides[0] == 0
    assert sides[1] == pytest.approx(2 * 2 * np.sqrt(chi2(2).ppf(0.5)))


def test_two_features_are_drawn_as_they_are():
    features = torch.randn(6, 2)
    np.testing.assert_array_equal(feature_plane().project(features), features.double())
    assert feature_plane().labels == ("feature 0", "feature 1")


def test_principal_axes_are_those_of_sklearn():
    points = torch.randn(30, 6, dtype=torch.float64) * torch.tensor([5.0, 4, 3, 2, 1, 0.5])
    axes = principal_axes(points)
    expected = torch.from_numpy(PCA().fit(points.numpy()).components_)
    np.testing.assert_allclose((axes @ expected.T).abs(), np.eye(6), atol=1e-9)
    largest = axes[range(6), axes.abs().argmax(1)]
    assert (largest > 0).all()


def test_axes_without_variance_are_left_out():
    line = torch.arange(5.0).double().unsqueeze(1) * torch.tensor([3.0, 4.0, 0.0]).double()
    np.testing.assert_allclose(principal_axes(line), [[0.6, 0.8, 0]], atol=1e-12)
    assert len(principal_axes(torch.ones(4, 3, dtype=torch.float64))) == 0


def test_the_class_plane_spreads_the_means_most():
    means = torch.randn(4, 6, dtype=torch.float64)
    plane = class_plane(means, torch.randn(20, 6))
    _assert_orthonormal(plane)
    centred = means.numpy() - means.numpy().mean(0)
    variances = np.linalg.svd(centred)[1] ** 2
    shown = (plane.project(means) ** 2).sum()
    assert shown == pytest.approx(variances[:2].sum(), rel=1e-9)
    assert plane.labels == ("first axis of the class means", "second axis of the class means")
    three = torch.randn(3, 6, dtype=torch.float64)
    assert all(_holds(class_plane(three, torch.randn(20, 6)), mean) for mean in three)


def test_two_classes_leave_an_axis_to_the_features():
    means = torch.tensor([[0.0, 0, 0], [2.0, 0, 0]]).double()
    features = torch.randn(50, 3, dtype=torch.float64) * torch.tensor([9.0, 0.1, 3.0])
    plane = class_plane(means, features)
    _assert_orthonormal(plane)
    assert all(_holds(plane, mean) for mean in means)
    assert abs(plane.directions[0, 0]) == pytest.approx(1)
    assert abs(plane.directions[1, 2]) > 0.99
    assert plane.labels[1] == "principal axis of the features"


def test_the_path_plane_holds_start_end_and_goal():
    path = torch.randn(9, 7, dtype=torch.float64)
    goal = torch.randn(7, dtype=torch.float64)
    plane = path_plane(path, goal, torch.randn(20, 7), "cat")
    _assert_orthonormal(plane)
    for point in (path[0], path[-1], goal):
        assert _holds(plane, point)
    np.testing.assert_allclose(plane.project(path[:1]), [[0, 0]], atol=1e-12)
    distance = float((goal - path[0]).norm())
    np.testing.assert_allclose(plane.project(goal.unsqueeze(0)), [[distance, 0]], atol=1e-9)
    assert plane.project(path[-1:])[0, 1] > 0
    assert plane.labels[0] == "distance from the original towards the mean of cat"


@pytest.mark.parametrize("case", ["on the way", "no step", "already there", "nothing varies"])
def test_degenerate_paths_still_have_a_plane(case):
    start, goal = torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    path = torch.stack([start, start + 0.5])
    features = torch.randn(20, 4)
    if case == "no step":
        path = start.unsqueeze(0)
    if case == "already there":
        path, goal = goal.repeat(2, 1), goal
    if case == "nothing varies":
        path, goal, features = start.repeat(2, 1), start, torch.zeros(3, 4)
    plane = path_plane(path, goal, features, "1")
    _assert_orthonormal(plane)
    assert torch.isfinite(plane.directions).all()
    assert all(_holds(plane, point) for point in (path[0], path[-1], goal))

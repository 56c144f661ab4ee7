from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.collections import PathCollection
from matplotlib.colors import same_color
from matplotlib.contour import ContourSet
from scipy.stats import chi2
from sklearn.mixture import GaussianMixture
from torch import nn

from captum_deduce import ClassGaussianMixture
from captum_deduce.visualization import plot_density
from captum_deduce.visualization.feature_space import _margins
from captum_deduce.visualization.planes import class_plane, path_plane
from tests.visualization import stored
from tests.visualization.samples import assert_readable


def _many(dimensions=6, classes=3, count=150):
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(count) % classes
    centres = 4 * torch.randn(classes, dimensions, generator=generator)
    spread = torch.randn(classes, dimensions, dimensions, generator=generator) / 2
    noise = torch.randn(count, 1, dimensions, generator=generator)
    return (noise @ spread[labels]).squeeze(1) + centres[labels], labels


def _points(axes):
    return [c for c in axes.collections if isinstance(c, PathCollection)]


def _boundaries(axes):
    """The vertices of all dashed lines."""
    sets = [c for c in axes.collections if isinstance(c, ContourSet)]
    return [path.vertices for c in sets for path in c.get_paths() if len(path.vertices)]


def _outline_covariance(patch, content):
    """The covariance whose ellipse a patch is."""
    turn = np.deg2rad(patch.angle)
    axes = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    variances = np.array([patch.width, patch.height]) ** 2 / 4 / chi2(2).ppf(content)
    return axes @ np.diag(variances) @ axes.T


def test_points_ellipses_and_names_are_where_the_classes_are():
    features, labels = stored.clouds()
    density = ClassGaussianMixture().fit(features, labels)
    (axes,) = plot_density(features, labels, density, class_names=["cat", "dog", "frog"]).axes
    for c, points in enumerate(_points(axes)):
        mine = features[labels == c].numpy()
        np.testing.assert_allclose(points.get_offsets(), mine)
        for patch, content in zip(axes.patches[2 * c : 2 * c + 2], (0.5, 0.95), strict=True):
            np.testing.assert_allclose(patch.center, mine.mean(0), atol=1e-9)
            np.testing.assert_allclose(
                _outline_covariance(patch, content), np.cov(mine.T), atol=1e-9
            )
            assert same_color(patch.get_edgecolor()[:3], points.get_facecolor()[0][:3])
        assert axes.texts[c].get_text() == ["cat", "dog", "frog"][c]
        np.testing.assert_allclose(axes.texts[c].get_position(), mine.mean(0), atol=1e-9)
    assert axes.get_aspect() == 1.0
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("feature 0", "feature 1")


def test_all_that_matters_is_in_view():
    features, labels = stored.clouds()
    density = ClassGaussianMixture().fit(features, labels)
    way = torch.tensor([[0.0, 0.0], [20.0, -9.0]])
    (axes,) = plot_density(features, labels, density, path=way, path_target=1).axes
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert left < -2 < 20 < right
    assert bottom < -9 < 5 < top
    for patch in axes.patches:
        assert left < patch.center[0] - max(patch.width, patch.height) / 2
    # equal units: the axes have the proportions of what they show
    box = axes.get_window_extent()
    assert box.width / box.height == pytest.approx((right - left) / (top - bottom))


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_gaussians_of_every_type_are_projected_exactly(covariance_type):
    features, labels = _many()
    density = ClassGaussianMixture(covariance_type).fit(features, labels)
    (axes,) = plot_density(features, labels, density).axes
    means = torch.stack([features[labels == c].double().mean(0) for c in range(3)])
    plane = class_plane(means, features)
    parts = [features[labels == c].double().numpy() for c in range(3)]
    matrices = [np.cov(part.T) for part in parts]
    if covariance_type == "tied":
        matrices = [sum(matrices) / 3] * 3  # classes of one size
    if covariance_type == "diag":
        matrices = [np.diag(np.diag(matrix)) for matrix in matrices]
    if covariance_type == "spherical":
        matrices = [np.diag(matrix).mean() * np.eye(6) for matrix in matrices]
    directions = plane.directions.numpy()
    for c, matrix in enumerate(matrices):
        patch = axes.patches[2 * c + 1]
        np.testing.assert_allclose(
            _outline_covariance(patch, 0.95),
            directions @ matrix @ directions.T,
            rtol=1e-6,
            atol=1e-9,
        )
        np.testing.assert_allclose(patch.center, plane.project(means[c : c + 1])[0], atol=1e-9)
    np.testing.assert_allclose(
        _points(axes)[1].get_offsets(), plane.project(features[labels == 1]), atol=1e-9
    )


def test_the_boundary_between_two_classes_is_the_classifiers_line():
    features, labels = stored.clouds()
    density = ClassGaussianMixture().fit(features, labels)
    head = nn.Linear(2, 2).double()
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0.5], [-1.0, 0.25]]))
        head.bias.copy_(torch.tensor([-2.0, 1.5]))
    (axes,) = plot_density(features, labels, density, classifier=head).axes
    (line,) = _boundaries(axes)
    # scores are equal where 2 x + .25 y = 3.5
    np.testing.assert_allclose(2 * line[:, 0] + 0.25 * line[:, 1], 3.5, atol=1e-9)
    assert np.ptp(line[:, 1]) > 0.95 * np.ptp(axes.get_ylim())


def test_every_boundary_of_many_classes_is_drawn_once():
    weights = np.random.default_rng(0).normal(size=(2, 6))
    ys, xs = np.meshgrid(np.linspace(-3, 3, 301), np.linspace(-3, 3, 301), indexing="ij")
    scores = np.stack([xs.ravel(), ys.ravel()], 1) @ weights + [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    decision = scores.argmax(1).reshape(xs.shape)
    crossings = np.zeros((301, 300), dtype=int)
    for margin in _margins(scores, None):
        field = margin.reshape(xs.shape)
        # nan, where another class decides, has no sign
        crossings += np.sign(field[:, 1:]) * np.sign(field[:, :-1]) < 0
    assert len(np.unique(decision)) >= 4
    np.testing.assert_array_equal(crossings, decision[:, 1:] != decision[:, :-1])
    (goal,) = _margins(scores, decision[0, 0])
    np.testing.assert_array_equal(goal > 0, (decision == decision[0, 0]).ravel())


def test_the_boundary_is_exact_at_the_ends_of_a_path_in_many_dimensions():
    features, labels = _many()
    density = ClassGaussianMixture().fit(features, labels)
    torch.manual_seed(2)
    head = nn.Linear(6, 3)
    start, goal = features[0], density.means[2].float()
    wiggle = torch.randn(12, 6)
    wiggle[[0, -1]] = 0
    fractions = torch.linspace(0, 0.8, 12).unsqueeze(1)
    path = start + fractions * (goal - start + 0.3 * torch.randn(6)) + wiggle
    figure = plot_density(
        features,
        labels,
        density,
        path=path,
        path_target=2,
        classifier=head,
        class_names=list("abc"),
    )
    (axes,) = figure.axes
    plane = path_plane(path, density.means[2], features, "c")
    way, begin, end = axes.lines
    np.testing.assert_allclose(way.get_xydata(), plane.project(path), atol=1e-9)
    np.testing.assert_allclose(begin.get_xydata(), plane.project(path[:1]), atol=1e-9)
    np.testing.assert_allclose(end.get_xydata(), plane.project(path[-1:]), atol=1e-9)

    def lead(rows):
        with torch.no_grad():
            scores = head(rows.float())
        return (scores[:, 2] - scores[:, :2].max(1).values).numpy()

    scale = np.abs(lead(plane.points(np.array([axes.get_xlim(), axes.get_ylim()]).T))).max()
    vertices = np.vstack(_boundaries(axes))
    assert np.abs(lead(plane.points(vertices))).max() < 0.02 * scale
    for point in (path[0], path[-1]):
        shown = plane.points(plane.project(point.unsqueeze(0)))
        np.testing.assert_allclose(lead(shown), lead(point.unsqueeze(0)), rtol=1e-3, atol=1e-4)
    assert axes.get_xlabel() == "distance from the original towards the mean of c"


def test_the_legend_says_what_is_there():
    features, labels = stored.clouds()
    density = ClassGaussianMixture().fit(features, labels)

    def entries(**arguments):
        (axes,) = plot_density(features, labels, density, **arguments).axes
        return [text.get_text() for text in axes.get_legend().get_texts()]

    assert entries() == ["50% and 95% of a class"]
    assert entries(classifier=density.log_probs)[1:] == ["decision boundary"]
    way = {"path": features[:2], "path_target": 1}
    assert entries(**way)[1:] == ["original", "counterfactual"]


def test_some_classes_can_be_chosen():
    features, labels = _many(classes=4)
    density = ClassGaussianMixture().fit(features, labels)
    (axes,) = plot_density(features, labels, density, classes=[3, 1]).axes
    assert [text.get_text() for text in axes.texts] == ["3", "1"]
    counts = [len(points.get_offsets()) for points in _points(axes)]
    assert counts == [int((labels == c).sum()) for c in (3, 1)]
    (axes,) = plot_density(features, labels, density, classes=[2]).axes
    assert len(axes.patches) == 2


def test_more_classes_than_colours_differ_in_their_markers():
    features, labels = _many(classes=20, count=200)
    density = ClassGaussianMixture("tied").fit(features, labels)
    (axes,) = plot_density(features, labels, density).axes
    looks = {
        (tuple(points.get_facecolor()[0][:3]), points.get_paths()[0].vertices.tobytes())
        for points in _points(axes)
    }
    assert len(looks) == 20


def test_a_class_that_the_density_never_saw_is_left_out():
    features, labels = stored.clouds()
    density = ClassGaussianMixture(num_classes=5).fit(features, labels)
    (axes,) = plot_density(features, labels, density, classifier=density.log_probs).axes
    assert [text.get_text() for text in axes.texts] == ["0", "1", "2"]
    assert len(_boundaries(axes)) >= 2


def test_a_mixture_from_sklearn_has_an_ellipse_per_component():
    features, labels = stored.clouds()
    mixture = GaussianMixture(4, random_state=0).fit(features.numpy())
    density = ClassGaussianMixture.from_sklearn(mixture, [0, 1, 1, 2])
    (axes,) = plot_density(features, labels, density).axes
    centres = np.array([patch.center for patch in axes.patches[::2]])
    np.testing.assert_allclose(centres, mixture.means_, atol=1e-9)
    assert [text.get_text() for text in axes.texts] == ["0", "1", "1", "2"]


def test_few_of_many_points_are_drawn_the_same_each_time():
    features, labels = stored.clouds()
    density = ClassGaussianMixture().fit(features, labels)
    drawn = [
        np.vstack(
            [
                p.get_offsets()
                for p in _points(plot_density(features, labels, density, max_points=40).axes[0])
            ]
        )
        for _ in range(2)
    ]
    assert len(drawn[0]) == 40
    np.testing.assert_array_equal(*drawn)
    assert {tuple(row) for row in drawn[0]} <= {tuple(row) for row in features.tolist()}


def test_the_classifier_is_run_in_eval_mode_and_left_as_it_was():
    features, labels = _many()
    density = ClassGaussianMixture().fit(features, labels)
    head = nn.Sequential(nn.Dropout(0.9), nn.Linear(6, 3))
    head.train()
    lines = [
        np.vstack(_boundaries(plot_density(features, labels, density, classifier=head).axes[0]))
        for _ in range(2)
    ]
    np.testing.assert_array_equal(*lines)
    assert head.training


def test_features_with_a_graph_are_drawn():
    features, labels = stored.clouds()
    density = ClassGaussianMixture().fit(features, labels)
    features.requires_grad_()
    (axes,) = plot_density(features, labels, density, path=features[:3], path_target=1).axes
    assert len(axes.lines) == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_features_on_a_gpu_are_drawn():
    features, labels = _many()
    density = ClassGaussianMixture().fit(features, labels)
    head = nn.Linear(6, 3)
    expected = plot_density(features, labels, density, classifier=head).axes[0]
    there = plot_density(
        features.cuda(), labels.cuda(), density.cuda(), classifier=head.cuda()
    ).axes[0]
    for ours, theirs in zip(_points(expected), _points(there), strict=True):
        np.testing.assert_allclose(ours.get_offsets(), theirs.get_offsets(), atol=1e-9)


FEATURES, LABELS = _many(classes=2)
DENSITY = ClassGaussianMixture(num_classes=3).fit(FEATURES, LABELS)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"features": FEATURES[:, :5]}, ValueError, r"features .*N x 6.*\(150, 5\)"),
        ({"features": FEATURES[:0]}, ValueError, r"features .*\(0, 6\)"),
        ({"features": FEATURES.unsqueeze(2)}, ValueError, r"features .*\(150, 6, 1\)"),
        ({"features": FEATURES.long()}, TypeError, r"features .*int64"),
        ({"features": FEATURES.numpy()}, TypeError, r"features .*ndarray"),
        ({"features": FEATURES * float("nan")}, ValueError, r"features .*finite"),
        ({"target": LABELS[:9]}, ValueError, r"target .*150"),
        ({"target": LABELS.float()}, TypeError, r"target .*float32"),
        ({"target": LABELS * 0 + 2}, ValueError, r"target holds none .*\[0, 1\]"),
        ({"density": FEATURES}, TypeError, r"density .*Tensor"),
        ({"density": ClassGaussianMixture()}, ValueError, r"density .*at least 2 .*none"),
        ({"path": FEATURES[:2]}, ValueError, "path and path_target"),
        ({"path_target": 1}, ValueError, "path and path_target"),
        ({"path": FEATURES[:2, :3], "path_target": 1}, ValueError, r"path .*\(2, 3\)"),
        ({"path": FEATURES[:2], "path_target": 2}, ValueError, r"path_target .*\[0, 1\]\), got 2"),
        ({"classes": []}, ValueError, r"classes .*\[0, 1\]\), got \[\]"),
        ({"classes": [0, 2]}, ValueError, r"classes .*got \[0, 2\]"),
        ({"class_names": ["a"]}, ValueError, "class_names"),
        ({"max_points": 0}, ValueError, "max_points"),
        ({"size": 0}, ValueError, "size"),
        ({"classifier": "fc"}, TypeError, "classifier"),
        ({"classifier": lambda z: z[:, 0]}, ValueError, "N x C"),
        (
            {
                "classifier": lambda z: z[:, :2],
                "path": FEATURES[:2],
                "path_target": 2,
                "density": ClassGaussianMixture().fit(FEATURES, torch.arange(150) % 3),
                "target": torch.arange(150) % 3,
            },
            ValueError,
            r"classifier must score class 2 .*got 2",
        ),
    ],
)
def test_what_does_not_fit_is_refused(arguments, error, words):
    given = {"features": FEATURES, "target": LABELS, "density": DENSITY, **arguments}
    with pytest.raises(error, match=words):
        plot_density(**given)


def test_one_feature_cannot_be_drawn():
    density = ClassGaussianMixture().fit(FEATURES[:, :1], LABELS)
    with pytest.raises(ValueError, match="at least 2 features to be drawn, got 1"):
        plot_density(FEATURES[:, :1], LABELS, density)


def test_the_picture_is_the_stored_one():
    figure = stored.density()
    assert_readable(figure)
    assert stored.distance(figure, "plot_density") < stored.TOLERANCE

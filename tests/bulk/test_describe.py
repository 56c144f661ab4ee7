from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

from captum_deduce import JSMA, ClassGaussianMixture, DeDUCE, Schut, spectral_normalize
from captum_deduce.bulk.describe import describe_explainer, differences, versions


def test_an_explainer_is_described_in_words_that_json_holds(small):
    described = describe_explainer(small.explainer)
    assert described["class"] == "captum_deduce.explainers.deduce.DeDUCE"
    assert described["layer"] == "2"
    assert described["step_size"] == 0.4
    assert described["density"].startswith("ClassGaussianMixture, fingerprint ")
    assert json.loads(json.dumps(described)) == described


def test_what_computes_the_same_is_described_the_same(small):
    again = copy.deepcopy(small.explainer)
    assert describe_explainer(again) == describe_explainer(small.explainer)


def changed_model(explainer):
    with torch.no_grad():
        next(explainer.forward_func.parameters()).mul_(1 + 1e-9)


def changed_density(explainer):
    explainer.density.partial_fit(torch.zeros(1, 12).double(), torch.zeros(1, dtype=torch.int64))


def changed_layer(explainer):
    explainer.layer = explainer.forward_func[1]


def changed_bound(explainer):
    explainer.upper_bound = torch.ones(1, 8, 8) * 1.5


def changed_search(explainer):
    explainer.optimize_model = False


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (changed_model, ["model"]),
        (changed_density, ["density"]),
        (changed_layer, ["layer"]),
        (changed_bound, ["upper_bound"]),
        (changed_search, ["optimize_model"]),
    ],
)
def test_whatever_changes_is_named(small, change, names):
    other = copy.deepcopy(small.explainer)
    change(other)
    found = differences(describe_explainer(small.explainer), describe_explainer(other))
    assert [line.split(":")[0] for line in found] == names


def test_ensembles_functions_and_normalised_models_are_told_apart():
    torch.manual_seed(0)
    members = [nn.Sequential(nn.Flatten(), nn.Linear(4, 3)) for _ in range(2)]
    described = [
        describe_explainer(explainer)
        for explainer in (
            Schut(members),
            Schut(members[::-1]),
            JSMA(members[0]),
            JSMA(lambda x: members[0](x)),
            JSMA(lambda x: members[1](x)),
            JSMA(spectral_normalize(copy.deepcopy(members[0]), example_input=torch.zeros(1, 4))),
        )
    ]
    assert len({one["model"] for one in described}) == len(described)


def test_small_bounds_are_written_out():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    bounds = torch.tensor([0.5, 0.25, 2.0]).view(3, 1, 1)
    described = describe_explainer(JSMA(model, upper_bound=bounds))
    assert described["upper_bound"] == [[[0.5]], [[0.25]], [[2.0]]]


def test_differences_name_both_values_and_what_only_one_has():
    before, now = {"a": 1, "b": {"c": [1, 2]}, "d": "x" * 200}, {"a": 1, "b": {"c": [1, 3]}}
    found = differences(before, now)
    assert found[0] == "b.c: [1, 2] there, [1, 3] now"
    assert found[1].startswith("d: 'xxx")
    assert found[1].endswith("... there, None now")
    assert differences(before, copy.deepcopy(before)) == []


def test_versions_name_what_results_depend_on():
    assert versions()["torch"] == torch.__version__
    assert {"captum_deduce", "captum", "python"} <= set(versions())


def test_a_density_alone_makes_the_difference(small):
    model = small.explainer.forward_func
    labels = torch.arange(500) % 10
    features = torch.randn(500, 12).double()
    densities = [
        ClassGaussianMixture("diag").fit(features, labels),
        ClassGaussianMixture("diag").fit(features + 1e-6, labels),
    ]
    described = [describe_explainer(DeDUCE(model, "2", density)) for density in densities]
    assert [line.split(":")[0] for line in differences(*described)] == ["density"]

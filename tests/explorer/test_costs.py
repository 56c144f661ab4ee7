from __future__ import annotations

import numpy as np
import pytest
import torch

from captum_deduce import JSMA
from captum_deduce.explorer.costs import Costs, Measurement


@pytest.fixture
def explainer(demo) -> JSMA:
    return JSMA(demo.checkpoint.model, max_iterations=12)


def test_what_is_found_out_is_what_each_image_costs_alone(collection, explainer):
    costs, rows = Costs(len(collection)), list(range(40))
    measurement = Measurement(costs, collection, "JSMA", explainer, rows)
    list(measurement.looks())
    assert measurement.error is None
    assert measurement.done == 40
    known, found = costs.of("JSMA"), []
    for row in rows:
        target = collection.default_target(row)
        result = explainer.generate(collection.images[row : row + 1], target)
        change = (result.counterfactuals - result.inputs).double().abs().sum()
        found.append(float(change) if result.success else np.inf)
    assert 0 < np.isinf(found).sum() < 40
    np.testing.assert_allclose(known[rows].numpy(), found, rtol=1e-5)
    assert known[40:].isnan().all()
    assert costs.unknown("JSMA", [50, 3, 41]) == [50, 41]


def test_costs_that_were_given_stand_for_explainers_of_which_nothing_was_found_out(
    collection, explainer
):
    given = torch.full((len(collection),), 2.0)
    given[5] = torch.nan
    costs = Costs(len(collection), given.tolist())
    assert costs.unknown("JSMA", range(10)) == [5]
    list(Measurement(costs, collection, "JSMA", explainer, [5]).looks())
    assert costs.of("JSMA").isnan().sum() == len(collection) - 1
    assert costs.of("DeDUCE")[0] == 2
    assert given[5].isnan()


def test_what_was_found_before_it_was_stopped_is_kept(collection, explainer):
    costs = Costs(len(collection))
    measurement = Measurement(costs, collection, "JSMA", explainer, range(len(collection)))
    looks = measurement.looks()
    while not measurement.done:
        next(looks)
    looks.close()
    assert measurement.wait(10)
    assert measurement.was_stopped
    known = costs.of("JSMA")
    assert not known[: measurement.done].isnan().any()
    assert known[measurement.done :].isnan().all()
    assert measurement.done < len(collection)


def test_another_number_of_costs_is_refused():
    with pytest.raises(ValueError, match=r"costs must hold one number per image \(2\)"):
        Costs(2, [1.0])

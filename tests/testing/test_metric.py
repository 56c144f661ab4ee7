import pytest
import torch
from torch import nn

from captum_deduce import ClassGaussianMixture, Counterfactuals
from captum_deduce.metrics import (
    COUT,
    Oracle,
    TargetDensity,
    ValidityUnderNoise,
)
from captum_deduce.testing import ContractError, check_metric, descriptions, metric_checks
from captum_deduce.testing.metric import METRIC_CHECKS


def target_density(model, measure="log_density"):
    samples = [(model.training_images, model.training_labels)]
    density = ClassGaussianMixture.fit_loader(
        model, model.features, samples, covariance_type="tied"
    )
    return TargetDensity(model, model.features, density, measure)


METRICS = {
    "L0": lambda model: Counterfactuals.l0,
    "L1": lambda model: Counterfactuals.l1,
    "L2": lambda model: Counterfactuals.l2,
    "Linf": lambda model: Counterfactuals.linf,
    "sites": lambda model: Counterfactuals.sites,
    "COUT": COUT,
    "Oracle": Oracle,
    "Oracle, probability": lambda model: Oracle([model, model], measure="probability"),
    "TargetDensity": target_density,
    "TargetDensity, quantile": lambda model: target_density(model, "quantile"),
    "ValidityUnderNoise": lambda model: ValidityUnderNoise(model, samples=20),
}


@pytest.mark.parametrize("name", METRICS)
def test_this_packages_own_metrics_keep_the_contract(name):
    outcomes = check_metric(METRICS[name])
    assert {outcome.name for outcome in outcomes if outcome.status != "passed"} <= {"gpu"}


def of_distance(change):
    return lambda model: lambda result: change(result.l1(), result)


class Training(nn.Module):
    """Leaves the model in eval mode."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def __call__(self, result):
        with torch.no_grad():
            return self.model.eval()(result.counterfactuals).amax(1)


def changing(result):
    result.counterfactuals.mul_(0.5)
    return result.l1()


def of_grey(result):
    if result.inputs.shape[1] > 1:
        raise ValueError("one channel only")
    return result.l1()


def once(model):
    calls = []

    def metric(result):
        calls.append(result)
        return result.l1() * len(calls)

    return metric


BROKEN = {
    "a_number_per_pair": (of_distance(lambda l1, result: l1.mean()), "found shape of values ()"),
    "pairs_alone": (of_distance(lambda l1, result: l1 / l1.max()), "found a pair alone that"),
    "nothing_changed": (of_distance(lambda l1, result: l1 / l1), "found [nan"),
    "same_each_time": (
        of_distance(lambda l1, result: l1 * torch.rand(())),
        "found values of a second call that differ",
    ),
    "result_stays": (lambda model: changing, "found counterfactuals that differ"),
    "no_gradient": (
        lambda model: lambda result: model(result.counterfactuals).amax(1),
        "found values that require a gradient",
    ),
    "model_is_left_as_it_was": (Training, "modules in eval mode"),
    "single_precision": (
        of_distance(lambda l1, result: l1 * (1 + (l1.dtype == torch.float32))),
        "expected about",
    ),
    "colour": (lambda model: of_grey, "raised ValueError: one channel only"),
    "evaluate": (once, "found"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_metric_is_caught(name):
    make_metric, message = BROKEN[name]
    with pytest.raises(ContractError) as caught:
        dict(metric_checks(make_metric))[name]()
    assert str(caught.value).startswith(f"{name}: ")
    assert message in str(caught.value)


def test_every_check_but_that_of_a_gpu_has_a_broken_metric():
    assert set(descriptions(METRIC_CHECKS)) - set(BROKEN) == {"gpu"}


def test_what_is_no_factory_is_refused():
    with pytest.raises(TypeError, match=r"make_metric must be a class or a function .* got str"):
        check_metric("L0")

import pytest
import torch

from captum_deduce import ClassGaussianMixture
from captum_deduce.density import COVARIANCE_TYPES
from captum_deduce.testing import ContractError, check_density, density_checks, descriptions
from captum_deduce.testing.density import DENSITY_CHECKS


@pytest.mark.parametrize("covariance_type", ["auto", *COVARIANCE_TYPES])
def test_this_packages_own_density_keeps_the_contract(covariance_type):
    outcomes = check_density(lambda: ClassGaussianMixture(covariance_type))
    assert {outcome.status for outcome in outcomes} == {"passed"}


class Gaussian(ClassGaussianMixture):
    def __init__(self):
        super().__init__("diag")


class Returning(Gaussian):
    def fit(self, features, target):
        super().fit(features, target)


class Unnormalised(Gaussian):
    def log_prob(self, features, target):
        return super().log_prob(features, target) + 1


class Indifferent(Gaussian):
    """Knows one class only."""

    def log_prob(self, features, target):
        return super().log_prob(features, 0)


class Adding(Gaussian):
    """Fits go on where the last ended."""

    def fit(self, features, target):
        return self.partial_fit(features, target)


class Forgetful(Gaussian):
    """Leaves out what comes alone."""

    def partial_fit(self, features, target):
        return self if len(features) == 1 else super().partial_fit(features, target)


class Coupled(Gaussian):
    def log_prob(self, features, target):
        return super().log_prob(features, target) + features.sum() * 1e-3


class Picky(Gaussian):
    def log_prob(self, features, target):
        if isinstance(target, list):
            raise TypeError("no lists")
        return super().log_prob(features, target)


class Detached(Gaussian):
    def log_prob(self, features, target):
        return super().log_prob(features, target).detach()


class WrongSlope(Gaussian):
    def log_prob(self, features, target):
        values = super().log_prob(features, target)
        return values.detach() + 2 * (values - values.detach())


class Single(Gaussian):
    def log_prob(self, features, target):
        if features.dtype == torch.float32:
            raise RuntimeError("mat1 and mat2")
        return super().log_prob(features, target)


class Undefined(Gaussian):
    def log_prob(self, features, target):
        values = super().log_prob(features, target)
        return torch.where(values < -1e6, torch.nan, values)


class Broadcasting(Gaussian):
    def log_prob(self, features, target):
        return super().log_prob(features[:, :2], target)


class Trusting(Gaussian):
    """Cleans what it is given instead of refusing it."""

    def partial_fit(self, features, target):
        return super().partial_fit(features.nan_to_num(), target)


class Eager(Gaussian):
    def log_prob(self, features, target):
        if not self.num_classes:
            return features.new_zeros(len(features))
        return super().log_prob(features, target)


class Guessing(Gaussian):
    def log_prob(self, features, target):
        try:
            return super().log_prob(features, target)
        except ValueError:
            return features.new_zeros(len(features))


class Shared(Gaussian):
    def __deepcopy__(self, memo):
        return self


class Empty(Gaussian):
    @classmethod
    def load(cls, path, device="cpu"):
        return cls().fit(torch.randn(60, 2), torch.arange(60) % 3)


class OneAtATime(Gaussian):
    busy = False

    def log_prob(self, features, target):
        if type(self).busy:
            raise RuntimeError("busy")
        type(self).busy = True
        for _ in range(300):
            values = super().log_prob(features, target)
        type(self).busy = False
        return values


BROKEN = {
    "fit": (Returning, "found another object from fit"),
    "integral": (Unnormalised, "found an integral of 2.7"),
    "own_class": (Indifferent, "found 0% likelier under their own class"),
    "order_of_samples": (Adding, "found log-densities of a new fit that differ"),
    "partial_fits": (Forgetful, "found log-densities that differ"),
    "batch_mates": (Coupled, "found a row alone that differ"),
    "target_forms": (Picky, "raised TypeError: no lists"),
    "gradient": (WrongSlope, "found slope along feature 0 that differ"),
    "precision_and_layout": (Single, "raised RuntimeError"),
    "far_features": (Undefined, "found [nan]"),
    "refused_features": (Broadcasting, "found no error for 3 features instead of 2"),
    "refused_samples": (Trusting, "found no error for NaN"),
    "unfitted": (Eager, "found no error for log_prob before fit"),
    "classes_without_samples": (Guessing, "found no error for a class without samples"),
    "copies": (Shared, "found log-densities of the copy that differ"),
    "files": (Empty, "found log-densities of the file that differ"),
    "threads": (OneAtATime, "found RuntimeError: busy"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_density_is_caught(name):
    make_density, message = BROKEN[name]
    with pytest.raises(ContractError) as caught:
        dict(density_checks(make_density))[name]()
    assert str(caught.value).startswith(f"{name}: ")
    assert message in str(caught.value)


def test_a_density_without_a_gradient_is_caught():
    with pytest.raises(ContractError, match="found log-densities without a graph"):
        dict(density_checks(Detached))["gradient"]()


def test_every_check_has_a_broken_density():
    assert set(descriptions(DENSITY_CHECKS)) == set(BROKEN)


def test_what_is_no_factory_is_refused():
    with pytest.raises(TypeError, match=r"make_density must be a class or a function .* got int"):
        check_density(3)

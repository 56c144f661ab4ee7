"""IM1 and IM2 against their formulas, image by image, and what they say of real digits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from captum_deduce.metrics import IM1, IM2
from tests import reference
from tests.autoencoders import PrincipalComponents
from tests.conftest import Digits
from tests.visualization.samples import make_result


@pytest.fixture
def autoencoders(digits: Digits) -> list[PrincipalComponents]:
    return [
        PrincipalComponents(digits.train_images[digits.train_labels == c], count=8)
        for c in range(10)
    ]


@pytest.fixture
def whole(digits: Digits) -> PrincipalComponents:
    return PrincipalComponents(digits.train_images, count=8)


def reconstructed(autoencoder: nn.Module, image: Tensor) -> np.ndarray:
    with torch.no_grad():
        return autoencoder(image.unsqueeze(0))[0].numpy()


@pytest.mark.parametrize("batch_size", [1, 4, 500])
def test_both_are_their_formulas(digits, autoencoders, whole, batch_size):
    images = digits.images[:17]
    target, original = (torch.arange(17) * 3) % 7, torch.arange(17) % 10
    settings = {"epsilon": 0.03, "batch_size": batch_size}
    ratios = IM1(autoencoders, **settings).ratio(images, target, original)
    differences = IM2(autoencoders, whole, **settings).difference(images, target)
    for i, image in enumerate(images):
        of_target, of_original, of_all = (
            reconstructed(autoencoder, image)
            for autoencoder in (autoencoders[target[i]], autoencoders[original[i]], whole)
        )
        expected = reference.im1(image.numpy(), of_target, of_original, 0.03)
        assert ratios[i].item() == pytest.approx(expected, rel=1e-10)
        expected = reference.im2(image.numpy(), of_target, of_all, 0.03)
        assert differences[i].item() == pytest.approx(expected, rel=1e-10)


def test_a_call_takes_the_prediction_of_the_original_as_its_class(digits, autoencoders, whole):
    inputs, changed = digits.images[:10], digits.images[10:20]
    target, prediction = [*range(10)], [9, 9, 9, 9, 9, 0, 0, 0, 0, 0]
    result = make_result(inputs, changed, target=target, prediction=prediction)
    im1, im2 = IM1(autoencoders), IM2(autoencoders, whole)
    assert torch.equal(im1(result), im1.ratio(changed, target, prediction))
    assert torch.equal(im2(result), im2.difference(changed, target))


def test_an_image_is_better_known_to_its_own_class(digits, autoencoders, whole):
    """Digits that no autoencoder has seen: IM1 is below 1 for nearly all, IM2 lower than else."""
    own, other = digits.labels, (digits.labels + 1) % 10
    assert (IM1(autoencoders).ratio(digits.images, own, other) < 1).double().mean() > 0.95
    im2 = IM2(autoencoders, whole)
    as_own, as_other = (im2.difference(digits.images, c) for c in (own, other))
    assert (as_own < as_other).double().mean() > 0.8


def test_degenerate_images_have_finite_values(autoencoders, whole):
    black = torch.zeros(2, 1, 8, 8, dtype=torch.float64)
    assert torch.isfinite(IM2(autoencoders, whole).difference(black, [0, 1])).all()
    perfect = IM1([nn.Identity(), nn.Identity()])
    assert perfect.ratio(black, 0, 1).tolist() == [0.0, 0.0]


def test_autoencoders_are_left_as_found():
    images = torch.rand(6, 2, 4, 4)
    noisy = [nn.Sequential(nn.BatchNorm2d(2), nn.Dropout()) for _ in range(3)]
    noisy[1].eval()
    twice = [IM2(noisy, noisy[2]).difference(images, torch.arange(6) % 3) for _ in range(2)]
    assert torch.equal(*twice)
    assert [model[1].training for model in noisy] == [True, False, True]
    assert torch.equal(noisy[0][0].running_mean, torch.zeros(2))


def test_what_does_not_fit_is_refused(digits, autoencoders, whole):
    images = digits.images[:4]
    with pytest.raises(ValueError, match=r"^original must lie in 0 \.\.\. 9 .*got 12"):
        IM1(autoencoders).ratio(images, 1, 12)
    with pytest.raises(ValueError, match=r"^target must be one class for all .*\(4\).*\(3,\)"):
        IM2(autoencoders, whole).difference(images, [1, 2, 3])
    with pytest.raises(ValueError, match=r"autoencoders\[1\]: .*\(4, 1, 8, 8\), got \(4, 64\)"):
        IM1([whole, nn.Flatten()]).ratio(images, 1, 0)
    with pytest.raises(ValueError, match=r"^autoencoder: .*\(4, 1, 8, 8\), got \(4, 64\)"):
        IM2(autoencoders, nn.Flatten()).difference(images, 1)
    with pytest.raises(TypeError, match="a list with one autoencoder per class, got Principal"):
        IM1(whole)
    with pytest.raises(ValueError, match="one autoencoder per class, got 1"):
        IM1([whole])
    with pytest.raises(TypeError, match=r"autoencoders\[1\] must be .*got str"):
        IM2([whole, "vae"], whole)
    with pytest.raises(ValueError, match="epsilon must be a finite number"):
        IM1(autoencoders, epsilon=-1)

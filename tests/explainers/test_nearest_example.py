"""NearestExample against a search through all examples, one image at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from captum_deduce import NearestExample
from captum_deduce.prototypes import Examples
from tests import reference_siblings as reference
from tests.autoencoders import PrincipalComponents
from tests.conftest import Digits


def pairs_of(digits: Digits, count: int) -> tuple[Tensor, Tensor]:
    images = digits.images[:count].clone()
    with torch.no_grad():
        predicted = digits.model(images).argmax(1)
    return images, (predicted + 1 + torch.arange(count) % 9) % 10


@pytest.fixture
def examples(digits) -> Examples:
    return Examples(digits.train_images, digits.train_labels)


@pytest.mark.parametrize("confidence", [0.5, 0.97])
@pytest.mark.parametrize("encoded", [False, True])
def test_equals_the_naive_form(digits, encoded, confidence):
    images, target = pairs_of(digits, 12)
    encoder = PrincipalComponents(digits.train_images, 5).encoder if encoded else None
    with torch.no_grad():
        features = None if encoder is None else encoder(digits.train_images)
    examples = Examples(digits.train_images, digits.train_labels, features)
    explainer = NearestExample(digits.model, examples, encoder, confidence=confidence)
    result = explainer.generate(images, target, internal_batch_size=5)

    def probabilities(image):
        with torch.no_grad():
            return digits.model(torch.from_numpy(image).unsqueeze(0))[0].softmax(0).numpy()

    def features_of(image):
        if encoder is None:
            return image.ravel()
        with torch.no_grad():
            return encoder(torch.from_numpy(image).unsqueeze(0))[0].numpy()

    for i, image in enumerate(images):
        expected, success, tried = reference.nearest_example(
            image.numpy(),
            int(target[i]),
            digits.train_images.numpy(),
            digits.train_labels.numpy(),
            probabilities,
            features_of,
            confidence=confidence,
        )
        np.testing.assert_array_equal(result.counterfactuals[i].numpy(), expected)
        assert result.success[i].item() == success
        assert result.iterations[i] == tried
        assert result.evaluations[i] == 0
        assert result.forward_evaluations[i] == tried + 1


def test_the_nearest_alone_whatever_the_classifier_says(digits, examples):
    images, target = pairs_of(digits, 9)
    result = NearestExample(digits.model, examples, max_iterations=1).generate(images, target)
    with torch.no_grad():
        p = digits.model(result.counterfactuals).softmax(1)[torch.arange(9), target]
    assert torch.equal(result.success, p > 0.5)


def test_a_semi_factual_is_of_the_same_class_and_near_another(digits, examples):
    images = digits.images[:8]
    explainer = NearestExample(digits.model, examples)
    result = explainer.semi_factual(images)
    assert result.success.all()
    assert torch.equal(result.target, result.prediction)
    with torch.no_grad():
        own = digits.model(images).argmax(1)
        assert torch.equal(digits.model(result.counterfactuals).argmax(1), own)
    assert torch.equal(result.prediction, own)
    rows, labels = digits.train_images.flatten(1), digits.train_labels
    for image, found, c in zip(images, result.counterfactuals, own, strict=True):
        unlike = rows[labels != c]
        nearest = unlike[(unlike - image.flatten()).norm(dim=1).argmin()]
        same = rows[labels == c]
        order = (same - nearest).norm(dim=1).argsort()
        assert any(torch.equal(found.flatten(), same[place]) for place in order[:10])
        far = (found.flatten() - nearest).norm()
        assert far < (image.flatten() - nearest).norm() + 1.5


def test_runner_ups_are_classes_that_have_examples(digits):
    some = digits.train_labels < 4
    explainer = NearestExample(
        digits.model, Examples(digits.train_images[some], digits.train_labels[some])
    )
    result = explainer.generate(digits.images[:8])
    assert (result.target < 4).all()
    assert (result.target != result.prediction).all()
    with pytest.raises(ValueError, match="target must be a class of the examples, got 7"):
        explainer.generate(digits.images[:2], 7)


def test_what_is_refused(digits, examples):
    encoder = PrincipalComponents(digits.train_images, 5).encoder
    with pytest.raises(TypeError, match="examples must be Examples, got Tensor"):
        NearestExample(digits.model, digits.train_images)
    with pytest.raises(ValueError, match=r"encoder must be .* by pixels\) has none"):
        NearestExample(digits.model, examples, encoder)
    featured = Examples(digits.train_images, digits.train_labels, torch.zeros(1200, 5))
    with pytest.raises(ValueError, match=r"encoder must be .* by 5 features\) needs one"):
        NearestExample(digits.model, featured)
    with pytest.raises(ValueError, match="max_iterations must be a finite number"):
        NearestExample(digits.model, examples, max_iterations=0)
    with pytest.raises(ValueError, match=r"examples must be images like the inputs, \(1, 9, 9\)"):
        NearestExample(nn.Sequential(nn.Flatten(), nn.Linear(81, 10)), examples).generate(
            torch.rand(2, 1, 9, 9), 3
        )
    few = Examples(torch.rand(2, 1, 8, 8).double(), torch.tensor([3, 12]))
    with pytest.raises(ValueError, match="examples are of classes up to 12, but the model has 10"):
        NearestExample(digits.model, few).generate(digits.images[:2], 3)
    one = Examples(digits.train_images[:3], torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"examples must be of two classes at least, got only \[0"):
        NearestExample(digits.model, one).semi_factual(digits.images[:2])

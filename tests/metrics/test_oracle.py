"""Oracles against their scores one image at a time, and on the published images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from captum_deduce.datasets import load_mnist
from captum_deduce.metrics import Oracle, evaluate
from captum_deduce.training.classifiers import accuracy, train_classifier
from tests.published import published_results
from tests.visualization.samples import make_result


def classifier(seed: int, classes: int = 4) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, classes)
    ).double()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(23, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


TARGET = torch.arange(23) % 4


def probabilities(model: nn.Module, image: Tensor) -> np.ndarray:
    with torch.no_grad():
        scores = model(image.unsqueeze(0))[0].numpy()
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 7, 500])
def test_both_measures_are_means_over_the_classifiers(images, count, batch_size):
    models = [classifier(seed) for seed in range(count)]
    oracle = Oracle(models, batch_size=batch_size)
    agreement, probability = oracle.agreement(images, TARGET), oracle.probability(images, TARGET)
    assert all(module.training for model in models for module in model.modules())
    for model in models:
        model.eval()
    for i, target in enumerate(TARGET.tolist()):
        single = [probabilities(model, images[i]) for model in models]
        assert agreement[i].item() == pytest.approx(np.mean([p.argmax() == target for p in single]))
        assert probability[i].item() == pytest.approx(np.mean([p[target] for p in single]))
    assert 0 < agreement.mean() < 1


def test_a_call_judges_counterfactuals_and_not_originals(images):
    result = make_result(images, images.flip(0), target=TARGET.tolist())
    models = nn.ModuleList([classifier(0), classifier(1)])
    for measure in ("agreement", "probability"):
        oracle = Oracle(models, measure)
        expected = getattr(oracle, measure)(images.flip(0), TARGET)
        assert torch.equal(oracle(result), expected)
        assert not torch.equal(expected, getattr(oracle, measure)(images, TARGET))


def test_one_classifier_needs_no_list_and_may_have_another_dtype(images):
    model = classifier(0)
    expected = Oracle([model]).probability(images, 2)
    assert torch.equal(Oracle(model).probability(images, 2), expected)
    single = Oracle(lambda x: model(x.double()).float()).probability(images.float(), 2)
    torch.testing.assert_close(single, expected.float(), rtol=1e-4, atol=1e-5)
    mixed = Oracle([model, classifier(1).float()]).probability(images, 2)
    assert mixed.dtype == torch.float64


def test_what_does_not_fit_is_refused(images):
    four, five = classifier(0), classifier(1, classes=5)
    with pytest.raises(ValueError, match=r"4 classes each, as models\[0\] has.*models\[1\] has 5"):
        Oracle([four, five]).agreement(images, TARGET)
    with pytest.raises(
        ValueError, match=r"models must have 10 classes each, but models\[0\] has 4"
    ):
        Oracle(four, num_classes=10).probability(images, TARGET)
    with pytest.raises(ValueError, match=r"target must lie in 0 \.\.\. 3 .*got 7"):
        Oracle(four).agreement(images, 7)
    with pytest.raises(ValueError, match=r"models\[1\]: .*probabilities"):
        Oracle([four, lambda x: four(x).softmax(1)]).agreement(images, TARGET)
    with pytest.raises(TypeError, match=r"models\[0\]: .*must return a tensor"):
        Oracle(lambda x: [four(x)]).agreement(images, TARGET)
    with pytest.raises(ValueError, match="NaN or infinite values in image"):
        Oracle(four).agreement(images / 0, TARGET)
    with pytest.raises(ValueError, match="at least one classifier"):
        Oracle([])
    with pytest.raises(TypeError, match=r"models\[1\] must be an nn.Module or a function"):
        Oracle([four, "resnet18"])
    with pytest.raises(ValueError, match="measure must be one of 'agreement', 'probability'"):
        Oracle(four, "accuracy")


def small_cnn() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * 49, 10)),
    )


@pytest.mark.slow
def test_most_published_pixelwise_images_are_adversarial():
    """Two CNNs of 98% that were trained elsewhere see the target in .2% of DeDUCE's images, .7% of
    JSMA's, 25% of VLK's and 21% of REVISE's; mean probabilities .018, .030, .275, .206.
    """
    results = published_results()
    try:
        splits = load_mnist()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    models = []
    for seed in range(2):
        torch.manual_seed(seed)
        model = small_cnn()
        train_classifier(model, splits.train, epochs=1, learning_rate=0.05, seed=seed)
        assert accuracy(model, splits.test) > 0.975
        models.append(model)
    table = evaluate(
        results,
        {"agreement": Oracle(models), "probability": Oracle(models, "probability")},
        pairs="own",
    )
    for metric, pixelwise in (("agreement", 0.02), ("probability", 0.05)):
        share = {name: table[name, metric].mean for name in results}
        assert share["DeDUCE"] < share["JSMA"] < pixelwise
        for name in ("VLK", "REVISE"):
            assert 0.1 < share[name] < 0.4
    for test in table.paired_tests():
        adversarial = {test.first, test.second} & {"DeDUCE", "JSMA"}
        if len(adversarial) == 1 and test.metric != "failure rate":
            assert test.t_pvalue is not None
            assert max(test.t_pvalue, test.wilcoxon_pvalue) < 1e-6

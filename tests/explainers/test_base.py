"""What the shared face does by itself; test_every_explainer.py holds each explainer to it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from captum_deduce import JSMA, REVISE, VLK, Wachter, search
from captum_deduce.explainers.base import CounterfactualExplainer
from captum_deduce.models import VAE
from captum_deduce.search.problem import Problem, confidence_of


class Halfway(search.Procedure):
    """Moves halfway to white in one step, whatever the model says."""

    max_iterations = 1

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    def start(self, pairs: list[int]) -> search.State:
        rows = self.problem.rows(pairs)
        return {**rows, "images": rows["original"].clone()}

    def evaluate(self, state: search.State, pairs: list[int]) -> search.Evaluation:
        scores, _ = self.problem.forward(state["images"], state)
        prediction = scores.argmax(1)
        reached = prediction == state["target"]
        return search.Evaluation(
            state["images"],
            confidence_of(scores, state["target"]),
            reached,
            reached,
            prediction,
            torch.zeros_like(state["images"]),
        )

    def step(self, state: search.State, evaluation: search.Evaluation) -> Tensor:
        state["images"] = (state["images"] + self.problem.upper) / 2
        return torch.zeros_like(evaluation.success)


class ToWhite(CounterfactualExplainer):
    """The least that makes an explainer."""

    def __init__(self, forward_func, *, lower_bound=0.0, upper_bound=1.0) -> None:
        super().__init__(forward_func)
        self.lower_bound, self.upper_bound = lower_bound, upper_bound

    def _check_settings(self) -> None:
        if self.upper_bound == 13:
            raise ValueError("upper_bound must not be 13")

    def _procedure(self, problem: Problem) -> search.Procedure:
        return Halfway(problem)


def brightness(images: Tensor) -> Tensor:
    """Class 1 where the mean is above .4."""
    mean = images.flatten(1).mean(1)
    return torch.stack([torch.zeros_like(mean) + 0.4, mean], 1) * 10


def test_a_few_lines_make_an_explainer():
    explainer = ToWhite(brightness)
    result = explainer.generate(torch.zeros(2, 1, 2, 2), target=[1, 0])
    assert result.success.tolist() == [True, True]
    assert result.counterfactuals[0].flatten().tolist() == [0.5] * 4
    assert result.iterations.tolist() == [1, 0]
    assert explainer.attribute(torch.zeros(1, 1, 2, 2), 1).sum() == 2
    assert explainer.get_name() == "ToWhite"


def test_it_is_named_with_the_settings_that_are_not_its_defaults():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    assert repr(Wachter(model)) == "Wachter()"
    explainer = Wachter(model, distance="l2", lower_bound=torch.zeros(1), upper_bound=1)
    assert repr(explainer) == "Wachter(distance='l2', lower_bound=<Tensor of shape (1,)>)"
    assert repr(Wachter(model, upper_bound=np.ones((3, 1, 1)))) == (
        "Wachter(upper_bound=<ndarray of shape (3, 1, 1)>)"
    )
    assert repr(REVISE(model, VAE(latent_size=2))) == "REVISE()"


def test_a_subclass_that_stores_a_setting_elsewhere_is_named_without_it():
    class Other(ToWhite):
        def __init__(self, forward_func, *, steps=3):
            super().__init__(forward_func)
            self._steps = steps

    assert repr(Other(brightness, steps=4)) == "Other()"


@pytest.mark.parametrize("shape", [(1, 5, 5), (5, 5)])
def test_an_image_without_a_batch_dimension_is_told_what_to_add(shape):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(18, 3))
    for network in (model, MeanOfConvolution()):
        with pytest.raises(ValueError, match=r"takes as one image, \(.*5, 5\); .*unsqueeze\(0\)"):
            JSMA(network).generate(torch.rand(shape), target=1)


class MeanOfConvolution(nn.Module):
    """Fails on an image without a batch dimension with an IndexError."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 3, 3)

    def forward(self, images):
        return self.convolution(images).mean([2, 3])


def test_rows_of_numbers_are_explained_and_their_models_errors_are_their_own():
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    assert len(JSMA(model).generate(torch.rand(2, 5), target=1)) == 2
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        JSMA(model).generate(torch.rand(2, 6), target=1)
    one_logit = nn.Linear(5, 1)
    with pytest.raises(ValueError, match="with C at least 2, got shape"):
        JSMA(one_logit).generate(torch.rand(2, 5), target=0)


def test_an_error_of_the_model_is_its_own_where_inputs_are_a_batch():
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(18, 3))
    with pytest.raises(RuntimeError, match="to have 3 channels"):
        JSMA(model).generate(torch.rand(2, 1, 5, 5), target=1)


def test_overrides_are_checked_and_leave_the_explainer_as_it_was():
    explainer = ToWhite(brightness)
    doubled = explainer.generate(torch.zeros(1, 1, 2, 2), 1, upper_bound=2.0)
    assert doubled.counterfactuals.max() == 1.0
    assert explainer.upper_bound == 1.0
    with pytest.raises(ValueError, match="must not be 13"):
        explainer.generate(torch.zeros(1, 1, 2, 2), 1, upper_bound=13)
    with pytest.raises(
        TypeError, match=r"ToWhite has no argument confidence, steps; .*lower_bound"
    ):
        explainer.perturb(torch.zeros(1, 1, 2, 2), 1, steps=3, confidence=0.5)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_arguments_with_a_row_per_image_go_with_it_and_others_to_all(count):
    seen: list[tuple[int, tuple[int, ...], float]] = []

    def model(images: Tensor, offset: Tensor, weights: Tensor, scale: float) -> Tensor:
        seen.append((len(offset), tuple(weights.shape), scale))
        return brightness(images + offset.view(-1, 1, 1, 1) * 0) * scale + weights.sum() * 0

    ToWhite(model).generate(
        torch.zeros(count, 1, 2, 2),
        1,
        additional_forward_args=(torch.arange(count).float(), torch.ones(7, 3), 2.0),
        internal_batch_size=2,
    )
    assert all(shape == (7, 3) and scale == 2.0 for _, shape, scale in seen)
    assert max(rows for rows, _, _ in seen) <= 2


def test_the_runner_up_is_found_in_batches():
    scores = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, -1.0], [1.0, 2.0, 3.0]])
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 3, bias=False))
    nn.init.eye_(model[1].weight)
    images = scores.view(3, 1, 1, 3)
    explainer = JSMA(model, lower_bound=-5.0, upper_bound=6.0)
    for size in (None, 1, 2):
        result = explainer.generate(images, internal_batch_size=size)
        assert result.target.tolist() == [2, 0, 1]
        assert result.forward_evaluations.tolist() == [1, 1, 1]
    assert explainer.generate(images, 0).forward_evaluations.tolist() == [0, 0, 0]


def test_inputs_on_another_device_than_the_model_are_refused():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, device="meta"))
    message = r"inputs are torch.float32 on cpu, but the model's parameters are .* on meta"
    with pytest.raises(ValueError, match=message):
        JSMA(model).generate(torch.zeros(1, 1, 2, 2), 1)


class Shy(nn.Module):
    """Says nothing of bright images."""

    def __init__(self, says: float) -> None:
        super().__init__()
        self.says = says
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))

    def forward(self, inputs):
        bright = (inputs.mean((1, 2, 3)) > 0.9)[:, None]
        return torch.where(bright, self.says, self.net(inputs))


@pytest.mark.parametrize("method", [JSMA, Wachter, VLK])
@pytest.mark.parametrize("says", [float("nan"), -float("inf")])
def test_images_without_scores_are_warned_of_where_the_user_called(method, says):
    torch.manual_seed(0)
    images = torch.rand(7, 1, 4, 4) * 0.5
    images[[3, 6]] = 0.95
    explainer = method(Shy(says))
    with pytest.warns(UserWarning, match=r"NaN or infinite scores for inputs 3, 6: ") as caught:
        result = explainer.generate(images, 1, internal_batch_size=2, max_iterations=9)
    assert caught[0].filename == __file__
    assert not result.success[[3, 6]].any()
    with pytest.raises(ValueError, match=r"target must be given where .* NaN, as for inputs 3, 6"):
        JSMA(Shy(float("nan"))).generate(images)


def convolutional() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(144, 3)
    )
    model[1].running_mean.normal_()
    return model.double().eval()


class Counting(nn.Sequential):
    calls = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(inputs)


def test_a_copy_is_searched_unless_that_is_switched_off():
    images = torch.rand(4, 1, 8, 8, dtype=torch.float64)
    model = Counting(*convolutional())
    explainer = JSMA(model)
    quick = explainer.generate(images, 1)
    calls = model.calls
    explainer.optimize_model = False
    plain = explainer.generate(images, 1, confidence=explainer.confidence)
    assert model.calls - calls > calls  # the probe, and every evaluation
    assert torch.equal(quick.counterfactuals, plain.counterfactuals)
    torch.testing.assert_close(quick.confidence, plain.confidence)
    explainer.optimize_model = 1
    with pytest.raises(TypeError, match="optimize_model"):
        explainer.generate(images, 1)


def test_the_runner_up_is_found_where_memory_is_short():
    model, sizes = convolutional(), []

    def small(images: Tensor) -> Tensor:
        sizes.append(len(images))
        if len(images) > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return model(images)

    images = torch.rand(7, 1, 8, 8, dtype=torch.float64)
    expected = model(images).topk(2).indices[:, 1]
    with pytest.warns(UserWarning, match="internal_batch_size=4") as told:
        result = JSMA(small).generate(images, max_iterations=0)
    assert torch.equal(result.target, expected)
    assert told[0].filename == __file__
    assert sizes[sizes.index(7) :][:5] == [7, 4, 2, 2, 2]

"""The contract that every public explainer keeps, most of it run through Captum's own tools."""

from __future__ import annotations

import copy
import functools
import pickle
import threading
import warnings
from collections.abc import Callable
from unittest import mock

import numpy as np
import pytest
import torch
from captum.attr import NoiseTunnel
from captum.attr import visualization as captum_visualization
from captum.metrics import infidelity, infidelity_perturb_func_decorator, sensitivity_max
from captum.robust import AttackComparator, MinParamPerturbation
from torch import Tensor, nn

from captum_deduce import (
    CEM,
    JSMA,
    PIECE,
    REVISE,
    VLK,
    ClassHurdles,
    CounterfactualExplainer,
    Counterfactuals,
    DeDUCE,
    LatentShift,
    NearestExample,
    PatchSwap,
    PrototypeIndex,
    Schut,
    Wachter,
    explainers,
)
from captum_deduce.prototypes import Examples
from tests.autoencoders import PrincipalComponents
from tests.conftest import Digits

Builder = Callable[[Digits], CounterfactualExplainer]


def short_vlk(digits: Digits) -> VLK:
    """Settings under which it finds every target in few steps, and is not chaotic."""
    dtype = next(digits.model.parameters()).dtype
    images = digits.train_images.to(dtype)
    autoencoder = PrincipalComponents(images)
    prototypes = PrototypeIndex.from_loader(digits.model, autoencoder.encoder, [images])
    return VLK(
        digits.model,
        autoencoder,
        autoencoder.encoder,
        prototypes,
        beta=0.01,
        gamma=1.0,
        theta=10.0,
        max_iterations=30,
    )


def short_revise(digits: Digits) -> REVISE:
    """Adam in the space of principal components, which finds every target in few steps."""
    autoencoder = PrincipalComponents(digits.train_images.to(digits.model[7].weight.dtype))
    return REVISE(
        digits.model,
        autoencoder.decoder,
        encoder=autoencoder.encoder,
        optimizer="adam",
        distance_weight=0.1,
        max_iterations=300,
    )


def short_cem(digits: Digits) -> CEM:
    """Few steps, of which the first are long."""
    return CEM(
        digits.model,
        baseline=0.0,
        c_steps=3,
        max_iterations=30,
        beta=0.01,
        learning_rate_init=0.05,
    )


def latent_shift(digits: Digits) -> LatentShift:
    autoencoder = PrincipalComponents(digits.train_images.to(digits.model[7].weight.dtype))
    return LatentShift(digits.model, autoencoder.decoder, encoder=autoencoder.encoder)


def nearest_example(digits: Digits) -> NearestExample:
    examples = Examples(digits.train_images, digits.train_labels)
    return NearestExample(digits.model, examples, max_iterations=30)


def short_piece(digits: Digits) -> PIECE:
    """In the space of principal components, with many exceptional features."""
    images = digits.train_images.to(digits.model[7].weight.dtype)
    autoencoder = PrincipalComponents(images)
    hurdles = ClassHurdles.fit_loader(digits.model, digits.layer, [(images, digits.train_labels)])
    return PIECE(
        digits.model,
        digits.layer,
        hurdles,
        autoencoder.decoder,
        encoder=autoencoder.encoder,
        alpha=0.3,
        learning_rate=0.1,
        max_iterations=60,
    )


def short_patch_swap(digits: Digits) -> PatchSwap:
    """Cells of the last convolution's 4 x 4."""
    images, labels = digits.train_images[:200], digits.train_labels[:200]
    return PatchSwap(digits.model, digits.model[4], images, labels)


BUILDERS: dict[str, Builder] = {
    "CEM": short_cem,
    "DeDUCE": lambda digits: DeDUCE(digits.model, digits.layer, digits.density),
    "JSMA": lambda digits: JSMA(digits.model),
    "LatentShift": latent_shift,
    "NearestExample": nearest_example,
    "PIECE": short_piece,
    "PatchSwap": short_patch_swap,
    "REVISE": short_revise,
    "Schut": lambda digits: Schut([digits.model, digits.model], confidence=0.5),
    "VLK": short_vlk,
    "Wachter": lambda digits: Wachter(digits.model, lambda_rounds=4, max_iterations=60),
}
"""How each public explainer is built around a classifier; a new explainer needs a line here."""

# What an explainer promises or takes otherwise than most do.
ARGMAX_IS_SUCCESS = {"CEM", "VLK"}
"""No threshold: success means that the target is the most likely class."""
RETURNS_THE_CLOSEST = {"CEM", "LatentShift", "PIECE", "VLK", "Wachter"}
"""The closest of all successes is returned, not the first."""
MOVES_EVERY_PIXEL = {"LatentShift", "NearestExample", "PIECE", "REVISE"}
"""Its images are drawn by a decoder, or others altogether: none of the original's pixels stays."""
NO_GRADIENT = {"NearestExample", "PatchSwap"}
"""It has none, counts none, and goes on where there is none."""
FEW_GRADIENTS = {"LatentShift", "NearestExample", "PatchSwap"}
"""Most evaluations are forward passes."""
LONG = {"NearestExample": {"confidence": 1 - 1e-9}}
"""Settings with which a search that is over at once takes longer; most: none."""
FIRST_GRADIENT_AFTER_A_STEP = {"PIECE", "REVISE"}
"""The first step needs no gradient: it replaces the original by its reconstruction."""
WITHOUT_GRADIENT_OF_SCORES = {"NearestExample", "PIECE", "PatchSwap"}
"""What it descends on is no score: a slope of the scores that is not finite does no harm."""
UNTARGETED = {"VLK"}
"""Without a target any class but the predicted one will do."""
HOPELESS = {
    "CEM": {"kappa": 1e3},
    "NearestExample": {"confidence": 1 - 1e-9},
    "VLK": {"kappa": 1.0},
}
"""Settings with which a pair fails that has two steps; most: a high confidence."""
MOVES_GROUPS = {"DeDUCE", "JSMA", "Schut"}
"""Few pixels a step, and so groups of them; the others move all entries at once."""
VARIED = {"CEM": ("kappa", 0.1, 0.9, 0.2), "VLK": ("theta", 1.0, 9.0, 2.0)}
"""A setting for Captum to vary, from where, to where and in what steps; most: the confidence."""

every_explainer = pytest.mark.parametrize("name", sorted(BUILDERS))


def test_every_public_explainer_is_held_to_the_contract():
    assert set(BUILDERS) == set(explainers.METHODS)


@pytest.fixture
def images(digits: Digits) -> Tensor:
    return digits.images[:6].clone()


@pytest.fixture
def target(digits: Digits, images: Tensor) -> Tensor:
    with torch.no_grad():
        return (digits.model(images).argmax(1) + torch.tensor([1, 2, 3, 4, 5, 6])) % 10


def build(name: str, digits: Digits) -> CounterfactualExplainer:
    return BUILDERS[name](digits)


def set_model(explainer: CounterfactualExplainer, forward_func: Callable[..., Tensor]) -> None:
    """Put another function in the classifier's place (for Schut: in every member's)."""
    if isinstance(explainer, Schut):
        explainer.forward_func.members = [forward_func] * 2
    else:
        explainer.forward_func = forward_func


def confidences(digits: Digits, images: Tensor, target: Tensor) -> Tensor:
    with torch.no_grad():
        return digits.model(images).softmax(1)[torch.arange(len(images)), target]


# --- what generate returns ---


@every_explainer
def test_the_result_is_true(name, digits, images, target):
    """Everything reported is recomputed from the images with the bare model."""
    original = images.clone()
    result = build(name, digits).generate(images, target)
    assert isinstance(result, Counterfactuals)
    assert torch.equal(images, original)
    assert torch.equal(result.inputs, original)
    assert torch.equal(result.target, target)
    found = confidences(digits, result.counterfactuals, target)
    torch.testing.assert_close(result.confidence, found, rtol=1e-9, atol=0)
    assert result.success.dtype == torch.bool
    assert result.success.all()
    if name in ARGMAX_IS_SUCCESS:
        assert torch.equal(digits.model(result.counterfactuals).argmax(1), target)
    else:
        assert (found > 0.5).all()
    assert torch.equal(result.prediction, digits.model(original).argmax(1))
    assert result.counterfactuals.min() >= 0
    assert result.counterfactuals.max() <= 1
    if name in NO_GRADIENT:
        assert (result.evaluations == 0).all()
        assert (result.forward_evaluations >= 1).all()
    else:
        assert (result.evaluations >= 1).all()
    assert (result.forward_evaluations >= 0).all()
    assert not result.counterfactuals.requires_grad


@every_explainer
def test_an_image_that_is_there_already_stays_as_it_is(name, digits, images):
    with torch.no_grad():
        predicted = digits.model(images).argmax(1)
    sure = confidences(digits, images, predicted) > 0.6
    result = build(name, digits).generate(images[sure], predicted[sure])
    assert result.success.all()
    assert torch.equal(result.counterfactuals, images[sure])
    assert result.iterations.tolist() == [0] * len(result)


@every_explainer
def test_a_failed_pair_holds_its_best_attempt(name, digits, images, target):
    hopeless = HOPELESS.get(name, {"confidence": 0.999})
    result = build(name, digits).generate(
        images, target, max_iterations=2, return_trajectory=True, **hopeless
    )
    assert not result.success.any()
    for i, path in enumerate(result.trajectory):
        seen = confidences(digits, path, target[i].expand(len(path)))
        torch.testing.assert_close(result.confidence[i], seen.max())
        assert torch.equal(result.counterfactuals[i], path[seen.argmax()])
    assert torch.isfinite(result.counterfactuals).all()


@every_explainer
def test_a_trajectory_leads_from_the_original_to_the_counterfactual(name, digits, images, target):
    result = build(name, digits).generate(images, target, return_trajectory=True)
    for i, path in enumerate(result.trajectory):
        assert path.device.type == "cpu"
        assert len(path) == result.iterations[i] + 1
        assert torch.equal(path[0], images[i])
        if name in RETURNS_THE_CLOSEST:
            assert any(torch.equal(image, result.counterfactuals[i]) for image in path)
        else:
            assert torch.equal(path[-1], result.counterfactuals[i])


@every_explainer
def test_a_pair_does_not_depend_on_its_batch(name, digits, images, target):
    explainer = build(name, digits)
    together = explainer.generate(images, target)
    for size in (1, 2, 4):
        batched = explainer.generate(images, target, internal_batch_size=size)
        torch.testing.assert_close(
            batched.counterfactuals, together.counterfactuals, rtol=0, atol=1e-12
        )
        assert torch.equal(batched.iterations, together.iterations)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = explainer.generate(images[order], target[order], internal_batch_size=3)
    torch.testing.assert_close(
        shuffled.counterfactuals, together.counterfactuals[order], rtol=0, atol=1e-12
    )
    for i in range(len(images)):
        alone = explainer.generate(images[i : i + 1], int(target[i]))
        torch.testing.assert_close(
            alone.counterfactuals[0], together.counterfactuals[i], rtol=0, atol=1e-12
        )


@every_explainer
@pytest.mark.filterwarnings("ignore:.*too many for the memory:UserWarning")
def test_a_search_that_runs_out_of_memory_goes_on(name, digits, images, target):
    explainer, settings = build(name, digits), LONG.get(name, {})
    free = explainer.generate(images, target, return_trajectory=True, **settings)
    evaluated = []

    def crowded(inputs: Tensor) -> Tensor:
        if torch.is_grad_enabled() or name in FEW_GRADIENTS:
            evaluated.append(len(inputs))
            if len(evaluated) > 9 and len(inputs) > 2:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return digits.model(inputs)

    set_model(explainer, crowded)
    result = explainer.generate(images, target, return_trajectory=True, **settings)
    assert len(images) in evaluated
    assert evaluated.count(6) > 3
    assert evaluated[-1] <= 2
    torch.testing.assert_close(result.counterfactuals, free.counterfactuals, rtol=0, atol=1e-12)
    assert torch.equal(result.iterations, free.iterations)
    assert torch.equal(result.forward_evaluations, free.forward_evaluations)
    for path, whole in zip(result.trajectory, free.trajectory, strict=True):
        torch.testing.assert_close(path, whole, rtol=0, atol=1e-12)


@every_explainer
def test_masked_pixels_stay(name, digits, images, target):
    mask = torch.zeros(8, 8)
    mask[2:, 1:6] = 1
    result = build(name, digits).generate(images, target, mask=mask)
    assert (result.attributions[..., mask == 0] == 0).all()
    assert result.success.any()
    per_pair = torch.zeros_like(images)
    per_pair[::2] = 1
    result = build(name, digits).generate(images, target, mask=per_pair)
    assert result.success.tolist() == [True, False] * 3
    assert torch.equal(result.counterfactuals[1::2], images[1::2])


@every_explainer
def test_tighter_bounds_are_kept(name, digits, images, target):
    inside = images.clamp(0.1, 0.9)
    upper = torch.full((1, 8, 8), 0.9, dtype=torch.float64)
    result = build(name, digits).generate(inside, target, lower_bound=0.1, upper_bound=upper)
    assert result.counterfactuals.min() >= 0.1
    assert result.counterfactuals.max() <= 0.9
    assert result.success.any()


@every_explainer
def test_bounds_and_masks_of_each_image(name, digits, images, target):
    """As if each image were alone with its own, in any batch."""
    explainer = build(name, digits)
    radius = torch.linspace(0.4, 0.8, 6, dtype=images.dtype).view(-1, 1, 1, 1)
    lower, upper = (images - radius).clamp_min(0), images + radius
    mask = torch.rand(6, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.9
    for size in (None, 2, 4):
        together = explainer.generate(
            images,
            target,
            lower_bound=lower,
            upper_bound=upper,
            mask=mask,
            internal_batch_size=size,
        )
        for i in range(6):
            alone = explainer.generate(
                images[i : i + 1],
                int(target[i]),
                lower_bound=lower[i],
                upper_bound=upper[i],
                mask=mask[i],
            )
            torch.testing.assert_close(
                alone.counterfactuals[0], together.counterfactuals[i], rtol=0, atol=1e-12
            )
            assert torch.equal(alone.success[0], together.success[i])
    assert together.success.any()
    assert (together.counterfactuals >= lower).all()
    assert (together.counterfactuals <= upper).all()
    assert (together.attributions[~mask.unsqueeze(1)] == 0).all()


@every_explainer
def test_groups_move_as_one_or_are_refused_by_name(name, digits, images, target):
    explainer, halves = build(name, digits), torch.arange(8).view(1, 8, 1) // 4
    if name not in MOVES_GROUPS:
        refused = f"{name} takes no feature_mask, .* DeDUCE, Schut and JSMA"
        for face in (explainer.generate, explainer.attribute, explainer.perturb):
            with pytest.raises(ValueError, match=refused):
                face(images, target, feature_mask=halves)
        return
    moved = explainer.generate(images, target, feature_mask=halves, max_iterations=1).attributions
    rows = (moved != 0).any(3).view(6, 2, 4)
    assert (rows.any(2).sum(1) <= 1).all()
    assert (rows.sum((1, 2)) > 1).all()
    for face in (explainer.attribute, explainer.perturb):
        found = face(images, target, feature_mask=halves, max_iterations=1)
        assert torch.equal(found - (images if face == explainer.perturb else 0), moved)
    with pytest.raises(TypeError, match="feature_mask must hold integers"):
        explainer.generate(images, target, feature_mask=halves.float())


@every_explainer
def test_an_image_whose_mask_is_empty_fails_alone_and_at_once(name, digits, images, target):
    explainer = build(name, digits)
    mask = torch.ones(6, 1, 8, 8)
    mask[[1, 4]] = 0
    expected = explainer.generate(images, target)
    result = explainer.generate(images, target, mask=mask)
    empty = torch.tensor([False, True, False, False, True, False])
    assert result.success.tolist() == (~empty).tolist()
    assert torch.equal(result.counterfactuals[empty], images[empty])
    torch.testing.assert_close(
        result.confidence, confidences(digits, result.counterfactuals, target)
    )
    assert (result.iterations[empty] <= 1).all()
    torch.testing.assert_close(
        result.counterfactuals[~empty], expected.counterfactuals[~empty], rtol=0, atol=1e-12
    )


@every_explainer
def test_without_a_target_the_runner_up_is_taken(name, digits, images):
    """Or, by the methods that can, any class but the predicted one."""
    with torch.no_grad():
        first, second = digits.model(images).topk(2).indices.T
    result = build(name, digits).generate(images, internal_batch_size=4)
    assert result.success.all()
    if name in UNTARGETED:
        assert (result.target != first).all()
        assert torch.equal(digits.model(result.counterfactuals).argmax(1), result.target)
    else:
        assert torch.equal(result.target, second)


@every_explainer
def test_all_forms_of_a_target_mean_the_same(name, digits, images):
    explainer = build(name, digits)
    expected = explainer.attribute(images, torch.full((6,), 3))
    for form in (3, np.int64(3), [3] * 6, [3], torch.tensor(3), torch.tensor([3]), (3,) * 6):
        torch.testing.assert_close(explainer.attribute(images, form), expected, rtol=0, atol=0)


@every_explainer
def test_additional_arguments_follow_their_images(name, digits, images, target):
    explainer = build(name, digits)
    model, shift = digits.model, torch.randn(6, 10).double()

    def shifted(x: Tensor, shift: Tensor, scale: float) -> Tensor:
        return model(x) * scale + shift

    set_model(explainer, shifted)
    result = explainer.generate(
        images, target, additional_forward_args=(shift, 1.5), internal_batch_size=4
    )
    with torch.no_grad():
        scores = model(result.counterfactuals) * 1.5 + shift
    expected = scores.softmax(1)[torch.arange(6), target]
    torch.testing.assert_close(result.confidence, expected, rtol=1e-9, atol=0)
    assert result.success.all()


@every_explainer
def test_log_probabilities_and_logits_give_the_same(name, digits, images, target):
    explainer = build(name, digits)
    expected = explainer.generate(images, target)
    model = digits.model
    set_model(explainer, lambda x: model(x).log_softmax(1))
    result = explainer.generate(images, target)
    torch.testing.assert_close(result.counterfactuals, expected.counterfactuals, rtol=0, atol=1e-9)


@every_explainer
def test_float32_gives_nearly_the_same(name, digits, images, target):
    expected = build(name, digits).generate(images, target)
    single = copy.copy(digits)
    single.model = copy.deepcopy(digits.model).float()
    single.layer = single.model[6]
    result = build(name, single).generate(images.float(), target)
    assert result.counterfactuals.dtype == torch.float32
    assert result.success.all()
    assert (result.l1().mean() / expected.l1().mean() - 1).abs() < 0.1


@every_explainer
def test_progress_is_shown_when_asked_for(name, digits, images, target, capsys):
    explainer = build(name, digits)
    for call in (explainer.generate, explainer.attribute, explainer.perturb):
        call(images, target)
        call(images, target, show_progress=False)
        assert capsys.readouterr().err == ""
        call(images, target, show_progress=True)
        drawn = capsys.readouterr().err
        assert "6/6" in drawn
        assert "steps=" in drawn
        assert "found=6" in drawn


# --- the model is left as it was found ---


def snapshot(model: nn.Module) -> tuple[list[object], dict[str, Tensor]]:
    state = {name: value.clone() for name, value in model.state_dict().items()}
    return [
        [(name, module.training) for name, module in model.named_modules()],
        [len(module._forward_hooks) + len(module._backward_hooks) for module in model.modules()],
        [(name, p.requires_grad, p.grad, p._version) for name, p in model.named_parameters()],
    ], state


@pytest.fixture
def unsettled(digits: Digits) -> Digits:
    """The classifier with mixed modes and frozen parameters."""
    changed = copy.copy(digits)
    changed.model = copy.deepcopy(digits.model).train()
    changed.layer = changed.model[6]
    changed.model[3].eval()
    changed.model[7].bias.requires_grad_(False)
    return changed


@every_explainer
def test_the_model_is_left_as_it_was(name, unsettled, images, target):
    explainer = build(name, unsettled)
    before = snapshot(unsettled.model)
    result = explainer.generate(images, target)
    after = snapshot(unsettled.model)
    assert before[0] == after[0]
    torch.testing.assert_close(before[1], after[1], rtol=0, atol=0)
    expected = build(name, unsettled)
    unsettled.model.eval()
    assert torch.equal(result.counterfactuals, expected.generate(images, target).counterfactuals)


@every_explainer
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_the_model_is_left_as_it_was_after_an_error(name, unsettled, images, target, error):
    explainer = build(name, unsettled)
    calls = 0

    def fails_later(module: nn.Module, args: object, output: Tensor) -> None:
        nonlocal calls
        calls += 1
        if calls == 9:  # after the probes, some of which a model may refuse
            raise error

    handle = unsettled.model[7].register_forward_hook(fails_later)
    before = snapshot(unsettled.model)
    with pytest.raises(error):
        explainer.generate(images, target, **LONG.get(name, {}))
    after = snapshot(unsettled.model)
    handle.remove()
    assert before[0] == after[0]
    torch.testing.assert_close(before[1], after[1], rtol=0, atol=0)


@every_explainer
def test_a_model_without_parameters_that_require_grad(name, unsettled, images, target):
    expected = build(name, unsettled).generate(images, target)
    unsettled.model.requires_grad_(False)
    result = build(name, unsettled).generate(images, target)
    torch.testing.assert_close(result.counterfactuals, expected.counterfactuals, rtol=0, atol=0)


class InPlaceFirst(nn.Module):
    """Overwrites what it is given before the model sees it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.mul_(2.0).sub_(1.0).add_(1.0).div_(2.0))


@every_explainer
def test_models_that_work_in_place(name, digits, images, target):
    """On the images themselves too, which stay as they are."""
    expected = build(name, digits).generate(images, target)
    assert digits.model[2].inplace
    plain = copy.copy(digits)
    plain.model = copy.deepcopy(digits.model)
    plain.model[2].inplace = False
    plain.layer = plain.model[6]
    explainer, original = build(name, digits), images.clone()
    set_model(explainer, InPlaceFirst(digits.model))
    for other in (build(name, plain), explainer):
        result = other.generate(images, target)
        torch.testing.assert_close(
            result.counterfactuals, expected.counterfactuals, rtol=0, atol=1e-9
        )
        assert torch.equal(images, original)


@every_explainer
def test_models_spread_over_several_devices_are_refused(name, digits, images):
    explainer, spread = build(name, digits), nn.DataParallel(digits.model)
    for forward_func in (spread, nn.Sequential(spread), lambda x: spread(x)):
        set_model(explainer, forward_func)
        with pytest.raises(ValueError, match=r"wrapped in DataParallel.*\.module"):
            explainer.generate(images, 3)


@every_explainer
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(name, digits, images, target):
    expected = build(name, digits).generate(images, target)
    there = copy.deepcopy(digits)
    there.model.cuda()
    there.layer = there.model[6]
    there.density.cuda()
    there.train_images = there.train_images.cuda()
    explainer = build(name, there)
    for classes in (target, target.cuda(), target.tolist()):
        result = explainer.generate(images.cuda(), classes, mask=torch.ones(8, 8))
        assert result.counterfactuals.is_cuda
        assert result.success.is_cuda
        assert torch.equal(result.success.cpu(), expected.success)
        torch.testing.assert_close(result.l1().cpu(), expected.l1(), rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="but the model's parameters are"):
        explainer.generate(images, target)


@every_explainer
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_grad_modes_around_the_call(name, digits, images, target, context):
    explainer = build(name, digits)
    expected = explainer.generate(images, target)
    with context():
        fresh = images * 1.0  # under inference mode an inference tensor
        mask, bound = torch.ones(8, 8), torch.zeros(1, 1, 1) + 1.0
        result = explainer.generate(fresh, target * 1, mask=mask, upper_bound=bound)
    torch.testing.assert_close(result.counterfactuals, expected.counterfactuals, rtol=0, atol=0)
    assert not result.counterfactuals.is_inference()


@every_explainer
def test_two_threads_search_one_model(name, unsettled, images, target):
    explainer = build(name, unsettled)
    expected = explainer.generate(images, target)
    results: list[Counterfactuals] = []
    threads = [
        threading.Thread(target=lambda: results.append(explainer.generate(images, target)))
        for _ in range(3)
    ]
    before = snapshot(unsettled.model)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    for result in results:
        assert torch.equal(result.counterfactuals, expected.counterfactuals)
    assert before[0] == snapshot(unsettled.model)[0]


@every_explainer
def test_no_parameter_gradient_is_computed(name, digits, images, target):
    explainer = build(name, digits)
    with mock.patch.object(
        Tensor, "backward", side_effect=AssertionError("backward fills parameter gradients")
    ):
        explainer.generate(images, target)
    assert all(p.grad is None for p in digits.model.parameters())


@every_explainer
def test_functional_models(name, digits, images, target):
    expected = build(name, digits).generate(images, target)
    model = digits.model.train()
    for forward_func in (
        lambda x: model(x),
        functools.partial(lambda x, scale: model(x) * scale, scale=1.0),
        model.forward,
    ):
        explainer = build(name, digits)
        set_model(explainer, forward_func)
        result = explainer.generate(images, target)
        torch.testing.assert_close(
            result.counterfactuals, expected.counterfactuals, rtol=0, atol=1e-12
        )
        assert model.training


# --- Captum's own tools ---


@every_explainer
def test_the_captum_face(name, digits, images, target):
    explainer = build(name, digits)
    attributions = explainer.attribute(images, target)
    result = explainer.generate(images, target)
    assert torch.equal(attributions, result.counterfactuals - images)
    assert torch.equal(explainer.perturb(images, target), result.counterfactuals)
    assert torch.equal(explainer(images, target), result.counterfactuals)
    for method in (explainer.attribute, explainer.perturb, explainer):
        (only,) = method((images,), target)
        assert torch.equal(only, method(images, target))
    assert type(explainer).get_name() == name
    assert explainer.multiplies_by_inputs is False
    assert explainer.has_convergence_delta() is False


@every_explainer
@pytest.mark.parametrize("kind", ["smoothgrad", "smoothgrad_sq", "vargrad"])
def test_noise_tunnel(name, digits, images, target, kind):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "inputs must lie within", UserWarning)
        averaged = NoiseTunnel(build(name, digits)).attribute(
            images, nt_type=kind, nt_samples=3, stdevs=0.05, target=target
        )
    assert averaged.shape == images.shape
    assert torch.isfinite(averaged).all()
    assert (averaged != 0).any()


@every_explainer
def test_captums_tools_give_every_copy_the_mask_and_the_bounds_of_its_image(
    name, digits, images, target
):
    """A tool that averages: no entry outside an image's mask moves, and none out of its ball."""
    explainer = build(name, digits)
    mask = torch.zeros(6, 1, 8, 8)
    for i in range(6):
        mask[i, :, i : i + 3] = 1
    settings = {"mask": mask, "lower_bound": images - 0.3, "upper_bound": images + 0.3}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "inputs must lie within", UserWarning)
        averaged = NoiseTunnel(explainer).attribute(
            images,
            nt_type="smoothgrad",
            nt_samples=5,
            nt_samples_batch_size=2,
            stdevs=0.02,
            target=target,
            **settings,
        )
        sensitivity = sensitivity_max(
            explainer.attribute, images, n_perturb_samples=4, target=target, **settings
        )
    for i in range(6):
        assert (averaged[i][mask[i] == 0] == 0).all()
        assert (averaged[i][mask[i] == 1] != 0).any()
    assert averaged.abs().max() <= 0.3 + 0.1
    assert torch.isfinite(sensitivity).all()
    with pytest.raises(ValueError, match=r"mask must broadcast .*got shape \(3, 1, 8, 8\)"):
        explainer.generate(images, target, mask=mask[:3])


@every_explainer
def test_noise_outside_the_bounds_warns_once_and_stays_until_moved(name, digits, images, target):
    noisy = images - 0.01
    with pytest.warns(UserWarning, match="inputs must lie within lower_bound and upper_bound") as w:
        attributions = build(name, digits).attribute(noisy, target)
    assert len(w) == 1
    unmoved = attributions == 0
    assert unmoved.any() or name in MOVES_EVERY_PIXEL
    assert ((noisy + attributions)[~unmoved] >= 0).all()


@every_explainer
def test_sensitivity_max(name, digits, images, target):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "inputs must lie within", UserWarning)
        sensitivity = sensitivity_max(
            build(name, digits).attribute, images, n_perturb_samples=2, target=target
        )
    assert sensitivity.shape == (6,)
    assert torch.isfinite(sensitivity).all()


@every_explainer
def test_infidelity_sees_the_right_sign(name, digits, images, target):
    """The counterfactual direction raises the target's score; the opposite sign is worse."""
    attributions = build(name, digits).attribute(images, target)

    @infidelity_perturb_func_decorator(False)
    def towards_gray(inputs: Tensor) -> Tensor:
        # Captum repeats each input for its samples.
        direction = attributions.repeat_interleave(len(inputs) // len(attributions), 0)
        return inputs + direction * torch.rand(len(inputs), 1, 1, 1, dtype=inputs.dtype)

    def score(sign: float) -> Tensor:
        torch.manual_seed(0)
        moved = attributions * sign
        return infidelity(
            digits.model, towards_gray, images, moved, target=target, n_perturb_samples=4
        )

    assert score(1.0).shape == (6,)
    assert (score(1.0) < score(-1.0)).all()


@every_explainer
def test_attack_comparator(name, digits, images, target):
    def reached(scores: Tensor, target: Tensor) -> Tensor:
        return (scores.argmax(1) == target).double().mean()

    comparator = AttackComparator(digits.model, reached)
    comparator.add_attack(build(name, digits), name, attack_kwargs={"target": target})
    results = comparator.evaluate(images, target=target)
    assert results["Original"] == 0
    assert results[name]["mean"] == 1


@every_explainer
def test_min_param_perturbation(name, digits, images):
    """Captum's search over one scalar of ours: the least that flips the prediction."""
    explainer = build(name, digits)
    image = images[:1]
    with torch.no_grad():
        predicted = int(digits.model(image).argmax())
    goal = (predicted + 1) % 10
    setting, lowest, highest, step = VARIED.get(name, ("confidence", 0.3, 0.9, 0.1))
    search = MinParamPerturbation(
        forward_func=digits.model,
        attack=explainer,
        arg_name=setting,
        arg_min=lowest,
        arg_max=highest,
        arg_step=step,
    )
    perturbed, value = search.evaluate(image, target=predicted, attack_kwargs={"target": goal})
    assert perturbed is not None
    assert int(digits.model(perturbed).argmax()) != predicted
    assert lowest <= value <= highest


@every_explainer
def test_captum_draws_the_attributions(name, digits, images, target):
    attributions = build(name, digits).attribute(images, target)
    figure, _ = captum_visualization.visualize_image_attr(
        attributions[0].permute(1, 2, 0).numpy(),
        images[0].permute(1, 2, 0).numpy(),
        sign="all",
        method="blended_heat_map",
        use_pyplot=False,
    )
    assert figure.axes


@every_explainer
def test_captum_draws_the_attributions_at_their_place_and_with_their_sign(
    name, digits, images, target
):
    attributions = build(name, digits).attribute(images, target)
    figure, axes = captum_visualization.visualize_image_attr_multiple(
        attributions[0].permute(1, 2, 0).numpy(),
        images[0].permute(1, 2, 0).numpy(),
        methods=["original_image", "heat_map", "blended_heat_map", "heat_map"],
        signs=["all", "all", "absolute_value", "absolute_value"],
        show_colorbar=True,
        use_pyplot=False,
    )
    assert len(axes) == 4
    map_ = attributions[0, 0].numpy()
    place = np.unravel_index(np.abs(map_).argmax(), map_.shape)
    assert axes[1].images[-1].get_array()[place] == np.sign(map_[place])
    assert axes[3].images[-1].get_array()[place] == 1
    unchanged = map_ == 0
    assert (axes[1].images[-1].get_array()[unchanged] == 0).all()
    assert len(figure.axes) > len(axes)  # the colour bars


# --- bad input ---


@every_explainer
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"inputs": np.zeros((1, 1, 8, 8))}, TypeError, r"inputs must be a torch.Tensor"),
        (
            {"inputs": torch.zeros(2, 1, 8, 8).long()},
            TypeError,
            "inputs must be float32 or float64",
        ),
        ({"inputs": torch.zeros(0, 1, 8, 8)}, ValueError, r"inputs .* got \(0, 1, 8, 8\)"),
        ({"inputs": torch.zeros(8)}, ValueError, r"inputs must have the shape N x .* got \(8,\)"),
        ({"inputs": torch.full((1, 1, 8, 8), torch.nan)}, ValueError, "inputs must be finite"),
        ({"inputs": (torch.zeros(1), torch.zeros(1))}, ValueError, "a tuple of 2"),
        (
            {"inputs": torch.zeros(1, 1, 8, 8)},
            ValueError,
            r"inputs are torch.float32 on cpu, but the model's parameters are torch.float64",
        ),
        (
            {"inputs": torch.full((1, 1, 8, 8), 2.0)},
            ValueError,
            "inputs must lie within lower_bound",
        ),
        ({"target": 10}, ValueError, r"target must lie in 0 ... 9 .*got 10"),
        ({"target": [1, 2]}, ValueError, r"target .*one per image \(3\), got shape \(2,\)"),
        ({"target": 1.5}, TypeError, "target must hold integers"),
        ({"mask": torch.ones(3, 3)}, ValueError, r"mask must broadcast .*\(3, 1, 8, 8\).*\(3, 3\)"),
        ({"mask": [1]}, TypeError, "mask must be a torch.Tensor"),
        ({"lower_bound": 1.0}, ValueError, "lower_bound must be below upper_bound"),
        ({"upper_bound": torch.ones(5)}, ValueError, r"upper_bound must broadcast to one input"),
        ({"internal_batch_size": 0}, ValueError, "internal_batch_size"),
        ({"internal_batch_size": 1.5}, TypeError, "internal_batch_size must be an int"),
        ({"show_progress": "yes"}, TypeError, "show_progress must be True, False or None"),
        ({"return_trajectory": 2}, TypeError, "return_trajectory must be True or False"),
        ({"max_iteration": 4}, TypeError, "has no argument max_iteration; .*max_iterations"),
    ],
    ids=str,
)
def test_what_is_refused(name, digits, arguments, error, message):
    explainer = build(name, digits)
    call = {"inputs": digits.images[:3], "target": 3} | arguments
    with pytest.raises(error, match=message):
        explainer.generate(call.pop("inputs"), call.pop("target"), **call)


@every_explainer
@pytest.mark.parametrize(
    ("wrap", "error", "message"),
    [
        (lambda m: lambda x: (m(x), x), TypeError, "forward_func must return a tensor .*got tuple"),
        (lambda m: lambda x: m(x)[:, 0], ValueError, "one logit"),
        (lambda m: lambda x: m(x)[:, :1], ValueError, "one logit"),
        (lambda m: lambda x: m(x).unsqueeze(2), ValueError, r"N x C class scores, got shape"),
        (lambda m: lambda x: m(x).softmax(1), ValueError, r"probabilities; leave out the softmax"),
        (lambda m: lambda x: m(x).detach(), ValueError, "can be differentiated"),
        (lambda m: lambda x: m(x) * torch.nan, ValueError, "forward_func returned NaN or infinite"),
    ],
)
def test_models_that_are_refused(name, digits, wrap, error, message):
    explainer = build(name, digits)
    set_model(explainer, wrap(digits.model))
    with pytest.raises(error, match=message):
        explainer.generate(digits.images[:3], 3)


@every_explainer
def test_a_non_finite_gradient_ends_a_pair_and_no_other(name, digits, images, target):
    if name in NO_GRADIENT:
        pytest.skip("computes none")
    explainer = build(name, digits)
    expected = explainer.generate(images, target)
    model = digits.model

    broken = torch.tensor([False, False, True, False, False, False])

    def undefined_slope(x: Tensor, broken: Tensor) -> Tensor:
        zero = (x.flatten(1).sum(1, keepdim=True) * 0).abs()
        return model(x) + torch.where(broken.unsqueeze(1), zero, zero + 1).sqrt()

    set_model(explainer, undefined_slope)
    result = explainer.generate(images, target, additional_forward_args=broken)
    if name in WITHOUT_GRADIENT_OF_SCORES:
        assert result.success.all()
        return
    assert result.success.tolist() == (~broken).tolist()
    if name not in FIRST_GRADIENT_AFTER_A_STEP:
        assert torch.equal(result.counterfactuals[2], images[2])
    assert result.iterations[2] == (name in FIRST_GRADIENT_AFTER_A_STEP)
    assert torch.isfinite(result.counterfactuals).all()
    assert torch.isfinite(result.confidence).all()
    kept = ~broken
    torch.testing.assert_close(
        result.counterfactuals[kept], expected.counterfactuals[kept], rtol=0, atol=1e-12
    )


@every_explainer
def test_explainers_can_be_copied_and_pickled_where_their_model_can(name, digits, images, target):
    from captum_deduce import remove_spectral_normalization

    plain = copy.copy(digits)
    plain.model = remove_spectral_normalization(copy.deepcopy(digits.model))
    plain.layer = plain.model[6]
    explainer = build(name, plain)
    expected = explainer.generate(images, target)
    for twin in (copy.deepcopy(explainer), pickle.loads(pickle.dumps(explainer))):
        result = twin.generate(images, target)
        torch.testing.assert_close(result.counterfactuals, expected.counterfactuals)

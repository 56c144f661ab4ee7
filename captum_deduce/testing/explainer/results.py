"""Checks of what a search returns."""

from __future__ import annotations

import torch

from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.testing.contracts import require, require_equal
from captum_deduce.testing.explainer.trial import EXACT, Trial, is_reached, require_same, takes


def _check_result_is_true(trial: Trial) -> None:
    """Everything that a result says is what the model itself says of its images."""
    explainer, subject = trial.pair()
    images, target = subject.images, subject.target
    original = images.clone()
    result = explainer.generate(images, target)
    require(
        isinstance(result, Counterfactuals), type(result).__name__, "Counterfactuals of generate"
    )
    require_equal("the caller's own inputs", images, original)
    require_equal("inputs", result.inputs, original)
    require_equal("target", result.target, target)
    require_equal("prediction", result.prediction, subject.predicted)
    require_equal(
        "confidence", result.confidence, subject.confidence(result.counterfactuals, target), 1e-9
    )
    require(result.success.dtype == torch.bool, f"success of {result.success.dtype}", "bool")
    require(result.success.any(), "no success", "most of 6 easy pairs found")
    reached = is_reached(explainer, result.counterfactuals, target)
    require(
        (reached | ~result.success).all(),
        f"success {result.success.tolist()} where targets are reached by {reached.tolist()}",
        "no success without its target",
    )
    lowest, highest = result.counterfactuals.min().item(), result.counterfactuals.max().item()
    require(
        lowest >= 0 and highest <= 1, f"values from {lowest:g} to {highest:g}", "all within 0 ... 1"
    )
    counted = result.evaluations + result.forward_evaluations
    require((counted >= 1).all(), f"evaluations {counted.tolist()}", "at least one for each pair")
    require(not result.counterfactuals.requires_grad, "requires_grad", "detached images")


def _check_reached_targets_stay(trial: Trial) -> None:
    """An image that the model has in the target class already stays as it is, without a step."""
    explainer, subject = trial.pair()
    predicted = subject.predicted
    sure = subject.confidence(subject.images, predicted) > 0.8
    images = subject.images[sure]
    result = explainer.generate(images, predicted[sure])
    require(result.success.all(), f"success {result.success.tolist()}", "True for all")
    require_equal("counterfactuals", result.counterfactuals, images)
    require_equal("iterations", result.iterations.tolist(), [0] * len(images))


def _check_failed_pairs_hold_best_attempt(trial: Trial) -> None:
    """A pair that fails holds the image of all evaluated ones that is nearest to success."""
    explainer, subject = trial.pair()
    result = explainer.generate(
        subject.images, subject.target, return_trajectory=True, **trial.long(explainer, 2)
    )
    require(not result.success.any(), f"success {result.success.tolist()}", "none in two steps")
    require(torch.isfinite(result.counterfactuals).all(), "NaN or infinity", "finite images")
    for i, path in enumerate(result.trajectory or []):
        path = path.to(result.counterfactuals)
        seen = subject.confidence(path, result.target[i].expand(len(path)))
        require_equal("best confidence", result.confidence[i], seen.max(), 1e-9)
        require_equal("best attempt", result.counterfactuals[i], path[seen.argmax()])


def _check_trajectories(trial: Trial) -> None:
    """A trajectory begins with the original, has an image per step, and the counterfactual."""
    explainer, subject = trial.pair()
    images = subject.images
    result = explainer.generate(images, subject.target, return_trajectory=True)
    require(
        result.trajectory is not None and len(result.trajectory) == len(images),
        f"trajectory of {type(result.trajectory).__name__}",
        f"a list of {len(images)}",
    )
    for i, path in enumerate(result.trajectory or []):
        require_equal("device of trajectories", path.device.type, "cpu")
        require_equal("images on the way", len(path), int(result.iterations[i]) + 1)
        require_equal("beginning of the trajectory", path[0], images[i].cpu())
        require(
            any(torch.equal(image, result.counterfactuals[i].cpu()) for image in path),
            f"pair {i}'s counterfactual nowhere in its trajectory",
            "it among the images on the way",
        )


def _check_batch_mates(trial: Trial) -> None:
    """A pair finds the same alone, in batches of any size and in any order."""
    explainer, subject = trial.pair()
    images, target = subject.images, subject.target
    together = explainer.generate(images, target)
    for size in (1, 4):
        batched = explainer.generate(images, target, internal_batch_size=size)
        require_same(batched, together, EXACT)
        require_equal("iterations", batched.iterations, together.iterations)
    few = explainer.generate(images[1:3], target[1:3])
    require_same(few, together[1:3], EXACT)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = explainer.generate(images[order], target[order], internal_batch_size=3)
    require_same(shuffled, together[order], EXACT)


def _check_equal_seeds(trial: Trial) -> None:
    """The same call after the same seed finds the same, to the last bit."""
    explainer, subject = trial.pair()
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(explainer.generate(subject.images, subject.target))
    require_same(results[1], results[0], 0.0)
    require_equal("iterations", results[1].iterations, results[0].iterations)


def _check_without_target(trial: Trial) -> None:
    """Without a target another class than the predicted one is looked for, and named."""
    explainer, subject = trial.pair()
    result = explainer.generate(subject.images, internal_batch_size=4)
    require(
        (result.target != subject.predicted).all(),
        f"targets {result.target.tolist()} for predictions {subject.predicted.tolist()}",
        "other classes",
    )
    reached = is_reached(explainer, result.counterfactuals, result.target)
    require(
        (reached | ~result.success).all() and result.success.any(),
        f"success {result.success.tolist()}, reached {reached.tolist()}",
        "successes that are true",
    )


def _check_settings_of_one_call(trial: Trial) -> None:
    """A setting given to a call holds for that call alone; an unknown one is refused by name."""
    explainer, subject = trial.pair()
    if takes(explainer, "max_iterations"):
        images, target = subject.images, subject.target
        expected = explainer.generate(images, target)
        short = explainer.generate(images, target, max_iterations=1)
        most, least = int(expected.iterations.max()), int(short.iterations.max())
        require(least <= most, f"{least} steps with max_iterations=1", f"no more than {most}")
        again = explainer.generate(images, target)
        require_equal("steps of the next call", again.iterations, expected.iterations)
        require_same(again, expected, 0.0)
    try:
        explainer.generate(subject.images, subject.target, no_such_setting=1)
    except TypeError as error:
        require("no_such_setting" in str(error), str(error), "the setting's name in the error")
    else:
        require(False, "no error for no_such_setting=1", "a TypeError")


def _check_colour(trial: Trial) -> None:
    """Images of three channels are explained, too, and their attributions have three channels."""
    explainer, subject = trial.pair(channels=3)
    result = explainer.generate(subject.images, subject.target)
    require(result.success.any(), "no success", "most of 6 easy pairs found")
    reached = is_reached(explainer, result.counterfactuals, result.target)
    require((reached | ~result.success).all(), "success without its target", "true successes")
    require_equal("shape of attributions", result.attributions.shape, subject.images.shape)


CHECKS = (
    _check_result_is_true,
    _check_reached_targets_stay,
    _check_failed_pairs_hold_best_attempt,
    _check_trajectories,
    _check_batch_mates,
    _check_equal_seeds,
    _check_without_target,
    _check_settings_of_one_call,
    _check_colour,
)

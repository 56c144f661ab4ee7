"""Checks of an explainer in Captum's own tools."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from captum.attr import NoiseTunnel
from captum.attr import visualization as captum_visualization
from captum.metrics import infidelity, infidelity_perturb_func_decorator, sensitivity_max
from captum.robust import AttackComparator, MinParamPerturbation
from torch import Tensor

from captum_deduce.testing.contracts import NotApplicable, require, require_equal
from captum_deduce.testing.explainer.trial import Trial, takes


@contextlib.contextmanager
def _noise_allowed() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "inputs must lie within", UserWarning)
        yield


def _check_three_faces(trial: Trial) -> None:
    """The faces attribute, perturb and a call return what generate finds."""
    explainer, subject = trial.pair()
    images, target = subject.images, subject.target
    result = explainer.generate(images, target)
    attributions = explainer.attribute(images, target)
    require_equal("attributions", attributions, result.counterfactuals - images)
    require_equal("images of perturb", explainer.perturb(images, target), result.counterfactuals)
    require_equal("images of a call", explainer(images, target), result.counterfactuals)
    require(explainer.get_name(), "an empty get_name()", "the method's name")
    require_equal("multiplies_by_inputs", explainer.multiplies_by_inputs, False)
    require_equal("has_convergence_delta", explainer.has_convergence_delta(), False)


def _check_noise_tunnel(trial: Trial) -> None:
    """NoiseTunnel averages finite attributions over noisy copies, in each of its three ways."""
    explainer, subject = trial.pair()
    for kind in ("smoothgrad", "smoothgrad_sq", "vargrad"):
        with _noise_allowed():
            averaged = NoiseTunnel(explainer).attribute(
                subject.images[:3],
                nt_type=kind,
                nt_samples=2,
                stdevs=0.05,
                target=subject.target[:3],
            )
        require_equal(f"shape of {kind}", averaged.shape, subject.images[:3].shape)
        require(torch.isfinite(averaged).all(), f"NaN or infinity by {kind}", "finite numbers")
        require((averaged != 0).any(), f"zeros by {kind}", "attributions")


def _check_constraints_of_copies(trial: Trial) -> None:
    """Captum's tools repeat images: every copy has the mask and the bounds of its image."""
    explainer, subject = trial.pair()
    images, target = subject.images, subject.target
    mask = torch.zeros(6, 1, 8, 8)
    for i in range(6):
        mask[i, :, i : i + 3] = 1
    settings = {"mask": mask, "lower_bound": images - 0.3, "upper_bound": images + 0.3}
    with _noise_allowed():
        averaged = NoiseTunnel(explainer).attribute(
            images,
            nt_type="smoothgrad",
            nt_samples=4,
            nt_samples_batch_size=2,
            stdevs=0.02,
            target=target,
            **settings,
        )
    outside = [i for i in range(6) if (averaged[i][mask[i] == 0] != 0).any()]
    require_equal("images with attributions outside their masks", outside, [])
    unmoved = [i for i in range(6) if not (averaged[i][mask[i] == 1] != 0).any()]
    require_equal("images without attributions in their masks", unmoved, [])
    largest = averaged.abs().max().item()
    require(largest <= 0.3 + 0.1, f"a change of {largest:.2f}", "0.3 and the noise at most")


def _check_noise_outside_bounds(trial: Trial) -> None:
    """In attribute, inputs outside the bounds warn once, stay until moved, and are then clipped."""
    explainer, subject = trial.pair()
    noisy = subject.images - 0.01
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        attributions = explainer.attribute(noisy, subject.target)
    said = [w for w in caught if "inputs must lie within lower_bound" in str(w.message)]
    require_equal("number of warnings", len(said), 1)
    moved = attributions != 0
    lowest = (noisy + attributions)[moved].min().item()
    require(lowest >= -1e-9, f"moved entries down to {lowest:g}", "0 or more")


def _check_sensitivity_max(trial: Trial) -> None:
    """Captum's sensitivity_max of attribute is a finite number for each image."""
    explainer, subject = trial.pair()
    with _noise_allowed():
        sensitivity = sensitivity_max(
            explainer.attribute, subject.images, n_perturb_samples=2, target=subject.target
        )
    require_equal("shape of sensitivities", sensitivity.shape, (6,))
    require(torch.isfinite(sensitivity).all(), "NaN or infinity", "finite numbers")


def _check_infidelity(trial: Trial) -> None:
    """Captum's infidelity is lower for attributions than for the same with the other sign."""
    explainer, subject = trial.pair()
    attributions: Any = explainer.attribute(subject.images, subject.target)

    @infidelity_perturb_func_decorator(False)  # type: ignore[untyped-decorator]
    def towards(inputs: Tensor) -> Tensor:
        # Captum repeats each input for its samples.
        direction: Tensor = attributions.repeat_interleave(len(inputs) // len(attributions), 0)
        return inputs + direction * torch.rand(len(inputs), 1, 1, 1, dtype=inputs.dtype)

    def score(sign: float) -> Tensor:
        torch.manual_seed(0)
        measured: Tensor = infidelity(
            subject,
            towards,
            subject.images,
            attributions * sign,
            target=subject.target,
            n_perturb_samples=4,
        )
        return measured

    right, wrong = score(1.0), score(-1.0)
    require((right < wrong).all(), f"{right.tolist()} against {wrong.tolist()}", "lower ones")


def _check_attack_comparator(trial: Trial) -> None:
    """Captum's AttackComparator sees the target reached after the attack."""
    explainer, subject = trial.pair()

    def reached(scores: Tensor, target: Tensor) -> Tensor:
        at_target: Tensor = (scores.argmax(1) == target).double().mean()
        return at_target

    comparator = AttackComparator(subject, reached)
    comparator.add_attack(explainer, "attack", attack_kwargs={"target": subject.target})
    results = comparator.evaluate(subject.images, target=subject.target)
    expected = explainer.generate(subject.images, subject.target)
    share = reached(subject(expected.counterfactuals), subject.target)
    require_equal("share at the target before", float(results["Original"]), 0.0)
    after = results["attack"]
    found = float(after["mean"] if isinstance(after, dict) else after)
    require_equal("share at the target after", round(found, 6), round(share.item(), 6))
    require(found > 0, "no image at the target", "some")


def _check_min_param_perturbation(trial: Trial) -> None:
    """Captum's MinParamPerturbation finds the least value of a setting that flips the model."""
    explainer, subject = trial.pair()
    image, predicted = subject.images[:1], int(subject.predicted[0])
    goal = int(subject.target[0])
    if takes(explainer, "confidence"):
        setting, lowest, highest, step = "confidence", 0.3, 0.9, 0.2
    elif takes(explainer, "max_iterations"):
        most = vars(explainer)["max_iterations"]
        setting, lowest, highest, step = "max_iterations", 1, most, max(1, most // 4)
    else:
        raise NotApplicable("it has neither confidence nor max_iterations to vary")
    search = MinParamPerturbation(
        forward_func=subject,
        attack=explainer,
        arg_name=setting,
        arg_min=lowest,
        arg_max=highest + step,
        arg_step=step,
    )
    perturbed, value = search.evaluate(image, target=predicted, attack_kwargs={"target": goal})
    require(perturbed is not None, f"no {setting} that flips the prediction", "one")
    seen = int(subject(perturbed).argmax())
    require(seen != predicted, f"prediction {seen}", "another one than before")
    require(lowest <= value <= highest + step, f"{setting}={value}", f"{lowest} to {highest}")


def _check_captum_draws(trial: Trial) -> None:
    """Captum's visualize_image_attr_multiple draws attributions at their place, with their sign."""
    explainer, subject = trial.pair()
    attributions: Any = explainer.attribute(subject.images, subject.target)
    figure, axes = captum_visualization.visualize_image_attr_multiple(
        attributions[0].permute(1, 2, 0).numpy(),
        subject.images[0].permute(1, 2, 0).numpy(),
        methods=["original_image", "heat_map", "blended_heat_map", "heat_map"],
        signs=["all", "all", "absolute_value", "absolute_value"],
        show_colorbar=True,
        use_pyplot=False,
    )
    changes = attributions[0, 0].numpy()
    place = np.unravel_index(np.abs(changes).argmax(), changes.shape)
    drawn = axes[1].images[-1].get_array()
    require_equal("sign of what is drawn", float(drawn[place]), float(np.sign(changes[place])))
    require_equal("size of what is drawn", float(axes[3].images[-1].get_array()[place]), 1.0)
    require((drawn[changes == 0] == 0).all(), "colour where nothing changed", "none")
    require(len(figure.axes) > len(axes), "no colour bars", "some")


CHECKS = (
    _check_three_faces,
    _check_noise_tunnel,
    _check_constraints_of_copies,
    _check_noise_outside_bounds,
    _check_sensitivity_max,
    _check_infidelity,
    _check_attack_comparator,
    _check_min_param_perturbation,
    _check_captum_draws,
)

"""The paper's figures 2 to 5."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from captum_deduce.classifiers import FrozenModel
from captum_deduce.experiments.methods import AGREEMENT, deduce, oracle_metrics, search
from captum_deduce.experiments.plan import Cases, drawn_at_random, first_of_their_classes
from captum_deduce.experiments.runs import Store
from captum_deduce.experiments.tables import figure3_runs
from captum_deduce.experiments.trained import Trained
from captum_deduce.reports import Report
from captum_deduce.visualization import plot_density, plot_grid, plot_images, trace_trajectory

_WAY = (4, 9)
"""Class and target of the way in figure 2, the paper's first pair of figure 3."""

_COLUMNS = 6
_SAMPLES = 50
"""Reconstructions that figure 4 averages, and of which it shows three."""


def figure2(models: Trained, store: Store) -> Report:
    """Draw the feature space with its Gaussians and a counterfactual's way, as figure 2.

    Args:
        models (Trained): With the spectrally normalised classifier.
        store (Store): For its device; the one search is so short that it is not kept.

    Returns:
        Report: With the picture.
    """
    checkpoint, data = models.normalised, models.splits.train
    layer, device = checkpoint.settings.layer, store.device
    with torch.no_grad(), FrozenModel(checkpoint.model, layer) as frozen:
        features = torch.cat([frozen(images.to(device))[1].cpu() for images, _ in data.batches()])
    cases = first_of_their_classes(models.splits.test, (_WAY,))
    result = deduce(models).generate(cases.inputs.to(device), cases.target, return_trajectory=True)
    trace = trace_trajectory(result, 0, checkpoint.model, layer)
    head = checkpoint.model.get_submodule("fc")
    figure = plot_density(
        features.to(device),
        data.target,
        deduce(models).density,
        path=None if trace.features is None else trace.features.to(device),
        path_target=int(cases.target[0]),
        classifier=head,
        classes=list(_WAY),
        class_names=data.class_names,
    )
    agreement = oracle_metrics(models)[AGREEMENT](result)[0]
    names = data.class_names
    notes = [
        f"The features of the classes {names[_WAY[0]]} and {names[_WAY[1]]}, projected onto a "
        f"plane, and the way of one test image from {names[_WAY[0]]} to {names[_WAY[1]]}: "
        f"{int(result.iterations[0])} steps, {'found' if result.success[0] else 'not found'}; "
        f"oracle agreement at its end: {agreement:.0%}.",
    ]
    return Report("Figure 2: the feature space", notes=notes, figure=figure)


def figure3(models: Trained, store: Store) -> Report:
    """Draw the counterfactuals of table 3, as figure 3.

    Args:
        models (Trained): What is explained, and what the explainers need.
        store (Store): Where results are kept.

    Returns:
        Report: With the picture.
    """
    runs, cases = figure3_runs(models, store)
    results = {name: run.result for name, run in runs.items()}
    agreement = oracle_metrics(models)[AGREEMENT]
    below = {name: _share(agreement(result), result.success) for name, result in results.items()}
    figure = plot_grid(
        results, class_names=models.splits.test.class_names, labels=cases.labels, notes=below
    )
    notes = [
        "The pairs of the paper's figure 3; attempts that failed are crossed out. On the left: "
        f"{AGREEMENT}, the mean over those found.",
        f"REVISE: {models.size.revise.label}. VLK: 2 x {models.size.vlk_steps} steps.",
    ]
    data = {AGREEMENT: {name: agreement(result).tolist() for name, result in results.items()}}
    return Report("Figure 3: six pairs", [], notes, data, figure, results)


def figure4(models: Trained, store: Store) -> Report:
    """Draw reconstructions of REVISE's VAE, as figure 4.

    Args:
        models (Trained): With the VAE.
        store (Store): For its device.

    Returns:
        Report: With the picture.
    """
    columns = 7
    cases = drawn_at_random(models.splits.test, columns, models.size.seed)
    source = torch.Generator().manual_seed(models.size.seed)
    with torch.no_grad():
        mean, log_variance = models.vae.encode(cases.inputs.to(store.device))
        noise = torch.randn(_SAMPLES, *mean.shape, generator=source).to(mean)
        latents = mean + (0.5 * log_variance).exp() * noise
        drawn = models.vae.decode(latents.flatten(0, 1)).view(_SAMPLES, *cases.inputs.shape).cpu()
    rows = {
        "original": cases.inputs,
        **{f"sample {number}": drawn[number - 1] for number in (1, 2, 3)},
        f"mean of {_SAMPLES}": drawn.mean(0),
    }
    error = (drawn - cases.inputs).square().mean().item()
    notes = [
        f"Test images drawn at random, three samples of the VAE's reconstruction of each, and the "
        f"mean of {_SAMPLES}; mean squared error of a sample {error:.3g}."
    ]
    data = {"mean squared error of a sample": error}
    return Report("Figure 4: the VAE's reconstructions", [], notes, data, plot_images(rows))


def figure5(models: Trained, store: Store) -> Report:
    """Draw DeDUCE's counterfactuals of eighteen random pairs, as figure 5.

    Args:
        models (Trained): With the spectrally normalised classifier and the oracles.
        store (Store): Where results are kept.

    Returns:
        Report: With the picture.
    """
    cases = drawn_at_random(models.splits.test, 3 * _COLUMNS, models.size.seed)
    results = {
        name: run.result for name, run in search(store, {"DeDUCE": deduce(models)}, cases).items()
    }
    (result,) = results.values()
    seen = oracle_metrics(models)[AGREEMENT](result)
    rows: dict[str, Tensor] = {}
    titles: list[Sequence[str]] = []
    for number, part in enumerate(torch.split(torch.arange(len(cases)), _COLUMNS), 1):
        rows[f"original {number}"] = cases.inputs[part]
        rows[f"counterfactual {number}"] = result.counterfactuals[part]
        titles += [[""] * len(part), _titles(cases[part], result.success[part], seen[part], models)]
    notes = [
        "Test images and targets drawn at random; below each, what DeDUCE found, and its "
        f"{AGREEMENT}. {_share(seen, result.success)}.",
    ]
    data = {AGREEMENT: seen.tolist(), "success": result.success.tolist()}
    figure = plot_images(rows, titles)
    return Report("Figure 5: more of DeDUCE's counterfactuals", [], notes, data, figure, results)


def _share(agreement: Tensor, success: Tensor) -> str:
    if not success.any():
        return "none found"
    return f"oracle agreement: {agreement[success].mean():.0%}"


def _titles(cases: Cases, success: Tensor, seen: Tensor, models: Trained) -> list[str]:
    names = models.splits.test.class_names
    return [
        f"→ {names[goal]}, {share:.0%}" if found else f"→ {names[goal]}, failed"
        for goal, found, share in zip(
            cases.target.tolist(), success.tolist(), seen.tolist(), strict=True
        )
    ]

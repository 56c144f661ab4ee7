"""What Captum's own tools return with every explainer, and what every way to call them does.

`tools` and `calls` run everything anew on a small classifier of the digits; a result that breaks
the contract is a `ContractError`, so that no table with a wrong cell is ever printed.
"""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
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
    ClassGaussianMixture,
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
    spectral_normalize,
)
from captum_deduce.datasets import load_digits
from captum_deduce.models import VAE, Autoencoder
from captum_deduce.prototypes import Examples
from captum_deduce.training import predict, train_autoencoder, train_classifier, train_vae

Model = Callable[..., Tensor]


class ContractError(Exception):
    """A result that an explainer doesn't promise."""


def _require(kept: object, found: object) -> None:
    if not kept:
        raise ContractError(str(found))


@dataclass(frozen=True)
class Workbench:
    """A small classifier of the digits, what the explainers need beside it, and six pairs."""

    model: nn.Sequential
    density: ClassGaussianMixture
    autoencoder: Autoencoder
    vae: VAE
    prototypes: PrototypeIndex
    examples: Examples
    hurdles: ClassHurdles
    distractors: Tensor
    images: Tensor
    target: Tensor

    def to(self, *place: Any) -> Workbench:
        """Copy everything to another device or dtype."""
        return Workbench(
            model=copy.deepcopy(self.model).to(*place),
            density=copy.deepcopy(self.density).to(*place),
            autoencoder=copy.deepcopy(self.autoencoder).to(*place),
            vae=copy.deepcopy(self.vae).to(*place),
            prototypes=copy.deepcopy(self.prototypes).to(*place),
            examples=self.examples,  # wherever they are, what is found goes where the images are
            hurdles=copy.deepcopy(self.hurdles).to(*place),
            distractors=self.distractors.to(*place),
            images=self.images.to(*place),
            target=self.target.to(self.images.to(*place).device),
        )


def workbench(epochs: int = 20) -> Workbench:
    """Train the classifier, the autoencoder and the VAE, and fit density and prototypes.

    Args:
        epochs: How often each of them goes through the thousand training images.
    """
    torch.manual_seed(0)
    train, _, test = load_digits()
    layers = OrderedDict(
        conv1=nn.Conv2d(1, 12, 3, padding=1),
        norm=nn.BatchNorm2d(12),
        relu=nn.ReLU(inplace=True),
        conv2=nn.Conv2d(12, 16, 3, stride=2, padding=1),
        leaky=nn.LeakyReLU(0.1),
        pool=nn.AvgPool2d(2),
        features=nn.Flatten(),
        fc=nn.Linear(64, 10),
    )
    model = nn.Sequential(layers)
    spectral_normalize(model, coeff=3.0, example_input=train.images[:1])
    train_classifier(model, train, epochs=epochs, batch_size=64)
    model.eval()  # Captum runs a model in the mode that it is in
    autoencoder, vae = Autoencoder(image_size=8), VAE(image_size=8)
    train_autoencoder(autoencoder, train.images, epochs=epochs, learning_rate=3e-3)
    train_vae(vae, train.images, epochs=epochs, learning_rate=3e-3)
    images = test.images[:6]
    return Workbench(
        model=model,
        density=ClassGaussianMixture.fit_loader(model, "features", train.batches()),
        autoencoder=autoencoder,
        vae=vae,
        prototypes=PrototypeIndex.from_loader(model, autoencoder.encoder, train.batches()),
        examples=Examples(train.images, train.target),
        hurdles=ClassHurdles.fit_loader(model, "features", train.batches()),
        distractors=train.images[:200],
        images=images,
        target=(predict(model, images).argmax(1) + torch.arange(1, 7)) % 10,
    )


Builder = Callable[[Workbench, Model, "nn.Module | str"], CounterfactualExplainer]

BUILDERS: dict[str, Builder] = {
    "DeDUCE": lambda bench, model, layer: DeDUCE(model, layer, bench.density),
    "JSMA": lambda bench, model, layer: JSMA(model),
    "Schut": lambda bench, model, layer: Schut([model], confidence=0.8),
    "Wachter": lambda bench, model, layer: Wachter(model, lambda_rounds=4, max_iterations=60),
    "VLK": lambda bench, model, layer: VLK(
        model,
        bench.autoencoder,
        bench.autoencoder.encoder,
        bench.prototypes,
        beta=0.01,
        gamma=1.0,
        theta=10.0,
        max_iterations=30,
        learning_rate_init=0.03,
    ),
    "REVISE": lambda bench, model, layer: REVISE(
        model, bench.vae, optimizer="adam", distance_weight=0.01, max_iterations=300
    ),
    "CEM": lambda bench, model, layer: CEM(
        model, baseline=0.0, c_steps=3, max_iterations=30, beta=0.01, learning_rate_init=0.05
    ),
    "LatentShift": lambda bench, model, layer: LatentShift(model, bench.vae),
    "NearestExample": lambda bench, model, layer: NearestExample(model, bench.examples),
    "PIECE": lambda bench, model, layer: PIECE(
        model,
        layer,
        bench.hurdles,
        bench.vae,
        alpha=0.3,
        learning_rate=0.1,
        max_iterations=60,
    ),
    "PatchSwap": lambda bench, model, layer: PatchSwap(
        model, "leaky" if isinstance(layer, str) else bench.model.leaky, bench.distractors
    ),
}
"""Each explainer around a model and a layer of it; short searches, to keep the page quick."""


@dataclass(frozen=True)
class Subject:
    """One explainer on the workbench; what several rows need is searched once."""

    name: str
    bench: Workbench

    def build(self, model: Model | None = None, layer: nn.Module | str = "features") -> Any:
        """Build the explainer around the workbench's model or another one."""
        return BUILDERS[self.name](self.bench, model or self.bench.model, layer)

    @cached_property
    def result(self) -> Counterfactuals:
        """The counterfactuals of the six pairs."""
        return self.build().generate(self.bench.images, self.bench.target)

    def same(self, images: Tensor) -> str:
        """Compare counterfactuals with those of the plain call."""
        difference = float((images - self.result.counterfactuals).abs().max())
        _require(difference < 1e-4, f"{self.name}: a difference of {difference}")
        return "same" if difference == 0 else f"same to {difference:.0e}"


def _number(value: Any) -> str:
    return f"{float(value):.3g}"


# --- Captum's tools ---


def _attribute(subject: Subject) -> str:
    bench, result = subject.bench, subject.result
    attributions = subject.build().attribute(bench.images, target=bench.target)
    _require(torch.equal(attributions, result.counterfactuals - bench.images), attributions)
    return f"{int(result.success.sum())} of 6, {_number(result.l1().mean())}"


def _noise_tunnel(subject: Subject, kind: str) -> str:
    torch.manual_seed(0)
    averaged = NoiseTunnel(subject.build()).attribute(
        subject.bench.images,
        nt_type=kind,
        nt_samples=3,
        stdevs=0.05,
        target=subject.bench.target,
    )
    _require(averaged.shape == subject.bench.images.shape and (averaged != 0).any(), averaged)
    return _number(averaged.abs().mean())


def _sensitivity(subject: Subject) -> str:
    torch.manual_seed(0)
    sensitivity = sensitivity_max(
        subject.build().attribute,
        subject.bench.images,
        n_perturb_samples=2,
        target=subject.bench.target,
    )
    _require(sensitivity.shape == (6,) and sensitivity.isfinite().all(), sensitivity)
    return _number(sensitivity.mean())


def _infidelity(subject: Subject) -> str:
    bench = subject.bench
    attributions = subject.result.attributions

    @infidelity_perturb_func_decorator(False)
    def part_of_the_way(inputs: Tensor) -> Tensor:
        repeated = attributions.repeat_interleave(len(inputs) // len(attributions), 0)
        return inputs + repeated * torch.rand(len(inputs), 1, 1, 1)

    def of(signed: Tensor) -> float:
        torch.manual_seed(0)
        return float(
            infidelity(
                bench.model,
                part_of_the_way,
                bench.images,
                signed,
                target=bench.target,
                n_perturb_samples=8,
            ).mean()
        )

    right, wrong = of(attributions), of(-attributions)
    _require(right < wrong, (right, wrong))
    return f"{_number(right)} ({_number(wrong)})"


def _attack_comparator(subject: Subject) -> str:
    bench = subject.bench

    def reached(scores: Tensor, target: Tensor) -> Tensor:
        return (scores.argmax(1) == target).double().mean()

    comparator = AttackComparator(bench.model, reached)
    comparator.add_attack(subject.build(), "found", attack_kwargs={"target": bench.target})
    results = comparator.evaluate(bench.images, target=bench.target)
    before, after = float(results["Original"]), float(results["found"]["mean"])
    _require(before == 0 and after == float(subject.result.success.double().mean()), results)
    return f"{_number(before)} → {_number(after)}"


def _min_param(subject: Subject) -> str:
    bench = subject.bench
    image, goal = bench.images[:1], int(bench.target[0])
    predicted = int(predict(bench.model, image).argmax())
    search = MinParamPerturbation(
        forward_func=bench.model,
        attack=subject.build(),
        arg_name="max_iterations",
        arg_min=1,
        arg_max=100,
        arg_step=1,
    )
    found, value = search.evaluate(image, target=predicted, attack_kwargs={"target": goal})
    _require(found is not None and int(predict(bench.model, found).argmax()) != predicted, value)
    return str(value)


def _picture(subject: Subject) -> str:
    attribution = subject.result.attributions[0].permute(1, 2, 0).numpy()
    figure, axes = captum_visualization.visualize_image_attr(
        attribution, method="heat_map", sign="all", use_pyplot=False
    )
    row, column, _ = np.unravel_index(np.abs(attribution).argmax(), attribution.shape)
    drawn, value = float(axes.images[0].get_array()[row, column]), attribution[row, column, 0]
    _require(figure.axes and abs(drawn) == 1 and drawn * value > 0, (drawn, value))
    return f"{value:+.2f} at ({row}, {column})"


def _pictures(subject: Subject) -> str:
    figure, axes = captum_visualization.visualize_image_attr_multiple(
        subject.result.attributions[0].permute(1, 2, 0).numpy(),
        subject.bench.images[0].permute(1, 2, 0).numpy(),
        methods=["original_image", "heat_map", "blended_heat_map"],
        signs=["all", "all", "absolute_value"],
        use_pyplot=False,
    )
    panels = sum(len(panel.images) > 0 for panel in axes)
    _require(panels == 3 and figure.axes, panels)
    return str(panels)


TOOLS: dict[str, Callable[[Subject], str]] = {
    "`attribute`: found, mean L1": _attribute,
    "`NoiseTunnel`, `smoothgrad`: mean magnitude": partial(_noise_tunnel, kind="smoothgrad"),
    "`NoiseTunnel`, `smoothgrad_sq`": partial(_noise_tunnel, kind="smoothgrad_sq"),
    "`NoiseTunnel`, `vargrad`": partial(_noise_tunnel, kind="vargrad"),
    "`sensitivity_max`: mean": _sensitivity,
    "`infidelity`: mean (with the opposite sign)": _infidelity,
    "`AttackComparator`: in the target class": _attack_comparator,
    "`MinParamPerturbation`: least `max_iterations`": _min_param,
    "`visualize_image_attr`: strongest entry, row and column": _picture,
    "`visualize_image_attr_multiple`: panels": _pictures,
}


# --- ways to call ---


def _target_forms(subject: Subject) -> str:
    explainer, images = subject.build(), subject.bench.images
    expected = explainer.attribute(images, torch.full((6,), 3))
    forms = (3, np.int64(3), [3] * 6, torch.tensor(3), torch.tensor([3]))
    for form in forms:
        _require(torch.equal(explainer.attribute(images, form), expected), form)
    return "same"


def _tuple(subject: Subject) -> str:
    found = subject.build().perturb((subject.bench.images,), subject.bench.target)
    _require(isinstance(found, tuple) and len(found) == 1, type(found))
    return subject.same(found[0])


def _double(subject: Subject) -> str:
    bench = subject.bench.to(torch.float64)
    result = Subject(subject.name, bench).result
    _require(result.counterfactuals.dtype == torch.float64, result.counterfactuals.dtype)
    ratio = float(result.l1().mean() / subject.result.l1().mean())
    _require(abs(ratio - 1) < 0.1, ratio)
    return f"{int(result.success.sum())} of 6, L1 ±{abs(ratio - 1):.1%}"


def _within(subject: Subject, context: Callable[[], Any]) -> str:
    with context():
        fresh = subject.bench.images * 1.0  # in inference mode an inference tensor
        found = subject.build().perturb(fresh, subject.bench.target)
    return subject.same(found)


def _around(subject: Subject, model: Model, layer: nn.Module | str) -> str:
    explainer = subject.build(model, layer)
    return subject.same(explainer.perturb(subject.bench.images, subject.bench.target))


def _layer_module(subject: Subject) -> str:
    return _around(subject, subject.bench.model, subject.bench.model.features)


def _function(subject: Subject) -> str:
    model = subject.bench.model
    return _around(subject, lambda images: model(images), model.features)


def _train_mode(subject: Subject) -> str:
    model = copy.deepcopy(subject.bench.model).train()
    answer = _around(subject, model, "features")
    _require(all(module.training for module in model.modules()), "left in eval mode")
    return answer


def _frozen(subject: Subject) -> str:
    model = copy.deepcopy(subject.bench.model).requires_grad_(False)
    return _around(subject, model, "features")


def _out_of_place(subject: Subject) -> str:
    model = copy.deepcopy(subject.bench.model)
    model.relu.inplace = False
    return _around(subject, model, "features")


def _data_parallel(subject: Subject) -> str:
    try:
        subject.build(nn.DataParallel(subject.bench.model))
    except ValueError as error:
        _require("DataParallel" in str(error), error)
        return "refused"
    raise ContractError(f"{subject.name} takes nn.DataParallel")


def _cuda(subject: Subject) -> str:
    result = Subject(subject.name, subject.bench.to("cuda")).result
    _require(result.counterfactuals.is_cuda, result.counterfactuals.device)
    return f"{int(result.success.sum())} of 6"


CALLS: dict[str, Callable[[Subject], str]] = {
    "target as `int`, NumPy integer, list, tensor, tensor of one": _target_forms,
    "inputs in a tuple, images in a tuple": _tuple,
    "model and inputs in float64: found, difference": _double,
    "under `torch.no_grad()`": partial(_within, context=torch.no_grad),
    "under `torch.inference_mode()`": partial(_within, context=torch.inference_mode),
    "`nn.Sequential`, the layer as a module": _layer_module,
    "a function around the model": _function,
    "model in train mode": _train_mode,
    "no parameter requires grad": _frozen,
    "activations out of place instead of in place": _out_of_place,
    "model in `nn.DataParallel`": _data_parallel,
}
if torch.cuda.is_available():
    CALLS["model and inputs on CUDA: found"] = _cuda


@dataclass(frozen=True)
class Table:
    """Results by row and explainer; a notebook shows it as a table."""

    columns: list[str]
    rows: dict[str, list[str]]

    def _repr_markdown_(self) -> str:
        lines = [["", *self.columns], ["---"] * (len(self.columns) + 1)]
        lines += [[label, *cells] for label, cells in self.rows.items()]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def tools(bench: Workbench) -> Table:
    """Run each of Captum's tools on each explainer."""
    return _table(TOOLS, bench)


def calls(bench: Workbench) -> Table:
    """Call each explainer in each of the ways that Captum's users do."""
    return _table(CALLS, bench)


def _table(rows: dict[str, Callable[[Subject], str]], bench: Workbench) -> Table:
    subjects = [Subject(name, bench) for name in BUILDERS]
    with warnings.catch_warnings():
        # what Captum's noise takes outside of the bounds
        warnings.filterwarnings("ignore", "inputs must lie within", UserWarning)
        cells = {label: [run(subject) for subject in subjects] for label, run in rows.items()}
    return Table(list(BUILDERS), cells)

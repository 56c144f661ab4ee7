"""What explainers make of models of every kind: the table of the page "Your model".

`table` builds a small classifier in each form that users have theirs, fits a density to it and
searches with JSMA and DeDUCE. What is found is checked with the plain model in eval mode; a found
image that the plain model does not see as the target is a `WrongAnswerError`, so that no table with
such a row is ever printed.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from captum_deduce import JSMA, BinaryClassifier, ClassGaussianMixture, DeDUCE

SIDE, CLASSES, COUNT, STEPS = 8, 3, 120, 100

Scores = Callable[[Tensor], Tensor]


class WrongAnswerError(Exception):
    """Something was called found that the plain model does not see."""


@dataclass(frozen=True)
class Form:
    """A model in one of the forms that users have theirs.

    Args:
        name: What the form is.
        how: What to pass to an explainer, in Markdown.
        model: What is passed.
        layer: Of the density.
        plain: The model's logits in eval mode, as somebody else would compute them.
        labels: Of the images, for the density; the target is the next one.
        explained: Also with DeDUCE.
    """

    name: str
    how: str
    model: Any
    layer: Any
    plain: Scores
    labels: Tensor
    classes: int = CLASSES


class Net(nn.Module):
    """A body that describes an image, and a head."""

    def __init__(self, outputs: int = CLASSES) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(128, 12),
            nn.Tanh(),
        )
        self.head = nn.Linear(12, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Run the network."""
        return self.head(self.body(images))


class Learner:
    """As fastai has it: an object with the model, a data loader and more."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model


class LightningStyle(nn.Module):
    """As Lightning has it: a module with the network as a part, and training steps beside it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Run the network."""
        return self.network(images)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """Compute the loss, as Lightning asks for it."""
        return nn.functional.cross_entropy(self(batch[0]), batch[1])


@dataclass
class ModelOutput:
    """As Hugging Face's models return it."""

    logits: Tensor


class Returning(nn.Module):
    """A model that returns its logits inside of something else."""

    def __init__(self, network: nn.Module, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.network = network
        self.wrap = wrap

    def forward(self, images: Tensor) -> Any:
        """Run the network."""
        return self.wrap(self.network(images))


def data() -> tuple[Tensor, Tensor]:
    """Images whose class is the third that is brightest."""
    images = torch.rand(COUNT, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    bands = torch.stack([images[..., :3], images[..., 3:6], images[..., 5:]], 1)
    return images, bands.mean((2, 3, 4)).argmax(1)


def trained(model: nn.Module, images: Tensor, target: Tensor) -> nn.Module:
    """Train briefly, and leave the model in train mode, as it is after training."""
    loss = nn.functional.cross_entropy
    if target.is_floating_point():
        loss = nn.functional.binary_cross_entropy_with_logits
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(STEPS):
        optimizer.zero_grad()
        output = model(images)
        loss(output, target).backward()
        optimizer.step()
    return model.requires_grad_(True)


def forms() -> Iterator[Form]:
    """Every form, with a model that was just trained."""
    torch.manual_seed(0)
    images, labels = data()
    net = trained(Net(), images, labels)
    plain = copy.deepcopy(net).eval()

    def form(name: str, how: str, model: Any, layer: Any) -> Form:
        return Form(name, how, model, layer, plain, labels)

    yield form("a module, in train mode", "`model`", net, "body")
    yield form("Lightning", "the `LightningModule` itself", LightningStyle(net), "network.body")
    learn = Learner(net)
    yield form("fastai", "`lambda x: learn.model(x)`", lambda x: learn.model(x), "body")
    output = Returning(net, ModelOutput)
    yield form("Hugging Face, as it is", "`model`", output, "network.body")
    yield form("Hugging Face", "`lambda x: model(x).logits`", lambda x: output(x).logits, net.body)
    several = Returning(net, lambda scores: (scores, scores.sum(1)))
    yield form("several outputs, as it is", "`model`", several, "network.body")
    yield form("several outputs", "`lambda x: model(x)[0]`", lambda x: several(x)[0], net.body)
    softmax = nn.Sequential(net, nn.Softmax(1))
    yield form("softmax at the end", "`model`", softmax, "0.body")
    yield form(
        "softmax at the end, undone",
        "`lambda x: model(x).log()`",
        lambda x: softmax(x).log(),
        net.body,
    )
    yield from _binary(images)
    half = copy.deepcopy(plain).bfloat16()
    yield form("half precision", "`model`", half, "body")
    yield form("half precision, widened", "`model.float()`", copy.deepcopy(half).float(), "body")
    yield form(
        "autocast",
        '`torch.autocast("cpu", torch.bfloat16)(model)`',
        torch.autocast("cpu", torch.bfloat16)(lambda x: net(x)),
        net.body,
    )
    compiled = torch.compile(copy.deepcopy(plain), backend="eager")
    yield form("compiled", "`torch.compile(model)`", compiled, "_orig_mod.body")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # newer torch calls TorchScript deprecated
        scripted, traced = torch.jit.script(plain), torch.jit.trace(plain, images[:2])
    yield form("scripted", "`torch.jit.script(model)`", scripted, "body")
    yield form("traced", "`torch.jit.trace(model, x)`", traced, "body")
    # torch 2.4 and 2.5 have no Dim.AUTO
    batch = {0: getattr(torch.export.Dim, "AUTO", None) or torch.export.Dim("batch")}
    exported = torch.export.export(plain, (images[:4],), dynamic_shapes=(batch,)).module()
    yield form("exported", "`torch.export.export(model, ...).module()`", exported, "body")
    yield form("quantised", "the quantised model", Quantised(plain), "body")
    yield from _others(images, labels)


class Quantised(nn.Module):
    """Weights and inputs in 8 bits, as quantised layers compute: in integers, without gradients."""

    def __init__(self, network: Net) -> None:
        super().__init__()
        self.body, self.head = network.body, network.head

    def forward(self, images: Tensor) -> Tensor:
        """Run the network."""
        with torch.no_grad():
            return self.head(self.body((images * 255).to(torch.uint8).float() / 255))


def _binary(images: Tensor) -> Iterator[Form]:
    findings = torch.stack([images[..., :4], images[..., 4:], images[:, :, :4].mT], 1)
    findings = (findings.mean((2, 3, 4)) > 0.5).float()
    torch.manual_seed(1)
    labels = findings[:, 1].long()
    one = trained(Net(1), images, findings[:, 1:2])
    several = trained(Net(3), images, findings)
    alone, all_three = copy.deepcopy(one).eval(), copy.deepcopy(several).eval()

    def of_one(x: Tensor) -> Tensor:
        return torch.cat([torch.zeros(len(x), 1), alone(x)], 1)

    def of_several(x: Tensor) -> Tensor:
        return torch.stack([torch.zeros(len(x)), all_three(x)[:, 1]], 1)

    yield Form("binary, one logit, as it is", "`model`", one, "body", of_one, labels, 2)
    yield Form(
        "binary, one logit",
        "`BinaryClassifier(model)`",
        BinaryClassifier(one),
        "model.body",
        of_one,
        labels,
        2,
    )
    sigmoids = nn.Sequential(several, nn.Sigmoid())
    yield Form(
        "multi-label, sigmoids as they are", "`model`", sigmoids, "0.body", of_several, labels, 2
    )
    yield Form(
        "multi-label, logits",
        "`BinaryClassifier(model, label=1)`",
        BinaryClassifier(several, 1),
        "model.body",
        of_several,
        labels,
        2,
    )
    yield Form(
        "multi-label, sigmoids",
        "`BinaryClassifier(model, label=1, probabilities=True)`",
        BinaryClassifier(sigmoids, 1, probabilities=True),
        "model.0.body",
        of_several,
        labels,
        2,
    )


def _others(images: Tensor, labels: Tensor) -> Iterator[Form]:
    from torchvision.models import VisionTransformer

    torch.manual_seed(2)
    sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}
    vit = VisionTransformer(image_size=SIDE, patch_size=4, num_classes=CLASSES, **sizes)
    model = trained(nn.Sequential(nn.Conv2d(1, 3, 1), vit), images, labels)
    plain = copy.deepcopy(model).eval()
    yield Form(
        "vision transformer", "`model`, layer `encoder.ln`", model, vit.encoder.ln, plain, labels
    )
    encoder = Net().body
    with torch.no_grad():
        features = encoder.eval()(images)
    head = trained(nn.Linear(12, CLASSES), features, labels)
    probe = nn.Sequential(encoder, head)
    yield Form(
        "self-supervised features and a linear head",
        "`nn.Sequential(encoder, head)`, layer `encoder`",
        probe,
        encoder,
        copy.deepcopy(probe).eval(),
        labels,
    )


def outcome(form: Form, deduce: bool) -> str:
    """Search with one explainer, and say in words how it went.

    Args:
        form: The model.
        deduce: With DeDUCE and a density of its own; else with JSMA.

    Raises:
        WrongAnswerError: An image that was called found is not one.
    """
    images, _ = data()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            explainer: JSMA | DeDUCE = JSMA(form.model)
            if deduce:
                batches = [(images, form.labels)]
                density = ClassGaussianMixture.fit_loader(
                    form.model, form.layer, batches, covariance_type="full", regularization="oas"
                )
                explainer = DeDUCE(form.model, form.layer, density)
            target = (form.labels[:20] + 1) % form.classes
            result = explainer.generate(images[:20], target)
    except (TypeError, ValueError) as error:
        return f"refused: {_first(str(error))}"
    with torch.no_grad():
        seen = form.plain(result.counterfactuals).softmax(1).gather(1, target[:, None])[:, 0]
    held = result.success & (seen > 0.5 - 0.02)
    if not torch.equal(held, result.success) or not result.success.any():
        raise WrongAnswerError(f"{form.name}: {int(held.sum())} of {result} hold")
    return "works"


def _first(message: str) -> str:
    """The beginning of an error's message, up to where the remedy starts."""
    short = message.replace("\n", " ").split("; ")[0].split(": ")[0]
    return short if len(short) <= 90 else f"{short[:87].rsplit(' ', 1)[0]} ..."


def table() -> str:
    """Every form with both explainers, as Markdown."""
    lines = ["| your model | pass | JSMA, Wachter ... | DeDUCE |", "|---|---|---|---|"]
    lines += [
        f"| {form.name} | {form.how} | {outcome(form, False)} | {outcome(form, True)} |"
        for form in forms()
    ]
    return "\n".join(lines)

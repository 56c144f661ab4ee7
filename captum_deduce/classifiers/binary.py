"""One question of a classifier that answers by sigmoids: is this finding there, or not?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from captum_deduce import checks

EACH = "each"
"""In a label's place: every image comes with its own."""


class BinaryClassifier(nn.Module):
    r"""A model of one logit, or one label of a multi-label model, as a classifier of two classes.

    Explainers take class scores, of which a softmax makes probabilities. A model with a sigmoid for
    each label has no such scores: a softmax over its labels would mix questions that have nothing
    to do with one another. Asked about one label with the logit z, this one returns the scores
    :math:`(0, z)`, whose softmax is :math:`(1 - \sigma(z), \sigma(z))`: class 1 means that the
    label is there, class 0 that it is not, and ``confidence`` is the sigmoid.

    Layers keep their modules (``model.avgpool``), and their names begin with ``model.``. A density
    is fitted to this classifier with the labels 0 and 1 of the one question.

    Args:
        model (nn.Module): Returns one logit for each image (N or N x 1), or N x L of them. Not
            copied.
        label (int or str, optional): Which of the L, or ``"each"``: each image comes with its own,
            as the first of what the model is called with after the images. Default: None (a model
            of one logit)
        probabilities (bool, optional): The model returns sigmoids in place of logits; where these
            are rounded to 0 or 1 a search can't move. Default: False

    Raises:
        TypeError: A model that is no module, or a label that is no integer.
        ValueError: A negative label, or a word that is not "each".

    Examples::

        >>> findings = nn.Sequential(nn.Flatten(), nn.Linear(64, 14))  # trained with a BCE loss
        >>> images = torch.rand(3, 1, 8, 8)
        >>> asked = BinaryClassifier(findings, label=5)
        >>> torch.allclose(asked(images).softmax(1)[:, 1], findings(images).sigmoid()[:, 5])
        True

        A label of its own for each image, switched on in the first and off in the others:

        >>> from captum_deduce import JSMA
        >>> result = JSMA(BinaryClassifier(findings, label="each")).generate(
        ...     images, target=[1, 0, 0], additional_forward_args=torch.tensor([5, 5, 13]))
        >>> len(result)
        3
    """

    def __init__(
        self, model: nn.Module, label: int | str | None = None, *, probabilities: bool = False
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
        if isinstance(label, str):
            checks.choice("label", label, (EACH,))
        elif label is not None:
            checks.number("label", label, minimum=0, integer=True)
        checks.flag("probabilities", probabilities)
        self.model = model
        self.label = label
        self.probabilities = probabilities
        # Not train(), which would change the mode of the model's parts.
        self.training = model.training

    def forward(self, inputs: Tensor, *arguments: Any) -> Tensor:
        """Compute the scores of no and yes.

        Args:
            inputs (Tensor): N x ...
            *arguments (Any): With ``label="each"`` first the label to ask about for each image, N
                or N x 1 integers; then what the model takes besides.

        Returns:
            Tensor: N x 2.

        Raises:
            TypeError: The model returned no tensor, or labels of images are no integers.
            ValueError: No label was chosen of several, one that the model does not have, or
                another number of labels than images.
        """
        labels: Any = None
        if self.label == EACH:
            labels, *rest = arguments or (None,)
            arguments = tuple(rest)
        logits = self._chosen(self.model(inputs, *arguments), labels, len(inputs))
        if self.probabilities:
            logits = torch.logit(logits, eps=torch.finfo(logits.dtype).eps)
        return torch.stack([torch.zeros_like(logits), logits], 1)

    def _chosen(self, output: object, labels: object, count: int) -> Tensor:
        if not isinstance(output, Tensor):
            raise TypeError(f"model must return a tensor of logits, got {type(output).__name__}")
        rows = output.reshape(count, -1) if output.shape[:1] == (count,) else output
        if rows.dim() != 2 or output.dim() > 2:
            raise ValueError(
                "model must return one logit, or one for each label, for each of "
                f"{count} image(s), got shape {tuple(output.shape)}"
            )
        several = rows.shape[1]
        if labels is None and not isinstance(self.label, int):
            if several != 1:
                raise ValueError(
                    f"model returns {several} logits for each image: say which label is asked "
                    "about, by BinaryClassifier(model, label=...), or for each image by "
                    "label='each' and additional_forward_args=labels"
                )
            return rows[:, 0]
        asked = self.label if labels is None else labels
        chosen = checks.targets(asked, count, several, "label").expand(count)
        return rows.gather(1, chosen.to(rows.device).unsqueeze(1)).squeeze(1)

r"""IM1 and IM2: whether autoencoders of single classes know a counterfactual."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from captum_deduce import checks
from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.metrics.forward import BATCH_SIZE, reconstructions
from captum_deduce.search.losses import l1_norm, squared_norm

Reconstruction = Callable[[Tensor], Tensor]
"""N images to N images of the same shape, such as :class:`captum_deduce.models.Autoencoder`."""


class IM1:
    r"""Does the target's autoencoder reconstruct it better than that of the original class?

    The first interpretability metric of Van Looveren and Klaise, *Interpretable Counterfactual
    Explanations Guided by Prototypes* (2019), for a counterfactual :math:`x'` of class i, made from
    an image that the model had put into class :math:`t_0`:

    .. math::
        \mathrm{IM1} = \frac{\|x' - \mathrm{AE}_i(x')\|_2^2}
        {\|x' - \mathrm{AE}_{t_0}(x')\|_2^2 + \epsilon}

    with an autoencoder :math:`\mathrm{AE}_c` for each class, trained on that class alone, as by
    :func:`captum_deduce.training.train_class_autoencoders`. Lower is better; below 1 the
    target's autoencoder is the better one.

    The number is only as good as the autoencoders. One with a wide code reconstructs every class,
    and all ratios are near 1; one that has not learned its class yet reconstructs none. So first
    take the ratio of held-out images of the classes, with other classes as :math:`t_0`: nearly all
    must lie below 1, and well. Compare values of the same autoencoders only.

    Args:
        autoencoders (Sequence[Callable] or nn.ModuleList): One per class, in the classes' order.
            They run in eval mode and are left as they were found.
        epsilon (float, optional): Keeps the ratio finite; the paper gives no value. Default: 1e-8
        batch_size (int, optional): Images per forward pass. Default: 500

    Raises:
        TypeError: An autoencoder that can't be called, or a number of the wrong kind.
        ValueError: Fewer than two autoencoders, or a number out of its range.
    """

    def __init__(
        self,
        autoencoders: Sequence[Reconstruction],
        *,
        epsilon: float = 1e-8,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        self.autoencoders = _one_per_class(autoencoders)
        checks.number("epsilon", epsilon, minimum=0)
        checks.number("batch_size", batch_size, minimum=1, integer=True)
        self.epsilon = epsilon
        self.batch_size = batch_size

    def ratio(self, images: Tensor, target: object, original: object) -> Tensor:
        """Compare the two reconstruction errors.

        Args:
            images (Tensor): Counterfactuals, N x channels x height x width.
            target (int, list or Tensor): Their classes i, N or one for all.
            original (int, list or Tensor): The originals' classes :math:`t_0`, likewise.

        Returns:
            Tensor: N ratios, from 0.

        Raises:
            TypeError: Images or classes of the wrong kind.
            ValueError: A class without autoencoder, images that are not finite, or an autoencoder
                that returns images of another shape.
        """
        checks.images(images)
        errors = [
            squared_norm(images - _by_class(self, images, classes, name))
            for name, classes in (("target", target), ("original", original))
        ]
        return errors[0] / (errors[1] + self.epsilon)

    def __call__(self, result: Counterfactuals) -> Tensor:
        """Judge counterfactuals; :math:`t_0` is the model's prediction of the original.

        Args:
            result (Counterfactuals): N pairs.

        Returns:
            Tensor: N ratios, as of :meth:`ratio`.
        """
        return self.ratio(result.counterfactuals, result.target, result.prediction)


class IM2:
    r"""Do the target's autoencoder and that of all classes see the same image?

    The second interpretability metric of Van Looveren and Klaise (see :class:`IM1`), for a
    counterfactual :math:`x'` of class i:

    .. math::
        \mathrm{IM2} = \frac{\|\mathrm{AE}_i(x') - \mathrm{AE}(x')\|_2^2}{\|x'\|_1 + \epsilon}

    with :math:`\mathrm{AE}` trained on all classes. Lower is better. It is in the images' units and
    relative to their :math:`L_1` norm, in which 0 is the background; an all-zero image has a huge
    value.

    Args:
        autoencoders (Sequence[Callable] or nn.ModuleList): One per class, as for :class:`IM1`.
        autoencoder (Callable): Of all classes, with the same architecture.
        epsilon (float, optional): As for :class:`IM1`. Default: 1e-8
        batch_size (int, optional): Images per forward pass. Default: 500

    Raises:
        TypeError: An autoencoder that can't be called, or a number of the wrong kind.
        ValueError: Fewer than two autoencoders, or a number out of its range.
    """

    def __init__(
        self,
        autoencoders: Sequence[Reconstruction],
        autoencoder: Reconstruction,
        *,
        epsilon: float = 1e-8,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        self.autoencoders = _one_per_class(autoencoders)
        self.autoencoder = checks.callable_model("autoencoder", autoencoder)
        checks.number("epsilon", epsilon, minimum=0)
        checks.number("batch_size", batch_size, minimum=1, integer=True)
        self.epsilon = epsilon
        self.batch_size = batch_size

    def difference(self, images: Tensor, target: object) -> Tensor:
        """Compare the two reconstructions.

        Args:
            images (Tensor): Counterfactuals, N x channels x height x width.
            target (int, list or Tensor): Their classes i, N or one for all.

        Returns:
            Tensor: N values, from 0.

        Raises:
            TypeError: Images or classes of the wrong kind.
            ValueError: A class without autoencoder, images that are not finite, or an autoencoder
                that returns images of another shape.
        """
        checks.images(images)
        of_target = _by_class(self, images, target, "target")
        of_all = _reconstructed("autoencoder", self.autoencoder, images, self.batch_size)
        return squared_norm(of_target - of_all) / (l1_norm(images) + self.epsilon)

    def __call__(self, result: Counterfactuals) -> Tensor:
        """Judge counterfactuals.

        Args:
            result (Counterfactuals): N pairs.

        Returns:
            Tensor: N values, as of :meth:`difference`.
        """
        return self.difference(result.counterfactuals, result.target)


def _one_per_class(autoencoders: Sequence[Reconstruction]) -> list[Reconstruction]:
    if not isinstance(autoencoders, Sequence | nn.ModuleList):
        raise TypeError(
            "autoencoders must be a list with one autoencoder per class, got "
            f"{type(autoencoders).__name__}"
        )
    if len(autoencoders) < 2:
        raise ValueError(
            f"autoencoders must hold one autoencoder per class, got {len(autoencoders)}"
        )
    return [
        checks.callable_model(f"autoencoders[{index}]", autoencoder)
        for index, autoencoder in enumerate(autoencoders)
    ]


def _by_class(metric: IM1 | IM2, images: Tensor, classes: object, name: str) -> Tensor:
    """Reconstruct each image by the autoencoder of its class."""
    of_images = checks.targets(classes, len(images), len(metric.autoencoders), name)
    made = torch.empty_like(images)
    for index in sorted(set(of_images.tolist())):
        rows = (of_images == index).to(images.device)
        made[rows] = _reconstructed(
            f"autoencoders[{index}]", metric.autoencoders[index], images[rows], metric.batch_size
        )
    return made


def _reconstructed(
    name: str, autoencoder: Reconstruction, images: Tensor, batch_size: int
) -> Tensor:
    try:
        return reconstructions(autoencoder, images, batch_size)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error

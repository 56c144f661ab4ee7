r"""AnoGAN: how near a generative model comes to an image."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from captum_deduce import checks, progress
from captum_deduce.classifiers import FrozenModel, check_placement
from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.metrics.latent_descent import LatentDescent, Objective, Schedule


@dataclass(frozen=True)
class _Optimizer:
    steps: int
    step_size: float
    candidates: int


OPTIMIZERS = {"sgd": _Optimizer(4000, 0.03, 0), "adam": _Optimizer(1000, 0.3, 2000)}
"""The optimizers of :class:`AnoGAN`, with the numbers that they have by default."""


class AnoGAN:
    r"""The AnoGAN score: the distance of an image from the nearest that a generator draws.

    From several starts it descends in latent space on (equation 7 of the DeDUCE paper)

    .. math::
        \|G(\mathbf z) - \mathbf x\|_1
        + \lambda\, \|f_D(G(\mathbf z)) - f_D(\mathbf x)\|_1,

    both norms sums over entries; the score is the smallest of the starts' final losses. The more an
    image looks like what the generator was trained on, the smaller it is.

    Sources: Schlegl et al., *Unsupervised Anomaly Detection with Generative Adversarial Networks to
    Guide Marker Discovery*, 2017; as described and set in section 4.1 of Höltgen et al., *DeDUCE*,
    2021, whose settings are the defaults: plain gradient descent, the last fifth of it with a tenth
    of the step.

    These scores are noisy. Under the published networks the scores of 16 published counterfactuals
    had a standard deviation over three seeds of 8% on average, and of 35% at most. With
    ``optimizer="adam"`` it was 4% on average and 8% at most. The scores were 8% lower then, after a
    quarter of the evaluations, so don't compare scores of one optimizer with those of the other.
    Adam starts at the best of ``candidates`` draws, and its steps shrink along half a cosine. Its
    moving averages are short (0.7 and 0.95), as slopes of absolute values do not shrink near a
    minimum.

    A score is a function of the image (to single precision) and the seed alone, whatever else is
    scored with it.

    An instance is called with :class:`~captum_deduce.Counterfactuals` and gives one value a pair,
    as :func:`~captum_deduce.metrics.evaluate` wants it.

    Args:
        generator (Callable or nn.Module): G, from N x ``latent_size`` latents to N images, such as
            :meth:`WGAN.generate <captum_deduce.models.WGAN.generate>`. Its modules and those of
            ``feature_map`` are held in eval mode during a call and left as they were found.
        feature_map (Callable or nn.Module): :math:`f_D`, from N images to N x ..., such as
            :meth:`WGAN.features <captum_deduce.models.WGAN.features>`.
        latent_size (int or Sequence[int], optional): Shape of one latent; their distribution is
            standard normal. Default: 64
        feature_weight (float, optional): :math:`\lambda`. Default: 0.1
        optimizer (str, optional): ``"sgd"``, as published, or ``"adam"``. Default: "sgd"
        restarts (int, optional): Starts of an image. Default: 3
        steps (int, optional): Steps of each start. Default: None, which is 4000 with "sgd" and
            1000 with "adam"
        step_size (float, optional): Step at the beginning. Default: None, which is 0.03 with "sgd"
            and 0.3 with "adam"
        candidates (int, optional): Each image starts at those of so many draws that have the
            smallest losses; 0: each at latents drawn for it. Default: None, which is 0 with "sgd"
            and 2000 with "adam"
        early_stop (bool, optional): Give up a start that after half of its steps has a loss,
            averaged over 100 steps, of twice its image's best. It changed no score of 8 such
            images. It saves little, as all starts are needed for as long as they are near one
            another. Default: False
        keep_small_step (bool, optional): Use the tenth of the step for all of the second and later
            starts, as the published code does by an oversight; for "sgd" only. Default: False
        seed (int, optional): Of the starts. Default: 0
        batch_size (int, optional): Starts that descend together, over all images; those of one
            image always do. Default: 128
        show_progress (bool, optional): Draw a progress bar over the images.
            Default: None (after two seconds, in a terminal or a notebook)

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: A number out of its range, fewer candidates than starts, or ``keep_small_step``
            with "adam".

    Examples::

        >>> from captum_deduce.models import WGAN
        >>> wgan = WGAN(image_size=8, hidden_channels=4)
        >>> anogan = AnoGAN(wgan.generate, wgan.features, optimizer="adam", steps=20)
        >>> anogan.score(torch.rand(3, 1, 8, 8)).shape
        torch.Size([3])
    """

    def __init__(
        self,
        generator: Callable[[Tensor], Tensor],
        feature_map: Callable[[Tensor], Tensor],
        *,
        latent_size: int | Sequence[int] = 64,
        feature_weight: float = 0.1,
        optimizer: str = "sgd",
        restarts: int = 3,
        steps: int | None = None,
        step_size: float | None = None,
        candidates: int | None = None,
        early_stop: bool = False,
        keep_small_step: bool = False,
        seed: int = 0,
        batch_size: int = 128,
        show_progress: bool | None = None,
    ) -> None:
        self.generator = checks.callable_model("generator", generator)
        self.feature_map = checks.callable_model("feature_map", feature_map)
        checks.choice("optimizer", optimizer, tuple(OPTIMIZERS))
        usual = OPTIMIZERS[optimizer]
        self.latent_shape = _latent_shape(latent_size)
        self.feature_weight = feature_weight
        self.optimizer = optimizer
        self.restarts = restarts
        self.steps = usual.steps if steps is None else steps
        self.step_size = usual.step_size if step_size is None else step_size
        self.candidates = usual.candidates if candidates is None else candidates
        self.early_stop = early_stop
        self.keep_small_step = keep_small_step
        self.seed = seed
        self.batch_size = batch_size
        self.show_progress = show_progress
        self._check_settings()

    def _check_settings(self) -> None:
        checks.number("feature_weight", self.feature_weight, minimum=0)
        checks.number("restarts", self.restarts, minimum=1, integer=True)
        checks.number("steps", self.steps, minimum=0, integer=True)
        checks.number("step_size", self.step_size, minimum=0, exclusive=True)
        checks.number("candidates", self.candidates, minimum=0, integer=True)
        checks.number("seed", self.seed, minimum=0, integer=True)
        checks.number("batch_size", self.batch_size, minimum=1, integer=True)
        for name in ("early_stop", "keep_small_step"):
            checks.flag(name, getattr(self, name))
        progress.shown(self.show_progress)
        if 0 < self.candidates < self.restarts:
            raise ValueError(
                f"candidates must be 0 or at least restarts ({self.restarts}), got "
                f"{self.candidates}"
            )
        if self.keep_small_step and self.optimizer != "sgd":
            raise ValueError(
                f'keep_small_step is an option of optimizer="sgd", got {self.optimizer!r}'
            )

    def __call__(self, result: Counterfactuals) -> Tensor:
        """Score counterfactuals.

        Args:
            result (Counterfactuals): N pairs.

        Returns:
            Tensor: N scores, see :meth:`score`.
        """
        return self.score(result.counterfactuals)

    def score(self, images: Tensor) -> Tensor:
        """Score images.

        Args:
            images (Tensor): N x ..., like those that the generator draws.

        Returns:
            Tensor: N scores, at least 0, in units of the images' entries.

        Raises:
            TypeError: Images, or what generator or feature map return, of the wrong kind.
            ValueError: Images that are not finite; latents that the generator does not take; drawn
                images of another shape, dtype or device; or a feature map without one row for each
                image.
            RuntimeError: The loss of an image became infinite or NaN from all starts.
        """
        checks.images(images)
        objective = Objective(self.generator, self.feature_map, self.feature_weight)
        schedule = Schedule(self.optimizer, self.steps, self.step_size, self.keep_small_step)
        descent = LatentDescent(
            objective,
            schedule,
            batch_size=self.batch_size,
            early_stop=self.early_stop,
            show_progress=self.show_progress,
        )
        with FrozenModel(self.generator, companions=[self.feature_map]):
            self._check_models(images)
            losses = descent.final_losses(images, self._starts(objective, images))
        losses = losses.nan_to_num(nan=torch.inf)
        lost = torch.isinf(losses).all(1).nonzero().flatten().tolist()
        if lost:
            raise RuntimeError(
                f"the loss became infinite or NaN from all starts of {len(lost)} image(s), first "
                f"of image {lost[0]}; try a smaller step_size than {self.step_size:g}"
            )
        return losses.amin(1)

    def _starts(self, objective: Objective, images: Tensor) -> Tensor:
        """Latents to begin at: N x restarts x latent shape."""
        if self.candidates:
            source = torch.Generator().manual_seed(self.seed)
            drawn = torch.randn(self.candidates, *self.latent_shape, generator=source).to(images)
            return objective.nearest(images, drawn, self.restarts, self.batch_size)
        shape = (self.restarts, *self.latent_shape)
        own = [torch.randn(shape, generator=self._source(image)) for image in images]
        return torch.stack(own).to(images)

    def _source(self, image: Tensor) -> torch.Generator:
        """Seeded by the image itself, so that neither its place nor its company matters."""
        digest = hashlib.blake2b(image.float().cpu().contiguous().numpy().tobytes(), digest_size=8)
        digest.update(str(self.seed).encode())
        return torch.Generator().manual_seed(int.from_bytes(digest.digest(), "big") >> 1)

    def _check_models(self, images: Tensor) -> None:
        for name, model in (("generator", self.generator), ("feature map", self.feature_map)):
            check_placement(name, model, images)
        latents = images.new_zeros(2, *self.latent_shape).requires_grad_()
        try:
            with torch.enable_grad():
                drawn = self.generator(latents.clone())
        except RuntimeError as error:
            raise ValueError(
                f"generator does not take latents of shape {tuple(latents.shape)}; is latent_size "
                f"({_words(self.latent_shape)}) right? {error}"
            ) from error
        if not isinstance(drawn, Tensor):
            raise TypeError(f"generator must return a tensor, got {type(drawn).__name__}")
        if drawn.shape != (2, *images.shape[1:]):
            raise ValueError(
                f"images must have the shape that the generator draws: got "
                f"{_words(images.shape[1:])}, and it draws {_words(drawn.shape[1:])}"
                f"{'' if len(drawn) == 2 else f' ({len(drawn)} images for 2 latents)'}"
            )
        if (drawn.dtype, drawn.device) != (images.dtype, images.device):
            raise ValueError(
                f"images are {images.dtype} on {images.device}, but the generator draws "
                f"{drawn.dtype} on {drawn.device}"
            )
        if not drawn.requires_grad:
            raise ValueError(
                "what the generator draws does not depend on its latents by operations that can "
                "be differentiated (does it detach them, or run under torch.no_grad?)"
            )
        with torch.no_grad():
            features = self.feature_map(drawn.detach())
        if not isinstance(features, Tensor):
            raise TypeError(f"feature_map must return a tensor, got {type(features).__name__}")
        if features.dim() < 2 or len(features) != 2 or features.dtype != images.dtype:
            raise ValueError(
                f"feature_map must return N x ... features of {images.dtype}, got shape "
                f"{tuple(features.shape)} and {features.dtype} for 2 images"
            )


def _latent_shape(latent_size: int | Sequence[int]) -> tuple[int, ...]:
    sides = tuple(latent_size) if isinstance(latent_size, Sequence) else (latent_size,)
    if not sides:
        raise ValueError("latent_size must name at least one size, got none")
    for side in sides:
        checks.number("latent_size", side, minimum=1, integer=True)
    return sides


def _words(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))

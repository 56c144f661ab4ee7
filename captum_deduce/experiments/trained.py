"""The models that experiments need: each trained, or read from the cache, when first asked for."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import nn

from captum_deduce import MultiLayerClassifier, SmoothedClassifier, training
from captum_deduce.datasets import Splits
from captum_deduce.density import ClassGaussianMixture
from captum_deduce.experiments.plan import OracleRecipe, Size
from captum_deduce.models import (
    VAE,
    WGAN,
    Autoencoder,
    SmallClassifier,
    SmallCNN,
    SmallVGG,
    StoredModel,
)
from captum_deduce.prototypes import PrototypeIndex
from captum_deduce.storage import cache, fingerprint
from captum_deduce.zoo import (
    Checkpoint,
    make_prototypes,
    obtain_classifier,
    obtain_reconstruction,
    plan_classifier,
)

Judge = TypeVar("Judge", bound=SmallClassifier)


class Trained:
    """The models of one size, in eval mode on one device.

    Args:
        size (Size): How they are trained.
        splits (Splits): On what, with the size's seed.
        device (torch.device): Where.
        show_progress (bool): Draw progress bars.
    """

    def __init__(
        self, size: Size, splits: Splits, device: torch.device, show_progress: bool
    ) -> None:
        self.size = size
        self.splits = splits
        self.device = device
        self.show_progress = show_progress

    @cached_property
    def normalised(self) -> Checkpoint:
        """The spectrally normalised classifier, which DeDUCE explains, with its density."""
        return self._classifier("sn_resnet18", with_density=True)

    @cached_property
    def noise_trained(self) -> Checkpoint:
        """The same, trained with noise, which makes its counterfactuals more real."""
        return self._classifier(
            "sn_resnet18",
            with_density=True,
            noise=self.size.noise,
            epochs=self.size.noise_epochs,
        )

    @cached_property
    def smoothed(self) -> tuple[SmoothedClassifier, ClassGaussianMixture]:
        """The classifier trained with noise, averaged over noise, and the density of its means."""
        size, checkpoint = self.size, self.noise_trained
        smoothed = SmoothedClassifier(
            checkpoint.model,
            checkpoint.settings.layer,
            noise=size.smoothing,
            copies=size.smoothing_copies,
        ).eval()
        # As the classifier's own: shrunk where images are few for their features.
        shrunk = checkpoint.density is not None and checkpoint.density.regularization == "oas"
        arguments = {"regularization": "oas"} if shrunk else {}
        return smoothed, self._density("smoothed", smoothed, smoothed.features, **arguments)

    @cached_property
    def multi_layer(self) -> tuple[MultiLayerClassifier, ClassGaussianMixture]:
        """The classifier trained as usual, with the density of an early and its last layer."""
        return self._multi_layer(self.normalised, "multi-layer")

    @cached_property
    def noise_multi_layer(self) -> tuple[MultiLayerClassifier, ClassGaussianMixture]:
        """The same of the classifier trained with noise."""
        return self._multi_layer(self.noise_trained, "noise-multi-layer")

    @cached_property
    def plain(self) -> Checkpoint:
        """The classifier that the baselines explain, without spectral normalisation."""
        return self._classifier("resnet18", with_density=False)

    @cached_property
    def plain_described(self) -> Checkpoint:
        """The same with a density, as DeDUCE needs one; it is kept apart from the classifier."""
        layer = self.plain.settings.layer
        known = self.normalised.density
        regularization = "jitter" if known is None else known.regularization
        density = self._density("plain", self.plain.model, layer, regularization=regularization)
        return replace(self.plain, density=density)

    @cached_property
    def plain_multi_layer(self) -> tuple[MultiLayerClassifier, ClassGaussianMixture]:
        """The same, with the density of an early and its last layer."""
        return self._multi_layer(self.plain, "plain-multi-layer")

    @cached_property
    def autoencoder(self) -> Autoencoder:
        """Of VLK."""
        return cast(Autoencoder, self._reconstruction("autoencoder"))

    @cached_property
    def prototypes(self) -> PrototypeIndex:
        """The training images as VLK's encoder sees them, by the plain classifier's classes."""
        return make_prototypes(self.plain.model, self.autoencoder.encoder, self.splits.train)

    @cached_property
    def vae(self) -> VAE:
        """Of REVISE."""
        return cast(VAE, self._reconstruction("vae"))

    @cached_property
    def wgan(self) -> WGAN:
        """Of AnoGAN."""
        return cast(WGAN, self._reconstruction("wgan"))

    @cached_property
    def oracles(self) -> list[SmallCNN]:
        """Classifiers that no explainer knows, of another architecture and from other seeds."""
        return self._oracles(SmallCNN, "small_cnn", self.size.oracle)

    @cached_property
    def vgg_oracles(self) -> list[SmallVGG]:
        """Further oracles of another architecture, as what one making sees may be its whim."""
        return self._oracles(SmallVGG, "small_vgg", self.size.vgg_oracle)

    def accuracies(self) -> dict[str, float]:
        """Share of test images that each classifier gets right, of those that were asked for.

        Returns:
            dict[str, float]: By name.
        """
        known: dict[str, nn.Module] = {}
        for name in ("normalised", "plain", "noise_trained"):
            if name in vars(self):
                settings, model = getattr(self, name).settings, getattr(self, name).model
                noise = f", noise up to {settings.noise:g}" if settings.noise else ""
                known[settings.architecture + noise] = model
        if "oracles" in vars(self):
            known |= {f"oracle {place}": model for place, model in enumerate(self.oracles, 1)}
        if "vgg_oracles" in vars(self):
            first = 1 + len(self.size.oracle.seeds)
            known |= {
                f"oracle {place}": model for place, model in enumerate(self.vgg_oracles, first)
            }
        return {name: training.accuracy(model, self.splits.test) for name, model in known.items()}

    def _multi_layer(
        self, checkpoint: Checkpoint, name: str
    ) -> tuple[MultiLayerClassifier, ClassGaussianMixture]:
        layers = {"stages.1": self.size.grid, checkpoint.settings.layer: None}
        model = MultiLayerClassifier(checkpoint.model, layers).eval()
        return model, self._density(name, model, model.features, regularization="oas")

    def _density(
        self, name: str, model: nn.Module, layer: nn.Module | str, **arguments: Any
    ) -> ClassGaussianMixture:
        print(f"\n{name} density:")
        settings = {
            "dataset": self.size.dataset,
            "seed": self.size.seed,
            "model": fingerprint(model),
            **arguments,
        }
        return cache.obtain(
            cache.path_for(f"{self.size.dataset}-{name}-density", settings),
            "density",
            load=lambda path: ClassGaussianMixture.load(path, self.device),
            make=lambda: ClassGaussianMixture.fit_loader(
                model,
                layer,
                self.splits.train.batches(),
                show_progress=self.show_progress,
                covariance_type="full",
                **arguments,
            ),
            save=lambda path, density: density.save(path),
        )

    def _classifier(
        self,
        architecture: str,
        *,
        with_density: bool,
        noise: float = 0.0,
        epochs: int | None = None,
    ) -> Checkpoint:
        size, recipe = self.size, self.size.classifier.overridden(epochs=epochs)
        print(f"\n{architecture}{', trained with noise' if noise else ''}:")
        return obtain_classifier(
            plan_classifier(
                size.dataset, self.splits.train, architecture, recipe, size.seed, noise
            ),
            self.splits,
            recipe.batch_size,
            self.device,
            self.show_progress,
            with_density=with_density,
        )

    def _reconstruction(self, name: str) -> StoredModel:
        print(f"\n{name}:")
        return obtain_reconstruction(
            name,
            self.size.dataset,
            self.splits,
            getattr(self.size, name),
            self.size.seed,
            self.device,
            self.show_progress,
        )

    def _oracles(self, kind: type[Judge], name: str, recipe: OracleRecipe) -> list[Judge]:
        return [self._oracle(kind, name, recipe, seed) for seed in recipe.seeds]

    def _oracle(self, kind: type[Judge], name: str, recipe: OracleRecipe, seed: int) -> Judge:
        print(f"\noracle of seed {seed}:")
        train = self.splits.train
        channels, height, columns = train.images.shape[1:]
        arguments: dict[str, Any] = {
            "in_channels": channels,
            "num_classes": len(train.class_names),
            "width": recipe.width,
            "image_size": (height, columns),
        }

        def load(path: Path) -> Judge:
            return kind.load(path, self.device)

        def make() -> Judge:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model = kind(**arguments)
            training.train_classifier(
                model,
                train,
                epochs=recipe.epochs,
                batch_size=recipe.batch_size,
                learning_rate=recipe.learning_rate,
                seed=seed,
                device=self.device,
                show_progress=self.show_progress,
            )
            return model.eval()

        settings = {
            **asdict(recipe),
            "seeds": [seed],
            "model": name,
            "dataset": self.size.dataset,
            "data_seed": self.size.seed,
            "arguments": arguments,
        }
        return cache.obtain(
            cache.path_for(f"{self.size.dataset}-oracle", settings),
            "oracle",
            load=load,
            make=make,
            save=lambda path, model: model.save(path),
        )

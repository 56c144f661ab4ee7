"""Models of the smallest size, trained once a session, that the experiments' tests share."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from captum_deduce import datasets
from captum_deduce.experiments.plan import SMOKE, OracleRecipe, Scoring, Size
from captum_deduce.experiments.runs import Store
from captum_deduce.experiments.trained import Trained
from captum_deduce.zoo.recipes import ReconstructionRecipe


@pytest.fixture(scope="session")
def tiny() -> Size:
    briefly = ReconstructionRecipe(2, batch_size=64, learning_rate=3e-3)
    return replace(
        SMOKE,
        sets=1,
        classifier=replace(SMOKE.classifier, width=4, epochs=5),
        oracle=OracleRecipe(12, batch_size=64, learning_rate=0.05, width=4),
        autoencoder=briefly,
        vae=briefly,
        wgan=replace(briefly, epochs=1),
        vlk_steps=20,
        revise=replace(SMOKE.revise, max_iterations=30),
        revise_grid=tuple(replace(one, max_iterations=15) for one in SMOKE.revise_grid),
        anogan=Scoring("adam", steps=2, candidates=4, pairs=2),
        vgg_oracle=OracleRecipe(12, batch_size=64, learning_rate=0.05, width=4, seeds=(201, 202)),
    )


@pytest.fixture(scope="session")
def _models(tiny: Size, cache_of_this_run) -> Trained:
    return Trained(tiny, datasets.load_digits(tiny.seed), torch.device("cpu"), False)


@pytest.fixture
def models(_models: Trained) -> Trained:
    """Trained when they are first asked for, and shared by all tests."""
    return _models


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "runs", torch.device("cpu"))

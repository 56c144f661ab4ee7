from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from captum_deduce import datasets
from captum_deduce.zoo import reconstructions
from captum_deduce.zoo.recipes import RECIPES, RECONSTRUCTIONS, ReconstructionRecipe

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def splits() -> datasets.Splits:
    return datasets.load("digits")


def test_every_model_has_a_recipe_for_every_data_set():
    assert set(reconstructions.RECONSTRUCTION_MODELS) == set(RECONSTRUCTIONS)
    for recipes in RECONSTRUCTIONS.values():
        assert set(recipes) == set(RECIPES)


@pytest.mark.parametrize("name", ["autoencoder", "vae"])
def test_what_is_printed_is_measured_on_the_test_images(name, splits, capsys):
    recipe = ReconstructionRecipe(3, batch_size=64, learning_rate=3e-3, threads=1)
    model = reconstructions.fit_reconstruction(name, splits, recipe, 1, CPU, False)
    printed = capsys.readouterr().out
    errors = re.search(r"on 500 test images: (\S+) \(.* place: (\S+)\)", printed)
    test, mean_image = splits.test.images, splits.train.images.mean(0)
    with torch.no_grad():
        expected = (model(test) - test).square().mean().item()
    assert float(errors[1]) == pytest.approx(expected, rel=0.05)
    assert float(errors[2]) == pytest.approx((test - mean_image).square().mean().item(), rel=0.05)
    assert f"{len(splits.train):,} images" in printed
    assert not model.training


def test_of_a_gan_the_critics_estimate_is_printed(splits, capsys):
    recipe = ReconstructionRecipe(2, batch_size=64, learning_rate=1e-3, threads=1)
    model = reconstructions.fit_reconstruction("wgan", splits, recipe, 1, CPU, False)
    printed = capsys.readouterr().out
    found = re.search(r"from 500 test images: (\S+) \(.* place: (\S+)\)", printed)
    latents = torch.randn(500, 64, generator=torch.Generator().manual_seed(1))
    test, train = splits.test.images, splits.train.images[:500]
    with torch.no_grad():
        real, drawn, others = map(model.judge, (test, model.generate(latents), train))
    assert float(found[1]) == pytest.approx((real.mean() - drawn.mean()).item(), rel=0.05)
    assert float(found[2]) == pytest.approx((real.mean() - others.mean()).item(), rel=0.1, abs=1e-4)
    assert not model.training


def test_the_seed_decides_and_the_global_generator_is_left_alone(splits, capsys):
    recipe = ReconstructionRecipe(1, threads=1)
    state = torch.random.get_rng_state()
    first, again, other = (
        reconstructions.fit_reconstruction(
            "autoencoder", splits, recipe, seed, CPU, False
        ).state_dict()
        for seed in (1, 1, 2)
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.slow
def test_the_recipe_for_digits_learns_to_reconstruct_them(splits, capsys):
    """Better than the 4 leading principal components."""
    recipe = RECONSTRUCTIONS["autoencoder"]["digits"]
    model = reconstructions.fit_reconstruction("autoencoder", splits, recipe, 0, CPU, False)
    train, test = splits.train.images.flatten(1), splits.test.images
    directions = torch.linalg.svd(train - train.mean(0), full_matrices=False).Vh[:4]
    rest = test.flatten(1) - train.mean(0)
    rest = rest - rest @ directions.T @ directions
    with torch.no_grad():
        assert (model(test) - test).square().mean() < 0.6 * rest.square().mean()


def test_a_model_is_kept_by_all_that_it_depends_on(splits, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CAPTUM_DEDUCE_CACHE", str(tmp_path))
    fitted = []

    def note(name, splits, recipe, seed, device, show_progress):
        fitted.append((name, recipe, seed))
        return reconstructions.RECONSTRUCTION_MODELS[name][0](image_size=8)

    monkeypatch.setattr(reconstructions, "fit_reconstruction", note)
    recipe = ReconstructionRecipe(3, batch_size=64, threads=1)

    def obtain(name="vae", dataset="digits", splits=splits, recipe=recipe, seed=0, **arguments):
        return reconstructions.obtain_reconstruction(
            name, dataset, splits, recipe, seed, CPU, False, **arguments
        ).state_dict()

    first = obtain()
    assert fitted == [("vae", recipe, 0)]
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("digits-vae-")
    for again in (obtain(), obtain(recipe=replace(recipe, threads=2))):
        assert all(torch.equal(first[name], again[name]) for name in first)
    assert len(fitted) == 1
    assert "VAE: 3 epochs on digits" in capsys.readouterr().out

    wide = torch.zeros(2, 1, 8, 9)
    other = splits._replace(train=replace(splits.train[:2], images=wide))
    for change in (
        {"name": "autoencoder"},
        {"dataset": "digits-1000"},
        {"splits": other},
        {"seed": 1},
        {"recipe": replace(recipe, epochs=4)},
        {"recipe": replace(recipe, batch_size=65)},
        {"recipe": replace(recipe, learning_rate=0.5)},
        {"retrain": True},
    ):
        before = len(fitted)
        obtain(**change)
        assert len(fitted) == before + 1, change
    assert len(list(tmp_path.iterdir())) == 8

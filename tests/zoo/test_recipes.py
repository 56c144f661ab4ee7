from __future__ import annotations

from captum_deduce import datasets
from captum_deduce.zoo.recipes import RECIPES, SMOKE, Recipe


def test_every_data_set_has_a_recipe():
    assert tuple(RECIPES) == datasets.DATASETS


def test_what_is_given_overrides_a_recipe_and_zero_is_given():
    recipe = Recipe(width=8, epochs=3, batch_size=32, images=None)
    assert recipe.overridden(width=4, epochs=None, images=0) == Recipe(4, 3, 32, 0)
    assert recipe.overridden() == recipe


def test_a_classifier_of_the_smallest_recipe_trains_as_the_cache_thinks():
    # cached files are told apart by width and epochs, not by batch size
    assert SMOKE.batch_size == RECIPES["digits"].batch_size

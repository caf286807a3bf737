from __future__ import annotations

from dataclasses import replace

import pytest

from emoclim_cli.losses import LOSSES
from emoclim_cli.recipes import LOSS_SETTINGS, RECIPES, Recipe, with_loss


def test_the_defaults_are_the_papers() -> None:
    recipe = Recipe()
    assert (recipe.loss, recipe.hidden, recipe.dim, recipe.dropout, recipe.tau) == ("supcon", 256, 128, 0.2, 0.07)
    assert (recipe.learning_rate, recipe.batch, recipe.epochs, recipe.steps) == (1e-4, 64, 15, 100)
    assert (recipe.balanced, recipe.quadrants, recipe.best_epoch) == (False, False, True)
    assert RECIPES["paper"] == recipe
    assert not recipe.unfrozen
    assert recipe.body_learning_rate < recipe.learning_rate


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_a_loss_that_there_is(name: str) -> None:
    recipe = RECIPES[name]
    assert recipe.loss in LOSSES
    assert recipe == with_loss(recipe, recipe.loss)  # and what that loss asks for
    assert recipe.seed == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_another_loss_changes_only_what_it_asks_for(loss: str) -> None:
    recipe = RECIPES["shipped"]
    assert with_loss(recipe, loss) == replace(recipe, loss=loss, dim=2 if loss == "va-regression" else recipe.dim)


def test_only_losses_that_there_are_ask_for_something() -> None:
    assert set(LOSS_SETTINGS) <= set(LOSSES)

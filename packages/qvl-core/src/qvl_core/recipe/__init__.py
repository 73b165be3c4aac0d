"""Recipes: the one place where a run is stated. Read `sections/` for the keys, `load.py` for how one is loaded."""

# Loading.
from qvl_core.recipe.load import load_recipe

# What is loaded.
from qvl_core.recipe.schema import Origin, Recipe, Resolution, Task, recipe_json_schema

__all__ = ["Origin", "Recipe", "Resolution", "Task", "load_recipe", "recipe_json_schema"]

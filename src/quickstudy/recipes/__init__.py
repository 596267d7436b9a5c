"""Recipes: a family of tasks × a method × a training. `recipe_of`, `named` and the cards import nothing heavy."""

from typing import Any

from quickstudy.recipes.cards import CARDS as CARDS
from quickstudy.recipes.compose import Card as Card
from quickstudy.recipes.compose import Recipe as Recipe
from quickstudy.recipes.compose import named as named
from quickstudy.recipes.compose import recipe_of as recipe_of
from quickstudy.recipes.compose import refusal as refusal
from quickstudy.recipes.methods.labelled import composed as composed
from quickstudy.recipes.methods.rl2 import trials as trials
from quickstudy.recipes.outer import PPO as PPO
from quickstudy.recipes.outer import Evolution as Evolution
from quickstudy.recipes.outer import Gradient as Gradient
from quickstudy.recipes.problem import Composition as Composition
from quickstudy.recipes.problem import EnvironmentFamily as EnvironmentFamily
from quickstudy.recipes.problem import LabelledFamily as LabelledFamily
from quickstudy.recipes.problem import MethodConfig as MethodConfig
from quickstudy.recipes.problem import Problem as Problem
from quickstudy.recipes.problem import TasksConfig as TasksConfig
from quickstudy.recipes.problem import keys as keys
from quickstudy.recipes.registry import METHODS as METHODS
from quickstudy.recipes.registry import TASKS as TASKS
from quickstudy.recipes.tasks.classes import FewShot as FewShot
from quickstudy.recipes.tasks.classes import of_classes as of_classes


def configure(reference: str, values: dict[str, Any]) -> Recipe:
    """The recipe that a person has named, with these values of its fields; ConfigError names every one that does not
    exist or is no good."""
    recipe = named(reference).changed(**values)
    recipe.check()
    return recipe

"""The names that a recipe may write are those that scoring has, and a recipe is refused for the same pairs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import get_args

import pytest
from qvl_core.errors import RecipeError
from qvl_core.recipe import load_recipe
from qvl_core.recipe.sections.evaluation import EvalSection, RuleSet
from qvl_eval.benchmarks.catalogue import BENCHMARKS as ASKED
from qvl_eval.score.rule_sets import BENCHMARKS, EXACT, RULE_SETS, fitting_rules


def test_recipes_name_the_benchmarks_and_rule_sets_that_there_are() -> None:
    assert set(get_args(RuleSet)) == {*RULE_SETS, EXACT}
    assert set(get_args(EvalSection.model_fields["benchmark"].annotation)) == set(BENCHMARKS) == set(ASKED)


@pytest.mark.parametrize("benchmark", BENCHMARKS)
@pytest.mark.parametrize("rules", get_args(RuleSet))
def test_a_recipe_may_name_what_fits(write_recipe: Callable[..., Path], benchmark: str, rules: str) -> None:
    expected: AbstractContextManager[object] = (
        nullcontext() if rules in fitting_rules(benchmark) else pytest.raises(RecipeError, match="has no rules for")
    )
    with expected:
        load_recipe(write_recipe(), (f"eval.benchmark={benchmark}", f"eval.rules={rules}"))

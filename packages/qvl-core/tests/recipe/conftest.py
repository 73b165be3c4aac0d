"""A small complete recipe, and ways to load changed forms of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from qvl_core.errors import Problem, RecipeError
from qvl_core.recipe import Recipe, load_recipe

SMALL = """\
schema = 1
task = "sft"

[model]
name = "qwen2.5-vl-tiny"

[layout]
tp = 1
pp = 1

[weights]
source = "weights"

[data]
sources = [
  { path = "a.json" },
]

[train]
steps = 10
micro_batch = 2
global_batch = 8
optimizer = { lr = 1e-3 }

[launch]
device = "cpu"

[output]
dir = "runs/small"
"""

Load = Callable[..., Recipe]
Refuse = Callable[..., list[Problem]]


@pytest.fixture
def small() -> str:
    return SMALL


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Load a text as `recipe.toml` of an otherwise empty working directory; by default the small recipe."""
    monkeypatch.chdir(tmp_path)

    def load_text(*overrides: str, text: str = SMALL) -> Recipe:
        Path("recipe.toml").write_text(text, encoding="utf-8")
        return load_recipe("recipe.toml", overrides)

    return load_text


@pytest.fixture
def refuse(load: Load) -> Refuse:
    """Load what has to be refused, and give the problems."""

    def refuse_text(*overrides: str, text: str = SMALL) -> list[Problem]:
        with pytest.raises(RecipeError) as caught:
            load(*overrides, text=text)
        assert caught.value.exit_code == 2
        return list(caught.value.problems)

    return refuse_text

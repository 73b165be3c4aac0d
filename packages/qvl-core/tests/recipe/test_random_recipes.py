"""Random recipes: whatever they hold, they load or end as a RecipeError."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qvl_core.errors import Problem, RecipeError
from qvl_core.recipe import load_recipe
from qvl_core.recipe.draft import all_keys

KEYS = [path for path, _ in all_keys() if 0 not in path]
SCALARS = st.one_of(
    st.integers(-3, 70),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=True, allow_infinity=True),
    st.booleans(),
    st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\x7f"), max_size=8),
    st.sampled_from(
        ["sft", "eval", "infer", "qwen2.5-vl-tiny", "qwen2.5-vl-7b", "cpu", "ascend", "text", "localhost:5000"]
    ),
)
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=5), st.dictionaries(st.sampled_from("ab"), SCALARS, max_size=2))


def as_toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {as_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(as_toml(item) for item in value) + "]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value)


def loads_or_refuses(text: bytes, overrides: tuple[str, ...] = ()) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "recipe.toml"
        file.write_bytes(text)
        problems = problems_of(file, overrides)
    for problem in problems:
        assert problem.where
        assert problem.message
    assert not problems or any(problem.severity == "error" for problem in problems)


def problems_of(file: Path, overrides: tuple[str, ...]) -> tuple[Problem, ...]:
    try:
        recipe = load_recipe(file, overrides)
    except RecipeError as error:
        return error.problems
    assert recipe.digest()
    assert recipe.parallel.world_size >= 1
    return ()


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(changes=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6))
def test_random_values_of_real_keys(small: str, changes: dict[tuple[str, ...], Any]) -> None:
    overrides = tuple(f"{'.'.join(key)}={as_toml(value)}" for key, value in changes.items())
    loads_or_refuses(small.encode(), overrides)


@settings(max_examples=80, deadline=None)
@given(lines=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=12))
def test_random_files(lines: dict[tuple[str, ...], Any]) -> None:
    text = "\n".join(f"{'.'.join(key)} = {as_toml(value)}" for key, value in lines.items())
    loads_or_refuses(text.encode())


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes(content: bytes) -> None:
    loads_or_refuses(content)

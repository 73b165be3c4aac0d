"""`qvl schema`: a JSON schema that accepts what a recipe accepts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tomli


def test_prints_a_json_schema_with_a_description_of_every_top_level_key(qvl) -> None:
    result = qvl("schema")
    schema = json.loads(result.out)
    assert result.code == 0
    assert schema["$schema"].endswith("2020-12/schema")
    assert {"schema", "task", "model", "layout", "weights", "data", "train"} <= set(schema["properties"])
    assert all("description" in entry for entry in schema["properties"].values())


def test_the_schema_accepts_a_recipe_and_refuses_a_wrong_one(qvl, folder: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(json.loads(qvl("schema").out))
    recipe = tomli.loads((folder / "72b.toml").read_text())
    assert [error.message for error in validator.iter_errors(recipe)] == []
    recipe["layout"]["tensor"] = 4
    assert not validator.is_valid(recipe)

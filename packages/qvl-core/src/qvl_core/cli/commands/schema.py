"""`qvl schema`: the JSON schema of a recipe, for editors."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add `qvl schema`."""

    @app.command("schema")
    def schema() -> None:
        """Print the JSON schema of a recipe, for completion and checks in an editor."""
        import json

        from qvl_core.recipe import recipe_json_schema

        print(json.dumps(recipe_json_schema(), indent=2, ensure_ascii=False))

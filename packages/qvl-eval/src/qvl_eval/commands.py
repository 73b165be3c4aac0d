"""The commands that this package adds to `qvl`. Imports are light; each command does its own when it is run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from qvl_core.cli.parameters import Settings


def register(app: typer.Typer) -> None:
    """Add the commands; called by qvl-core through the entry point group `qvl.commands`."""

    @app.command("infer")
    def infer(
        recipe: Annotated[
            str, typer.Argument(metavar="RECIPE", help="A recipe, a TOML file; of any task.", show_default=False)
        ],
        prompt: Annotated[str, typer.Option("--prompt", "-p", help="The question.", show_default=False)],
        image: Annotated[
            list[Path] | None,
            typer.Option("--image", metavar="FILE", help="An image; may be given several times.", show_default=False),
        ] = None,
        settings: Settings = None,
        json: Annotated[bool, typer.Option("--json", help="Print question and answer as one line of JSON.")] = False,
    ) -> int:
        """Answer a question about any number of images with the recipe's weights.

        Exit 0 answered, 2 wrong input, 3 something needed is not installed.
        """
        from qvl_core.cli.launch import export_here
        from qvl_core.launch_plan import launch_plan
        from qvl_core.recipe import load_recipe

        from qvl_eval import infer as work

        loaded = load_recipe(recipe, settings or ())
        export_here(launch_plan(loaded, settings or (), ()))
        images = tuple(image or ())
        answer = work.infer(loaded, prompt, images)
        typer.echo(work.as_json(loaded, prompt, images, answer) if json else answer.text)
        return 0

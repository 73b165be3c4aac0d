"""`qvl check`: everything that is wrong with recipes, found without starting anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Annotated

import typer

from qvl_core.cli.parameters import Settings
from qvl_core.errors import EXIT_DONE, EXIT_WRONG_INPUT, InputError, Problem


class Format(str, Enum):
    """How the problems are written."""

    text = "text"
    json = "json"
    github = "github"


@dataclass(frozen=True, kw_only=True)
class Checked:
    """One file's result; `summary` says in one line what a clean recipe runs."""

    path: str
    problems: tuple[Problem, ...]
    summary: str = ""

    @property
    def clean(self) -> bool:
        return not any(problem.severity == "error" for problem in self.problems)


def register(app: typer.Typer) -> None:
    """Add `qvl check`."""

    @app.command("check")
    def check(
        recipes: Annotated[
            list[str], typer.Argument(metavar="RECIPE", help="Recipes, TOML files.", show_default=False)
        ],
        settings: Settings = None,
        format: Annotated[  # noqa: A002 (the option's name)
            Format, typer.Option("--format", help="text for people, json for programs, github for annotations.")
        ] = Format.text,
    ) -> int:
        """Check recipes: all problems at once, each with its line and a fix.

        A weights folder that is there is checked too; weights and data need not be there.
        Exit 0 if clean (warnings allowed), 2 if not.
        """
        checked = [check_recipe(path, settings or ()) for path in recipes]
        print(render(checked, format))
        return EXIT_DONE if all(one.clean for one in checked) else EXIT_WRONG_INPUT


def check_recipe(path: str, settings: Sequence[str] = ()) -> Checked:
    """Load one recipe, compare it with its weights folder if that exists, and give all problems."""
    from qvl_core.recipe import load_recipe
    from qvl_core.weights_fit import check_weights

    try:
        recipe = load_recipe(path, settings)
    except InputError as error:
        return Checked(path=path, problems=error.problems)
    problems = [*recipe.warnings, *check_weights(recipe)]
    layout, launch = recipe.parallel, recipe.launch
    processes = f"{layout.world_size} {launch.device} process" + ("es" if layout.world_size > 1 else "")
    summary = f"{recipe.task} of {recipe.spec.name}, tp {layout.tp} x pp {layout.pp} x dp {layout.dp} = {processes}"
    return Checked(path=path, problems=tuple(problems), summary=summary)


def render(checked: Sequence[Checked], format: Format) -> str:  # noqa: A002 (as in the command)
    """Give the output of the command."""
    from qvl_core.cli import problem_formats

    problems = [problem for one in checked for problem in one.problems]
    if format is Format.json:
        return problem_formats.as_json(problems, [one.path for one in checked])
    totals = _totals(checked)
    if format is Format.github:
        annotations = problem_formats.as_github(problems)
        return f"{annotations}\n{totals}" if annotations else totals
    blocks = []
    for one in checked:
        if one.problems:
            blocks.append(problem_formats.as_text(one.problems))
        if one.clean:
            blocks.append(f"{one.path}: ok ({one.summary})")
    return "\n".join([*blocks, *([totals] if len(checked) > 1 or problems else [])])


def _totals(checked: Sequence[Checked]) -> str:
    problems = [problem for one in checked for problem in one.problems]
    errors = sum(problem.severity == "error" for problem in problems)
    bad = sum(not one.clean for one in checked)
    text = f"{_count(len(checked), 'recipe')} checked: "
    text += _count(errors, "problem") if errors else "clean"
    text += f" in {bad} of them" if errors and len(checked) > 1 else ""
    if warnings := len(problems) - errors:
        text += f", {_count(warnings, 'warning')}"
    return text


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")

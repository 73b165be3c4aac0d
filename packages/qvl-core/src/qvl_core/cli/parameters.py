"""Arguments and options that several commands share."""

from __future__ import annotations

import math
from typing import Annotated

import typer

RecipeFile = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe, a TOML file.", show_default=False)]

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Replace one value of the recipe: --set train.steps=10; --set KEY= takes one back. "
        "May be given several times.",
        show_default=False,
    ),
]


def finite(value: float | None) -> float | None:
    """Pass an option's number on. Raises typer.BadParameter for NaN, which older typer finds inside of every range."""
    if value is not None and math.isnan(value):
        raise typer.BadParameter("nan is not a number")
    return value

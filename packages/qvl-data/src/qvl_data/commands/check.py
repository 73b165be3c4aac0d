"""`qvl data check`: everything that is wrong with the data of a recipe, and what an epoch of them holds."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from qvl_core.cli.parameters import RecipeFile, Settings
from qvl_core.errors import EXIT_DONE, EXIT_WRONG_INPUT, InputError, NotInstalledError

if TYPE_CHECKING:
    from qvl_data.inspection.report import CheckReport

_SHOWN = 5
_SHOWN_ON_PAGE = 20


class Format(str, Enum):
    """How the report is written."""

    text = "text"
    json = "json"


def register(data: typer.Typer) -> None:
    """Add `qvl data check`."""

    @data.command("check")
    def check(
        recipe: RecipeFile,
        settings: Settings = None,
        format: Annotated[  # noqa: A002 (the option's name)
            Format, typer.Option("--format", help="text for people, json for programs.")
        ] = Format.text,
        html: Annotated[
            Path | None,
            typer.Option("--html", metavar="FILE", help="Write a page with pictures too.", show_default=False),
        ] = None,
        decode: Annotated[
            bool, typer.Option("--decode", help="Decode every image: finds truncated ones, takes longer.")
        ] = False,
        max_problems: Annotated[
            int, typer.Option("--max-problems", min=0, max=10_000, help="Problems shown of each kind; all are counted.")
        ] = _SHOWN,
        overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace any file that --html names.")] = False,
    ) -> int:
        """Check all records and media of a recipe, and count tokens exactly as training will see them.

        Reads headers of images and videos, no pixels, and keeps the lengths in data.cache_dir for `qvl plan`. Exit 0 if
        clean (warnings allowed), 2 if not.
        """
        from qvl_data.inspection.page_file import require_page_place, write_page

        if html is not None:
            require_page_place(html, overwrite=overwrite)
        shown = max_problems if html is None else max(max_problems, _SHOWN_ON_PAGE)
        report = run_check(recipe, settings or (), decode=decode, shown=shown, examples=html is not None)
        if html is not None:
            from qvl_data.inspection.check_page import check_page

            write_page(html, check_page(report), overwrite=overwrite)
        _print(report, format, max_problems)
        if html is not None:
            typer.echo(f"page written to {html}", err=True)
        return EXIT_DONE if report.is_clean else EXIT_WRONG_INPUT


def run_check(
    path: str, settings: list[str] | tuple[str, ...] = (), *, decode: bool, shown: int, examples: bool
) -> CheckReport:
    """Give the report of a recipe, and keep lengths for `qvl plan`; one that cannot be loaded is a report too.

    Raises NotInstalledError if a package that the check needs is missing.
    """
    from qvl_core.recipe import load_recipe

    try:
        from qvl_data.commands.progress import stderr_progress
        from qvl_data.inspection.inspect import failed_report, inspect_recipe
        from qvl_data.sample_figures import keep_figures

        try:
            recipe = load_recipe(path, settings)
        except InputError as error:
            return failed_report(path, error.problems)
        with stderr_progress() as progress:
            report = inspect_recipe(recipe, decode=decode, shown=shown, examples=examples, progress=progress)
        return replace(report, kept=keep_figures(recipe, report.figures))
    except ModuleNotFoundError as error:
        raise not_installed(error) from error


def not_installed(error: ModuleNotFoundError) -> NotInstalledError:
    """Give the error for a module that the `data` commands need and that is not there."""
    missing = error.name or "a module"
    return NotInstalledError(
        f"`qvl data` needs {missing}, which is not installed\n  fix: pip install --upgrade qvl-data"
    )


def _print(report: CheckReport, format: Format, max_problems: int) -> None:  # noqa: A002 (as in the command)
    if format is Format.json:
        from qvl_data.inspection.report_json import as_json

        typer.echo(as_json(report, max_problems=max_problems))
        return
    from qvl_core.cli.terminal import console

    from qvl_data.inspection.report_text import print_report

    print_report(console(), report, max_problems=max_problems)

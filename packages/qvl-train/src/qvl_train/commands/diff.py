"""`qvl diff RUN_A RUN_B`: what differed between two runs, and what each difference means."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Format(str, Enum):
    """How the differences are written."""

    text = "text"
    json = "json"


def register(app: typer.Typer) -> None:
    """Add `qvl diff` to the `qvl` app."""

    @app.command("diff")
    def diff(
        ours: Annotated[Path, typer.Argument(metavar="RUN_A", help="Folder of a run: output.dir of its recipe.")],
        theirs: Annotated[Path, typer.Argument(metavar="RUN_B", help="Folder of another run.")],
        format: Annotated[  # noqa: A002 (the option's name)
            Format, typer.Option("--format", help="text for people, json for programs.")
        ] = Format.text,
    ) -> None:
        """Show what differed between two runs in recipe, data, weights, versions and environment, and what it means.

        Any two runs: trainings, evaluations, of other versions too. Exit 0 whether they differ or not, 2 for a folder
        that no run has written to.
        """
        from qvl_core.cli.terminal import console

        from qvl_train.report.diff_text import diff_json, print_diff
        from qvl_train.report.run_diff import diff_runs
        from qvl_train.report.run_history import open_any_runs

        one, other = open_any_runs([ours, theirs])
        found = diff_runs(one, other)
        if format is Format.json:
            typer.echo(diff_json(found, str(ours), str(theirs)))
        else:
            print_diff(console(), found, str(ours), str(theirs))

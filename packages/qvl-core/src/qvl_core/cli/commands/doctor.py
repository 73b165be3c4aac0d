"""`qvl doctor`: what is installed, what is missing, and how to get it."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add `qvl doctor`."""

    @app.command("doctor")
    def doctor(
        recipe: Annotated[
            str | None,
            typer.Option("--recipe", metavar="RECIPE", help="Check what this recipe needs, too.", show_default=False),
        ] = None,
        devices: Annotated[
            bool, typer.Option("--devices", help="Compute on an NPU, too; takes up to a minute.")
        ] = False,
        json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
        compare: Annotated[
            list[str] | None,
            typer.Option(
                "--compare",
                metavar="FILE",
                help="Compare reports of several machines, made with --json; once for each.",
                show_default=False,
            ),
        ] = None,
        bundle: Annotated[
            str | None,
            typer.Option(
                "--bundle",
                metavar="FILE",
                help="Write a masked .zip for an issue, too: rows, versions, variables, the recipe.",
                show_default=False,
            ),
        ] = None,
    ) -> int:
        """Look at this machine and this installation, and say how to mend what is wrong.

        Takes some seconds, needs no network, changes nothing; --bundle writes one file. Exit 0 if nothing failed, 3 if
        something did, 2 if the recipe is wrong or its files are missing. docs/doctor.md lists the checks.
        """
        # The doctor's subject is the environment itself; checks get it from here and do not read it on their own.
        import os
        from pathlib import Path

        from qvl_core.cli.doctor import bundle as archive
        from qvl_core.cli.doctor import comparison, examination, report
        from qvl_core.cli.plain_text import print_text

        if bundle is not None:
            archive.require_place(Path(bundle))
        rows = comparison.compare(compare) if compare else examination.examine(os.environ, recipe, use_npu=devices)
        print_text(report.as_json(rows) if json else report.as_text(rows))
        if bundle is not None:
            names = archive.write(Path(bundle), rows, os.environ, recipe)
            typer.echo(f"wrote {bundle}, masked: {', '.join(names)}; look through it before you pass it on", err=True)
        return report.exit_code(rows)

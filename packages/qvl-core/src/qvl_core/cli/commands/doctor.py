"""`qvl doctor`: what is installed, what is missing, and how to get it."""

from __future__ import annotations

from typing import Annotated

import typer

from qvl_core.errors import EXIT_DONE, EXIT_NOT_INSTALLED


def register(app: typer.Typer) -> None:
    """Add `qvl doctor`."""

    @app.command("doctor")
    def doctor(
        json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
    ) -> int:
        """Look at this machine and this installation, and say how to mend what is wrong.

        Takes some seconds, needs no network, changes nothing. Exit 0 if nothing failed, 3 if something did.
        """
        # The doctor's subject is the environment itself; checks get it from here and do not read it on their own.
        import os

        from qvl_core.cli.doctor import report

        rows = report.examine(os.environ)
        print(report.as_json(rows) if json else report.as_text(rows))
        return EXIT_NOT_INSTALLED if report.failed(rows) else EXIT_DONE

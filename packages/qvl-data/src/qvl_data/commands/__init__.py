"""The `qvl data` commands. Imports that cost time happen inside the commands: `qvl --help` loads this module."""

from __future__ import annotations

import typer

from qvl_data.commands import check, preview


def register(app: typer.Typer) -> None:
    """Add the `data` commands to the `qvl` app."""
    data = typer.Typer(no_args_is_help=True, help="Check, preview and convert training data.")
    check.register(data)
    preview.register(data)
    app.add_typer(data, name="data")

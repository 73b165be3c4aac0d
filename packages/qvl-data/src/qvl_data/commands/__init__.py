"""The `qvl data` commands: one module each, with a function `register(data_app)`.

`qvl --help` loads this module: imports that cost time happen inside the commands.
"""

from __future__ import annotations

import typer

from qvl_data.commands import convert

_COMMANDS = (convert,)


def register(app: typer.Typer) -> None:
    """Add the group `data` with its commands to the `qvl` app."""
    data_app = typer.Typer(no_args_is_help=True, help="Files of records: convert them to one format.")
    for command in _COMMANDS:
        command.register(data_app)
    app.add_typer(data_app, name="data")

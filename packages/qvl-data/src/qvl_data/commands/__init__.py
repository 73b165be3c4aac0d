"""The `qvl data` commands: one module each, with a function `register(data_app)`.

`qvl --help` loads this module: imports that cost time happen inside the commands.
"""

from __future__ import annotations

import typer

from qvl_data.commands import check, convert, preview

_COMMANDS = (check, preview, convert)


def register(app: typer.Typer) -> None:
    """Add the group `data` with its commands to the `qvl` app."""
    data_app = typer.Typer(no_args_is_help=True, help="Check, preview and convert training data.")
    for command in _COMMANDS:
        command.register(data_app)
    app.add_typer(data_app, name="data")

"""`qvl data preview`: samples as the model sees them."""

from __future__ import annotations

import typer


def register(data: typer.Typer) -> None:
    """Add `qvl data preview`."""

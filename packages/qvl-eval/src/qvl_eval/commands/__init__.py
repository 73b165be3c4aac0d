"""The commands that this package adds to `qvl`. Imports are light; each command does its own when it is run."""

from __future__ import annotations

import typer

from qvl_eval.commands import answering, report, scores, serving


def register(app: typer.Typer) -> None:
    """Add the commands; called by qvl-core through the entry point group `qvl.commands`."""
    app.command("infer")(answering.infer)
    app.command("chat")(answering.chat)
    app.command("serve")(serving.serve)
    report.register(scores.register(app))

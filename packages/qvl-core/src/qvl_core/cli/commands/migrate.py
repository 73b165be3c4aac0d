"""`qvl migrate`: recipes out of the reference stack's files."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from qvl_core.errors import EXIT_DONE, EXIT_WRONG_INPUT


class Format(str, Enum):
    """How the report is printed."""

    text = "text"
    json = "json"


def register(app: typer.Typer) -> None:
    """Add `qvl migrate`."""

    @app.command("migrate")
    def migrate(
        folder: Annotated[
            str,
            typer.Argument(
                metavar="DIR",
                help="Folder of data_*.json, model_*.json, finetune_*.sh and so on, or a checkout that has it.",
                show_default=False,
            ),
        ],
        out: Annotated[str, typer.Option("--out", metavar="DIR", help="Where recipes and report go.")] = "migrated",
        overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace recipes that are there.")] = False,
        format: Annotated[  # noqa: A002 (the option's name)
            Format, typer.Option("--format", help="text for people, json for programs.")
        ] = Format.text,
    ) -> int:
        """Turn a folder of MindSpeed-MM's Qwen2.5-VL files into recipes, and report what became of each setting.

        Every finetune_*.sh, inference_*.json and evaluate_*.json gives a recipe
        that names the file and line of each value; it is written only if it
        passes `qvl check`. The report, printed and written to migration.txt and
        migration.json, begins with what has to be looked at: unreadable files,
        contradictions between the files, settings that are not known.

        Nothing of the scripts is executed, and the folder is not changed. Exit 0
        if every file was understood, 2 if one is broken or a recipe could not be
        made.

        qvl migrate MindSpeed-MM/examples/mindspore/qwen2.5vl --out migrated
        """
        from pathlib import Path

        from qvl_core.cli.plain_text import print_text
        from qvl_core.migrate import migration, report

        target = Path(out)
        found = migration.migrate(Path(folder), target)
        texts = {
            migration.TEXT_REPORT: report.as_text(found, out),
            migration.JSON_REPORT: report.as_json(found, out),
        }
        migration.write(found, target, texts, overwrite=overwrite)
        print_text(texts[migration.JSON_REPORT if format is Format.json else migration.TEXT_REPORT].rstrip("\n"))
        return EXIT_DONE if found.complete else EXIT_WRONG_INPUT

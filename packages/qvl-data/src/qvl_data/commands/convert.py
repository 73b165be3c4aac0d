"""`qvl data convert IN OUT`: records of any format as a sharegpt file."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from qvl_core.recipe.sections.data_sources import TagSection


class FormatChoice(str, Enum):
    """The formats of records, as a choice on the command line."""

    llava = "llava"
    sharegpt = "sharegpt"
    openai = "openai"


def register(data_app: typer.Typer) -> None:
    """Add the command to the group `data`."""
    data_app.command("convert")(convert)


def convert(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="JSON, JSON Lines or Parquet file, or a folder of them.")
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="A new file: .json, .jsonl or .parquet says which.")],
    format_name: Annotated[
        FormatChoice, typer.Option("--format", help="How the records of IN look.")
    ] = FormatChoice.llava,
    media_prefix: Annotated[
        str, typer.Option(metavar="P", help="Put P/ before every media path.", show_default=False)
    ] = "",
    media_root: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder that the paths of IN start from: refuse records whose media are not there. "
            "Left out: media are not looked at.",
            show_default=False,
        ),
    ] = None,
    tags: Annotated[
        list[str] | None,
        typer.Option(
            "--tag",
            metavar="KEY=NAME",
            help="Name of a column or role of IN that differs from the format's, as in `tags` of a recipe: "
            "--tag messages=dialog. May be given several times.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it is there; never IN.")] = False,
) -> None:
    """Write the records of IN, of any format, as sharegpt (`messages`, `images`, `videos`) to OUT.

    Broken records are listed with their line, and nothing is written. Other columns (`id`) are left out.
    """
    from qvl_data.commands.progress import stderr_progress
    from qvl_data.records.convert import convert_records

    with stderr_progress() as progress:
        count = convert_records(
            source,
            target,
            format_name=format_name.value,
            tags=_tags(tags or []),
            media_prefix=media_prefix,
            media_root=media_root,
            overwrite=overwrite,
            progress=progress,
        )
    typer.echo(f"{target}: {count:,} record{'' if count == 1 else 's'} written")


def _tags(given: list[str]) -> TagSection | None:
    from pydantic import ValidationError
    from qvl_core.recipe.sections.data_sources import TagSection

    pairs = [each.partition("=") for each in given]
    wrong = [key for key, sign, _ in pairs if not sign or key not in TagSection.model_fields]
    if wrong:
        known = ", ".join(TagSection.model_fields)
        raise typer.BadParameter(f"{wrong[0]!r} is no KEY=NAME with one of these keys: {known}", param_hint="--tag")
    try:
        return TagSection(**{key: name for key, _, name in pairs}) if pairs else None
    except ValidationError as error:
        raise typer.BadParameter(error.errors()[0]["msg"], param_hint="--tag") from None

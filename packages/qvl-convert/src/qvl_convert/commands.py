"""The `qvl convert` commands. Imports that cost time happen inside the commands: `qvl --help` loads this module."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

convert_app = typer.Typer(
    no_args_is_help=True, help="Move weights between Hugging Face folders and sharded layouts, and compare them."
)


class NamingChoice(str, Enum):
    """The two spellings of tensor names, as a choice on the command line."""

    classic = "classic"
    new = "new"


def register(app: typer.Typer) -> None:
    """Add the `convert` commands to the `qvl` app."""
    app.add_typer(convert_app, name="convert")


@convert_app.command()
def verify(
    left: Annotated[Path, typer.Argument(metavar="A", help="A weights folder: HF, sharded, or a checkpoint.")],
    right: Annotated[Path, typer.Argument(metavar="B", help="Another one, in any spelling and layout.")],
) -> None:
    """Prove that two weights folders are equal bit for bit, or name the first difference.

    Exit 0 if they are equal, 1 if they differ, 2 if one of them cannot be read.
    """
    from qvl_convert.compare import compare_folders
    from qvl_convert.progress import byte_progress
    from qvl_convert.whole_tensors import open_whole_tensors

    one, other = open_whole_tensors(left), open_whole_tensors(right)
    with byte_progress("comparing", one.size) as advance:
        found = compare_folders(one, other, advance)
    for note in found.notes:
        typer.echo(f"note: the configs differ in {note}", err=True)
    if found.difference is not None:
        typer.echo(f"different: {found.difference}")
        raise typer.Exit(1)
    typer.echo(f"equal: {found.tensors:,} tensors, {found.bytes_compared:,} bytes, bit for bit")


@convert_app.command()
def export(
    sharded: Annotated[Path, typer.Option(help="A sharded weights folder or a training checkpoint.")],
    out: Annotated[Path, typer.Option(help="The HF folder to write; it must not exist, or be empty.")],
    hf_files: Annotated[
        Path | None,
        typer.Option(help="A folder with config, tokenizer and processor files. Left out: the --sharded folder."),
    ] = None,
    naming: Annotated[NamingChoice, typer.Option(help="Tensor names: as published, or of newer transformers.")] = (
        NamingChoice.classic
    ),
    max_shard_gib: Annotated[float, typer.Option(min=0.001, max=1e6, help="Largest weights file, in GiB.")] = 5.0,
) -> None:
    """Write a sharded folder, or the weights of a training checkpoint, as an HF folder."""
    from qvl_convert.export import export_folder
    from qvl_convert.progress import byte_progress
    from qvl_convert.whole_tensors import open_whole_tensors

    source = open_whole_tensors(sharded)
    with byte_progress("writing", source.size) as advance:
        written = export_folder(
            source,
            hf_files or sharded,
            out,
            naming=naming.value,
            max_shard_bytes=int(max_shard_gib * 1024**3),
            advance=advance,
        )
    files = "1 file" if len(written) == 1 else f"{len(written)} files"
    typer.echo(f"wrote {out}: {len(source.tensors):,} tensors, {sum(file.size for file in written):,} bytes in {files}")

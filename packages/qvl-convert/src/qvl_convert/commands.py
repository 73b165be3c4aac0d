"""The `qvl convert` commands. Imports that cost time happen inside the commands: `qvl --help` loads this module."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from qvl_core.cli.parameters import finite

if TYPE_CHECKING:
    from qvl_core.recipe import Recipe

convert_app = typer.Typer(
    no_args_is_help=True,
    help="Move weights between Hugging Face folders, sharded layouts and MindSpeed-MM folders, and compare them.",
)


class NamingChoice(str, Enum):
    """The two spellings of tensor names, as a choice on the command line."""

    classic = "classic"
    new = "new"


RecipeArgument = Annotated[
    str | None, typer.Argument(metavar="[RECIPE]", help="A recipe: its weights and layout.", show_default=False)
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Replace one value of the recipe.", show_default=False),
]
Out = Annotated[Path, typer.Option(help="The folder to write; it appears complete or not at all.")]
OptionalOut = Annotated[
    Path | None, typer.Option(help="The folder to write; it appears complete or not at all.", show_default=False)
]
Tensor = Annotated[int | None, typer.Option("--tp", min=1, max=1024, help="Tensor parallel ranks.", show_default="1")]
Pipeline = Annotated[int | None, typer.Option("--pp", min=1, max=1024, help="Pipeline stages.", show_default="1")]
VisionStages = Annotated[
    str | None,
    typer.Option(
        metavar="N,N,...", help="Vision layers on each stage. Left out: all on the first.", show_default=False
    ),
]
TextStages = Annotated[
    str | None,
    typer.Option(metavar="N,N,...", help="Text layers on each stage. Left out: balanced by cost.", show_default=False),
]
Naming = Annotated[
    NamingChoice | None,
    typer.Option(help="Tensor names: as published, or of newer transformers.", show_default="classic"),
]
ShardGib = Annotated[
    float | None,
    typer.Option(
        "--max-shard-gib", min=0.001, max=1e6, callback=finite, help="Largest weights file, in GiB.", show_default="5.0"
    ),
]
Plan = Annotated[bool, typer.Option("--plan", help="Show what would be read and written, and write nothing.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace a weights folder that is there; never the source.")
]
DEFAULT_SHARD_GIB = 5.0
GIB = 1024**3


def register(app: typer.Typer) -> None:
    """Add the `convert` commands to the `qvl` app."""
    app.add_typer(convert_app, name="convert")


@convert_app.command("import")
def import_(
    recipe: RecipeArgument = None,
    hf: Annotated[Path | None, typer.Option(help="An HF folder.", show_default=False)] = None,
    mindspeed: Annotated[
        Path | None, typer.Option(help="A MindSpeed-MM folder; becomes an HF folder.", show_default=False)
    ] = None,
    hf_files: Annotated[
        Path | None, typer.Option(help="Config and tokenizer for --mindspeed.", show_default=False)
    ] = None,
    out: OptionalOut = None,
    tp: Tensor = None,
    pp: Pipeline = None,
    vision_stages: VisionStages = None,
    text_stages: TextStages = None,
    naming: Naming = None,
    max_shard_gib: ShardGib = None,
    settings: Settings = None,
    plan: Plan = False,
    as_json: AsJson = False,
    overwrite: Overwrite = False,
) -> None:
    """Cut an HF folder for a layout, or turn a MindSpeed-MM folder into an HF folder.

    Either RECIPE (its weights and layout), or --hf with --out and the layout, or --mindspeed with --hf-files.
    """
    from qvl_convert import jobs

    given = jobs.exactly_one({"RECIPE": recipe, "--hf": hf, "--mindspeed": mindspeed})
    flags = jobs.Flags(tp=tp, pp=pp, vision_stages=vision_stages, text_stages=text_stages)
    hf_form = {"--naming": naming, "--max-shard-gib": max_shard_gib}
    if given == "--mindspeed":
        jobs.refuse(flags.given(), "a MindSpeed-MM folder becomes an HF folder; its own layout is found out")
        jobs.refuse({"--set": settings or None}, "it changes a recipe, and none is given")
        job, report = jobs.import_mindspeed(
            jobs.needed("--mindspeed", mindspeed),
            jobs.needed("--hf-files", hf_files),
            naming=_naming(naming),
            max_shard_bytes=_shard_bytes(max_shard_gib),
        )
        target = jobs.needed("--out", out)
        jobs.carry_out(job, target, plan=plan, as_json=as_json, overwrite=overwrite, report=report)
        return
    jobs.refuse({"--hf-files": hf_files}, "the side files come from the HF folder itself")
    jobs.refuse(hf_form, "they are for an HF folder that is written; this writes a sharded one")
    loaded = _recipe(recipe, settings)
    if loaded is not None:
        jobs.refuse(flags.given(), "the recipe states the layout")
    job, default_out = jobs.import_hf(loaded, hf, flags)
    jobs.carry_out(job, out or jobs.needed("--out", default_out), plan=plan, as_json=as_json, overwrite=overwrite)


@convert_app.command()
def export(
    sharded: Annotated[
        Path | None, typer.Option(help="A sharded weights folder or a training checkpoint.", show_default=False)
    ] = None,
    hf: Annotated[Path | None, typer.Option(help="An HF folder instead (other naming or file size).")] = None,
    out: OptionalOut = None,
    mindspeed: Annotated[
        Path | None, typer.Option(help="Write a MindSpeed-MM folder here instead of --out.", show_default=False)
    ] = None,
    hf_files: Annotated[
        Path | None,
        typer.Option(help="A folder with config, tokenizer and processor files.", show_default="the source folder"),
    ] = None,
    naming: Naming = None,
    max_shard_gib: ShardGib = None,
    tp: Tensor = None,
    pp: Pipeline = None,
    vision_stages: VisionStages = None,
    text_stages: TextStages = None,
    plan: Plan = False,
    as_json: AsJson = False,
    overwrite: Overwrite = False,
) -> None:
    """Write a sharded folder, or the weights of a training checkpoint, as an HF folder; adapters as a PEFT folder.

    With --mindspeed as a folder of MindSpeed-MM, in the source's layout or in that of --tp, --pp and the stages.
    """
    from qvl_convert import jobs

    jobs.exactly_one({"--sharded": sharded, "--hf": hf})
    target = jobs.exactly_one({"--out": out, "--mindspeed": mindspeed})
    source = sharded or jobs.needed("--hf", hf)
    flags = jobs.Flags(tp=tp, pp=pp, vision_stages=vision_stages, text_stages=text_stages)
    if target == "--mindspeed":
        jobs.refuse({"--hf-files": hf_files}, "a MindSpeed-MM folder holds weights only")
        jobs.refuse({"--naming": naming, "--max-shard-gib": max_shard_gib}, "they are for an HF folder")
        job = jobs.export_mindspeed(source, flags, sharded=hf is None)
    else:
        jobs.refuse(flags.given(), "an HF folder has no layout; they belong to --mindspeed")
        job = jobs.export_hf(
            source,
            hf_files or source,
            sharded=hf is None,
            naming=_naming(naming),
            max_shard_bytes=_shard_bytes(max_shard_gib),
            stated={"--naming": naming, "--max-shard-gib": max_shard_gib},
        )
    jobs.carry_out(job, out or jobs.needed("--out", mindspeed), plan=plan, as_json=as_json, overwrite=overwrite)


@convert_app.command()
def reshard(
    recipe: RecipeArgument = None,
    sharded: Annotated[
        Path | None,
        typer.Option(help="A sharded folder or a training checkpoint.", show_default="the recipe's weights.source"),
    ] = None,
    out: OptionalOut = None,
    tp: Tensor = None,
    pp: Pipeline = None,
    vision_stages: VisionStages = None,
    text_stages: TextStages = None,
    settings: Settings = None,
    plan: Plan = False,
    as_json: AsJson = False,
    overwrite: Overwrite = False,
) -> None:
    """Cut a sharded folder, or a training checkpoint with its optimizer state, for another layout."""
    from qvl_convert import jobs

    loaded = _recipe(recipe, settings)
    flags = jobs.Flags(tp=tp, pp=pp, vision_stages=vision_stages, text_stages=text_stages)
    if loaded is not None:
        jobs.refuse(flags.given(), "the recipe states the layout")
    job, default_out = jobs.reshard(loaded, sharded, flags)
    jobs.carry_out(job, out or default_out, plan=plan, as_json=as_json, overwrite=overwrite)


@convert_app.command()
def merge(
    base: Annotated[Path, typer.Option(help="The HF folder that the adapter was trained on.")],
    adapter: Annotated[Path, typer.Option(help="A PEFT folder: adapter_config.json, adapter_model.safetensors.")],
    out: Out,
    naming: Naming = None,
    max_shard_gib: ShardGib = None,
    plan: Plan = False,
    as_json: AsJson = False,
    overwrite: Overwrite = False,
) -> None:
    """Add a LoRA adapter to the weights it was trained on: computed in fp32, written in the base's dtype."""
    from qvl_convert import jobs

    job, report = jobs.merge(base, adapter, naming=_naming(naming), max_shard_bytes=_shard_bytes(max_shard_gib))
    jobs.carry_out(job, out, plan=plan, as_json=as_json, overwrite=overwrite, report=report)


@convert_app.command()
def verify(
    left: Annotated[Path, typer.Argument(metavar="A", help="A weights folder: HF, sharded, or a checkpoint.")],
    right: Annotated[Path, typer.Argument(metavar="B", help="Another one, in any spelling and layout.")],
    as_json: AsJson = False,
) -> None:
    """Prove that two weights folders are equal bit for bit, or name the first difference.

    Exit 0 if they are equal, 1 if they differ, 2 if one of them cannot be read.
    """
    from qvl_convert.verify import verify_folders

    if not verify_folders(left, right, as_json=as_json):
        raise typer.Exit(1)


def _naming(choice: NamingChoice | None) -> Literal["classic", "new"]:
    return "new" if choice is NamingChoice.new else "classic"


def _shard_bytes(gib: float | None) -> int:
    return int((DEFAULT_SHARD_GIB if gib is None else gib) * GIB)


def _recipe(path: str | None, settings: list[str] | None) -> Recipe | None:
    from qvl_convert import jobs

    if path is None:
        jobs.refuse({"--set": settings or None}, "it changes a recipe, and none is given")
        return None
    from qvl_core.recipe import load_recipe

    return load_recipe(path, settings or [])

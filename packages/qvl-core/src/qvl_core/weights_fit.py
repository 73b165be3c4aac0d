"""Whether a weights folder that is there fits the recipe. Reads configs, headers and manifests, no tensor."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from qvl_core.errors import InputError, Problem, WeightsError
from qvl_core.input_file import readable
from qvl_core.specs import ModelSpec, load_spec, model_differences
from qvl_core.specs.load import CONFIG_NAME

if TYPE_CHECKING:
    from qvl_core.layout import Layout
    from qvl_core.recipe import Recipe
    from qvl_core.weights.hf_folder import HFFolder
    from qvl_core.weights.sharded_folder import ShardedFolder

KEY = "weights.source"


Use = Literal["training", "answers"]


def use_of(recipe: Recipe) -> Use:
    """Say what the recipe's own task needs its weights for."""
    return "training" if recipe.task == "sft" else "answers"


def check_weights(recipe: Recipe, *, reshard: bool = False, use: Use | None = None) -> tuple[Problem, ...]:
    """List what keeps the folder of `weights.source` from being loaded; nothing if it is not there.

    With `reshard`, and always where they are used for answers, a sharded folder may have another layout: it is cut anew
    while it is loaded. `use` is by default that of the recipe's task.
    """
    source = Path(recipe.weights.source)
    try:
        with readable(source):
            if not source.exists():
                return ()
        return tuple(_problems(recipe, source, reshard, use or use_of(recipe)))
    except InputError as error:
        return error.problems


def open_weights(recipe: Recipe, *, reshard: bool = False, use: Use | None = None) -> HFFolder | ShardedFolder:
    """Open the folder of `weights.source` and compare it with the recipe's model; no tensor is read.

    Raises WeightsError if it is missing, damaged, or of another model or, without `reshard`, of another layout.
    """
    from qvl_core.weights.source import open_source

    folder = Path(recipe.weights.source)
    if not folder.exists():
        fix = "train first (for the tiny recipes: qvl run recipes/tiny_sft.toml), or --set weights.source=DIR"
        raise WeightsError(Problem(where=where_of(recipe, KEY), key=KEY, message=f"{folder} does not exist", fix=fix))
    problems = check_weights(recipe, reshard=reshard, use=use)
    if problems:
        raise WeightsError(problems)
    return open_source(folder)


def reshard_note(recipe: Recipe) -> str:
    """Say from which layout into which `--reshard` loads the weights; empty where it changes nothing.

    The folder has passed `check_weights`.
    """
    from qvl_core.weights.manifest_reader import check_manifest_layout, read_manifest
    from qvl_core.weights.source import classify_source

    source = Path(recipe.weights.source)
    if recipe.weights.init == "random" or not source.exists() or classify_source(source) == "hf":
        return ""
    manifest = read_manifest(source)
    if not check_manifest_layout(manifest, recipe.parallel, folder=source):
        return ""
    return (
        f"{source} is cut for {_layout_text(manifest.layout)}; this run has {_layout_text(recipe.parallel)}\n"
        "  --reshard: the weights are cut anew while they are loaded, nothing is written"
    )


def where_of(recipe: Recipe, key: str) -> str:
    """Give `file:line` or `--set KEY` of a recipe key, or of the nearest table above it; else the recipe's path."""
    parts = key.split(".")
    for end in range(len(parts), 0, -1):
        origin = recipe.origins.get(".".join(parts[:end]))
        if origin and origin.kind == "--set":
            return f"--set {'.'.join(parts[:end])}"
        if origin and origin.file:
            return f"{origin.file}:{origin.line}" if origin.line else origin.file
    return recipe.path


def _problems(recipe: Recipe, source: Path, reshard: bool, use: Use) -> Iterator[Problem]:
    if recipe.weights.init == "random" and use == "training":
        # Tensors are drawn, not read; the folder gives config, tokenizer and processor.
        yield from _spec_problems(recipe, load_spec(source))
        return
    from qvl_core.weights.hf_folder import HFFolder, check_tensors
    from qvl_core.weights.manifest_reader import check_manifest_layout, resharded_folder
    from qvl_core.weights.source import open_source

    folder = open_source(source)
    if isinstance(folder, HFFolder):
        different = tuple(_spec_problems(recipe, folder.spec))
        # Of another model, every tensor is wrong: one problem says it better than a thousand.
        yield from different or check_tensors(folder, recipe.spec)
        return
    if folder.manifest.lora is not None:
        yield _adapters_problem(recipe, source)
        return
    different = tuple(_spec_problems(recipe, folder.manifest.spec))
    yield from different
    if not (source / CONFIG_NAME).is_file():
        # Told now, not by the export at the end of a training run.
        message = f"{source} has no {CONFIG_NAME}: a sharded folder carries the config, tokenizer and processor files"
        fix = f"copy the files of the HF checkpoint, all but its weights, into {source}"
        yield Problem(where=where_of(recipe, KEY), key=KEY, message=message, fix=fix)
    if not different and not reshard and use == "training":
        for problem in check_manifest_layout(folder.manifest, recipe.parallel, folder=folder.path):
            then = f'then set {KEY} = "{resharded_folder(source, recipe.parallel)}"'
            yield replace(problem, fix=f"{problem.fix}\n{then}\nor {_reshard_run(recipe)}: cuts them while loading")


def _reshard_run(recipe: Recipe) -> str:
    # What was set is not kept as it was typed; without it the command would be another run.
    changed = any(origin.kind == "--set" for origin in recipe.origins.values())
    return f"qvl run {shlex.quote(recipe.path)} --reshard{' and every --set as before' if changed else ''}"


def _spec_problems(recipe: Recipe, found: ModelSpec) -> Iterator[Problem]:
    lines = model_differences(recipe.spec, found)
    if not lines:
        return
    stated = f'name = "{recipe.model.name}"' if recipe.model.name else f'config = "{recipe.model.config}"'
    shown = [*lines[:10], *([f"and {len(lines) - 10} more"] if len(lines) > 10 else [])]
    fix = f'model.config = "{recipe.weights.source}", or the folder of {recipe.spec.name}'
    if found.name.startswith("qwen2.5-vl-") and not found.name.endswith("custom"):
        fix = f'model.name = "{found.name}", or the folder of {recipe.spec.name}'
    message = f"{recipe.weights.source} holds another model than [model] {stated}:\n" + "\n".join(shown)
    yield Problem(where=where_of(recipe, KEY), key=KEY, message=message, fix=fix)


def _adapters_problem(recipe: Recipe, source: Path) -> Problem:
    adapter, merged = (f"{str(source).rstrip('/')}-{name}" for name in ("adapter", "merged"))
    message = f"{source} holds adapters only, not the model that they belong to"
    fix = (
        f"qvl convert export --sharded {shlex.quote(str(source))} --out {shlex.quote(adapter)}\n"
        f"qvl convert merge --base HF_FOLDER_OF_THE_BASE --adapter {shlex.quote(adapter)} --out {shlex.quote(merged)}\n"
        f'then set {KEY} = "{merged}"'
    )
    return Problem(where=where_of(recipe, KEY), key=KEY, message=message, fix=fix)


def _layout_text(layout: Layout) -> str:
    vision, text = (",".join(map(str, stages)) for stages in (layout.vision_stages, layout.text_stages))
    return f"tp {layout.tp}, pp {layout.pp} (vision stages {vision}; text stages {text})"

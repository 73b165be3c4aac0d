"""Whether weights that are there fit the recipe. Reads configs, headers and manifests, and of tensors an adapter's."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
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
    from qvl_core.weights.lora import AnyAdapter
    from qvl_core.weights.sharded_folder import ShardedFolder

KEY = "weights.source"
ADAPTER_KEY = "weights.adapter"


Use = Literal["training", "answers"]


def use_of(recipe: Recipe) -> Use:
    """Say what the recipe's own task needs its weights for."""
    return "training" if recipe.task == "sft" else "answers"


def check_weights(recipe: Recipe, *, reshard: bool = False, use: Use | None = None) -> tuple[Problem, ...]:
    """List what keeps `weights.source` and `weights.adapter` from being loaded; nothing of what is not there.

    With `reshard`, and always where they are used for answers, a sharded folder may have another layout: it is cut anew
    while it is loaded. `use` is by default that of the recipe's task.
    """
    used = use or use_of(recipe)
    source, adapter = recipe.weights.source, recipe.weights.adapter
    found = _where_there(source, lambda folder: _problems(recipe, folder, reshard, used))
    if adapter is not None:
        found += _where_there(adapter, lambda folder: _adapter_problems(recipe, folder, used))
    return found


def _where_there(path: str, look: Callable[[Path], Iterator[Problem]]) -> tuple[Problem, ...]:
    """Give what a look at a folder finds, or what it raises; nothing where the folder is not there."""
    folder = Path(path)
    try:
        with readable(folder):
            if not folder.exists():
                return ()
        return tuple(look(folder))
    except InputError as error:
        return error.problems


def open_weights(recipe: Recipe, *, reshard: bool = False, use: Use | None = None) -> HFFolder | ShardedFolder:
    """Open the folder of `weights.source` and compare it with the recipe's model; no tensor is read.

    Raises WeightsError if it is missing, damaged, or of another model or, without `reshard`, of another layout; and for
    what is wrong with `weights.adapter`.
    """
    from qvl_core.weights.source import open_source

    _require_there(recipe)
    problems = check_weights(recipe, reshard=reshard, use=use)
    if problems:
        raise WeightsError(problems)
    return open_source(recipe.weights.source)


def open_adapter_of(recipe: Recipe) -> AnyAdapter | None:
    """Open the folder of `weights.adapter`; None where the recipe has none. Raises WeightsError."""
    from qvl_core.weights.lora import open_any_adapter

    if recipe.weights.adapter is None:
        return None
    return open_any_adapter(recipe.weights.adapter, recipe.spec)


def answering_notes(recipe: Recipe) -> tuple[str, ...]:
    """Say what is done with the weights while they are loaded for answers: cut anew, adapted, on an unknown base.

    Both folders have passed `open_weights` and `open_adapter_of`.
    """
    from qvl_core.weights.fingerprint import fingerprint
    from qvl_core.weights.source import open_source

    notes = []
    if layout := _layout_of_another(recipe):
        source, wanted = recipe.weights.source, _layout_text(recipe.parallel)
        notes.append(f"{source} is cut for {_layout_text(layout)}; cut anew while loading for {wanted}")
    adapter = open_adapter_of(recipe)
    if adapter is not None:
        notes.append(f"{recipe.weights.adapter}: merged into the weights while loading")
        given = fingerprint(open_source(recipe.weights.source))
        if adapter.base_revision not in ("", given):
            notes.append(
                f"warning: {recipe.weights.adapter} was trained on {adapter.base_revision[:40]}, "
                f"{recipe.weights.source} is {given[:40]}: another base, or the same in another format or layout"
            )
    return tuple(notes)


def reshard_note(recipe: Recipe) -> str:
    """Say from which layout into which `--reshard` loads the weights; empty where it changes nothing.

    The folder has passed `check_weights`.
    """
    source = Path(recipe.weights.source)
    # What answers says it itself, with the switch and without.
    if recipe.weights.init == "random" or use_of(recipe) == "answers" or not source.exists():
        return ""
    layout = _layout_of_another(recipe)
    if layout is None:
        return ""
    return (
        f"{source} is cut for {_layout_text(layout)}; this run has {_layout_text(recipe.parallel)}\n"
        "  --reshard: the weights are cut anew while they are loaded, nothing is written"
    )


def _require_there(recipe: Recipe) -> None:
    """Raise WeightsError, with both, where the folders of weights and adapter are not there."""
    train = "train first (for the tiny recipes: qvl run recipes/tiny_sft.toml), or --set weights.source=DIR"
    named = (
        (KEY, recipe.weights.source, train),
        (ADAPTER_KEY, recipe.weights.adapter, "train one (recipes/7b_lora_sft.toml), or --set weights.adapter=DIR"),
    )
    problems = [
        Problem(where=where_of(recipe, key), key=key, message=f"{path} does not exist", fix=fix)
        for key, path, fix in named
        if path is not None and not Path(path).exists()
    ]
    if problems:
        raise WeightsError(problems)


def _layout_of_another(recipe: Recipe) -> Layout | None:
    """Give the layout of the folder of `weights.source` where it is another than the recipe's."""
    from qvl_core.weights.manifest_reader import check_manifest_layout, read_manifest
    from qvl_core.weights.source import classify_source

    source = Path(recipe.weights.source)
    if classify_source(source) == "hf":
        return None
    manifest = read_manifest(source)
    return manifest.layout if check_manifest_layout(manifest, recipe.parallel, folder=source) else None


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
    from qvl_core.weights.lora.adapter_config import CONFIG_FILE as PEFT_CONFIG
    from qvl_core.weights.manifest_reader import check_manifest_layout, resharded_folder
    from qvl_core.weights.source import open_source

    if (source / PEFT_CONFIG).is_file() and not (source / CONFIG_NAME).exists():
        yield _adapters_problem(recipe, source, use, is_peft=True)
        return
    folder = open_source(source)
    if isinstance(folder, HFFolder):
        different = tuple(_spec_problems(recipe, folder.spec))
        # Of another model, every tensor is wrong: one problem says it better than a thousand.
        yield from different or check_tensors(folder, recipe.spec)
        return
    if folder.manifest.lora is not None:
        yield _adapters_problem(recipe, source, use, is_peft=False)
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


def _adapter_problems(recipe: Recipe, adapter: Path, use: Use) -> Iterator[Problem]:
    """List what keeps an adapter that is there from being merged into the model."""
    from qvl_core.weights.lora import open_any_adapter

    if use == "training":
        merged = shlex.quote(f"{str(adapter).rstrip('/')}-merged")
        message = "an adapter on top is for answers (qvl infer, chat, serve, eval); training starts from a whole model"
        fix = (
            f"qvl convert merge --base HF_FOLDER_OF_THE_BASE --adapter {shlex.quote(str(adapter))} --out {merged}\n"
            f"then set {KEY} to it, and leave {ADAPTER_KEY} out"
        )
        yield Problem(where=where_of(recipe, ADAPTER_KEY), key=ADAPTER_KEY, message=message, fix=fix)
        return
    # Raises with everything that is wrong.
    open_any_adapter(adapter, recipe.spec)


def _adapters_problem(recipe: Recipe, source: Path, use: Use, *, is_peft: bool) -> Problem:
    message = f"{source} holds adapters only, not the model that they belong to"
    where = where_of(recipe, KEY)
    if use == "answers":
        fix = f'{ADAPTER_KEY} = "{source}", and in {KEY} the folder of the model that they were trained on'
        return Problem(where=where, key=KEY, message=message, fix=fix)
    adapter, merged = (f"{str(source).rstrip('/')}-{name}" for name in ("adapter", "merged"))
    export = f"qvl convert export --sharded {shlex.quote(str(source))} --out {shlex.quote(adapter)}\n"
    fix = (
        f"{'' if is_peft else export}"
        f"qvl convert merge --base HF_FOLDER_OF_THE_BASE --adapter {shlex.quote(str(source) if is_peft else adapter)} "
        f"--out {shlex.quote(merged)}\n"
        f'then set {KEY} = "{merged}"'
    )
    return Problem(where=where, key=KEY, message=message, fix=fix)


def _layout_text(layout: Layout) -> str:
    vision, text = (",".join(map(str, stages)) for stages in (layout.vision_stages, layout.text_stages))
    return f"tp {layout.tp}, pp {layout.pp} (vision stages {vision}; text stages {text})"

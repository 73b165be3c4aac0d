"""Whether a weights folder that is there fits the recipe. Reads configs, headers and manifests, no tensor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from qvl_core.errors import InputError, Problem, WeightsError
from qvl_core.input_file import readable
from qvl_core.specs import ModelSpec, load_spec, spec_differences

if TYPE_CHECKING:
    from qvl_core.recipe import Recipe
    from qvl_core.weights.hf_folder import HFFolder
    from qvl_core.weights.sharded_folder import ShardedFolder

KEY = "weights.source"


def check_weights(recipe: Recipe, *, reshard: bool = False) -> tuple[Problem, ...]:
    """List what keeps the folder of `weights.source` from being loaded; nothing if it is not there.

    With `reshard` a sharded folder may have another layout.
    """
    source = Path(recipe.weights.source)
    try:
        with readable(source):
            if not source.exists():
                return ()
        return tuple(_problems(recipe, source, reshard))
    except InputError as error:
        return error.problems


def open_weights(recipe: Recipe) -> HFFolder | ShardedFolder:
    """Open the folder of `weights.source` and compare it with the recipe's model; no tensor is read.

    Raises WeightsError if it is missing, damaged, or of another model or layout.
    """
    from qvl_core.weights.source import open_source

    folder = Path(recipe.weights.source)
    if not folder.exists():
        fix = "train first (for the tiny recipes: qvl run recipes/tiny_sft.toml), or --set weights.source=DIR"
        raise WeightsError(Problem(where=where_of(recipe, KEY), key=KEY, message=f"{folder} does not exist", fix=fix))
    problems = check_weights(recipe)
    if problems:
        raise WeightsError(problems)
    return open_source(folder)


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


def _problems(recipe: Recipe, source: Path, reshard: bool) -> Iterator[Problem]:
    if recipe.weights.init == "random":
        # Tensors are drawn, not read; the folder gives config, tokenizer and processor.
        yield from _spec_problems(recipe, load_spec(source))
        return
    from qvl_core.weights.hf_folder import HFFolder, check_tensors
    from qvl_core.weights.manifest_reader import check_manifest_layout
    from qvl_core.weights.source import open_source

    folder = open_source(source)
    if isinstance(folder, HFFolder):
        different = tuple(_spec_problems(recipe, folder.spec))
        # Of another model, every tensor is wrong: one problem says it better than a thousand.
        yield from different or check_tensors(folder, recipe.spec)
        return
    different = tuple(_spec_problems(recipe, folder.manifest.spec))
    yield from different
    if not different and not reshard:
        yield from check_manifest_layout(folder.manifest, recipe.parallel, folder=folder.path)


def _spec_problems(recipe: Recipe, found: ModelSpec) -> Iterator[Problem]:
    # The context length is a limit, not a shape, and published configs of one size disagree about it.
    lines = [
        line for line in spec_differences(recipe.spec, found) if not line.startswith("text.max_position_embeddings:")
    ]
    if not lines:
        return
    stated = f'name = "{recipe.model.name}"' if recipe.model.name else f'config = "{recipe.model.config}"'
    shown = [*lines[:10], *([f"and {len(lines) - 10} more"] if len(lines) > 10 else [])]
    fix = f'model.config = "{recipe.weights.source}", or the folder of {recipe.spec.name}'
    if found.name.startswith("qwen2.5-vl-") and not found.name.endswith("custom"):
        fix = f'model.name = "{found.name}", or the folder of {recipe.spec.name}'
    message = f"{recipe.weights.source} holds another model than [model] {stated}:\n" + "\n".join(shown)
    yield Problem(where=where_of(recipe, KEY), key=KEY, message=message, fix=fix)

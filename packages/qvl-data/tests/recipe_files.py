"""Real recipes in files, as the commands read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data_files import make_spec, write_checkpoint
from qvl_core.specs.hf_config import to_hf_config

_TEXT = """schema = 1
task = "sft"

[model]
config = "{folder}/config.json"
dtype = "float32"

[weights]
source = "{folder}"
init = "random"

[data]
sources = [{sources}]
{data}

[data.image]
min_pixels = 3136
max_pixels = 50176

[train]
{length}
micro_batch = 1
global_batch = 4
seed = 3

[train.optimizer]
name = "adamw"
lr = 1e-3

[launch]
device = "cpu"

[output]
dir = "{folder}-run"
"""


def write_full_checkpoint(folder: Path) -> Path:
    """Write a checkpoint folder with a config, which a recipe can name as its model; it has no weights."""
    tokens = write_checkpoint(folder)
    # Else transformers warns that its own default ids lie outside so small a vocabulary.
    config = {**to_hf_config(make_spec(tokens)), "bos_token_id": None, "eos_token_id": None}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_recipe(
    path: Path, checkpoint: Path, sources: list[Path | dict[str, Any]], *, length: str = "steps = 10", **data: Any
) -> Path:
    """Write a recipe over these files of records, with these keys of [data]; give its path."""
    tables = [source if isinstance(source, dict) else {"path": str(source)} for source in sources]
    keys = {"cache_dir": str(path.parent / "cache"), "workers": 0, "sequence_length": 256, **data}
    text = _TEXT.format(
        folder=checkpoint,
        sources=", ".join(map(_toml, tables)),
        data="\n".join(f"{key} = {_toml(value)}" for key, value in keys.items()),
        length=length,
    )
    path.write_text(text, encoding="utf-8")
    return path


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(part)}" for key, part in value.items()) + " }"
    return json.dumps(value)

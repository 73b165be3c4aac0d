"""Find a model spec: by the name of a shipped one, or from the config of any checkpoint of the family."""

from __future__ import annotations

import difflib
import stat
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from qvl_core.errors import Problem, WeightsError
from qvl_core.input_file import printable, readable
from qvl_core.json_file import read_json_object
from qvl_core.specs.hf_config import spec_from_hf_config
from qvl_core.specs.model_spec import ModelSpec

CONFIG_NAME = "config.json"
CUSTOM = "qwen2.5-vl-custom"
SHIPPED = ("qwen2.5-vl-3b", "qwen2.5-vl-7b", "qwen2.5-vl-32b", "qwen2.5-vl-72b", "qwen2.5-vl-tiny")
_CONFIG_LIMIT = 4 * 1024**2


def load_spec(name_or_config: str | Path | Mapping[str, Any]) -> ModelSpec:
    """Give the spec for a shipped name, a `config.json`, a folder that holds one, or the config as a mapping.

    A spec read from a config carries the shipped name if it has that shape, else `qwen2.5-vl-custom`: the name of a
    folder says nothing. Raises WeightsError with every problem.
    """
    if isinstance(name_or_config, Mapping):
        return _named_by_shape(spec_from_hf_config(name_or_config, where="config", name=CUSTOM))
    if isinstance(name_or_config, str) and name_or_config in SHIPPED:
        return _shipped(name_or_config)
    path = Path(name_or_config)
    with readable(path):
        try:
            is_folder = stat.S_ISDIR(path.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            raise WeightsError(_unknown(str(name_or_config))) from None
    if is_folder:
        path = path / CONFIG_NAME
    config = read_json_object(path, limit=_CONFIG_LIMIT, fix="give a config.json of the Qwen2.5-VL family")
    return _named_by_shape(spec_from_hf_config(config, where=str(path), name=CUSTOM))


def shipped_names() -> tuple[str, ...]:
    """List the names that `load_spec` knows."""
    return SHIPPED


def shipped_config_path(name: str) -> Path:
    """Give the `config.json` behind a shipped name."""
    return Path(__file__).with_name(f"{name}.json")


def spec_differences(expected: ModelSpec, found: ModelSpec) -> tuple[str, ...]:
    """List what differs between two specs: `text.num_layers: 28, found 36`. The names are not compared."""
    lines = []
    for part in ("vision", "text", "tokens"):
        left, right = getattr(expected, part), getattr(found, part)
        for field in fields(left):
            wanted, got = getattr(left, field.name), getattr(right, field.name)
            if wanted != got:
                lines.append(f"{part}.{field.name}: {wanted}, found {got}")
    return tuple(lines)


def model_differences(expected: ModelSpec, found: ModelSpec) -> tuple[str, ...]:
    """List what makes two specs two models: all that `spec_differences` lists but the context length.

    That is a limit, which no tensor and no result depends on, and published configs of one size disagree about it.
    """
    limit = expected.text.max_position_embeddings
    return spec_differences(expected, replace(found, text=replace(found.text, max_position_embeddings=limit)))


def _shipped(name: str) -> ModelSpec:
    path = shipped_config_path(name)
    return spec_from_hf_config(read_json_object(path), where=str(path), name=name)


def _named_by_shape(spec: ModelSpec) -> ModelSpec:
    for name in SHIPPED:
        if not model_differences(_shipped(name), spec):
            return replace(spec, name=name)
    return spec


def _unknown(given: str) -> Problem:
    close = difflib.get_close_matches(given, SHIPPED, n=1, cutoff=0.5)
    fix = f"did you mean {close[0]!r}?" if close else f"one of {', '.join(SHIPPED)}, or a path to a config.json"
    return Problem(where=printable(given), message="is neither a shipped model name nor a file or folder", fix=fix)

"""A resolved recipe as rows: key, value as TOML writes it, and where it comes from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qvl_core.recipe import Origin, Recipe


def value_rows(recipe: Recipe) -> list[tuple[str, str, str]]:
    """List (key, value, origin) of every value, defaults and derived ones included."""
    return [(key, toml_text(value), origin_text(recipe.origins, key)) for key, value in leaves(recipe.resolved())]


def leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Walk a nested table: dotted keys with their values; tables in a list count, `data.sources[0].path`."""
    for name, value in table.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from leaves(value, f"{key}.")
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            for index, item in enumerate(value):
                yield from leaves(item, f"{key}[{index}].")
        else:
            yield key, value


def toml_text(value: Any) -> str:
    """Write a value as TOML does."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's string escapes are TOML's.
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple):
        return f"[{', '.join(toml_text(item) for item in value)}]"
    return repr(value)


def origin_text(origins: Mapping[str, Origin], key: str) -> str:
    """Say where a value comes from: `recipe:11`, `extends:3` (a line of the base), `--set`, `default`, `derived`."""
    origin = _origin(origins, key)
    if origin is None:
        return "default"
    return f"{origin.kind}:{origin.line}" if origin.kind in ("recipe", "extends") else origin.kind


def _origin(origins: Mapping[str, Origin], key: str) -> Origin | None:
    # A table written on one line has one origin for all of its keys.
    while key:
        if key in origins:
            return origins[key]
        cut = max(key.rfind("."), key.rfind("["))
        key = key[:cut] if cut > 0 else ""
    return None

"""Lay recipe, base and overrides over each other, and remember where each value comes from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from qvl_core.errors import Problem
from qvl_core.recipe.overrides import Override
from qvl_core.recipe.positions import KeyPath
from qvl_core.recipe.schema import Origin, OriginKind
from qvl_core.recipe.toml_file import TomlFile

# Pairs of which a recipe states one. A later layer that states one of them takes the other one back: who runs
# `--set train.epochs=1` on a recipe with steps means epochs.
EXCLUSIVE: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("model",), "name", "config"),
    (("train",), "steps", "epochs"),
    (("data", "validation"), "fraction", "path"),
)


@dataclass(kw_only=True)
class Merged:
    """The values of all layers, and for each key path the layer that stated it last."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[KeyPath, Origin] = field(default_factory=dict)
    override_of: dict[KeyPath, Override] = field(default_factory=dict)
    path: str = ""

    def where(self, key: KeyPath) -> str:
        """Give `file:line`, or `--set KEY=VALUE`, of a key or of the nearest table around it."""
        for end in range(len(key), 0, -1):
            if key[:end] in self.override_of:
                return self.override_of[key[:end]].where
            origin = self.origins.get(key[:end])
            if origin:
                return f"{origin.file}:{origin.line}" if origin.line else origin.file
        return self.path


def merge_file(merged: Merged, toml: TomlFile, kind: OriginKind) -> None:
    """Lay a file over what is there: tables merge, everything else replaces."""
    _take_back_rivals(merged, toml.values)
    _merge_table(merged, merged.values, toml.values, (), toml, kind)
    merged.path = toml.path


def merge_overrides(merged: Merged, overrides: Iterable[Override]) -> tuple[Problem, ...]:
    """Lay overrides over what is there, in order. Gives a Problem for each that reaches into something not a table."""
    overrides = tuple(overrides)
    stated: dict[str, Any] = {}
    for override in overrides:
        if override.value is not None:
            _put(stated, override.key, override.value)
    _take_back_rivals(merged, stated)
    problems = []
    for override in overrides:
        table = _table_at(merged, override)
        if table is None:
            parent = _first_value_above(merged, override.key)
            problems.append(
                Problem(
                    where=override.where,
                    key=".".join(override.key),
                    message=f"{parent} is not a table; a list is replaced as a whole",
                    fix=f"--set {parent}=VALUE",
                )
            )
            continue
        _forget(merged, override.key)
        if override.value is None:
            table.pop(override.key[-1], None)
            continue
        table[override.key[-1]] = override.value
        for path in (override.key, *_paths_below(override.value, override.key)):
            merged.origins[path] = Origin(kind="--set")
            merged.override_of[path] = override
    return tuple(problems)


def _merge_table(
    merged: Merged, target: dict[str, Any], layer: dict[str, Any], at: KeyPath, toml: TomlFile, kind: OriginKind
) -> None:
    for key, value in layer.items():
        path = (*at, key)
        origin = Origin(kind=kind, file=toml.path, line=toml.line(path))
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            merged.origins[path] = origin
            _merge_table(merged, target[key], value, path, toml, kind)
            continue
        _forget(merged, path)
        merged.origins[path] = origin
        if isinstance(value, dict):
            target[key] = {}
            _merge_table(merged, target[key], value, path, toml, kind)
            continue
        target[key] = value
        for below in _paths_below(value, path):
            merged.origins[below] = Origin(kind=kind, file=toml.path, line=toml.line(below))


def _take_back_rivals(merged: Merged, layer: dict[str, Any]) -> None:
    for table_path, first, second in EXCLUSIVE:
        table, inherited = _dig(layer, table_path), _dig(merged.values, table_path)
        for key, rival in ((first, second), (second, first)):
            if key in table and rival not in table and rival in inherited:
                del inherited[rival]
                _forget(merged, (*table_path, rival))


def _dig(values: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """Give the table at a path, or an empty one."""
    for key in path:
        value = values.get(key)
        if not isinstance(value, dict):
            return {}
        values = value
    return values


def _put(values: dict[str, Any], key: tuple[str, ...], value: Any) -> None:
    for part in key[:-1]:
        inner = values.setdefault(part, {})
        if not isinstance(inner, dict):
            return
        values = inner
    values[key[-1]] = value


def _table_at(merged: Merged, override: Override) -> dict[str, Any] | None:
    table = merged.values
    for end, part in enumerate(override.key[:-1], start=1):
        if part not in table and override.value is None:
            return {}
        if part not in table:
            merged.origins[override.key[:end]] = Origin(kind="--set")
            merged.override_of[override.key[:end]] = override
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            return None
        table = inner
    return table


def _first_value_above(merged: Merged, key: tuple[str, ...]) -> str:
    """Name the first key on the way that holds a value or a list: `data.sources` for data.sources.0.path."""
    for end in range(1, len(key)):
        above = merged.values
        for part in key[: end - 1]:
            above = above[part]
        if not isinstance(above.get(key[end - 1]), dict):
            return ".".join(key[:end])
    raise AssertionError(f"every part of {key} is a table")


def _forget(merged: Merged, path: KeyPath) -> None:
    """Drop what is remembered about a path and everything below it."""
    for known in [known for known in merged.origins if known[: len(path)] == path]:
        del merged.origins[known]
        merged.override_of.pop(known, None)


def _paths_below(value: Any, path: KeyPath) -> list[KeyPath]:
    items: Iterable[tuple[str | int, Any]] = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    return [found for key, item in items for found in ((*path, key), *_paths_below(item, (*path, key)))]

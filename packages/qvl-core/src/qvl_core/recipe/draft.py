"""What a recipe says before all of it is known to be right: lets rules run on the keys that are."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from qvl_core.recipe.positions import KeyPath
from qvl_core.recipe.schema import Recipe


class Draft:
    """Values by dotted key, with the schema's defaults, except where a key or something in it is wrong."""

    def __init__(self, values: dict[str, Any], wrong: set[KeyPath]) -> None:
        self._values = values
        self._wrong = wrong

    def take(self, *keys: str) -> tuple[Any, ...] | None:
        """Give the value of each key, or None if one of them is wrong, missing, or in a section that is absent."""
        taken = []
        for key in keys:
            path = tuple(key.split("."))
            if any(wrong[: len(path)] == path or path[: len(wrong)] == wrong for wrong in self._wrong):
                return None
            found, value = self._find(path)
            if not found:
                return None
            taken.append(value)
        return tuple(taken)

    def states(self, key: str) -> bool:
        """Tell whether a key is stated, rightly or wrongly."""
        value: Any = self._values
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                return False
            value = value[part]
        return True

    def _find(self, path: tuple[str, ...]) -> tuple[bool, Any]:
        model: type[BaseModel] | None = Recipe
        value: Any = self._values
        for part in path:
            field = fields_by_key(model).get(part) if model else None
            if field is None:
                return False, None
            if isinstance(value, dict) and part in value:
                value = value[part]
            elif (default := field.get_default(call_default_factory=True)) is not PydanticUndefined:
                value = default
            else:
                return False, None
            if value is None and part != path[-1]:
                return False, None
            model = section_of(field.annotation)
        return True, value


def fields_by_key(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Give a section's fields under the names that they have in a recipe."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def section_of(annotation: Any) -> type[BaseModel] | None:
    """Give the section class of a field's type, looking through `| None`."""
    if get_origin(annotation) in (Union, types.UnionType):
        found = [section for part in get_args(annotation) if (section := section_of(part))]
        return found[0] if found else None
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def element_section_of(annotation: Any) -> type[BaseModel] | None:
    """Give the section class of a list's elements: SourceSection for data.sources."""
    if get_origin(annotation) is tuple and (arguments := get_args(annotation)):
        return section_of(arguments[0])
    return None


def all_keys(model: type[BaseModel] = Recipe, at: KeyPath = ()) -> Iterator[tuple[KeyPath, FieldInfo]]:
    """List every key of the schema, elements of lists under index 0, with its field."""
    for key, field in fields_by_key(model).items():
        path = (*at, key)
        yield path, field
        if section := section_of(field.annotation):
            yield from all_keys(section, path)
        elif element := element_section_of(field.annotation):
            yield from all_keys(element, (*path, 0))


def dotted(path: KeyPath) -> str:
    """Write a path as people do: `data.sources[0].path`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text

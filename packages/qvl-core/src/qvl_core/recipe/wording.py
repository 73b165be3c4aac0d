"""Say in our words what pydantic found: the value seen, the values allowed, and a fix that can be pasted."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from pydantic import ValidationError

from qvl_core.errors import Problem
from qvl_core.recipe.draft import all_keys, dotted
from qvl_core.recipe.merge import Merged
from qvl_core.recipe.positions import KeyPath

_KINDS = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text in quotes",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
}
_BOUNDS = {
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
}
_INTEGER_SHOWN = 10**30
_ITEMS_SHOWN = 8
# Above this likeness a key beside the wrong one is meant, even if another table has one of exactly this name.
_SURE = 0.8


def schema_problems(error: ValidationError, merged: Merged) -> list[tuple[KeyPath, Problem]]:
    """Give one Problem for each key that the schema refuses, with the key's path."""
    found: dict[KeyPath, list[dict[str, Any]]] = {}
    for entry in error.errors(include_url=False):
        found.setdefault(_stated_path(entry["loc"], entry["type"], merged.values), []).append(dict(entry))
    return [(path, _problem(path, entries, merged)) for path, entries in found.items()]


def _stated_path(location: tuple[str | int, ...], kind: str, values: Any) -> KeyPath:
    """Cut pydantic's names for the branches of a union off: they are no keys."""
    path: list[str | int] = []
    for part in location:
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            if kind == "missing":
                path.append(part)
            break
        path.append(part)
    return tuple(path)


def _problem(path: KeyPath, entries: list[dict[str, Any]], merged: Merged) -> Problem:
    entry = entries[0]
    key, kind = dotted(path), entry["type"]
    where = merged.where(path)
    if kind == "extra_forbidden":
        return Problem(where=where, key=key, message="is not a key of recipes", fix=_closest(path))
    field = _fields().get(_general(path))
    about = field.description or "" if field else ""
    if kind == "missing":
        return Problem(where=where, key=key, message=f"is missing. {about}", fix=_example(path))
    value = entry["input"]
    if len(entries) > 1:
        return Problem(where=where, key=key, message=f"is {shown(value)}. {about}", fix=_example(path))
    fix = _corrected(path, entry) or (_example(path) if kind not in _BOUNDS else about)
    return Problem(where=where, key=key, message=_sentence(entry), fix=fix)


def _sentence(entry: dict[str, Any]) -> str:
    kind, value, context = entry["type"], entry["input"], entry.get("ctx", {})
    seen = f"is {shown(value)}"
    if kind == "literal_error":
        return f"{seen}; it can be {context['expected']}"
    if kind in _KINDS:
        return f"{seen}; it has to be {_KINDS[kind]}"
    if kind in _BOUNDS:
        return f"{seen}; it has to be {_BOUNDS[kind].format(**context)}"
    if kind == "finite_number":
        return f"{seen}; it has to be a finite number"
    if kind in ("too_short", "string_too_short"):
        return f"{seen}; it has to have at least {context['min_length']} {_unit(kind)}"
    if kind in ("too_long", "string_too_long"):
        return f"has {len(value)} {_unit(kind)}; at most {context['max_length']} are allowed"
    if kind == "missing_argument" or "msg" not in entry:
        return seen
    return f"{seen}: {entry['msg'][0].lower()}{entry['msg'][1:]}"


def _unit(kind: str) -> str:
    return "characters" if kind.startswith("string") else "entries"


def _corrected(path: KeyPath, entry: dict[str, Any]) -> str:
    """Write the line as it was probably meant: the closest choice, a number without its quotes."""
    name, value = _last_name(path), entry["input"]
    if entry["type"] == "literal_error" and isinstance(value, str):
        choices = [choice.strip("'") for choice in entry["ctx"]["expected"].replace(" or ", ", ").split(", ")]
        close = difflib.get_close_matches(value.lower(), choices, n=1, cutoff=0.4)
        return f"{name} = {_toml(close[0])}" if close and not isinstance(path[-1], int) else _or_example(path, close)
    if entry["type"] in ("int_type", "float_type") and isinstance(value, str) and len(value) < 30:
        try:
            number = int(value) if entry["type"] == "int_type" else float(value)
        except ValueError:
            return ""
        return f"{name} = {number}" if not isinstance(path[-1], int) else ""
    if entry["type"] == "int_type" and isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return f"{name} = {int(value)}" if not isinstance(path[-1], int) else ""
    if entry["type"] == "string_type" and isinstance(value, bool | int | float) and not isinstance(path[-1], int):
        return f"{name} = {_toml(shown(value))}"
    if entry["type"] == "bool_type" and str(value).lower() in ("true", "false") and isinstance(value, str):
        return f"{name} = {value.lower()}"
    if entry["type"] == "tuple_type" and isinstance(value, str | int | float) and not isinstance(value, bool):
        return f"{name} = [{_toml(value)}]"
    return ""


def _or_example(path: KeyPath, close: list[str]) -> str:
    return f"did you mean {_toml(close[0])}?" if close else _example(path)


def _closest(path: KeyPath) -> str:
    """Name the key that was probably meant: a similar one of the same table, or this one of another table."""
    name = path[-1]
    if not isinstance(name, str):
        return ""
    parent = _general(path[:-1])
    siblings = [key[-1] for key in _fields() if key[:-1] == parent and isinstance(key[-1], str)]
    similar = difflib.get_close_matches(name, siblings, n=1, cutoff=0.6)
    similar = similar or difflib.get_close_matches(name.lower(), siblings, n=1, cutoff=0.6)
    elsewhere = sorted(
        (key for key in _fields() if key[-1] == name and key != path), key=lambda key: key[:1] != path[:1]
    )
    if similar and (not elsewhere or difflib.SequenceMatcher(None, name, similar[0]).ratio() > _SURE):
        return f"did you mean {dotted((*path[:-1], similar[0]))}?"
    if elsewhere:
        table = dotted(elsewhere[0][:-1])
        return f"did you mean {dotted(elsewhere[0])}?" + (f" Write it under [{table}]" if table else "")
    everywhere = {str(key[-1]): key for key in reversed(list(_fields())) if isinstance(key[-1], str)}
    if close := difflib.get_close_matches(name, list(everywhere), n=1, cutoff=0.8):
        return f"did you mean {dotted(everywhere[close[0]])}?"
    return f"leave it out; the keys here are {', '.join(siblings)}" if siblings else "leave it out"


def _example(path: KeyPath) -> str:
    """Write a line that would be right, from the schema's example."""
    field = _fields().get(_general(path))
    if field is None or not field.examples:
        return ""
    example = field.examples[0]
    name = _last_name(path)
    if isinstance(example, dict) and len(path) <= 2:
        table = dotted(path)
        return "\n".join([f"[{table}]", *(f"{key} = {_toml(value)}" for key, value in example.items())])
    return f"{name} = {_toml(example)}"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def shown(value: Any) -> str:
    """Write a value as in a recipe, shortened: recipes may hold anything, and messages stay readable."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) > _INTEGER_SHOWN:
        return "a very large number"
    if isinstance(value, str):
        return json.dumps(value if len(value) <= 80 else f"{value[:77]}...", ensure_ascii=False)
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list | tuple):
        if any(isinstance(item, list | tuple | dict) for item in value):
            return "a list of lists or tables"
        items = [shown(item) for item in value[:_ITEMS_SHOWN]]
        return f"[{', '.join(items)}{', ...' if len(value) > _ITEMS_SHOWN else ''}]"
    return str(value)


def _last_name(path: KeyPath) -> str:
    return next(part for part in reversed(path) if isinstance(part, str))


def _general(path: KeyPath) -> KeyPath:
    """Give the path in the schema: elements of a list share one entry, and belong to the list if they are values."""
    general = tuple(0 if isinstance(part, int) else part for part in path)
    while general and general[-1] == 0:
        general = general[:-1] if general not in _elements() else general
        if general in _elements():
            break
    return general


@lru_cache(maxsize=1)
def _fields() -> dict[KeyPath, Any]:
    return dict(all_keys())


@lru_cache(maxsize=1)
def _elements() -> frozenset[KeyPath]:
    """Give the paths of list elements that are tables themselves."""
    return frozenset(key[:-1] for key in _fields() if len(key) > 1 and key[-2] == 0)


def odd_value_problems(odd: Iterator[tuple[KeyPath, str]], merged: Merged) -> list[tuple[KeyPath, Problem]]:
    """Word the values that no key may have."""
    return [
        (path, Problem(where=merged.where(path), key=dotted(path), message=message, fix=_example(path)))
        for path, message in odd
    ]

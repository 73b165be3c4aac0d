"""Say in our words what pydantic found: the value seen, the values allowed, and a fix that can be pasted."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from pydantic import ValidationError, create_model
from pydantic.fields import FieldInfo

from qvl_core.errors import Problem
from qvl_core.recipe.draft import all_keys, dotted
from qvl_core.recipe.merge import Merged
from qvl_core.recipe.positions import KeyPath
from qvl_core.recipe.sections.section import Section

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
# What people write for a choice that is spelled quite differently.
_OTHER_WORDS = {"npu": "ascend", "train": "sft", "finetune": "sft", "fp32": "float32", "bf16": "bfloat16"}
# Choices that are left out for a reason.
_FLOAT16 = "training in float16 needs loss scaling, for gradients below 6e-8 vanish; bfloat16 has float32's range"
_REFUSED = {"float16": _FLOAT16, "fp16": _FLOAT16, "half": _FLOAT16}
_INTEGER_SHOWN = 10**30
_ITEMS_SHOWN = 8
_KEYS_SHOWN = 12
# Above this likeness a key beside the wrong one is meant, even if another table has one of exactly this name.
_SURE = 0.8


def schema_problems(error: ValidationError, merged: Merged) -> list[tuple[KeyPath, Problem]]:
    """Give one Problem for each key that the schema refuses, with the key's path."""
    found: dict[KeyPath, list[dict[str, Any]]] = {}
    for entry in error.errors(include_url=False):
        found.setdefault(_stated_path(entry["loc"], entry["type"], merged.values), []).append(dict(entry))
    return [(path, _problem(path, entries, merged)) for path, entries in found.items() if not _echoes(path, found)]


def _echoes(path: KeyPath, found: dict[KeyPath, list[dict[str, Any]]]) -> bool:
    """Tell whether a list is too short only because its wrong entries were not counted."""
    length_only = found[path][0]["type"] == "too_short" and bool(found[path][0]["input"])
    return length_only and any(other[: len(path)] == path for other in found if other != path)


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
        # Of the forms that a value may have, a wrong word was meant as the one with words, or as an entry of a list.
        words = (one for one in entries if one["type"] == "literal_error" and isinstance(one["input"], str))
        choice = next(words, None)
        if choice is None:
            return Problem(where=where, key=key, message=f"is {shown(value)}. {about}", fix=_example(path))
        entry, kind = choice, "literal_error"
        if isinstance(value, list):
            path = (*path, value.index(entry["input"]))
            key, where = dotted(path), merged.where(path)
    message = _sentence(entry) + (f". {about}" if kind in _BOUNDS and about else "")
    return Problem(where=where, key=key, message=message, fix=_corrected(path, entry, merged) or _example(path))


def _sentence(entry: dict[str, Any]) -> str:
    kind, value, context = entry["type"], entry["input"], entry.get("ctx", {})
    seen = f"is {shown(value)}"
    if kind == "literal_error":
        reason = _REFUSED.get(value, "") if isinstance(value, str) else ""
        return f"{seen}; it can be {context['expected']}{': ' if reason else ''}{reason}"
    if kind in _KINDS:
        return f"{seen}; it has to be {_KINDS[kind]}"
    if kind in _BOUNDS:
        return f"{seen}; it has to be {_BOUNDS[kind].format(**context)}"
    if kind == "finite_number":
        return f"{seen}; it has to be a finite number"
    if kind in ("too_short", "string_too_short"):
        return f"{seen}; it has to have at least {_unit(context['min_length'], kind)}"
    if kind in ("too_long", "string_too_long"):
        return f"has {_unit(len(value), kind)}; at most {context['max_length']} are allowed"
    if kind == "missing_argument" or "msg" not in entry:
        return seen
    return f"{seen}: {entry['msg'][0].lower()}{entry['msg'][1:]}"


def _unit(number: int, kind: str) -> str:
    one, many = ("character", "characters") if kind.startswith("string") else ("entry", "entries")
    return f"{number} {one if number == 1 else many}"


def _corrected(path: KeyPath, entry: dict[str, Any], merged: Merged) -> str:
    """Write the line as it was probably meant; nothing where no such line would be right."""
    field = _fields().get(_general(path))
    if field is None:
        return ""
    for meant in _meant(entry):
        value = _in_its_list(meant, path, merged)
        if _is_legal(field, value):
            return f"{_last_name(path)} = {_toml(value)}"
    return ""


def _meant(entry: dict[str, Any]) -> Iterator[Any]:
    """Guess: the closest choice, the nearest bound, a number without its quotes, text with quotes, a list of one."""
    kind, value, context = entry["type"], entry["input"], entry.get("ctx", {})
    if kind == "literal_error":
        yield from _close_choices(value, context["expected"])
    elif kind in ("greater_than_equal", "less_than_equal"):
        yield context.get("ge", context.get("le"))
    elif kind in ("int_type", "float_type") and isinstance(value, str | float) and len(str(value)) < 30:
        try:
            number = float(value)
        except ValueError:
            return
        yield int(number) if kind == "int_type" and number.is_integer() else number
    elif kind == "string_type" and isinstance(value, bool | int | float):
        yield shown(value)
    elif kind == "bool_type":
        yield {"true": True, "false": False, "1": True, "0": False}.get(str(value).lower())
    elif kind == "tuple_type":
        yield [value]
        # A shell takes the quotes away: --set 'model.freeze=[vision, merger]'.
        yield [part.strip() for part in str(value).strip("[]").split(",")]


def _close_choices(value: Any, expected: str) -> Iterator[Any]:
    """Read pydantic's list of choices, `'sft', 'eval' or 'infer'`, and give those that may be meant."""
    words = expected.replace(" or ", ", ").split(", ")
    choices = [word.strip("'") if word.startswith("'") else int(word) for word in words]
    if isinstance(value, str):
        yield _OTHER_WORDS.get(value.lower())
        texts = [choice for choice in choices if isinstance(choice, str)]
        yield from difflib.get_close_matches(value.lower(), texts, n=1, cutoff=0.6)
    if len(choices) == 1:
        yield choices[0]


def _in_its_list(value: Any, path: KeyPath, merged: Merged) -> Any:
    """Give the whole list with one entry replaced, where the value is an entry of a list."""
    if not isinstance(path[-1], int):
        return value
    table: Any = merged.values
    for part in path[:-1]:
        table = table[part]
    return [value if index == path[-1] else item for index, item in enumerate(table)]


def _is_legal(field: FieldInfo, value: Any) -> bool:
    annotation: Any = field.annotation
    probe = create_model("Probe", __base__=Section, value=(annotation, field))
    try:
        probe.model_validate({field.alias or "value": value})
    except ValidationError:
        return False
    return value is not None


def _closest(path: KeyPath) -> str:
    """Name the key that was probably meant: a similar one of the same table, or this one of another table."""
    name = path[-1]
    if not isinstance(name, str):
        return ""
    parent = _general(path[:-1])
    siblings = [key[-1] for key in _fields() if key[:-1] == parent and isinstance(key[-1], str)]
    similar = difflib.get_close_matches(name, siblings, n=1, cutoff=0.6)
    by_folded = {key.casefold(): key for key in siblings}
    similar = similar or [
        by_folded[key] for key in difflib.get_close_matches(name.casefold(), list(by_folded), n=1, cutoff=0.6)
    ]
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
    more = f" and {len(siblings) - _KEYS_SHOWN} more" if len(siblings) > _KEYS_SHOWN else ""
    return f"leave it out; the keys here are {', '.join(siblings[:_KEYS_SHOWN])}{more}" if siblings else "leave it out"


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

"""Write the tables of recipe keys into docs/recipe.md, from the schema; `--check` only tells if they are up to date."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qvl_core.recipe.schema import recipe_json_schema

PAGE = Path(__file__).resolve().parents[1] / "docs" / "recipe.md"
START = "<!-- keys: made by tools/make_recipe_reference.py; do not edit -->"
END = "<!-- end of keys -->"
HEAD = "| key | values | what it is |\n|---|---|---|"


def main() -> int:
    """Write the page, or with `--check` exit 1 where it is stale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the page is stale")
    check = parser.parse_args().check
    text = PAGE.read_text(encoding="utf-8")
    fresh = with_reference(text)
    if check and fresh != text:
        print(f"docs/{PAGE.name} is stale\n  fix: python tools/make_recipe_reference.py")
        return 1
    if not check:
        PAGE.write_text(fresh, encoding="utf-8")
    print(f"docs/{PAGE.name}: up to date")
    return 0


def with_reference(page: str) -> str:
    """Give the page with fresh tables between its markers. Raises ValueError when it has not one pair of them."""
    if page.count(START) != 1 or page.count(END) != 1:
        raise ValueError(f"the page needs one {START!r} and one {END!r}")
    before, rest = page.split(START)
    return f"{before}{START}\n\n{reference()}\n\n{END}{rest.split(END)[1]}"


def reference() -> str:
    """Give one table of keys for each section of a recipe, in the schema's order."""
    schema = recipe_json_schema()
    return "\n\n".join(_tables("Top of the file", "", "", schema, schema["$defs"]))


def _tables(heading: str, path: str, about: str, section: dict[str, Any], sections: dict[str, Any]) -> Iterator[str]:
    """Yield the table of a section, then those of the tables inside it."""
    required = set(section.get("required", ()))
    rows, inner = [], []
    for key, field in section["properties"].items():
        table = _table_of(field, sections)
        if table is None:
            mark = ", **required**" if key in required else ""
            rows.append(f"| `{key}` | {_values(field)}{mark} | {_about(field)} |")
            continue
        name, of_list = table
        about_table = _about(field) or _about(sections[name])
        if key in required:
            about_table += " **Required.**"
        inner.append((f"{path}.{key}".lstrip("."), of_list, about_table, sections[name]))
    if isinstance(section.get("additionalProperties"), dict):
        rows.append(f"| any other name | {_values(section['additionalProperties'])} | A further measurement. |")
    yield "\n\n".join(part for part in (f"### {heading}", about, "\n".join([HEAD, *rows])) if part)
    for inner_path, of_list, inner_about, inner_section in inner:
        inner_heading = f"`[[{inner_path}]]`" if of_list else f"`[{inner_path}]`"
        yield from _tables(inner_heading, inner_path, inner_about, inner_section, sections)


def _table_of(field: dict[str, Any], sections: dict[str, Any]) -> tuple[str, bool] | None:
    """Give the section that a field holds, and whether it holds a list of them; None for a plain value."""
    for choice in _choices(field):
        of_list = choice.get("type") == "array"
        name = (choice.get("items", {}) if of_list else choice).get("$ref", "").rpartition("/")[2]
        if name in sections:
            return name, of_list
    return None


def _choices(field: dict[str, Any]) -> list[dict[str, Any]]:
    return [choice for choice in field.get("anyOf", [field]) if choice.get("type") != "null"]


def _values(field: dict[str, Any]) -> str:
    return " or ".join(_value(choice) for choice in _choices(field))


def _value(choice: dict[str, Any]) -> str:
    if "const" in choice:
        choice = {**choice, "enum": [choice["const"]]}
    if "enum" in choice:
        quote = '"' if choice.get("type") == "string" else ""
        return ", ".join(f"`{quote}{value}{quote}`" for value in choice["enum"])
    kind: str = choice["type"]
    if kind == "array":
        items = choice.get("prefixItems") or [choice["items"]]
        count = f" of {len(items)}" if "prefixItems" in choice else ""
        return f"list{count}: {_value(items[0])}"
    if kind == "string" and "pattern" in choice:
        return f"text like `{choice['pattern'].strip('^$')}`"
    return {"string": "text", "boolean": "`true`, `false`"}.get(kind) or f"{kind}{_range(choice)}"


def _range(choice: dict[str, Any]) -> str:
    low, high = choice.get("minimum"), choice.get("maximum")
    above, below = choice.get("exclusiveMinimum"), choice.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f" {_plain(low)} to {_plain(high)}"
    words = ((low, "at least"), (above, "greater than"), (high, "at most"), (below, "less than"))
    stated = [f"{word} {_plain(bound)}" for bound, word in words if bound is not None]
    return f" {', '.join(stated)}" if stated else ""


def _plain(bound: float) -> str:
    return str(int(bound)) if bound == int(bound) else str(bound)


def _about(field: dict[str, Any]) -> str:
    return str(field.get("description", "")).replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    sys.exit(main())

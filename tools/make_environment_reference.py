"""Write the tables of environment variables into docs/environment.md; `--check` only tells if they are up to date."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from qvl_core.recipe.environment_guide import MEANING_FOR_TORCH, WHEN
from qvl_core.recipe.environment_rules import INSTEAD, LAUNCHER, RECIPE_KEYS
from qvl_core.recipe.schema import recipe_json_schema

PAGE = Path(__file__).resolve().parents[1] / "docs" / "environment.md"
START = "<!-- variables: made by tools/make_environment_reference.py; do not edit -->"
END = "<!-- end of variables -->"


def main() -> int:
    """Write the page, or with `--check` exit 1 where it is stale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the page is stale")
    check = parser.parse_args().check
    text = PAGE.read_text(encoding="utf-8")
    fresh = with_reference(text)
    if check and fresh != text:
        print(f"docs/{PAGE.name} is stale\n  fix: python tools/make_environment_reference.py")
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
    """Give the table of the variables that are passed on, of those without effect, and of those that are refused."""
    fields = recipe_json_schema()["$defs"]["EnvSection"]["properties"]
    rows = [_row(name, field) for name, field in fields.items()]
    passed = ["| variable | values | runtime default | meaning | set it when |", "|---|---|---|---|---|", *rows]
    torch = ["| variable | what it does in the PyTorch adapter | in qvl |", "|---|---|---|"]
    torch += [
        f"| `{name}` | {what} | {INSTEAD.get(name, 'leave it out')} |" for name, what in MEANING_FOR_TORCH.items()
    ]
    refused = ["| variable | stated by |", "|---|---|"]
    refused += [f"| `{name}` | {key} |" for name, key in RECIPE_KEYS.items()]
    refused += [f"| `{name}` | the launcher, for each process |" for name in LAUNCHER]
    parts = ["### Passed on to the workers", *passed, "", "### Without effect here", *torch, "", "### Not set by hand"]
    text = "\n".join([*parts, *refused])
    return re.sub(r"(?m)^(### .*)$", r"\1\n", text)


def _row(name: str, field: dict[str, Any]) -> str:
    meaning, default = _split(field["description"])
    return f"| `{name}` | {_values(field)} | {default} | {meaning} | {WHEN[name]} |"


def _split(description: str) -> tuple[str, str]:
    """Take the sentence on the default out of a description."""
    found = re.search(r"\s*(?:Runtime default|Default):? (.*?)(?:\.(?= |$)|;)(.*)", description, re.DOTALL)
    if not found:
        return description, "unset"
    rest = found[2].strip()
    meaning = description[: found.start()].rstrip()
    return (f"{meaning} {_sentence(rest)}" if rest else meaning), found[1]


def _sentence(text: str) -> str:
    return text if text.startswith("qvl") else text[0].upper() + text[1:]


def _values(field: dict[str, Any]) -> str:
    kinds = [kind for kind in field.get("anyOf", [field]) if kind.get("type") != "null"]
    return " or ".join(_kind(kind) for kind in kinds)


def _kind(kind: dict[str, Any]) -> str:
    if "enum" in kind:
        return ", ".join(f"`{value}`" for value in kind["enum"])
    if kind.get("type") == "integer":
        return f"{kind['minimum']} to {kind['maximum']}"
    return {"boolean": "true, false", "string": "text"}.get(str(kind.get("type")), "text")


if __name__ == "__main__":
    sys.exit(main())

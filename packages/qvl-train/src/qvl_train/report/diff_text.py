"""Two runs compared, as lines of text and as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING

from qvl_core.input_file import printable

from qvl_train.report.difference import GROUPS
from qvl_train.report.numbers import number_text
from qvl_train.report.outcomes import course_text
from qvl_train.report.run_diff import RunDiff

if TYPE_CHECKING:
    from rich.console import Console

TITLES = {
    "recipe": "Recipe",
    "data": "Data",
    "weights": "Weights",
    "versions": "Versions",
    "environment": "Environment",
}
_MOST_TEXT = 400
_MOST_LINE = 4000


def print_diff(target: Console, diff: RunDiff, ours: str, theirs: str) -> None:
    """Print the same for people."""
    from qvl_core.cli.terminal import print_heading, print_table

    def say(text: str) -> None:
        target.print(printable(text, _MOST_LINE), highlight=False, markup=False)

    say(f"A {ours}")
    say(f"B {theirs}")
    say(diff.verdict)
    if diff.course is not None:
        say(course_text(diff.course))
    for notice in diff.notices:
        say(notice)
    for group in GROUPS:
        found = diff.of(group)
        if found:
            print_heading(target, TITLES[group])
            rows = [
                (
                    printable(one.key),
                    cut_value(one.ours),
                    cut_value(one.theirs),
                    f"{one.meaning.effect.value}: {one.meaning.text}",
                )
                for one in found
            ]
            print_table(target, ("key", "A", "B", "what it means"), rows)
    if diff.outcomes:
        print_heading(target, "What came of it")
        results = [(one.name, number_text(one.ours), number_text(one.theirs)) for one in diff.outcomes]
        print_table(target, ("number", "A", "B"), results, right=("A", "B"))


def diff_json(diff: RunDiff, ours: str, theirs: str) -> str:
    """Give the same for programs; keys are stable, new ones may come."""
    found = diff.course
    content = {
        "a": ours,
        "b": theirs,
        "verdict": diff.verdict,
        "course": {**asdict(found), "ours": _number(found.ours), "theirs": _number(found.theirs)} if found else None,
        "differences": [
            {
                "group": one.group,
                "key": one.key,
                "a": one.ours,
                "b": one.theirs,
                "effect": one.meaning.effect.value,
                "meaning": one.meaning.text,
            }
            for group in GROUPS
            for one in diff.of(group)
        ],
        "outcomes": [{"name": one.name, "a": _number(one.ours), "b": _number(one.theirs)} for one in diff.outcomes],
        "notices": list(diff.notices),
    }
    # Escaped, so that any terminal and encoding takes it.
    return json.dumps(content, indent=2, allow_nan=False)


def _number(value: float | None) -> float | None:
    """Give the number for JSON, which has no NaN and no infinity: the notices tell of them."""
    return value if value is not None and math.isfinite(value) else None


def cut_value(text: str) -> str:
    """Give a value as people read it, cut where it is long; a whole table as its settings."""
    return printable(_as_settings(text), _MOST_TEXT)


def _as_settings(text: str) -> str:
    """Give a whole table, which is JSON, as `key = value, ...`; any other text as it is."""
    if not text.startswith("{"):
        return text
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(found, dict):
        return text
    return ", ".join(
        f"{key} = {value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)}"
        for key, value in found.items()
    )

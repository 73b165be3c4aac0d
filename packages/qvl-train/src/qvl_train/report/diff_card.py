"""Two runs compared, as cards of a page, as lines of text, and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from qvl_core.input_file import printable
from qvl_data.inspection.markup import Html, element
from qvl_data.inspection.page import card

from qvl_train.report.difference import GROUPS
from qvl_train.report.meanings import Effect
from qvl_train.report.numbers import number_text
from qvl_train.report.outcomes import course_text
from qvl_train.report.run_diff import RunDiff, counted

if TYPE_CHECKING:
    from rich.console import Console

TITLES = {
    "recipe": "Recipe",
    "data": "Data",
    "weights": "Weights",
    "versions": "Versions",
    "environment": "Environment",
}
_TONES = {
    Effect.TENSORS: "bad",
    Effect.NUMBERS: "bad",
    Effect.PERHAPS: "warn",
    Effect.UNKNOWN: "warn",
}
_MOST_TEXT = 400
_MOST_LINE = 4000


def diff_card(diff: RunDiff, ours: str, theirs: str, *, id_: str = "diff", is_folded: bool = False) -> Html:
    """Give the card: the verdict, then a table for each group that has a difference, to be unfolded or not."""
    parts: list[Html] = [element("p", diff.verdict, class_="verdict")]
    if diff.course is not None:
        parts.append(element("p", course_text(diff.course)))
    parts += [element("p", notice, class_="soft small") for notice in diff.notices]
    tables = [part for group in GROUPS for part in _group(diff, group, ours, theirs)]
    if is_folded and tables:
        tables = [element("details", element("summary", counted(len(diff.differences))), *tables)]
    parts += tables
    same = [TITLES[group] for group in GROUPS if not diff.of(group)]
    if same:
        parts.append(element("p", f"Without a difference: {', '.join(same)}.", class_="soft small"))
    return card(f"What differs: {ours} and {theirs}", *parts, id=id_)


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
                    _cut(one.ours),
                    _cut(one.theirs),
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


def _group(diff: RunDiff, group: str, ours: str, theirs: str) -> Iterator[Html]:
    found = diff.of(group)
    if not found:
        return
    yield element("h3", TITLES[group])
    head = element("tr", *(element("th", name, scope="col") for name in ("key", ours, theirs, "what it means")))
    rows = [
        element(
            "tr",
            element("th", one.key, scope="row", class_="mono"),
            element("td", _cut(one.ours), class_="value", data_of=ours),
            element("td", _cut(one.theirs), class_="value", data_of=theirs),
            element(
                "td",
                element("span", one.meaning.effect.value, class_=f"tag {_TONES.get(one.meaning.effect, 'plain')}"),
                " ",
                one.meaning.text,
            ),
        )
        for one in found
    ]
    body = element("table", element("thead", head), element("tbody", *rows), class_="differences")
    yield element("div", body, class_="scroll", tabindex=0, role="region", aria_label=f"differences: {group}")


def _cut(text: str) -> str:
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

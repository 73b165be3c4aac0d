"""The report of a migration, for people and as JSON: nothing of the old files is passed over in silence.

For people it begins with what has to be looked at; what only accounts for the rest stands last.
"""

from __future__ import annotations

import json
import re
import shlex
import textwrap
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

from qvl_core.errors import Problem
from qvl_core.migrate.folder import shortened
from qvl_core.migrate.ledger import Contradiction, Fate, Left
from qvl_core.migrate.migration import SUMMARY, Made, Migration
from qvl_core.migrate.recipe_text import toml_value

FORMAT = 1
_FATES: tuple[Fate, ...] = ("no_effect", "no_counterpart", "unknown", "in_accord")
_CONTRADICTIONS, _UNKNOWN, _REMARKS = "Contradictions", "Not known to qvl migrate: look at these", "Remarks"
_TAKEN = re.compile(r"\bnot known\b|\btaken\b")
_WIDTH = 120


def as_text(migration: Migration, out: str) -> str:
    """Give the whole report, most important first."""
    ledger = migration.ledger
    of = {fate: [row for row in ledger.left if row.fate == fate] for fate in _FATES}
    sections = [
        ("Files that cannot be read", [problem.render() for problem in migration.broken]),
        *((f"{one.file}: not written", [problem.render() for problem in one.problems]) for one in migration.made),
        *((f"{one.file}: warnings", [problem.render() for problem in one.warnings]) for one in migration.made),
        (_CONTRADICTIONS, [_contradiction(row) for row in ledger.contradictions]),
        (_UNKNOWN, [_left(row) for row in of["unknown"]]),
        (_REMARKS, _remarks(ledger.remarks)),
        *((f"{one.file}: values and where they come from", _values(one)) for one in migration.made),
        ("Never had an effect", _by_reason(of["no_effect"])),
        ("No counterpart in qvl, or not needed", _by_reason(of["no_counterpart"])),
        ("Read, and in accord with the recipes", _in_short(of["in_accord"])),
        ("Not looked at", [shortened(migration.unread)] if migration.unread else []),
    ]
    titled = ["\n".join([title, "-" * len(title), *rows]) for title, rows in sections if rows]
    return ledger.hide("\n\n".join([_summary(migration, out), *titled, _next(migration, out)]) + "\n")


def as_json(migration: Migration, out: str) -> str:
    """Give the report as one JSON object."""
    ledger = migration.ledger
    report: dict[str, Any] = {
        "format": FORMAT,
        "folder": migration.folder,
        "out": out,
        "complete": migration.complete,
        "recipes": [_recipe_json(made) for made in migration.made],
        "contradictions": [
            {"what": row.what, "places": [{"where": w, "states": t} for w, t in row.places], "used": row.used}
            for row in ledger.contradictions
        ],
        **{
            fate: [
                {"where": row.where, "setting": row.said, "value": row.value, "why": row.why}
                for row in ledger.left
                if row.fate == fate
            ]
            for fate in _FATES
        },
        "remarks": [{"where": where, "text": text} for where, text in ledger.remarks],
        "broken": [_problem_json(one) for one in migration.broken],
        "not_looked_at": list(migration.unread),
    }
    return ledger.hide(json.dumps(report, indent=2, ensure_ascii=False) + "\n")


def _summary(migration: Migration, out: str) -> str:
    good = [made for made in migration.made if not made.problems]
    ledger = migration.ledger
    written = f"{_count(len(good), 'recipe')} written to {out}" if good else "no recipe written"
    lines = [f"{migration.folder}: {written}"]
    lines += [f"  {made.file}: {made.task}, {_of(made)}" for made in good]
    bad = [made for made in migration.made if made.problems]
    lines += [f"  {made.file}: not written, {_count(len(made.problems), 'problem')}" for made in bad]
    lines += [f"  {_count(len(migration.broken), 'file')} cannot be read"] if migration.broken else []
    carried = len({(row.where, row.said) for made in migration.made for row in made.values if row.where})
    counts = {fate: sum(row.fate == fate for row in ledger.left) for fate in _FATES}
    lines.append(
        f"  settings: {carried} carried over, {counts['in_accord']} in accord, {counts['no_effect']} {SUMMARY}"
        f"{counts['no_counterpart']} without counterpart, {counts['unknown']} unknown"
    )
    remarks = len({text for _, text in ledger.remarks})
    lines.append(f"  {_count(len(ledger.contradictions), 'contradiction')}, {_count(remarks, 'remark')}")
    return "\n".join(lines)


def _next(migration: Migration, out: str) -> str:
    """Say what to do with the report: on a terminal this is what stands last."""
    ledger = migration.ledger
    first = [
        ("Files that cannot be read", bool(migration.broken)),
        ("what keeps recipes from being written", any(one.problems for one in migration.made)),
        ("warnings", any(one.warnings for one in migration.made)),
        (_CONTRADICTIONS, bool(ledger.contradictions)),
        ("Not known", any(row.fate == "unknown" for row in ledger.left)),
        (_REMARKS, bool(ledger.remarks)),
    ]
    there = [title for title, stands in first if stands]
    lines = [f"Look first at: {', '.join(there)}." if there else "Nothing has to be looked at."]
    lines[0] += f" This report lies in {PurePath(out) / 'migration.txt'}."
    good = [made for made in migration.made if not made.problems]
    for one in good[:1]:
        lines.append(
            f"Next: qvl {'data check' if one.task == 'sft' else 'check'} {shlex.quote(str(PurePath(out) / one.file))}"
        )
    return "\n".join(lines)


def _of(made: Made) -> str:
    values = {row.key: row.value for row in made.values}
    layout = ", ".join(f"{key} {values[f'layout.{key}']}" for key in ("tp", "pp", "dp") if f"layout.{key}" in values)
    return f"{values.get('model.name', 'unknown model')}, {layout}"


def _values(made: Made) -> list[str]:
    width = max((len(row.key) + len(toml_value(row.value)) + 3 for row in made.values), default=0)
    rows = []
    for row in made.values:
        stated = f"{row.key} = {toml_value(row.value)}"
        origin = f"{row.where} {row.said}" if row.where else "stated by no file"
        bare = not row.where and row.note.startswith("not stated")
        shown = row.note if bare else origin + (f" ({row.note})" if row.note else "")
        rows.append(f"{stated:<{min(width, 60)}}  {shown}")
    return rows


def _contradiction(row: Contradiction) -> str:
    return "\n".join([row.what, *(f"  {where}: {text}" for where, text in row.places), f"  used: {row.used}"])


def _left(row: Left) -> str:
    return f"{row.where}: {_stated(row)}: {row.why}"


def _stated(row: Left) -> str:
    value = " ".join(row.value.split())
    # A flag has no value: its name says all.
    shown = f" = {value if len(value) <= 80 else value[:77] + '...'}" if value not in ("true", "", "(set)") else ""
    return f"{row.said}{shown}"


def _by_reason(rows: list[Left]) -> list[str]:
    """Give settings in the order of files and lines; a reason that several share is written once, above them."""
    groups: dict[str, list[Left]] = {}
    for row in sorted(rows, key=lambda row: _place(row.where)):
        groups.setdefault(row.why, []).append(row)
    lines = []
    for why, group in groups.items():
        if len(group) == 1:
            lines.append(_left(group[0]))
        else:
            lines += [f"{why.rstrip('.')}:", *(f"  {row.where}: {_stated(row)}" for row in group)]
    return lines


def _in_short(rows: list[Left]) -> list[str]:
    """Give what needs no look: file and reason, then names with their lines."""
    groups: dict[tuple[str, str], list[str]] = {}
    for row in sorted(rows, key=lambda row: _place(row.where)):
        file, line = _place(row.where)
        groups.setdefault((file, row.why), []).append(f"{row.said.rpartition('.')[2]}:{line}")
    return [
        textwrap.fill(
            f"{file}: {why}: {', '.join(names)}",
            width=_WIDTH,
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for (file, why), names in groups.items()
    ]


def _remarks(remarks: Iterable[tuple[str, str]]) -> list[str]:
    """Give remarks, those first that say what was taken for what is not known; all places of one before it."""
    groups: dict[str, list[str]] = {}
    for where, text in remarks:
        groups.setdefault(text, []).append(where)
    lines = []
    for text, places in sorted(groups.items(), key=lambda group: not _TAKEN.search(group[0])):
        files: dict[str, list[str]] = {}
        for where in places:
            file, line = _place(where)
            files.setdefault(file, []).append(f"{line}" if line else "")
        shown = [f"{file}:{', '.join(numbers)}" if any(numbers) else file for file, numbers in files.items()]
        lines.append(f"{'; '.join(shown)}: {text}")
    return lines


def _place(where: str) -> tuple[str, int]:
    found = re.fullmatch(r"(.*):(\d+)", where)
    return (found[1], int(found[2])) if found else (where, 0)


def _recipe_json(made: Made) -> dict[str, Any]:
    return {
        "file": made.file,
        "task": made.task,
        "written": not made.problems,
        "values": [
            {"key": row.key, "value": row.value, "where": row.where, "setting": row.said, "note": row.note}
            for row in made.values
        ],
        "problems": [_problem_json(one) for one in made.problems],
        "warnings": [_problem_json(one) for one in made.warnings],
    }


def _problem_json(problem: Problem) -> dict[str, str]:
    return {"where": problem.where, "key": problem.key, "message": problem.message, "fix": problem.fix}


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")

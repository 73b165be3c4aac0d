"""The report of a migration, for people and as JSON: nothing of the old files is passed over in silence."""

from __future__ import annotations

import json
from typing import Any

from qvl_core.errors import Problem
from qvl_core.migrate.folder import shortened
from qvl_core.migrate.ledger import Left
from qvl_core.migrate.migration import Made, Migration
from qvl_core.migrate.recipe_text import toml_value

FORMAT = 1
_FATES = {
    "no_effect": "Never had an effect",
    "no_counterpart": "No counterpart in qvl, or not needed",
    "unknown": "Not known to qvl migrate: look at these",
}


def as_text(migration: Migration, out: str) -> str:
    """Give the whole report."""
    ledger = migration.ledger
    parts = [_summary(migration, out)]
    if migration.broken:
        parts.append(_titled("Files that cannot be read", [_problem(one) for one in migration.broken]))
    for made in migration.made:
        parts.append(_recipe(made))
    if ledger.contradictions:
        rows = [
            "\n".join([row.what, *(f"  {where}: {text}" for where, text in row.places), f"  used: {row.used}"])
            for row in ledger.contradictions
        ]
        parts.append(_titled("Contradictions", rows))
    for fate, title in _FATES.items():
        rows = [_left(row) for row in ledger.left if row.fate == fate]
        if rows:
            parts.append(_titled(title, rows))
    if ledger.remarks:
        parts.append(_titled("Remarks", [f"{where}: {text}" for where, text in ledger.remarks]))
    if migration.unread:
        parts.append(_titled("Not looked at", [shortened(migration.unread)]))
    return "\n\n".join(parts) + "\n"


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
    return json.dumps(report, indent=2, ensure_ascii=False) + "\n"


def _summary(migration: Migration, out: str) -> str:
    good = [made for made in migration.made if not made.problems]
    ledger = migration.ledger
    lines = [f"{migration.folder}: {_count(len(good), 'recipe')} written to {out}" if good else "no recipe written"]
    lines += [f"  {made.file}: {made.task}, {_of(made)}" for made in good]
    bad = [made for made in migration.made if made.problems]
    lines += [f"  {made.file}: not written, {_count(len(made.problems), 'problem')}" for made in bad]
    counts = {fate: sum(row.fate == fate for row in ledger.left) for fate in _FATES}
    lines.append(
        f"  {_count(len(ledger.contradictions), 'contradiction')}, {counts['no_effect']} without effect, "
        f"{counts['no_counterpart']} without counterpart, {counts['unknown']} unknown"
    )
    return "\n".join(lines)


def _of(made: Made) -> str:
    values = {row.key: row.value for row in made.values}
    layout = ", ".join(f"{key} {values[f'layout.{key}']}" for key in ("tp", "pp", "dp") if f"layout.{key}" in values)
    return f"{values.get('model.name', 'unknown model')}, {layout}"


def _recipe(made: Made) -> str:
    rows = [_problem(one) for one in (*made.problems, *made.warnings)]
    width = max((len(row.key) + len(toml_value(row.value)) + 3 for row in made.values), default=0)
    width = min(width, 60)
    for row in made.values:
        stated = f"{row.key} = {toml_value(row.value)}"
        origin = f"{row.where} {row.said}" if row.where else "stated by no file"
        bare = not row.where and row.note.startswith("not stated")
        rows.append(f"{stated:<{width}}  " + (row.note if bare else origin + (f" ({row.note})" if row.note else "")))
    title = f"{made.file}: values and where they come from" if not made.problems else f"{made.file}: not written"
    return _titled(title, rows)


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


def _left(row: Left) -> str:
    value = " ".join(row.value.split())
    # A flag has no value: its name says all.
    shown = f" = {value if len(value) <= 80 else value[:77] + '...'}" if value not in ("true", "") else ""
    return f"{row.where}: {row.said}{shown}: {row.why}"


def _titled(title: str, rows: list[str]) -> str:
    return "\n".join([title, "-" * len(title), *rows])


def _problem(problem: Problem) -> str:
    return problem.render()


def _problem_json(problem: Problem) -> dict[str, str]:
    return {"where": problem.where, "key": problem.key, "message": problem.message, "fix": problem.fix}


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")

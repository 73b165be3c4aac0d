"""How the doctor's rows are written, and what its exit code is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from qvl_core.cli.doctor.row import Row
from qvl_core.errors import EXIT_DONE, EXIT_NOT_INSTALLED, EXIT_WRONG_INPUT

# Rows about what a user wrote or named, not about the machine.
INPUT_CHECKS = ("recipe", "recipe-weights", "recipe-files", "recipe-data", "recipe-records")


def exit_code(rows: Sequence[Row]) -> int:
    """Give 2 where the recipe or its files are wrong, 3 where something of this machine fails, else 0."""
    wrong = [row for row in rows if row.level == "fail"]
    if any(row.check in INPUT_CHECKS for row in wrong):
        return EXIT_WRONG_INPUT
    return EXIT_NOT_INSTALLED if wrong else EXIT_DONE


def as_text(rows: Sequence[Row]) -> str:
    """Give one line a row, its fix below it, and a count."""
    width = max(len(row.check) for row in rows)
    lines = []
    for row in rows:
        lines.append(f"{row.level:<7}  {row.check:<{width}}  {row.evidence}")
        if row.fix:
            lines.append(f"{'':<7}  {'':<{width}}  fix: {row.fix}")
    counts = Counter(row.level for row in rows)
    total = f"{counts['ok']} ok, {counts['warn']} to look at, {counts['fail']} failed, {counts['skipped']} skipped"
    return "\n".join([*lines, "", total])


def as_json(rows: Sequence[Row]) -> str:
    """Give a JSON list of the rows, each with `check`, `level`, `evidence` and `fix`: docs/doctor.md."""
    return json.dumps([row.__dict__ for row in rows], indent=2, ensure_ascii=False)

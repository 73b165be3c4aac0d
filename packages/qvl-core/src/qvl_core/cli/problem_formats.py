"""Problems as text for people, JSON for programs, and annotations for GitHub."""

from __future__ import annotations

import json
from collections.abc import Sequence

from qvl_core.errors import Problem


def split_where(where: str) -> tuple[str, int | None]:
    """Split `file:line` into its parts; the line is None where there is none, as in `--set launch.master=host:1`."""
    if where.startswith("--set "):
        return where, None
    file, colon, line = where.rpartition(":")
    return (file, int(line)) if colon and line.isascii() and line.isdigit() else (where, None)


def as_text(problems: Sequence[Problem]) -> str:
    """Give each problem as a paragraph, errors before warnings."""
    ordered = sorted(problems, key=lambda problem: problem.severity == "warning")
    return "\n".join(problem.render() for problem in ordered)


def as_json(problems: Sequence[Problem], files: Sequence[str]) -> str:
    """Give one JSON object: `problems` is a list, `summary` counts."""
    listed = []
    for problem in problems:
        file, line = split_where(problem.where)
        listed.append(
            {
                "file": file,
                "line": line,
                "key": problem.key,
                "message": problem.message,
                "fix": problem.fix,
                "severity": problem.severity,
            }
        )
    errors = sum(problem.severity == "error" for problem in problems)
    summary = {"files": list(files), "errors": errors, "warnings": len(problems) - errors}
    return json.dumps({"problems": listed, "summary": summary}, indent=2, ensure_ascii=False)


def as_github(problems: Sequence[Problem]) -> str:
    """Give one workflow command a problem: GitHub shows it at the file's line."""
    return "\n".join(_github_line(problem) for problem in problems)


def _github_line(problem: Problem) -> str:
    file, line = split_where(problem.where)
    fields = [f"file={_escape_field(file)}"]
    if line is not None:
        fields.append(f"line={line}")
    fields.append(f"title={_escape_field(problem.key or 'recipe')}")
    text = problem.message + (f"\nfix: {problem.fix}" if problem.fix else "")
    return f"::{problem.severity} {','.join(fields)}::{_escape_text(text)}"


def _escape_text(text: str) -> str:
    # The percent sign first: the other escapes contain one.
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _escape_field(text: str) -> str:
    return _escape_text(text).replace(":", "%3A").replace(",", "%2C")

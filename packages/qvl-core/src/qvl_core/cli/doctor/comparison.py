"""`qvl doctor --compare`: reports of several machines side by side; what has to be equal on all of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from qvl_core.cli.doctor.row import Row
from qvl_core.errors import InputError, Problem
from qvl_core.input_file import printable, read_regular_file

_LIMIT = 4 << 20
# Reports of one `srun` are made within the time that the slowest takes.
TOGETHER_S = 300.0
# Rows whose evidence names what has to be equal, and what of it is compared.
EQUAL = {
    "python": r"Python \d+\.\d+",
    "qvl-core": r"[^:]+",
    "qvl-convert": r"[^:]+",
    "qvl-data": r"[^:]+",
    "qvl-train": r"[^:]+",
    "qvl-eval": r"[^:]+",
    "machine": r"[^,]+",
    "mindspore": r"\S+",
    "cann-pair": r".+?driver \S+",
    "recipe-digest": r"\S+",
    "weights-digest": r"\S+",
}


def compare(paths: Sequence[str]) -> list[Row]:
    """Give one row for each thing that has to be equal. Raises InputError for a file that is no report."""
    if len(paths) < 2:
        fix = "qvl doctor --compare ONE.json --compare OTHER.json"
        raise InputError(Problem(where="--compare", message="one report is given; two or more are compared", fix=fix))
    reports = dict(zip(_names(paths), [_read(Path(path)) for path in paths], strict=True))
    rows = []
    for check, pattern in EQUAL.items():
        stated = {name: _stated(report, check, pattern) for name, report in reports.items()}
        values = set(stated.values())
        evidence = "; ".join(f"{name}: {value}" for name, value in stated.items())
        if values == {"not looked at"}:
            rows.append(Row(check=check, level="skipped", evidence="no report has it"))
        elif len(values) == 1:
            rows.append(Row(check=check, level="ok", evidence=f"all: {values.pop()}"))
        else:
            rows.append(Row(check=check, level="fail", evidence=evidence, fix=_fix(check)))
    rows.append(_clocks(reports))
    for name, report in reports.items():
        failed = dict.fromkeys(str(row["check"]) for row in report if row["level"] == "fail")
        if failed:
            evidence, fix = f"failed there: {', '.join(failed)}", "run `qvl doctor` on that machine and mend them"
            rows.append(Row(check=name, level="fail", evidence=evidence, fix=fix))
    return rows


def _clocks(reports: Mapping[str, list[dict[str, Any]]]) -> Row:
    """Compare when the reports were made, each by its own machine's clock: at the same time, they should be near."""
    times = {}
    for name, report in reports.items():
        found = re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", _stated(report, "clock", ".*"))
        try:
            times[name] = datetime.strptime(found[0] if found else "", "%Y-%m-%d %H:%M:%S")
        except ValueError:
            return Row(check="clock", level="skipped", evidence=f"{name} says no time")
    apart = (max(times.values()) - min(times.values())).total_seconds()
    evidence = "; ".join(f"{name}: {time}" for name, time in times.items())
    if apart <= TOGETHER_S:
        return Row(check="clock", level="ok", evidence=f"the reports were made within {apart:.0f} s of each other")
    fix = "make them at the same time (srun, pdsh) and compare again; if it stays, set the clocks (ntpd, chronyd)"
    return Row(check="clock", level="warn", evidence=f"{apart:.0f} s apart: {evidence}", fix=fix)


def _names(paths: Sequence[str]) -> list[str]:
    """Name each report by its file; by its place too where two files have one name."""
    stems = [Path(path).stem for path in paths]
    return [stem if stems.count(stem) == 1 else f"{stem} ({number})" for number, stem in enumerate(stems, 1)]


def _read(path: Path) -> list[dict[str, Any]]:
    def wrong(message: str) -> InputError:
        fix = "make it with: qvl doctor --recipe R --json > FILE"
        return InputError(Problem(where=printable(str(path)), message=message, fix=fix))

    data = read_regular_file(path, limit=_LIMIT, error_type=InputError)
    try:
        rows = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        raise wrong("is no JSON report of the doctor") from None
    keys = ("check", "level", "evidence")
    if not isinstance(rows, list) or not rows:
        raise wrong("is no JSON report of the doctor: a list of rows is expected")
    if not all(isinstance(row, dict) and all(isinstance(row.get(key), str) for key in keys) for row in rows):
        raise wrong(f"is no JSON report of the doctor: every row has {', '.join(keys)}")
    return rows


def _stated(report: list[dict[str, Any]], check: str, pattern: str) -> str:
    row = next((row for row in report if row["check"] == check), None)
    if row is None or (row["level"] == "skipped" and not check.startswith("qvl-")):
        return "not looked at"
    found = re.match(pattern, row["evidence"])
    return printable(found[0] if found else row["evidence"], 80)


def _fix(check: str) -> str:
    if check == "recipe-digest":
        return "copy the recipe, with what it extends, to all machines"
    if check == "weights-digest":
        return "copy the weights to all machines again, or put them on a shared disk"
    return "install the same versions on all machines"

"""All rows of the doctor's report, and how they are written."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence

from qvl_core.cli.doctor import ascend, host, mindspore, packages
from qvl_core.cli.doctor.row import Row
from qvl_core.cli.doctor.versions import installed_version


def examine(environment: Mapping[str, str]) -> list[Row]:
    """Run every check, in the order in which their causes follow from each other. Takes some seconds."""
    npu = ascend.ascend_wanted(environment)
    runs_models = any(installed_version(name) for name in ("qvl-train", "qvl-eval"))
    return [
        host.check_python(),
        host.check_machine(),
        host.check_memory(),
        host.check_shared_memory(),
        host.check_open_files(ascend=npu),
        host.check_locale(),
        host.check_variables(environment),
        *packages.check_packages(),
        packages.check_requirements(),
        packages.check_plugins(),
        *mindspore.check_mindspore(environment, needed=runs_models, ascend=npu),
        *ascend.check_ascend(environment),
    ]


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
    """Give a JSON list of the rows."""
    return json.dumps([row.__dict__ for row in rows], indent=2, ensure_ascii=False)


def failed(rows: Sequence[Row]) -> bool:
    """Tell whether any row failed; warnings do not count."""
    return any(row.level == "fail" for row in rows)

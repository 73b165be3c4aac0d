"""Collect the largest deviations that the parity tests measure, print them and keep them in a JSON file."""

from __future__ import annotations

import json
import os
from pathlib import Path

# Where the file goes; `reports/` is ignored by git.
REPORT_VARIABLE = "QVL_PARITY_REPORT"
DEFAULT_REPORT = "reports/parity.json"


class ParityReport:
    """Largest value of each measurement, in one section of the file."""

    def __init__(self, section: str) -> None:
        self.section = section
        self.values: dict[str, dict[str, float | int]] = {}

    def record(self, measurement: str, case: str, value: float) -> None:
        """Keep `value` under `measurement` if it is the largest of `case`."""
        cases = self.values.setdefault(measurement, {})
        cases[case] = max(float(value), float(cases.get(case, 0.0)))

    def summary(self) -> str:
        """Give one line for each measurement: its maximum, where that was, and how many cases there were."""
        lines = []
        for measurement, cases in self.values.items():
            worst = max(cases, key=lambda case: cases[case])
            lines.append(f"{self.section}: {measurement}: largest {cases[worst]:.3g} ({worst}), {len(cases)} cases")
        return "\n".join(lines)

    def write(self) -> Path:
        """Replace this section of the report file and leave the others."""
        path = Path(os.environ.get(REPORT_VARIABLE, DEFAULT_REPORT))
        path.parent.mkdir(parents=True, exist_ok=True)
        content = json.loads(path.read_text()) if path.exists() else {}
        content[self.section] = {
            measurement: {"largest": max(cases.values()), "cases": cases} for measurement, cases in self.values.items()
        }
        path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
        return path

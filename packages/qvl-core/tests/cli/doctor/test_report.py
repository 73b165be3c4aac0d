"""The report: text, JSON, exit code."""

from __future__ import annotations

import json

import pytest
from qvl_core.cli.doctor import examination, report
from qvl_core.cli.doctor.row import Row

ROWS = [
    Row(check="python", level="ok", evidence="3.11"),
    Row(check="locale", level="warn", evidence="ascii", fix="export LANG=C.UTF-8"),
    Row(check="mindspore", level="fail", evidence="not installed", fix="pip install x"),
    Row(check="cann", level="skipped", evidence="no NPU here"),
]


def test_text_has_one_line_a_row_its_fix_below_and_a_count() -> None:
    lines = report.as_text(ROWS).splitlines()
    assert lines[0] == "ok       python     3.11"
    assert lines[2].strip() == "fix: export LANG=C.UTF-8"
    assert lines[-1] == "1 ok, 1 to look at, 1 failed, 1 skipped"


def test_json_holds_the_rows() -> None:
    found = json.loads(report.as_json(ROWS))
    assert found[1] == {"check": "locale", "level": "warn", "evidence": "ascii", "fix": "export LANG=C.UTF-8"}


@pytest.mark.parametrize(("rows", "code"), [(ROWS, 3), (ROWS[:2], 0)])
def test_only_failures_end_with_3(qvl, monkeypatch: pytest.MonkeyPatch, rows: list[Row], code: int) -> None:
    monkeypatch.setattr(examination, "examine", lambda *_, **__: rows)
    assert qvl("doctor").code == code
    assert len(json.loads(qvl("doctor", "--json").out)) == len(rows)

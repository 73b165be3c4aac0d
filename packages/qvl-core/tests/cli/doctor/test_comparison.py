"""Reports of several machines side by side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from qvl_core.cli.doctor.comparison import compare
from qvl_core.errors import InputError


def _report(path: Path, **evidence: str) -> str:
    rows = [{"check": "python", "level": "ok", "evidence": "Python 3.11.7 (/opt/python)", "fix": ""}]
    rows += [
        {"check": name.replace("_", "-"), "level": "ok", "evidence": text, "fix": ""} for name, text in evidence.items()
    ]
    path.write_text(json.dumps(rows))
    return str(path)


def test_machines_that_agree_and_that_do_not(tmp_path: Path) -> None:
    one = _report(tmp_path / "a.json", mindspore="2.10.0 in /x", recipe_digest="12", cann_pair="MindSpore 1, driver 2")
    same = _report(tmp_path / "b.json", mindspore="2.10.0 in /y", recipe_digest="12", cann_pair="MindSpore 1, driver 2")
    other = _report(tmp_path / "c.json", mindspore="2.9.0 in /x", recipe_digest="34")
    assert {row.level for row in compare([one, same])} == {"ok", "skipped"}
    rows = {row.check: row for row in compare([one, same, other])}
    assert rows["python"].level == "ok"
    assert rows["mindspore"].evidence == "a: 2.10.0; b: 2.10.0; c: 2.9.0"
    assert rows["recipe-digest"].fix == "copy the recipe, with what it extends, to all machines"
    assert rows["cann-pair"].level == "fail"


def test_what_failed_on_one_machine_is_told(tmp_path: Path) -> None:
    one = _report(tmp_path / "a.json")
    path = tmp_path / "b.json"
    path.write_text(json.dumps([{"check": "cann", "level": "fail", "evidence": "x", "fix": "y"}]))
    rows = {row.check: row for row in compare([one, str(path)])}
    assert rows["b"].evidence == "failed there: cann"


@pytest.mark.parametrize("content", ["", "{}", "[]", "[1]", '[{"check": 1}]', "[" * 100_000])
def test_files_that_are_no_reports_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(InputError, match="no JSON report"):
        compare([_report(tmp_path / "a.json"), str(tmp_path / "x.json")])


def test_the_command_compares(tmp_path: Path, qvl) -> None:
    one, other = _report(tmp_path / "a.json"), _report(tmp_path / "b.json", recipe_digest="1")
    assert qvl("doctor", "--compare", one).code == 2
    assert qvl("doctor", "--compare", one, "--compare", str(tmp_path / "none.json")).code == 2
    result = qvl("doctor", "--compare", one, "--compare", other)
    assert (result.code, "recipe-digest" in result.out) == (3, True)


@pytest.mark.parametrize(
    ("other", "level"),
    [
        ("2026-11-27 10:05:00 UTC", "ok"),
        ("2026-11-27 10:05:01 UTC", "warn"),
        ("2026-11-27 09:00:00 UTC", "warn"),
        ("1970-01-01 00:00:00 UTC cannot be right", "warn"),
        ("no time at all", "skipped"),
        ("2026-99-99 10:05:00 UTC", "skipped"),
    ],
)
def test_clocks_of_reports_that_were_made_together(tmp_path: Path, other: str, level: str) -> None:
    one = _report(tmp_path / "a.json", clock="2026-11-27 10:00:00 UTC")
    rows = {row.check: row for row in compare([one, _report(tmp_path / "b.json", clock=other)])}
    assert rows["clock"].level == level
    assert bool(rows["clock"].fix) == (level == "warn")

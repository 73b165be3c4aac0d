"""The JSON has the keys that its module promises."""

from __future__ import annotations

import json

from example_reports import bad_report, clean_report
from qvl_data.inspection import report_json
from qvl_data.inspection.report import CheckReport


def test_keys_are_those_of_the_docstring() -> None:
    values = json.loads(report_json.as_json(bad_report(), max_problems=20))
    assert report_json.__doc__ is not None
    table = [line for line in report_json.__doc__.splitlines() if line[:1].islower()]
    assert {name for line in table for name in line.split("  ")[0].split(", ")} == values.keys()
    assert values["schema"] == report_json.SCHEMA == 1


def test_values() -> None:
    values = json.loads(report_json.as_json(bad_report("data.json"), max_problems=20))
    assert (values["clean"], values["errors"], values["warnings"]) == (False, 23, 8)
    first = values["problems"][0]
    assert (first["kind"], first["severity"], first["count"], len(first["examples"])) == ("missing", "error", 23, 20)
    assert first["examples"][0] == {
        "file": "data.json",
        "line": 7,
        "key": "data.json",
        "message": "data.json",
        "fix": "data.json",
    }
    assert values["tokens"]["all"] == 470_123
    assert values["epoch"]["items"] == 700
    assert values["epoch"]["steps_per_epoch"] == 87.5
    assert values["sources"][1]["weight"] is None
    assert len(values["histogram"]["edges"]) == len(values["histogram"]["used"]) + 1


def test_what_is_not_known_is_null() -> None:
    report = CheckReport(
        recipe="x", model="", sequence_length=0, too_long="", packing=False, decoded=False, seconds=0.0
    )
    values = report_json.report_values(report, max_problems=20)
    assert {key for key, value in values.items() if value is None} == {
        "tokens",
        "per_sample",
        "kept",
        "lengths",
        "histogram",
        "epoch",
        "media",
    }
    assert report_json.report_values(clean_report(), max_problems=20)["clean"] is True

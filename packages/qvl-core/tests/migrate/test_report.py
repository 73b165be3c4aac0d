"""The report as text and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from migrated_values import FINETUNE_FILE, Run
from qvl_core.migrate import report


def test_the_report_has_everything_as_text_and_json(run: Run, stack: Path) -> None:
    (stack / "notes.txt").write_text("x")
    found = run()
    text, parsed = report.as_text(found, "out"), json.loads(report.as_json(found, "out"))
    assert "Contradictions" in text
    assert "Never had an effect" in text
    assert parsed["not_looked_at"] == ["notes.txt"]
    assert len(parsed["contradictions"]) == len(found.ledger.contradictions)
    sft = next(one for one in parsed["recipes"] if one["task"] == "sft")
    assert {"key": "train.steps", "value": 10000, "setting": "--train-iters", "note": ""}.items() <= next(
        row for row in sft["values"] if row["key"] == "train.steps"
    ).items()


def test_many_other_files_are_named_in_short_and_all_in_json(run: Run, stack: Path) -> None:
    for number in range(300):
        (stack / f"{number:03}.jpg").touch()
    found = run()
    assert report.as_text(found, "out").rstrip().endswith("039.jpg and 260 more")
    assert len(json.loads(report.as_json(found, "out"))["not_looked_at"]) == 300


def test_what_is_not_known_prints_as_words(run: Run, change) -> None:
    change(FINETUNE_FILE, "MASTER_ADDR=localhost", "MASTER_ADDR=localhost\nMASTER_ADDR=$(hostname -i)")
    found = run()
    (row,) = [row for row in found.ledger.contradictions if row.what.startswith("MASTER_ADDR")]
    assert row.places[1][1] == "MASTER_ADDR = <not known>"
    assert "\ue000" not in report.as_text(found, "out") + report.as_json(found, "out")

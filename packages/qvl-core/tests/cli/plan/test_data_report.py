"""`qvl plan --data-report`: lengths of a report of `qvl data check`, where they are those of the recipe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from plan_calls import Call, values_of
from qvl_core import load_recipe
from qvl_core.planner.kept_lengths import length_settings


def report_of(**changes: object) -> str:
    lengths = {"shortest": 10, "mean": 100.0, "median": 90, "p90": 200, "p99": 300, "longest": 400}
    values: dict[str, object] = {
        "schema": 1,
        "settings": {"sequence_length": 512},
        "lengths": lengths,
        "tokens": {"text": 30_000, "image": 70_000, "video": 0, "all": 100_000},
    }
    return json.dumps({**values, **changes})


def settings_of(tiny: str, *overrides: str) -> dict[str, object]:
    stated = json.loads(json.dumps(length_settings(load_recipe(tiny, overrides))))
    return {"sequence_length": 512, "lengths_depend_on": stated}


def test_lengths_come_from_a_report_of_data_check(qvl: Call, tiny: str, folder: Path) -> None:
    (folder / "report.json").write_text(report_of())
    data = values_of(qvl, tiny, "--data-report", "report.json")["data"]
    assert (data["tokens"], data["longest"], data["measured"]) == (100.0, 400, True)
    assert data["media_tokens"] == pytest.approx(70)
    assert "report.json" in data["source"]


def test_what_is_no_report_is_not_written_over_by_the_fix(qvl: Call, tiny: str, folder: Path) -> None:
    """`--data-report train.json` is a slip; the command that the message gives is pasted as it stands."""
    for text in ("[1, 2]", '{"id": 1}', "not JSON"):
        (folder / "train.json").write_text(text)
        result = qvl("plan", tiny, "--data-report", "train.json")
        assert result.code == 2
        assert "> train.json" not in result.err
        assert "> report.json" in result.err
    # A report of other settings is made again in its place.
    (folder / "old.json").write_text(report_of(settings={"sequence_length": 1024}))
    assert "> old.json" in qvl("plan", tiny, "--data-report", "old.json").err


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{}", "no report"),
        (report_of(schema=2), "format 1"),
        (report_of(lengths=None), "no sample"),
        (report_of(lengths={"mean": "long"}), "lengths"),
        (report_of(settings={"sequence_length": 1024}), "1024"),
        (report_of(lengths={"mean": 600.0, "longest": 400}), "belong together"),
        (report_of(lengths={"mean": 0.25, "longest": 0.5}), "not a whole number"),
        (report_of(lengths={"mean": 100.0, "longest": 300.5}), "not a whole number"),
        ("nonsense", "JSON"),
    ],
)
def test_a_report_that_is_none_is_refused(qvl: Call, tiny: str, folder: Path, text: str, named: str) -> None:
    (folder / "report.json").write_text(text)
    result = qvl("plan", tiny, "--data-report", "report.json")
    assert result.code == 2
    assert named in result.err
    assert "report.json" in result.err


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("data.image.max_pixels=50176", "image"),
        ("data.too_long=error", "too_long"),
        ("data.loss_on=all", "loss_on"),
        ('data.sources=[{path="other.json"}]', "sources"),
    ],
)
def test_a_report_of_other_settings_is_refused(qvl: Call, tiny: str, folder: Path, setting: str, named: str) -> None:
    (folder / "report.json").write_text(report_of(settings=settings_of(tiny)))
    words = (tiny, "--data-report", "report.json")
    assert values_of(qvl, *words)["data"]["note"] == ""
    assert values_of(qvl, *words, "--set", "data.workers=3", "--set", "train.seed=7")["data"]["measured"]
    result = qvl("plan", *words, "--set", setting)
    assert result.code == 2
    assert f"settings.lengths_depend_on\n  is not the recipe's: {named}" in result.err


def test_a_report_of_another_model_is_refused(qvl: Call, tiny: str, folder: Path) -> None:
    (folder / "report.json").write_text(report_of(model="qwen2.5-vl-7b"))
    result = qvl("plan", tiny, "--data-report", "report.json")
    assert result.code == 2
    assert "is qwen2.5-vl-7b, the recipe's is qwen2.5-vl-tiny" in result.err


def test_a_report_that_states_no_settings_is_taken_with_a_note(qvl: Call, tiny: str, folder: Path) -> None:
    (folder / "report.json").write_text(report_of())
    assert "earlier version" in values_of(qvl, tiny, "--data-report", "report.json")["data"]["note"]


def test_prompts_are_compared_by_what_their_lengths_depend_on(qvl: Call, tiny: str, answers: str, folder: Path) -> None:
    changes = ("model.name=qwen2.5-vl-7b", "data.image.max_pixels=50176")
    (folder / "report.json").write_text(report_of(settings=settings_of(tiny, *changes)))
    words = (answers, "--data-report", "report.json", "--set", "data.sequence_length=512")
    assert values_of(qvl, *words, "--set", "data.image.max_pixels=50176")["data"]["measured"]
    assert "depend_on" in qvl("plan", *words, "--set", "data.image.max_pixels=100352").err


def test_a_missing_report_is_named(qvl: Call, tiny: str) -> None:
    result = qvl("plan", tiny, "--data-report", "nowhere.json")
    assert result.code == 2
    assert "nowhere.json" in result.err

"""Lengths that `qvl data check` or a run has kept: taken as long as they are those of the recipe and its files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from plan_calls import Call, values_of
from qvl_core import load_recipe
from qvl_core.planner.kept_lengths import keep_lengths

VALUES = {
    "lengths": {"mean": 200.0, "longest": 300},
    "tokens": {"text": 100, "all": 400},
    "per_sample": {"looked_at": 2, "labels": 5.0, "frames": 3.0, "longest_media": 250, "longest_text": 80},
}


@pytest.fixture
def kept(tiny: str, folder: Path) -> Path:
    """Keep lengths of the tiny recipe's data, as `qvl data check` does; give the file of records."""
    records = folder / "data.json"
    records.write_text("[]")
    assert keep_lengths(load_recipe(tiny), [records, folder / "tokenizer.json"], VALUES) is not None
    return records


def test_kept_lengths_are_taken_and_told(qvl: Call, tiny: str, kept: Path) -> None:
    data = values_of(qvl, tiny)["data"]
    assert (data["tokens"], data["media_tokens"], data["labels"], data["frames"]) == (200.0, 150.0, 5.0, 3.0)
    assert (data["longest"], data["longest_media"], data["longest_labels"]) == (300, 250, 80)
    assert data["measured"]
    assert not data["note"]
    assert ".qvl-cache/lengths-" in qvl("plan", tiny).out
    assert ".qvl-cache/lengths-" in qvl("show", tiny).out


def test_a_file_that_was_only_touched_keeps_its_lengths(qvl: Call, tiny: str, kept: Path) -> None:
    os.utime(kept, (1, 1))
    assert values_of(qvl, tiny)["data"]["measured"]


def test_settings_that_no_length_depends_on_keep_them(qvl: Call, tiny: str, kept: Path) -> None:
    words = ("--set", "data.workers=3", "--set", "train.seed=7", "--set", "layout.pp=2", "--set", "train.steps=3")
    assert values_of(qvl, tiny, *words)["data"]["measured"]
    packed = values_of(qvl, tiny, "--set", "data.packing=true")["data"]
    assert (packed["longest"], packed["frames"]) == (512, pytest.approx(0.95 * 512 / 200 * 3))


@pytest.mark.parametrize("change", ["[1]", None])
def test_lengths_of_records_that_have_changed_are_refused_with_a_note(
    qvl: Call, tiny: str, kept: Path, change: str | None
) -> None:
    kept.write_text(change) if change is not None else kept.unlink()
    result = qvl("plan", tiny)
    assert "is stale" in result.out
    assert "data.json has changed since" in " ".join(result.out.split())
    assert "qvl data check tiny.toml" in " ".join(result.out.split())
    assert values_of(qvl, tiny)["data"]["measured"] is False


def test_a_tokenizer_that_has_come_since_makes_lengths_stale(qvl: Call, tiny: str, kept: Path) -> None:
    kept.with_name("tokenizer.json").write_text("{}")
    assert "tokenizer.json has changed" in values_of(qvl, tiny)["data"]["note"]


@pytest.fixture
def pictures(qvl: Call, tiny: str, kept: Path) -> list[Path]:
    """Keep lengths of a thousand pictures."""
    found = [kept.with_name(f"{number}.png") for number in range(1000)]
    for number, picture in enumerate(found):
        picture.write_bytes(b"x" * (100 + number))
    assert keep_lengths(load_recipe(tiny), [kept], VALUES, [(one.name, one.stat().st_size) for one in found])
    assert "256 of 1,000 media files looked at again" in values_of(qvl, tiny)["data"]["source"]
    return found


def test_media_that_were_made_smaller_are_noticed(qvl: Call, tiny: str, pictures: list[Path]) -> None:
    # A hundredth of them is enough, wherever they are.
    for picture in pictures[500:510]:
        picture.write_bytes(b"x")
    note = values_of(qvl, tiny)["data"]["note"]
    assert "is stale" in note
    assert "50" in Path(note.split("is stale: ")[1]).name
    pictures[0].unlink()
    assert "/0.png and" in values_of(qvl, tiny)["data"]["note"]


def test_media_that_were_only_touched_are_the_same(qvl: Call, tiny: str, pictures: list[Path]) -> None:
    for picture in pictures:
        os.utime(picture, (1, 1))
    assert values_of(qvl, tiny)["data"]["measured"]


def test_lengths_kept_by_an_earlier_version_are_taken(qvl: Call, tiny: str, pictures: list[Path]) -> None:
    (file,) = (pictures[0].parent / ".qvl-cache").glob("lengths-*.json")
    content = json.loads(file.read_text())
    del content["media"]
    file.write_text(json.dumps(content))
    assert values_of(qvl, tiny)["data"]["measured"]


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("data.image.max_pixels=50176", "image"),
        ("data.sequence_length=1024", "sequence_length"),
        ("data.too_long=error", "too_long"),
        ("data.validation.fraction=0.5", "seed, validation"),
        ("data.loss_on=all", "loss_on"),
    ],
)
def test_lengths_of_other_settings_are_refused_with_a_note(
    qvl: Call, tiny: str, kept: Path, setting: str, named: str
) -> None:
    data = values_of(qvl, tiny, "--set", setting)["data"]
    assert data["measured"] is False
    assert f"but other settings: {named}" in data["note"]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"schema": 1, "settings": {}, "files": {}, "values": {}, "media": 3}',
        '{"schema": 99, "settings": {}, "files": {}, "values": {}}',
    ],
)
def test_a_damaged_file_of_lengths_is_left_alone(qvl: Call, tiny: str, kept: Path, text: str) -> None:
    (file,) = (kept.parent / ".qvl-cache").glob("lengths-*.json")
    file.write_text(text)
    assert values_of(qvl, tiny)["data"]["measured"] is False


def test_kept_lengths_that_make_no_sense_are_refused_with_a_note(qvl: Call, tiny: str, kept: Path) -> None:
    keep_lengths(load_recipe(tiny), [kept], {**VALUES, "lengths": {"mean": 400.0, "longest": 300}})
    assert "do not belong together" in values_of(qvl, tiny)["data"]["note"]

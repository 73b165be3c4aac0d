"""A survey without problems is kept, used again where nothing has changed, and made anew where something has."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data_files import llava, save_image, write_records
from qvl_core.errors import DataError
from qvl_data import preparation
from qvl_data.preparation import PreparedData, prepare


@pytest.fixture
def surveys(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """List the surveys that are really made: whether each decodes."""
    made: list[bool] = []
    real = preparation.survey

    def counting(*arguments: Any, decode: bool, **options: Any) -> Any:
        made.append(decode)
        return real(*arguments, decode=decode, **options)

    monkeypatch.setattr(preparation, "survey", counting)
    return made


def ids(data: PreparedData) -> list[list[int]]:
    return [data.train.sample(index).input_ids.tolist() for index in range(len(data.train))]


def test_the_second_time_nothing_is_judged_and_all_is_the_same(
    make_recipe: Callable[..., Any], data_file: Path, surveys: list[bool]
) -> None:
    first, second = prepare(make_recipe([data_file])), prepare(make_recipe([data_file], workers=0))
    assert surveys == [True]
    assert (first.report, first.data_hash) == (second.report, second.data_hash)
    assert ids(first) == ids(second)
    assert [first.train.where(i) for i in range(10)] == [second.train.where(i) for i in range(10)]


@pytest.mark.parametrize(
    "changed",
    [
        {"sequence_length": 900},
        {"too_long": "shrink"},
        {"image": {"min_pixels": 3136, "max_pixels": 25088}},
        {"video": {"fps": 1.0}},
        {"grounding": "norm1000"},
    ],
)
def test_settings_that_a_verdict_looks_at_count(
    make_recipe: Callable[..., Any], data_file: Path, surveys: list[bool], changed: dict[str, Any]
) -> None:
    prepare(make_recipe([data_file]))
    prepare(make_recipe([data_file], **changed))
    assert len(surveys) == 2


def test_changed_records_media_and_tokenizers_count(
    make_recipe: Callable[..., Any], data_file: Path, surveys: list[bool], tmp_path: Path
) -> None:
    recipe = make_recipe([data_file])
    prepare(recipe)
    save_image(tmp_path / "0.png", 30, 30, seed=5)
    prepare(recipe)
    assert len(surveys) == 2
    os.utime(tmp_path / "1.png", ns=(1, 1))
    prepare(recipe)
    assert len(surveys) == 3
    data_file.write_text(data_file.read_text().replace("Question 0", "Question zero"))
    prepare(recipe)
    assert len(surveys) == 4
    template = Path(recipe.weights.source) / "chat_template.jinja"
    before = template.read_text()
    try:
        template.write_text(before.replace("You are helpful.", "You are kind."))
        prepare(recipe)
    finally:
        template.write_text(before)
    assert len(surveys) == 5


def test_headers_do_not_stand_for_decoded_images_but_the_other_way_round(
    make_recipe: Callable[..., Any], data_file: Path, surveys: list[bool]
) -> None:
    prepare(make_recipe([data_file], media_check="header"))
    prepare(make_recipe([data_file]))
    prepare(make_recipe([data_file], media_check="header"))
    assert surveys == [False, True]


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", b"no archive"])
def test_a_damaged_index_is_made_anew(
    make_recipe: Callable[..., Any], data_file: Path, surveys: list[bool], tmp_path: Path, damage: bytes
) -> None:
    prepare(make_recipe([data_file]))
    (file,) = (tmp_path / "cache").glob("index-*.npz")
    file.write_bytes(damage)
    assert len(prepare(make_recipe([data_file])).train) == 10
    assert len(surveys) == 2


def test_nothing_is_kept_of_data_with_problems(
    make_recipe: Callable[..., Any], data_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "0.png").unlink()
    with pytest.raises(DataError):
        prepare(make_recipe([data_file]))
    assert not (tmp_path / "cache").exists()


def test_a_record_that_changed_after_the_check_is_named(make_recipe: Callable[..., Any], data_file: Path) -> None:
    data = prepare(make_recipe([data_file]))
    stat = data_file.stat()
    data_file.write_bytes(data_file.read_bytes().replace(b"Answer 2.", b"Answer 7."))
    os.utime(data_file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(Exception, match="changed") as caught:
        data.train.sample(2)
    assert "train.json" in str(caught.value)


def test_a_smaller_image_in_place_of_one_that_was_too_large_is_used(
    make_recipe: Callable[..., Any], tmp_path: Path, surveys: list[bool]
) -> None:
    save_image(tmp_path / "large.png", 224, 224)
    path = write_records(tmp_path / "a.json", [llava("<image>?", "a", "large.png"), llava("q", "a")])
    recipe = make_recipe([path], sequence_length=60)
    assert prepare(recipe).report.dropped == 1
    assert prepare(recipe).report.dropped == 1
    save_image(tmp_path / "large.png", 56, 56)
    assert prepare(recipe).report.dropped == 0
    assert len(surveys) == 2


def test_a_link_that_leads_elsewhere_now_is_followed(
    make_recipe: Callable[..., Any], tmp_path: Path, surveys: list[bool]
) -> None:
    for name, height in (("one", 60), ("two", 200)):
        save_image(tmp_path / name / "a.png", height, 60)
    link = tmp_path / "media"
    link.symlink_to("one")
    path = write_records(tmp_path / "a.json", [llava("<image>?", "a", "a.png")])
    recipe = make_recipe([{"path": str(path), "media_root": str(link)}])
    first = prepare(recipe)
    link.unlink()
    link.symlink_to("two")
    second = prepare(recipe)
    assert len(surveys) == 2
    assert second.report.longest > first.report.longest
    assert second.data_hash != first.data_hash

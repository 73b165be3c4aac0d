"""The first record of a data file that is there says where media paths start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from migrated_values import Run, values
from qvl_core.migrate.media_root import first_medium, root_of
from qvl_core.migrate.migration import Migration

RECORDS = "data/mllm_format_llava_instruct_data.json"


def write_records(folder: Path, medium: str) -> None:
    (folder / "data").mkdir(exist_ok=True)
    turn = {"role": "user", "content": 'What is "images": ["no.jpg"]? <image>'}
    records = [{"images": [], "messages": []}, {"messages": [turn], "images": [medium]}]
    (folder / RECORDS).write_text(json.dumps(records))


@pytest.mark.parametrize(
    ("medium", "file", "expected"),
    [
        # As llava_instruct_2_mllm_demo_format.py writes them, with and without the picture.
        ("./data/COCO2017/train2017/1.jpg", "", "."),
        ("./data/COCO2017/train2017/1.jpg", "data/COCO2017/train2017/1.jpg", "."),
        ("mllm_demo_data/1.jpg", "data/mllm_demo_data/1.jpg", "data"),
        ("pictures/1.jpg", "pictures/1.jpg", "."),
        ("data/1.jpg", "data/data/1.jpg", "data"),
        ("/mnt/1.jpg", "", "data"),
        ("pictures/1.jpg", "", "data"),
    ],
)
def test_media_lie_where_the_reference_would_find_them(
    run: Run, tmp_path: Path, medium: str, file: str, expected: str
) -> None:
    write_records(tmp_path, medium)
    if file:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    found = run()
    (source,) = values(found, "sft")["data.sources"]
    assert source["media_root"] == expected
    told = [text for _, text in found.ledger.remarks if "media_root" in text]
    assert len(told) == (expected == "." or not file)


def test_absolute_paths_are_told_with_both_ways_out(run: Run, tmp_path: Path) -> None:
    write_records(tmp_path, "/mnt/pictures/1.jpg")
    (told,) = [text for _, text in run().ledger.remarks if "media_root" in text]
    assert "names /mnt/pictures/1.jpg" in told
    assert "allow_outside_media_root = true" in told


def test_each_data_file_has_its_own_root(run: Run, tmp_path: Path, edit) -> None:
    def two(data: dict[str, Any]) -> None:
        data["dataset_param"]["basic_parameters"]["dataset"] = f"./{RECORDS},./data/none.json"

    write_records(tmp_path, "./data/1.jpg")
    edit("data_7b.json", two)
    found = run()
    assert [source["media_root"] for source in values(found, "sft")["data.sources"]] == [".", "data"]
    assert any("media are looked for under data" in text for _, text in found.ledger.remarks)


@pytest.mark.parametrize("text", ["", "[", '{"images": ["\\ud800"]}', '{"images": ["a\\', "\0\0", '{"images": 3}'])
def test_what_is_no_record_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    medium = first_medium(str(tmp_path / "x.json"), ["images"])
    assert medium is None or root_of(medium, "data") is None
    assert first_medium(str(tmp_path), ["images"]) is None
    assert root_of("a\0b", "data") is None


def write_one_record(path: Path, medium: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([{"messages": [], "images": [medium]}]))


def basic(edit, **values: Any) -> None:
    edit("data_7b.json", lambda data: data["dataset_param"]["basic_parameters"].update(values))


def remarks(found: Migration) -> list[str]:
    return [text for _, text in found.ledger.remarks if "media" in text]


def fate_of_dataset_dir(found: Migration) -> tuple[str, str]:
    (left,) = [left for left in found.ledger.left if left.said.endswith(".dataset_dir")]
    return left.fate, left.why


@pytest.mark.parametrize("below", [True, False])
def test_absolute_paths_are_told_only_where_they_lie_outside(run: Run, tmp_path: Path, edit, below: bool) -> None:
    basic(edit, dataset_dir=str(tmp_path / "coco"))
    write_one_record(tmp_path / RECORDS, str(tmp_path / ("coco/COCO/1.jpg" if below else "other/1.jpg")))
    found = run()
    (source,) = values(found, "sft")["data.sources"]
    assert source["media_root"] == str(tmp_path / "coco")
    assert len(remarks(found)) == (not below)


def test_an_absolute_path_below_a_relative_root_is_nothing_to_tell(run: Run, tmp_path: Path) -> None:
    write_one_record(tmp_path / RECORDS, str(tmp_path / "data/1.jpg"))
    assert remarks(run()) == []


def test_paths_that_begin_with_an_absolute_root_are_not_told_to_need_another(run: Run, edit) -> None:
    basic(edit, dataset_dir="/data/coco")
    (told,) = remarks(run())
    assert "start with" not in told
    assert told.endswith(
        'under /data/coco; where the records\' paths start at the working directory, set media_root = "."'
    )


def test_a_root_that_the_recipe_has_not_is_not_in_accord(run: Run, tmp_path: Path) -> None:
    assert fate_of_dataset_dir(run()) == ("in_accord", "data.sources.media_root")
    write_one_record(tmp_path / RECORDS, "./data/1.jpg")
    assert fate_of_dataset_dir(run())[0] == "no_counterpart"


@pytest.mark.parametrize(
    ("train", "validate", "roots"),
    [
        ("mllm/1.jpg", "./data/1.jpg", ("data", ".")),
        ("./data/1.jpg", "mllm/1.jpg", (".", "data")),
        ("./data/1.jpg", "./data/2.jpg", (".", ".")),
        ("mllm/1.jpg", "mllm/2.jpg", ("data", "data")),
    ],
)
def test_the_first_record_of_the_validation_file_decides_for_it(
    run: Run, tmp_path: Path, edit, train: str, validate: str, roots: tuple[str, str]
) -> None:
    basic(edit, val_dataset="./data/val.json")
    write_one_record(tmp_path / RECORDS, train)
    write_one_record(tmp_path / "data/val.json", validate)
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / "data/mllm").mkdir(exist_ok=True)
        (tmp_path / "data/mllm" / name).touch()
    found = run()
    row = values(found, "sft")
    assert (row["data.sources"][0]["media_root"], row["data.validation"]["media_root"]) == roots
    assert len(remarks(found)) == sum(root == "." for root in roots)
    fate, why = fate_of_dataset_dir(found)
    assert (fate == "in_accord") == ("data" in roots)
    assert ("validation" in why) == (roots == (".", "data"))


def test_a_validation_file_that_is_not_there_follows_the_first_source_and_is_told(
    run: Run, tmp_path: Path, edit
) -> None:
    basic(edit, val_dataset="./data/val.json")
    write_one_record(tmp_path / RECORDS, "./data/1.jpg")
    found = run()
    assert values(found, "sft")["data.validation"]["media_root"] == "."
    told = 'data/val.json tells nothing: media_root = "."'
    assert [text for text in remarks(found) if text.startswith(told)]


def test_a_validation_file_whose_start_is_not_known_is_told_by_name(run: Run, tmp_path: Path, edit) -> None:
    basic(edit, val_dataset="./data/val.json")
    write_one_record(tmp_path / RECORDS, "1.jpg")
    (tmp_path / "data/1.jpg").touch()
    (told,) = remarks(run())
    assert told.startswith("media are looked for under data, those of data/val.json; where")

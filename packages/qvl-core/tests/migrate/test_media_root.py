"""The first record of a data file that is there says where media paths start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from migrated_values import Run, values
from qvl_core.migrate.media_root import first_medium, root_of

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

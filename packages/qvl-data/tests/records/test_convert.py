"""What is written as sharegpt reads back as the same records; nothing is written where anything is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_files import llava, save_image, write_records
from hypothesis import given, settings
from hypothesis import strategies as st
from qvl_core.errors import DataError, OutputError
from qvl_core.recipe.sections.data_sources import TagSection
from qvl_data.records.convert import convert_records
from qvl_data.records.formats import parse_element
from qvl_data.records.record import Record
from qvl_data.records.record_file import open_record_file

KINDS = (".json", ".jsonl", ".parquet")
LLAVA: list[dict[str, Any]] = [
    llava("<image>\nWhat?", "A \"cat\"\n", "a b.jpg"),
    llava("Hello 你好 😀", "Hi\u2028there"),
    {**llava("<video><image>?", "at <box> or <point>", ["i.jpg"]), "video": "v.mp4",
     "objects": {"bbox": [[1, 2, 3.25, 4]], "point": [[5, 6]], "medium": [1, 0], "frame": "resized"}},
    {"id": 7, "conversations": [
        {"from": "system", "value": "Be short."}, {"from": "human", "value": "a <box>"},
        {"from": "function_call", "value": '{"name": "f"}'}, {"from": "observation", "value": "1<image>"},
        {"from": "tool", "value": ""}, {"from": "gpt", "value": "b"}], "image": "x.jpg"},
]  # fmt: skip
OPENAI: list[dict[str, Any]] = [
    {"messages": [
        {"role": "user", "content": [{"type": "image", "image": "a.jpg"}, {"type": "text", "text": "?"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {"x": "é"}}}]},
        {"role": "tool", "content": "2"}, {"role": "assistant", "content": [{"type": "text", "text": "done"}]}]},
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
]  # fmt: skip
SHAREGPT: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "<video> a"}, {"role": "assistant", "content": "b"}], "videos": ["v"]}
]


def records_of(path: Path, format_name: str) -> list[Record]:
    found = [parse_element(e, path=path, format_name=format_name) for e in open_record_file(path).elements()]
    assert all(isinstance(record, Record) for record in found), found
    return [record for record in found if isinstance(record, Record)]


def essence(record: Record) -> tuple[object, ...]:
    return record.turns, record.media, record.regions, record.frame


def write(path: Path, values: list[dict[str, Any]]) -> Path:
    if path.suffix == ".json":
        return write_records(path, values)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(values), path)
    return path


@pytest.mark.parametrize("target", KINDS)
@pytest.mark.parametrize("source", [".json", ".jsonl"])
@pytest.mark.parametrize(("format_name", "values"), [("llava", LLAVA), ("openai", OPENAI), ("sharegpt", SHAREGPT)])
def test_written_records_read_back_the_same(
    tmp_path: Path, format_name: str, values: list[dict[str, Any]], source: str, target: str
) -> None:
    given = write(tmp_path / f"in{source}", values)
    out = tmp_path / f"out{target}"
    assert convert_records(given, out, format_name=format_name) == len(values)
    assert list(map(essence, records_of(out, "sharegpt"))) == list(map(essence, records_of(given, format_name)))
    again = tmp_path / f"again{target}"
    convert_records(out, again, format_name="sharegpt")
    assert again.read_bytes() == out.read_bytes()
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([given.name, out.name, again.name])


def test_the_json_is_what_the_guides_script_writes(tmp_path: Path) -> None:
    given = write_records(tmp_path / "in.json", [{"id": "1", **LLAVA[0]}, LLAVA[1]])
    out = tmp_path / "out.json"
    convert_records(given, out, format_name="llava", media_prefix="./data/COCO2017/train2017/")
    assert json.loads(out.read_text(encoding="utf-8")) == [
        {
            "messages": [
                {"role": "user", "content": "<image>\nWhat?"},
                {"role": "assistant", "content": 'A "cat"\n'},
            ],
            "images": ["./data/COCO2017/train2017/a b.jpg"],
        },
        {
            "messages": [
                {"role": "user", "content": "Hello 你好 😀"},
                {"role": "assistant", "content": "Hi\u2028there"},
            ],
            "images": [],
        },
    ]
    assert "你好" in out.read_text(encoding="utf-8")


def test_a_folder_becomes_one_file_and_tags_are_used(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write(folder / "b.jsonl", [{"dialog": LLAVA[1]["conversations"]}])
    write(folder / "a.parquet", [{"dialog": LLAVA[0]["conversations"], "image": "a b.jpg"}])
    tags = TagSection(messages="dialog")
    assert convert_records(folder, tmp_path / "out.jsonl", format_name="llava", tags=tags) == 2
    assert [len(record.media) for record in records_of(tmp_path / "out.jsonl", "sharegpt")] == [1, 0]


@pytest.mark.parametrize("target", KINDS)
def test_broken_records_are_listed_and_nothing_is_written(tmp_path: Path, target: str) -> None:
    given = write_records(tmp_path / "in.json", [LLAVA[0], llava("a", ""), LLAVA[1], {}, *[llava("", "b")] * 30])
    with pytest.raises(DataError) as caught:
        convert_records(given, tmp_path / f"out{target}", format_name="llava")
    text = str(caught.value)
    assert f"{given}:3: record 1" in text
    assert f"{given}:5: record 3" in text
    assert "32 in all" in text
    assert [each.name for each in tmp_path.iterdir()] == ["in.json"]


@pytest.mark.parametrize("target", KINDS)
def test_an_array_that_breaks_off_leaves_nothing(tmp_path: Path, target: str) -> None:
    given = write_records(tmp_path / "in.json", LLAVA)
    given.write_bytes(given.read_bytes()[:-40])
    with pytest.raises(DataError, match="truncated"):
        convert_records(given, tmp_path / f"out{target}", format_name="llava")
    assert [each.name for each in tmp_path.iterdir()] == ["in.json"]


def test_refuses_an_empty_list_and_another_suffix(tmp_path: Path) -> None:
    given = write_records(tmp_path / "in.json", [])
    with pytest.raises(DataError, match="0 records"):
        convert_records(given, tmp_path / "out.json", format_name="llava")
    with pytest.raises(OutputError, match=r"ends in '\.csv'"):
        convert_records(given, tmp_path / "out.csv", format_name="llava")


def test_overwrites_only_when_told_and_never_the_source(tmp_path: Path) -> None:
    given = write_records(tmp_path / "in.json", LLAVA[:1])
    out = tmp_path / "out.json"
    out.write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        convert_records(given, out, format_name="llava")
    assert out.read_text() == "mine"
    convert_records(given, out, format_name="llava", overwrite=True)
    assert len(records_of(out, "sharegpt")) == 1
    (tmp_path / "same.json").hardlink_to(given)
    for target in (given, tmp_path / "same.json", tmp_path / "." / "in.json"):
        with pytest.raises(OutputError, match="is the file that is read"):
            convert_records(given, target, format_name="llava", overwrite=True)
    (tmp_path / "link.json").symlink_to(out)
    with pytest.raises(OutputError, match="symbolic link"):
        convert_records(given, tmp_path / "link.json", format_name="llava", overwrite=True)
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        convert_records(given, tmp_path / "folder.json", format_name="llava", overwrite=True)


def test_refuses_a_target_in_the_folder_that_is_read_and_in_one_that_is_not_there(tmp_path: Path) -> None:
    write_records(tmp_path / "in.json", LLAVA[:1])
    with pytest.raises(OutputError, match="lies in the folder that is read"):
        convert_records(tmp_path, tmp_path / "out.jsonl", format_name="llava")
    with pytest.raises(OutputError, match="No such file"):
        convert_records(tmp_path / "in.json", tmp_path / "no" / "out.json", format_name="llava")


def test_media_are_looked_at_only_when_their_root_is_given(tmp_path: Path) -> None:
    root = tmp_path / "media"
    save_image(root / "a.png")
    (root / "sub.png").mkdir()
    names = ["a.png", "missing.png", "../a.png", "sub.png", "http://x/a.png"]
    given = write_records(tmp_path / "in.json", [llava("<image>", "b", name) for name in names])
    assert convert_records(given, tmp_path / "out.json", format_name="llava") == 5
    with pytest.raises(DataError) as caught:
        convert_records(given, tmp_path / "out2.json", format_name="llava", media_root=root)
    found = [(problem.where.rsplit(":")[-1], problem.message) for problem in caught.value.problems]
    assert [line for line, _ in found] == ["3", "4", "5", "6"]
    for (_, message), part in zip(found, ("No such file", "`..`", "is a folder", "is a URL"), strict=True):
        assert part in message
    assert not (tmp_path / "out2.json").exists()
    with pytest.raises(DataError, match="no such folder"):
        convert_records(given, tmp_path / "out2.json", format_name="llava", media_root=tmp_path / "no")


@pytest.mark.parametrize(("name", "message"), [("/data/a.png", "is absolute"), ("http://x/a.png", "is a URL")])
def test_a_prefix_hides_no_path_that_leads_elsewhere(tmp_path: Path, name: str, message: str) -> None:
    given = write_records(tmp_path / "in.json", [llava("<image>", "b", name)])
    with pytest.raises(DataError, match=message):
        convert_records(given, tmp_path / "out.json", format_name="llava", media_prefix="data")


def test_refuses_a_text_that_would_become_a_medium(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "What is <image>?"}, {"role": "assistant", "content": "A marker."}]
    given = write_records(tmp_path / "in.json", [{"messages": messages}])
    with pytest.raises(DataError, match="message 0 holds the text <image>"):
        convert_records(given, tmp_path / "out.json", format_name="openai")


def test_a_failing_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = write_records(tmp_path / "in.json", LLAVA)

    def fail(old: Path, new: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("qvl_core.disk.rename", fail)
    with pytest.raises(Exception, match="No space left"):
        convert_records(given, tmp_path / "out.json", format_name="llava")
    assert [each.name for each in tmp_path.iterdir()] == ["in.json"]


WORDS = st.text('aé😀"\\\n\t<>[]{},boximage ', min_size=1, max_size=12).filter(
    lambda text: text.strip() and "<image>" not in text
)


@given(st.lists(st.tuples(WORDS, WORDS, st.booleans()), min_size=1, max_size=4), st.sampled_from(KINDS))
@settings(max_examples=60, deadline=None)
def test_any_text_comes_back(
    tmp_path_factory: pytest.TempPathFactory, turns: list[tuple[str, str, bool]], kind: str
) -> None:
    folder = tmp_path_factory.mktemp("any")
    values = [
        llava("<image>" + ask if shown else ask, answer, "a.jpg" if shown else None) for ask, answer, shown in turns
    ]
    given = write_records(folder / "in.json", values)
    out = folder / f"out{kind}"
    convert_records(given, out, format_name="llava")
    assert list(map(essence, records_of(out, "sharegpt"))) == list(map(essence, records_of(given, "llava")))

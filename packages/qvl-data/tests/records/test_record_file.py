"""Files are told apart by what is in them; what is no file of records is refused at once, and changes are noticed."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from qvl_core.errors import DataError, InputChangedError
from qvl_data.records.json_array import JsonArrayFile
from qvl_data.records.json_lines import JsonLinesFile
from qvl_data.records.record_file import open_record_file, open_record_files
from record_samples import as_array, as_lines, conversations


@pytest.mark.parametrize(
    ("data", "kind"), [(as_array(conversations(3)), JsonArrayFile), (as_lines(conversations(3)), JsonLinesFile)]
)
@pytest.mark.parametrize("name", ["x.json", "x.jsonl", "x.parquet", "x"])
def test_the_kind_is_found_by_content(tmp_path: Path, data: bytes, kind: type, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    file = open_record_file(path)
    assert isinstance(file, kind)
    assert file.path == path
    assert file.digest() == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("data", [b'"text"', b"12", b"null", b"<html>", b"\x80\x04pickle"])
def test_refuses_a_top_level_that_is_no_list(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"neither a JSON array, nor JSON Lines, nor Parquet: it starts with"):
        open_record_file(path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_names_other_encodings(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(json.dumps([{"a": "图像"}]).encode(encoding))
    with pytest.raises(DataError, match=f"not UTF-8: it starts as {encoding[:6].upper()}") as caught:
        open_record_file(path)
    assert "iconv" in caught.value.problems[0].fix


@pytest.mark.parametrize("content", [b"", b" \n\t", b"\xef\xbb\xbf", b" " * 3_000_000])
def test_refuses_an_empty_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match="0 records"):
        open_record_files(path)


def test_refuses_a_missing_file_a_pipe_and_a_device(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        open_record_files(tmp_path / "x.json")
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(DataError, match="named pipe"):
        open_record_files(tmp_path / "pipe.json")
    with pytest.raises(DataError, match="character device"):
        open_record_files(Path(os.devnull))
    with pytest.raises(DataError, match="is a folder"):
        open_record_file(tmp_path)
    with pytest.raises(DataError, match="NUL"):
        open_record_files(Path("a\0b"))


def test_a_folder_gives_its_files_by_name_and_nothing_else(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.json", "c.txt", "d.json.bak", "README"):
        (tmp_path / name).write_bytes(b'[{"a": 1}]')
    (tmp_path / "sub").mkdir()
    assert [file.path.name for file in open_record_files(tmp_path)] == ["a.json", "b.jsonl"]


def test_refuses_a_folder_without_files_and_names_every_bad_file_of_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing named \*\.json, \*\.jsonl, \*\.parquet"):
        open_record_files(tmp_path)
    (tmp_path / "a.json").write_bytes(b"")
    (tmp_path / "b.json").mkdir()
    (tmp_path / "c.json").write_bytes(b"[1]")
    with pytest.raises(DataError) as caught:
        open_record_files(tmp_path)
    assert [Path(problem.where).name for problem in caught.value.problems] == ["a.json", "b.json"]


@pytest.mark.parametrize("data", [as_array(conversations(3)), as_lines(conversations(3))])
def test_a_change_is_noticed(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(data)
    file = open_record_file(path)
    places = [element.place for element in file.elements()]
    with path.open("ab") as appended:
        appended.write(b"\n")
    for use in (lambda: file.read(places[0]), lambda: list(file.elements()), file.digest):
        with pytest.raises(InputChangedError, match="changed"):
            use()


@pytest.mark.parametrize("data", [as_array(conversations(200)), as_lines(conversations(200))])
def test_several_threads_and_processes_can_read_one_file(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(data)
    file = pickle.loads(pickle.dumps(open_record_file(path)))
    elements = list(file.elements())
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda element: file.read(element.place), elements)) == elements


def test_a_packed_file_is_named_with_what_unpacks_it(tmp_path: Path) -> None:
    import gzip

    path = tmp_path / "r.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n'))
    with pytest.raises(DataError, match="packed file") as caught:
        open_record_file(path)
    assert caught.value.problems[0].fix == "gunzip FILE"

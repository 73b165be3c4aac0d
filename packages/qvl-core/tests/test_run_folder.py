"""Whose an output folder is, and what its record says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from qvl_core import run_folder
from qvl_core.errors import OutputError
from qvl_core.run_folder import (
    RunRecord,
    check_continues,
    check_unchanged,
    check_writable,
    free_changes,
    read_record,
    recipe_differences,
)

RECIPE = {"task": "sft", "train": {"steps": 3, "save": {"every": 1}}, "layout": {"text_stages": (1, 2)}}
HASHES = {"data": "aa", "weights": "bb"}


@pytest.fixture
def record() -> RunRecord:
    return RunRecord.start(RECIPE, HASHES)


def test_a_record_comes_back_as_it_was_written(tmp_path: Path, record: RunRecord) -> None:
    finished = replace(record, result={"steps": 3})
    finished.write(tmp_path)
    found = read_record(tmp_path)
    assert found is not None
    assert found.run_id == record.run_id
    assert found.result == {"steps": 3}
    assert found.versions["qvl-core"]
    assert found.command == record.command


def test_two_runs_of_one_second_have_different_names() -> None:
    assert len({RunRecord.start(RECIPE, HASHES).run_id for _ in range(50)}) == 50


def test_nothing_of_the_environment_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: RunRecord
) -> None:
    monkeypatch.setenv("HUB_TOKEN", "secret-value-1234")
    record.write(tmp_path)
    assert "secret-value-1234" not in (tmp_path / "run.json").read_text()


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: (p.mkdir(), (p / ".lock").touch())])
def test_a_missing_or_empty_folder_belongs_to_nobody(tmp_path: Path, make: object) -> None:
    make(tmp_path / "run")  # type: ignore[operator]
    assert read_record(tmp_path / "run") is None


def test_logs_alone_belong_to_a_run_that_is_about_to_start(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    assert read_record(tmp_path) is None


def test_a_folder_with_other_files_is_refused_with_the_first_one_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(OutputError, match=r"notes\.txt"):
        read_record(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1}', '{"format": 1, "command": 3}', "\0"])
def test_a_damaged_record_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(OutputError, match="is not the record of a run"):
        read_record(tmp_path)


def test_a_record_of_a_newer_version_is_refused(tmp_path: Path, record: RunRecord) -> None:
    record.write(tmp_path)
    content = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**content, "format": 2}))
    with pytest.raises(OutputError, match="format 2"):
        read_record(tmp_path)


def test_only_settings_that_change_numbers_are_differences() -> None:
    other = {
        "task": "sft",
        "train": {"steps": 4, "save": {"every": 9}},
        "layout": {"text_stages": [1, 2]},
        "env": {"A": 1},
    }
    assert recipe_differences(RECIPE, other) == [("train.steps", 3, 4)]


def test_the_same_run_continues_and_another_is_refused_with_what_differs(tmp_path: Path, record: RunRecord) -> None:
    check_continues(record, tmp_path, RECIPE, HASHES)
    with pytest.raises(OutputError, match=r"train\.steps: here 4, there 3"):
        check_continues(record, tmp_path, {**RECIPE, "train": {"steps": 4}}, HASHES)
    with pytest.raises(OutputError, match="data hash: here cc, there aa"):
        check_continues(record, tmp_path, RECIPE, {**HASHES, "data": "cc"})


def test_a_place_that_cannot_be_written_is_told_before_anything_is_made(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"output\.dir"):
        check_writable(tmp_path / "file" / "below")
    with pytest.raises(OutputError, match=r"output\.dir"):
        check_writable(Path("/proc/no_such_place/run"))


def test_recorded_packages_are_those_that_exist_here() -> None:
    versions = run_folder.installed_versions()
    assert {"python", "platform", "qvl-core"} <= versions.keys()


def test_a_run_that_came_between_check_and_lock_is_noticed(tmp_path: Path, record: RunRecord) -> None:
    check_unchanged(None, tmp_path)
    record.write(tmp_path)
    written = read_record(tmp_path)
    check_unchanged(written, tmp_path)
    with pytest.raises(OutputError, match="another process has used this folder"):
        check_unchanged(None, tmp_path)
    replace(record, result={"steps": 1}).write(tmp_path)
    with pytest.raises(OutputError, match="another process has used this folder"):
        check_unchanged(written, tmp_path)


def test_another_machine_or_variable_is_part_of_the_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: RunRecord
) -> None:
    monkeypatch.setenv("HCCL_BUFFSIZE", "300")
    stated = {**RECIPE, "env": {"HCCL_BUFFSIZE": 300}}
    assert record.changed(stated, HASHES, [], step=3) is record
    facts = {**record.machine, "host": "elsewhere", "cores": "1", "directory": "/other"}
    monkeypatch.setattr(run_folder, "machine_facts", lambda: facts)
    found = record.changed(RECIPE, HASHES, [], step=3, files={"a.json": "1"})
    (entry,) = found.history
    # Another directory, or a process that was confined to a core, is no other machine.
    assert entry["machine"] == {"host": [record.machine["host"], "elsewhere"]}
    assert entry["variables"] == {"HCCL_BUFFSIZE": [None, "300"]}
    assert found.files == {"a.json": "1"}
    assert found.known("variables")["HCCL_BUFFSIZE"] == "300"
    found.write(tmp_path)
    read = read_record(tmp_path)
    assert read is not None
    assert (read.history, read.machine, read.files) == (found.history, found.machine, found.files)
    again = found.changed(RECIPE, HASHES, [], step=5)
    assert again is found


def test_a_record_of_an_earlier_version_is_read_and_gets_no_facts_that_nobody_knows(
    tmp_path: Path, record: RunRecord
) -> None:
    record.write(tmp_path)
    content = json.loads((tmp_path / "run.json").read_text())
    for name in ("machine", "variables", "files", "code"):
        del content[name]
    (tmp_path / "run.json").write_text(json.dumps(content))
    found = read_record(tmp_path)
    assert found is not None
    assert (found.machine, found.variables, found.files, found.code) == ({}, {}, {}, {})
    assert found.changed(RECIPE, HASHES, [], step=3) is found


def test_code_that_was_changed_between_is_part_of_the_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: RunRecord
) -> None:
    assert "qvl-core" in record.code
    assert record.changed(RECIPE, HASHES, [], step=3) is record
    monkeypatch.setattr(run_folder, "code_digests", lambda: {**record.code, "qvl-core": "f" * 64})
    found = record.changed(RECIPE, HASHES, [], step=3)
    (entry,) = found.history
    assert entry["code"] == {"qvl-core": [record.code["qvl-core"], "f" * 64]}
    found.write(tmp_path)
    read = read_record(tmp_path)
    assert read is not None
    assert read.known("code")["qvl-core"] == "f" * 64
    assert read.code == record.code


def test_settings_that_are_free_to_change_are_part_of_the_history(tmp_path: Path, record: RunRecord) -> None:
    later = {
        "task": "sft",
        "train": {"steps": 9, "save": {"every": 5}},
        "layout": {"text_stages": [1, 2], "zero1": True},
        "output": {"dir": "moved"},
        "expected": {"loss_first": 1.0},
    }
    record.write(tmp_path)
    read = read_record(tmp_path)
    assert read is not None
    settings = free_changes(later, read.recipe)
    # Not those that are refused, and not where the run lies or what was measured.
    assert settings == {"layout.zero1": [None, True], "train.save.every": [1, 5]}
    found = read.changed(later, HASHES, [], step=4, settings=settings)
    (entry,) = found.history
    assert (entry["after_step"], entry["settings"]) == (4, settings)
    assert found.recipe == later
    assert free_changes(RECIPE, read.recipe) == {}
    assert read.changed(RECIPE, HASHES, [], step=4, settings={}) is read

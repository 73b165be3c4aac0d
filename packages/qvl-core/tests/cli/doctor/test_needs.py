"""What a recipe needs, against made-up devices, memory and disks."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from qvl_core.cli.doctor import data_rows, mindspore, needs, programs, recipe_rows, report
from qvl_core.cli.doctor.row import Row
from qvl_core.recipe import Recipe, load_recipe

GIB = 1 << 30


@pytest.fixture
def big(folder: Path) -> Recipe:
    """72B on 64 NPUs, eight on this machine."""
    return load_recipe("72b.toml")


def devices(folder: Path, count: int) -> Path:
    found = folder / f"dev{count}"
    found.mkdir()
    for number in range(count):
        (found / f"davinci{number}").touch()
    (found / "davinci_manager").touch()
    return found


def test_devices_that_are_not_there(big: Recipe, folder: Path) -> None:
    row = needs.check_devices_for(big, devices(folder, 0), 2)
    assert (row.level, row.evidence.split(" found")[0]) == ("fail", "8 NPUs wanted here, 0")
    assert needs.check_devices_for(big, devices(folder, 8), 2).level == "ok"


def test_named_devices_that_are_not_there(folder: Path) -> None:
    recipe = load_recipe("72b.toml", ["env.ASCEND_RT_VISIBLE_DEVICES='8,9,10,11,12,13,14,15'"])
    row = needs.check_devices_for(recipe, devices(folder, 8), 2)
    assert (row.level, row.fix) == ("fail", '[env] ASCEND_RT_VISIBLE_DEVICES = "0,1,2,3,4,5,6,7"')


def test_fewer_visible_devices_than_the_recipe_wants(big: Recipe, folder: Path) -> None:
    nodes = devices(folder, 8)
    few = {"ASCEND_RT_VISIBLE_DEVICES": "0,1,2,3"}
    row = needs.check_devices_for(big, nodes, 2, few)
    assert (row.level, "4 of the 8" in row.evidence, "of this shell" in row.evidence) == ("fail", True, True)
    assert needs.check_devices_for(big, nodes, 2, {"ASCEND_RT_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}).level == "ok"
    assert needs.check_devices_for(big, nodes, 2, {"ASCEND_RT_VISIBLE_DEVICES": "all"}).level == "fail"


def test_more_cpu_ranks_than_cores_is_told(folder: Path) -> None:
    recipe = load_recipe("tiny.toml", ["layout.dp=4"])
    assert needs.check_devices_for(recipe, folder, 2).level == "warn"
    assert needs.check_devices_for(recipe, folder, 4).level == "ok"


def test_host_memory_of_both_sides_of_the_need(big: Recipe) -> None:
    need, _ = needs.host_bytes(big)
    assert needs.check_host_memory(big, need).level == "ok"
    assert needs.check_host_memory(big, need - 1).level == "warn"
    assert needs.check_host_memory(big, need // 2).level == "fail"
    unknown = needs.check_host_memory(big, 0)
    assert unknown.level == "skipped"
    assert "0 B" not in unknown.evidence
    assert "see memory" in unknown.evidence


def test_device_memory_counts_weights_optimizer_and_hccl_buffers(big: Recipe, folder: Path) -> None:
    need = needs.device_bytes(big)
    more = needs.device_bytes(load_recipe("72b.toml", ["env.HCCL_BUFFSIZE=400"]))
    # tp, pp, dp and the world: four communicators, two buffers each.
    assert more - need == 4 * 2 * 200 * needs.MIB
    assert needs.device_bytes(load_recipe("72b.toml", ["layout.zero1=true"])) < need
    row = needs.check_device_memory(big, need - 1)
    assert row.level == "fail"
    found = row.evidence.partition("what fits on 64 devices: ")[2].split("; ")
    assert 1 <= len(found) <= 3
    assert len({layout.partition(",")[0] for layout in found}) == len(found)
    assert needs.check_device_memory(big, GIB).evidence.endswith("nothing fits on 64 devices")
    assert needs.check_device_memory(big, need + 1).level == "warn"
    assert needs.check_device_memory(big, 2 * need).level == "ok"
    assert needs.check_device_memory(big, 0).level == "skipped"
    assert needs.check_device_memory(load_recipe("tiny.toml"), 64 * GIB).level == "skipped"


def test_the_size_of_a_device_is_read_from_npu_smi() -> None:
    line = "| 0                         | 0000:C1:00.0  | 0           0    / 0          3382 / 65536         |"
    assert needs.npu_capacity(line) == 65536 * needs.MIB
    assert needs.npu_capacity("") == 0


def test_space_for_the_checkpoints_that_are_kept_and_one_more(folder: Path) -> None:
    recipe = load_recipe("tiny.toml")
    one, weights = needs.checkpoint_bytes(recipe)
    need = 4 * one + weights
    assert needs.check_space(recipe, need).level == "ok"
    row = needs.check_space(recipe, need - 1)
    assert (row.level, row.fix.split(",")[0]) == ("fail", "--set train.save.keep=2")
    assert needs.check_space(recipe, 0).fix.startswith("another disk")


def test_an_output_folder_that_cannot_be_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("tiny.toml")
    assert needs.check_output(recipe).level == "ok"
    assert [path for path in folder.iterdir() if "doctor" in path.name] == []

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(needs.os, "fsync", full)
    row = needs.check_output(recipe)
    assert (row.level, "No space left" in row.evidence) == ("fail", True)
    assert [path for path in folder.iterdir() if "doctor" in path.name] == []


@pytest.mark.parametrize(("number", "said"), [(30, "where you may write"), (28, "free space there")])
def test_an_output_disk_that_takes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    recipe = load_recipe("tiny.toml")
    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    row = needs.check_output(recipe)
    assert (row.level, said in row.fix) == ("fail", True)


def test_tokens_in_a_recipe_are_told_without_being_shown(folder: Path) -> None:
    token = "hf_" + "a" * 34
    recipe = load_recipe("tiny.toml", [f"output.dir='runs/{token}'"])
    row = needs.check_secrets(recipe)
    assert (row.level, token in row.evidence) == ("warn", False)
    assert needs.check_secrets(load_recipe("tiny.toml")).level == "ok"


def test_a_wrong_recipe_gives_a_row_for_each_problem_and_exit_2(folder: Path, qvl) -> None:
    (folder / "bad.toml").write_text((folder / "tiny.toml").read_text().replace("steps = 20", "steps = 0\nsted = 1"))
    loaded, rows = recipe_rows.load("bad.toml")
    assert loaded is None
    assert {row.level for row in rows} == {"fail"}
    assert len(rows) == 2
    assert report.exit_code(rows) == 2
    assert report.exit_code([]) == 0


def test_the_command_looks_at_a_recipe(folder: Path, qvl, monkeypatch: pytest.MonkeyPatch) -> None:
    none = Row(check="none", level="skipped", evidence="not in this test")
    monkeypatch.setattr(mindspore, "check_mindspore", lambda *_, **__: [])
    for name in ("check_decoders", "check_two_processes"):
        monkeypatch.setattr(programs, name, lambda *_, **__: none)
    result = qvl("doctor", "--recipe", "72b.toml", "--json")
    rows = {row["check"]: row for row in json.loads(result.out)}
    assert rows["recipe"]["level"] == "ok"
    assert rows["recipe-devices"]["level"] == "fail"
    assert rows["recipe-files"]["level"] == "fail"
    assert rows["nodes-agree"]["level"] == "skipped"
    assert all(row["fix"] for row in rows.values() if row["level"] in ("warn", "fail"))
    assert result.code == 2


def test_files_from_the_future_and_a_disk_with_another_clock(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("tiny.toml")
    data = Path(recipe.data.sources[0].path)
    data.parent.mkdir(parents=True, exist_ok=True)
    data.write_text("[]")
    assert data_rows.check_times(recipe).level == "ok"
    row = data_rows.check_times(recipe, now=data.stat().st_mtime - 3600)
    assert (row.level, "by 3600 s" in row.evidence) == ("warn", True)
    monkeypatch.setattr(needs.time, "time", lambda: 1.0)
    assert "ahead of the clock" in needs.check_output(recipe).evidence


@pytest.mark.parametrize(
    ("content", "level", "said"),
    [
        (b'[{"messages": []}]', "ok", "1 of 1"),
        (b'\xef\xbb\xbf\n{"a": 1}\n', "ok", "1 of 1"),
        (b"version https://git-lfs.github.com/spec/v1\n", "fail", "Git LFS pointer"),
        (b"", "fail", "is empty"),
        (b"id,image\n", "fail", "begins neither JSON nor Parquet"),
        (b"PAR1", "fail", "half of a Parquet"),
    ],
)
def test_how_a_data_file_begins(folder: Path, content: bytes, level: str, said: str) -> None:
    recipe = load_recipe("tiny.toml")
    data = Path(recipe.data.sources[0].path)
    data.parent.mkdir(parents=True, exist_ok=True)
    data.write_bytes(content)
    root = recipe.data.sources[0].media_root
    if root:
        (Path(root) / "x").mkdir(parents=True, exist_ok=True)
    row = data_rows.check_data(recipe)
    assert (row.level, said in row.evidence) == (level, True)


def test_what_tells_two_copies_of_the_weights_apart(folder: Path) -> None:
    recipe = load_recipe("tiny.toml", ["weights.source='w'"])
    assert data_rows.identity_rows(recipe)[1].level == "skipped"
    (folder / "w").mkdir()
    (folder / "w" / "model.safetensors").write_bytes(b"12345")
    before = data_rows.identity_rows(recipe)[1].evidence
    (folder / "w" / "model.safetensors").write_bytes(b"1234")
    assert data_rows.identity_rows(recipe)[1].evidence != before

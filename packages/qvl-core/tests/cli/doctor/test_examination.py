"""The whole examination: every check gives a row, whatever the machine, and nothing of it raises."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from qvl_core.cli.doctor import examination, host, mindspore, network, packages, programs
from qvl_core.cli.doctor.row import Row


@pytest.fixture(autouse=True)
def _no_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """MindSpore and mpiexec are not started here: that takes seconds."""

    def row(name: str) -> Row:
        return Row(check=name, level="skipped", evidence="not in this test")

    monkeypatch.setattr(mindspore, "check_run", lambda *_: row("mindspore-run"))
    monkeypatch.setattr(programs, "check_two_processes", lambda *_, **__: row("mpi-run"))
    monkeypatch.setattr(programs, "check_decoders", lambda *_: row("decoders"))


def test_every_check_gives_a_row_with_evidence_on_this_machine() -> None:
    rows = examination.examine({"PATH": ""})
    assert len({row.check for row in rows}) == len(rows)
    assert all(row.evidence for row in rows)
    assert all(row.fix for row in rows if row.level in ("warn", "fail"))


def test_a_check_that_breaks_does_not_keep_the_others_from_being_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> Row:
        raise RuntimeError("nobody thought of this")

    whole = {row.check for row in examination.examine({"PATH": ""})}
    for module, name in (
        (host, "check_home"),
        (packages, "check_copies"),
        (network, "check_host_names"),
        (mindspore, "check_mindspore"),
    ):
        monkeypatch.setattr(module, name, broken)
    rows = {row.check: row for row in examination.examine({"PATH": ""})}
    assert whole - set(rows) == set(mindspore.LATER)
    assert {name for name, row in rows.items() if "nobody thought" in row.evidence} == {
        *("home", "copies", "host-names", "mindspore")
    }


def test_every_row_of_a_machine_where_everything_is_wrong_has_a_fix(folder: Path, tmp_path: Path) -> None:
    environment = {
        "PATH": "",
        "HOME": "/nowhere",
        "ASCEND_HOME_PATH": "/nowhere/cann",
        "ASCEND_RT_VISIBLE_DEVICES": "0,0",
        "HCCL_CONECT_TIMEOUT": "1",
        "HCCL_CONNECT_TIMEOUT": "1",
        "HCCL_EXEC_TIMEOUT": "0",
        "HCCL_SOCKET_IFNAME": "no-such-interface",
        "HCCL_IF_IP": "192.0.2.1",
        "MS_ROLE": "MS_WORKER",
        "LD_PRELOAD": "/nowhere.so",
        "http_proxy": "http://proxy",
    }
    rows = examination.examine(environment, "72b.toml", devices=tmp_path / "nothing", use_npu=True)
    bad = {row.check: row for row in rows if row.level in ("warn", "fail")}
    assert all(row.fix for row in bad.values())
    assert {
        *("home", "variables", "shell-values", "proxies", "npu-devices", "visible-devices", "cann"),
        *("hccl-values", "recipe-files"),
    } <= set(bad)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"schema = 1", b"[[["])
def test_recipes_that_are_none_are_a_row(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(content)
    rows = [row for row in examination.examine({"PATH": ""}, str(path)) if row.check == "recipe"]
    assert rows
    assert {row.level for row in rows} == {"fail"}
    assert all(row.fix for row in rows)


def test_every_check_is_in_the_documentation(folder: Path, tmp_path: Path) -> None:
    page = Path(__file__).resolve().parents[5] / "docs" / "doctor.md"
    if not page.exists():
        pytest.skip("the documentation is not beside the tests: this is an installed package")
    documented = set(re.findall(r"`([a-z0-9-]+)`", page.read_text(encoding="utf-8")))
    rows = examination.examine({"PATH": ""}, "72b.toml", devices=tmp_path, use_npu=True)
    assert {row.check for row in rows} - documented == set()

"""MindSpore's checks, with a made-up wheel and a made-up child process."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import pytest
from qvl_core.cli.doctor import mindspore
from qvl_core.cli.doctor.child import Runner
from qvl_core.cli.doctor.mindspore import check_run, check_version, check_wheel


@pytest.mark.parametrize(
    ("version", "python", "level"),
    [
        ("2.6.0", (3, 11), "fail"),
        ("2.7.0", (3, 11), "ok"),
        ("2.7.0", (3, 12), "fail"),
        ("2.7.1.post1", (3, 12), "fail"),
        ("2.7.2", (3, 12), "ok"),
        ("2.10.0", (3, 12), "ok"),
        ("2.11.0", (3, 11), "warn"),
        ("", (3, 11), "warn"),
    ],
)
def test_version(version: str, python: tuple[int, int], level: str) -> None:
    row = check_version(version, python)
    assert row.level == level
    assert bool(row.fix) == (level != "ok")


def _library(folder: Path, machine: int, order: str = "<") -> Path:
    head = b"\x7fELF\x02" + (b"\x01" if order == "<" else b"\x02") + bytes(12) + struct.pack(f"{order}H", machine)
    path = folder / f"_c_expression.{sys.implementation.cache_tag}-x86_64-linux-gnu.so"
    path.write_bytes(head + bytes(44))
    return path


def test_a_wheel_of_another_architecture_is_found_from_its_extension(tmp_path: Path) -> None:
    _library(tmp_path, 0xB7)
    assert check_wheel(tmp_path, "aarch64").level == "ok"
    row = check_wheel(tmp_path, "x86_64")
    assert row.level == "fail"
    assert row.evidence == "built for aarch64, this machine is x86_64"
    assert "--force-reinstall" in row.fix


def test_an_extension_of_another_python_is_found_from_its_name(tmp_path: Path) -> None:
    library = _library(tmp_path, 0x3E)
    row = check_wheel(tmp_path, "x86_64", "cpython-39")
    assert (row.level, row.evidence) == ("fail", f"{library.name} is of another Python than this one, cpython-39")
    library.rename(tmp_path / "_c_expression.so")
    assert check_wheel(tmp_path, "x86_64", "cpython-39").level == "ok"


@pytest.mark.parametrize("python", ["cpython-310", "cpython-311", "cpython-312"])
def test_of_several_extensions_the_one_of_this_python_is_judged(tmp_path: Path, python: str) -> None:
    made = tmp_path / "made"
    made.mkdir()
    for other in ("cpython-310", "cpython-311", "cpython-312"):
        for name, code in (("aarch64", 0xB7), ("x86_64", 0x3E)):
            _library(made, code).rename(tmp_path / f"_c_expression.{other}-{name}-linux-gnu.so")
    for machine in ("aarch64", "x86_64"):
        row = check_wheel(tmp_path, machine, python)
        assert (row.level, row.evidence) == ("ok", f"built for {machine}, as this machine is")
    # None of its own, and none without a tag: what is there is named.
    for path in tmp_path.glob(f"*{python}*"):
        path.unlink()
    row = check_wheel(tmp_path, "x86_64", python)
    assert (row.level, f"is of another Python than this one, {python}" in row.evidence) == ("fail", True)
    _library(made, 0x3E).rename(tmp_path / "_c_expression.so")
    assert check_wheel(tmp_path, "x86_64", python).level == "ok"


def test_an_architecture_that_is_unknown_or_no_elf_file_fails(tmp_path: Path) -> None:
    assert check_wheel(tmp_path, "x86_64").level == "fail"
    library = _library(tmp_path, 0xF3, ">")
    assert "machine 0xf3" in check_wheel(tmp_path, "x86_64").evidence
    library.write_bytes(b"short")
    assert "no ELF file" in check_wheel(tmp_path, "x86_64").evidence


def _child(code: int, stderr: str = ""):
    return lambda command, environment, deadline_s: subprocess.CompletedProcess(command, code, "ok\n", stderr)


def test_the_computation_in_a_child_process() -> None:
    assert check_run({}, _child(0)).level == "ok"
    row = check_run({}, _child(1, "Traceback\n  ...\nImportError: GLIBCXX_3.4.26 not found\n\n"))
    assert (row.level, row.evidence) == ("fail", "ImportError: GLIBCXX_3.4.26 not found")
    assert "signal 11" in check_run({}, _child(-11)).evidence
    known = check_run({}, _child(1, "ImportError: libstdc++.so.6: version `GLIBCXX_3.4.29' not found"))
    assert "older than the one" in known.evidence


def test_a_child_that_hangs_is_a_failure() -> None:
    def hang(command, environment, deadline_s):
        raise subprocess.TimeoutExpired(command, 60)

    assert "within 60 s" in check_run({}, hang).evidence


@pytest.mark.parametrize("error", [ModuleNotFoundError("No module named 'mindspore'"), ValueError("__spec__ is None")])
def test_a_mindspore_that_an_import_hook_hides_is_not_there(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def refuse(name: str) -> None:
        raise error

    monkeypatch.setattr(mindspore.importlib.util, "find_spec", refuse)
    first, *rest = mindspore.check_mindspore({}, needed=True, ascend=False)
    assert (first.check, first.level) == ("mindspore", "fail")
    assert first.evidence.startswith("not installed")
    assert {row.level for row in rest} == {"skipped"}


@pytest.mark.parametrize(("needed", "level"), [(True, "fail"), (False, "warn")])
def test_without_mindspore_the_rest_is_skipped(monkeypatch: pytest.MonkeyPatch, needed: bool, level: str) -> None:
    monkeypatch.setattr(mindspore.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(mindspore, "installed_version", lambda name: None)
    first, *rest = mindspore.check_mindspore({}, needed=needed, ascend=False)
    assert first.level == level
    assert first.fix == "pip install 'qvl-core[mindspore]'"
    assert {row.level for row in rest} == {"skipped"}
    assert "pairs with your CANN" in mindspore.check_mindspore({}, needed=needed, ascend=True)[0].fix


def test_a_c_library_older_than_the_wheel_needs(tmp_path: Path) -> None:
    assert mindspore.check_libstdcxx([tmp_path]).level == "skipped"
    (tmp_path / "libstdc++.so.6").write_bytes(b"GLIBCXX_3.4.25")
    row = mindspore.check_libstdcxx([tmp_path])
    assert (row.level, "libstdcxx-ng" in row.fix) == ("warn", True)
    (tmp_path / "libstdc++.so.6").write_bytes(b"GLIBCXX_3.4.25\0GLIBCXX_3.4.26\0")
    assert mindspore.check_libstdcxx([tmp_path]).level == "ok"


def _ends_with(stderr: str) -> Runner:
    return lambda command, environment, deadline_s: subprocess.CompletedProcess(command, 1, "", stderr)


def test_an_npu_that_does_not_compute_is_explained_where_the_message_is_known() -> None:
    text = "Traceback\nRuntimeError: libge_runner.so: cannot open shared object file: No such file or directory\n"
    row = mindspore.check_device_run({}, _ends_with(text))
    assert (row.check, row.level) == ("npu-run", "fail")
    assert "set_env.sh" in row.fix
    other = mindspore.check_device_run({}, _ends_with("RuntimeError: something new"))
    assert other.evidence == "RuntimeError: something new"


def test_an_npu_that_computes() -> None:
    seen = []

    def run(command, environment: object, deadline_s: float) -> subprocess.CompletedProcess[str]:
        seen.append(command[-1])
        return subprocess.CompletedProcess(command, 0, "ok", "")

    assert mindspore.check_device_run({}, run).level == "ok"
    assert 'set_device("Ascend")' in seen[0]

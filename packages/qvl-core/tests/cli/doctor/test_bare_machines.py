"""The doctor as a program where things lack: no MindSpore, one of another machine, a CANN that does not pair."""

from __future__ import annotations

import json
import platform
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

OTHER = {"x86_64": 0xB7, "aarch64": 0x3E}
# Hides packages as if they were not installed: neither importable nor in the metadata.
HIDDEN = """
import sys
from importlib import metadata
GONE = {gone!r}
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in GONE:
            raise ModuleNotFoundError(name)
        return None
sys.meta_path.insert(0, Blocker())
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name.split(".")[0] in GONE else real(name, package)
version = metadata.version
def gone(name):
    if name.replace("-", "_").lower() in GONE:
        raise metadata.PackageNotFoundError(name)
    return version(name)
metadata.version = gone
entries = metadata.entry_points
metadata.entry_points = lambda **by: [entry for entry in entries(**by) if entry.value.split(".")[0] not in GONE]
from qvl_core.cli.app import main
sys.exit(main(["doctor", "--json", *sys.argv[1:]]))
"""
ABSENT = ("mindspore", "qvl_train", "qvl_eval", "qvl_data", "qvl_convert", "mpi4py", "av", "PIL", "pillow")


def _doctor(folder: Path, gone: tuple[str, ...], *words: str, **variables: str) -> tuple[int, dict[str, Any]]:
    paths = [str(folder), *(path for path in sys.path if path)]
    environment = {"PYTHONPATH": ":".join(paths), "HOME": str(folder), "PATH": str(folder / "bin"), **variables}
    done = subprocess.run(
        [sys.executable, "-c", HIDDEN.format(gone=gone), *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.stdout, done.stderr
    return done.returncode, {row["check"]: row for row in json.loads(done.stdout)}


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    """A folder with a `mindspore` whose extension was built for the other architecture."""
    package = tmp_path / "mindspore"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('never imported by the doctor itself')")
    machine = OTHER.get(platform.machine(), 0xB7)
    head = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 3, machine)
    (package / "_c_expression.cpython-311-linux-gnu.so").write_bytes(head + bytes(64))
    return tmp_path


def test_where_nothing_is_installed_every_row_says_what_to_do_and_nothing_fails(tmp_path: Path) -> None:
    code, rows = _doctor(tmp_path, ABSENT)
    assert rows["mindspore"]["level"] == "warn"
    assert "pip install" in rows["mindspore"]["fix"]
    assert rows["mindspore-run"]["level"] == "skipped"
    assert rows["qvl-train"]["level"] == "skipped"
    assert rows["starters"]["level"] == "warn"
    assert not [row for row in rows.values() if row["level"] == "fail" and row["check"] != "requirements"]
    assert code in (0, 3)


@pytest.mark.parametrize(("module", "level"), [("ctypes", "fail"), ("ssl", "warn"), ("sqlite3", "ok")])
def test_a_python_that_was_built_without_a_module_is_one_row(tmp_path: Path, module: str, level: str) -> None:
    (tmp_path / f"{module}.py").write_text(f"raise ImportError('No module named _{module}', name='_{module}')\n")
    code, rows = _doctor(tmp_path, (*ABSENT, "httpcore2", "pyarrow", "uvicorn"))
    assert rows["python"]["level"] == level
    assert (f"it lacks {module}" in rows["python"]["evidence"]) == (level != "ok")
    failed = [name for name, row in rows.items() if row["level"] == "fail" and name != "requirements"]
    assert failed == (["python"] if level == "fail" else [])
    assert code == (3 if any(row["level"] == "fail" for row in rows.values()) else 0)
    assert not [row for row in rows.values() if "could not be looked at" in row["evidence"]]


def test_a_mindspore_of_another_architecture_fails_before_it_is_imported(stranger: Path) -> None:
    code, rows = _doctor(stranger, ("qvl_train", "qvl_eval"))
    assert rows["mindspore-wheel"]["level"] == "fail"
    assert "this machine is" in rows["mindspore-wheel"]["evidence"]
    assert rows["mindspore-run"]["level"] == "skipped"
    assert code == 3


def test_a_cann_that_does_not_pair_fails_with_the_pair(stranger: Path) -> None:
    (stranger / "mindspore-2.7.2.dist-info").mkdir()
    (stranger / "mindspore-2.7.2.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: mindspore\nVersion: 2.7.2\n"
    )
    cann = stranger / "cann"
    (cann / "opp").mkdir(parents=True)
    (cann / "version.cfg").write_text("version=8.2.RC1\n")
    code, rows = _doctor(stranger, ("qvl_train", "qvl_eval"), ASCEND_HOME_PATH=str(cann))
    assert rows["cann-pair"]["level"] == "fail"
    assert "MindSpore 2.7.2 pairs with CANN 8.5.0 and driver 25.5.0" in rows["cann-pair"]["fix"]
    assert rows["npu-devices"]["level"] == "fail"
    assert code == 3

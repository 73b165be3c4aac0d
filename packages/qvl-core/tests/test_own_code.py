"""Code that somebody changed has another digest; the same code in another place has the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import qvl_core
from qvl_core.own_code import PACKAGES, code_digests, digest_of_code


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "package"
    (folder / "inner").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "inner" / "a.py").write_text("one = 1\n")
    return folder


def test_every_package_that_is_installed_has_a_digest_of_its_own() -> None:
    found = code_digests()
    assert found["qvl-core"] == digest_of_code(Path(qvl_core.__file__).parent)
    assert set(found) <= set(PACKAGES)
    assert len(set(found.values())) == len(found)
    assert code_digests() == found


def test_the_place_and_what_is_no_code_do_not_count(package: Path, tmp_path: Path) -> None:
    before = digest_of_code(package)
    shutil.copytree(package, tmp_path / "elsewhere")
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "a.cpython-311.pyc").write_bytes(b"x")
    (package / "notes.txt").write_text("x")
    # As an editor leaves beside a file that is open.
    (package / ".#a.py").symlink_to("somebody@host.1234")
    assert digest_of_code(package) == before == digest_of_code(tmp_path / "elsewhere")


@pytest.mark.parametrize("change", ["edit", "rename", "add", "delete", "move a line to another file"])
def test_a_change_is_another_digest(package: Path, change: str) -> None:
    before = digest_of_code(package)
    a = package / "inner" / "a.py"
    if change == "edit":
        a.write_text("one = 2\n")
    elif change == "rename":
        a.rename(package / "inner" / "b.py")
    elif change == "add":
        (package / "inner" / "b.py").touch()
    elif change == "delete":
        a.unlink()
    else:
        a.write_text("")
        (package / "__init__.py").write_text("one = 1\n")
    assert digest_of_code(package) != before

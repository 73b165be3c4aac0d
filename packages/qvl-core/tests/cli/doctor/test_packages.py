"""Versions, ranges, our packages, plug-ins."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from qvl_core.cli import plugins
from qvl_core.cli.doctor import packages, versions
from qvl_core.cli.doctor.versions import Requirement, release, satisfies


@pytest.mark.parametrize(
    ("version", "ranges", "inside"),
    [
        ("0.1.0", ">=0.1,<0.2", True),
        ("0.2.0", ">=0.1,<0.2", False),
        ("0.2", "<0.2.0", False),
        ("1.26.4", ">=1.24,<2", True),
        ("2.0.0rc1", "<2", False),
        ("2.7.1.post1", ">=2.7.0", True),
        ("2.7.1", "==2.7.*", True),
        ("2.8.0", "!=2.8.*", False),
        ("1.4.9", "~=1.4.2", True),
        ("1.5.0", "~=1.4.2", False),
        ("1.0", "", True),
        ("3", ">2,<=3,!=4", True),
    ],
)
def test_ranges(version: str, ranges: str, inside: bool) -> None:
    assert satisfies(version, ranges) is inside


def test_release_numbers() -> None:
    assert release("2.7.1.post1") == (2, 7, 1)
    assert release("unknown") == ()


def test_requirements_leave_out_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["numpy<2,>=1.24", "qvl-core[mindspore]>=0.1", 'mindspore>=2.7; extra == "mindspore"', "dill (>=0.3)"]
    monkeypatch.setattr(versions.metadata, "requires", lambda name: lines)
    assert list(versions.requirements_of("x")) == [
        Requirement(name="numpy", ranges="<2,>=1.24"),
        Requirement(name="qvl-core", ranges=">=0.1"),
        Requirement(name="dill", ranges=">=0.3"),
    ]


@pytest.mark.parametrize(
    ("folder", "content", "name"),
    [
        ("numpy-1.26.4.dist-info", None, "numpy==1.26.4"),
        ("mindspore-2.7.2.dist-info", b"\xff\xfe\x00", "mindspore==2.7.2"),
        ("qvl_core-0.1.0.dist-info", b"Metadata-Version: 2.1\nName: qvl-core\n", "qvl-core==0.1.0"),
        ("pydantic-.dist-info", b"", "'pydantic>=2.7'"),
    ],
)
def test_what_a_cut_off_installation_leaves_is_one_row_with_what_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, content: bytes | None, name: str
) -> None:
    (tmp_path / folder).mkdir()
    if content is not None:
        (tmp_path / folder / "METADATA").write_bytes(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    with monkeypatch.context() as patch:
        required = [Requirement(name="pydantic", ranges=">=2.7"), Requirement(name="numpy", ranges="<2")]
        patch.setattr(packages, "requirements_of", lambda name: iter(required if name == "qvl-core" else ()))
        row = packages.check_metadata((tmp_path,))
    assert (row.level, row.evidence) == ("fail", f"cannot be read: {tmp_path / folder}")
    assert row.fix == f"rm -r {tmp_path / folder}; pip install --no-deps --force-reinstall {name}"
    bare = re.split("[=>]", name.strip("'"))[0]
    assert versions.installed_version(bare) == ""
    assert list(versions.requirements_of(bare)) == []
    assert packages.check_requirements().level == "ok"
    assert packages.check_copies().level == "ok"


def test_what_another_installer_has_laid_down_is_named_and_let_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign, own = tmp_path / "cann" / "python", tmp_path / "lib" / "site-packages"
    (foreign / "te-0.4.0.dist-info").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(foreign))
    row = packages.check_metadata()
    assert (row.level, row.evidence) == ("warn", f"cannot be read: {foreign / 'te-0.4.0.dist-info'}")
    assert row.fix
    assert not [word for word in ("rm ", "pip install", "te==") if word in row.fix]
    # Beside one of this environment, which may be reached by a link, that one alone is replaced.
    (own / "rich-13.7.0.dist-info").mkdir(parents=True)
    (tmp_path / "lib64").symlink_to(tmp_path / "lib")
    monkeypatch.syspath_prepend(str(own))
    row = packages.check_metadata((tmp_path / "lib64" / "site-packages",))
    assert "te-0.4.0" in row.evidence
    assert row.fix == f"rm -r {own}/rich-13.7.0.dist-info; pip install --no-deps --force-reinstall rich==13.7.0"


@pytest.mark.parametrize("required", ["tensorboardX", "Tensor_Board.X", "tensor.board-x"])
def test_names_are_one_however_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, required: str) -> None:
    folder = f"{required.replace('-', '_')}-2.6.2.dist-info"
    (tmp_path / folder).mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(packages, "requirements_of", lambda name: iter([Requirement(name=required, ranges="")]))
    assert packages.check_metadata((tmp_path,)).level == "fail"


def test_what_is_not_installed_requires_nothing() -> None:
    assert list(versions.requirements_of("a-package-that-nobody-has")) == []


def test_what_pip_moved_aside_counts_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leftover = tmp_path / "~vl_core-0.0.9.dist-info"
    leftover.mkdir()
    (leftover / "METADATA").write_text("Metadata-Version: 2.1\nName: qvl-core\nVersion: 0.0.9\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert packages.check_metadata().level == "ok"
    assert packages.check_copies().level == "ok"


def _pretend(monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], required: list[Requirement]) -> None:
    monkeypatch.setattr(packages, "installed_version", installed.get)
    monkeypatch.setattr(packages, "requirements_of", lambda name: iter(required if name == "qvl-core" else ()))


def test_a_requirement_out_of_range_or_missing_fails_with_the_exact_line(monkeypatch: pytest.MonkeyPatch) -> None:
    required = [Requirement(name="numpy", ranges="<2"), Requirement(name="rich", ranges=">=13")]
    _pretend(monkeypatch, {"qvl-core": "0.1.0", "numpy": "2.1.0"}, required)
    row = packages.check_requirements()
    assert row.level == "fail"
    assert row.evidence == "qvl-core needs numpy<2, found 2.1.0; qvl-core needs rich>=13, which is not installed"
    assert row.fix == "pip install 'numpy<2' 'rich>=13'"
    _pretend(monkeypatch, {"qvl-core": "0.1.0", "numpy": "1.26.4", "rich": "13.7"}, required)
    assert packages.check_requirements().level == "ok"


def test_a_package_that_is_not_there_is_named_with_what_it_brings(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, {"qvl-core": "0.1.0"}, [])
    rows = {row.check: row for row in packages.check_packages()}
    assert rows["qvl-core"].level == "ok"
    assert (rows["qvl-train"].level, rows["qvl-train"].fix) == ("skipped", "pip install qvl-train")


def test_broken_plug_ins_fail_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = plugins.Loaded(plugins=(), broken={"convert": ("qvl-convert", "ImportError: x")})
    monkeypatch.setattr(plugins, "load_plugins", lambda *_, **__: broken)
    row = packages.check_plugins()
    assert (row.level, row.fix) == ("fail", "pip install --force-reinstall qvl-convert")
    monkeypatch.setattr(plugins, "load_plugins", lambda *_, **__: plugins.Loaded(plugins=(), broken={}))
    assert packages.check_plugins().level == "ok"


@pytest.mark.parametrize(("task", "name"), [("sft", "qvl-train"), ("eval", "qvl-eval"), ("infer", "qvl-eval")])
def test_what_a_recipe_runs_with_has_to_be_there(monkeypatch: pytest.MonkeyPatch, task: str, name: str) -> None:
    monkeypatch.setattr(packages, "installed_version", lambda asked: "0.1.0" if asked == "qvl-core" else None)
    failed = [row for row in packages.check_packages(task) if row.level == "fail"]
    assert [(row.check, row.fix) for row in failed] == [(name, f"pip install {name}")]
    monkeypatch.setattr(packages, "installed_version", lambda _: "0.1.0")
    assert {row.level for row in packages.check_packages(task)} == {"ok"}

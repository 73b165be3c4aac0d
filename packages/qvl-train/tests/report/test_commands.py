"""`qvl report` and `qvl diff` as they are typed: what they write, what they say, and their exit codes."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import tomli
import typer
from qvl_core import disk
from qvl_core.cli.boundary import guarded
from qvl_core.cli.plugins import COMMAND_PACKAGES
from qvl_train.commands import diff, report
from run_folders import HOSTILE, record, rows, write_run


@dataclass(frozen=True, kw_only=True)
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def qvl(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    app = typer.Typer(pretty_exceptions_enable=False)
    report.register(app)
    diff.register(app)
    application = typer.main.get_command(app)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words: object) -> Result:
        code = guarded(lambda: application([*map(str, words)], prog_name="qvl", standalone_mode=False) or 0)
        found = capsys.readouterr()
        return Result(code=code, out=found.out, err=found.err)

    return call


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    first = write_run(tmp_path / "a", rows(range(1, 41)), content=record())
    second = write_run(tmp_path / "b", rows(range(1, 31)), content=record({"train.seed": 7}, run_id="another"))
    return [first, second]


def test_package_registers_the_commands_that_the_core_says_it_has() -> None:
    content = tomli.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    entries = content["project"]["entry-points"]["qvl.commands"]
    assert set(entries) == {name for name, package in COMMAND_PACKAGES.items() if package == "qvl-train"}


def test_report_writes_into_the_folder_and_over_its_own_page(qvl: Callable[..., Result], runs: list[Path]) -> None:
    for _ in range(2):
        found = qvl("report", runs[0])
        assert (found.code, found.err) == (0, "")
        assert found.out.startswith(f"{runs[0]}/report.html: ")
    assert "<h2>Loss</h2>" in (runs[0] / "report.html").read_text(encoding="utf-8")


def test_report_of_several_goes_where_the_command_was_typed(
    qvl: Callable[..., Result], runs: list[Path], tmp_path: Path
) -> None:
    found = qvl("report", *runs)
    assert (found.code, found.err) == (0, "")
    assert "What differs: a and b" in (tmp_path / "comparison.html").read_text(encoding="utf-8")


def test_report_leaves_other_peoples_files(qvl: Callable[..., Result], runs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "mine.html").write_text("mine")
    found = qvl("report", runs[0], "--out", tmp_path / "mine.html")
    assert found.code == 2
    assert "not a page of `qvl report`" in found.err
    assert (tmp_path / "mine.html").read_text() == "mine"
    assert qvl("report", runs[0], "--out", tmp_path / "mine.html", "--overwrite").code == 0


def test_a_page_that_cannot_be_written_beside_a_run_goes_elsewhere(
    qvl: Callable[..., Result], runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = disk.create

    def read_only(path: Path, mode: int) -> int:
        if path.parent == runs[0]:
            raise PermissionError(errno.EACCES, "Permission denied")
        return create(path, mode)

    monkeypatch.setattr(disk, "create", read_only)
    found = qvl("report", runs[0])
    assert found.code == 2
    assert found.err.splitlines()[0] == str(runs[0] / "report.html")
    assert "--out FILE" in found.err
    assert qvl("report", runs[0], "--out", tmp_path / "mine.html").code == 0


def test_report_says_what_is_missing_and_is_written_all_the_same(qvl: Callable[..., Result], tmp_path: Path) -> None:
    folder = write_run(tmp_path / "half", [*rows([1, 2, 3, 9]), '{"step": 10, "lo'], content='{"format": 1, "re')
    found = qvl("report", folder)
    assert found.code == 0
    assert "run.json cannot be used" in found.err
    assert "ends in the middle of a row" in found.err
    assert "Without numbers: steps 4 to 8" in found.err


@pytest.mark.parametrize("command", [("report",), ("diff",)])
def test_folders_that_no_run_has_written_to_are_wrong_input(
    qvl: Callable[..., Result], command: tuple[str], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    found = qvl(*command, tmp_path / "empty", tmp_path / "nothing")
    assert found.code == 2
    assert "it has neither run.json nor metrics.jsonl" in found.err
    assert "there is no such folder" in found.err
    assert "2 problems" in found.err
    assert "Traceback" not in found.err


def test_report_refuses_a_run_twice_and_a_file_of_a_watched_page(qvl: Callable[..., Result], runs: list[Path]) -> None:
    twice = qvl("report", runs[0], runs[0].parent / "b" / ".." / "a")
    assert (twice.code, "is named twice" in twice.err) == (2, True)
    both = qvl("report", runs[0], "--watch", "--out", "x.html")
    assert (both.code, "leave one of the two out" in both.err) == (2, True)


def test_ctrl_c_ends_a_watched_page_at_any_time(
    qvl: Callable[..., Result], runs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    echo = typer.echo

    def interrupted(text: str) -> None:
        echo(text)
        if "Ctrl-C ends it" in text:
            raise KeyboardInterrupt

    monkeypatch.setattr(typer, "echo", interrupted)
    found = qvl("report", runs[0], "--watch", "--port", 0)
    assert (found.code, found.out.splitlines()[1:], found.err) == (0, ["ended"], "")


def test_a_link_that_leads_to_itself_is_no_folder(qvl: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert qvl("report", tmp_path / "loop").code == 2


def test_diff_tells_people(qvl: Callable[..., Result], runs: list[Path]) -> None:
    found = qvl("diff", *runs)
    assert (found.code, found.err) == (0, "")
    assert "The runs compute different things, by 1 difference: train.seed." in found.out
    assert "Losses are equal to the bit in all 30 steps that both runs have." in found.out
    assert "other numbers: another order of samples" in found.out


def test_diff_tells_programs(qvl: Callable[..., Result], runs: list[Path]) -> None:
    content = json.loads(qvl("diff", *runs, "--format", "json").out)
    assert [(one["key"], one["a"], one["b"]) for one in content["differences"]] == [("train.seed", "42", "7")]


def test_what_a_folder_holds_moves_no_terminal(qvl: Callable[..., Result], tmp_path: Path) -> None:
    write_run(tmp_path / "plain", rows([1]), content=record())
    odd = write_run(
        tmp_path / "odd\x1b[2J", [*rows([1]), {"step": 1, "save_failed": HOSTILE}], content=record({HOSTILE: "\udc80"})
    )
    for found in (qvl("report", odd), qvl("diff", tmp_path / "plain", odd), qvl("diff", odd, odd, "--format", "json")):
        assert found.code == 0
        assert "\x1b" not in (found.err + found.out).replace(str(odd), "")


def test_diff_of_runs_of_another_version_goes_as_far_as_it_can(qvl: Callable[..., Result], tmp_path: Path) -> None:
    old = write_run(tmp_path / "old", rows([1]), content={**record(), "format": 0})
    new = write_run(tmp_path / "new", rows([1]), content=record({"train.seed": 7}))
    found = qvl("diff", old, new)
    assert found.code == 0
    assert "A: run.json has format 0; this version knows 1" in found.out
    assert "train.seed" in found.out


def test_reports_and_differences_need_no_framework(runs: list[Path], tmp_path: Path) -> None:
    code = (
        "import sys, typer\n"
        "for name in ('mindspore', 'torch', 'transformers', 'tensorboardX', 'PIL', 'av'): sys.modules[name] = None\n"
        "from qvl_train.commands import diff, report\n"
        "app = typer.Typer()\n"
        "report.register(app); diff.register(app)\n"
        "app(sys.argv[1:])\n"
    )
    for words in (["report", str(runs[0])], ["diff", *map(str, runs)]):
        subprocess.run([sys.executable, "-c", code, *words], check=True, cwd=tmp_path, capture_output=True)

"""`qvl data convert`: what is typed reaches the conversion, and what went wrong ends with exit 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from data_files import llava, write_records
from qvl_core.cli.boundary import guarded
from qvl_data.commands import register
from typer.testing import CliRunner


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    register(app)
    # One more command, or typer would take the group for the application itself.
    app.command("other")(lambda: None)
    return app


def run(app: typer.Typer, *args: object) -> int:
    command = typer.main.get_command(app)

    def action() -> int:
        command.main([str(each) for each in args], standalone_mode=False)
        return 0

    return guarded(action)


def test_writes_and_says_how_many(app: typer.Typer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = write_records(tmp_path / "in.json", [llava("<image>a", "b", "x.jpg"), llava("a", "b")])
    assert run(app, "data", "convert", given, tmp_path / "out.jsonl", "--media-prefix", "train") == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out.jsonl'}: 2 records written\n"
    first = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
    assert first["images"] == ["train/x.jpg"]


def test_reads_other_formats_and_names(app: typer.Typer, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": [{"type": "text", "text": "b"}]}]
    given = write_records(tmp_path / "in.json", [{"dialog": messages}])
    out = tmp_path / "out.json"
    assert run(app, "data", "convert", given, out, "--format", "openai", "--tag", "messages=dialog") == 0
    assert json.loads(out.read_text())[0]["messages"][1] == {"role": "assistant", "content": "b"}
    assert run(app, "data", "convert", given, out, "--format", "openai", "--tag", "messages=dialog") == 2
    assert run(app, "data", "convert", given, out, "--format", "openai", "--tag", "messages=dialog", "--overwrite") == 0


@pytest.mark.parametrize("tag", ["messages", "message=x", "=x", "messages="])
def test_refuses_a_tag_that_is_none(app: typer.Typer, tmp_path: Path, tag: str) -> None:
    given = write_records(tmp_path / "in.json", [llava("a", "b")])
    assert run(app, "data", "convert", given, tmp_path / "out.json", "--tag", tag) == 2
    assert not (tmp_path / "out.json").exists()


def test_broken_records_end_with_exit_2_and_their_lines(
    app: typer.Typer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = write_records(tmp_path / "in.json", [llava("a", "b"), llava("<image>", "b")])
    assert run(app, "data", "convert", given, tmp_path / "out.json") == 2
    assert f"{given}:3: record 1" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


def test_the_group_shows_its_commands() -> None:
    app = typer.Typer()
    register(app)
    app.command("other")(lambda: None)
    shown = CliRunner().invoke(app, ["data"])
    assert "convert" in shown.output

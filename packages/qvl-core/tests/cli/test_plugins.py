"""Commands of other packages: loaded, missing, too old, broken."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from types import SimpleNamespace

import pytest
import typer
from qvl_core.cli.plugins import COMMAND_GROUP, COMMAND_PACKAGES, load_plugins


class FakeEntry:
    """An entry point whose load gives the function, or raises it."""

    def __init__(self, name: str, value: Callable[[typer.Typer], None] | Exception, package: str = "qvl-other") -> None:
        self.name, self.value, self.group = name, f"{package}:register", COMMAND_GROUP
        self.dist = SimpleNamespace(name=package)
        self._loaded = value

    def load(self) -> Callable[[typer.Typer], None]:
        if isinstance(self._loaded, Exception):
            raise self._loaded
        return self._loaded


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch):
    """Pretend that these entry points and versions are all that is installed."""

    def pretend(*entries: FakeEntry, versions: dict[str, str] | None = None) -> None:
        known = versions or {}

        def version(name: str) -> str:
            if name not in known:
                raise metadata.PackageNotFoundError(name)
            return known[name]

        monkeypatch.setattr(metadata, "entry_points", lambda **_: tuple(entries))
        monkeypatch.setattr(metadata, "version", version)

    return pretend


def _hello(app: typer.Typer) -> None:
    @app.command("hello")
    def hello() -> int:
        """Say hello."""
        print("hello")
        return 7


def _convert(app: typer.Typer) -> None:
    group = typer.Typer(help="Convert.")

    @group.command()
    def verify() -> None:
        print("equal")

    @group.command()
    def export() -> None:
        print("exported")

    app.add_typer(group, name="convert")


def test_a_plug_ins_command_runs_and_gives_its_exit_code(qvl, installed) -> None:
    installed(FakeEntry("hello", _hello))
    result = qvl("hello")
    assert (result.code, result.out) == (7, "hello\n")


def test_a_plug_in_may_bring_a_group_of_commands(qvl, installed) -> None:
    installed(FakeEntry("convert", _convert))
    assert qvl("convert", "verify").out == "equal\n"
    assert "export" in qvl("convert", "--help").out


@pytest.mark.parametrize(("command", "package"), sorted(COMMAND_PACKAGES.items()))
def test_a_missing_command_names_its_package_and_ends_with_3(qvl, installed, command: str, package: str) -> None:
    installed()
    result = qvl(command, "--some", "words")
    assert result.code == 3
    assert f"`qvl {command}` comes with the package {package}, which is not installed" in result.err
    assert f"fix: pip install {package}" in result.err


def test_an_installed_package_that_lacks_the_command_is_said_to_be_too_old(qvl, installed) -> None:
    installed(versions={"qvl-eval": "0.1.0"})
    result = qvl("serve")
    assert result.code == 3
    assert "belongs to qvl-eval; the version installed here, 0.1.0, does not have it yet" in result.err


def test_a_broken_plug_in_breaks_neither_help_nor_other_commands(qvl, installed) -> None:
    installed(FakeEntry("broken", RuntimeError("no such\nlibrary"), "qvl-broken"), FakeEntry("hello", _hello))
    result = qvl("--help")
    assert result.code == 0
    assert "hello" in result.out
    assert "qvl: warning: `qvl broken` of the package qvl-broken does not load: RuntimeError: no such" in result.err
    assert qvl("check", "missing.toml").err == ""


def test_calling_the_broken_command_itself_ends_with_3_and_says_why(qvl, installed) -> None:
    installed(FakeEntry("broken", ImportError("cannot import name 'x'"), "qvl-broken"))
    result = qvl("broken")
    assert result.code == 3
    assert "ImportError: cannot import name 'x'" in result.err
    assert "fix: pip install --force-reinstall qvl-broken" in result.err
    assert "warning" not in result.err


def test_a_plug_in_cannot_replace_a_command(installed, capsys) -> None:
    def check(app: typer.Typer) -> None:
        app.command("check")(lambda: None)

    installed(FakeEntry("check", check), FakeEntry("hello", _hello))
    loaded = load_plugins(("check",))
    assert loaded.names == {"hello"}
    assert "brings the command check, which is there already" in loaded.broken["check"][1]


def test_a_plug_in_with_a_signature_that_cannot_be_built_is_broken_alone(installed) -> None:
    def register(app: typer.Typer) -> None:
        @app.command("odd")
        def odd(value: NoSuchName) -> None:  # noqa: F821 (that is the fault)
            pass

    installed(FakeEntry("odd", register), FakeEntry("hello", _hello))
    loaded = load_plugins((), quiet=True)
    assert loaded.names == {"hello"}
    assert set(loaded.broken) == {"odd"}


def test_the_help_text_names_the_packages_that_are_missing(qvl, installed) -> None:
    installed(FakeEntry("convert", _convert), versions={"qvl-core": "0.1.0", "qvl-convert": "0.1.0"})
    out = " ".join(qvl("--help").out.split())
    assert "pip install qvl-eval: infer, chat, serve, score, eval" in out
    assert "pip install qvl-convert" not in out

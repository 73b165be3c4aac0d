"""The application `qvl`: its commands, those of other packages, and the one place where errors become text."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Annotated

import typer

from qvl_core.cli import boundary

if TYPE_CHECKING:
    from qvl_core.cli.plugins import Plugin

HELP = """Fine-tune, convert, run and evaluate Qwen2.5-VL on MindSpore, from one recipe.

Exit codes: 0 done, 1 failed while running, 2 the input is wrong, 3 something needed is not installed,
130 interrupted."""

# In the order of the help text. Each is a module of qvl_core.cli.commands, imported when its command is needed.
CORE_COMMANDS = ("run", "check", "show", "plan", "recipes", "schema", "migrate", "doctor")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and give its exit code; the entry point of `qvl`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # Plug-ins of pydantic watch other people's models; looking for some reads the metadata of every package installed.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")
    words, debug = take_debug(given)
    with _without_collector():
        return boundary.guarded(lambda: _dispatch(words, debug), debug=debug)


def build_app(names: Collection[str], found: Sequence[Plugin] = (), *, epilog: str = "") -> typer.Typer:
    """Make the application with those of our own commands that are named, and those of the plug-ins."""
    app = typer.Typer(
        name="qvl",
        help=HELP,
        epilog=epilog,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["--help", "-h"]},
    )
    app.callback()(_options)
    for name in names:
        import_module(f"qvl_core.cli.commands.{name}").register(app)
    for plugin in found:
        app.registered_commands += plugin.app.registered_commands
        app.registered_groups += plugin.app.registered_groups
    return app


def take_debug(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """Take `--debug` out of a command line, wherever it stands before a `--`."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    before = [word for word in arguments[:end] if word != "--debug"]
    return [*before, *arguments[end:]], len(before) < end


def _dispatch(words: list[str], debug: bool) -> int:
    command = next((word for word in words if not word.startswith("-")), None)
    # Of our own commands only the one that is called: reading the signatures of all takes longer than the recipe.
    app = build_app((command,)) if command and command in CORE_COMMANDS else _full_app(command, debug)
    result = app(words or ["--help"], prog_name="qvl", standalone_mode=False, obj=debug)
    # A command gives its exit code, or None for 0. True is no exit code.
    return result if isinstance(result, int) and not isinstance(result, bool) else 0


def _full_app(command: str | None, debug: bool) -> typer.Typer:
    """Make the application for the help text and for commands of other packages.

    Raises NotInstalledError for a command whose package is missing, broken, or too old.
    """
    from qvl_core.cli import plugins

    loaded = plugins.load_plugins(CORE_COMMANDS, command, debug=debug)
    if command is not None and command not in loaded.names:
        plugins.refuse_missing(command, loaded)
    gc.enable()
    return build_app(CORE_COMMANDS, loaded.plugins, epilog=plugins.epilog(loaded.plugins))


@contextmanager
def _without_collector() -> Iterator[None]:
    """Keep the garbage collector off while our own commands start: they make many objects, and all of them stay.

    An eighth of the time of `qvl check`. Whatever runs longer turns it on again: tasks, and other packages' commands.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"qvl-core {version('qvl-core')}")
        raise typer.Exit(0)


def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error. May stand anywhere on the line.")
    ] = False,
) -> None:
    """Hold the options that every command has; `--debug` is taken out before typer sees it."""

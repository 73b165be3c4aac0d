"""Commands of other packages: found through the entry point group `qvl.commands`, loaded one by one.

An entry point is named after its command; its value is a function `register(app: typer.Typer) -> None` in a module
that imports little. A package that fails to load costs its own command and a warning, nothing else.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import typer

from qvl_core.errors import NotInstalledError

if TYPE_CHECKING:
    from importlib import metadata

COMMAND_GROUP = "qvl.commands"

# Every command of the design that qvl-core does not bring itself, and the package that does.
COMMAND_PACKAGES = {
    "convert": "qvl-convert",
    "data": "qvl-data",
    "infer": "qvl-eval",
    "chat": "qvl-eval",
    "serve": "qvl-eval",
    "score": "qvl-eval",
    "eval": "qvl-eval",
    "report": "qvl-train",
    "diff": "qvl-train",
}


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """The commands that one entry point registered, in an application of their own."""

    name: str
    package: str
    app: typer.Typer


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """All plug-ins that loaded, and for each that did not, its command, package and error."""

    plugins: tuple[Plugin, ...]
    broken: dict[str, tuple[str, str]]

    @property
    def names(self) -> set[str]:
        return {name for plugin in self.plugins for name in command_names(plugin.app)}


def load_plugins(
    reserved: Collection[str], wanted: str | None = None, *, debug: bool = False, quiet: bool = False
) -> Loaded:
    """Load the entry points: all of them, or the one named `wanted` if there is such a one.

    Says on stderr which ones are broken, unless `quiet`. A plug-in cannot replace a command of `reserved`, or one that
    was loaded before.
    """
    # Half the time that `import pydantic, typer` takes; our own commands need none of it.
    from importlib import metadata

    entries = sorted(metadata.entry_points(group=COMMAND_GROUP), key=lambda entry: entry.name)
    named = [entry for entry in entries if entry.name == wanted]
    plugins: list[Plugin] = []
    broken: dict[str, tuple[str, str]] = {}
    taken = set(reserved)
    for entry in named or entries:
        package = _package_of(entry)
        try:
            plugin = _load(entry, package, taken)
        except Exception as error:  # whatever another package's import does must not break qvl
            broken[entry.name] = (package, _one_line(error))
            if debug:
                traceback.print_exc()
            if entry.name != wanted and not quiet:
                print(f"qvl: warning: {_broken_text(entry.name, package, broken[entry.name][1])}", file=sys.stderr)
            continue
        taken |= set(command_names(plugin.app))
        plugins.append(plugin)
    return Loaded(plugins=tuple(plugins), broken=broken)


def command_names(app: typer.Typer) -> list[str]:
    """List the names of the commands and groups that were registered on an application."""
    commands = [
        command.name or (command.callback.__name__.replace("_", "-") if command.callback else "")
        for command in app.registered_commands
    ]
    return [*commands, *(str(group.name) for group in app.registered_groups)]


def refuse_missing(command: str, loaded: Loaded) -> None:
    """Raise NotInstalledError for a command that a package brings, or should have brought; return for unknown ones."""
    if command in loaded.broken:
        package, error = loaded.broken[command]
        text = _broken_text(command, package, error)
        raise NotInstalledError(f"{text}\n  fix: pip install --force-reinstall {package}")
    package = COMMAND_PACKAGES.get(command, "")
    if package:
        _refuse_known(command, package)


def epilog(found: Sequence[Plugin]) -> str:
    """Name, for the end of the help text, the packages that would bring more commands."""
    known = {name for plugin in found for name in command_names(plugin.app)}
    missing: dict[str, list[str]] = {}
    for command, package in COMMAND_PACKAGES.items():
        if command not in known and not _version(package):
            missing.setdefault(package, []).append(command)
    lines = [f"pip install {package}: {', '.join(commands)}" for package, commands in missing.items()]
    return "More commands with other packages:\n\n" + "\n\n".join(lines) if lines else ""


def _load(entry: metadata.EntryPoint, package: str, taken: Collection[str]) -> Plugin:
    app = typer.Typer()
    entry.load()(app)
    names = command_names(app)
    if not names:
        raise ValueError("registers no command")
    clash = sorted(set(names) & set(taken))
    if clash:
        raise ValueError(f"brings the command {clash[0]}, which is there already")
    # A wrong signature shows only when the command is built; build it here, where it breaks nothing else.
    typer.main.get_command(app)
    return Plugin(name=entry.name, package=package, app=app)


def _refuse_known(command: str, package: str) -> NoReturn:
    version = _version(package)
    if version:
        raise NotInstalledError(
            f"`qvl {command}` belongs to {package}; the version installed here, {version}, does not have it yet\n"
            f"  fix: pip install --upgrade {package}"
        )
    raise NotInstalledError(
        f"`qvl {command}` comes with the package {package}, which is not installed\n  fix: pip install {package}"
    )


def _package_of(entry: metadata.EntryPoint) -> str:
    return entry.dist.name if entry.dist else COMMAND_PACKAGES.get(entry.name, entry.value.split(".")[0])


def _version(package: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _broken_text(command: str, package: str, error: str) -> str:
    return f"`qvl {command}` of the package {package} does not load: {error}"


def _one_line(error: Exception) -> str:
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first[:300]}"

"""Help of all packages' commands, as it is shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer
from qvl_core.cli.app import CORE_COMMANDS, build_app
from qvl_core.cli.plugins import load_plugins
from rich.text import Text


def _texts(command: Any, name: str) -> Iterator[tuple[str, str]]:
    yield name, command.help or ""
    for parameter in command.params:
        yield f"{name} {parameter.name}", getattr(parameter, "help", None) or ""
    for word, inner in getattr(command, "commands", {}).items():
        yield from _texts(inner, f"{name} {word}")


def test_no_word_of_a_help_text_is_taken_for_markup() -> None:
    loaded = load_plugins(CORE_COMMANDS)
    group = typer.main.get_command(build_app(CORE_COMMANDS, loaded.plugins))
    texts = dict(_texts(group, "qvl"))
    if "qvl report" not in texts or "qvl eval compare" not in texts:
        pytest.fail("not all packages are installed")
    eaten = [place for place, text in texts.items() if Text.from_markup(text).plain != text]
    assert eaten == []

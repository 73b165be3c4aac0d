"""Lines from a terminal or a pipe; what several lines of a terminal are one question of.

In a terminal: a line with editing and the history of this conversation; lines pasted together are one question where
the line editor can tell (GNU readline, bracketed paste); lines between two lines of three quotes are one everywhere.
A pipe is read line by line, and nothing is written that is no answer.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import BinaryIO

import typer

PROMPT, PROMPT_INSIDE = "> ", "... "
_FENCE = '"""'


class NoTextError(ValueError):
    """A line that is not UTF-8."""


Line = str | NoTextError
"""A line, or why it is none."""


class _GivenUp:
    """What was typed was taken back."""


def lines(*, greeting: str) -> Iterator[Line]:
    """Give the lines of standard input until its end. Ctrl-C gives up what is typed, not the conversation."""
    if not sys.stdin.isatty():
        yield from joined(_piped(sys.stdin.buffer))
        return
    _prepare_editing()
    typer.echo(greeting)
    is_inside = False

    def typed() -> Iterator[Line | _GivenUp]:
        while True:
            line = _typed(PROMPT_INSIDE if is_inside else PROMPT)
            if line is None:
                return
            yield line

    def noting(inside: bool) -> None:
        nonlocal is_inside
        is_inside = inside

    yield from joined(typed(), noting)


def joined(source: Iterator[Line | _GivenUp], noting: Callable[[bool], None] = lambda _: None) -> Iterator[Line]:
    """Put the lines between three quotes and three quotes together. `noting` is told whether one is among them."""
    inside: list[str] | None = None
    for line in source:
        if isinstance(line, _GivenUp):
            inside = None
            noting(False)
            continue
        if isinstance(line, NoTextError):
            yield line
            continue
        text = line
        if inside is None:
            if not text.lstrip().startswith(_FENCE):
                yield text
                continue
            inside, text = [], text.lstrip()[len(_FENCE) :]
            noting(True)
        if text.rstrip().endswith(_FENCE):
            yield "\n".join([*inside, text.rstrip()[: -len(_FENCE)]])
            inside = None
            noting(False)
        else:
            inside.append(text)
    if inside:
        yield "\n".join(inside)


def _typed(prompt: str) -> Line | _GivenUp | None:
    """Give a line of the terminal, None at its end."""
    try:
        return input(prompt)
    except EOFError:
        typer.echo()
        return None
    except KeyboardInterrupt:
        typer.echo("\nCtrl-D leaves")
        return _GivenUp()
    except UnicodeDecodeError:
        return NoTextError()


def _piped(source: BinaryIO) -> Iterator[Line]:
    for line in source:
        try:
            yield line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            yield NoTextError()


def _prepare_editing() -> None:
    # Editing and history of the line that is typed; not every Python has it.
    with contextlib.suppress(ImportError):
        import readline

        if "libedit" not in (readline.__doc__ or ""):
            # Python turns it off on import; without it each line of a pasted text is a question of its own.
            readline.parse_and_bind("set enable-bracketed-paste on")

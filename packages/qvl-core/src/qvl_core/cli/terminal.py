"""Tables that fit a terminal, and stay whole when they are piped into a file or another program."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.console import Console

# A pipe has no width: rows get as long as they need.
_PIPE_WIDTH = 100_000


def console() -> Console:
    """Give a console on standard output that cuts nothing: it folds on a terminal, and has no width in a pipe."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    return Console(file=sys.stdout, width=width, highlight=False, soft_wrap=False, emoji=False, markup=False)


def print_table(
    target: Console,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Sequence[str] = (),
    whole: Sequence[str] = (),
) -> None:
    """Print a table. Columns named in `right` are set flush right, those in `whole` stay on one line.

    All others are folded where the terminal is too narrow; nothing is cut.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for column in columns:
        side: Literal["left", "right"] = "right" if column in right else "left"
        table.add_column(column, justify=side, overflow="fold", no_wrap=column in whole)
    for row in rows:
        table.add_row(*row)
    target.print(table)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Give rows as lines with aligned columns, two spaces apart, of any width: for `grep` and long tables."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def print_heading(target: Console, text: str) -> None:
    """Print a heading with a blank line above it."""
    target.print()
    target.print(text, style="bold")


def bytes_text(count: int) -> str:
    """Give a byte count in binary units with three or four digits: 16584333312 -> `15.4 GiB`."""
    size, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1000 and len(units) > 1:
        size /= 1024
        units.pop(0)
    return f"{count} B" if units[0] == "B" else f"{size:.{1 if size >= 10 else 2}f} {units[0]}"


def layers_text(layers: tuple[int, int]) -> str:
    """Give a half-open range of layers as people count it: (0, 12) -> `0-11 (12)`, an empty one -> `-`."""
    first, after = layers
    if first == after:
        return "-"
    return f"{first}-{after - 1} ({after - first})" if after - first > 1 else f"{first} (1)"

"""What a person sees of an evaluation: a bar while it runs, then the score against chance and a few rows."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from qvl_eval.score import Group, Scored, Scores

EXAMPLES = 5
LINES_IN_A_LOG = 10
_SHOWN_CHARACTERS = 60


class AnsweringProgress:
    """Show how many rows are answered and the time left. Use it as a context manager."""

    def __init__(self, console: Console, *, done: int, rows: int) -> None:
        self._console = console
        self._done = done
        self._rows = rows
        self._every = max(1, rows // LINES_IN_A_LOG)
        self._bar = Progress(
            TextColumn("[bold]answering"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("answering", total=rows, completed=done)

    def advance(self, rows: int) -> None:
        """Show that this many more rows are answered; off a terminal, about ten lines in all."""
        before, self._done = self._done, self._done + rows
        self._bar.advance(self._task, rows)
        crossed = before // self._every != self._done // self._every
        if not self._console.is_terminal and (crossed or self._done == self._rows):
            self._console.print(f"answered {self._done}/{self._rows} rows", highlight=False)

    def __enter__(self) -> AnsweringProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


def show_scores(console: Console, scores: Scores, rows: Sequence[Scored], *, title: str) -> None:
    """Print the table of accuracies, the sentence that sums it up, and example rows, wrong ones first."""
    console.print(f"{title} ({scores.benchmark}, rules {scores.rules})", highlight=False)
    table = Table()
    table.add_column("rows of")
    for name in ("rows", "right", "accuracy %"):
        table.add_column(name, justify="right")
    for group in scores.categories if len(scores.categories) > 1 else ():
        table.add_row(*_cells(group))
    table.add_section()
    table.add_row(*_cells(scores.overall), style="bold")
    table.add_row("chance", "", "", f"{scores.chance_percent:.1f}", style="dim")
    console.print(table)
    console.print(_examples(rows))
    overall = scores.overall
    empty = f"; {scores.empty_answers} answers were empty" if scores.empty_answers else ""
    console.print(
        f"accuracy {overall.accuracy_percent:.1f} % ({overall.right:g} of {overall.rows} questions); "
        f"chance is {scores.chance_percent:.1f} %{empty}",
        highlight=False,
    )


def _examples(rows: Sequence[Scored]) -> Table:
    wrong = [row for row in rows if row.score < 1][:EXAMPLES]
    right = [row for row in rows if row.score >= 1][: max(2, EXAMPLES - len(wrong))]
    table = Table(title="examples", title_justify="left")
    for name in ("row", "answered", "expected", ""):
        table.add_column(name)
    for row in (*wrong, *right):
        verdict = "right" if row.score >= 1 else "wrong"
        table.add_row(escape(row.index), _short(row.prediction), _short(row.answer), verdict)
    return table


def _cells(group: Group) -> tuple[str, str, str, str]:
    return escape(group.name), str(group.rows), f"{group.right:g}", f"{group.accuracy_percent:.1f}"


def _short(text: str) -> str:
    shown = "".join(char if char.isprintable() else " " for char in text[: _SHOWN_CHARACTERS + 1])
    return escape(shown if len(shown) <= _SHOWN_CHARACTERS else f"{shown[: _SHOWN_CHARACTERS - 3]}...")

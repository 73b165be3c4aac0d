"""What a person sees of an evaluation: a bar while it runs, then the scores and a few rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from qvl_eval.benchmarks.catalogue import Benchmark
    from qvl_eval.evaluation.conclusion import Conclusion
    from qvl_eval.score.judged import Judged
    from qvl_eval.score.summary import Group

EXAMPLES = 5
LINES_IN_A_LOG = 10
# Off a terminal a line comes at least this often, and other replicas' files are looked at this often.
SECONDS_BETWEEN_LINES = 60.0
SECONDS_BETWEEN_LOOKS = 2.0
_SHOWN_CHARACTERS = 60


class AnsweringProgress:
    """Show how many rows are answered and the time left. Use it as a context manager.

    The time left is what the rest takes at the pace since the start; rows that were done before do not count for it.
    """

    def __init__(
        self,
        console: Console,
        *,
        done: int,
        rows: int,
        shown: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console, self._clock = console, clock
        self._first = self._done = done
        self._rows = rows
        self._every = max(1, rows // LINES_IN_A_LOG)
        self._started = self._looked = self._told = clock()
        self._is_shown = shown
        self._bar = Progress(
            TextColumn("[bold]answering"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            disable=not (shown and console.is_terminal),
        )
        self._task = self._bar.add_task("answering", total=rows, completed=done)

    @property
    def is_due(self) -> bool:
        """Tell whether it is time to look at what others have done."""
        return self._clock() - self._looked > SECONDS_BETWEEN_LOOKS

    def advance(self, rows: int) -> None:
        """Show that this many more rows are answered."""
        self.show(self._done + rows)

    def show(self, done: int) -> None:
        """Show that this many rows are answered in all; off a terminal, about ten lines, or one a minute."""
        before, self._done = self._done, done
        now = self._looked = self._clock()
        self._bar.update(self._task, completed=done)
        if not self._is_shown or self._console.is_terminal or done == before:
            return
        crossed = before // self._every != done // self._every
        if crossed or done == self._rows or now - self._told > SECONDS_BETWEEN_LINES:
            self._told = now
            self._console.print(f"answered {done}/{self._rows} rows{self._left(now)}", highlight=False)

    def note(self, text: str) -> None:
        """Print lines above the bar."""
        self._console.print(text, style="yellow", highlight=False, soft_wrap=True, markup=False)

    def _left(self, now: float) -> str:
        new = self._done - self._first
        if not new or self._done >= self._rows:
            return ""
        seconds = (now - self._started) / new * (self._rows - self._done)
        minutes, rest = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f", {hours}:{minutes:02d}:{rest:02d} left" if hours else f", {minutes}:{rest:02d} left"

    def __enter__(self) -> AnsweringProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


@contextmanager
def checking_progress(console: Console) -> Iterator[Callable[[], None]]:
    """Show, on a terminal, how many pictures are checked; gives what counts one."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("checking the pictures", total=None)
        yield lambda: bar.advance(task)


def show_scores(console: Console, benchmark: Benchmark, conclusion: Conclusion) -> None:
    """Print the tables of scores, example rows, wrong ones first, and the sentence that sums it up."""
    scores, judged = conclusion.results[0]
    console.print(f"{benchmark.title} ({benchmark.name}, rules {scores.rules})", highlight=False)
    console.print(_groups(benchmark, scores.groups, scores.headline, scores.overall))
    if len(conclusion.results) > 1:
        console.print(_rule_sets(conclusion))
        console.print(f"the rule sets differ on {len(conclusion.differing)} rows; see the report", highlight=False)
    console.print(_examples(judged))
    group = scores.headline
    right = group.percent * group.rows / 100
    of = "" if group.name == scores.overall.name else f" of {group.name}"
    sentence = f"accuracy {group.percent:.1f} % ({right:g} of {group.rows} questions{of})"
    if benchmark.chance is not None:
        sentence += f"; chance is {100 * benchmark.chance:.1f} %"
    if group.failed:
        sentence += f"; nothing could be read out of {group.failed} answers ({group.failed_percent:.1f} %)"
    if conclusion.empty_answers:
        sentence += f"; {conclusion.empty_answers} answers were empty"
    console.print(sentence, highlight=False, soft_wrap=True)
    for one in conclusion.refused[:EXAMPLES]:
        text = f"row {one.index} could not be asked: {one.problem}"
        console.print(text, style="red", highlight=False, markup=False, soft_wrap=True)


def _groups(benchmark: Benchmark, groups: Sequence[Group], headline: Group, overall: Group) -> Table:
    table = Table()
    table.add_column("rows of")
    for name in ("rows", "accuracy %", "unreadable %"):
        table.add_column(name, justify="right")
    for group in groups if len(groups) > 1 else ():
        table.add_row(*_cells(group), style="bold" if group == headline else None)
    table.add_section()
    table.add_row(*_cells(overall), style="bold" if overall == headline else None)
    if benchmark.chance is not None:
        table.add_row("chance", "", f"{100 * benchmark.chance:.1f}", "", style="dim")
    return table


def _rule_sets(conclusion: Conclusion) -> Table:
    table = Table(title="the same answers under each rule set", title_justify="left")
    table.add_column("rules")
    table.add_column("rows of")
    for name in ("rows", "accuracy %", "unreadable %"):
        table.add_column(name, justify="right")
    for scores, _ in conclusion.results:
        table.add_row(escape(scores.rules), *_cells(scores.headline))
    return table


def _examples(judged: Sequence[Judged]) -> Table:
    wrong = [one for one in judged if one.score < 1][:EXAMPLES]
    right = [one for one in judged if one.score >= 1][: max(2, EXAMPLES - len(wrong))]
    table = Table(title="examples", title_justify="left")
    for name in ("row", "answered", "expected", "", "rule"):
        table.add_column(name)
    for one in (*wrong, *right):
        verdict = "right" if one.score >= 1 else f"{one.score:.2f}" if one.score else "wrong"
        table.add_row(escape(one.row.index), _short(one.row.prediction), _short(one.row.answer), verdict, one.rule)
    return table


def _cells(group: Group) -> tuple[str, str, str, str]:
    return escape(group.name), str(group.rows), f"{group.percent:.1f}", f"{group.failed_percent:.1f}"


def _short(text: str) -> str:
    shown = "".join(char if char.isprintable() else " " for char in text[: _SHOWN_CHARACTERS + 1])
    return escape(shown if len(shown) <= _SHOWN_CHARACTERS else f"{shown[: _SHOWN_CHARACTERS - 3]}...")

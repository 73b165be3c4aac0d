"""What a person sees of scored answers: a table per rule set and group, and the rows on which rule sets differ."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qvl_eval.rescore import Rescored
from qvl_eval.score.differences import count_score_differences
from qvl_eval.score.judged import Judged
from qvl_eval.score.rule_sets import RULE_SETS
from qvl_eval.score.summary import Group, Scores

_SHOWN_CHARACTERS = 60
# Of a pipe rich takes 80 columns, too few for several rule sets side by side.
_PIPE_WIDTH = 160


def report_console() -> Console:
    """Give a console that is wide enough for the tables where it is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=_PIPE_WIDTH)


def show_rescored(console: Console, rescored: Rescored, *, shown: int) -> None:
    """Print the headline of each rule set, the groups side by side, and the first rows that differ."""
    answers = rescored.answers
    console.print(f"{short(answers.model)} on {rescored.benchmark}: {len(answers.rows):,} answers", highlight=False)
    console.print(f"from {answers.path}", highlight=False, markup=False, soft_wrap=True)
    for note in answers.notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    results = [scores for scores, _ in rescored.results]
    console.print(_headlines(results))
    groups = _groups(results)
    if groups.row_count:
        console.print(groups)
    if len(results) > 1:
        _show_differences(console, rescored, shown)


def _headlines(results: Sequence[Scores]) -> Table:
    table = Table(title="headline", title_justify="left")
    table.add_column("rules")
    table.add_column("rows of")
    for name in ("n", "score %", "failed %", "score % without failed"):
        table.add_column(name, justify="right")
    for scores in results:
        group = scores.headline
        without = group.percent_without_failed
        table.add_row(
            *(escape(scores.rules), short(group.name), f"{group.rows:,}", f"{group.percent:.2f}"),
            *(f"{group.failed_percent:.2f}", "-" if without is None else f"{without:.2f}"),
        )
        if scores.official_percent is not None and scores.rules.startswith("mmmu-official"):
            table.add_row("  as MMMU sums up", "", "", f"{scores.official_percent:.2f}", "", "", style="dim")
    known = [RULE_SETS[scores.rules] for scores in results if scores.rules in RULE_SETS]
    table.caption = "\n".join(f"{rules.name}: {rules.title}" for rules in known)
    table.caption_justify = "left"
    return table


def _groups(results: Sequence[Scores]) -> Table:
    """Make a table with a row per group and a column per rule set; failed rows stand behind the score."""
    table = Table(title="score % (failed rows)", title_justify="left")
    for name in ("", "rows of"):
        table.add_column(name)
    table.add_column("n", justify="right")
    for scores in results:
        table.add_column(escape(scores.rules), justify="right")
    for i, group in enumerate(results[0].groups):
        if i and results[0].groups[i - 1].kind != group.kind:
            table.add_section()
        cells = [_cell(scores.groups[i]) for scores in results]
        table.add_row(group.kind, short(group.name), f"{group.rows:,}", *cells)
    return table


def _cell(group: Group) -> str:
    return f"{group.percent:.2f} ({group.failed})"


def _show_differences(console: Console, rescored: Rescored, shown: int) -> None:
    rows = rescored.differences
    total = len(rescored.answers.rows)
    counted = (
        f"{len(rows):,} of {total:,} rows differ between the rule sets, {count_score_differences(rows):,} in score"
    )
    console.print(counted, highlight=False)
    if not rows or not shown:
        return
    table = Table()
    table.add_column("index")
    for scores, _ in rescored.results:
        table.add_column(escape(scores.rules))
    table.add_column("reference")
    table.add_column("answer")
    for verdicts in rows[:shown]:
        row = verdicts[0].row
        table.add_row(short(row.index), *map(_verdict, verdicts), short(row.answer), short(row.prediction))
    console.print(table)
    if len(rows) > shown:
        console.print(f"and {len(rows) - shown:,} more: --format json has all", highlight=False)


def _verdict(one: Judged) -> str:
    return f"{short(one.extracted or '-', 20)}: {one.score:.3g}"


def short(text: str, limit: int = _SHOWN_CHARACTERS) -> str:
    """Give text for a cell of a table: on one line, the end cut, nothing in it taken for markup."""
    shown = "".join(char if char.isprintable() else " " for char in text[: limit + 1])
    return escape(shown if len(shown) <= limit else f"{shown[: limit - 3]}...")

"""Where the rule sets differ: how often each pair does, which rules fired, and the rows themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from urllib.parse import urlencode

from qvl_data.inspection.markup import Html, element, join
from qvl_data.inspection.page import card, table

from qvl_eval.report.cut_text import NAME, cut, filter_name
from qvl_eval.report.row_card import badge
from qvl_eval.report.row_verdicts import VERDICT_TEXT, VERDICTS, JudgedRow, verdict_of
from qvl_eval.report.score_charts import rule_set_key

# Rows in the table; the filters of the rows below show all of them.
MOST_ROWS = 300
_AT_ONCE = 30
_SHOWN_ANSWER = 160
# Rules listed for a rule set; a well-made one has about ten.
_MOST_RULES = 40


def differences_card(rows: Sequence[JudgedRow], names: Sequence[str]) -> Html | None:
    """Give the table of the rows that the rule sets score differently; None with one rule set."""
    if len(names) < 2:
        return None
    differing = [row for row in rows if row.differs]
    read = sum(len({one.extracted for one in row.judged}) > 1 for row in rows)
    said = f"{len(differing):,} of {len(rows):,} rows are scored differently, {read:,} are read differently."
    return card(
        "Rows on which the rule sets differ", element("p", said), *_listed(rows, differing, names), id="differences"
    )


def rules_card(rows: Sequence[JudgedRow], names: Sequence[str]) -> Html:
    """Give for each rule set which rules decided how many rows, and what came of them."""
    parts = [element("div", element("h3", name), _fired(rows, place)) for place, name in enumerate(names)]
    return card("Rules that fired", element("div", *parts, class_="columns"), id="fired")


def _listed(rows: Sequence[JudgedRow], differing: Sequence[JudgedRow], names: Sequence[str]) -> Iterator[Html]:
    if not differing:
        return
    yield _pairs(rows, names)
    yield _rows(differing[:_AT_ONCE], names)
    rest = differing[_AT_ONCE:MOST_ROWS]
    if rest:
        yield element("details", element("summary", f"{len(rest):,} more rows"), _rows(rest, names))
    link = element("a", "Show them among the rows below.", href="#differs=yes&result=all")
    left = len(differing) - MOST_ROWS
    yield element("p", f"{left:,} more are not listed here. " if left > 0 else None, link, class_="soft small")


def _pairs(rows: Sequence[JudgedRow], names: Sequence[str]) -> Html:
    """Count for every two rule sets the rows that the one of the line scores higher than the one of the column."""
    scores = [[one.score for one in row.judged] for row in rows]
    lines = [
        (
            join(rule_set_key(i), name),
            *(f"{sum(s[i] > s[j] for s in scores):,}" if i != j else "" for j in range(len(names))),
        )
        for i, name in enumerate(names)
    ]
    note = element(
        "p", "Rows that the rule set of the line scores higher than that of the column:", class_="soft small"
    )
    numbers = [str(place + 1) for place in range(len(names))]
    return join(note, table(("", *numbers), lines, right=numbers))


def _rows(rows: Sequence[JudgedRow], names: Sequence[str]) -> Html:
    lines = [
        (
            element("a", cut(row.row.index, NAME), href=f"#{urlencode({'row': filter_name(row.row.index)})}"),
            element("bdi", cut(row.row.prediction, _SHOWN_ANSWER)),
            element("bdi", cut(row.row.answer, NAME)),
            *(_judgement(row, place) for place in range(len(names))),
        )
        for row in rows
    ]
    columns = [f"{place + 1} {name}" for place, name in enumerate(names)]
    return table(("row", "answer", "reference", *columns), lines)


def _judgement(row: JudgedRow, place: int) -> Html:
    one = row.judged[place]
    read = element("bdi", cut(one.extracted, NAME)) if one.extracted is not None else None
    rule = element("div", cut(one.rule, NAME), class_="soft small")
    return join(badge(verdict_of(one), one.score), " ", read, rule)


def _fired(rows: Sequence[JudgedRow], place: int) -> Html:
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        one = row.judged[place]
        counts.setdefault(one.rule, Counter())[verdict_of(one)] += 1
    ordered = sorted(counts.items(), key=lambda item: -item[1].total())
    shown = [verdict for verdict in VERDICTS if any(counter[verdict] for counter in counts.values())]
    columns = [VERDICT_TEXT[verdict] for verdict in shown]
    lines = [
        (cut(rule, NAME), f"{counter.total():,}", *(f"{counter[verdict]:,}" for verdict in shown))
        for rule, counter in ordered[:_MOST_RULES]
    ]
    more = len(ordered) - _MOST_RULES
    rest = element("p", f"and {more:,} more rules", class_="soft small") if more > 0 else None
    return join(table(("rule", "rows", *columns), lines, right=("rows", *columns)), rest)

"""Scores as charts: a bar for each group and rule set, drawn as SVG in the cell of a table with the same numbers.

The table makes the chart readable for everybody and at every width: letters do not shrink with a drawing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from urllib.parse import urlencode

from qvl_data.inspection.markup import Html, element, join
from qvl_data.inspection.page import card, tile

from qvl_eval.report.cut_text import filter_name, short_name
from qvl_eval.report.row_verdicts import Result
from qvl_eval.score.summary import Group, Scores

# Groups in one chart: a file may have a category of its own for every row.
MOST_GROUPS = 80
# Colours of rule sets; a sixth has the first one's again, and its name beside it.
_COLOURS = 5
# The groups whose rows the filters can show.
_FILTERS = ("split", "subcategory", "category")


def headline_tiles(results: Sequence[Result]) -> Html:
    """Give the number to report under each rule set, with its rows and how many of them could not be read."""
    return element("div", [_headline(scores, place) for place, (_, scores, _) in enumerate(results)], class_="tiles")


def score_cards(results: Sequence[Result]) -> Iterator[Html]:
    """Give the charts: all rows and splits, then subjects, then categories; other splits' ones folded away."""
    scores = [scores for _, scores, _ in results]
    first = [[one.overall for one in scores], *_aligned([_of(one.groups, "split") for one in scores])]
    yield card("Scores", *_chart(first, scores), id="scores")
    for kind, title in (("subcategory", "Subjects"), ("category", "Categories")):
        lines = _aligned([_of(one.groups, kind) for one in scores])
        if lines:
            split = lines[0][0].split
            folded = [_folded(lines, scores) for lines in _other_splits(scores, kind)]
            yield card(f"{title} of {split}" if split else title, *_chart(lines, scores), *folded, id=kind)


def rule_set_key(place: int) -> Html:
    """Give the number of the rule set at this place of the report, in its colour."""
    return element("span", place + 1, class_=f"key {_colour(place)}")


def percent_text(value: float | None) -> str:
    """Give a percentage to one decimal; a dash where there is none."""
    return "–" if value is None else f"{value:.1f} %"


def _colour(place: int) -> str:
    return f"c{place % _COLOURS}"


def _headline(scores: Scores, place: int) -> Html:
    group = scores.headline
    failed = f"{group.failed:,} ({group.failed_percent:.1f} %) without an answer that could be read"
    name = join(rule_set_key(place), scores.rules)
    return tile(percent_text(group.percent), name, f"{group.name}, n = {group.rows:,}; {failed}")


def _of(groups: Sequence[Group], kind: str) -> list[Group]:
    return [group for group in groups if group.kind == kind]


def _aligned(columns: Sequence[Sequence[Group]]) -> list[list[Group]]:
    """Give the groups line by line, one for each rule set; they are the same ones, as the rows are."""
    return [list(line) for line in zip(*columns, strict=True)]


def _other_splits(scores: Sequence[Scores], kind: str) -> Iterator[list[list[Group]]]:
    """Give the same chart of each split that the headline leaves out."""
    shown = {group.split for group in _of(scores[0].groups, kind)}
    splits = dict.fromkeys(group.split for group in _of(scores[0].split_groups, kind))
    for split in splits:
        if split not in shown:
            columns = [[g for g in _of(one.split_groups, kind) if g.split == split] for one in scores]
            yield _aligned(columns)


def _folded(lines: list[list[Group]], scores: Sequence[Scores]) -> Html:
    return element("details", element("summary", f"The same of {lines[0][0].split}"), *_chart(lines, scores))


def _chart(lines: list[list[Group]], scores: Sequence[Scores]) -> Iterator[Html]:
    columns = (
        ("group", None), ("rows", "n"), ("rule set", None), ("score, 0 to 100 %", None), ("score", "n"),
        ("without unread", "n late"), ("unread", "n"),
    )  # fmt: skip
    head = [element("th", name, class_=class_, scope="col") for name, class_ in columns]
    bodies = [_lines(line, scores) for line in lines[:MOST_GROUPS]]
    table = element("table", element("thead", element("tr", *head)), *bodies, class_="scores")
    keys = [element("span", rule_set_key(place), one.rules) for place, one in enumerate(scores)]
    yield element("p", *keys, class_="legend narrow")
    yield element("div", table, class_="scroll", tabindex=0, role="region", aria_label="scores as a chart")
    if len(lines) > MOST_GROUPS:
        more = f"{len(lines) - MOST_GROUPS:,} more are not drawn; the filters below have them, and so have the files."
        yield element("p", more, class_="soft small")


def _lines(groups: Sequence[Group], scores: Sequence[Scores]) -> Html:
    first, span = groups[0], len(groups)
    name = join(short_name(first.name))
    if first.kind in _FILTERS:
        name = element("a", name, href=f"#{_filter(first)}", title=f"Show the rows of {first.name[:200]}")
    head = join(
        element("th", name, scope="rowgroup", rowspan=span, dir="auto", class_="group"),
        element("td", f"{first.rows:,}", rowspan=span, class_="n"),
    )
    rows = [
        element("tr", None if place else head, *_cells(group, one.rules, place))
        for place, (group, one) in enumerate(zip(groups, scores, strict=True))
    ]
    return element("tbody", *rows)


def _cells(group: Group, rules: str, place: int) -> Iterator[Html]:
    yield element("td", rule_set_key(place), element("span", rules, class_="late"), class_="set")
    yield element("td", _bar(group, place), class_="bars")
    yield element("td", percent_text(group.percent), class_="n")
    yield element("td", percent_text(group.percent_without_failed), class_="n late")
    yield element("td", f"{group.failed:,} ({group.failed_percent:.1f} %)" if group.failed else "0", class_="n")


def _bar(group: Group, place: int) -> Html:
    """Draw the score from the left and the failed rows from the right, 0 to 100; the numbers stand beside it."""
    score, failed = round(group.percent, 2), round(group.failed_percent, 2)
    return element(
        "svg",
        element("rect", x=0, y=0, width=100, height=10, class_="track"),
        element("rect", x=round(100 - failed, 2), y=0, width=failed, height=10, class_="unread") if failed else None,
        element("rect", x=0, y=0, width=score, height=10, class_=_colour(place)),
        [element("line", x1=at, x2=at, y1=0, y2=10) for at in (25, 50, 75)],
        viewBox="0 0 100 10",
        preserveAspectRatio="none",
        aria_hidden="true",
        class_="bar-line",
    )


def _filter(group: Group) -> str:
    values = {group.kind: filter_name(group.name), "result": "all"}
    if group.split:
        values["split"] = filter_name(group.split)
    return urlencode(values)

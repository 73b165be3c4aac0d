"""Two runs compared, as a card of a page."""

from __future__ import annotations

from collections.abc import Iterator

from qvl_data.inspection.markup import Html, element
from qvl_data.inspection.page import card

from qvl_train.report.diff_text import TITLES, cut_value
from qvl_train.report.difference import GROUPS
from qvl_train.report.meanings import Effect
from qvl_train.report.outcomes import course_text
from qvl_train.report.run_diff import RunDiff, counted

_TONES = {
    Effect.TENSORS: "bad",
    Effect.NUMBERS: "bad",
    Effect.PERHAPS: "warn",
    Effect.UNKNOWN: "warn",
}


def diff_card(diff: RunDiff, ours: str, theirs: str, *, id_: str = "diff", is_folded: bool = False) -> Html:
    """Give the card: the verdict, then a table for each group that has a difference, to be unfolded or not."""
    parts: list[Html] = [element("p", diff.verdict, class_="verdict")]
    if diff.course is not None:
        parts.append(element("p", course_text(diff.course)))
    parts += [element("p", notice, class_="soft small") for notice in diff.notices]
    tables = [part for group in GROUPS for part in _group(diff, group, ours, theirs)]
    if is_folded and tables:
        tables = [element("details", element("summary", counted(len(diff.differences))), *tables)]
    parts += tables
    same = [TITLES[group] for group in GROUPS if not diff.of(group)]
    # What could not be compared is no place without a difference.
    if same and diff.is_complete:
        parts.append(element("p", f"Without a difference: {', '.join(same)}.", class_="soft small"))
    return card(f"What differs: {ours} and {theirs}", *parts, id=id_)


def _group(diff: RunDiff, group: str, ours: str, theirs: str) -> Iterator[Html]:
    found = diff.of(group)
    if not found:
        return
    yield element("h3", TITLES[group])
    head = element("tr", *(element("th", name, scope="col") for name in ("key", ours, theirs, "what it means")))
    rows = [
        element(
            "tr",
            element("th", one.key, scope="row", class_="mono"),
            element("td", cut_value(one.ours), class_="value", data_of=ours),
            element("td", cut_value(one.theirs), class_="value", data_of=theirs),
            element(
                "td",
                element("span", one.meaning.effect.value, class_=f"tag {_TONES.get(one.meaning.effect, 'plain')}"),
                " ",
                one.meaning.text,
            ),
        )
        for one in found
    ]
    body = element("table", element("thead", head), element("tbody", *rows), class_="differences")
    yield element("div", body, class_="scroll", tabindex=0, role="region", aria_label=f"differences: {group}")

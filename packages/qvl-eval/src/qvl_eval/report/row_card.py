"""A row as a card: pictures, question, options, answer, reference, and what each rule set makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qvl_data.inspection.markup import Html, element, join

from qvl_eval.report.cut_text import NAME, SHORT, cut, text_box
from qvl_eval.report.row_verdicts import VERDICT_TEXT, JudgedRow, Verdict, verdict_of
from qvl_eval.score.judged import Judged

# The letters A to Z.
_MOST_OPTIONS = 26
_TONES = {"right": "good", "part": "warn", "wrong": "bad", "failed": "warn"}


@dataclass(frozen=True, kw_only=True)
class CardText:
    """A card without its pictures, which are chosen when the size of all texts is known."""

    head: Html
    body: Html

    @property
    def bytes(self) -> int:
        return len(self.head.encode()) + len(self.body.encode())

    def with_pictures(self, pictures: Sequence[Html]) -> Html:
        """Give the card."""
        name = "thumbs several" if len(pictures) > 1 else "thumbs"
        shown = element("div", *pictures, class_=name) if pictures else None
        return element("article", self.head, shown, self.body, class_="row")


def card_text(judged: JudgedRow, prompt: str | None = None) -> CardText:
    """Give the texts of a row's card. `prompt` is what the model was sent, where it is known."""
    row = judged.row
    tags = [("split", row.split), ("subject", row.subcategory), ("category", row.category), ("", row.question_type)]
    head = join(
        element("h3", "Row ", cut(row.index, NAME)),
        element("p", [_tag(name, value) for name, value in tags if value], class_="tags"),
    )
    body = join(
        _part("Question", text_box(row.question, "Question")),
        _options(judged),
        _part("Answer", text_box(row.prediction, "Answer")),
        _part("Reference", element("div", cut(row.answer, 2 * SHORT), class_="text", dir="auto")),
        _verdicts(judged.judged),
        _prompt(prompt),
    )
    return CardText(head=head, body=body)


def badge(verdict: Verdict, score: float) -> Html:
    """Give the verdict as a coloured word; a score between 0 and 1 is said."""
    text = VERDICT_TEXT[verdict]
    return element("span", f"{text} {score:.2f}" if verdict == "part" else text, class_=f"tag {_TONES[verdict]}")


def _tag(name: str, value: str) -> Html:
    return element("span", element("span", f"{name} ", class_="soft") if name else None, cut(value, NAME), class_="of")


def _part(name: str, content: Html) -> Html:
    return join(element("h4", name), content)


def _options(judged: JudgedRow) -> Html | None:
    options = list(judged.row.options.items())
    if not options:
        return None
    read = {one.extracted for one in judged.judged}
    items = [_option(letter, text, judged.row.answer.strip(), read) for letter, text in options[:_MOST_OPTIONS]]
    more = len(options) - _MOST_OPTIONS
    rest = element("li", f"and {more:,} more", class_="soft") if more > 0 else None
    return _part("Options", element("ul", *items, rest, class_="options"))


def _option(letter: str, text: str, answer: str, read: set[str | None]) -> Html:
    marks: list[Html] = []
    if letter == answer:
        marks.append(element("span", "reference", class_="tag good"))
    if letter in read:
        marks.append(element("span", "read as the answer", class_="tag" if letter == answer else "tag bad"))
    return element(
        "li", element("b", f"{letter}."), " ", element("bdi", cut(text, SHORT)), [join(" ", m) for m in marks]
    )


def _verdicts(judged: Sequence[Judged]) -> Html:
    """Give what the rule sets make of the row; those that agree in everything share a line."""
    agreeing: dict[tuple[str, float, str | None, str], list[Judged]] = {}
    for one in judged:
        agreeing.setdefault((verdict_of(one), one.score, one.extracted, one.rule), []).append(one)
    lines = [_line(found, is_all=len(found) == len(judged) > 1) for found in agreeing.values()]
    head = element("tr", [element("th", name) for name in ("rule set", "result", "read as", "rule")])
    return element("table", element("thead", head), element("tbody", *lines), class_="verdicts")


def _line(agreeing: Sequence[Judged], *, is_all: bool) -> Html:
    one = agreeing[0]
    name = f"all {len(agreeing)}" if is_all else ", ".join(each.rules[:NAME] for each in agreeing)
    cells = (
        badge(verdict_of(one), one.score),
        element("bdi", cut(one.extracted, NAME)) if one.extracted is not None else "–",
        cut(one.rule, NAME),
    )
    return element("tr", element("th", name), [element("td", cell) for cell in cells])


def _prompt(prompt: str | None) -> Html | None:
    if prompt is None:
        return None
    return element("details", element("summary", "Prompt as sent"), text_box(prompt, "Prompt as sent"))

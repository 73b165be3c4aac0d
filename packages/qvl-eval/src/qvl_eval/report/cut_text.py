"""Texts of other people's files on a page: cut where they are long, never silently."""

from __future__ import annotations

from qvl_data.inspection.markup import Html, element, join, visible

# Characters shown; the whole text is in the files of the run.
LONG = 4000
SHORT = 300
NAME = 80
# A text that is longer scrolls in its own box.
_BOX = 700


def cut(text: str, limit: int) -> Html:
    """Give text escaped, cut to `limit` characters with a visible mark that says how many more there are."""
    if len(text) <= limit:
        return join(text)
    more = f" … {len(text) - limit:,} more characters"
    return join(text[:limit], element("span", more, class_="cut"))


def text_box(text: str, label: str) -> Html:
    """Give a text that keeps its line breaks and its own reading direction; a long one scrolls, also by keyboard."""
    if not text.strip():
        return element("div", "(empty)" if not text else "(only blanks)", class_="text soft")
    if len(text) <= _BOX and text.count("\n") < 12:
        return element("div", cut(text, LONG), class_="text", dir="auto")
    return element("div", cut(text, LONG), class_="text long", dir="auto", tabindex=0, role="region", aria_label=label)


def short_name(text: str) -> str:
    """Give a name cut to what fits a line."""
    if not text.strip():
        return "(only blanks)"
    return text if len(text) <= NAME else f"{text[: NAME - 1]}…"


def filter_name(text: str) -> str:
    """Give a name as the filters of the page and the links to them have it."""
    return visible(text[:SHORT])

"""The rows on the page: in blocks that a browser without scripts shows and one with scripts keeps as text.

A `noscript` element is plain text to a browser that runs scripts, so that 10,000 cards cost it no more than their
characters; the page's script shows those that are asked for. Where scripts are off, all cards are there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from qvl_data.inspection.markup import Html, data_block, element

# Where the rows go in the page, so that it need not be built anew around megabytes of them. No text of a page can hold
# this character: `markup.visible` spells it out.
HOLE = Html("\0")
# Cards and pictures in one block.
_BLOCK = 100
_SIZES = (12, 24, 60, 120, 300)
_SIZE = 24


def rows_card(index: dict[str, Any], note: str) -> Html:
    """Give the section of the rows with its filters and HOLE; `note` says what was left out."""
    waiting = (
        "The rows appear here once this page's own script has run. If this line stays, the place that shows the page "
        "forbids scripts without saying so: open the file itself."
    )
    return element(
        "section",
        element("h2", "Rows"),
        element("p", note, class_="small soft") if note else None,
        element(
            "noscript", element("p", "Filters need a script. Rows to look at come first, then those that are right.")
        ),
        element("p", waiting, id="waiting", class_="soft"),
        _filters(index),
        element("div", id="list", class_="rows", role="list"),
        _pager("pager-end", "Pages, again"),
        HOLE,
        element("div", id="drawings", class_="drawings", aria_hidden="true"),
        data_block("index", index),
        class_="card",
        id="rows",
    )


def stored_rows(cards: Iterable[Html], drawings: Iterable[Html]) -> Iterator[Html]:
    """Give what belongs into HOLE: the cards and the pictures, block by block."""
    yield from _blocks("rows stored", cards)
    yield from _blocks("drawings stored", (element("svg", drawing, width=0, height=0) for drawing in drawings))


def _blocks(name: str, parts: Iterable[Html]) -> Iterator[Html]:
    left = iter(parts)
    while block := list(islice(left, _BLOCK)):
        yield element("noscript", element("div", *block, class_=name), class_=name)


def _filters(index: dict[str, Any]) -> Html:
    """Give the controls; the script fills the lists from the index and shows them."""
    several = len(index["rules"]) > 1
    return element(
        "div",
        _select("rules", "Rule set") if several else None,
        _select("result", "Result"),
        _select("fired", "Rule that fired"),
        _select("split", "Split"),
        _select("subcategory", "Subject"),
        _select("category", "Category"),
        _box("search", "Text of the row", type="search"),
        _box("row", "Row", type="text"),
        _select("size", "Rows at once", [(str(size), str(size)) for size in _SIZES], chosen=str(_SIZE)),
        _tick("differs", "Only where the rule sets differ") if several else None,
        _pager("pager", "Pages"),
        id="filters",
        class_="filters",
        role="search",
        aria_label="Filter the rows",
        hidden=True,
    )


def _select(name: str, title: str, options: Iterable[tuple[str, str]] = (), chosen: str = "") -> Html:
    items = [element("option", text, value=value, selected=value == chosen) for value, text in options]
    return _field(name, title, element("select", *items, id=f"f-{name}"))


def _box(name: str, title: str, *, type: str) -> Html:  # noqa: A002 - the attribute's name
    return _field(name, title, element("input", type=type, id=f"f-{name}", autocomplete="off", spellcheck="false"))


def _tick(name: str, title: str) -> Html:
    return element(
        "label", element("input", type="checkbox", id=f"f-{name}"), " ", title, class_="field tick", for_=f"f-{name}"
    )


def _field(name: str, title: str, control: Html) -> Html:
    return element("div", element("label", title, for_=f"f-{name}"), control, class_="field", id=f"field-{name}")


def _pager(name: str, title: str) -> Html:
    """Give buttons and a line of text; only the first one's is read out when it changes."""
    live = "polite" if name == "pager" else "off"
    return element(
        "nav",
        element("button", "Back", type="button", class_="back"),
        element("span", class_="place", aria_live=live),
        element("button", "Next", type="button", class_="next"),
        element("button", "Reset the filters", type="button", id="reset") if name == "pager" else None,
        id=name,
        class_="pager",
        aria_label=title,
        hidden=True,
    )

"""No text gets into a page as markup."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from page_reader import PageReader
from qvl_data.inspection.markup import Html, element, escaped, join, visible
from qvl_data.inspection.page import POLICY, page

HOSTILE = "</style><script>alert(1)</script><img src=x onerror=\"alert('x')\">&lt;b&gt;"


def test_children_and_attributes_are_escaped() -> None:
    found = element("p", HOSTILE, title=HOSTILE, class_="a")
    reader = PageReader(f"<main>{found}</main>")
    assert reader.text == HOSTILE
    assert reader.titles == [HOSTILE]
    assert [tag for tag, _ in reader.tags] == ["main", "p"]


def test_what_is_markup_already_stays() -> None:
    assert join(element("b", "x"), ["<", None, 5]) == "<b>x</b>&lt;5"
    assert isinstance(join("x"), Html)


def test_attributes_that_are_off_are_left_out() -> None:
    assert element("input", type="radio", checked=True, disabled=False, id=None) == '<input type="radio" checked>'
    assert element("text", "5", text_anchor="end") == '<text text-anchor="end">5</text>'


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, 图, é", "plain, 图, é"),
        ("a\x00b\x1b[31m", "a\\x00b\\x1b[31m"),
        ("turned \u202e round", "turned \\u202e round"),
        ("half \ud800 pair", "half \\ud800 pair"),
        ("tab\tand\nbreak", "tab\tand\nbreak"),
    ],
)
def test_characters_that_cannot_be_seen_are_spelled_out(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text())
def test_every_text_comes_back_as_it_is_shown(text: str) -> None:
    reader = PageReader(f"<p>{escaped(text)}</p>")
    assert "".join(reader.texts) == visible(text)
    assert len(reader.tags) == 1


def test_page_forbids_everything_but_itself() -> None:
    reader = PageReader(page(HOSTILE, element("h1", HOSTILE)))
    assert reader.policy == POLICY == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert HOSTILE in reader.titles
    assert reader.text == HOSTILE

"""No text gets into a page as markup."""

from __future__ import annotations

import base64
import hashlib
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from page_reader import PageReader
from qvl_data.inspection.markup import Html, data_block, element, escaped, join, policy_hash, script, visible
from qvl_data.inspection.page import POLICY, card, page

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


def test_page_with_a_script_allows_that_script_and_its_style_and_nothing_else() -> None:
    text = page("title", element("p", HOSTILE), css="p { color: red; }", code="const one = 1;\n")
    policy = re.search(r'content="(default-src[^"]*)"', text)
    assert policy is not None
    rules = policy[1].replace("&#x27;", "'")
    for tag, name in (("style", "style-src"), ("script", "script-src")):
        content = re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert content is not None
        digest = base64.b64encode(hashlib.sha256(content[1].encode()).digest()).decode()
        assert f"{name} 'sha256-{digest}'" in rules
    assert "unsafe" not in rules
    assert rules.startswith("default-src 'none'; img-src data:;")
    assert rules.endswith("base-uri 'none'; form-action 'none'")


def test_policy_hash_is_that_of_the_content() -> None:
    digest = base64.b64encode(hashlib.sha256(b"\nx = 1").digest()).decode()
    assert policy_hash(script("x = 1")) == f"'sha256-{digest}'"


@pytest.mark.parametrize("code", ["'</script>'", "'</SCRIPT '", "'<!--'"])
def test_script_that_would_end_its_element_is_refused(code: str) -> None:
    with pytest.raises(AssertionError):
        script(code)


def test_data_come_back_and_end_no_element() -> None:
    value = {HOSTILE: ["\u202e", "<!--", 1, None]}
    found = data_block("x", value)
    assert found.count("<") == 2
    assert json.loads(found[found.index(">") + 1 : found.rindex("<")]) == value


def test_card_can_be_linked_to() -> None:
    assert card("Title", id="here").startswith('<section class="card" id="here">')
    assert card("Title").startswith('<section class="card">')

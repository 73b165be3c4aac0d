"""Lines of keys: TOML gives values only, and every error names its line."""

from __future__ import annotations

from typing import Any

import tomli
from hypothesis import given, settings
from hypothesis import strategies as st
from qvl_core.recipe.positions import KeyPath, key_lines

DOCUMENT = '''\
top = 1
dotted.key = "x"
[table]  # a comment with = and [brackets]
array = [1,
  2,  # two
  [3, "]"],
]
inline = { g = 1, h = { i = 2 } }
[[sources.list]]
text = """
fake = 3
[not.a.table]
""\\"
"""
literal = \'\'\'
x]
\'\'\'
[sources.list.inner]
when = 1979-05-27T07:32:00Z
[[sources.list]]
empty = \'\'
"quo ted"."x\\u0041" = true
\'lit.eral\' = -inf
after = 1
'''


def paths_of(value: Any, at: KeyPath = ()) -> set[KeyPath]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {path for key, item in items for path in ({(*at, key)} | paths_of(item, (*at, key)))}


def test_finds_every_key_and_array_element() -> None:
    tomli_paths = paths_of(tomli.loads(DOCUMENT))
    # A table that only a longer header implies has no line of its own.
    assert tomli_paths - set(key_lines(DOCUMENT)) == {("sources",)}
    assert set(key_lines(DOCUMENT)) <= tomli_paths


def test_lines_are_those_of_the_keys() -> None:
    lines = key_lines(DOCUMENT)
    assert lines["top",] == 1
    assert lines["dotted", "key"] == 2
    assert lines["table",] == 3
    assert lines["table", "array"] == 4
    assert lines["table", "array", 1] == 5
    assert lines["table", "array", 2, 1] == 6
    assert lines["table", "inline", "h", "i"] == 8
    assert lines["sources", "list", 0] == 9
    assert lines["sources", "list", 0, "text"] == 10
    assert lines["sources", "list", 0, "literal"] == 15
    assert lines["sources", "list", 0, "inner", "when"] == 19
    assert lines["sources", "list", 1, "empty"] == 21
    assert lines["sources", "list", 1, "quo ted", "xA"] == 22
    assert lines["sources", "list", 1, "lit.eral"] == 23
    assert lines["sources", "list", 1, "after"] == 24


def test_windows_line_ends_count_once() -> None:
    assert key_lines("a = 1\r\n\r\n[t]\r\nb = 2\r\n")["t", "b"] == 4


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab=[]{}\",'.\n #\\", max_size=60))
def test_any_text_ends(text: str) -> None:
    # Texts that are not TOML never get here in use; they must not hang or raise either.
    key_lines(text)
    try:
        values = tomli.loads(text)
    except ValueError:
        return
    assert {path for path in paths_of(values) if len(path) == 1} <= {path[:1] for path in key_lines(text)}

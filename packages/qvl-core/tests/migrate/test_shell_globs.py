"""Patterns of the shell: what they match, and that each takes one step for each character."""

from __future__ import annotations

import random
from fnmatch import fnmatchcase

import pytest
from qvl_core.migrate.shell_globs import TooMuchError, Work, glob, matches
from qvl_core.migrate.shell_script import read_script
from qvl_core.migrate.shell_text import GAP


@pytest.mark.parametrize("seed", range(8))
def test_random_patterns_match_what_pythons_own_match(seed: int) -> None:
    made = random.Random(seed)
    for _ in range(300):
        pattern = "".join(made.choice(("a", "b", "*", "?", "[ab]", "[!a]", "[a-c]", "[]b]")) for _ in range(5))
        text = "".join(made.choice("abcd]\n") for _ in range(made.randint(0, 8)))
        assert matches(pattern, text, Work()) is fnmatchcase(text, pattern), (pattern, text)


def test_ends_of_a_match_are_told_the_nearest_first() -> None:
    found = glob("a*b", Work())
    assert found is not None
    assert list(found.ends("xabbcb", 1)) == [3, 4, 6]
    assert (found.longest("xabbcb", 1), found.longest("xabbcb")) == (6, None)
    assert list(found.backwards().ends("bba")) == [3]


def test_stars_are_matched_in_one_step_for_each_character() -> None:
    work = Work()
    before = work.left
    assert matches("*a" * 8 + "*b", "a" * 64, work) is False
    assert before - work.left < 200


@pytest.mark.parametrize("pattern", ["@(a|b)", f"a{GAP}", "[[:digit:]]*", "[z-a]"])
def test_other_patterns_are_not_known(pattern: str) -> None:
    assert matches(pattern, "a", Work()) is None


def test_what_takes_too_many_steps_is_not_known() -> None:
    work = Work(left=100)
    assert matches("a*", "a" * 200, work) is None
    with pytest.raises(TooMuchError):
        glob("a", work)


PATH = "/data" + "/aaaaaaaaaaaaaaaaaaaa" * 8


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"P={PATH}\nX=${{P##*a*a*a*a*a*a*a*a*a*b}}", PATH),
        (f"P={PATH}\nX=${{P%%a*a*a*a*a*a*a*a*a*b*}}", PATH),
        (f"P={PATH}\nX=1\n[[ $P == *a*a*a*a*a*a*a*a*a*b ]] && X=2", "1"),
        (f"P={PATH}\nX=1\ncase $P in *a*a*a*a*a*a*a*a*a*b) X=2 ;; esac", "1"),
        ("P=" + "a" * 9_999 + "\nfor i in 1 2 3 4 5 6 7 8 9 10; do X=${P//z/b}; done", "a" * 9_999),
        ("P=a/b.c.d\nX=${P##*/}-${P%.*}-${P%%.*}-${P#*.}-${P/#a/q}-${P/%d/q}", "b.c.d-a/b.c-a/b-c.d-q/b.c.d-a/b.c.q"),
    ],
    ids=["front", "back", "condition", "case", "loop", "all"],
)
def test_patterns_in_scripts_are_matched_to_their_end(text: str, expected: str) -> None:
    assert read_script(text).variables["X"].text == expected


@pytest.mark.parametrize(
    "text",
    [
        "P=" + "a" * 9_999 + "\nX=${P//a*b/}",
        "P=" + "a" * 9_999 + "\nX=${P//a/$P}",
        "P=aaaaaaaaaaaaaaaa\nX=$P\nwhile true; do X=${X//a/$P}; done",
        "P=ab\nX=${P/#/c}",
    ],
    ids=["quadratic", "long", "growing", "no pattern"],
)
def test_what_would_take_too_long_or_grow_too_far_is_not_known(text: str) -> None:
    assert not read_script(text).variables["X"].known

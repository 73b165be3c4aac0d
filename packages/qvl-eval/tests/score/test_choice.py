"""Letters read out of replies, rule by rule, as docs/evaluate.md states them."""

from __future__ import annotations

import math
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qvl_eval.score import RULE_SETS, extract_choice, score_row
from qvl_eval.score.choice import lettered

OLD = ("vlmevalkit-legacy", "mindspeed")
SINCE_2025 = ("vlmevalkit-2025-09", "vlmevalkit-2026-06")
NEW, OFFICIAL = "vlmevalkit-2026-06", "mmmu-official"
UPSTREAM = (*OLD, *SINCE_2025)
PARTS = {"A": "chlorophyll", "B": "root", "C": "stem", "D": "leaf"}
SIX = {**PARTS, "E": "bark", "F": "moss"}


@pytest.mark.parametrize("rules", UPSTREAM)
@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("C", "C"),
        ("(C)", "C"),
        ("[C]", "C"),
        ("{C}", "C"),
        ("**C**", "C"),
        ("C:", "C"),
        ("answer:C;", "C"),
        ("#C!", "C"),
        ("x,C", "C"),
        ("\tC\n", "C"),
        ("C C C", "C"),
        ("C\u3000", "C"),
        ("c", None),
        ('"C"', None),
        ("`C`", None),
        ("$C$", None),
        ("C/D", None),
        ("<answer>C</answer>", None),
        ("C\uff09", None),
        ("答案：C", None),
        ("C-", None),
        ("C?", None),
        ("E", None),
        ("\uff23", None),
        ("", None),
        ("   ", None),
        ("...", None),
        ("Z", "Z"),
        ("(Z).", "Z"),
        ("ROOT", "B"),
        ("uprooted", "B"),
        ("root stem", None),
    ],
)
def test_reads_a_letter_token_or_the_only_option_text(rules: str, reply: str, letter: str | None) -> None:
    assert extract_choice(reply, PARTS, rules) == letter


@pytest.mark.parametrize("rules", UPSTREAM)
@pytest.mark.parametrize(
    "sentence",
    [
        "Sorry, I can't help with images of people yet.",
        "I can't process this file.",
        "I'm sorry, but without the image provided",
        "Cannot determine the answer",
    ],
)
def test_a_refusal_is_z_and_wrong(rules: str, sentence: str) -> None:
    assert extract_choice(f"B. {sentence} root", PARTS, rules) == "Z"
    assert score_row("ai2d_test", f"B {sentence}", "B", PARTS, rules) == 0
    assert score_row("ai2d_test", f"B {sentence}", "Z", PARTS, rules) == 0
    assert extract_choice(f"B {sentence.lower()}", {"B": "x"}, "vlmevalkit-legacy") == "B"


@pytest.mark.parametrize("rules", UPSTREAM)
def test_a_failed_call_leaves_only_the_text(rules: str) -> None:
    assert extract_choice("B Failed to obtain answer via API", PARTS, rules) is None
    assert extract_choice("Failed to obtain answer via API", {"A": "failed to obtain", "B": "x"}, rules) == "A"
    assert extract_choice("answer is B Failed to obtain answer via API", PARTS, rules) is None


@pytest.mark.parametrize(("tokens_behind", "letter"), [(0, "B"), (3, "B"), (4, None), (5, None)])
def test_since_2025_a_letter_counts_among_the_last_four_tokens(tokens_behind: int, letter: str | None) -> None:
    reply = "So it has to be B" + " word" * tokens_behind
    assert [extract_choice(reply, PARTS, rules) for rules in SINCE_2025] == [letter, letter]
    assert [extract_choice(reply, PARTS, rules) for rules in OLD] == ["B", "B"]


def test_the_first_of_a_letters_places_decides() -> None:
    reply = "B one two three four five B"
    assert extract_choice(reply, PARTS, "vlmevalkit-2025-09") is None
    assert extract_choice(reply, PARTS, "vlmevalkit-legacy") == "B"


def test_an_article_counts_as_a_letter_where_verbose_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    reply = "A root of it"
    for value in (None, "1", "0"):
        if value is not None:
            monkeypatch.setenv("VERBOSE", value)
        assert extract_choice(reply, PARTS, NEW) == "A"


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("answer is Chlorophyll, for many a reason given", "C"),
        ("The answer is a root, because of the many hairs", "A"),
        ("The ANSWER  IS\n\t**d** as it is green and flat", "D"),
        ("Answer is ***b or perhaps something else here", "B"),
        ("The answer is (B) for all that we can see here", None),
        ("The answer is: B for all that we can see of it", None),
        ("the answer is E as nothing else would fit here", None),
        ("the answer is e as nothing else would fit here", None),
        ("the answeris B as nothing else would fit here now", None),
        ("the answer isB as nothing else would fit here now", None),
        ("My answer is elsewhere; the answer is B, and that is it", "B"),
        ("A or B are near, but the answer is B as we can see", "B"),
        ("the answer\u00a0is\u2003B as nothing else would fit here", "B"),
    ],
)
def test_since_2026_the_words_answer_is_name_an_option(reply: str, letter: str | None) -> None:
    assert extract_choice(reply, PARTS, NEW) == letter
    assert extract_choice(reply, SIX, NEW) == letter
    options = dict.fromkeys("ABCD", "-")
    assert extract_choice(reply, options, "vlmevalkit-2025-09") is None


def test_a_letter_that_is_no_option_is_not_the_answer_that_is_named() -> None:
    assert extract_choice("the answer is d", {"A": "dog", "B": "cat"}, NEW) is None


@pytest.mark.parametrize(
    ("reply", "since_2025", "before"),
    [
        ("x 2 5678", "B", "B"),
        ("xx 2 5678", None, "B"),
        ("The answer is 3.", None, "C"),
        ("2 or 3", None, None),
    ],
)
def test_since_2025_a_long_reply_is_not_searched_for_texts(
    reply: str, since_2025: str | None, before: str | None
) -> None:
    # Twice the length of all texts is the limit: 8 characters.
    options = {"A": "1", "B": "2", "C": "3", "D": "4"}
    assert [extract_choice(reply, options, rules) for rules in SINCE_2025] == [since_2025, since_2025]
    assert [extract_choice(reply, options, rules) for rules in OLD] == [before, before]


def test_the_limit_is_reached_with_the_longer_spelling_of_small_letters() -> None:
    # A capital I with a dot becomes two characters, and the lower-cased reply is what is measured.
    options = {"A": "xy", "B": "ab"}
    assert extract_choice("\u0130\u0130\u0130xy", options, "vlmevalkit-2025-09") == "A"
    assert extract_choice("\u0130\u0130\u0130\u0130xy", options, "vlmevalkit-2025-09") is None
    assert extract_choice("\u0130\u0130\u0130\u0130xy", options, "vlmevalkit-legacy") == "A"


@pytest.mark.parametrize("rules", UPSTREAM)
def test_an_option_without_text_is_none(rules: str) -> None:
    options = {"A": "", "B": "12", "C": None, "D": math.nan, "E": "None", "F": " "}
    assert lettered(options) == {"B": "12", "E": "None", "F": " "}
    assert extract_choice("A", options, rules) is None
    assert extract_choice("none", options, rules) == "E"
    assert extract_choice(None, options, rules) == "E"
    assert extract_choice("E", options, rules) == "E"


def test_takes_odd_input() -> None:
    assert extract_choice(None, {}, NEW) is None
    assert extract_choice(math.nan, {"A": "nan", "B": "x"}, NEW) == "A"
    assert extract_choice(2.0, {"A": 1, "B": 2}, NEW) == "B"
    assert extract_choice("B", None, NEW) is None
    assert extract_choice("B", {"a": "x", "b": "y", "question": "B", "AB": "z"}, NEW) == "B"
    assert lettered({"b": "small", "B": "capital"}) == {"B": "capital"}
    assert list(lettered({"D": "x", "B": "y", "A": "z"})) == ["A", "B", "D"]
    with pytest.raises(ValueError, match="no scoring rules 'gpt'; there is: vlmevalkit-2026-06"):
        extract_choice("B", PARTS, "gpt")


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("'B'", "B"),
        (",.!?;:'B", "B"),
        ("B';:", None),
        ("B':;", "B"),
        ("B:;", "B"),
        ("B;:", None),
        ("B)", None),
        ("**B**", None),
        ("B: root", None),
        ("say (B) or else C for this", "B"),
        ("(A) or (C) or (B)", "B"),
        ("(A) then B", "A"),
        ("A or C or B here", "B"),
        ("A C A", "A"),
        ("B\tC", None),
        ("b", None),
        ("root", None),
        ("it is root and nothing", None),
        ("it is the root and nothing more", "B"),
        ("the LEAF is wrong, so the root of it is it", "B"),
        ("E", None),
        ("", None),
    ],
)
def test_reads_letters_as_mmmu_does(reply: str, letter: str | None) -> None:
    assert extract_choice(reply, PARTS, OFFICIAL) == letter


def test_of_two_texts_at_one_place_the_first_option_wins() -> None:
    options = {"A": "root", "B": "roots", "C": "oot"}
    assert extract_choice("it can only be one of the roots", options, OFFICIAL) == "C"
    assert extract_choice("it can only be one of the roots", {"A": "root", "B": "roots"}, OFFICIAL) == "A"


def test_an_option_is_drawn_by_the_rows_index_alone() -> None:
    drawn = [extract_choice("no idea", PARTS, "mmmu-official-random", index=str(i)) for i in range(200)]
    again = [extract_choice("nothing", PARTS, "mmmu-official-random", index=str(i)) for i in range(200)]
    assert drawn == again
    assert {letter: drawn.count(letter) > 20 for letter in PARTS} == dict.fromkeys(PARTS, True)
    assert extract_choice("no idea", {}, "mmmu-official-random") is None


TEXTS = st.text(alphabet=st.sampled_from("ABCDEZabcz .()*:\n,answeri1%'\u0130\u4e00"), max_size=40)
OPTIONS = st.dictionaries(
    st.sampled_from(string.ascii_uppercase[:9]), st.one_of(st.none(), TEXTS, st.floats()), max_size=6
)


@settings(deadline=None)
@given(reply=st.one_of(TEXTS, st.none(), st.floats()), options=OPTIONS, rules=st.sampled_from(sorted(RULE_SETS)))
def test_gives_an_option_or_z_or_none(reply: object, options: dict[str, object], rules: str) -> None:
    assert extract_choice(reply, options, rules) in {*lettered(options), "Z", None}


@settings(deadline=None)
@given(reply=TEXTS, options=OPTIONS)
def test_the_changes_of_2025_only_take_letters_away_or_find_a_text(reply: str, options: dict[str, object]) -> None:
    old, new = (extract_choice(reply, options, rules) for rules in ("vlmevalkit-legacy", "vlmevalkit-2025-09"))
    texts = [letter for letter, text in lettered(options).items() if text.lower() in reply.lower()]
    assert new in (old, None) or texts == [new]
    latest = extract_choice(reply, options, NEW)
    assert new == latest or latest in {"A", "B", "C", "D"}


@settings(deadline=None)
@given(letter=st.sampled_from("ABCD"), rules=st.sampled_from(sorted(RULE_SETS)))
def test_every_rule_set_reads_a_bare_letter(letter: str, rules: str) -> None:
    assert extract_choice(letter, PARTS, rules) == letter
    assert score_row("mmmu_dev_val", letter, letter, PARTS, rules) == 1


@pytest.mark.parametrize("rules", sorted(RULE_SETS))
@pytest.mark.parametrize(
    "piece", ["1", "a ", "answer ", "answer is *", "*", "A B ", "1,", "1.", "1e", "\n", "so is ", "-"]
)
def test_a_reply_of_200_000_characters_is_read(rules: str, piece: str) -> None:
    # Work that grows with the square of the length would take minutes here.
    reply = (piece * 200_000)[:200_000] + "x"
    assert extract_choice(reply, SIX, rules) in {*SIX, None}
    assert score_row("mmmu_dev_val", reply, "a reference", {}, rules) in {0, 1}

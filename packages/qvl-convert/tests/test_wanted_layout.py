"""A layout from flags: what is left out is derived, what is wrong is told in the words of the flags."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qvl_convert.wanted_layout import layout_of_flags, layout_text
from qvl_core.errors import RecipeError
from qvl_core.layout import Layout
from qvl_core.layout_rules import check_layout
from qvl_core.specs import load_spec

SEVEN = load_spec("qwen2.5-vl-7b")


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ((None, None, None, None), Layout(vision_stages=(32,), text_stages=(28,))),
        ((4, None, None, None), Layout(tp=4, vision_stages=(32,), text_stages=(28,))),
        ((None, None, "32,0", "12,16"), Layout(pp=2, vision_stages=(32, 0), text_stages=(12, 16))),
        ((1, 4, "32,0,0,0", "1,10,10,7"), Layout(pp=4, vision_stages=(32, 0, 0, 0), text_stages=(1, 10, 10, 7))),
        ((1, None, " [32, 0] ", "12, 16"), Layout(pp=2, vision_stages=(32, 0), text_stages=(12, 16))),
    ],
)
def test_flags_give_a_layout(flags, wanted):
    assert layout_of_flags(SEVEN, *flags) == wanted


@given(st.integers(1, 28), st.sampled_from([1, 2, 4]))
def test_derived_stages_are_legal_and_the_flags_name_them(pp, tp):
    layout = layout_of_flags(SEVEN, tp, pp, None, None)
    assert not check_layout(SEVEN, layout)
    stages = [",".join(map(str, counts)) for counts in (layout.vision_stages, layout.text_stages)]
    assert layout_of_flags(SEVEN, tp, pp, *stages) == layout
    assert layout_text(layout) == f"tp {tp}, pp {pp}, vision stages {stages[0]}, text stages {stages[1]}"


@pytest.mark.parametrize("stages", ["1,10,10,7", "7,7,7,7", "0,8,10,10", "0,0,14,14"])
def test_one_list_alone_is_kept_and_the_other_derived(stages):
    layout = layout_of_flags(SEVEN, 1, 4, None, stages)
    assert ",".join(map(str, layout.text_stages)) == stages
    assert not check_layout(SEVEN, layout)


def test_one_list_alone_that_no_other_can_complete_is_refused():
    with pytest.raises(RecipeError, match="--text-stages"):
        layout_of_flags(SEVEN, 1, 4, None, "28,0,0,0")


@pytest.mark.parametrize(
    ("flags", "key", "message", "fix"),
    [
        ((3, 1, None, None), "--tp", "is 3, which does not divide", "--tp 2"),
        ((1, 61, None, None), "--pp", "is 61", "--pp 28"),
        ((1, 2, "32,0", "12,15"), "--text-stages", "adds up to 27", "--text-stages 12,16"),
        ((1, 2, None, "12,16,0"), "--text-stages", "3", "--text-stages "),
        ((1, 2, "32;0", None), "--vision-stages", "is '32;0'", "--vision-stages 1,10,10,7"),
        ((1, 2, "", None), "--vision-stages", "is ''", ""),
        ((1, 2, "-1,33", None), "--vision-stages", "is '-1,33'", ""),
        ((1, 2, "99999,0", None), "--vision-stages", "whole number", ""),
        ((1, 1, ",".join(["0"] * 2000), None), "--vision-stages", "whole number", ""),
    ],
)
def test_what_is_wrong_is_told_in_the_words_of_the_flags(flags, key, message, fix):
    with pytest.raises(RecipeError) as caught:
        layout_of_flags(SEVEN, *flags)
    problem = caught.value.problems[0]
    assert (problem.where, problem.key) == ("command line", key)
    assert message in problem.message
    assert fix in problem.fix
    assert "layout." not in str(caught.value)


def test_all_problems_are_told_at_once():
    with pytest.raises(RecipeError) as caught:
        layout_of_flags(SEVEN, 1, 2, "30,0", "12,15")
    assert [problem.key for problem in caught.value.problems] == ["--vision-stages", "--text-stages"]

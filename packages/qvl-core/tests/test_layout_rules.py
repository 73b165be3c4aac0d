"""Layout rules: each refuses a bad layout with its numbers and a fix that is right, and accepts its neighbour."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qvl_core import layout_rules
from qvl_core.errors import Problem
from qvl_core.layout import Layout
from qvl_core.params import parameter_count, parameter_table
from qvl_core.specs import ModelSpec, load_spec

TINY = load_spec("qwen2.5-vl-tiny")
SEVEN = load_spec("qwen2.5-vl-7b")
SIZES = {name: load_spec(f"qwen2.5-vl-{name}") for name in ("3b", "7b", "32b", "72b", "tiny")}
VISION = (32, 0, 0, 0)
TEXT = (1, 10, 10, 7)


def only(problems: list[Problem]) -> Problem:
    assert len(problems) == 1, [problem.render() for problem in problems]
    return problems[0]


def stages_in(fix: str, kind: str) -> list[int]:
    found = re.search(rf"{kind}_stages = \[([\d, ]+)\]", fix)
    assert found, fix
    return [int(number) for number in found[1].split(",")]


def check(vision: tuple[int, ...], text: tuple[int, ...], pp: int = 4, spec: ModelSpec = SEVEN) -> list[Problem]:
    return layout_rules.check_stages(spec, pp, vision, text)


@pytest.mark.parametrize(
    ("vision", "text"),
    [
        ((32, 0, 0, 0), (1, 10, 10, 7)),
        ((30, 2, 0, 0), (0, 11, 10, 7)),
        ((8, 8, 8, 8), (0, 0, 0, 28)),
        ((32, 0, 0, 0), (0, 10, 10, 8)),
    ],
)
def test_legal_stage_lists(vision: tuple[int, ...], text: tuple[int, ...]) -> None:
    assert check(vision, text) == []


def test_refuses_vision_after_the_first_text_layer() -> None:
    problem = only(check((30, 2, 0, 0), TEXT))
    assert problem.key == "layout.vision_stages"
    assert problem.message == "puts 2 vision layers on stage 1, after stage 0, which has text layers already"
    assert check(tuple(stages_in(problem.fix, "vision")), TEXT) == []


def test_refuses_a_sum_that_is_not_the_depth() -> None:
    problem = only(check(VISION, (1, 10, 10, 6)))
    assert problem.key == "layout.text_stages"
    assert problem.message == "adds up to 27; qwen2.5-vl-7b has 28 text layers"
    assert problem.fix == "make the 4 numbers add up to 28, for example [1, 10, 10, 7]"


@pytest.mark.parametrize(
    ("text", "corrected"),
    [((1, 10, 10, 9), "[1, 10, 10, 7]"), ((40, 1, 1, 1), "[25, 1, 1, 1]"), ((0, 9, 9, 9), "[0, 9, 9, 10]")],
)
def test_corrected_list_changes_little(text: tuple[int, ...], corrected: str) -> None:
    assert corrected in only(check(VISION, text)).fix


def test_refuses_a_vision_sum_without_moving_vision() -> None:
    assert "[32, 0, 0, 0]" in only(check((30, 0, 0, 0), TEXT)).fix


def test_refuses_lists_of_the_wrong_length() -> None:
    problems = check(VISION, TEXT, pp=2)
    assert [problem.key for problem in problems] == ["layout.vision_stages", "layout.text_stages"]
    assert problems[0].message == "has 4 entries; layout.pp is 2, so it needs 2"
    fixed = [tuple(stages_in(problem.fix, kind)) for problem, kind in zip(problems, ("vision", "text"), strict=True)]
    assert fixed == [(32, 0), (12, 16)]
    assert check(*fixed, pp=2) == []


def test_refuses_an_empty_stage() -> None:
    problem = only(check((32, 0, 0, 0), (10, 0, 9, 9)))
    assert problem.message == "stage 1 has neither a vision nor a text layer"
    assert check(tuple(stages_in(problem.fix, "vision")), tuple(stages_in(problem.fix, "text"))) == []


def test_refuses_several_empty_stages_in_one_sentence() -> None:
    assert "stages 1 and 2 have" in only(check((32, 0, 0, 0), (10, 0, 0, 18))).message


def test_refuses_more_stages_than_layers() -> None:
    problem = only(list(layout_rules.check_pipeline_degree(TINY, 9)))
    assert "is 9, but qwen2.5-vl-tiny has 4 vision and 4 text layers: 8 stages at most" in problem.message
    assert list(layout_rules.check_pipeline_degree(TINY, 8)) == []


def test_inference_refuses_a_cut_vision_tower() -> None:
    problem = only(list(layout_rules.check_vision_on_first_stage(SEVEN, (30, 2, 0, 0))))
    assert problem.fix == "vision_stages = [32, 0, 0, 0]"
    assert list(layout_rules.check_vision_on_first_stage(SEVEN, VISION)) == []


@pytest.mark.parametrize(
    ("name", "legal"), [("3b", (1, 2)), ("7b", (1, 2, 4)), ("32b", (1, 2, 4, 8)), ("72b", (1, 2, 4, 8))]
)
def test_legal_tensor_degrees_are_the_published_ones(name: str, legal: tuple[int, ...]) -> None:
    assert layout_rules.legal_tensor_degrees(SIZES[name]) == legal


def test_refuses_a_tensor_degree_with_everything_that_it_does_not_divide() -> None:
    problem = only(list(layout_rules.check_tensor_degree(SEVEN, 8)))
    assert problem.key == "layout.tp"
    assert problem.message == (
        "is 8, which does not divide the 28 query heads, 4 KV heads and 3420 vision FFN columns of qwen2.5-vl-7b; "
        "legal are 1, 2, 4"
    )
    assert problem.fix == "tp = 4"
    assert list(layout_rules.check_tensor_degree(SEVEN, 4)) == []


@pytest.mark.parametrize(
    "part",
    [
        ("text", "num_heads"),
        ("text", "num_kv_heads"),
        ("text", "intermediate_size"),
        ("text", "vocab_size"),
        ("vision", "num_heads"),
        ("vision", "intermediate_size"),
    ],
    ids=".".join,
)
def test_each_size_that_is_cut_is_checked(part: tuple[str, str]) -> None:
    component, size = part
    odd = replace(SEVEN, **{component: replace(getattr(SEVEN, component), **{size: 7 * 11 * 13})})
    assert "1001" in only(list(layout_rules.check_tensor_degree(odd, 2))).message


@pytest.mark.parametrize("dp", [None, 1, 2])
@pytest.mark.parametrize(("tp", "pp", "nodes", "per_node"), [(1, 3, 2, 1), (2, 4, 3, 5), (4, 5, 8, 8), (1, 7, 6, 2)])
def test_fix_of_the_world_makes_the_product_right(tp: int, pp: int, dp: int | None, nodes: int, per_node: int) -> None:
    if dp is None:
        problem = only(list(layout_rules.check_devices_divide(tp, pp, nodes, per_node)))
    else:
        problem = only(list(layout_rules.check_world(tp, pp, dp, nodes, per_node)))
    pasted = dict(re.findall(r"^(\w+) = (\d+)", problem.fix, re.MULTILINE))
    per_node = int(pasted.get("devices_per_node", per_node))
    if dp is None:
        assert list(layout_rules.check_devices_divide(tp, pp, nodes, per_node)) == []
    else:
        assert list(layout_rules.check_world(tp, pp, int(pasted.get("dp", dp)), nodes, per_node)) == []


def test_world_is_the_product_of_the_degrees() -> None:
    problem = only(list(layout_rules.check_world(2, 4, 2, 1, 8)))
    assert "tp * pp * dp = 2 * 4 * 2 = 16" in problem.message
    assert "1 * 8 = 8" in problem.message
    assert problem.fix == "dp = 1\nor devices_per_node = 16 under [launch]"
    assert list(layout_rules.check_world(2, 4, 1, 1, 8)) == []


def test_world_that_no_replica_count_reaches() -> None:
    problem = only(list(layout_rules.check_devices_divide(1, 3, 1, 8)))
    assert "8 devices" in problem.message
    assert problem.fix == "devices_per_node = 3 under [launch]"
    assert list(layout_rules.check_devices_divide(1, 4, 1, 8)) == []


@pytest.mark.parametrize(("batch", "fix"), [(193, "192"), (1, "2"), (195, "196")])
def test_global_batch_is_whole_micro_batches_on_every_replica(batch: int, fix: str) -> None:
    problem = only(list(layout_rules.check_global_batch(batch, 1, 2)))
    assert f"is {batch}, not a multiple of micro_batch * dp = 1 * 2 = 2" in problem.message
    assert problem.fix == f"global_batch = {fix}"
    assert list(layout_rules.check_global_batch(int(fix), 1, 2)) == []


def test_zero1_without_replicas_is_a_warning_only() -> None:
    assert only(list(layout_rules.check_zero1(True, 1))).severity == "warning"
    assert list(layout_rules.check_zero1(True, 2)) == []
    assert list(layout_rules.check_zero1(False, 1)) == []


def test_check_layout_tells_all_rules_at_once() -> None:
    layout = Layout(vision_stages=(1, 0, 2), text_stages=(3, 0, 0), tp=3, pp=3)
    keys = [problem.key for problem in layout_rules.check_layout(SEVEN, layout, inference=True)]
    assert sorted(set(keys)) == ["layout.text_stages", "layout.tp", "layout.vision_stages"]
    assert len(keys) == 6
    whole = Layout.single(SEVEN)
    assert layout_rules.check_layout(SEVEN, whole, inference=True) == []


def test_derived_lists_of_7b_are_those_of_the_reference() -> None:
    # MindSpeed-MM's own two-stage split of 7B, found by its authors by measurement.
    assert layout_rules.derive_stages(SEVEN, 2) == ((32, 0), (12, 16))


@pytest.mark.parametrize("name", SIZES)
def test_derived_lists_are_legal_for_every_number_of_stages(name: str) -> None:
    spec = SIZES[name]
    for pp in range(1, spec.vision.depth + spec.text.num_layers + 1):
        vision, text = layout_rules.derive_stages(spec, pp)
        inference = pp <= spec.text.num_layers + 1
        assert layout_rules.check_stages(spec, pp, vision, text, inference=inference) == [], (pp, vision, text)


@pytest.mark.parametrize("name", ["3b", "7b", "32b", "72b"])
@pytest.mark.parametrize("pp", [2, 4, 8])
def test_derived_stages_cost_about_the_same(name: str, pp: int) -> None:
    spec = SIZES[name]
    vision, text = layout_rules.derive_stages(spec, pp)
    layer, head, vision_layer = layout_rules._costs(spec)
    costs = [count * layer + before * vision_layer for before, count in zip(vision, text, strict=True)]
    costs[-1] += head
    # The slowest stage decides the speed. No split of whole layers beats the mean by more than one layer, unless the
    # vision tower or the head alone is dearer than the mean.
    floor = max(sum(costs) / pp, vision[0] * vision_layer, head + layer)
    assert max(costs) <= floor + layer


def test_stated_list_is_kept_and_the_other_one_fits_it() -> None:
    assert layout_rules.derive_stages(SEVEN, 4, text_stages=(1, 10, 10, 7))[0] == (32, 0, 0, 0)
    assert layout_rules.derive_stages(SEVEN, 4, text_stages=(0, 0, 14, 14))[0] == (16, 16, 0, 0)
    vision, text = layout_rules.derive_stages(SEVEN, 4, vision_stages=(16, 16, 0, 0))
    assert vision == (16, 16, 0, 0)
    assert text[0] == 0
    assert check(vision, text) == []


def test_vision_list_with_a_hole_has_no_text_list() -> None:
    problem = only(list(layout_rules.check_text_covers_stages(SEVEN, (16, 0, 16, 0))))
    assert "1 before the last vision layer" in problem.message
    assert list(layout_rules.check_text_covers_stages(SEVEN, VISION)) == []


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 6).flatmap(
        lambda pp: st.tuples(
            st.just(pp),
            st.lists(st.integers(0, 5), min_size=pp, max_size=pp),
            st.lists(st.integers(0, 5), min_size=pp, max_size=pp),
        )
    )
)
def test_accepted_layouts_have_every_parameter_on_its_stage(case: tuple[int, list[int], list[int]]) -> None:
    pp, vision, text = case
    if layout_rules.check_stages(TINY, pp, vision, text):
        return
    table = parameter_table(TINY, Layout(vision_stages=tuple(vision), text_stages=tuple(text), pp=pp))
    assert {stage for parameter in table for stage in parameter.stages} == set(range(pp))
    assert sum(parameter.size for parameter in table) == parameter_count(TINY)
    last_vision = max(max(row.stages) for row in table if row.component == "vision")
    assert last_vision <= min(min(row.stages) for row in table if row.component == "text")

"""The cases are what they say: all and only legal layouts, every pair of values, the same on every machine."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, product

import pytest
from cases import FREEZES, MIXES, RECOMPUTE, REDUCTIONS, Case
from qvl_core.layout import Layout
from qvl_core.layout_rules import check_layout
from qvl_core.specs.model_spec import ModelSpec
from selection import ACCUMULATIONS, covering, every, legal_degrees, legal_stages, selection, split_kind
from specs import SPECS, TINY

_FEW_LAYERS = replace(TINY, vision=replace(TINY.vision, depth=2), text=replace(TINY.text, num_layers=3))


def _is_legal(spec: ModelSpec, vision: tuple[int, ...], text: tuple[int, ...], tp: int = 1) -> bool:
    return not check_layout(spec, Layout(tp=tp, pp=len(vision), vision_stages=vision, text_stages=text))


@pytest.mark.parametrize("pp", [1, 2, 3])
def test_no_other_stage_lists_are_legal(pp: int) -> None:
    """All lists of numbers up to one more than the layers, whether they add up or not."""
    numbers = list(product(range(5), repeat=pp))
    legal = {pair for pair in product(numbers, numbers) if _is_legal(_FEW_LAYERS, *pair)}
    assert legal == set(legal_stages(_FEW_LAYERS, pp))


@pytest.mark.parametrize("pp", [4, 5, 6])
def test_no_other_stage_lists_that_add_up_are_legal(pp: int) -> None:
    vision = [numbers for numbers in product(range(3), repeat=pp) if sum(numbers) == 2]
    text = [numbers for numbers in product(range(4), repeat=pp) if sum(numbers) == 3]
    legal = {pair for pair in product(vision, text) if _is_legal(_FEW_LAYERS, *pair)}
    assert legal == set(legal_stages(_FEW_LAYERS, pp))


def test_the_tiny_model_has_128_legal_stage_lists_on_up_to_8_stages() -> None:
    counts = [len(legal_stages(TINY, pp)) for pp in range(1, 10)]
    assert counts == [1, 7, 21, 35, 35, 21, 7, 1, 0]
    assert all(_is_legal(TINY, *pair) for pp in range(1, 9) for pair in legal_stages(TINY, pp))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_all_legal_degrees_and_no_others_are_listed(spec: ModelSpec) -> None:
    found = set()
    for tp, pp, dp in product(range(1, 9), repeat=3):
        stages = legal_stages(spec, pp)
        if tp * pp * dp <= 8 and stages and _is_legal(spec, *stages[0], tp=tp):
            found.add((tp, pp, dp))
    assert set(legal_degrees(spec)) == found


def test_the_covering_cases_have_every_degree_and_every_pair_of_values() -> None:
    cases = covering()
    assert {(case.tp, case.pp, case.dp) for case in cases} == set(legal_degrees(TINY))
    values = {
        "zero1": (False, True),
        "recompute": RECOMPUTE,
        "accumulation": ACCUMULATIONS,
        "mix": MIXES,
        "freeze": FREEZES,
        "reduction": REDUCTIONS,
        "tp": (1, 2),
        "pp": tuple(range(1, 9)),
        "dp": tuple(range(1, 9)),
    }
    places = {"tp", "pp", "dp"}
    for left, right in combinations(values, 2):
        found = {(getattr(case, left), getattr(case, right)) for case in cases}
        wanted = set(product(values[left], values[right]))
        if {left, right} <= places:
            assert found <= wanted
        else:
            assert found == wanted, (left, right, wanted - found)


def test_the_covering_cases_have_every_kind_of_split_with_every_value() -> None:
    cases = covering()
    kinds = {split_kind(*stages) for pp in range(1, 9) for stages in legal_stages(TINY, pp)}
    assert len(kinds) == 5
    for name, values in {"mix": MIXES, "freeze": FREEZES, "recompute": RECOMPUTE, "zero1": (False, True)}.items():
        found = {(split_kind(case.vision_stages, case.text_stages), getattr(case, name)) for case in cases}
        assert found == set(product(kinds, values)), name


def test_all_cases_of_a_run_are_legal_and_different() -> None:
    cases = selection()
    assert len({case.name for case in cases}) == len(cases)
    for case in cases:
        assert _is_legal(SPECS[case.spec], case.vision_stages, case.text_stages, case.tp), case.name
        assert case.world_size <= 8
        assert Case.from_json(case.to_json()) == case


def test_the_exhaustive_list_has_every_combination_once() -> None:
    places = sum(len(legal_stages(TINY, pp)) for _, pp, _ in legal_degrees(TINY))
    cases = list(every())
    assert len(cases) == places * 2 * len(RECOMPUTE) * len(ACCUMULATIONS) * len(MIXES) * len(FREEZES)
    assert len(set(cases)) == len(cases)

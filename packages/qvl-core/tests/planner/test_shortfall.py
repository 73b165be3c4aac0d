"""What would fit where nothing does: the least memory, and the fewest devices."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planned_jobs import FREEZES, SEVEN, TINY, found, job_of
from qvl_core.layout import Layout
from qvl_core.params import Component
from qvl_core.planner import search as search_module
from qvl_core.planner.costs import Choice, SharedCosts
from qvl_core.planner.fewest import StagesNeeded
from qvl_core.planner.memory import GIB
from qvl_core.planner.plan import make_plan
from qvl_core.planner.search import choices, shortfall
from qvl_core.planner.splits import SplitSearch
from qvl_core.planner.workload import assumed_workload
from qvl_core.specs.load import load_spec
from qvl_core.specs.model_spec import ModelSpec


def test_the_least_memory_may_have_vision_on_more_stages_too() -> None:
    spec = load_spec("qwen2.5-vl-3b")
    load = replace(assumed_workload(8192), media_tokens=0.0, longest_media=int(0.95 * 8192), longest_labels=64)
    job = job_of(spec, workload=load, global_batch=1, freeze=("text",))
    known = Layout(tp=2, pp=8, dp=1, vision_stages=(5, 6, 6, 6, 5, 4, 0, 0), text_stages=(0, 0, 0, 0, 0, 0, 18, 18))
    recomputed: tuple[frozenset[Component], ...] = (frozenset(), frozenset({"vision", "merger", "text"}))
    least = min(make_plan(job, known, recompute=parts, micro_batch=1).memory for parts in recomputed)
    short = shortfall(job, 16, 1 * GIB).least
    assert short is not None
    assert short.memory <= least * 1.002 < 6.2 * GIB


def test_the_least_memory_is_that_of_every_recomputation() -> None:
    job = job_of(SEVEN, global_batch=24)
    short = shortfall(job, 8, 10 * GIB)
    assert short.least is not None
    each = [
        SplitSearch(SharedCosts(job), choice).least_bytes() for choice in choices(job, 8) if choice.micro_batch == 1
    ]
    assert short.least.memory <= 1.002 * min(one[0] for one in each if one is not None)


@pytest.mark.parametrize(
    ("spec", "memory", "batch", "freeze"),
    [(SEVEN, 9.0, 24, ()), (SEVEN, 7.5, 15, ("vision", "merger")), (load_spec("qwen2.5-vl-72b"), 7.4, 384, FREEZES[1])],
)
def test_the_fewest_devices_are_the_fewest(spec: ModelSpec, memory: float, batch: int, freeze: tuple[str, ...]) -> None:
    job = job_of(spec, global_batch=batch, freeze=freeze)
    short = shortfall(job, 1, memory * GIB)
    assert short.fewest is not None
    assert short.all_tried
    fewest = short.fewest.layout.world_size
    assert short.fewest.fits(memory * GIB)
    assert found(job, fewest, memory * GIB, top=1)
    smaller = [size for size in range(1, fewest) if size <= 8 or size % 8 == 0]
    assert not [size for size in smaller if found(job, size, memory * GIB, top=1)]


def test_where_no_number_of_devices_does_it_is_known_or_said_to_be_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(SEVEN, global_batch=24)
    short = shortfall(job, 8, 0.1 * GIB)
    assert (short.fewest, short.all_tried) == (None, True)
    known = shortfall(job, 8, 9 * GIB)
    monkeypatch.setattr(search_module, "_MOST_TRIED", 0)
    guessed = shortfall(job, 8, 9 * GIB)
    assert guessed.fewest is not None
    assert known.fewest is not None
    assert not guessed.all_tried
    assert guessed.fewest.layout.world_size >= known.fewest.layout.world_size


@settings(deadline=None, max_examples=80)
@given(
    spec=st.sampled_from([TINY, SEVEN, load_spec("qwen2.5-vl-32b")]),
    freeze=st.sampled_from([*FREEZES, ("vision", "text")]),
    length=st.sampled_from([64, 1024, 16_384]),
    tp=st.sampled_from([1, 2]),
    pp=st.integers(2, 24),
    dp=st.sampled_from([1, 2, 4, 24]),
    recompute=st.sampled_from([frozenset(), frozenset({"text"}), frozenset({"vision", "merger", "text"})]),
    share=st.floats(0.3, 1.5),
    task=st.sampled_from(["train", "generate"]),
)
def test_stages_that_are_ruled_out_have_no_split(
    spec: ModelSpec,
    freeze: tuple[str, ...],
    length: int,
    tp: int,
    pp: int,
    dp: int,
    recompute: frozenset[Component],
    share: float,
    task: str,
) -> None:
    load = assumed_workload(length)
    job = job_of(spec, freeze=freeze, workload=load, global_batch=48, task=task, batch=2, new_tokens=8)
    trains = task == "train"
    pp = min(pp, (spec.vision.depth if trains else 1) + spec.text.num_layers)
    choice = Choice(
        tp=tp,
        pp=pp,
        dp=dp,
        micro_batch=1 if trains else 2,
        recompute=recompute if trains else frozenset(),
        zero1=trains and dp > 1,
    )
    shared = SharedCosts(job)
    searched = SplitSearch(shared, choice)
    least = searched.least_bytes()
    if least is None:
        return
    limit = least[0] * share
    needed = StagesNeeded(shared, [1, 2, 4, 24], limit).of(choice)
    assert pp >= needed or not searched.fits(limit)


def test_a_memory_that_no_layer_fits_in_is_known_to_be_too_small() -> None:
    # 83,160 has 128 divisors: "none of those that were tried" was all that was said.
    job = job_of(SEVEN, freeze=("vision", "merger"), global_batch=83_160, workload=assumed_workload(32_768))
    short = shortfall(job, 8, 9 * GIB)
    assert (short.fewest, short.all_tried) == (None, True)

"""One plan: its memory and time follow what is known of layouts, devices, recomputation and the pipeline."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planned_jobs import FREEZES, LORA, SEVEN, TINY, job_of
from qvl_core.layout import Layout
from qvl_core.parallel.clock import StageTimes, simulate
from qvl_core.planner import search as search_module
from qvl_core.planner.costs import SharedCosts
from qvl_core.planner.memory import GIB
from qvl_core.planner.plan import make_plan
from qvl_core.planner.search import choices, search
from qvl_core.planner.splits import SplitSearch
from qvl_core.planner.workload import assumed_workload
from qvl_core.specs.load import load_spec
from qvl_core.specs.model_spec import ModelSpec


@settings(deadline=None, max_examples=40)
@given(
    pp=st.integers(1, 6),
    batch=st.integers(1, 40),
    freeze=st.sampled_from(FREEZES[:3]),
    data=st.data(),
)
def test_the_account_of_the_pipeline_is_near_the_simulated_clock(
    pp: int, batch: int, freeze: tuple[str, ...], data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(1, 27), min_size=pp - 1, max_size=pp - 1, unique=True)))
    text = tuple(b - a for a, b in zip([0, *cuts], [*cuts, 28], strict=True))
    layout = Layout(pp=pp, vision_stages=(32, *[0] * (pp - 1)), text_stages=text)
    plan = make_plan(job_of(SEVEN, freeze=freeze, global_batch=batch), layout)
    times = [
        StageTimes(
            forward=(stage.forward.total,) * batch,
            backward=(stage.backward.total,) * batch if stage.backward.total else (),
        )
        for stage in plan.stages
    ]
    account = plan.fill_s + (batch - 1) * plan.stages[plan.slowest].micro_batch_s
    # Any split, however lopsided; balanced ones agree (below).
    assert 0.7 * account <= simulate(times).makespan <= 1.15 * account
    assert plan.step_s >= account * (1 - 1e-9)
    # What a plan shows beside it is that clock, with all updates at the end.
    ends = max(stage.replicas_s + stage.update_s for stage in plan.stages)
    makespan = simulate(times).makespan
    assert makespan * (1 - 1e-9) <= plan.clock_s <= makespan * 1.01 + ends


def test_balanced_stages_have_the_known_bubble() -> None:
    vision = replace(SEVEN.vision, depth=1, full_attention_blocks=())
    spec = replace(SEVEN, vision=vision, text=replace(SEVEN.text, vocab_size=16))
    load = replace(assumed_workload(4096), media_tokens=0.0, labels=0.0)
    job = job_of(spec, freeze=("vision", "merger"), global_batch=12, workload=load)
    plan = make_plan(job, Layout(pp=4, vision_stages=(1, 0, 0, 0), text_stages=(7, 7, 7, 7)))
    # (p - 1) / (m + p - 1), and a little for what the last stage does not run again.
    assert 3 / 15 <= plan.bubble == pytest.approx(3 / 15, abs=0.06)


def test_a_sharper_device_is_faster_and_a_slower_link_is_slower() -> None:
    job = job_of(SEVEN, freeze=("vision", "merger"))
    layout = Layout(tp=2, pp=2, dp=2, vision_stages=(32, 0), text_stages=(12, 16))
    plain = make_plan(job, layout, zero1=True)
    sharper = replace(job, device=replace(job.device, peak_tflops=1000.0))
    slower = replace(job, device=replace(job.device, near_gb_per_s=5.0))
    assert make_plan(sharper, layout, zero1=True).step_s < plain.step_s < make_plan(slower, layout, zero1=True).step_s


def test_recomputation_saves_memory_and_costs_time() -> None:
    job = job_of(SEVEN, workload=assumed_workload(8192))
    layout = Layout.single(SEVEN)
    plain = make_plan(job, layout)
    recomputed = make_plan(job, layout, recompute=frozenset({"text"}))
    assert recomputed.memory < plain.memory
    assert recomputed.step_s > plain.step_s
    assert recomputed.recompute_value() == ["text"]


def test_zero1_cuts_the_optimizer_and_nothing_else() -> None:
    job = job_of(SEVEN)
    layout = Layout(dp=4, vision_stages=(32,), text_stages=(28,))
    whole, sliced = make_plan(job, layout), make_plan(job, layout, zero1=True)
    assert sliced.stages[0].memory.moments == pytest.approx(whole.stages[0].memory.moments / 4, rel=1e-6)
    assert sliced.stages[0].memory.weights == whole.stages[0].memory.weights


@settings(deadline=None, max_examples=60)
@given(
    spec=st.sampled_from([TINY, SEVEN, load_spec("qwen2.5-vl-72b")]),
    freeze=st.sampled_from([*FREEZES, ("merger",), ("vision", "text")]),
    devices=st.sampled_from([1, 2, 6, 16]),
    number=st.integers(0, 10_000),
    length=st.sampled_from([64, 1024, 8192]),
    has_adapters=st.booleans(),
)
def test_a_larger_micro_batch_never_takes_less(
    spec: ModelSpec, freeze: tuple[str, ...], devices: int, number: int, length: int, has_adapters: bool
) -> None:
    # The search relies on it. 7B unfrozen on two devices took less with two samples than with one.
    load = assumed_workload(length)
    job = job_of(spec, global_batch=24, freeze=freeze, workload=load, lora=LORA if has_adapters else None)
    every = list(choices(job, devices))
    choice = every[number % len(every)]
    split = SplitSearch(SharedCosts(job), choice).best(1e18)
    assert split is not None
    sizes = [
        search_module.plan_of(job, replace(choice, micro_batch=size), split).memory
        for size in (1, 2, 3, 4, 6, 8, 12, 24)
        if 24 // choice.dp % size == 0
    ]
    assert all(more >= less * (1 - 1e-12) for less, more in pairwise(sizes))


def test_features_that_are_kept_take_no_time() -> None:
    """`data.vision_cache`: no vision layer runs in a step."""
    frozen = job_of(SEVEN, freeze=("vision", "merger"), global_batch=24)
    kept = replace(frozen, keeps_features=True)
    layout = Layout(pp=2, vision_stages=(32, 0), text_stages=(10, 18))
    plain, read = (make_plan(job, layout, micro_batch=4) for job in (frozen, kept))
    without = replace(frozen, workload=replace(frozen.workload, media_tokens=0.0))
    alone = make_plan(without, layout, micro_batch=4)
    assert read.stages[0].forward.total < plain.stages[0].forward.total
    assert read.stages[1].forward == plain.stages[1].forward == alone.stages[1].forward
    # What is left is the text's; patches of no media start operations all the same.
    assert read.stages[0].forward.compute == pytest.approx(
        sum(part.forward.compute for part in plain.stages[1:]) / 18 * 10, rel=0.3
    )
    assert read.memory <= plain.memory
    assert read.stages[0].memory.weights == plain.stages[0].memory.weights
    best = search(kept, 8, 64 * GIB, top=1)[0]
    assert best.step_s < search(frozen, 8, 64 * GIB, top=1)[0].step_s


@pytest.mark.parametrize("recomputed", [(), ("text",), ("vision", "merger")])
@pytest.mark.parametrize("tokens", [64, 1024, 32_768])
def test_gradients_are_no_more_than_the_model_and_no_less_than_what_they_replace(
    tokens: int, recomputed: tuple[str, ...]
) -> None:
    """Where activations are few, all gradients are there at the end, once: those of the text were counted twice."""
    job = job_of(SEVEN, workload=assumed_workload(tokens))
    plan = make_plan(job, Layout.single(SEVEN), recompute=frozenset(recomputed))
    (memory,) = (stage.memory for stage in plan.stages)
    every = 2 * memory.gradients / 4
    moving = memory.new_gradients + memory.vision + memory.merger + memory.text + memory.logits
    assert 0 <= memory.new_gradients <= every
    assert moving >= every
    if tokens == 64:
        assert moving <= every + 2 * memory.logits + memory.vision + memory.merger + memory.text

"""The search: plans are legal and fit, more memory never hurts, and trying everything finds nothing better."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planned_jobs import FREEZES, LORA, SEVEN, TINY, drawn_job, found, job_of
from qvl_core.layout import Layout
from qvl_core.layout_rules import check_layout
from qvl_core.planner.costs import StageCosts
from qvl_core.planner.job import MEGATRON, QVL, Engine, Job
from qvl_core.planner.memory import GIB
from qvl_core.planner.plan import Plan, make_plan
from qvl_core.planner.search import choices, nearest_devices, search, shortfall
from qvl_core.planner.workload import assumed_workload
from qvl_core.specs.load import load_spec
from qvl_core.specs.model_spec import ModelSpec


def lists(pp: int, depth: int) -> Iterator[tuple[int, ...]]:
    return (stages for stages in product(range(depth + 1), repeat=pp) if sum(stages) == depth)


def everything(job: Job, devices: int) -> Iterator[Plan]:
    """Give every legal plan there is, of the micro batches and recomputations that the search knows."""
    for choice in choices(job, devices):
        for vision, text in product(
            lists(choice.pp, job.spec.vision.depth), lists(choice.pp, job.spec.text.num_layers)
        ):
            layout = Layout(tp=choice.tp, pp=choice.pp, dp=choice.dp, vision_stages=vision, text_stages=text)
            if not check_layout(job.spec, layout):
                yield make_plan(
                    job, layout, recompute=choice.recompute, micro_batch=choice.micro_batch, zero1=choice.zero1
                )


@pytest.mark.parametrize(
    ("devices", "freeze"), [*((devices, freeze) for devices in (1, 2, 3) for freeze in FREEZES), (4, FREEZES[1])]
)
def test_no_plan_is_better_than_the_best(freeze: tuple[str, ...], devices: int) -> None:
    job = job_of(TINY, freeze=freeze)
    plans = list(everything(job, devices))
    sizes = sorted({plan.memory for plan in plans})
    for memory in (*sizes[:: max(1, len(sizes) // 5)], sizes[-1]):
        best = min(plan.step_s for plan in plans if plan.fits(memory))
        offered = found(job, devices, memory)
        assert offered[0].step_s <= best * (1 + 1e-9)


@settings(deadline=None, max_examples=25)
@given(
    job=drawn_job(TINY, depth=(1, 5), layers=(1, 5), lengths=[64, 4096], media=[0.0, 0.3]),
    vocabulary=st.sampled_from([16, 20_000]),
    engine=st.sampled_from([QVL, MEGATRON]),
    devices=st.sampled_from([2, 3]),
    share=st.floats(0, 1),
)
def test_no_plan_is_better_than_the_best_whatever_is_slow(
    job: Job, vocabulary: int, engine: Engine, devices: int, share: float
) -> None:
    spec = replace(job.spec, text=replace(job.spec.text, vocab_size=vocabulary))
    job = replace(job, spec=spec, device=replace(job.device, base_gib=0.0), engine=engine)
    plans = list(everything(job, devices))
    if not plans:
        assert not search(job, devices, 1e18)
        return
    sizes = sorted(plan.memory for plan in plans)
    memory = sizes[int(share * (len(sizes) - 1))]
    best = min(plan.step_s for plan in plans if plan.fits(memory))
    assert search(job, devices, memory, top=1)[0].step_s <= best * (1 + 1e-9)


def test_vision_may_lie_on_more_stages_than_its_share_of_the_time_fills() -> None:
    load = assumed_workload(1024)
    job = job_of(SEVEN, workload=load, global_batch=2)
    known = Layout(tp=4, pp=8, dp=1, vision_stages=(*[1] * 7, 25), text_stages=(*[0] * 7, 28))
    plan = make_plan(job, known, micro_batch=2)
    assert plan.fits(57.6 * GIB)
    # 9 % slower was the best before.
    assert search(job, 32, 57.6 * GIB, top=1)[0].step_s <= plan.step_s * (1 + 1e-9) < 0.622


def test_where_the_search_finds_nothing_there_is_nothing() -> None:
    job = job_of(TINY, global_batch=4)
    plans = list(everything(job, 4))
    least = min(plan.memory for plan in plans)
    assert not found(job, 4, least * 0.999)
    assert found(job, 4, least * 1.001)
    short = shortfall(job, 4, least * 0.9).least
    assert short is not None
    assert short.memory <= least * 1.001


@settings(deadline=None, max_examples=30)
@given(
    spec=st.sampled_from([TINY, SEVEN, load_spec("qwen2.5-vl-3b"), load_spec("qwen2.5-vl-32b")]),
    freeze=st.sampled_from(FREEZES),
    devices=st.sampled_from([1, 2, 6, 8, 12, 16, 64]),
    memory=st.floats(1.0, 80.0),
    more=st.floats(1.0, 3.0),
    batch=st.sampled_from([8, 24, 96]),
    length=st.sampled_from([64, 1024, 8192]),
    has_adapters=st.booleans(),
)
def test_plans_are_legal_and_fit_and_more_memory_is_never_worse(
    spec: ModelSpec,
    freeze: tuple[str, ...],
    devices: int,
    memory: float,
    more: float,
    batch: int,
    length: int,
    has_adapters: bool,
) -> None:
    job = job_of(
        spec,
        freeze=freeze,
        global_batch=batch,
        workload=assumed_workload(length),
        lora=LORA if has_adapters else None,
    )
    plans = search(job, devices, memory * GIB, top=3)
    for plan in plans:
        assert not check_layout(spec, plan.layout)
        assert plan.layout.world_size == devices
        assert plan.fits(memory * GIB)
        assert batch % (plan.micro_batch * plan.layout.dp) == 0
        assert sum(plan.shares.values()) == pytest.approx(1)
        assert 0 <= plan.bubble < 1
    assert [plan.step_s for plan in plans] == sorted(plan.step_s for plan in plans)
    larger = search(job, devices, memory * more * GIB, top=1)
    if plans:
        assert larger[0].step_s <= plans[0].step_s * (1 + 1e-12)


@settings(deadline=None, max_examples=20)
@given(devices=st.sampled_from([1, 2, 4, 8]), memory=st.floats(2.0, 64.0), batch=st.integers(1, 8))
def test_plans_for_answers_keep_vision_on_the_first_stage(devices: int, memory: float, batch: int) -> None:
    job = job_of(SEVEN, task="generate", batch=batch, new_tokens=100)
    for plan in search(job, devices, memory * GIB):
        assert not check_layout(SEVEN, plan.layout, inference=True)
        assert plan.fits(memory * GIB)
        assert all(stage.memory.gradients == 0 for stage in plan.stages)
        assert sum(stage.memory.kv_cache for stage in plan.stages) > 0


def test_the_search_does_not_grow_with_what_it_may_choose_from(monkeypatch: pytest.MonkeyPatch) -> None:
    # Seconds depend on the machine, looks at stages do not: it took 110,000 of them, and 3.3 s, before.
    looks = 0
    make = StageCosts._make

    def counted(self: StageCosts, key: Any) -> Any:
        nonlocal looks
        looks += 1
        return make(self, key)

    monkeypatch.setattr(StageCosts, "_make", counted)
    job = job_of(load_spec("qwen2.5-vl-72b"), global_batch=20_160, workload=assumed_workload(1024))
    assert len(list(choices(job, 4032))) > 3000
    assert search(job, 4032, 57 * GIB)
    assert looks < 30_000


@pytest.mark.parametrize("batch", [1, 7, 24, 97])
def test_the_nearest_devices_are_the_nearest_that_a_layout_makes_up(batch: int) -> None:
    job = job_of(SEVEN, global_batch=batch)
    possible = [count for count in range(1, 600) if any(True for _ in choices(job, count))]
    for devices in (1, 59, 61, 97, 113, 300):
        assert nearest_devices(job, devices) == min(possible, key=lambda count: abs(count - devices))

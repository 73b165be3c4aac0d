"""Stage lists of one choice: counted as plans are, refused where none fit, and none is better."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planned_jobs import FREEZES, LORA, SEVEN, TINY, drawn_job, job_of
from qvl_core.layout import Layout
from qvl_core.planner import search as search_module
from qvl_core.planner import vision_spreads as spreads_module
from qvl_core.planner.costs import Choice, SharedCosts
from qvl_core.planner.job import MEGATRON, QVL, Engine, Job
from qvl_core.planner.memory import GIB
from qvl_core.planner.plan import make_plan
from qvl_core.planner.search import choices
from qvl_core.planner.splits import SplitSearch
from qvl_core.specs.load import load_spec
from qvl_core.specs.model_spec import ModelSpec


@settings(deadline=None, max_examples=80)
@given(
    job=drawn_job(SEVEN, depth=(9, 11), layers=(1, 12), lengths=[64, 1024, 32_768], media=[0.0, 0.3, 0.95]),
    pp=st.integers(2, 7),
    number=st.integers(0, 10_000),
    share=st.floats(1.002, 2.0),
)
def test_of_many_vision_layers_no_way_to_lay_them_is_better(job: Job, pp: int, number: int, share: float) -> None:
    load = replace(job.workload, longest_media=int(job.workload.media_tokens), longest_labels=64)
    job = replace(job, workload=load)
    every = [choice for choice in choices(job, pp) if choice.pp == pp]
    if not every:
        return
    choice = every[number % len(every)]
    searched = SplitSearch(SharedCosts(job), choice)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spreads_module, "_FEW_LAYERS", job.spec.vision.depth)
        all_tried = SplitSearch(SharedCosts(job), choice)
        least = all_tried.least_bytes()
        assert least is not None
        best = all_tried.best(least[0] * share)
    mine = searched.least_bytes()
    assert mine is not None
    assert mine[0] <= 1.002 * least[0]
    split = searched.best(least[0] * share)
    assert best is not None
    assert split is not None
    assert split.step_s <= best.step_s * (1 + 1e-9)


@settings(deadline=None, max_examples=60)
@given(
    spec=st.sampled_from([TINY, SEVEN, load_spec("qwen2.5-vl-32b")]),
    freeze=st.sampled_from(FREEZES),
    devices=st.sampled_from([2, 4, 6, 8, 16, 48]),
    number=st.integers(0, 10_000),
    share=st.floats(0.9, 1.3),
    task=st.sampled_from(["train", "generate"]),
)
def test_what_is_refused_without_a_search_has_no_split(
    spec: ModelSpec, freeze: tuple[str, ...], devices: int, number: int, share: float, task: str
) -> None:
    job = job_of(spec, global_batch=48, freeze=freeze, task=task, batch=2, new_tokens=8)
    every = list(choices(job, devices))
    searched = SplitSearch(SharedCosts(job), every[number % len(every)])
    least = searched.least_bytes()
    if least is None:
        return
    assert searched.least_memory() <= least[0]
    limit = least[0] * share
    quick = searched.best(limit)
    assert (quick is not None) == searched.fits(limit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SplitSearch, "fits", lambda *_: True)
        assert searched.best(limit) == quick


@settings(deadline=None, max_examples=40)
@given(
    spec=st.sampled_from([TINY, SEVEN, load_spec("qwen2.5-vl-72b")]),
    freeze=st.sampled_from(FREEZES),
    devices=st.sampled_from([2, 6, 16, 48]),
    number=st.integers(0, 10_000),
    share=st.floats(1.0, 3.0),
    task=st.sampled_from(["train", "generate"]),
    engine=st.sampled_from([QVL, MEGATRON]),
    has_adapters=st.booleans(),
    answered=st.sampled_from([0, 2, 64]),
    keeps=st.booleans(),
)
def test_the_search_counts_as_plans_do(
    spec: ModelSpec,
    freeze: tuple[str, ...],
    devices: int,
    number: int,
    share: float,
    task: str,
    engine: Engine,
    has_adapters: bool,
    answered: int,
    keeps: bool,
) -> None:
    asked = job_of(spec, task="generate", batch=answered, new_tokens=64) if answered and task == "train" else None
    job = job_of(
        spec,
        evaluation=asked,
        keeps_features=keeps and task == "train" and (has_adapters or "merger" in freeze),
        global_batch=48,
        freeze=freeze,
        task=task,
        batch=2,
        new_tokens=8,
        engine=engine,
        lora=LORA if has_adapters and task == "train" else None,
    )
    every = list(choices(job, devices))
    choice = every[number % len(every)]
    searched = SplitSearch(SharedCosts(job), choice)
    least = searched.least_bytes()
    split = searched.best(least[0] * share) if least is not None else None
    if split is None:
        return
    plan = search_module.plan_of(job, choice, split)
    assert searched.stage_bytes(split) == [stage.memory.total for stage in plan.stages]
    assert split.step_s == pytest.approx(plan.step_s, rel=1e-9)
    assert searched.least_step() <= split.step_s * (1 + 1e-9)


def test_of_plans_that_are_equally_fast_the_smaller_one_is_offered() -> None:
    job = job_of(load_spec("qwen2.5-vl-3b"), task="generate", batch=8, new_tokens=256)
    choice = Choice(tp=1, pp=2, dp=1, micro_batch=8, recompute=frozenset(), zero1=False)
    split = SplitSearch(SharedCosts(job), choice).leanest(57 * GIB)
    assert split is not None
    layouts = (Layout(pp=2, vision_stages=(32, 0), text_stages=(n, 36 - n)) for n in range(36))
    plans = [make_plan(job, layout) for layout in layouts]
    equal = [plan.memory for plan in plans if plan.step_s <= split.step_s * (1 + 1e-9)]
    assert len(equal) > 1
    assert search_module.plan_of(job, choice, split).memory <= 1.01 * min(equal)

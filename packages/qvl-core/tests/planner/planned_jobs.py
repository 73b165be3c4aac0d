"""Jobs that the tests of the planner plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from hypothesis import strategies as st
from qvl_core.lora_table import Lora
from qvl_core.planner.devices import device_facts
from qvl_core.planner.job import Job
from qvl_core.planner.plan import Plan
from qvl_core.planner.search import search
from qvl_core.planner.workload import assumed_workload
from qvl_core.specs.load import load_spec
from qvl_core.specs.model_spec import ModelSpec

TINY = load_spec("qwen2.5-vl-tiny")
SEVEN = load_spec("qwen2.5-vl-7b")
LORA = Lora(rank=8, alpha=16, dropout=0.0, components=("text",), targets=("q_proj", "v_proj"))
FREEZES = ((), ("vision", "merger"), ("vision",), ("text",))


def job_of(spec: ModelSpec, **changes: object) -> Job:
    values: dict[str, object] = {
        "global_batch": 24,
        "workload": assumed_workload(256),
        "device": device_facts("ascend-910b2"),
        **changes,
    }
    return Job(spec=spec, **values)  # type: ignore[arg-type]


@cache
def found(job: Job, devices: int, memory: float, top: int = 5) -> tuple[Plan, ...]:
    return search(job, devices, memory, top=top)


@st.composite
def drawn_job(
    draw: st.DrawFn,
    spec: ModelSpec,
    *,
    depth: tuple[int, int],
    layers: tuple[int, int],
    lengths: Sequence[int],
    media: Sequence[float],
) -> Job:
    """Draw a job of a model with as many vision and text layers, on a device where either link or peak may be slow."""
    length = draw(st.sampled_from(lengths))
    return job_of(
        replace(
            spec,
            vision=replace(spec.vision, depth=draw(st.integers(*depth)), full_attention_blocks=()),
            text=replace(spec.text, num_layers=draw(st.integers(*layers))),
        ),
        workload=replace(assumed_workload(length), media_tokens=draw(st.sampled_from(media)) * length),
        device=replace(
            device_facts("ascend-910b2"),
            near_gb_per_s=draw(st.sampled_from([0.1, 300.0])),
            peak_tflops=draw(st.sampled_from([0.01, 350.0])),
        ),
        global_batch=draw(st.sampled_from([1, 2, 6])),
        freeze=draw(st.sampled_from(FREEZES)),
    )

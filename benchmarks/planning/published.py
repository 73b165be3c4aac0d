"""Published memory of Qwen2.5-VL-7B in other engines, beside what our account gives for their settings.

    python benchmarks/planning/published.py

What a source does not state is assumed, and said: `assumed`. Their engine is Megatron's, not ours: activations of all
micro batches in flight are kept, gradients go into fp32 buffers one by one. Allocated memory is that of tensors; used
memory has runtime and communicators too, and what the allocator holds beyond tensors, which is not counted here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qvl_core import load_recipe
from qvl_core.layout import Layout
from qvl_core.lora_table import TARGETS, Lora
from qvl_core.params import Component
from qvl_core.planner.devices import device_facts
from qvl_core.planner.job import MEGATRON, MEGATRON_SEQUENCE, Engine, Job, job_of
from qvl_core.planner.memory import GIB, stage_memory
from qvl_core.planner.plan import make_plan
from qvl_core.planner.workload import Workload
from qvl_core.specs.load import load_spec

# Sequences of a fixed length, all of whose tokens have a row of logits: the reference cuts nothing out.
LENGTH = 1024
ROOT = Path(__file__).resolve().parents[2]
PLANNED_WITHIN = 0.15


@dataclass(frozen=True, kw_only=True)
class Point:
    """A published figure, GiB, with the settings it is planned with. `stage` None: the fullest rank."""

    name: str
    source: str
    published_gib: float
    layout: Layout
    device: str
    assumed: str
    global_batch: int
    length: int = LENGTH
    recompute: frozenset[Component] = frozenset()
    lora: Lora | None = None
    engine: Engine = MEGATRON
    stage: int | None = None
    allocated_only: bool = False


HALVES = {"vision_stages": (32, 0), "text_stages": (12, 16)}
WHOLE = {"vision_stages": (32,), "text_stages": (28,)}
RANK_8 = Lora(rank=8, alpha=16, dropout=0.0, components=("text",), targets=TARGETS["text"])
GUIDE = "MindSpeed-MM tensor-parallel guide, 910B2, 8 x 64 GB (facts E1)"
CI = "MindSpeed-MM system test, TP2 PP2, GBS 4, sequence 1024 (facts, section 9)"
SWIFT = "ms-swift, Megatron-SWIFT multimodal document, 2 x A100-80G (facts E1)"
ALL: frozenset[Component] = frozenset(("vision", "merger", "text"))

POINTS = (
    Point(
        name="7B full, TP1, 910B2", source=GUIDE, published_gib=50.26, layout=Layout(pp=2, dp=4, **HALVES),
        device="ascend-910b2", global_batch=192,
        assumed="PP2 [32,0] [12,16], DP4, micro batch 1, sequence 1024, distributed optimizer: the example's files; "
        "GB read as GiB",
    ),
    Point(
        name="7B full, TP2, 910B2", source=GUIDE, published_gib=34.20, layout=Layout(tp=2, pp=2, dp=2, **HALVES),
        device="ascend-910b2", global_batch=192, assumed="as above, with DP2",
    ),
    Point(
        name="7B full, TP2 PP2, stage 0", source=CI, published_gib=21206 / 1024,
        layout=Layout(tp=2, pp=2, dp=2, **HALVES), device="ascend-910b2", global_batch=4, stage=0, allocated_only=True,
        assumed="DP2, [32,0] [12,16], MB read as MiB, allocated by tensors",
    ),
    Point(
        name="7B full, TP2 PP2, stage 1", source=CI, published_gib=25975 / 1024,
        layout=Layout(tp=2, pp=2, dp=2, **HALVES), device="ascend-910b2", global_batch=4, stage=1, allocated_only=True,
        assumed="as above",
    ),
    Point(
        name="7B full, TP2 + SP, full recompute", source=SWIFT, published_gib=72.0, layout=Layout(tp=2, **WHOLE),
        device="a100-80g", global_batch=4, length=2048, recompute=ALL, engine=MEGATRON_SEQUENCE,
        assumed="micro batch of one pack of 2048, precise optimizer (18 bytes a parameter)",
    ),
    Point(
        name="7B LoRA rank 8, TP1", source=SWIFT, published_gib=23.0, layout=Layout(dp=2, **WHOLE), device="a100-80g",
        global_batch=4, length=2048, recompute=ALL, lora=RANK_8,
        assumed="adapters on all linear layers of the text, full recompute, one pack of 2048",
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Speed:
    """A published speed of the reference, samples a second of all devices, for a recipe of ours or another layout."""

    name: str
    source: str
    published: float
    recipe: str
    assumed: str
    layout: Layout | None = None


SPEEDS = (
    Speed(
        name="3B, 8 devices", source="MindSpeed-MM 2.1.0 README", published=23.77, recipe="3b_sft",
        assumed="the shipped layout",
    ),
    Speed(
        name="7B, 8 devices, 2.1.0", source="MindSpeed-MM 2.1.0 README", published=14.20, recipe="7b_sft",
        assumed="the shipped layout, 4 stages",
    ),
    Speed(
        name="7B, 8 devices, 2.2.0", source="MindSpeed-MM 2.2.0 README", published=18.82, recipe="7b_sft",
        layout=Layout(pp=2, dp=4, **HALVES), assumed="2 stages of 12 and 16, as its files have",
    ),
    Speed(
        name="32B, 16 devices", source="MindSpeed-MM README: 257.50 tokens/s", published=257.5 * 16 / 563,
        recipe="32b_sft", assumed="the shipped layout; tokens a second are those of a device",
    ),
)  # fmt: skip
NOT_PLANNED = {
    "72B, 4x8 A3, 322.96 tokens/s": "another device, and a layout that is not stated",
    "7B on 910B2, 11,042 and 6,088 tokens/s": "labelled per card, above the card's peak",
    "7B full, video, 4 GPUs, ZeRO-3: 48, 62, 56, 77 GiB": "ZeRO-3 and the videos' lengths are not stated; qvl has no "
    "ZeRO-3",
    "GRPO, DPO, text models": "other tasks and other models",
}


def main() -> None:
    """Print the table."""
    print(json.dumps({"points": compare(), "speed": compare_speed(), "not planned": NOT_PLANNED}, indent=2))


def compare_speed() -> list[dict[str, Any]]:
    """Give published and planned speed. Two numbers of the account were fitted to these points: no prediction."""
    rows = []
    for speed in SPEEDS:
        recipe = load_recipe(str(ROOT / "recipes" / f"{speed.recipe}.toml"))
        layout = speed.layout or recipe.parallel
        job = replace(job_of(recipe, device_facts("ascend-910b2")), engine=MEGATRON)
        planned = make_plan(job, layout, zero1=layout.dp > 1).samples_per_s
        rows.append(
            {
                "point": speed.name,
                "published_samples_per_s": round(speed.published, 2),
                "planned_samples_per_s": round(planned, 2),
                "error": round(planned / speed.published - 1, 3),
                "assumed": speed.assumed,
                "source": speed.source,
            }
        )
    return rows


def compare() -> list[dict[str, Any]]:
    """Give published and planned GiB of every point."""
    rows = []
    for point in POINTS:
        planned = planned_gib(point)
        error = planned / point.published_gib - 1
        rows.append(
            {
                "point": point.name,
                "published_gib": round(point.published_gib, 2),
                "planned_gib": round(planned, 2),
                "error": round(error, 3),
                "within_15_percent": abs(error) <= PLANNED_WITHIN,
                "assumed": point.assumed,
                **_other_stages(point),
                "source": point.source,
            }
        )
    return rows


def _other_stages(point: Point) -> dict[str, Any]:
    """Give the plans of other numbers of stages where the source does not state it: how much hangs on the guess."""
    if point.source != GUIDE:
        return {}
    tp = point.layout.tp
    one = Layout(tp=tp, dp=8 // tp, **WHOLE)
    four = Layout(tp=tp, pp=4, dp=2 // tp, vision_stages=(32, 0, 0, 0), text_stages=(1, 10, 10, 7))
    return {f"planned_gib at pp {one.pp}": round(planned_gib(replace(point, layout=one)), 2),
            f"planned_gib at pp {four.pp}": round(planned_gib(replace(point, layout=four)), 2)}  # fmt: skip


def planned_gib(point: Point) -> float:
    """Give what the plan says of a point."""
    load = Workload(
        tokens=point.length, media_tokens=320, labels=point.length, longest=point.length, longest_media=320,
        longest_labels=point.length, source="the point's settings", measured=False,
    )  # fmt: skip
    job = Job(
        spec=load_spec("qwen2.5-vl-7b"), device=device_facts(point.device), workload=load, lora=point.lora,
        freeze=("vision", "merger"), global_batch=point.global_batch, engine=point.engine,
    )  # fmt: skip
    stages = stage_memory(job, point.layout, recompute=point.recompute, micro_batch=1, zero1=point.layout.dp > 1)
    sizes = [one.total - (one.base + one.communication if point.allocated_only else 0) for one in stages]
    return (max(sizes) if point.stage is None else sizes[point.stage]) / GIB


if __name__ == "__main__":
    main()

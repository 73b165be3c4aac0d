"""Models of any widths: what is planned are the bytes of the model, its adapters, its optimizer and its cache."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qvl_core.answer_sizes import cache_tokens
from qvl_core.layout import Layout
from qvl_core.layout_rules import derive_stages, legal_tensor_degrees
from qvl_core.lora_table import TARGETS, Lora
from qvl_core.params import Component
from qvl_core.planner.devices import device_facts
from qvl_core.planner.job import COMPONENTS, Job
from qvl_core.planner.memory import stage_memory
from qvl_core.planner.workload import assumed_workload
from qvl_core.specs.load import load_spec
from qvl_core.specs.model_spec import ModelSpec

TINY = load_spec("qwen2.5-vl-tiny")


@st.composite
def specs(draw: st.DrawFn) -> ModelSpec:
    """Draw a small model: any depth, tied or not, grouped heads or not, widths of all kinds."""
    heads, groups = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([1, 2]))
    depth = draw(st.integers(1, 4))
    width = 16 * draw(st.sampled_from([1, 2, 4]))
    vision = replace(
        TINY.vision,
        depth=depth,
        num_heads=2,
        hidden_size=width,
        intermediate_size=draw(st.sampled_from([24, 40])),
        out_hidden_size=32,
        full_attention_blocks=tuple(sorted(draw(st.sets(st.integers(0, depth - 1))))),
    )
    text = replace(
        TINY.text,
        num_layers=draw(st.integers(1, 5)),
        hidden_size=32,
        num_heads=heads * groups,
        num_kv_heads=heads,
        head_dim=16,
        mrope_section=(2, 3, 3),
        intermediate_size=draw(st.sampled_from([48, 64])),
        vocab_size=8 * draw(st.integers(16, 40)),
        tie_word_embeddings=draw(st.booleans()),
    )
    return replace(TINY, vision=vision, text=text)


@st.composite
def uneven(draw: st.DrawFn, spec: ModelSpec, pp: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Draw any legal stage lists: layers in order over stages none of which is empty."""
    layers = spec.vision.depth + spec.text.num_layers
    cuts = draw(st.lists(st.integers(1, layers - 1), min_size=pp - 1, max_size=pp - 1, unique=True)) if pp > 1 else []
    edges = [0, *sorted(cuts), layers]
    depth = spec.vision.depth
    counts = list(pairwise(edges))
    vision = tuple(max(0, min(end, depth) - start) for start, end in counts)
    text = tuple(max(0, end - max(start, depth)) for start, end in counts)
    return vision, text


@st.composite
def layouts(draw: st.DrawFn, spec: ModelSpec) -> Layout:
    pp = draw(st.integers(1, min(3, spec.vision.depth + spec.text.num_layers)))
    vision, text = derive_stages(spec, pp)
    if draw(st.booleans()):
        vision, text = draw(uneven(spec, pp))
    tp = draw(st.sampled_from([degree for degree in legal_tensor_degrees(spec) if degree <= 4]))
    return Layout(tp=tp, pp=pp, dp=draw(st.integers(1, 3)), vision_stages=vision, text_stages=text)


class Ranks:
    """As much of a tensor group as cutting the cells asks for."""

    def __init__(self, size: int) -> None:
        self.size, self.index = size, 0


def job_of(spec: ModelSpec, **changes: object) -> Job:
    values = {"dtype": "float32", "global_batch": 12, **changes}
    return Job(spec=spec, device=device_facts("cpu"), workload=assumed_workload(64), **values)  # type: ignore[arg-type]


@settings(deadline=None, max_examples=15)
@given(data=st.data(), spec=specs(), is_sliced=st.booleans())
def test_state_is_that_of_the_model_and_its_optimizer(data: st.DataObject, spec: ModelSpec, is_sliced: bool) -> None:
    pytest.importorskip("qvl_train", reason="qvl-train is not installed: it has the optimizer")
    from qvl_core import device

    device.prepare("cpu")
    from qvl_core.model import Qwen25VL
    from qvl_core.parallel.tensor_cells import cut_cells
    from qvl_core.params import parameter_table
    from qvl_core.stage_part import stage_part
    from qvl_train.slices import Share
    from qvl_train.slots import AdamWSettings, Slots

    layout = data.draw(layouts(spec))
    freeze: tuple[Component, ...] = tuple(sorted(data.draw(st.sets(st.sampled_from(COMPONENTS), max_size=2))))
    chosen = AdamWSettings(beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, lr_scale={})
    sliced = is_sliced and layout.dp > 1
    for stage, memory in enumerate(stage_memory(job_of(spec, freeze=freeze), layout, zero1=sliced)):
        model = Qwen25VL(spec, "float32", stage_part(layout, stage))
        cut_cells(model, Ranks(layout.tp))  # type: ignore[arg-type]
        model.freeze(freeze)
        held = model.named_parameters()
        assert memory.weights == sum(int(value.nbytes) for value in held.values())
        trained = {name: value for name, value in held.items() if value.requires_grad}
        assert memory.gradients == sum(int(value.nbytes) for value in trained.values())
        share = Share(index=0, replicas=layout.dp) if sliced else None
        slots = Slots(trained, parameter_table(spec), chosen, share=share, joined_elements=0).all if trained else ()
        assert memory.moments == sum(int(part.whole.nbytes) for slot in slots for part in (slot.moment1, slot.moment2))
        masters = sum(int(slot.master.whole.nbytes) for slot in slots if slot.master.whole is not slot.parameter)
        assert memory.master == masters


@settings(deadline=None, max_examples=10)
@given(data=st.data(), spec=specs(), rank=st.sampled_from([1, 4]), dropout=st.sampled_from([0.0, 0.1]))
def test_adapters_are_those_of_the_model(data: st.DataObject, spec: ModelSpec, rank: int, dropout: float) -> None:
    from qvl_core import device

    device.prepare("cpu")
    from qvl_core.model import Qwen25VL
    from qvl_core.parallel.adapter_cells import insert_adapters
    from qvl_core.parallel.tensor_cells import cut_cells
    from qvl_core.stage_part import stage_part

    layout = data.draw(layouts(spec))
    names = sorted(data.draw(st.sets(st.sampled_from(COMPONENTS), min_size=1)))
    targets = tuple(target for name in names for target in TARGETS[name][:2])
    lora = Lora(rank=rank, alpha=8, dropout=dropout, components=tuple(names), targets=targets)
    for stage, memory in enumerate(stage_memory(job_of(spec, lora=lora), layout)):
        model = Qwen25VL(spec, "float32", stage_part(layout, stage))
        cut_cells(model, Ranks(layout.tp))  # type: ignore[arg-type]
        insert_adapters(model, lora, Ranks(layout.tp), seed=0)  # type: ignore[arg-type]
        held = model.named_parameters().values()
        assert memory.weights == sum(int(value.nbytes) for value in held)
        assert memory.gradients == sum(int(value.nbytes) for value in held if value.requires_grad)


@settings(deadline=None, max_examples=60)
@given(
    slots=st.integers(1, 12),
    held=st.sampled_from([256, 1000, 4096, 100_000]),
    data=st.data(),
)
def test_the_cache_is_as_large_as_the_engine_makes_it(slots: int, held: int, data: st.DataObject) -> None:
    from qvl_core import device

    device.prepare("cpu")
    from qvl_core.answer_sizes import blocks
    from qvl_core.generate.cache import KVCache

    longest = data.draw(st.integers(1, min(held, 700)))
    cache = KVCache(slots, blocks(held))
    # As many as the scheduler admits at a time.
    rows = max(1, min(slots, blocks(held) // blocks(longest)))
    for row in range(rows):
        cache.prefill([row], [longest - 1 or 1])
    allocated = cache.rows * cache.capacity
    planned = cache_tokens(slots, longest, held)
    assert allocated <= planned
    if rows == slots and longest > 1:
        assert allocated == planned or planned == blocks(held)

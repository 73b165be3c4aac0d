"""Weights, gradients and optimizer state of a plan are those of instantiated models, to the byte."""

from __future__ import annotations

import pytest
from qvl_core.layout import Layout
from qvl_core.lora_table import Lora, weight_table
from qvl_core.planner.devices import device_facts
from qvl_core.planner.job import Job
from qvl_core.planner.memory import stage_memory
from qvl_core.planner.workload import assumed_workload
from qvl_core.specs.load import load_spec, shipped_names
from qvl_core.specs.model_spec import ModelSpec
from qvl_core.stage_table import DTYPE_BYTES, DtypeName, stage_table

TINY = load_spec("qwen2.5-vl-tiny")
LORA = Lora(rank=4, alpha=8, dropout=0.0, components=("text",), targets=("q_proj", "v_proj", "down_proj"))
LAYOUTS = (
    Layout.single(TINY),
    Layout(tp=2, vision_stages=(4,), text_stages=(4,)),
    Layout(pp=2, vision_stages=(4, 0), text_stages=(1, 3)),
    Layout(pp=3, vision_stages=(3, 1, 0), text_stages=(0, 1, 3)),
    Layout(tp=2, pp=2, dp=3, vision_stages=(4, 0), text_stages=(0, 4)),
)


def job_of(spec: ModelSpec, **changes: object) -> Job:
    values = {"dtype": "float32", "global_batch": 12, **changes}
    return Job(spec=spec, device=device_facts("cpu"), workload=assumed_workload(64), **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("freeze", [(), ("vision", "merger"), ("text",)])
def test_weights_are_those_of_the_model_of_every_stage(layout: Layout, freeze: tuple[str, ...]) -> None:
    from qvl_core import device

    device.prepare("cpu")
    from qvl_core.model import Qwen25VL
    from qvl_core.parallel.tensor_cells import cut_cells
    from qvl_core.stage_part import stage_part

    class Ranks:
        """As much of a tensor group as cutting the cells asks for."""

        size, index = layout.tp, 0

    for stage, memory in enumerate(stage_memory(job_of(TINY, freeze=freeze), layout)):
        model = Qwen25VL(TINY, "float32", stage_part(layout, stage))
        cut_cells(model, Ranks())  # type: ignore[arg-type]
        model.freeze(freeze)  # type: ignore[arg-type]
        held = model.named_parameters().values()
        assert memory.weights == sum(int(value.nbytes) for value in held)
        trained = sum(int(value.nbytes) for value in held if value.requires_grad)
        assert memory.gradients == trained
        # fp32 weights are their own masters.
        assert (memory.master, memory.moments) == (0, 2 * trained)


@pytest.mark.parametrize("replicas", [1, 2, 3])
@pytest.mark.parametrize("sliced", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS[:3], ids=str)
def test_optimizer_state_is_that_of_the_optimizer(layout: Layout, sliced: bool, replicas: int) -> None:
    pytest.importorskip("qvl_train", reason="qvl-train is not installed: it has the optimizer")
    from qvl_core import device

    device.prepare("cpu")
    from qvl_core.model import Qwen25VL
    from qvl_core.parallel.tensor_cells import cut_cells
    from qvl_core.params import parameter_table
    from qvl_core.stage_part import stage_part
    from qvl_train.slices import Share
    from qvl_train.slots import AdamWSettings, Slots

    class Ranks:
        size, index = layout.tp, 0

    settings = AdamWSettings(beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, lr_scale={})
    placed = Layout(**{**vars(layout), "dp": replicas})
    for stage, memory in enumerate(stage_memory(job_of(TINY), placed, zero1=sliced)):
        model = Qwen25VL(TINY, "float32", stage_part(placed, stage))
        cut_cells(model, Ranks())  # type: ignore[arg-type]
        held = model.named_parameters()
        share = Share(index=0, replicas=replicas) if sliced else None
        slots = Slots(held, parameter_table(TINY), settings, share=share, joined_elements=0).all
        moments = sum(int(part.whole.nbytes) for slot in slots for part in (slot.moment1, slot.moment2))
        masters = sum(int(slot.master.whole.nbytes) for slot in slots if slot.master.whole is not slot.parameter)
        assert (memory.moments, memory.master) == (moments, masters)


@pytest.mark.parametrize("name", shipped_names())
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_every_size_agrees_with_the_stage_table(name: str, dtype: DtypeName) -> None:
    from qvl_core.layout_rules import derive_stages, legal_tensor_degrees

    spec = load_spec(name)
    for tp in legal_tensor_degrees(spec):
        for pp in (1, 2, 4):
            vision, text = derive_stages(spec, pp)
            layout = Layout(tp=tp, pp=pp, dp=2, vision_stages=vision, text_stages=text)
            rows = stage_table(spec, layout, freeze=("vision",), dtype=dtype)
            job = job_of(spec, dtype=dtype, freeze=("vision",), global_batch=4)
            for row, memory in zip(rows, stage_memory(job, layout), strict=True):
                assert memory.weights == row.rank_bytes
                assert memory.gradients == 4 * row.rank_trainable
                assert memory.moments == 8 * row.rank_trainable
                assert memory.master == (4 * row.rank_trainable if dtype == "bfloat16" else 0)


@pytest.mark.parametrize("tp", [1, 2])
def test_adapters_are_fp32_and_alone_have_gradients_and_moments(tp: int) -> None:
    layout = Layout(tp=tp, pp=2, vision_stages=(4, 0), text_stages=(1, 3))
    plain = stage_memory(job_of(TINY, dtype="bfloat16", freeze=("vision", "merger", "text")), layout)
    found = stage_memory(job_of(TINY, dtype="bfloat16", lora=LORA), layout)
    for stage, (before, after) in enumerate(zip(plain, found, strict=True)):
        rows = [row for row in weight_table(TINY, LORA, layout) if stage in row.stages]
        elements = sum(_size(row.local_shape(tp)) for row in rows)
        assert after.weights == before.weights + 4 * elements
        assert after.gradients == 4 * elements
        assert (after.master, after.moments) == (0, 8 * elements)
        assert before.gradients == before.moments == 0


def test_a_model_in_bfloat16_has_two_bytes_a_weight() -> None:
    (memory,) = stage_memory(job_of(TINY, dtype="bfloat16"), Layout.single(TINY))
    (whole,) = stage_memory(job_of(TINY), Layout.single(TINY))
    assert DTYPE_BYTES["bfloat16"] * whole.weights == DTYPE_BYTES["float32"] * memory.weights


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for extent in shape:
        size *= extent
    return size

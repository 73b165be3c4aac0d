"""Joined state: what is flat trains to the bits of what is not, and looks the same from outside.

Equal to the bit, because every size here is whole vector registers long; what is not is never joined.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

ms = pytest.importorskip("mindspore", reason="the optimizer needs MindSpore")

from qvl_core.parallel.single import SingleGroup  # noqa: E402
from qvl_core.params import EMBEDDING  # noqa: E402
from qvl_core.params import Parameter as TableRow  # noqa: E402
from qvl_train.optimizer import AdamW  # noqa: E402
from qvl_train.sliced_optimizer import SlicedAdamW  # noqa: E402
from qvl_train.slices import Share  # noqa: E402
from qvl_train.slots import FLAT_MULTIPLE, AdamWSettings, Slots  # noqa: E402

SETTINGS = AdamWSettings(beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1, lr_scale={"vision": 0.1})
# Three groups (decayed, not decayed, another rate), one alone in its group, one too large to be joined, two that
# registers do not fit, a tied embedding.
SHAPES = {
    "text.norm": (64,),
    "text.first": (4, 16),
    "text.second": (3, 32),
    "text.odd": (3, 5),
    "text.bias": (16,),
    "vision.norm": (32,),
    "vision.first": (2, 8),
    "vision.second": (16, 2),
    "text.large": (40, 80),
    "text.one": (1,),
    EMBEDDING: (4, 8),
}
TABLE = [
    TableRow(
        name=name, shape=shape, component="vision" if name.startswith("vision") else "text", layer=None, stages=(0,),
        shard="replicate",
    )
    for name, shape in SHAPES.items()
]  # fmt: skip
LIMIT = 1024


def make_parameters(dtype: str = "float32") -> dict[str, ms.Parameter]:
    generator = np.random.default_rng(1)
    return {
        name: ms.Parameter(
            ms.Tensor(generator.standard_normal(shape).astype(np.float32)).astype(getattr(ms, dtype)), name=name
        )
        for name, shape in SHAPES.items()
    }


def gradients(step: int, shapes: dict[str, tuple[int, ...]] = SHAPES) -> list[ms.Tensor]:
    generator = np.random.default_rng([2, step])
    return [ms.Tensor(generator.standard_normal(shape).astype(np.float32)) for shape in shapes.values()]


def train(dtype: str, limit: int, *, scale: float = 1.0, steps: int = 4) -> tuple[dict[str, bytes], Slots]:
    """Give the bits of weights and state."""
    parameters = make_parameters(dtype)
    slots = Slots(parameters, TABLE, SETTINGS, joined_elements=limit)
    for step in range(1, steps + 1):
        slots.update(gradients(step), lr=1e-2, step=step, scale=scale)
        slots.write_back()
    bits = {name: value.astype(ms.float32).asnumpy().tobytes() for name, value in parameters.items()}
    for slot in slots.all:
        bits |= {f"{slot.name}.{kind}": part.asnumpy().tobytes() for kind, part in slot.state()}
    return bits, slots


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_joined_tensors_train_to_the_bits_of_tensors_alone(dtype: str) -> None:
    joined, slots = train(dtype, LIMIT)
    alone, reference = train(dtype, 0)
    assert joined == alone
    shared = {slot.name for slot in slots.all if slot.master.whole.shape != slot.master.shape}
    assert shared == {"text.norm", "text.bias", "text.first", "text.second", "vision.first", "vision.second"}
    assert not any(slot.master.whole.shape != slot.master.shape for slot in reference.all)
    kinds = 2 if dtype == "float32" else 3
    assert [len(slot.state()) for slot in slots.all] == [kinds] * len(SHAPES)


def test_flat_state_is_of_one_rate_and_decay_and_as_long_as_threads_like_it() -> None:
    _, slots = train("float32", LIMIT)
    flat = {slot.name: slot.master.whole for slot in slots.all if slot.master.whole.shape != slot.master.shape}
    assert all(whole.size % FLAT_MULTIPLE == 0 for whole in flat.values())
    assert flat["text.first"] is flat["text.second"]
    assert flat["text.norm"] is flat["text.bias"]
    assert len({id(whole) for whole in flat.values()}) == 3


def test_fp32_weights_alone_are_their_own_master() -> None:
    parameters = make_parameters()
    slots = Slots(parameters, TABLE, SETTINGS, joined_elements=LIMIT)
    by_name = {slot.name: slot for slot in slots.all}
    assert by_name["text.large"].master.whole is parameters["text.large"]
    assert by_name["text.norm"].master.whole is not parameters["text.norm"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_parameter_shares_memory_with_a_master_that_the_next_update_changes(dtype: str) -> None:
    parameters = make_parameters(dtype)
    slots = Slots(parameters, TABLE, SETTINGS, joined_elements=LIMIT, separate_masters=True)
    slots.update(gradients(1), lr=1e-2, step=1, scale=1.0)
    slots.write_back()
    before = {name: value.astype(ms.float32).asnumpy().copy() for name, value in parameters.items()}
    slots.update(gradients(2), lr=1e-2, step=2, scale=1.0)
    for name, value in parameters.items():
        assert (value.astype(ms.float32).asnumpy() == before[name]).all(), name


class Compiled(ms.nn.Cell):  # type: ignore[misc, name-defined]
    """A cell with two parameters that is compiled."""

    def __init__(self, parameters: list[ms.Parameter]) -> None:
        super().__init__()
        self.first, self.second = parameters

    @ms.jit
    def construct(self, x: ms.Tensor) -> ms.Tensor:
        return ms.mint.sum(self.first * x) + ms.mint.sum(self.second)


@pytest.mark.parametrize("kind", [AdamW, SlicedAdamW])
@pytest.mark.parametrize("limit", [0, LIMIT])
def test_compiled_code_sees_every_update(limit: int, kind: type[AdamW | SlicedAdamW]) -> None:
    """After its first run it does not see what `set_data` gives a parameter (MindSpore 2.10)."""
    parameters = {name: make_parameters()[name] for name in ("text.first", "text.second")}
    cell, x = Compiled(list(parameters.values())), ms.Tensor(np.ones((4, 16), np.float32))
    optimizer = kind(parameters, TABLE, SETTINGS, SingleGroup(), joined_elements=limit)
    shapes = {name: SHAPES[name] for name in parameters}
    for step in range(1, 4):
        found = float(cell(x).asnumpy())
        assert found == pytest.approx(sum(float(value.asnumpy().sum()) for value in parameters.values()), rel=1e-5)
        optimizer.update(optimizer.over_replicas(gradients(step, shapes)), lr=0.1, step=step)


@pytest.mark.parametrize("scale", [0.37, 1e-3])
def test_a_scale_is_the_gradients_multiplied_before(scale: float) -> None:
    scaled, _ = train("float32", LIMIT, scale=scale)
    parameters = make_parameters()
    slots = Slots(parameters, TABLE, SETTINGS, joined_elements=LIMIT)
    for step in range(1, 5):
        given = [ms.Tensor(gradient.asnumpy() * np.float32(scale)) for gradient in gradients(step)]
        slots.update(given, lr=1e-2, step=step, scale=1.0)
        slots.write_back()
    for name, value in parameters.items():
        assert value.asnumpy().tobytes() == scaled[name], name


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_shares_of_state_are_loaded_and_joined_like_whole_tensors(replicas: int) -> None:
    parameters = make_parameters("float16")
    generator = np.random.default_rng(4)
    state = {
        f"{name}.{kind}": generator.standard_normal(shape).astype(np.float32)
        for name, shape in SHAPES.items()
        for kind in ("moment1", "moment2", "master")
    }
    for index in range(replicas):
        share = Share(index=index, replicas=replicas)
        slots = Slots(parameters, TABLE, SETTINGS, share=share, joined_elements=LIMIT)
        slots.load(state.items())
        for slot in slots.all:
            for kind, part in slot.state():
                assert part.asnumpy().tobytes() == share.of(state[f"{slot.name}.{kind}"]).tobytes(), slot.name
                assert part.tensor().asnumpy().tobytes() == part.asnumpy().tobytes()


def test_loading_what_is_not_there_is_our_own_bug() -> None:
    slots = Slots(make_parameters(), TABLE, SETTINGS)
    with pytest.raises(KeyError, match=r"text\.norm\.master"):
        slots.load([("text.norm.master", np.zeros(64, np.float32))])


def test_parts_of_a_flat_tensor_lie_side_by_side() -> None:
    _, slots = train("float32", LIMIT, steps=0)
    wholes: dict[int, list[tuple[int, int]]] = {}
    for slot in slots.all:
        for part in (slot.master, slot.moment1, slot.moment2):
            wholes.setdefault(id(part.whole), []).append((part.start, part.stop))
    for places in wholes.values():
        assert sorted(places)[0][0] == 0
        assert all(first[1] == second[0] for first, second in pairwise(sorted(places)))

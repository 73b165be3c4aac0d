"""ZeRO-1: the slices of all replicas together are the tensors, and train to the same numbers as whole ones.

Tolerance 1e-6: on CPU the Adam kernel rounds an element one way in the middle of a tensor and another way in its last
few, and a slice ends where the tensor does not. Wrong slices are wrong by 1e-2, the rate.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

ms = pytest.importorskip("mindspore", reason="the optimizer needs MindSpore")

from qvl_core.layout import Layout  # noqa: E402
from qvl_core.parallel.single import SingleGroup  # noqa: E402
from qvl_core.params import Parameter as TableRow  # noqa: E402
from qvl_train.optimizer import AdamW, AdamWSettings  # noqa: E402
from qvl_train.sliced_optimizer import SlicedAdamW  # noqa: E402
from qvl_train.slices import plan_buckets  # noqa: E402
from thread_worlds import run_ranks  # noqa: E402

SETTINGS = AdamWSettings(beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1, lr_scale={"vision": 0.1})
# 12, 4, 10 and 1 elements: some that no number of replicas divides, one with fewer elements than replicas.
SHAPES = {"text.matrix": (3, 4), "text.norm": (4,), "vision.matrix": (2, 5), "text.scale": (1,)}
TABLE = [
    TableRow(name=name, shape=shape, component=name.split(".")[0], layer=None, stages=(0,), shard="replicate")  # type: ignore[arg-type]
    for name, shape in SHAPES.items()
]


def replicas(count: int) -> Layout:
    return Layout(vision_stages=(1,), text_stages=(1,), dp=count)


def make_parameters(dtype: str) -> dict[str, ms.Parameter]:
    generator = np.random.default_rng(1)
    return {
        name: ms.Parameter(ms.Tensor(generator.standard_normal(shape).astype(np.float32)).astype(dtype), name=name)
        for name, shape in SHAPES.items()
    }


def gradients_of(replica: int, step: int) -> list[ms.Tensor]:
    generator = np.random.default_rng([replica, step])
    return [ms.Tensor(generator.standard_normal(shape).astype(np.float32)) for shape in SHAPES.values()]


def train_sliced(world: Any, dtype: str, limit: int, saved: dict[str, np.ndarray] | None = None) -> dict[str, Any]:
    """Make three updates; give weights, state and the sum of squares of every step's gradients."""
    parameters = make_parameters(dtype)
    optimizer = SlicedAdamW(parameters, TABLE, SETTINGS, world.data, bucket_elements=limit)
    if saved is not None:
        optimizer.load(saved.items())
    squares = []
    for step in (1, 2, 3):
        slices = optimizer.over_replicas(gradients_of(world.rank, step))
        squares.append(sum(world.exchange(sum(float((s.asnumpy().astype(np.float64) ** 2).sum()) for s in slices))))
        optimizer.update(slices, lr=1e-2, step=step)
    return {
        "weights": {name: value.astype(ms.float32).asnumpy() for name, value in parameters.items()},
        "state": {stored.name: stored.read() for stored in optimizer.stored()},
        "squares": squares,
    }


def train_whole(count: int, dtype: str) -> dict[str, Any]:
    """Do the same in one process with the sums of the replicas' gradients, added in rank order."""
    parameters = make_parameters(dtype)
    optimizer = AdamW(parameters, TABLE, SETTINGS, SingleGroup())
    squares = []
    for step in (1, 2, 3):
        total = [gradient.asnumpy() for gradient in gradients_of(0, step)]
        for replica in range(1, count):
            total = [one + more.asnumpy() for one, more in zip(total, gradients_of(replica, step), strict=True)]
        squares.append(sum(float((one.astype(np.float64) ** 2).sum()) for one in total))
        optimizer.update([ms.Tensor(one) for one in total], lr=1e-2, step=step)
    return {
        "weights": {name: value.astype(ms.float32).asnumpy() for name, value in parameters.items()},
        "state": {stored.name: stored.read() for stored in optimizer.stored()},
        "squares": squares,
    }


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("count", "limit"), [(1, 1 << 24), (2, 16), (3, 1 << 24), (5, 1)])
def test_slices_train_to_the_numbers_of_whole_tensors(count: int, limit: int, dtype: str) -> None:
    expected = train_whole(count, dtype)
    for found in run_ranks(replicas(count), lambda world: train_sliced(world, dtype, limit)):
        assert not isinstance(found, Exception), found
        for name, array in expected["weights"].items():
            np.testing.assert_allclose(found["weights"][name], array, rtol=1e-3 if dtype == "float16" else 1e-6)
        assert found["state"].keys() == expected["state"].keys()
        for name, array in expected["state"].items():
            assert found["state"][name].shape == array.shape
            np.testing.assert_allclose(found["state"][name], array, rtol=1e-6, atol=1e-7, err_msg=name)
        # fp64 sums in another order.
        np.testing.assert_allclose(found["squares"], expected["squares"], rtol=1e-12)


def test_state_of_whole_tensors_goes_on_in_slices() -> None:
    parameters = make_parameters("float16")
    first = AdamW(parameters, TABLE, SETTINGS, SingleGroup())
    saved = {stored.name: stored.read().copy() for stored in first.stored()}
    saved = {name: array + 1 if name.endswith(".moment1") else array for name, array in saved.items()}
    second = AdamW(make_parameters("float16"), TABLE, SETTINGS, SingleGroup())
    second.load(saved.items())
    for step in (1, 2, 3):
        pairs = zip(gradients_of(0, step), gradients_of(1, step), strict=True)
        second.update([ms.Tensor(one.asnumpy() + other.asnumpy()) for one, other in pairs], lr=1e-2, step=step)
    expected = {stored.name: stored.read() for stored in second.stored()}
    for found in run_ranks(replicas(2), lambda world: train_sliced(world, "float16", 1 << 24, saved)):
        assert not isinstance(found, Exception), found
        assert found["state"].keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_allclose(found["state"][name], array, rtol=1e-6, atol=1e-7, err_msg=name)


def test_no_parameters_need_no_call() -> None:
    def work(world: Any) -> list[Any]:
        optimizer = SlicedAdamW({}, TABLE, SETTINGS, world.data)
        optimizer.update(optimizer.over_replicas([]), lr=1.0, step=1)
        return optimizer.stored()

    # One replica alone: the other would be waited for.
    assert run_ranks(replicas(1), work) == [[]]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("limit", [1, 20, 1 << 24])
def test_buckets_hold_every_tensor_once_and_keep_to_the_limit(count: int, limit: int) -> None:
    sizes = [12, 4, 10, 1, 33, 2]
    buckets = plan_buckets(sizes, count, limit)
    slots = [slot for bucket in buckets for slot in bucket.slots]
    assert [(slot.index, slot.size) for slot in slots] == list(enumerate(sizes))
    assert all(0 <= slot.length * count - slot.size < count for slot in slots)
    for bucket in buckets:
        assert [slot.start for slot in bucket.slots] == np.cumsum([0, *(s.length for s in bucket.slots)])[:-1].tolist()
        assert bucket.width == sum(slot.length for slot in bucket.slots)
        assert bucket.width * count <= limit or len(bucket.slots) == 1


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_state_that_is_loaded_and_stored_is_the_same_to_the_bit(count: int) -> None:
    generator = np.random.default_rng(5)
    kinds = ("moment1", "moment2", "master")
    state = {
        f"{name}.{kind}": generator.standard_normal(shape).astype(np.float32)
        for name, shape in SHAPES.items()
        for kind in kinds
    }

    def work(world: Any) -> dict[str, np.ndarray]:
        optimizer = SlicedAdamW(make_parameters("float16"), TABLE, SETTINGS, world.data)
        optimizer.load(state.items())
        return {stored.name: stored.read() for stored in optimizer.stored()}

    for found in run_ranks(replicas(count), work):
        assert not isinstance(found, Exception), found
        assert {name: array.tobytes() for name, array in found.items()} == {
            name: array.tobytes() for name, array in state.items()
        }

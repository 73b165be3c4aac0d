"""Run by `test_mpi.py` in four processes: checks every call of a world on every rank, and says so in one line."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor
from qvl_core.layout import Layout
from qvl_core.parallel import buckets
from qvl_core.parallel.connect import connect
from qvl_core.parallel.world import World
from qvl_core.specs import load_spec

SPEC = load_spec("qwen2.5-vl-tiny")


def check_groups(world: World) -> None:
    """tp 2 x pp 2: sums, maxima, scattered sums and gathering, over the right ranks."""
    own = np.float32(world.rank + 1)
    for group in (world.tensor, world.pipeline, world.everyone):
        of_members = [rank + 1 for rank in group.ranks]
        assert group.ranks[group.index] == world.rank
        assert float(group.sum(Tensor(own)).asnumpy()) == sum(of_members)
        assert group.sum(Tensor(own)).shape == ()
        assert float(group.maximum(Tensor(np.full((2, 1), own))).asnumpy()[1, 0]) == max(of_members)
        blocks = np.arange(3 * group.size, dtype=np.float32) * own
        block = group.scatter_sum(Tensor(blocks)).asnumpy()
        whole = np.arange(3 * group.size) * sum(of_members)
        np.testing.assert_array_equal(block, whole[3 * group.index : 3 * group.index + 3])
        np.testing.assert_array_equal(group.gather(Tensor(block)).asnumpy(), whole)
    assert world.data.size == 1


def check_many(world: World) -> None:
    """More tensors than a message holds: same values, shapes and order."""
    tensors = [Tensor(np.full((i % 3 + 1, 5), world.rank + i, np.float32)) for i in range(20)]
    kept = buckets.BUCKET_ELEMENTS
    assert kept > 15
    found = world.everyone.sum_many(tensors)
    for i, tensor in enumerate(found):
        assert tensor.shape == (i % 3 + 1, 5)
        assert tensor.dtype == ms.float32
        np.testing.assert_array_equal(tensor.asnumpy(), np.full((i % 3 + 1, 5), 6 + 4 * i))
    assert world.everyone.sum_many([]) == []


def check_neighbours(world: World) -> None:
    """Sends do not wait, messages keep their order, large and small, both ways."""
    other = 1 - world.place.pp
    shapes = [(1,), (700, 900), (0, 4), (3, 2)]
    for i, shape in enumerate(shapes):
        world.send(Tensor(np.full(shape, 10 * world.rank + i, np.float32)) * 1, other)
    sender = world.pipeline.ranks[other]
    for i, shape in enumerate(shapes):
        np.testing.assert_array_equal(world.receive(shape, "float32", other).asnumpy(), np.full(shape, 10 * sender + i))
    swapped = world.swap(Tensor(np.full((2, world.rank + 1), 1.5, np.float32)), (2, sender + 1), "float32", other)
    assert swapped.shape == (2, sender + 1)
    world.finish_sends()


def check_exchange(world: World) -> None:
    """Values of different length, exact to the last bit of a float."""
    values = world.exchange({"rank": world.rank, "text": "é" * world.rank, "number": 1 / (world.rank + 3)})
    expected = [{"rank": rank, "text": "é" * rank, "number": 1 / (rank + 3)} for rank in range(4)]
    assert values == expected


def main() -> None:
    """Run all checks, in a world that measures its waiting and in one that does not."""
    layout = Layout(tp=2, pp=2, vision_stages=(4, 0), text_stages=(1, 3))
    for measure_waiting in (False, True):
        world = connect(layout, SPEC, measure_waiting=measure_waiting)
        assert world.tied is not None, "the tied embedding lies on both stages"
        assert world.tied.ranks == world.pipeline.ranks
        for check in (check_groups, check_many, check_neighbours, check_exchange):
            world.phase = check.__name__
            check(world)
        assert world.times.communication_s > 0
        assert world.times.waiting_s > 0
        world.close()
    print(f"rank {world.rank} held", flush=True)


if __name__ == "__main__":
    main()

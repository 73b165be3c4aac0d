"""The world over HCCL keeps to the documented calls. Against a stand-in: no NPU has run it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("mindspore", reason="tensors are MindSpore's")

import numpy as np
from mindspore import Tensor
from qvl_core.errors import RunError
from qvl_core.layout import Layout
from qvl_core.parallel.hccl import HcclWorld
from qvl_core.specs import load_spec

sys.path.insert(0, str(Path(__file__).parent))

from distributed_stand_in import LIMIT_S, Distributed, Network

TINY = load_spec("qwen2.5-vl-tiny")
LAYOUT = Layout(tp=2, pp=2, dp=2, vision_stages=(4, 0), text_stages=(1, 3))


def on_every_rank(check: Callable[[HcclWorld], None], layout: Layout = LAYOUT) -> Network:
    """Run a check in one thread for each rank; raise what the first failing one raised."""
    network = Network(layout.world_size)
    errors: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            world = HcclWorld(layout, TINY, distributed=Distributed(network, rank))
            check(world)
            world.close()
        except BaseException as error:
            errors.append(error)
            for barrier in network.barriers.values():
                barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(layout.world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * LIMIT_S)
    if errors:
        raise errors[0]
    return network


def test_sums_maxima_blocks_and_gathering_go_over_the_right_ranks() -> None:
    def check(world: HcclWorld) -> None:
        own = np.float32(world.rank + 1)
        for group in (world.tensor, world.data, world.pipeline, world.everyone):
            of_members = [rank + 1 for rank in group.ranks]
            given = Tensor(np.full((2, 3), own))
            np.testing.assert_array_equal(group.sum(given).asnumpy(), np.full((2, 3), sum(of_members)))
            np.testing.assert_array_equal(given.asnumpy(), np.full((2, 3), own), "the input is left as it was")
            np.testing.assert_array_equal(group.maximum(given).asnumpy(), np.full((2, 3), max(of_members)))
            blocks = np.arange(3 * group.size, dtype=np.float32) * own
            block = group.scatter_sum(Tensor(blocks))
            whole = np.arange(3 * group.size) * sum(of_members)
            np.testing.assert_array_equal(block.asnumpy(), np.split(whole, group.size)[group.index])
            np.testing.assert_array_equal(group.gather(block).asnumpy(), whole)

    on_every_rank(check)


def test_many_tensors_keep_their_order_shapes_and_inputs() -> None:
    def check(world: HcclWorld) -> None:
        tensors = [Tensor(np.full((i % 3 + 1, 2), world.rank + i, np.float32)) for i in range(9)]
        found = world.data.sum_many(tensors)
        for i, (tensor, given) in enumerate(zip(found, tensors, strict=True)):
            expected = sum(rank + i for rank in world.data.ranks)
            np.testing.assert_array_equal(tensor.asnumpy(), np.full((i % 3 + 1, 2), expected))
            np.testing.assert_array_equal(given.asnumpy(), np.full((i % 3 + 1, 2), world.rank + i))

    on_every_rank(check)


def test_stages_send_and_receive_in_order() -> None:
    def check(world: HcclWorld) -> None:
        other = 1 - world.place.pp
        for i in range(3):
            world.send(Tensor(np.full((i + 1, 2), world.rank + 10 * i, np.float32)), other)
        for i in range(3):
            sender = world.pipeline.ranks[other]
            expected = np.full((i + 1, 2), sender + 10 * i, np.float32)
            np.testing.assert_array_equal(world.receive((i + 1, 2), "float32", other).asnumpy(), expected)
        world.finish_sends()

    on_every_rank(check)


def test_neighbours_swap_in_one_call() -> None:
    def check(world: HcclWorld) -> None:
        other = 1 - world.place.pp
        sent, wanted = ((2, 3), (1, 4)) if world.place.pp == 0 else ((1, 4), (2, 3))
        found = world.swap(Tensor(np.full(sent, world.rank, np.float32)), wanted, "float32", other)
        np.testing.assert_array_equal(found.asnumpy(), np.full(wanted, world.pipeline.ranks[other], np.float32))

    on_every_rank(check)


def test_values_of_any_length_are_exchanged_exactly() -> None:
    def check(world: HcclWorld) -> None:
        values = world.exchange({"text": "é" * world.rank, "number": 1 / (world.rank + 3)})
        assert values == [{"text": "é" * rank, "number": 1 / (rank + 3)} for rank in range(8)]

    on_every_rank(check)


def test_every_rank_makes_every_group_in_the_same_order() -> None:
    network = on_every_rank(lambda world: None)
    assert network.made[0], "groups were made"
    assert all(made == network.made[0] for made in network.made)
    assert [0, 4] in network.made[0], "the pipeline pair is also the pair of the tied embedding: made once"
    assert network.made[0].count([0, 4]) == 1


def test_refuses_a_run_of_another_size() -> None:
    with pytest.raises(RunError, match="needs 8 processes, msrun started 2"):
        HcclWorld(LAYOUT, TINY, distributed=Distributed(Network(2), 0))

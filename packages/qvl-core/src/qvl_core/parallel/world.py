"""The processes of a run as one of them sees the others: groups along the mesh, and the neighbours in the pipeline.

One facade over existing engines: HCCL on Ascend (hccl.py), MPI on CPU (mpi.py), nothing at all for a single process
(single.py). What is written here are the calls that the schedules and shard rules need, no transport.

All members of a group make its calls in the same order. Sums are the same to the bit on every member.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mindspore import Tensor

from qvl_core.layout import Layout
from qvl_core.parallel.mesh import Coordinate, group_of
from qvl_core.specs.model_spec import ModelSpec

if TYPE_CHECKING:
    from typing import TypeAlias

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | dict[str, Json] | None"


class Board(Protocol):
    """Where a process says what it is doing, for the launcher's watchdog."""

    def mark(self, state: str, *, waiting: bool) -> None:
        """Say that something was reached: now computing `state`, or waiting for other ranks in it."""
        ...


class SilentBoard:
    """A board that nobody reads."""

    def mark(self, state: str, *, waiting: bool) -> None:
        """Do nothing."""


@dataclass
class Times:
    """Seconds spent since the start of the process; a reader takes differences.

    `waiting_s` is the time until the others were there. Of collectives it is known only where the world was opened
    with `measure_waiting`, which puts a barrier before each; else it is part of `communication_s`.
    """

    communication_s: float = 0.0
    waiting_s: float = 0.0

    def add(self, *, communication_s: float = 0.0, waiting_s: float = 0.0) -> None:
        """Count a call."""
        self.communication_s, self.waiting_s = self.communication_s + communication_s, self.waiting_s + waiting_s


class Group(Protocol):
    """Ranks that differ along one axis of the mesh only. `index` is this rank's place in `ranks`."""

    ranks: tuple[int, ...]
    index: int

    @property
    def size(self) -> int:
        """Count the ranks."""
        ...

    def sum(self, x: Tensor) -> Tensor:
        """Give the sum of every member's tensor (all-reduce); same shape and dtype everywhere."""
        ...

    def maximum(self, x: Tensor) -> Tensor:
        """Give the element-wise maximum over the members."""
        ...

    def sum_many(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Give the sum of each of these fp32 tensors, several to a message, prepared while earlier ones travel."""
        ...

    def scatter_sum(self, x: Tensor) -> Tensor:
        """Give this member's block of the sum (reduce-scatter): [size * m] -> [m], block i to member i."""
        ...

    def gather(self, x: Tensor) -> Tensor:
        """Give all members' blocks one after another (all-gather): [m] -> [size * m]."""
        ...


class World(Protocol):
    """This process among all of a run.

    `tied` is the group of the two stages that hold a copy of a tied embedding, None elsewhere. `phase` is what the
    caller is at ("step 12"); the board shows it.
    """

    layout: Layout
    rank: int
    place: Coordinate
    tensor: Group
    data: Group
    pipeline: Group
    everyone: Group
    tied: Group | None
    times: Times
    phase: str

    def send(self, x: Tensor, stage: int) -> None:
        """Send to the same slice and replica of another stage; waits for a receiver only when many have not come."""
        ...

    def receive(self, shape: tuple[int, ...], dtype: str, stage: int) -> Tensor:
        """Wait for the next tensor of another stage; shape and dtype are known on both sides."""
        ...

    def swap(self, x: Tensor, shape: tuple[int, ...], dtype: str, stage: int) -> Tensor:
        """Send to a stage and receive from it, in one call; the stage does the same, or sends and receives apart."""
        ...

    def finish_sends(self) -> None:
        """Wait until everything sent has been taken."""
        ...

    def exchange(self, value: Json) -> list[Json]:
        """Give every rank's small value, in rank order. Nobody leaves before everybody came."""
        ...

    def close(self) -> None:
        """Leave in order, after the last call of everybody."""
        ...


def tied_stages(layout: Layout, spec: ModelSpec) -> tuple[int, int] | None:
    """Give the two stages that hold a copy of the tied embedding; None where there is one tensor only."""
    if not spec.text.tie_word_embeddings:
        return None
    holders = [stage for stage, count in enumerate(layout.text_stages) if count]
    return (holders[0], holders[-1]) if holders[0] != holders[-1] else None


def tied_ranks(rank: int, layout: Layout, spec: ModelSpec) -> tuple[int, ...] | None:
    """List the ranks that share this rank's copy of the tied embedding; None where this rank has no such copy."""
    stages = tied_stages(layout, spec)
    pipeline = group_of(rank, "pp", layout)
    if stages is None or rank not in (pipeline[stages[0]], pipeline[stages[1]]):
        return None
    return pipeline[stages[0]], pipeline[stages[1]]

"""A world of one process: every sum is the value itself."""

from __future__ import annotations

from collections.abc import Sequence

from mindspore import Tensor

from qvl_core.layout import Layout
from qvl_core.parallel.mesh import Coordinate
from qvl_core.parallel.world import Board, Group, Json, SilentBoard, Times


class SingleGroup:
    """The group of this process alone."""

    def __init__(self, rank: int = 0) -> None:
        self.ranks: tuple[int, ...] = (rank,)
        self.index = 0

    @property
    def size(self) -> int:
        """Count the ranks: one."""
        return 1

    def sum(self, x: Tensor) -> Tensor:
        """Give the tensor itself."""
        return x

    def maximum(self, x: Tensor) -> Tensor:
        """Give the tensor itself."""
        return x

    def sum_many(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Give the tensors themselves."""
        return list(tensors)

    def scatter_sum(self, x: Tensor) -> Tensor:
        """Give the tensor itself: it is the only block."""
        return x

    def gather(self, x: Tensor) -> Tensor:
        """Give the tensor itself: it is the only block."""
        return x


class SingleWorld:
    """One process that holds everything."""

    def __init__(self, layout: Layout, board: Board | None = None) -> None:
        assert layout.world_size == 1, layout
        self.layout = layout
        self.rank = 0
        self.place = Coordinate(pp=0, dp=0, tp=0)
        self.tensor: Group = SingleGroup()
        self.data: Group = SingleGroup()
        self.pipeline: Group = SingleGroup()
        self.everyone: Group = SingleGroup()
        self.tied: Group | None = None
        self.times = Times()
        self._board = board or SilentBoard()
        self._phase = ""

    @property
    def phase(self) -> str:
        """Tell what the caller is at."""
        return self._phase

    @phase.setter
    def phase(self, text: str) -> None:
        self._phase = text
        self._board.mark(text, waiting=False)

    def send(self, x: Tensor, stage: int) -> None:
        """Never called: there is one stage."""
        raise AssertionError(f"nothing to send to stage {stage} from the only stage")

    def receive(self, shape: tuple[int, ...], dtype: str, stage: int) -> Tensor:
        """Never called: there is one stage."""
        raise AssertionError(f"nothing to receive from stage {stage} on the only stage")

    def swap(self, x: Tensor, shape: tuple[int, ...], dtype: str, stage: int) -> Tensor:
        """Never called: there is one stage."""
        raise AssertionError(f"nothing to swap with stage {stage} on the only stage")

    def finish_sends(self) -> None:
        """Do nothing: nothing was sent."""

    def exchange(self, value: Json) -> list[Json]:
        """Give the value alone."""
        return [value]

    def close(self) -> None:
        """Do nothing."""

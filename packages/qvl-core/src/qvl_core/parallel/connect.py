"""Which engine joins the processes of a run: the one place that chooses among HCCL, MPI and none."""

from __future__ import annotations

from qvl_core.device import current_device
from qvl_core.layout import Layout
from qvl_core.parallel.world import Board, SilentBoard, World
from qvl_core.specs.model_spec import ModelSpec


def connect(layout: Layout, spec: ModelSpec, *, board: Board | None = None, measure_waiting: bool = False) -> World:
    """Join the run that this process was started for. Raises RunError if it has another size than the layout.

    Raises NotInstalledError where the engine is missing. mindspore is imported and set to its device by now.
    """
    board = board or SilentBoard()
    if layout.world_size == 1:
        from qvl_core.parallel.single import SingleWorld

        return SingleWorld(layout, board)
    if current_device() == "ascend":
        from qvl_core.parallel.hccl import HcclWorld

        return HcclWorld(layout, spec, board)
    from qvl_core.parallel.mpi import MpiWorld

    return MpiWorld(layout, spec, board, measure_waiting=measure_waiting)

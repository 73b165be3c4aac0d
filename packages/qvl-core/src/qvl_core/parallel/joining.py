"""How a process gets ready for a recipe's model: its device first, then MindSpore, then the others of the run.

MindSpore is imported by the functions, not by this module: what it needs is set before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qvl_core import device
from qvl_core.params import parameter_count

if TYPE_CHECKING:
    from qvl_core.launch.board import Board
    from qvl_core.parallel.world import World
    from qvl_core.recipe import Recipe


def prepare_device(recipe: Recipe) -> None:
    """Set what has to be set before mindspore is imported, and import it. Raises NotInstalledError."""
    device.prepare(recipe.launch.device)
    device.confine_small_model(parameter_count(recipe.spec))
    device.require_mindspore()


def join(recipe: Recipe, board: Board) -> World:
    """Join the run that this process was started for, and tell the board how far that is.

    Raises NotInstalledError, and RunError where the run has another size than the recipe's layout.
    """
    board.mark("importing MindSpore")
    prepare_device(recipe)
    from qvl_core.parallel.connect import connect

    board.mark("connecting", waiting=True)
    world = connect(recipe.parallel, recipe.spec, board=board)
    board.stamp("connected")
    return world

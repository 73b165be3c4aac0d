"""Ranks and their groups. The communication facade, tensor parallel layers and the pipeline belong here too."""

# Who is who.
from qvl_core.parallel.mesh import Coordinate, coordinate_of, group_of, rank_of

__all__ = ["Coordinate", "coordinate_of", "group_of", "rank_of"]

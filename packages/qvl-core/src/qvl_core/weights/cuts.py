"""Which box of a whole tensor a tensor rank holds: the shard rules of the parameter table as rows and columns.

A tensor is seen as a matrix: dim 0 are its rows, everything else its columns. A part is then one or several runs of
rows within one range of columns, lying in its file without gaps. `sharding` applies the same rules to numpy arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

from qvl_core.params import ShardRule


@dataclass(frozen=True, kw_only=True)
class RowRun:
    """Rows `first` to `stop` of the whole are the part's rows from `local` on."""

    first: int
    stop: int
    local: int


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A rank's part. `runs` are in the order of the part's rows, which is the order of the whole's rows as well."""

    runs: tuple[RowRun, ...]
    first_column: int
    stop_column: int

    @property
    def rows(self) -> int:
        """Rows of the part."""
        return sum(run.stop - run.first for run in self.runs)

    @property
    def columns(self) -> int:
        """Columns of the part, in elements."""
        return self.stop_column - self.first_column


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Give (rows, columns) of a tensor seen as a matrix: (3840,) -> (3840, 1)."""
    columns = 1
    for extent in shape[1:]:
        columns *= extent
    return (shape[0] if shape else 1), columns


def cut_of(shape: tuple[int, ...], shard: ShardRule, *, tp: int, rank: int) -> Cut:
    """Give the part of tensor rank `rank` of `tp` of a whole tensor of this shape. `tp` divides what is cut."""
    rows, columns = matrix_shape(shape)
    if shard == "replicate" or tp == 1:
        return Cut(runs=(RowRun(first=0, stop=rows, local=0),), first_column=0, stop_column=columns)
    if shard == "row":
        width = columns // tp
        whole = (RowRun(first=0, stop=rows, local=0),)
        return Cut(runs=whole, first_column=rank * width, stop_column=(rank + 1) * width)
    # Of the vision qkv each third is cut by heads, so that a rank holds matching heads of all three.
    groups = 3 if shard == "fused_thirds" else 1
    group, run = rows // groups, rows // groups // tp
    runs = tuple(
        RowRun(first=i * group + rank * run, stop=i * group + (rank + 1) * run, local=i * run) for i in range(groups)
    )
    return Cut(runs=runs, first_column=0, stop_column=columns)

"""Merge an adapter into the base's weights: one transform for every tensor that the adapter changes.

A transform takes rows of the base tensor as bytes and gives the merged rows: W in float32 + scale * (B @ A), cast back
to the tensor's dtype, to the nearest, ties to even. Every element is computed on its own, from a product that is
defined to the bit (`product`), so neither the size of the blocks nor the number of threads shows in the result.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from qvl_core.errors import Problem, WeightsError
from qvl_core.input_file import printable
from qvl_core.params import parameter_table
from qvl_core.specs.model_spec import ModelSpec
from qvl_core.weights.lora.adapter import Adapter
from qvl_core.weights.lora.fit import require_fit
from qvl_core.weights.lora.product import RightFactor, TileProduct
from qvl_core.weights.lora.targets import LowRank
from qvl_core.weights.safetensors_header import TensorEntry
from qvl_core.weights.tensor_io import float32_to_bfloat16, raw_to_float32

# Elements computed at a time, and columns of them: what is computed on the way then stays in a core's cache.
TILE_ELEMENTS = 16 * 1024
TILE_COLUMNS = 256

_BITS: Mapping[str, type[np.generic]] = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}
_LARGEST = {"BF16": 3.3895314e38, "F16": 65504.0, "F32": 3.4028235e38}


@dataclass(frozen=True, kw_only=True)
class TensorChange:
    """What the merge did to one tensor, by value: an element that rounds back to what it was has not changed.

    `rows` counts the rows merged by this process; a tensor of a file that was finished earlier has 0.
    `non_finite` counts elements that were infinite or not a number in the base; they stay as they are.
    """

    name: str
    replaced: bool
    rows: int
    changed: int
    largest: float
    non_finite: int


@dataclass(frozen=True, kw_only=True)
class MergeReport:
    """What a merge did. `tensors` are all that the adapter touches, in the order of the parameter table."""

    tensors: tuple[TensorChange, ...]

    @property
    def measured(self) -> tuple[TensorChange, ...]:
        """The tensors that this process merged; the others it found finished."""
        return tuple(one for one in self.tensors if one.rows)

    @property
    def largest(self) -> TensorChange | None:
        """The tensor with the largest change of an element, None where nothing was measured."""
        return max(self.measured, key=lambda one: one.largest, default=None)

    @property
    def unchanged(self) -> tuple[str, ...]:
        """Tensors that were merged and came out as they were: the change is zero or is lost in rounding."""
        return tuple(one.name for one in self.measured if not one.changed)

    @property
    def non_finite(self) -> Mapping[str, int]:
        """Tensors whose base has elements that are infinite or not a number, and how many."""
        return {one.name: one.non_finite for one in self.measured if one.non_finite}


class MergeTransform:
    """Merges the rows of one tensor: `transform(first row, bytes [rows, bytes of a row])` gives bytes of that shape.

    Raises WeightsError when a sum is too large for the tensor's dtype. Threads may share it.
    """

    def __init__(self, name: str, rows: int, dtype: str, values: NewValues, where: str) -> None:
        """Merge `rows` rows, of a whole tensor or of a rank's part of one, that `values` knows by the same numbers."""
        self._name = name
        self._rows = rows
        self._dtype = dtype
        self._values = values
        self._where = where
        self._lock = threading.Lock()
        self._start()

    def __call__(self, first: int, block: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Give the merged rows, as new bytes."""
        with self._lock:
            # The same tensor once more: count from the start again.
            if self._done >= self._rows:
                self._start()
        count = block.shape[0]
        bits = np.ascontiguousarray(block).view(_BITS[self._dtype])
        merged = np.empty_like(bits)
        loaded = self._values.load(first, first + count)
        compute = TileProduct(TILE_ELEMENTS)
        for tile in _tiles(*bits.shape):
            old = raw_to_float32(bits[tile], self._dtype)
            merged[tile] = self._cast(bits[tile], old, self._values.values(loaded, tile, old, compute))
        with self._lock:
            self._done += count
            if self._done >= self._rows:
                self._values.release()
        return merged.view(np.uint8).reshape(block.shape)

    def change(self) -> TensorChange:
        """Give what was done so far."""
        with self._lock:
            return TensorChange(
                name=self._name,
                replaced=isinstance(self._values, (_Replacement, GivenValues)),
                rows=self._done,
                changed=self._changed,
                largest=self._largest,
                non_finite=self._non_finite,
            )

    def _start(self) -> None:
        self._done = self._changed = self._non_finite = 0
        self._largest = 0.0

    def _cast(
        self, bits: NDArray[np.generic], old: NDArray[np.float32], new: NDArray[np.float32]
    ) -> NDArray[np.generic]:
        if self._dtype == "BF16":
            cast: NDArray[np.generic] = float32_to_bfloat16(new)
        else:
            with np.errstate(over="ignore"):
                cast = new.astype(_BITS[self._dtype], copy=False)
        now = raw_to_float32(cast, self._dtype)
        with np.errstate(invalid="ignore", over="ignore"):
            sizes = now - old
            np.abs(sizes, out=sizes)
        largest, non_finite = float(sizes.max(initial=0.0)), 0
        if not math.isfinite(largest):
            non_finite = self._require_finite(old, new, now)
            # What is infinite or not a number has no size of change; a difference may be larger than a float32.
            with np.errstate(invalid="ignore"):
                wide = np.abs(now.astype(np.float64) - old)
            largest = float(wide[np.isfinite(wide)].max(initial=0.0))
            sizes = np.where(np.isfinite(now), wide, 0.0)
        # An element that keeps its value keeps its bits: -0 stays -0, and a not-a-number keeps its payload.
        np.copyto(cast, bits, where=sizes == 0)
        with self._lock:
            self._changed += int(np.count_nonzero(sizes))
            self._largest = max(self._largest, largest)
            self._non_finite += non_finite
        return cast

    def _require_finite(self, old: NDArray[np.float32], new: NDArray[np.float32], now: NDArray[np.float32]) -> int:
        """Count elements that are not finite because the base's are not. Raises WeightsError if there are others."""
        broken = ~np.isfinite(now)
        overflown = int(np.count_nonzero(broken & (np.isfinite(old) | np.isfinite(new))))
        if overflown:
            message = (
                f"{overflown:,} elements of these rows are too large for {self._dtype} after the merge (its largest "
                f"number is {_LARGEST[self._dtype]:g})"
            )
            fix = "is this the base that the adapter was trained on? A base in BF16 or F32 holds larger numbers"
            raise WeightsError(Problem(where=self._where, key=self._name, message=message, fix=fix))
        return int(np.count_nonzero(broken))


def merge_transforms(adapter: Adapter, spec: ModelSpec, dtypes: Mapping[str, str]) -> dict[str, MergeTransform]:
    """Give the transforms by classic tensor name, in table order. `dtypes` are those of the base's tensors.

    Raises WeightsError unless the adapter holds exactly the tensors, in the shapes, that its configuration asks for on
    this model.
    """
    targets = require_fit(adapter, spec)
    transforms = {}
    for parameter in parameter_table(spec):
        name = parameter.name
        values: NewValues
        if name in targets.low_rank:
            values = _LowRankUpdate(adapter, targets.low_rank[name])
        elif name in targets.replaced:
            values = _Replacement(adapter, adapter.whole[name])
        else:
            continue
        where = printable(str(adapter.path))
        transforms[name] = MergeTransform(name, parameter.shape[0], dtypes[name], values, where)
    return transforms


def merge_report(transforms: Mapping[str, MergeTransform]) -> MergeReport:
    """Give what the transforms have done so far."""
    return MergeReport(tensors=tuple(transform.change() for transform in transforms.values()))


Tile = tuple[slice, slice]


def _tiles(rows: int, columns: int) -> Iterator[Tile]:
    width = max(1, min(columns, TILE_COLUMNS, TILE_ELEMENTS))
    height = TILE_ELEMENTS // width
    for first in range(0, rows, height):
        for start in range(0, columns, width):
            yield slice(first, min(first + height, rows)), slice(start, min(start + width, columns))


class NewValues(Protocol):
    """Where a tensor's new values come from. The tile is one of the rows that `load` was called for."""

    def load(self, first: int, stop: int) -> tuple[NDArray[np.float32], ...]: ...

    def values(
        self, loaded: tuple[NDArray[np.float32], ...], tile: Tile, old: NDArray[np.float32], compute: TileProduct
    ) -> NDArray[np.float32]: ...

    def release(self) -> None: ...


class _LowRankUpdate:
    """W + scale * (B @ A). A is held while the tensor is merged, B is read row by row: a head's B is large.

    W is the base's tensor, unless the adapter brings its own.
    """

    def __init__(self, adapter: Adapter, update: LowRank) -> None:
        self._adapter = adapter
        self._a = adapter.factors_a[update.name]
        self._by_rows = [adapter.factors_b[update.name]]
        if update.name in adapter.bases:
            self._by_rows.append(adapter.bases[update.name])
        self._rank = update.rank
        self._scale = np.float32(update.scale)
        self._right: RightFactor | None = None

    def load(self, first: int, stop: int) -> tuple[NDArray[np.float32], ...]:
        return tuple(self._adapter.read_rows(entry, first, stop) for entry in self._by_rows)

    def values(
        self, loaded: tuple[NDArray[np.float32], ...], tile: Tile, old: NDArray[np.float32], compute: TileProduct
    ) -> NDArray[np.float32]:
        # Two threads may both prepare it: they come to the same.
        right = self._right
        if right is None:
            right = self._right = RightFactor(self._adapter.read_rows(self._a, 0, self._rank))
        base = loaded[1][tile] if len(loaded) > 1 else old
        return _updated(compute(loaded[0][tile[0]], right, tile[1]), self._scale, base)

    def release(self) -> None:
        self._right = None


class _Replacement:
    """The adapter's own tensor, part of a module of modules_to_save."""

    def __init__(self, adapter: Adapter, entry: TensorEntry) -> None:
        self._adapter = adapter
        self._entry = entry

    def load(self, first: int, stop: int) -> tuple[NDArray[np.float32], ...]:
        return (self._adapter.read_rows(self._entry, first, stop),)

    def values(
        self, loaded: tuple[NDArray[np.float32], ...], tile: Tile, old: NDArray[np.float32], compute: TileProduct
    ) -> NDArray[np.float32]:
        return loaded[0][tile]

    def release(self) -> None:
        pass


class GivenUpdate:
    """W + scale * (B @ A) with factors that are here: rows of B and columns of A are those of the part that is merged.

    W is the base's part, or `base_RC` where the adapter brings its own.
    """

    def __init__(
        self,
        *,
        a_KC: NDArray[np.float32],
        b_RK: NDArray[np.float32],
        scale: float,
        base_RC: NDArray[np.float32] | None,
    ) -> None:
        self._right = RightFactor(a_KC)
        self._by_rows = (b_RK,) if base_RC is None else (b_RK, base_RC)
        self._scale = np.float32(scale)

    def load(self, first: int, stop: int) -> tuple[NDArray[np.float32], ...]:
        """Give the rows of B, and of the adapter's own W."""
        return tuple(array[first:stop] for array in self._by_rows)

    def values(
        self, loaded: tuple[NDArray[np.float32], ...], tile: Tile, old: NDArray[np.float32], compute: TileProduct
    ) -> NDArray[np.float32]:
        """Give the new values of a tile."""
        base = loaded[1][tile] if len(loaded) > 1 else old
        return _updated(compute(loaded[0][tile[0]], self._right, tile[1]), self._scale, base)

    def release(self) -> None:
        """Do nothing: they were given."""


class GivenValues:
    """New values that are here, [rows, columns] of the part that is merged."""

    def __init__(self, values_RC: NDArray[np.float32]) -> None:
        self._values_RC = values_RC

    def load(self, first: int, stop: int) -> tuple[NDArray[np.float32], ...]:
        """Give the rows."""
        return (self._values_RC[first:stop],)

    def values(
        self, loaded: tuple[NDArray[np.float32], ...], tile: Tile, old: NDArray[np.float32], compute: TileProduct
    ) -> NDArray[np.float32]:
        """Give the values of a tile."""
        return loaded[0][tile]

    def release(self) -> None:
        """Do nothing: they were given."""


def _updated(update_RC: NDArray[np.float32], scale: np.float32, base_RC: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give base + scale * update, in float32; too large becomes infinite, which the caller counts."""
    with np.errstate(over="ignore", invalid="ignore"):
        update_RC *= scale
        update_RC += base_RC
    return update_RC

"""Keys and values of past tokens, one slot for each sequence.

Sequences come and go at any step: `prefill` fills chosen slots from flat, un-padded prompts, `decode` extends the first
few by one token each, `release` closes the gap that an ended one leaves, so that the slots in use are always the first
ones. The memory is one rectangle of rows (slots) and capacity (tokens) for keys and one for values in each layer; it
grows by blocks when a sequence needs more, and shrinks where it would pass its bound. Lengths live on the host.

Legend: B slots in use, S capacity of a slot, T tokens, K kv heads, H head size, N query heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, ops
from numpy.typing import NDArray

from qvl_core import kernels
from qvl_core.kernels.segments import Segments

# Slots grow by whole blocks: every decoding step reads the whole capacity, so it should not be far above the need.
BLOCK = 64


class KVCache:
    """Cache of all layers. Keys and values of a layer are allocated when it first stores some."""

    def __init__(self, slots: int, max_tokens: int) -> None:
        """Hold at most `slots` sequences; rows times capacity stay within `max_tokens`, a multiple of BLOCK."""
        self.lengths = np.zeros(slots, np.int32)
        self.rows = 0
        """Slots that there is memory for."""
        self.capacity = 0
        """Tokens that there is memory for in each of them, a multiple of BLOCK."""
        self._max_tokens = max_tokens
        self._layers: dict[int, _LayerCache] = {}

    def prefill(self, slots: Sequence[int], sequence_lengths: Sequence[int]) -> PrefillStep:
        """Prepare to fill these slots with the sequences of a flat prompt. What they held is forgotten."""
        self.lengths[list(slots)] = 0
        self._reserve(max(slots) + 1, max(sequence_lengths) + 1)
        self.lengths[list(slots)] = sequence_lengths
        slot_T = np.repeat(np.asarray(slots), sequence_lengths)
        return PrefillStep(self, slot_T, np.concatenate([np.arange(length) for length in sequence_lengths]))

    def decode(self, count: int) -> DecodeStep:
        """Prepare to add one token to each of the first `count` slots, which are all that is in use."""
        lengths_B = self.lengths[:count].copy()
        self._reserve(count, int(lengths_B.max()) + 1)
        self.lengths[:count] += 1
        return DecodeStep(self, np.arange(count), lengths_B)

    def release(self, slot: int, last: int) -> None:
        """Empty `slot` by putting what slot `last` holds into it; `last` is empty then."""
        if slot != last:
            place_T = np.arange(self.lengths[last])
            source_T, target_T = np.full_like(place_T, last), np.full_like(place_T, slot)
            for layer in self._layers.values():
                layer.copy(
                    layer.places(source_T, place_T, self.capacity), layer.places(target_T, place_T, self.capacity)
                )
        self.lengths[slot], self.lengths[last] = self.lengths[last], 0

    @property
    def held_bytes(self) -> int:
        """Give the memory of all layers so far."""
        return sum(layer.held_bytes for layer in self._layers.values())

    def layer(self, layer: int, like_TKH: Tensor) -> _LayerCache:
        """Give the store of one layer; a new one for head counts and dtype of `like` if there is none yet."""
        if layer not in self._layers:
            self._layers[layer] = _LayerCache(self.rows, self.capacity, like_TKH)
        return self._layers[layer]

    def _reserve(self, rows: int, length: int) -> None:
        """Make room for `rows` slots of `length` tokens each. What is in use stays; what only was, may go."""
        needed = blocks(max(length, int(self.lengths.max())))
        capacity = max(self.capacity, needed) if self.lengths.any() else needed
        if rows > self.rows:
            # Some more than needed, for each new row copies all the others.
            rows = min(2 ** (rows - 1).bit_length(), len(self.lengths), max(rows, self._max_tokens // capacity))
        elif rows * capacity <= self._max_tokens and self.rows * capacity <= self._max_tokens:
            rows = self.rows
        if rows * capacity > self._max_tokens:
            capacity = needed
        assert rows * capacity <= self._max_tokens, f"{rows} x {capacity} tokens, of at most {self._max_tokens}"
        if (rows, capacity) != (self.rows, self.capacity):
            self.rows, self.capacity = rows, capacity
            for layer in self._layers.values():
                layer.resize(rows, capacity)


def blocks(length: int) -> int:
    """Round a number of tokens up to whole blocks."""
    return -(-length // BLOCK) * BLOCK


class PrefillStep:
    """Attention over the prompts themselves; stores their keys and values."""

    def __init__(self, cache: KVCache, slot_T: NDArray[np.int64], place_T: NDArray[np.int64]) -> None:
        self._cache, self._slot_T, self._place_T = cache, slot_T, place_T
        self._index: Tensor | None = None

    def attend(
        self, layer: int, q_TNH: Tensor, k_TKH: Tensor, v_TKH: Tensor, segments: Segments, scale: float
    ) -> Tensor:
        """Give the attention output [T, N, H] of the prompt tokens."""
        store = self._cache.layer(layer, k_TKH)
        if self._index is None:
            self._index = store.places(self._slot_T, self._place_T, self._cache.capacity)
        store.store(self._index, k_TKH, v_TKH)
        return kernels.attention(q_TNH, k_TKH, v_TKH, segments, causal=True, scale=scale)


class DecodeStep:
    """Attention of one token per slot over all that the slot holds."""

    def __init__(self, cache: KVCache, slot_B: NDArray[np.int64], place_B: NDArray[np.int32]) -> None:
        self._cache, self._slot_B, self._place_B = cache, slot_B, place_B
        self._lengths_B = Tensor(place_B + 1)
        self._index: Tensor | None = None

    def attend(
        self, layer: int, q_TNH: Tensor, k_TKH: Tensor, v_TKH: Tensor, segments: Segments, scale: float
    ) -> Tensor:
        """Give the attention output [B, N, H]; segments play no part, every token has a cache of its own."""
        store = self._cache.layer(layer, k_TKH)
        if self._index is None:
            self._index = store.places(self._slot_B, self._place_B, self._cache.capacity)
        store.store(self._index, k_TKH, v_TKH)
        keys, values = store.first(len(self._slot_B))
        return kernels.decode_attention(q_TNH, keys, values, self._lengths_B, scale=scale)


class _LayerCache:
    """Keys and values of one layer: parameters, because updating one row of a parameter copies nothing else.

    A row is what one head keeps of one token; rows lie by slot, then head, then token, as attention reads them.
    """

    def __init__(self, rows: int, capacity: int, like_TKH: Tensor) -> None:
        self._kv_heads, self._head_dim = like_TKH.shape[1:]
        shape = (rows * self._kv_heads * capacity, self._head_dim)
        self._shape = (rows, self._kv_heads, capacity, self._head_dim)
        self._keys = _constant(ops.zeros(shape, like_TKH.dtype))
        self._values = _constant(ops.zeros(shape, like_TKH.dtype))

    @property
    def held_bytes(self) -> int:
        return int(self._keys.nbytes + self._values.nbytes)

    def first(self, slots: int) -> tuple[Tensor, Tensor]:
        """Give keys and values [slots, K, S, H] of the first slots."""
        keys, values = self._keys.reshape(self._shape), self._values.reshape(self._shape)
        return (keys, values) if slots == self._shape[0] else (keys[:slots], values[:slots])

    def places(self, slot_T: NDArray[np.integer], place_T: NDArray[np.integer], capacity: int) -> Tensor:
        """Give the rows [T * K] of tokens at places of slots, the heads of a token together."""
        head_K = np.arange(self._kv_heads)
        rows_TK = (slot_T[:, None] * self._kv_heads + head_K) * capacity + place_T[:, None]
        return Tensor(rows_TK.reshape(-1).astype(np.int32))

    def store(self, index: Tensor, k_TKH: Tensor, v_TKH: Tensor) -> None:
        """Write k and v at the rows of `places`."""
        ops.scatter_update(self._keys, index, k_TKH.reshape(-1, self._head_dim))
        ops.scatter_update(self._values, index, v_TKH.reshape(-1, self._head_dim))

    def copy(self, source: Tensor, target: Tensor) -> None:
        """Copy rows to others."""
        for held in (self._keys, self._values):
            ops.scatter_update(held, target, ops.gather(held, source, 0))

    def resize(self, rows: int, capacity: int) -> None:
        """Keep what lies in the first rows and places, in more or less room."""
        self._keys = _constant(self._resized(self._keys, rows, capacity))
        self._values = _constant(self._resized(self._values, rows, capacity))
        self._shape = (rows, self._kv_heads, capacity, self._head_dim)

    def _resized(self, held: Parameter, rows: int, capacity: int) -> Tensor:
        old_rows, heads, old_capacity, size = self._shape
        x = held.reshape(self._shape)[:rows, :, :capacity]
        if capacity > old_capacity:
            x = ops.cat((x, ops.zeros((x.shape[0], heads, capacity - old_capacity, size), x.dtype)), 2)
        if rows > old_rows:
            x = ops.cat((x, ops.zeros((rows - old_rows, *x.shape[1:]), x.dtype)), 0)
        return x.reshape(-1, size)


def _constant(values: ms.Tensor) -> Parameter:
    return Parameter(values, requires_grad=False)

"""Keys and values of past tokens, one slot for each sequence.

Sequences come and go at any step: `prefill` fills chosen slots from flat, un-padded prompts, `decode` extends the first
few by one token each, `release` closes the gap that an ended one leaves, so that the slots in use are always the first
ones. The memory is one rectangle of rows (slots) and capacity (tokens) for keys and one for values in each layer; it
grows by blocks when a sequence needs more, and shrinks where it would pass its bound. Lengths live on the host.

Legend: B slots of a step, S capacity of a slot, T tokens, K kv heads, H head size, N query heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mindspore import Parameter, Tensor, ops
from numpy.typing import NDArray

from qvl_core import kernels
from qvl_core.answer_sizes import blocks, roomy
from qvl_core.kernels.segments import HIDDEN, Segments


class KVCache:
    """Cache of all layers. Keys and values of a layer are allocated when it first stores some."""

    def __init__(self, slots: int, max_tokens: int) -> None:
        """Hold at most `slots` sequences; rows times capacity stay within `max_tokens`, a multiple of BLOCK."""
        self.layers: dict[int, LayerCache] = {}
        """By number, in the order of the layers."""
        self.rows = 0
        """Slots that there is memory for."""
        self.capacity = 0
        """Tokens that there is memory for in each of them, a multiple of BLOCK."""
        self.clear(slots, max_tokens)

    def clear(self, slots: int, max_tokens: int) -> None:
        """Forget all that is held, and take other bounds."""
        self.lengths = np.zeros(slots, np.int32)
        self._max_tokens = max_tokens
        if self.rows > slots or self.rows * self.capacity > max_tokens:
            self._resize(0, 0)

    def prefill(self, slots: Sequence[int], sequence_lengths: Sequence[int]) -> PrefillStep:
        """Prepare to fill these slots with the sequences of a flat prompt. What they held is forgotten."""
        self.lengths[list(slots)] = 0
        self._reserve(max(slots) + 1, max(sequence_lengths) + 1)
        self.lengths[list(slots)] = sequence_lengths
        slot_T = np.repeat(np.asarray(slots), sequence_lengths)
        return PrefillStep(self, slot_T, np.concatenate([np.arange(length) for length in sequence_lengths]))

    def decode(self, count: int) -> DecodeStep:
        """Prepare to add one token to each of the first `count` slots, which are all that is in use."""
        self._reserve(count, int(self.lengths[:count].max()) + 1)
        # Few sizes, for a size may be compiled for: the next power of two. Empty slots compute with the others.
        size = min(2 ** (count - 1).bit_length(), self.rows)
        step = DecodeStep(self, self.lengths[:size].copy())
        self.lengths[:count] += 1
        return step

    def release(self, slot: int, last: int) -> None:
        """Empty `slot` by putting what slot `last` holds into it; `last` is empty then."""
        if slot != last:
            place_T = np.arange(self.lengths[last])
            source_T, target_T = np.full_like(place_T, last), np.full_like(place_T, slot)
            for layer in self.layers.values():
                layer.copy(
                    layer.places(source_T, place_T, self.capacity), layer.places(target_T, place_T, self.capacity)
                )
        self.lengths[slot], self.lengths[last] = self.lengths[last], 0

    @property
    def held_bytes(self) -> int:
        """Give the memory of all layers so far."""
        return sum(layer.held_bytes for layer in self.layers.values())

    def layer(self, layer: int, like_TKH: Tensor) -> LayerCache:
        """Give the store of one layer; a new one for head counts and dtype of `like` if there is none yet."""
        if layer not in self.layers:
            self.layers[layer] = LayerCache(layer, self.rows, self.capacity, like_TKH)
        return self.layers[layer]

    def _reserve(self, rows: int, length: int) -> None:
        """Make room for `rows` slots of `length` tokens each. What is in use stays; what only was, may go."""
        longest = max(length, int(self.lengths.max()))
        capacity = max(self.capacity if self.lengths.any() else 0, roomy(longest))
        if rows > self.rows:
            # Some more than needed, for each new row copies all the others.
            rows = min(2 ** (rows - 1).bit_length(), len(self.lengths), max(rows, self._max_tokens // capacity))
        elif self.rows * capacity <= self._max_tokens:
            rows = self.rows
        if rows * capacity > self._max_tokens:
            capacity = blocks(longest)
        assert rows * capacity <= self._max_tokens, f"{rows} x {capacity} tokens, of at most {self._max_tokens}"
        self._resize(rows, capacity)

    def _resize(self, rows: int, capacity: int) -> None:
        if (rows, capacity) != (self.rows, self.capacity):
            self.rows, self.capacity = rows, capacity
            for layer in self.layers.values():
                layer.resize(rows, capacity)


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
    """Attention of one token per slot over all that the slot holds.

    An empty slot among them stores its token at place 0, where the next prompt overwrites it.
    """

    def __init__(self, cache: KVCache, place_B: NDArray[np.int32]) -> None:
        self._cache = cache
        self.size = len(place_B)
        """Count the slots, B."""
        is_empty_BS = np.arange(cache.capacity) > place_B[:, None]
        self.bias_BS = Tensor(np.where(is_empty_BS, np.float32(HIDDEN), np.float32(0.0)))
        # A stage without text layers holds nothing.
        layer = next(iter(cache.layers.values()), None)
        self.index = None if layer is None else layer.places(np.arange(self.size), place_B, cache.capacity)
        """Where the step's keys and values go, a row for each head of each slot."""

    def attend(
        self, layer: int, q_BNH: Tensor, k_BKH: Tensor, v_BKH: Tensor, segments: Segments, scale: float
    ) -> Tensor:
        """Give the attention output [B, N, H]; segments play no part, every token has a cache of its own."""
        store = self._cache.layers[layer]
        return extend(store.keys, store.values, self.index, self.bias_BS, q_BNH, k_BKH, v_BKH, scale)


def extend(
    keys: Tensor, values: Tensor, index: Tensor, bias_BS: Tensor, q_BNH: Tensor, k_BKH: Tensor, v_BKH: Tensor,
    scale: float,
) -> Tensor:  # fmt: skip
    """Store one token of each slot in a layer and give what it sees, [B, N, H]. Can be compiled.

    `keys` and `values` are the parameters of a `LayerCache`.
    """
    size, kv_heads, head_dim = k_BKH.shape
    ops.scatter_update(keys, index, k_BKH.reshape(-1, head_dim))
    ops.scatter_update(values, index, v_BKH.reshape(-1, head_dim))
    shape = (-1, kv_heads, bias_BS.shape[1], head_dim)
    keys_RKSH, values_RKSH = keys.reshape(shape), values.reshape(shape)
    if keys_RKSH.shape[0] != size:
        keys_RKSH, values_RKSH = keys_RKSH[:size], values_RKSH[:size]
    return kernels.decode_attention(q_BNH, keys_RKSH, values_RKSH, bias_BS, scale=scale)


class LayerCache:
    """Keys and values of one layer: parameters, because updating one row of a parameter copies nothing else.

    A row is what one head keeps of one token; rows lie by slot, then head, then token, as attention reads them. Every
    size has parameters of its own, which wait without memory while another size is in use: what was compiled for a size
    is bound to them, and an update outside of compiled code fails on a parameter that changed its size.
    """

    def __init__(self, layer: int, rows: int, capacity: int, like_TKH: Tensor) -> None:
        self._name = f"cache.{layer}"
        self._kv_heads, self._head_dim = like_TKH.shape[1:]
        self._shape = (rows, self._kv_heads, capacity, self._head_dim)
        self._of_size: dict[tuple[int, int], tuple[Parameter, Parameter]] = {}
        shape = (rows * self._kv_heads * capacity, self._head_dim)
        self.keys, self.values = self._parameters(*(ops.zeros(shape, like_TKH.dtype) for _ in range(2)))

    @property
    def held_bytes(self) -> int:
        """Give the memory of keys and values."""
        return int(self.keys.nbytes + self.values.nbytes)

    def places(self, slot_T: NDArray[np.integer], place_T: NDArray[np.integer], capacity: int) -> Tensor:
        """Give the rows [T * K] of tokens at places of slots, the heads of a token together."""
        head_K = np.arange(self._kv_heads)
        rows_TK = (slot_T[:, None] * self._kv_heads + head_K) * capacity + place_T[:, None]
        return Tensor(rows_TK.reshape(-1).astype(np.int32))

    def store(self, index: Tensor, k_TKH: Tensor, v_TKH: Tensor) -> None:
        """Write k and v at the rows of `places`."""
        ops.scatter_update(self.keys, index, k_TKH.reshape(-1, self._head_dim))
        ops.scatter_update(self.values, index, v_TKH.reshape(-1, self._head_dim))

    def copy(self, source: Tensor, target: Tensor) -> None:
        """Copy rows to others."""
        for held in (self.keys, self.values):
            ops.scatter_update(held, target, ops.gather(held, source, 0))

    def resize(self, rows: int, capacity: int) -> None:
        """Keep what lies in the first rows and places, in more or less room; with 0 rows nothing."""
        resized = [self._resized(held, rows, capacity) for held in (self.keys, self.values)]
        for held in (self.keys, self.values):
            held.set_data(ops.zeros((1, self._head_dim), held.dtype), slice_shape=True)  # trap: not compiled
        self._shape = (rows, self._kv_heads, capacity, self._head_dim)
        self.keys, self.values = self._parameters(*resized)

    def _parameters(self, keys: Tensor, values: Tensor) -> tuple[Parameter, Parameter]:
        """Give the parameters of the current size, with these values."""
        size = (self._shape[0], self._shape[2])
        if size not in self._of_size:
            self._of_size[size] = (self._parameter("keys", keys), self._parameter("values", values))
            return self._of_size[size]
        for held, value in zip(self._of_size[size], (keys, values), strict=True):
            # A copy: where the value is a view, later updates are lost without a word.
            held.set_data(value.copy(), slice_shape=True)  # trap: not compiled
        return self._of_size[size]

    def _parameter(self, name: str, value: Tensor) -> Parameter:
        return Parameter(value, name=f"{self._name}.{name}", requires_grad=False)

    def _resized(self, held: Parameter, rows: int, capacity: int) -> Tensor:
        old_rows, heads, old_capacity, size = self._shape
        if min(rows, old_rows) == 0:
            return ops.zeros((max(rows * heads * capacity, 1), size), held.dtype)
        x = held.reshape(self._shape)[:rows, :, :capacity]
        if capacity > old_capacity:
            x = ops.cat((x, ops.zeros((x.shape[0], heads, capacity - old_capacity, size), x.dtype)), 2)
        if rows > old_rows:
            x = ops.cat((x, ops.zeros((rows - old_rows, *x.shape[1:]), x.dtype)), 0)
        return x.reshape(-1, size)

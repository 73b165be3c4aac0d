"""Keys and values of past tokens, one slot for each sequence.

Slots are filled by `prefill` from flat, un-padded prompts and extended by `decode`, one token for each slot; both give
the object that the text layers call in place of plain attention. Lengths live on the host.

Legend: B slots, S capacity of a slot, T tokens, K kv heads, H head size, N query heads.
"""

from __future__ import annotations

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

    def __init__(self, slots: int) -> None:
        self.lengths = np.zeros(slots, np.int32)
        self.capacity = 0
        self._layers: dict[int, _LayerCache] = {}

    def prefill(self, sequence_lengths: tuple[int, ...]) -> PrefillStep:
        """Prepare to fill slot b with sequence b of a flat prompt. Everything kept before is forgotten."""
        assert len(sequence_lengths) == len(self.lengths), f"{len(sequence_lengths)} prompts, {len(self.lengths)} slots"
        self.lengths = np.asarray(sequence_lengths, np.int32)
        self._layers.clear()
        self._reserve(int(self.lengths.max()) + 1)
        places = [slot * self.capacity + np.arange(length) for slot, length in enumerate(sequence_lengths)]
        index_T = Tensor(np.concatenate(places).astype(np.int32))
        return PrefillStep(self, index_T)

    def decode(self, active_B: NDArray[np.bool_]) -> DecodeStep:
        """Prepare to add one token to every active slot. The others compute too, but nothing of theirs is kept."""
        self._reserve(int(self.lengths.max()) + 1)
        index_B = np.arange(len(self.lengths), dtype=np.int32) * self.capacity + self.lengths
        step = DecodeStep(self, Tensor(index_B.astype(np.int32)), Tensor((self.lengths + 1).astype(np.int32)))
        self.lengths = (self.lengths + active_B).astype(np.int32)
        return step

    def layer(self, layer: int, like_TKH: Tensor) -> _LayerCache:
        """Give the store of one layer; a new one for head counts and dtype of `like` if there is none yet."""
        if layer not in self._layers:
            self._layers[layer] = _LayerCache(len(self.lengths), self.capacity, like_TKH)
        return self._layers[layer]

    def _reserve(self, length: int) -> None:
        if length > self.capacity:
            self.capacity = -(-length // BLOCK) * BLOCK
            for layer in self._layers.values():
                layer.grow(self.capacity)


class PrefillStep:
    """Attention over the prompts themselves; stores their keys and values."""

    def __init__(self, cache: KVCache, index_T: Tensor) -> None:
        self._cache, self._index_T = cache, index_T

    def attend(
        self, layer: int, q_TNH: Tensor, k_TKH: Tensor, v_TKH: Tensor, segments: Segments, scale: float
    ) -> Tensor:
        """Give the attention output [T, N, H] of the prompt tokens."""
        self._cache.layer(layer, k_TKH).store(self._index_T, k_TKH, v_TKH)
        return kernels.attention(q_TNH, k_TKH, v_TKH, segments, causal=True, scale=scale)


class DecodeStep:
    """Attention of one token per slot over all that the slot holds."""

    def __init__(self, cache: KVCache, index_B: Tensor, lengths_B: Tensor) -> None:
        self._cache, self._index_B, self._lengths_B = cache, index_B, lengths_B

    def attend(
        self, layer: int, q_TNH: Tensor, k_TKH: Tensor, v_TKH: Tensor, segments: Segments, scale: float
    ) -> Tensor:
        """Give the attention output [B, N, H]; segments play no part, every token has a cache of its own."""
        store = self._cache.layer(layer, k_TKH)
        store.store(self._index_B, k_TKH, v_TKH)
        return kernels.decode_attention(q_TNH, store.keys, store.values, self._lengths_B, scale=scale)


class _LayerCache:
    """Keys and values of one layer: parameters, because updating one row of a parameter copies nothing else."""

    def __init__(self, slots: int, capacity: int, like_TKH: Tensor) -> None:
        self._slots = slots
        shape = (slots * capacity, *like_TKH.shape[1:])
        self._keys = _constant(ops.zeros(shape, like_TKH.dtype))
        self._values = _constant(ops.zeros(shape, like_TKH.dtype))

    @property
    def keys(self) -> Tensor:
        return self._by_slot(self._keys)

    @property
    def values(self) -> Tensor:
        return self._by_slot(self._values)

    def store(self, index_T: Tensor, k_TKH: Tensor, v_TKH: Tensor) -> None:
        """Write the rows of k and v at the flat places `index_T`, slot * S + position."""
        ops.scatter_update(self._keys, index_T, k_TKH)
        ops.scatter_update(self._values, index_T, v_TKH)

    def grow(self, capacity: int) -> None:
        """Make room for `capacity` positions in every slot."""
        self._keys = _constant(self._grown(self.keys, capacity))
        self._values = _constant(self._grown(self.values, capacity))

    def _grown(self, held_BSKH: Tensor, capacity: int) -> Tensor:
        slots, held, kv_heads, head_dim = held_BSKH.shape
        room = ops.zeros((slots, capacity - held, kv_heads, head_dim), held_BSKH.dtype)
        return ops.cat((held_BSKH, room), 1).reshape(slots * capacity, kv_heads, head_dim)

    def _by_slot(self, flat: Parameter) -> Tensor:
        return flat.reshape(self._slots, -1, *flat.shape[1:])


def _constant(values: ms.Tensor) -> Parameter:
    return Parameter(values, requires_grad=False)

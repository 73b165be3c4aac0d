"""The cache as memory: what is stored stays through growth, moves and shrinking, within its bound."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("mindspore", reason="the cache needs mindspore")

from mindspore import Tensor
from qvl_core.answer_sizes import BLOCK, blocks, roomy
from qvl_core.generate.cache import KVCache
from qvl_core.kernels import build_segments

KV_HEADS, HEAD_DIM = 2, 4


def keys_of(tokens: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((tokens, KV_HEADS, HEAD_DIM), np.float32)


def fill(cache: KVCache, slots: list[int], contents: list[np.ndarray]) -> None:
    """Store prompts in one layer; keys and values alike."""
    lengths = [len(content) for content in contents]
    x = Tensor(np.concatenate(contents))
    cache.prefill(slots, lengths).attend(0, x, x, x, build_segments(lengths), 1.0)


def held(cache: KVCache, slot: int) -> np.ndarray:
    """Give what a slot holds, [tokens, K, H]; keys and values have to agree."""
    layer = cache.layers[0]
    shape = (cache.rows, KV_HEADS, cache.capacity, HEAD_DIM)
    keys, values = (x.asnumpy().reshape(shape)[slot].swapaxes(0, 1) for x in (layer.keys, layer.values))
    np.testing.assert_array_equal(keys, values)
    return keys[: cache.lengths[slot]]


def extend(cache: KVCache, count: int, seed: int) -> np.ndarray:
    step = cache.decode(count)
    new = keys_of(step.size, seed)
    step.attend(0, Tensor(new), Tensor(new), Tensor(new), build_segments([1] * step.size), 1.0)
    return new


def test_what_is_held_stays_while_slots_and_capacity_grow() -> None:
    cache = KVCache(8, 64 * BLOCK)
    contents = [keys_of(BLOCK - 1, 0), keys_of(3, 1)]
    fill(cache, [0, 1], contents)
    assert (cache.rows, cache.capacity) == (2, BLOCK)
    for number in range(3):
        new = extend(cache, 2, 10 + number)
        contents = [np.concatenate((content, new[i : i + 1])) for i, content in enumerate(contents)]
    assert (cache.rows, cache.capacity) == (2, 2 * BLOCK)
    fill(cache, [2], [keys_of(5 * BLOCK, 2)])
    assert (cache.rows, cache.capacity) == (4, 6 * BLOCK)
    for slot, content in enumerate([*contents, keys_of(5 * BLOCK, 2)]):
        np.testing.assert_array_equal(held(cache, slot), content)


def test_the_last_slot_takes_the_place_of_a_released_one() -> None:
    cache = KVCache(4, 8 * BLOCK)
    contents = [keys_of(5, 0), keys_of(9, 1), keys_of(2, 2)]
    fill(cache, [0, 1, 2], contents)
    cache.release(0, 2)
    assert cache.lengths.tolist() == [2, 9, 0, 0]
    np.testing.assert_array_equal(held(cache, 0), contents[2])
    cache.release(1, 1)
    assert cache.lengths.tolist() == [2, 0, 0, 0]
    # Three slots are computed as four: what the empty ones store harms nobody.
    fill(cache, [1, 2], [contents[0], contents[1]])
    extend(cache, 3, 5)
    np.testing.assert_array_equal(held(cache, 2)[:-1], contents[1])


def test_memory_that_a_long_sequence_took_goes_to_more_slots() -> None:
    cache = KVCache(4, 4 * BLOCK)
    fill(cache, [0], [keys_of(3 * BLOCK, 0)])
    assert (cache.rows, cache.capacity) == (1, 4 * BLOCK)
    cache.release(0, 0)
    fill(cache, [0], [keys_of(7, 1)])
    assert (cache.rows, cache.capacity) == (1, BLOCK)
    fill(cache, [1, 2, 3], [keys_of(4, seed) for seed in (2, 3, 4)])
    assert (cache.rows, cache.capacity) == (4, BLOCK)
    np.testing.assert_array_equal(held(cache, 0), keys_of(7, 1))
    np.testing.assert_array_equal(held(cache, 3), keys_of(4, 4))


def test_a_size_that_comes_back_holds_what_was_stored_since() -> None:
    cache = KVCache(2, 16 * BLOCK)
    for length in (3, 2 * BLOCK, 5, 2 * BLOCK - 1):
        fill(cache, [0], [keys_of(length, length)])
        new = extend(cache, 1, length + 1)
        np.testing.assert_array_equal(held(cache, 0), np.concatenate((keys_of(length, length), new[:1])))
        cache.release(0, 0)


def test_clearing_gives_the_memory_back() -> None:
    cache = KVCache(2, 4 * BLOCK)
    fill(cache, [0, 1], [keys_of(3, 0), keys_of(3, 1)])
    before = cache.held_bytes
    cache.clear(0, 0)
    assert cache.held_bytes < before / 8
    cache.clear(2, 4 * BLOCK)
    fill(cache, [0], [keys_of(4, 3)])
    np.testing.assert_array_equal(held(cache, 0), keys_of(4, 3))


@pytest.mark.parametrize(("length", "expected"), [(0, 0), (1, BLOCK), (BLOCK, BLOCK), (BLOCK + 1, 2 * BLOCK)])
def test_lengths_are_rounded_up_to_blocks(length: int, expected: int) -> None:
    assert blocks(length) == expected


def test_sizes_are_few_and_hold_what_they_have_to() -> None:
    sizes = [roomy(length) for length in range(1, 40 * BLOCK)]
    assert [size // BLOCK for size in sorted(set(sizes))] == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48]
    assert all(length <= size < 2 * length or size == BLOCK for length, size in enumerate(sizes, 1))

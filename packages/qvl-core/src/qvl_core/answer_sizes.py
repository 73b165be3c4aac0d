"""Sizes of answering: how the cache of keys and values grows, and how much runs at once.

The engine (`generate`), its callers and `qvl plan` go by them; nothing here needs a framework.
"""

from __future__ import annotations

# The cache has whole blocks of so many tokens: every decoding step reads the whole capacity, so it should not be far
# above the need.
BLOCK = 64
# Prompts run in one pass have at most so many tokens together, as answers that are under way wait for it; a longer one
# runs alone.
PREFILL_TOKENS = 4096
# Questions at a time, and tokens held for them, where `qvl infer` or an infer recipe says nothing else; a model of
# 7B in bfloat16 takes 1.8 GiB for their keys and values.
INFER_SLOTS = 8
INFER_HELD_TOKENS = 32_768


def blocks(length: int) -> int:
    """Round a number of tokens up to whole blocks."""
    return -(-length // BLOCK) * BLOCK


def roomy(length: int) -> int:
    """Round a number of tokens up to one of few sizes: 1, 2, 3, 4, 6, 8, 12, 16, ... blocks.

    Each growth of the cache copies what is held, and a size may be compiled for.
    """
    size: int = 2 ** (-(-length // BLOCK) - 1).bit_length()
    return BLOCK * (size if size < 4 or 3 * size // 4 * BLOCK < length else 3 * size // 4)


def cache_tokens(rows: int, longest: int, held: int) -> int:
    """Give the tokens that a layer's cache has room for at most, with so many rows of at most `longest` tokens.

    It does not grow beyond `held` (0: no bound).
    """
    most = rows * roomy(longest)
    return most if not held else min(most, blocks(held))


def rows_in_prefill(rows: int, longest: int) -> float:
    """Give how many of the longest prompts run at once, as far as tokens are concerned."""
    return min(rows, max(1.0, PREFILL_TOKENS / longest))

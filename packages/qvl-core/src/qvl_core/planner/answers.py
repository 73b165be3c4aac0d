"""What answering takes of memory beside the weights: the cache as the engine allocates it, and prompts run together.

The engine's own rules live beside MindSpore (`qvl_core.generate.cache` and `.scheduler`); these are the same ones
without it, which the tests hold against them.
"""

from __future__ import annotations

# Slots of the cache have whole blocks of so many tokens.
BLOCK = 64
# Prompts run in one pass have at most so many tokens together; a longer one runs alone.
PREFILL_TOKENS = 4096


def cache_tokens(rows: int, longest: int, held: int) -> int:
    """Give the tokens that a layer's cache has room for at most, with so many rows of at most `longest` tokens.

    It grows by few sizes, and not beyond `held` (0: no bound).
    """
    most = rows * _roomy(longest)
    return most if not held else min(most, _blocks(held))


def rows_in_prefill(rows: int, longest: int) -> float:
    """Give how many of the longest prompts run at once, as far as tokens are concerned."""
    return min(rows, max(1.0, PREFILL_TOKENS / longest))


def _blocks(length: int) -> int:
    return -(-length // BLOCK) * BLOCK


def _roomy(length: int) -> int:
    """Round up to 1, 2, 3, 4, 6, 8, 12, 16, ... blocks."""
    size: int = 2 ** (-(-length // BLOCK) - 1).bit_length()
    return BLOCK * (size if size < 4 or 3 * size // 4 * BLOCK < length else 3 * size // 4)

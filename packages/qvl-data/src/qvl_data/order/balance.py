"""The items of one step dealt so that micro batches, and replicas, have about the same number of tokens.

Longest first, each to the micro batch with the fewest tokens that has a place left (longest processing time first,
Graham 1969, section 5, with equal counts). What is in a micro batch depends on the step's items alone, not on the
number of replicas; the whole micro batches are then dealt to replicas by the same rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush


def balanced(tokens: Sequence[int], parts: int) -> list[list[int]]:
    """Deal the indexes of `tokens` to `parts` parts of equally many, with sums as equal as the rule makes them.

    The number of indexes is a multiple of `parts`. Inside a part the indexes rise.
    """
    size, rest = divmod(len(tokens), parts)
    assert not rest, (len(tokens), parts)
    dealt: list[list[int]] = [[] for _ in range(parts)]
    open_parts = [(0, part) for part in range(parts)]
    heapify(open_parts)
    for index in sorted(range(len(tokens)), key=lambda i: (-tokens[i], i)):
        total, part = heappop(open_parts)
        dealt[part].append(index)
        if len(dealt[part]) < size:
            heappush(open_parts, (total + tokens[index], part))
    return [sorted(part) for part in dealt]


def deal_step(tokens: Sequence[int], micro_batch: int, replicas: int) -> list[list[list[int]]]:
    """Give, for each replica, its micro batches, each a list of indexes into the step's items with these tokens."""
    micro = balanced(tokens, len(tokens) // micro_batch)
    sums = [sum(tokens[index] for index in part) for part in micro]
    return [[micro[number] for number in part] for part in balanced(sums, replicas)]

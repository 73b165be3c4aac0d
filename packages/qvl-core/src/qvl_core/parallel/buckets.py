"""Which tensors travel together: messages large enough for full speed, small enough to overlap. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

# Elements of one message, 16 MiB of fp32.
BUCKET_ELEMENTS = 1 << 22


def buckets(sizes: Sequence[int], limit: int = BUCKET_ELEMENTS) -> Iterator[list[int]]:
    """Yield consecutive indexes whose sizes (elements) add up to at most `limit`; a larger one comes alone."""
    members: list[int] = []
    total = 0
    for i, size in enumerate(sizes):
        if members and total + size > limit:
            yield members
            members, total = [], 0
        members.append(i)
        total += size
    if members:
        yield members

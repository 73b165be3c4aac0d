"""Average normalised Levenshtein similarity, ANLS, as DocVQA is scored; fast for texts of any length."""

from __future__ import annotations

from collections.abc import Iterable

THRESHOLD = 0.5


def anls(prediction: str, references: Iterable[str]) -> float:
    """Give the similarity to the closest reference, 0 or 0.5 to 1.

    Letters' case and the number of blanks do not count, but the length that the distance is divided by is that of the
    text as it is: blanks at the end of a prediction raise its score. Strip them before, unless upstream's value is
    wanted to the digit.
    """
    best = max((1 - _relative_distance(prediction, reference) for reference in references), default=0.0)
    return best if best >= THRESHOLD else 0.0


def _relative_distance(prediction: str, reference: str) -> float:
    """Give distance / length. What lies safely above the threshold may come out as any value above it, up to 1."""
    # Upper case can be longer, as upstream measures it: the ligature fi is two letters.
    length = max(len(reference.upper()), len(prediction.upper()))
    if not length:
        return 0.0
    limit = length // 2 + 1
    distance = edit_distance(_folded(reference), _folded(prediction), limit=limit)
    return 1.0 if distance > limit else distance / length


def edit_distance(first: str, second: str, *, limit: int) -> int:
    """Give the Levenshtein distance, or `limit` + 1 for any that is larger.

    A column of the usual table is held as two integers, one bit a row: whether the value rises or falls there.
    H. Hyyrö, "A bit-vector algorithm for computing Levenshtein and Damerau edit distances" (2003), section 3.
    """
    first, second = sorted(_without_common_ends(first, second), key=len)
    if len(second) - len(first) > limit:
        return limit + 1
    if not first:
        return len(second)
    places: dict[str, int] = {}
    for row, char in enumerate(first):
        places[char] = places.get(char, 0) | 1 << row
    mask, last = (1 << len(first)) - 1, 1 << (len(first) - 1)
    rises, falls, distance = mask, 0, len(first)
    for left, char in enumerate(second, 1 - len(second)):
        equal = places.get(char, 0)
        diagonal = (((equal & rises) + rises) ^ rises) | equal | falls
        up = falls | (mask & ~(diagonal | rises))
        down = rises & diagonal
        distance += bool(up & last) - bool(down & last)
        if distance + left > limit:
            # Each column to come can take away one at most.
            return limit + 1
        up = (up << 1 | 1) & mask
        down = down << 1 & mask
        rises = down | (mask & ~(diagonal | up))
        falls = up & diagonal
    return distance


def _folded(text: str) -> str:
    return " ".join(text.lower().split())


def _without_common_ends(first: str, second: str) -> tuple[str, str]:
    """Cut off what both begin and end with; the distance stays the same."""
    shorter = min(len(first), len(second))
    begin = next((i for i in range(shorter) if first[i] != second[i]), shorter)
    first, second = first[begin:], second[begin:]
    shorter -= begin
    end = next((i for i in range(shorter) if first[-1 - i] != second[-1 - i]), shorter)
    return first[: len(first) - end], second[: len(second) - end]

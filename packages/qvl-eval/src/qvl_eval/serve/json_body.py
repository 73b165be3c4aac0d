"""A request's bytes to JSON, refused before it becomes large: `[[],[],...` takes thirty times its size as objects.

Parsing holds the interpreter, and with it every other request; so what would take long to parse is counted first, in
time that grows with the body's size only.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import Any

from qvl_core.json_file import parse_json

# A whole string, or a character that a further value or key comes after. A string that does not end is all of the rest:
# were it no token, each quote in it would be tried as a beginning, and the search take the square of its length.
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[{,:]', re.DOTALL)


def read_json(data: bytes, *, values: int) -> Any:
    """Give what the bytes say. Raises ValueError for what `parse_json` refuses, or more than so many values.

    An object of n keys counts as up to 2 n values.
    """
    if sum(data.count(mark) for mark in (b"[", b"{", b",", b":")) > values:
        _count(data, values)
    return parse_json(data)


def _count(data: bytes, values: int) -> None:
    """Raise ValueError for more than so many values. Looks no further than to the first one too many."""
    # Between two marks stands one string at most, in JSON; what has more of them is none, and ends here too.
    tokens = islice(_TOKEN.finditer(data), 2 * values + 2)
    if sum(1 for _ in tokens) > 2 * values:
        raise ValueError(f"more than {values:,} values")

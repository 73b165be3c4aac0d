"""SLURM's compressed lists of hosts: `node[01-03,07],other5` (its manual page scontrol, "show hostnames")."""

from __future__ import annotations

import re
from itertools import product

_PART = re.compile(r"[^,\[\]]+|\[[^\[\]]*\]")
_WHOLE = re.compile(r"(?:[^,\[\]\s]+|\[[0-9,-]+\])+(?:,(?:[^,\[\]\s]+|\[[0-9,-]+\])+)*")
_RANGE = re.compile(r"([0-9]+)(?:-([0-9]+))?")
# A list that is longer is no list of machines, and would only fill the memory.
_LONGEST = 100_000


def expand_hosts(text: str) -> tuple[str, ...]:
    """Give the hosts in order; none for a text that is no such list. Leading zeros are kept."""
    text = text.strip()
    if not _WHOLE.fullmatch(text):
        return ()
    hosts: list[str] = []
    for word in _words(text):
        choices = [_numbers(part[1:-1]) if part.startswith("[") else [part] for part in _PART.findall(word)]
        if not all(choices):
            return ()
        hosts += ["".join(parts) for parts in product(*choices)]
        if len(hosts) > _LONGEST:
            return ()
    return tuple(hosts)


def _words(text: str) -> list[str]:
    """Cut at the commas that stand outside brackets."""
    return re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text)


def _numbers(text: str) -> list[str]:
    """Give the numbers of `01-03,07`; none where it is malformed."""
    found: list[str] = []
    for item in text.split(","):
        match = _RANGE.fullmatch(item)
        if match is None:
            return []
        first, last = match[1], match[2] or match[1]
        if not 0 <= int(last) - int(first) < _LONGEST:
            return []
        found += [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    return found

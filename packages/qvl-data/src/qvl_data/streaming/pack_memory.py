"""How many packs each window of a stream has, kept in `data.cache_dir`: so a run that goes on finds its place.

A line is `window packs`. All ranks of a machine write the same lines, so one that is there twice does no harm, nor one
that was cut short. The memory saves time and is never needed: without it the windows before the place are tokenised
again.
"""

from __future__ import annotations

import logging
from pathlib import Path

_log = logging.getLogger("qvl_data")


class PackMemory:
    """The counts of the first windows of one stream. `path` names everything that they depend on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.counts = self._read()
        """Packs of window 0, 1, ... as far as they are known."""

    def add(self, count: int) -> None:
        """Keep the number of packs of the next window."""
        line = f"{len(self.counts)} {count}\n"
        self.counts.append(count)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="ascii") as file:
                file.write(line)
        except OSError as error:
            _log.warning("%s cannot be written (%s); a run that goes on has to pack from the start", self.path, error)

    def _read(self) -> list[int]:
        found: dict[int, int] = {}
        try:
            lines = self.path.read_text(encoding="ascii").splitlines(keepends=True)
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            _log.warning("%s cannot be used (%s)", self.path, error)
            return []
        for line in lines:
            words = line.split()
            if len(words) == 2 and line.endswith("\n") and all(word.isdecimal() for word in words):
                found[int(words[0])] = int(words[1])
        counts: list[int] = []
        while len(counts) in found:
            counts.append(found[len(counts)])
        return counts

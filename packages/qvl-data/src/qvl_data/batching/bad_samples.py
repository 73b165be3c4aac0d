"""Samples that a run met and could not use: told, counted, and too many of them an error.

Each replica keeps its own list, in the order in which it takes samples, which no number of workers changes; its tensor
ranks and stages keep the same one.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from qvl_core.errors import DataError, Problem

_log = logging.getLogger("qvl_data")
_NAMED = 5


class TooLongError(DataError):
    """A sample longer than data.sequence_length that is left out, which is no fault of the data."""


class UncertainError(DataError):
    """A sample that could not be made here and now. Another rank may have made it, so ranks cannot agree to skip it."""


class StopError(DataError):
    """A sample that stops the run whatever is done with bad ones: too long where that is said to be an error."""


@dataclass(frozen=True, kw_only=True)
class Unusable:
    """A sample that was replaced or left out. `where` is its file and line; `too_long` is a rule, `bad` a fault."""

    where: str
    reason: str
    kind: Literal["bad", "too_long"]


class BadSamples:
    """What one replica met so far in this process.

    With `policy` skip, `limit` different bad samples are allowed. `tell` gets each of them once; the one rank of a
    replica that speaks passes it, `speaks`, and logs them.
    """

    def __init__(
        self,
        *,
        policy: Literal["stop", "skip"],
        limit: int,
        tell: Callable[[Unusable], None] | None = None,
        speaks: bool = True,
    ) -> None:
        self.skips = policy == "skip"
        self.too_long = 0
        """Times that a too long sample was replaced."""
        self._limit = limit
        self._tell = tell
        self._speaks = speaks
        self._seen: set[str] = set()
        self._last: deque[Unusable] = deque(maxlen=_NAMED)
        self._long: list[Unusable] = []

    @property
    def bad(self) -> int:
        """Different bad samples."""
        return len(self._seen)

    def meet(self, found: Unusable) -> None:
        """Count and tell a sample. Raises DataError, naming the last ones, if it is one bad sample too many."""
        if found.kind == "too_long":
            self.too_long += 1
            if len(self._long) < _NAMED and found not in self._long:
                self._long.append(found)
            return
        if found.where in self._seen:
            return
        self._seen.add(found.where)
        self._last.append(found)
        if self._speaks:
            _log.warning("%s: left out: %s", found.where, found.reason)
        if self._tell is not None:
            self._tell(found)
        if self.bad > self._limit:
            raise self._too_many()

    def lines(self) -> list[str]:
        """Say it in a few lines for people; nothing if there is nothing to say."""
        lines = []
        if self.bad:
            lines.append(f"bad samples left out: {self.bad:,}, the last ones:")
            lines += [f"  {one.where}: {one.reason}" for one in self._last]
        if self.too_long:
            lines.append(f"too long samples replaced: {self.too_long:,}, among them:")
            lines += [f"  {one.where}: {one.reason}" for one in self._long]
        return lines

    def _too_many(self) -> DataError:
        first = Problem(
            where=self._last[-1].where,
            key="data.max_bad_samples",
            message=f"bad sample number {self.bad:,} of this replica; the limit is {self._limit:,}. The last ones:",
            fix="mend the data (qvl data check RECIPE lists what is wrong), or raise data.max_bad_samples",
        )
        return DataError([first, *(Problem(where=one.where, message=one.reason) for one in self._last)])


def reason_of(error: Exception) -> str:
    """Give the text of an error without the place of the sample, which is told beside it."""
    if not isinstance(error, DataError):
        return str(error)
    return "; ".join(f"{one.key}: {one.message}" if one.key else one.message for one in error.problems)

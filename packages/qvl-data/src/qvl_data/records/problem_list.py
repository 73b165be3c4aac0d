"""Collect what is wrong with a data set, and raise all of it at once, in a bounded message."""

from __future__ import annotations

from qvl_core.errors import DataError, Problem

SHOWN = 20


class ProblemList:
    """The first `shown` problems in full and the number of all of them, so that a broken file of a million
    records costs no more memory than one of twenty."""

    def __init__(self, shown: int = SHOWN) -> None:
        self._shown = shown
        self._kept: list[Problem] = []
        self.count = 0

    def add(self, problem: Problem) -> None:
        """Count a problem and keep it if there is room."""
        self.count += 1
        if len(self._kept) < self._shown:
            self._kept.append(problem)

    def extend(self, problems: tuple[Problem, ...]) -> None:
        """Add each of several problems."""
        for problem in problems:
            self.add(problem)

    def error(self, where: str) -> DataError:
        """Give the DataError for everything found; `where` heads the line that counts what is not shown."""
        problems = list(self._kept)
        hidden = self.count - len(problems)
        if hidden:
            problems.append(
                Problem(where=where, message=f"and {hidden:,} more problems: {self.count:,} in all", key="data.sources")
            )
        return DataError(problems)

    def raise_if_any(self, where: str) -> None:
        """Raise DataError if anything was added."""
        if self.count:
            raise self.error(where)

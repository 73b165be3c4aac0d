"""Problems counted by kind, with the first few of each kind in full: memory stays flat however broken the data are."""

from __future__ import annotations

from dataclasses import dataclass

from qvl_core.errors import Problem

from qvl_data.inspection.kinds import KINDS, TITLES, kind_of
from qvl_data.records.problem_list import ProblemList

EXAMPLES = 20


@dataclass(frozen=True, kw_only=True)
class Finding:
    """All problems of one kind and severity: how many, and the first of them in the order of the data."""

    kind: str
    count: int
    examples: tuple[Problem, ...]

    @property
    def title(self) -> str:
        """The kind in words."""
        return TITLES[self.kind]

    @property
    def is_error(self) -> bool:
        """Whether these make the data unusable; warnings are only said."""
        return self.examples[0].severity == "error"


class FindingList(ProblemList):
    """A ProblemList that sorts what it is given by kind. `shown` is the number of problems kept of each kind."""

    def __init__(self, shown: int = EXAMPLES) -> None:
        super().__init__(shown)
        self._examples: dict[tuple[str, str], list[Problem]] = {}
        self._counts: dict[tuple[str, str], int] = {}

    def add(self, problem: Problem) -> None:
        """Count a problem under its kind, and keep it if that kind has room."""
        if problem.severity == "error":
            super().add(problem)
        key = (problem.severity, kind_of(problem))
        self._counts[key] = self._counts.get(key, 0) + 1
        kept = self._examples.setdefault(key, [])
        if len(kept) < max(1, self._shown):
            kept.append(problem)

    def count_more(self, problem: Problem, hidden: int) -> None:
        """Count `hidden` further problems of the kind of one that was added, which nobody kept."""
        key = (problem.severity, kind_of(problem))
        self._counts[key] = self._counts.get(key, 0) + hidden
        if problem.severity == "error":
            self.count += hidden

    def findings(self) -> tuple[Finding, ...]:
        """Give what was found: errors before warnings, kinds in the order of KINDS."""
        order = [(severity, kind.name) for severity in ("error", "warning") for kind in KINDS]
        return tuple(
            Finding(kind=key[1], count=self._counts[key], examples=tuple(self._examples[key]))
            for key in order
            if key in self._counts
        )

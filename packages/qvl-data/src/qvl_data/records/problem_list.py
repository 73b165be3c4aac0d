"""Collect what is wrong with a data set, by kind, and raise all of it at once, in a bounded message."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from typing import Any, Literal

from qvl_core.errors import DataError, Problem

SHOWN = 20
Kind = Literal[
    "file",
    "record",
    "role",
    "placeholder",
    "empty",
    "path",
    "missing",
    "media",
    "uncertain",
    "region",
    "template",
    "too_long",
]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A problem and what kind of problem it is.

    file: the file as a whole · record: not a record of the format · role: unknown or in the wrong order · placeholder:
    markers and media differ in number · empty: an empty message · path: leaves media_root · missing: no such media
    file · media: a file that is no image or video that can be used · uncertain: one that could not be read in time, or
    whose decoder died · region: a box or point that does not lie on its
    medium · template: the checkpoint's chat template refuses it · too_long: longer than the limit, policy `error`.
    """

    kind: Kind
    problem: Problem


class ProblemList:
    """The first `shown` problems in full and the number of all of them, so that a broken file of a million
    records costs no more memory than one of twenty."""

    def __init__(self, shown: int = SHOWN) -> None:
        self._shown = shown
        self._kept: list[Finding] = []
        self.kinds: Counter[str] = Counter()

    @property
    def count(self) -> int:
        """Count all problems."""
        return self.kinds.total()

    @property
    def kept(self) -> tuple[Finding, ...]:
        """Give the first problems, at most `shown` of each kind."""
        return tuple(self._kept)

    def add(self, problem: Problem, kind: Kind = "record") -> None:
        """Count a problem and keep it if there is room."""
        if self.kinds[kind] < self._shown:
            self._kept.append(Finding(kind=kind, problem=problem))
        self.kinds[kind] += 1

    def extend(self, problems: Iterable[Problem], kind: Kind = "record") -> None:
        """Add each of several problems."""
        for problem in problems:
            self.add(problem, kind)

    def to_json(self) -> dict[str, Any]:
        """Give the counts and the problems that are kept, as JSON values."""
        return {"kinds": dict(self.kinds), "kept": [[one.kind, *astuple(one.problem)] for one in self._kept]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ProblemList:
        """Give the list of `to_json`."""
        found = cls()
        found.kinds = Counter(values["kinds"])
        names = [field.name for field in fields(Problem)]
        for kind, *problem in values["kept"]:
            found._kept.append(Finding(kind=kind, problem=Problem(**dict(zip(names, problem, strict=True)))))
        return found

    def count_more(self, kind: Kind, number: int) -> None:
        """Count problems whose text was not kept where they were found."""
        self.kinds[kind] += number

    def error(self, where: str) -> DataError:
        """Give the DataError for everything found; `where` heads the line that counts what is not shown."""
        problems = [finding.problem for finding in self._kept[: self._shown]]
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

"""Problems by kind: 4,000 missing files are one line of a report and a few examples, not 4,000 lines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from qvl_core.errors import Problem

# Names as in JSON, and titles. Most are those that the pass over the records gives; the order is that of the reports.
TITLES = {
    "recipe": "The recipe",
    "file": "Files of records that cannot be read",
    "record": "Records that are not of the format",
    "role": "Wrong roles, or roles in the wrong order",
    "empty": "Empty answers and messages",
    "placeholder": "Placeholders and media that do not match",
    "path": "Refused paths",
    "missing": "Missing media",
    "media": "Media that cannot be used",
    "uncertain": "Media that were not read in time",
    "region": "Boxes and points outside their medium",
    "template": "Refused by the chat template",
    "too_long": "Longer than sequence_length",
    "leak": "Validation samples that are also trained on",
    "duplicate": "Duplicate records",
    "other": "Other problems",
}


@dataclass(frozen=True, kw_only=True)
class ProblemGroup:
    """All problems of one kind and severity: how many, and the first of them in the order of the data."""

    kind: str
    count: int
    examples: tuple[Problem, ...]
    is_error: bool = True

    @property
    def title(self) -> str:
        """The kind in words."""
        return TITLES.get(self.kind, TITLES["other"])

    @property
    def severity(self) -> str:
        """`error` makes the data unusable, `warning` is only said."""
        return "error" if self.is_error else "warning"


def in_order(groups: Iterable[ProblemGroup]) -> tuple[ProblemGroup, ...]:
    """Give the groups that are not empty: errors before warnings, kinds in the order of TITLES."""
    rank = {name: place for place, name in enumerate(TITLES)}
    filled = [group for group in groups if group.count]
    return tuple(sorted(filled, key=lambda group: (not group.is_error, rank.get(group.kind, len(rank)))))

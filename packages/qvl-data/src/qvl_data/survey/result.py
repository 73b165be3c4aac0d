"""What a survey found."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from qvl_core.errors import Problem

from qvl_data.index import MediaTable, SampleTable
from qvl_data.records.json_lines import Progress
from qvl_data.records.problem_list import ProblemList
from qvl_data.source_rules import SourceRules

__all__ = ["Counts", "Progress", "Survey", "note_from_text", "total_of"]


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What became of records. `used` are those that are not too long as they are."""

    read: int = 0
    used: int = 0
    shrunk: int = 0
    dropped: int = 0
    wrong: int = 0


@dataclass(frozen=True, kw_only=True)
class Survey:
    """All records of all sources, judged.

    `samples` are the usable ones, `counts` has one entry per source, `notes` are the first records that were too long
    and what became of them, `data_hash` is that of `index.content_hash`, `decoded` says whether images were decoded.
    """

    rules: tuple[SourceRules, ...]
    files: tuple[Path, ...]
    file_sources: tuple[int, ...]
    samples: SampleTable
    media: MediaTable
    counts: tuple[Counts, ...]
    notes: tuple[Problem, ...]
    data_hash: str
    decoded: bool
    problems: ProblemList = field(default_factory=ProblemList)


def total_of(counts: tuple[Counts, ...]) -> Counts:
    """Give the counts of all sources together."""
    names = ("read", "used", "shrunk", "dropped", "wrong")
    return Counts(**{name: sum(getattr(one, name) for one in counts) for name in names})


def note_from_text(where: str, message: str) -> Problem:
    """Give what is said about a sample that was too long."""
    return Problem(where=where, key="data.sequence_length", message=message, severity="warning")

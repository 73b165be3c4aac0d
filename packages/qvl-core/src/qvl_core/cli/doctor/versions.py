"""Versions and requirements as installed packages state them; enough of PEP 440 for release numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from itertools import zip_longest

_REQUIREMENT = re.compile(r"^\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*\(?([^;()]*)\)?\s*(?:;(.*))?$")
_CLAUSE = re.compile(r"^(>=|<=|==|!=|>|<|~=)\s*([^\s]+)$")


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """One line of a package's requirements, `numpy>=1.24,<2`. Lines with a marker are left out."""

    name: str
    ranges: str


def installed_version(name: str) -> str | None:
    """Give the version of an installed distribution; None where there is none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def requirements_of(name: str) -> Iterator[Requirement]:
    """List what an installed distribution always requires; lines with a marker (an extra, a platform) are left out."""
    for line in metadata.requires(name) or ():
        match = _REQUIREMENT.match(line)
        if match and not match[3]:
            yield Requirement(name=match[1], ranges=match[2].strip())


def release(version: str) -> tuple[int, ...]:
    """Give the release numbers of a version: `2.7.1.post1` -> (2, 7, 1)."""
    numbers = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in numbers[0].split(".")) if numbers else ()


def satisfies(version: str, ranges: str) -> bool:
    """Tell whether a version lies in `>=1.24,<2`. Clauses that are not plain release numbers are taken as met."""
    return all(_meets(version, clause.strip()) for clause in ranges.split(",") if clause.strip())


def _meets(version: str, clause: str) -> bool:
    match = _CLAUSE.match(clause)
    if not match or not re.fullmatch(r"[\d.]+(\.\*)?", match[2]):
        return True
    operator, wanted = match[1], match[2]
    if wanted.endswith(".*"):
        prefix = release(wanted[:-2])
        same = release(version)[: len(prefix)] == prefix
        return same if operator == "==" else not same
    found, limit = _padded(release(version), release(wanted))
    if operator == "~=":
        return found >= limit and release(version)[: len(release(wanted)) - 1] == release(wanted)[:-1]
    compare: dict[str, Callable[[], bool]] = {
        ">=": lambda: found >= limit,
        "<=": lambda: found <= limit,
        "==": lambda: found == limit,
        "!=": lambda: found != limit,
        ">": lambda: found > limit,
        "<": lambda: found < limit,
    }
    return compare[operator]()


def _padded(left: tuple[int, ...], right: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    pairs = list(zip_longest(left, right, fillvalue=0))
    return tuple(a for a, _ in pairs), tuple(b for _, b in pairs)

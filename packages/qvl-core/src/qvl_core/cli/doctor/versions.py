"""Versions and requirements as installed packages state them; enough of PEP 440 for release numbers."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from itertools import zip_longest
from pathlib import Path

_REQUIREMENT = re.compile(r"^\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*\(?([^;()]*)\)?\s*(?:;(.*))?$")
_CLAUSE = re.compile(r"^(>=|<=|==|!=|>|<|~=)\s*([^\s]+)$")

# What reading the metadata of an installation that was cut off may raise.
_DAMAGE = (ValueError, KeyError, TypeError, OSError)


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """One line of a package's requirements, `numpy>=1.24,<2`. Lines with a marker are left out."""

    name: str
    ranges: str


def is_importable(name: str) -> bool:
    """Tell whether this Python finds a top-level module, without importing it; a hook that refuses it hides it."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def installed_version(name: str) -> str | None:
    """Give the version of an installed distribution; None where there is none, "" where its metadata is damaged."""
    try:
        # None or an error, as Python's version likes, where a line of the metadata is missing.
        return metadata.version(name) or ""
    except metadata.PackageNotFoundError:
        return None
    except _DAMAGE:
        return ""


def requirements_of(name: str) -> Iterator[Requirement]:
    """List what a distribution always requires, none where it is not installed; lines with a marker are left out."""
    try:
        lines = metadata.requires(name) or ()
    except (metadata.PackageNotFoundError, *_DAMAGE):
        lines = ()
    for line in lines:
        match = _REQUIREMENT.match(line)
        if match and not match[3]:
            yield Requirement(name=match[1], ranges=match[2].strip())


def damaged() -> Iterator[tuple[str, Path]]:
    """List installed distributions whose metadata cannot be read, as pip would be asked for them, and their folders."""
    for distribution in metadata.distributions():
        folder = Path(str(getattr(distribution, "_path", "")))
        if is_leftover(folder):
            continue
        try:
            whole = bool(distribution.metadata["Name"] and distribution.version)
        except _DAMAGE:
            whole = False
        if not whole:
            yield _written(folder.name), folder


def installed() -> Iterator[tuple[str, str]]:
    """List installed distributions by name and version, damaged ones by their folder's name."""
    for distribution in metadata.distributions():
        try:
            yield distribution.metadata["Name"] or "?", distribution.version or "?"
        except _DAMAGE:
            yield _written(Path(str(getattr(distribution, "_path", ""))).name).partition("==")[0], "?"


def _written(folder: str) -> str:
    """Give what pip would be asked for, `mindspore==2.7.2`, by the name of a folder of metadata."""
    name, _, version = folder.removesuffix(".dist-info").partition("-")
    return normalised(name) + (f"=={version}" if release(version) and folder.endswith("-info") else "")


def normalised(name: str) -> str:
    """Give the one way to write a distribution's name: `tensorboardX` -> `tensorboardx`, `a.b_c` -> `a-b-c`."""
    return re.sub(r"[-_.]+", "-", name).lower()


def is_leftover(folder: Path) -> bool:
    """Tell whether a folder of metadata is one that pip moved aside, `~umpy-1.26.4.dist-info`: it counts nowhere."""
    return folder.name.startswith("~")


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

"""A disk that loses power: records what is asked of it, and gives every folder that a cut could leave behind.

What `qvl_core.disk` does is recorded in order. A sync of a file, by the process that wrote it, puts its data on the
disk; a sync of a folder puts its entries there; nothing else does. What is pending when the power fails may be there or
not, each operation for itself: a write may be absent, torn at an edge of 4 KiB, or there; an entry that was made,
renamed or removed may appear as it was or as it is. So a name may survive without its data, and a later change without
an earlier one.

States of a cut between two barriers (syncs, or changes of what is expected) are among those just before the second one,
where nothing more has survived of the later operations: only those are made.
"""

from __future__ import annotations

import itertools
import random
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from qvl_core import disk

EDGE = 4096
MOST_ENUMERATED = 2**12
SAMPLES = 500
ROOT = 0


@dataclass
class Log:
    """The operations in order; a number stands for each file and folder, 0 for the root."""

    operations: list[tuple[Any, ...]] = field(default_factory=list)
    sites: dict[str, int] = field(default_factory=dict)


class Recorder:
    """Puts itself in the place of `qvl_core.disk` below `root`, which is empty; `expect` says what a cut may show.

    The operations are done as well, so that what is recorded can read what it wrote; only syncs are left out.
    """

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.log = Log()
        self._root = root.resolve()
        self._tree: dict[int, dict[str, int]] = {ROOT: {}}
        self._open: dict[int, list[int]] = {}
        self._count = 0
        self._real = {name: getattr(disk, name) for name in vars(Recorder) if name[0] != "_" and hasattr(disk, name)}
        for name in self._real:
            patch.setattr(disk, name, getattr(self, name))

    def expect(self, **values: set[Any]) -> None:
        """Say what may be seen from here on, of each thing that is looked at."""
        self.log.operations.append(("expect", values))

    def create(self, path: Path, mode: int) -> int:
        return self._opened(self._real["create"](path, mode), path, new=True)

    def join(self, path: Path, mode: int) -> int:
        new = not path.exists()
        return self._opened(self._real["join"](path, mode), path, new=new)

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        number, position = self._open[descriptor]
        self._open[descriptor][1] += len(data)
        self.log.operations.append(("write", number, threading.get_ident(), position, bytes(data)))
        return self._real["write"](descriptor, data)

    def write_at(self, descriptor: int, data: bytes | memoryview, offset: int) -> int:
        self.log.operations.append(("write", self._open[descriptor][0], threading.get_ident(), offset, bytes(data)))
        return self._real["write_at"](descriptor, data, offset)

    def resize(self, descriptor: int, size: int) -> None:
        self.log.operations.append(("resize", self._open[descriptor][0], threading.get_ident(), size))
        self._real["resize"](descriptor, size)

    def sync(self, descriptor: int) -> None:
        self.log.operations.append(("sync", self._open[descriptor][0], threading.get_ident(), self._site()))

    def sync_folder(self, path: Path) -> None:
        self.log.operations.append(("sync folder", self._number(path), None, self._site()))

    def rename(self, old: Path, new: Path) -> None:
        assert old.parent.resolve() == new.parent.resolve()
        parent = self._number(old.parent)
        self._real["rename"](old, new)
        self._tree[parent][new.name] = self._tree[parent].pop(old.name)
        self.log.operations.append(("entries", parent, {old.name: None, new.name: self._tree[parent][new.name]}))

    def unlink(self, path: Path) -> None:
        self._real["unlink"](path)
        self._removed(path)

    def make_folder(self, path: Path, mode: int) -> None:
        self._real["make_folder"](path, mode)
        self._tree[self._made(path)] = {}

    def remove_empty_folder(self, path: Path) -> None:
        self._real["remove_empty_folder"](path)
        self._removed(path)

    def _opened(self, descriptor: int, path: Path, *, new: bool) -> int:
        self._open[descriptor] = [self._made(path) if new else self._number(path), 0]
        return descriptor

    def _made(self, path: Path) -> int:
        self._count += 1
        parent = self._number(path.parent)
        self._tree[parent][path.name] = self._count
        self.log.operations.append(("entries", parent, {path.name: self._count}))
        return self._count

    def _removed(self, path: Path) -> None:
        parent = self._number(path.parent)
        del self._tree[parent][path.name]
        self.log.operations.append(("entries", parent, {path.name: None}))

    def _number(self, path: Path) -> int:
        number = ROOT
        for part in (path.parent.resolve() / path.name).relative_to(self._root).parts if path != self._root else ():
            number = self._tree[number][part]
        return number

    def _site(self) -> str:
        """Name the line of the code that syncs, past this file, `disk`, and the function that only passes it on."""
        frame = sys._getframe(2)
        while frame.f_code.co_name == "sync_folder":
            frame = frame.f_back  # type: ignore[assignment]
        site = f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_name}:{frame.f_lineno}"
        self.log.sites[site] = self.log.sites.get(site, 0) + 1
        return site


@dataclass
class Disk:
    """What is on the disk for certain, and what is pending: for each folder entries, for each file writes."""

    folders: dict[int, dict[str, int]] = field(default_factory=lambda: {ROOT: {}})
    files: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    pending: list[tuple[Any, ...]] = field(default_factory=list)

    def take(self, operation: tuple[Any, ...]) -> None:
        kind, number, who = operation[:3]
        if kind in ("entries", "write", "resize"):
            self.pending.append(operation)
            return
        done = ("entries",) if kind == "sync folder" else ("write", "resize")
        kept = []
        for one in self.pending:
            if one[0] in done and one[1] == number and (kind == "sync folder" or one[2] == who):
                self._settle(one)
            else:
                kept.append(one)
        self.pending = kept

    def _settle(self, operation: tuple[Any, ...]) -> None:
        if operation[0] == "entries":
            _enter(self.folders.setdefault(operation[1], {}), operation[2])
        else:
            self.files[operation[1]] = (*self.files.get(operation[1], ()), operation[3:])

    def states(self, chance: random.Random) -> Iterator[tuple[dict[int, dict[str, int]], dict[int, tuple[Any, ...]]]]:
        """Give (folders, files) of every choice among what is pending, or of many of them."""
        choices = [list(_survivals(operation)) for operation in self.pending]
        total = 1
        for options in choices:
            total *= len(options)
        if total <= MOST_ENUMERATED:
            picks: Any = itertools.product(*choices)
        else:
            picks = (tuple(chance.choice(options) for options in choices) for _ in range(SAMPLES))
        for pick in picks:
            folders = dict(self.folders)
            files = dict(self.files)
            for operation, survived in zip(self.pending, pick, strict=True):
                if survived is None:
                    continue
                number = operation[1]
                if operation[0] == "entries":
                    folders[number] = _enter(dict(folders.get(number, {})), operation[2])
                else:
                    files[number] = (*files.get(number, ()), survived)
            yield folders, files


def _enter(folder: dict[str, int], changes: Mapping[str, int | None]) -> dict[str, int]:
    for name, number in changes.items():
        if number is None:
            folder.pop(name, None)
        else:
            folder[name] = number
    return folder


def _survivals(operation: tuple[Any, ...]) -> Iterator[Any]:
    yield None
    if operation[0] == "write":
        position, data = operation[3:]
        edge = (position // EDGE + 1) * EDGE - position
        if edge < len(data):
            yield position, data[:edge]
    yield operation[3:] if operation[0] != "entries" else True


def content(parts: tuple[Any, ...]) -> bytes:
    """Give a file's bytes; where nothing was written it reads zeros."""
    found = bytearray()
    for part in parts:
        if len(part) == 1:
            found.extend(bytes(max(0, part[0] - len(found))))
            continue
        position, data = part
        found.extend(bytes(max(0, position - len(found))))
        found[position : position + len(data)] = data
    return bytes(found)


def build(
    folders: Mapping[int, Mapping[str, int]], files: Mapping[int, tuple[Any, ...]], number: int, to: Path
) -> None:
    """Make what a cut has left, below a folder that is there."""
    for name, entry in folders.get(number, {}).items():
        if entry in folders:
            (to / name).mkdir()
            build(folders, files, entry, to / name)
        else:
            (to / name).write_bytes(content(files.get(entry, ())))


@dataclass(kw_only=True)
class Verdict:
    """What came of all cuts of a log: how many states there were, how many differed, and what was wrong first."""

    states: int = 0
    looked_at: int = 0
    violation: str = ""


def cut_everywhere(
    log: Log,
    look: Callable[[Path], Mapping[str, Any]],
    is_seen: Callable[[str], bool],
    workspace: Path,
    *,
    muted: str = "",
    seed: int = 0,
) -> Verdict:
    """Look at every folder that a cut could leave, until something is seen that is not expected.

    `look` gives what there is to see; it sees only entries of the root whose names `is_seen` says so of, and those of
    the folders below: states that differ elsewhere only are looked at once. Syncs of the site `muted` are left out.
    """
    chance, now, verdict = random.Random(seed), Disk(), Verdict()
    folders_made = {number for op in log.operations if op[0] == "entries" for number in op[2].values() if number}
    written = {op[1] for op in log.operations if op[0] in ("write", "resize")}
    holds = {op[1] for op in log.operations if op[0] == "entries"}
    now.folders.update({number: {} for number in folders_made & holds - written})
    expected: Mapping[str, set[Any]] = {}
    seen: dict[Any, Mapping[str, Any]] = {}
    for place, operation in enumerate([*log.operations, ("expect", {})]):
        kind = operation[0]
        if kind in ("sync", "sync folder") and operation[3] == muted:
            continue
        if kind in ("sync", "sync folder", "expect"):
            for folders, files in now.states(chance):
                verdict.states += 1
                key = _key(folders, files, ROOT, is_seen)
                if key not in seen:
                    verdict.looked_at += 1
                    at = workspace / f"{verdict.looked_at}"
                    at.mkdir()
                    build(folders, files, ROOT, at)
                    seen[key] = look(at)
                for name, allowed in expected.items():
                    if seen[key][name] not in allowed:
                        verdict.violation = (
                            f"cut before operation {place} {operation[:2]}: {name} is {seen[key][name]!r}, "
                            f"allowed are {sorted(map(repr, allowed))}"
                        )
                        return verdict
        if kind == "expect":
            expected = {**expected, **operation[1]}
        else:
            now.take(operation)
    return verdict


def _key(folders: Any, files: Any, number: int, is_seen: Callable[[str], bool]) -> Any:
    return tuple(
        (name, _key(folders, files, entry, is_seen) if entry in folders else (entry, _parts(files.get(entry, ()))))
        for name, entry in sorted(folders.get(number, {}).items())
        if is_seen(name)
    )


def _parts(parts: tuple[Any, ...]) -> Any:
    return tuple((part[0], len(part[1])) if len(part) == 2 else part for part in parts)

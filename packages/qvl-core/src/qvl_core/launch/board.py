"""The status board: each rank says in a small shared file what it is doing; the launcher reads all of them.

One file of one page per rank, mapped into memory by both sides: saying something costs no system call, and what a
rank said last is still there after it was killed. The clock is CLOCK_MONOTONIC, the same for all processes of a
machine.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qvl_core.launch.rank_number import rank_from

BOARD_VARIABLE = "QVL_BOARD"
# A whole page, written in full by the launcher: storing into a file with holes on a full disk would be a bus error.
BOARD_BYTES = 4096
STATE_BYTES = 96

# Counter of marks, time of the last one, the longest that this kind of work took before, how many waits have ended,
# whether it waits for other ranks, what it is doing.
_MARK = struct.Struct(f"<QddQ?7x{STATE_BYTES}s")
_WITHOUT_DIGITS = str.maketrans("", "", "0123456789")
_COUNTER = struct.Struct("<Q")
# Apart from the mark, which is rewritten all the time: process, and whether its work is done.
_PROCESS = struct.Struct("<Q?7x")
_PROCESS_AT = 256
_STAMP = struct.Struct("<24sd")
_STAMPS_AT = 512
_STAMP_SLOTS = 32
# A reader that comes between two stores sees two different copies; more than a few in a row cannot happen.
_READ_ATTEMPTS = 5


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What one rank has said last. `process` is 0 as long as it has said nothing.

    `longest_s` is the longest time that this kind of work took in earlier phases, None in the first one; `waits` counts
    the times that it has waited for other ranks and gone on.
    """

    rank: int
    process: int
    counter: int
    marked_at: float
    longest_s: float | None
    waits: int
    waiting: bool
    done: bool
    state: str
    stamps: Mapping[str, float]


class BoardWriter:
    """A rank's side of the board."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), BOARD_BYTES)
        # Learned here and not by the launcher, which looks a few times a second and misses most marks. What the pieces
        # of a phase took counts from the next phase of its kind on: the first piece, that of fetching data or of
        # listing files, says nothing of those after it.
        self._longest: dict[str, float] = {}
        self._of_phase: dict[str, float] = {}
        self._phase = self._kind = ""
        self._marked_at = 0.0
        self._waiting = False
        self._waits = 0

    def begin(self) -> None:
        """Say that this process is the rank."""
        self.mark("starting")
        _PROCESS.pack_into(self._map, _PROCESS_AT, os.getpid(), False)

    def mark(self, state: str, *, waiting: bool = False) -> None:
        """Say what this rank does from now on; `waiting` where it can go on only if other ranks do their part.

        What stands before the first colon is the phase: "step 7" of "step 7: forward". States that differ in numbers
        only ("step 7: forward", "step 8: forward") count as the same kind of work.
        """
        now, count = time.monotonic(), _COUNTER.unpack_from(self._map)[0] + 1
        if self._kind:
            self._of_phase[self._kind] = max(now - self._marked_at, self._of_phase.get(self._kind, -1.0))
        phase = state.partition(":")[0]
        if phase != self._phase:
            for kind, longest in self._of_phase.items():
                self._longest[kind] = max(longest, self._longest.get(kind, -1.0))
            self._of_phase.clear()
        self._waits += self._waiting
        self._phase, self._kind = phase, state.translate(_WITHOUT_DIGITS)
        self._marked_at, self._waiting = now, waiting
        longest, text = self._longest.get(self._kind, -1.0), state.encode("utf-8", "replace")
        _MARK.pack_into(self._map, 0, count, now, longest, self._waits, waiting, text)

    def stamp(self, name: str) -> None:
        """Keep the time at which something happened first, such as "connected"; a name counts once."""
        name_bytes = name.encode()[:24].ljust(24, b"\0")
        for offset in range(_STAMPS_AT, _STAMPS_AT + _STAMP_SLOTS * _STAMP.size, _STAMP.size):
            found, moment = _STAMP.unpack_from(self._map, offset)
            if moment == 0:
                _STAMP.pack_into(self._map, offset, name_bytes, time.monotonic())
                return
            if found == name_bytes:
                return

    def finish(self) -> None:
        """Say that all work is done: whatever happens to the process now is no failure of the run."""
        self.mark("done")
        _PROCESS.pack_into(self._map, _PROCESS_AT, os.getpid(), True)


class NullBoard:
    """The board of a run in one process: nobody watches it."""

    def begin(self) -> None:
        """Do nothing."""

    def mark(self, state: str, *, waiting: bool = False) -> None:
        """Do nothing."""

    def stamp(self, name: str) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""


Board = BoardWriter | NullBoard


def writer_from_environment(environment: Mapping[str, str] | None = None) -> Board:
    """Give this rank's board; a NullBoard where no launcher made one."""
    found = os.environ if environment is None else environment
    folder, rank = found.get(BOARD_VARIABLE), rank_from(found)
    if not folder or rank is None:
        return NullBoard()
    return BoardWriter(board_file(Path(folder), rank))


def board_file(folder: Path, rank: int) -> Path:
    """Name the board file of a rank."""
    return folder / f"rank_{rank:03d}.board"


class BoardReader:
    """The launcher's side: makes the files of these ranks and reads them."""

    def __init__(self, folder: Path, ranks: Sequence[int]) -> None:
        self._maps: dict[int, mmap.mmap] = {}
        for rank in ranks:
            path = board_file(folder, rank)
            path.write_bytes(bytes(BOARD_BYTES))
            with path.open("rb") as file:
                self._maps[rank] = mmap.mmap(file.fileno(), BOARD_BYTES, prot=mmap.PROT_READ)

    def entries(self) -> tuple[Entry, ...]:
        """Read what every rank has said last."""
        return tuple(_entry(rank, _steady_copy(mapped)) for rank, mapped in self._maps.items())

    def close(self) -> None:
        """Let go of the files."""
        for mapped in self._maps.values():
            mapped.close()


def _steady_copy(mapped: mmap.mmap) -> bytes:
    copy = mapped[:]
    for _ in range(_READ_ATTEMPTS):
        again = mapped[:]
        if again == copy:
            break
        copy = again
    return copy


def _entry(rank: int, copy: bytes) -> Entry:
    counter, marked_at, longest, waits, waiting, state = _MARK.unpack_from(copy)
    process, done = _PROCESS.unpack_from(copy, _PROCESS_AT)
    stamps = {}
    for slot in range(_STAMP_SLOTS):
        name, moment = _STAMP.unpack_from(copy, _STAMPS_AT + slot * _STAMP.size)
        if moment == 0:
            break
        stamps[name.rstrip(b"\0").decode("utf-8", "replace")] = moment
    return Entry(
        rank=rank,
        process=process,
        counter=counter,
        marked_at=marked_at,
        longest_s=longest if longest >= 0 else None,
        waits=waits,
        waiting=waiting,
        done=done,
        state=state.rstrip(b"\0").decode("utf-8", "replace"),
        stamps=stamps,
    )

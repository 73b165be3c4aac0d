"""Looking at the ranks: what each has said on the board, together with what the system says of its process."""

from __future__ import annotations

import time
from collections.abc import Sequence

from qvl_core.launch.board import BoardReader, Entry
from qvl_core.launch.proc import Status, all_statuses, busy_state, disk_bytes, family, status_of
from qvl_core.launch.watch import STOPPED, Look, Vitals

# Looking at all processes of the machine, and at all threads of the ranks, costs more than looking at the ranks.
_FAMILY_PERIOD_S = 1.0
_NO_CHILDREN = Vitals(state="", cpu_s=0.0)


class Eyes:
    """Gives looks for the watch. Remembers which process each rank was: its number may be given to another."""

    def __init__(self, board: BoardReader) -> None:
        self._board = board
        self._births: dict[int, int] = {}
        self._children: dict[int, Vitals] = {}
        self._threads: dict[int, str] = {}
        self._children_at = 0.0

    def look(self) -> list[Look]:
        """Look at every rank now."""
        entries = self._board.entries()
        now = time.monotonic()
        if now - self._children_at > _FAMILY_PERIOD_S:
            self._children_at = now
            self._children = _children(entries)
            self._threads = {entry.rank: busy_state(entry.process) for entry in entries if entry.process}
        return [self._look(entry) for entry in entries]

    def living(self) -> dict[int, int]:
        """Give the processes of the ranks that are there, each with its start, which tells it from a later one."""
        found = {entry.process: self._births.get(entry.rank, 0) for entry in self._board.entries() if entry.process}
        return {process: birth for process, birth in found.items() if _is_there(process, birth)}

    def _look(self, entry: Entry) -> Look:
        return Look(
            rank=entry.rank,
            process=entry.process,
            counter=entry.counter,
            marked_at=entry.marked_at,
            longest_s=entry.longest_s,
            waits=entry.waits,
            waiting=entry.waiting,
            done=entry.done,
            state=entry.state,
            vitals=self._vitals(entry),
        )

    def _vitals(self, entry: Entry) -> Vitals | None:
        status = status_of(entry.process) if entry.process else None
        if status is None or self._births.setdefault(entry.rank, status.started) != status.started:
            return None
        children = self._children.get(entry.rank, _NO_CHILDREN)
        return Vitals(
            # That the rank itself is stopped counts more than what its children do, or its other threads.
            state=status.state
            if status.state == STOPPED
            else children.state or self._threads.get(entry.rank) or status.state,
            cpu_s=status.cpu_s + children.cpu_s,
            disk_bytes=disk_bytes(entry.process) + children.disk_bytes,
        )


def _is_there(process: int, birth: int) -> bool:
    status = status_of(process)
    return status is not None and status.started == birth


def _children(entries: Sequence[Entry]) -> dict[int, Vitals]:
    """Add up what the ranks' children do: a rank that waits for its data workers is not idle."""
    statuses = all_statuses()
    return {entry.rank: _sum_of_children(entry.process, statuses) for entry in entries if entry.process}


def _sum_of_children(process: int, statuses: Sequence[Status]) -> Vitals:
    children = [one for one in family(process, statuses) if one.process != process]
    return Vitals(
        state="D" if any(one.state == "D" for one in children) else "",
        cpu_s=sum(one.cpu_s for one in children),
        disk_bytes=sum(disk_bytes(one.process) for one in children),
    )

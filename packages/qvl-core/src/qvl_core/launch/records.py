"""Files that launchers leave in the logs folder: when this start reached what, and that a machine has stopped."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qvl_core.durable import atomic_write
from qvl_core.errors import QvlError

FORMAT = 1


class LaunchRecord:
    """`launch.json` (of machine 1: `launch_node_001.json`): seconds from the start of `qvl run` to each stamp.

    A stamp counts when the last rank of this machine has reached it.
    """

    def __init__(self, folder: Path, *, node: int, processes: int, command: Sequence[str], started: float) -> None:
        self._path = folder / ("launch.json" if node == 0 else f"launch_node_{node:03d}.json")
        self._started = started
        self._written: dict[str, Any] = {}
        self._content = {
            "format": FORMAT,
            "start": secrets.token_hex(6),
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "node": node,
            "processes": processes,
            "command": list(command),
        }

    def write(self, stamps: Sequence[Mapping[str, float]], ended: str = "") -> None:
        """Write the record if it says anything new; `stamps` has one entry per rank."""
        reached = {name for one in stamps for name in one if all(name in other for other in stamps)}
        seconds = {name: round(max(one[name] for one in stamps) - self._started, 3) for name in reached}
        ordered = dict(sorted(seconds.items(), key=lambda item: item[1]))
        content = {**self._content, "seconds": ordered, "ended": ended}
        if content != self._written:
            atomic_write(self._path, json.dumps(content, indent=2) + "\n")
            self._written = content


class OtherMachines:
    """What launchers of one run tell each other through the shared output folder: that they have stopped, and why.

    What is there when a launcher starts is of an earlier run and is left aside.
    """

    def __init__(self, folder: Path, *, node: int, nodes: int) -> None:
        self._own = _stopped_file(folder, node)
        self._others = {other: _stopped_file(folder, other) for other in range(nodes) if other != node}
        self._node = node
        self._own.unlink(missing_ok=True)
        self._old = {other: _content(path) for other, path in self._others.items()}

    def tell(self, text: str, exit_code: int) -> None:
        """Say that this machine has stopped."""
        if not self._others:
            return
        # With a word of its own, so that the same failure twice makes two different files.
        content = {"node": self._node, "text": text, "exit_code": exit_code, "start": secrets.token_hex(6)}
        atomic_write(self._own, json.dumps(content))

    def stopped(self) -> QvlError | None:
        """Give the error of another machine that has stopped; None while all go on."""
        from qvl_core.launch.failures import RankError

        for other, path in self._others.items():
            content = _content(path)
            if content is not None and content != self._old[other]:
                text = f"{content.get('text', '')}\nthat was on machine {other}; this one has stopped with it"
                return RankError(text, int(content.get("exit_code", 1)))
        return None


def _stopped_file(folder: Path, node: int) -> Path:
    return folder / f"stopped_node_{node:03d}.json"


def _content(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        # Not there; or on its way here, over a network file system.
        return None
    return content if isinstance(content, dict) else None
